//! Mobula as a server process, alone or with executor processes.
//!
//! The processes are the `mobula` binary as users run it, the client is Flight
//! SQL: what is measured includes every hop.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::TryStreamExt;
use mobula_flight_server::service::client::{RemoteOutcome, RemoteSession};
use mobula_flight_server::tpch_data::TpchData;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::definitions;
use crate::error::BenchmarkError;
use crate::system::System;

/// How long the server and its executors may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(60);
const CLIENTS: &str = "mobula: clients on ";
const READY: &str = "mobula: ready";

/// A running server and a client of it; dropping ends the server, and with it
/// its executors.
pub struct Server {
    client: RemoteSession,
    _process: Child,
    /// Kept open: the server writes to it.
    _output: Lines<BufReader<ChildStdout>>,
    _data_dir: TempDir,
}

impl Server {
    pub async fn start(
        data: &TpchData,
        settings: &[(String, String)],
        executors: usize,
        mobula: Option<PathBuf>,
    ) -> Result<Self, BenchmarkError> {
        let program = mobula.map_or_else(beside_us, Ok)?;
        let data_dir = tempfile::tempdir().map_err(BenchmarkError::file(
            "make a directory in",
            std::env::temp_dir(),
        ))?;
        let mut command = Command::new(&program);
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(["--cluster-listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir.path());
        if executors > 0 {
            command.arg("--no-local-executor");
            command.args(["--executors", &executors.to_string()]);
        }
        for (key, value) in settings {
            command.arg(format!("--{}={value}", key.replace('_', "-")));
        }
        let failed = |reason: String| BenchmarkError::Start {
            program: program.clone(),
            reason,
        };
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        let Some(stdout) = process.stdout.take() else {
            return Err(failed("its output cannot be read".into()));
        };
        let mut output = BufReader::new(stdout).lines();
        let ready = tokio::time::timeout(START_LIMIT, address_when_ready(&mut output)).await;
        let Ok(Some(address)) = ready else {
            return Err(failed(format!(
                "it ended, or was not ready after {} s",
                START_LIMIT.as_secs()
            )));
        };
        let client = RemoteSession::connect(&address).await?;
        let mut server = Self {
            client,
            _process: process,
            _output: output,
            _data_dir: data_dir,
        };
        for sql in definitions(data) {
            server.query(&sql).await?;
        }
        Ok(server)
    }
}

#[async_trait]
impl System for Server {
    async fn query(&mut self, sql: &str) -> Result<Vec<RecordBatch>, BenchmarkError> {
        match self.client.execute(sql).await? {
            RemoteOutcome::Rows { stream, .. } => Ok(stream.try_collect().await?),
            RemoteOutcome::Affected(_) => Ok(vec![]),
        }
    }
}

/// The `mobula` built together with this program.
fn beside_us() -> Result<PathBuf, BenchmarkError> {
    let here = std::env::current_exe().map_err(BenchmarkError::file("find", "this program"))?;
    let program = here.with_file_name("mobula");
    match program.exists() {
        true => Ok(program),
        false => Err(BenchmarkError::Start {
            program,
            reason: "it is not there. Build it with `cargo build --release --workspace --bins`, \
                or name one with @PATH"
                .into(),
        }),
    }
}

/// Where clients connect, once the server says that it is ready; `None` when
/// its output ends before.
async fn address_when_ready(output: &mut Lines<BufReader<ChildStdout>>) -> Option<String> {
    let mut address = None;
    while let Ok(Some(line)) = output.next_line().await {
        if let Some(found) = line.strip_prefix(CLIENTS) {
            address = Some(found.to_owned());
        }
        if line == READY {
            break;
        }
    }
    address
}
