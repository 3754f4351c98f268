//! The TPC-H workload: its queries and its data.

use std::path::{Path, PathBuf};

use mobula_flight_server::tpch_data::TpchData;

use crate::arguments::Workload;
use crate::error::BenchmarkError;

/// How many queries TPC-H has.
const QUERIES: u32 = 22;

/// A query and its number.
#[derive(Debug, Clone)]
pub struct Query {
    pub number: u32,
    pub sql: String,
}

/// The directory of `q1.sql` to `q22.sql`.
pub fn queries_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("queries/tpch")
}

/// The queries asked for, in their order.
///
/// # Errors
/// A query's file cannot be read.
pub fn queries(workload: &Workload) -> Result<Vec<Query>, BenchmarkError> {
    let numbers = match workload.queries.is_empty() {
        true => (1..=QUERIES).collect(),
        false => workload.queries.clone(),
    };
    let read = |number| {
        let path = queries_dir().join(format!("q{number}.sql"));
        let sql = std::fs::read_to_string(&path).map_err(BenchmarkError::file("read", path))?;
        Ok(Query { number, sql })
    };
    numbers.into_iter().map(read).collect()
}

/// The data asked for, made if it is not there yet.
///
/// # Errors
/// No space, or a directory that holds other data.
pub async fn data(workload: &Workload) -> Result<TpchData, BenchmarkError> {
    let out = match &workload.data {
        Some(dir) => dir.clone(),
        None => std::env::home_dir()
            .ok_or(BenchmarkError::NoHome)?
            .join(".cache/mobula/tpch")
            .join(format!("sf{}-{}", workload.sf, workload.parts)),
    };
    let data = TpchData {
        scale_factor: workload.sf,
        parts: workload.parts,
        out: std::path::absolute(&out).map_err(BenchmarkError::file("resolve", out))?,
    };
    let made = tokio::task::spawn_blocking(move || data.make(false).map(|()| data)).await;
    Ok(made.unwrap_or_else(|e| {
        Err(mobula_flight_server::ServerError::Output(
            std::io::Error::other(e),
        ))
    })?)
}

/// The settings given as `KEY=VALUE`.
///
/// # Errors
/// One has no `=`.
pub fn settings(workload: &Workload) -> Result<Vec<(String, String)>, BenchmarkError> {
    let split = |given: &String| match given.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
        None => Err(BenchmarkError::Setting {
            given: given.clone(),
        }),
    };
    workload.settings.iter().map(split).collect()
}
