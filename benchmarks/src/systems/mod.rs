//! Mobula as it is measured: in this process, and as processes of its own.

pub mod embedded;
pub mod server;

use mobula_flight_server::tpch_data::{TABLES, TpchData};

/// The statements that make the tables of `data` known.
fn definitions(data: &TpchData) -> impl Iterator<Item = String> {
    TABLES.iter().map(|table| {
        let location = data.location(table);
        format!(
            "CREATE OR REPLACE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{}'",
            location.display()
        )
    })
}
