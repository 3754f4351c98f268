//! `dispatch`: blocks of one row to an actor in Rust, through SQL in this process.
//!
//! The actor gives back what it gets, so nearly all the time is the operator's: input,
//! blocks, pool, thread and the way back. It counts its calls and the rows of each: a
//! run in which two blocks were joined fails.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use futures::TryStreamExt;
use mobula_execution::{Engine, EngineSettings, RustFunctions};
use mobula_flight_server::{Database, Outcome, ServerError, Session};
use mobula_plan::MobulaOptions;
use mobula_udfs::native::NativeBatches;
use mobula_udfs::{FunctionSpec, Native, NativeError, NativeInstance, UdfError};

use crate::arguments::Dispatch;
use crate::error::BenchmarkError;

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
    let session = session(&calls).await?;
    let sql = format!(
        "SELECT sum(identity) FROM map_batches( \
            TABLE(SELECT value AS x FROM generate_series(1, {blocks})), identity)"
    );
    let mut rates = vec![];
    for run in 0..=arguments.runs {
        calls.store(0, Ordering::Relaxed);
        let since = Instant::now();
        let sum = first_value(&session, &sql).await?;
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
        "{} blocks of one row a second to a native actor ({least} to {most}, {} runs of {blocks})",
        rates[rates.len() / 2],
        rates.len()
    );
    Ok(())
}

/// A session in which each row is a block.
async fn session(calls: &Arc<AtomicU64>) -> Result<Arc<Session>, BenchmarkError> {
    let mut options = MobulaOptions::default();
    let set = options.set_value("udf_batch_rows", "1");
    set.map_err(ServerError::from)?;
    let settings = EngineSettings {
        options,
        // Nothing here is in Python.
        python: PathBuf::from("python3"),
    };
    let engine = Engine::embedded_with(settings, identity(calls)?).map_err(ServerError::from)?;
    Ok(Database::open(engine, None).await?.new_session()?)
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
