//! Measures how blocks cross to a Python worker and back: through the socket and
//! through shared memory, in turns.
//!
//! ```text
//! MOBULA_PYTHON=python3 cargo run --release --workspace --example transport
//! ```
//!
//! The function gives back what it gets, three DOUBLE columns, so that nearly all
//! the time is transport. Shown is the time of a block in µs, the median of rounds;
//! the next block is on its way while one is answered, as in operators.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use futures::TryStreamExt;
use mobula_udfs::{
    BatchFormat, CallDefaults, CallMode, FunctionSpec, Handling, Language, ObjectKind, Param,
    ParamKind, Returns, UdfCall, UdfPool, Volatility, WorkerManager, WorkerSettings,
};

// As in the programs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const ROWS: [usize; 4] = [1 << 10, 8 << 10, 64 << 10, 1 << 20];
const ROUNDS: usize = 7;
/// Rows of a measurement; at least ten blocks.
const ROWS_MEASURED: usize = 10 << 20;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let python = std::env::var_os("MOBULA_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
    let managers = [false, true].map(|shared_memory| {
        WorkerManager::new(WorkerSettings {
            python: python.clone(),
            shared_memory,
            ..WorkerSettings::default()
        })
    });
    println!(
        "{:>9} {:>9} {:>9} {:>7} {:>7}",
        "rows", "socket", "slots", "ratio", "made"
    );
    for rows in ROWS {
        let block = block(rows)?;
        let [socket, slots] =
            [&managers[0], &managers[1]].map(|m| m.open_pool(identity(&block), 1));
        let (socket, slots) = (socket?, slots?);
        let mut medians = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (pool, medians) in [&socket, &slots].into_iter().zip(&mut medians) {
                let (pool, block) = (Arc::clone(pool), block.clone());
                #[expect(clippy::disallowed_methods, reason = "it is awaited at once")]
                let measured = tokio::spawn(measure(pool, block));
                medians.push(measured.await??);
            }
        }
        let [socket, shared] = medians.map(median);
        let ratio = socket.as_secs_f64() / shared.as_secs_f64();
        let made = slots.stats().slots_created;
        let (socket, shared) = (socket.as_micros(), shared.as_micros());
        println!("{rows:>9} {socket:>9} {shared:>9} {ratio:>7.2} {made:>7}");
    }
    for manager in managers {
        manager.shutdown().await;
    }
    Ok(())
}

/// The time of a block, over many.
async fn measure(pool: Arc<dyn UdfPool>, block: RecordBatch) -> Result<Duration, Failure> {
    let n_blocks = (ROWS_MEASURED / block.num_rows()).clamp(10, 500);
    let since = Instant::now();
    let mut ahead = pool.call(block.clone()).await?;
    for _ in 1..n_blocks {
        let next = pool.call(block.clone()).await?;
        std::mem::replace(&mut ahead, next)
            .try_for_each(|_| async { Ok(()) })
            .await?;
    }
    ahead.try_for_each(|_| async { Ok(()) }).await?;
    Ok(since.elapsed() / u32::try_from(n_blocks)?)
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}

fn block(rows: usize) -> Result<RecordBatch, Failure> {
    let column = |k: usize| -> ArrayRef {
        let values = (0..rows).map(|i| (i * k) as f64);
        Arc::new(Float64Array::from_iter_values(values))
    };
    let columns = [
        ("a", column(1), true),
        ("b", column(2), true),
        ("c", column(3), true),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

fn identity(block: &RecordBatch) -> Arc<UdfCall> {
    let schema = block.schema();
    let spec = FunctionSpec {
        name: "same".into(),
        language: Language::Python,
        params: vec![Param {
            name: "rows".into(),
            kind: ParamKind::Table,
        }],
        returns: Returns::Table(Arc::clone(&schema)),
        object: ObjectKind::Function,
        volatility: Volatility::Volatile,
        strict: false,
        body: "def same(rows): return rows".into(),
        defaults: CallDefaults::default(),
        actor: None,
    };
    Arc::new(UdfCall {
        spec: Arc::new(spec),
        mode: CallMode::Batches,
        args: vec![],
        batch_size: None,
        batch_format: BatchFormat::Pyarrow,
        input: Arc::clone(&schema),
        output: schema,
        errors: mobula_udfs::ErrorPolicy::default(),
        timeout: None,
        handling: Handling::default(),
        max_errors: None,
        query: String::new(),
        priority: Default::default(),
        steps: vec![],
    })
}
