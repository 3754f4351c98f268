//! `dispatch`: blocks of one row to an actor in Rust, through SQL in this process.
//!
//! The actor gives back what it gets, so nearly all the time is the operator's: input,
//! blocks, pool, thread and the way back. It counts its calls and the rows of each: a
//! run in which two blocks were joined fails. Over Flight, the actor asks for a GPU that
//! only an executor says it has; both are in this process, with a socket between them.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use futures::TryStreamExt;
use mobula_execution::{
    ClusterSettings, ClusterToken, Engine, EngineSettings, Executor, ExecutorSettings, OwnedTask,
    RustFunctions, spawn_named,
};
use mobula_flight_server::{Database, Outcome, ServerError, Session};
use mobula_plan::MobulaOptions;
use mobula_udfs::native::NativeBatches;
use mobula_udfs::{FunctionSpec, Native, NativeError, NativeInstance, UdfError};

use crate::arguments::Dispatch;
use crate::error::BenchmarkError;

const LOOPBACK: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
/// How long an executor may take to be there.
const EXECUTOR_LIMIT: Duration = Duration::from_secs(30);

/// Gives back what it gets, and counts.
struct Identity {
    calls: Arc<AtomicU64>,
}

impl NativeInstance for Identity {
    fn call(&mut self, batch: RecordBatch) -> Result<NativeBatches<'_>, NativeError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match batch.num_rows() {
            1 => Ok(Box::new(std::iter::once(Ok(batch)))),
            rows => Err(format!("{rows} rows in one call").into()),
        }
    }
}

/// Prints blocks a second: the median of the runs, the slowest and the fastest.
///
/// # Errors
/// What the query fails with, or blocks that were not calls of their own.
pub async fn measure(arguments: &Dispatch) -> Result<(), BenchmarkError> {
    let blocks = arguments.blocks;
    let calls = Arc::new(AtomicU64::new(0));
    let home = Home::open(&calls, arguments).await?;
    let session = &home.session;
    let (place, asks) = match arguments.over_flight {
        true => ("over Flight", ", num_gpus => 1"),
        false => ("in process", ""),
    };
    let sql = format!(
        "SELECT sum(identity) FROM map_batches( \
            TABLE(SELECT value AS x FROM generate_series(1, {blocks})), identity{asks})"
    );
    let mut rates = vec![];
    for run in 0..=arguments.runs {
        calls.store(0, Ordering::Relaxed);
        let since = Instant::now();
        let sum = first_value(session, &sql).await?;
        let seconds = since.elapsed().as_secs_f64();
        let called = calls.load(Ordering::Relaxed);
        let wanted = blocks as i64 * (blocks as i64 + 1) / 2;
        if (sum, called) != (Some(wanted), blocks) {
            return Err(BenchmarkError::Dispatch {
                blocks,
                called,
                sum,
            });
        }
        // The first one warms up.
        if run > 0 {
            rates.push((blocks as f64 / seconds) as u64);
        }
    }
    rates.sort_unstable();
    let (least, most) = (rates[0], rates[rates.len() - 1]);
    println!(
        "{} blocks of one row a second to a native actor {place} ({least} to {most}, {} runs of {blocks})",
        rates[rates.len() / 2],
        rates.len()
    );
    Ok(())
}

/// A session in which each row is a block, and what it needs.
struct Home {
    session: Arc<Session>,
    /// Where the actor is, if it is not with the session; dropped, it stops.
    _executor: Option<OwnedTask<()>>,
    _token: Option<tempfile::TempDir>,
}

impl Home {
    async fn open(calls: &Arc<AtomicU64>, arguments: &Dispatch) -> Result<Self, BenchmarkError> {
        let functions = identity(calls)?;
        let settings = EngineSettings {
            options: options(&[
                ("udf_batch_rows", "1"),
                ("gpus", "0"),
                ("memory_limit", &arguments.memory_limit),
            ])?,
            python: python(),
        };
        if !arguments.over_flight {
            let engine = Engine::embedded_with(settings, functions).map_err(ServerError::from)?;
            return Ok(Self {
                session: Database::open(engine, None).await?.new_session()?,
                _executor: None,
                _token: None,
            });
        }
        let folder = tempfile::tempdir().map_err(BenchmarkError::Folder)?;
        let token = ClusterToken::read_or_create(&folder.path().join("token"));
        let token = token.map_err(ServerError::from)?;
        let cluster = ClusterSettings {
            listen: LOOPBACK,
            advertise: None,
            token: token.clone(),
            local_executor: true,
        };
        let engine = Engine::coordinator_with(settings, cluster, functions.clone());
        let engine = engine.await.map_err(ServerError::from)?;
        let executor = executor(&engine, token, functions).await?;
        engine
            .wait_for_executors(1, EXECUTOR_LIMIT)
            .await
            .map_err(ServerError::from)?;
        Ok(Self {
            session: Database::open(engine, None).await?.new_session()?,
            _executor: Some(executor),
            _token: Some(folder),
        })
    }
}

/// An executor for actors, with the only GPU; so it says.
async fn executor(
    engine: &Engine,
    token: ClusterToken,
    functions: RustFunctions,
) -> Result<OwnedTask<()>, BenchmarkError> {
    let coordinator = engine.cluster_url().map(ToString::to_string);
    let settings = ExecutorSettings {
        coordinator: coordinator.unwrap_or_default(),
        token,
        listen: LOOPBACK,
        advertise: None,
        options: options(&[("roles", "actors"), ("gpus", "1")])?,
        python: python(),
        id: None,
    };
    let executor = Executor::start_with(settings, functions).await;
    let executor = executor.map_err(ServerError::from)?;
    Ok(spawn_named("executor", async move {
        if let Err(error) = executor.run(std::future::pending()).await {
            eprintln!("the executor has ended: {error}");
        }
    }))
}

fn options(set: &[(&str, &str)]) -> Result<MobulaOptions, BenchmarkError> {
    let mut options = MobulaOptions::default();
    for (name, value) in set {
        options.set_value(name, value).map_err(ServerError::from)?;
    }
    Ok(options)
}

/// Nothing here is in Python.
fn python() -> PathBuf {
    PathBuf::from("python3")
}

fn identity(calls: &Arc<AtomicU64>) -> Result<RustFunctions, BenchmarkError> {
    let calls = Arc::clone(calls);
    let spec = FunctionSpec::native_scalar("identity", [("x", DataType::Int64)], DataType::Int64);
    let actor = Native::actor(spec, move |_| {
        Ok(Identity {
            calls: Arc::clone(&calls),
        })
    });
    let added: Result<RustFunctions, UdfError> = RustFunctions::new().with_native(actor);
    added.map_err(BenchmarkError::Function)
}

async fn first_value(session: &Arc<Session>, sql: &str) -> Result<Option<i64>, BenchmarkError> {
    let rows: Vec<RecordBatch> = match session.sql(sql).await? {
        Outcome::Rows(run) => run.stream.try_collect().await?,
        Outcome::Affected(_) => vec![],
    };
    let rows = rows.iter().find(|rows| rows.num_rows() > 0);
    Ok(rows.map(|rows| rows.column(0).as_primitive::<Int64Type>().value(0)))
}
