//! Plain datafusion-distributed with its defaults: the coordinator in this
//! process, each worker a process of this program.

use std::process::Stdio;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionContext;
use datafusion_distributed::{DistributedExt, SessionStateBuilderExt, Worker, WorkerResolver};
use mobula_flight_server::tpch_data::TpchData;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use url::Url;

use super::register;
use crate::error::BenchmarkError;
use crate::system::System;

/// A coordinator and its workers, which end with it.
pub struct Distributed {
    context: SessionContext,
    _workers: Vec<Child>,
}

struct Workers(Vec<Url>);

impl WorkerResolver for Workers {
    fn get_urls(&self) -> Result<Vec<Url>> {
        Ok(self.0.clone())
    }
}

impl Distributed {
    pub async fn start(data: &TpchData, workers: usize) -> Result<Self, BenchmarkError> {
        let (mut children, mut urls) = (Vec::new(), Vec::new());
        for _ in 0..workers {
            let (child, url) = start_worker().await?;
            children.push(child);
            urls.push(url);
        }
        let state = SessionStateBuilder::new()
            .with_default_features()
            .with_distributed_worker_resolver(Workers(urls))
            .with_distributed_planner()
            .build();
        let context = SessionContext::new_with_state(state);
        register(&context, data).await?;
        Ok(Self {
            context,
            _workers: children,
        })
    }
}

#[async_trait]
impl System for Distributed {
    async fn query(&mut self, sql: &str) -> Result<Vec<RecordBatch>, BenchmarkError> {
        Ok(self.context.sql(sql).await?.collect().await?)
    }
}

/// Starts this program as a worker and reads its address.
async fn start_worker() -> Result<(Child, Url), BenchmarkError> {
    let program = std::env::current_exe().map_err(BenchmarkError::file("find", "this program"))?;
    let failed = |reason: String| BenchmarkError::Start {
        program: program.clone(),
        reason,
    };
    // Its standard input is a pipe that closes with us, which ends it.
    let mut child = Command::new(&program)
        .arg("distributed-worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        let read = BufReader::new(stdout).read_line(&mut line).await;
        read.map_err(|e| failed(e.to_string()))?;
    }
    let url = Url::parse(line.trim()).map_err(|e| failed(format!("no address: {e}")))?;
    Ok((child, url))
}

/// The worker process: prints its address and serves until its input closes.
pub async fn serve() -> Result<(), BenchmarkError> {
    let external = |e: Box<dyn std::error::Error + Send + Sync>| DataFusionError::External(e);
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(|e| external(e.into()))?;
    let address = listener.local_addr().map_err(|e| external(e.into()))?;
    println!("http://{address}");
    let closed = async {
        let mut byte = [0];
        while matches!(tokio::io::stdin().read(&mut byte).await, Ok(1)) {}
    };
    Server::builder()
        .add_service(Worker::default().into_worker_server())
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), closed)
        .await
        .map_err(|e| external(e.into()).into())
}
