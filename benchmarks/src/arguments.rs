//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::system::Mode;

/// Measures Mobula and its peers on TPC-H.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the queries on one system: medians, and perhaps a check of the answers
    Tpch(Tpch),
    /// Run two systems in alternation and print the ratio of their times
    Pair(Pair),
    /// Print two results files side by side
    Compare { before: PathBuf, after: PathBuf },
    /// Blocks of one row a second to an actor in Rust, through SQL in this process
    Dispatch(Dispatch),
    /// A worker process of the peer `distributed`, started by it
    #[command(hide = true)]
    DistributedWorker,
}

#[derive(Debug, Args)]
pub struct Tpch {
    /// What runs them: embedded, serve, executors:N, datafusion or distributed:N.
    /// serve@PATH and executors:N@PATH take another `mobula` binary
    #[arg(long, default_value = "embedded")]
    pub mode: Mode,
    /// Timed runs of each query; one more comes first and is not timed
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub iterations: u32,
    /// Compare the answers with DuckDB's; the Python of --python needs duckdb and pyarrow
    #[arg(long)]
    pub check: bool,
    /// Python interpreter for --check
    #[arg(long, env = "MOBULA_PYTHON", default_value = "python3")]
    pub python: PathBuf,
    #[command(flatten)]
    pub workload: Workload,
}

#[derive(Debug, Args)]
pub struct Pair {
    /// The system judged, named as for `tpch --mode`
    pub subject: Mode,
    /// The system it is measured against
    pub peer: Mode,
    /// Rounds over all queries, each on both systems in turn; one more comes first
    /// and is not timed
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub pairs: u32,
    #[command(flatten)]
    pub workload: Workload,
}

#[derive(Debug, Args)]
pub struct Dispatch {
    /// Blocks of a run
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub blocks: u64,
    /// Timed runs; one more comes first and is not timed
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// Have the actor live on an executor that blocks reach by Arrow Flight over loopback
    #[arg(long)]
    pub over_flight: bool,
    /// Bytes of memory that operators, and blocks on their way, may hold; 0: no limit
    #[arg(long, default_value = "0")]
    pub memory_limit: String,
}

/// Which queries, over which data.
#[derive(Debug, Args)]
pub struct Workload {
    /// Scale factor
    #[arg(long, default_value_t = 1.0)]
    pub sf: f64,
    /// Files a table
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub parts: u32,
    /// Where the data is, or is made [default: ~/.cache/mobula/tpch/sfSF-PARTS]
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Numbers of the queries, as in 1,3,18 [default: all 22]
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=22))]
    pub queries: Vec<u32>,
    /// A setting of Mobula, as in scan_bytes_per_task=64MiB; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    /// Write the results to this file
    #[arg(long)]
    pub output: Option<PathBuf>,
}
