//! Benchmarks of Mobula and its peers, as commands.
//!
//! `tpch` runs the queries on one system, `pair` compares two systems in
//! alternating runs, `compare` prints two results files side by side, `dispatch` counts
//! blocks to an actor. Start reading at `system` (what can be measured) and `measure`
//! (how).

mod arguments;
mod check;
mod compare;
mod dispatch;
mod error;
mod measure;
mod peers;
mod record;
mod system;
mod systems;
mod tpch;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
use error::BenchmarkError;

/// The allocator of `mobula`, so that peers in this process have it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), BenchmarkError> {
    match command {
        Command::Tpch(arguments) => measure::one(&arguments).await,
        Command::Pair(arguments) => measure::pair(&arguments).await,
        Command::Compare { before, after } => compare::print(&before, &after),
        Command::Dispatch(arguments) => dispatch::measure(&arguments).await,
        Command::DistributedWorker => peers::distributed::serve().await,
    }
}
