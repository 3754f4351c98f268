//! What can go wrong while measuring, one line each.

use std::path::PathBuf;

use datafusion::error::DataFusionError;
use mobula_flight_server::ServerError;

#[derive(Debug, thiserror::Error)]
pub enum BenchmarkError {
    #[error("cannot {deed} \"{path}\": {source}")]
    File {
        deed: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("\"{path}\" is not a results file of this program: {source}")]
    Results {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{system}, q{query}: {source}")]
    Query {
        system: String,
        query: u32,
        source: Box<BenchmarkError>,
    },
    #[error("--set {given}: expected KEY=VALUE, as in scan_bytes_per_task=64MiB")]
    Setting { given: String },
    #[error("\"{program}\" did not start: {reason}")]
    Start { program: PathBuf, reason: String },
    #[error("answers differ from DuckDB's in {queries}")]
    Answers { queries: String },
    #[error("cannot check answers with \"{python}\": {reason}")]
    Check { python: PathBuf, reason: String },
    #[error("the home directory is not known. Say where the data goes with --data DIR")]
    NoHome,
    #[error("{blocks} blocks of one row became {called} calls, with the sum {sum:?}")]
    Dispatch {
        blocks: u64,
        called: u64,
        sum: Option<i64>,
    },
    #[error("cannot make a folder for the cluster's token: {0}")]
    Folder(#[source] std::io::Error),
    #[error(transparent)]
    Function(mobula_udfs::UdfError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    DataFusion(#[from] DataFusionError),
}

impl BenchmarkError {
    /// For `map_err` on file operations.
    pub fn file(
        deed: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { deed, path, source }
    }
}
