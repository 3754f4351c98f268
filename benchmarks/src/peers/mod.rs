//! The libraries below Mobula, bare: what it costs to be Mobula.

pub mod distributed;
pub mod plain;

use datafusion::prelude::{ParquetReadOptions, SessionContext};
use mobula_flight_server::tpch_data::{TABLES, TpchData};

use crate::error::BenchmarkError;

async fn register(context: &SessionContext, data: &TpchData) -> Result<(), BenchmarkError> {
    for table in TABLES {
        let location = data.location(table);
        context
            .register_parquet(
                table,
                location.to_string_lossy(),
                ParquetReadOptions::default(),
            )
            .await?;
    }
    Ok(())
}
