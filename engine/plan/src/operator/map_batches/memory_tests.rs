//! How many blocks are on their way where memory has a limit, on a host that is slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use async_trait::async_trait;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::{ExecutionPlan, collect};
use futures::{StreamExt, stream};
use mobula_udfs::{Answer, AnswerStream, PoolStats, UdfCall, UdfError, UdfPool};

use super::map_batches_exec;
use super::tests::{int, one_column, physical};
use crate::test_session::{FakeHost, add_table, session_with};
use crate::{MobulaOptions, TaskHost, TaskHostHandle};

const ROWS: i64 = 400_000;
/// Rows of a block: 80 kB, twice, and as much again that comes of it.
const BLOCK_ROWS: &str = "10000";

/// `inc`, which takes a while.
#[derive(Debug, Default)]
struct SlowHost {
    now: Arc<AtomicUsize>,
    /// Most blocks at a time.
    most: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct SlowPool {
    concurrency: usize,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl TaskHost for SlowHost {
    fn open_pool(
        &self,
        _call: Arc<UdfCall>,
        concurrency: usize,
    ) -> Result<Arc<dyn UdfPool>, UdfError> {
        Ok(Arc::new(SlowPool {
            concurrency,
            now: Arc::clone(&self.now),
            most: Arc::clone(&self.most),
        }))
    }

    fn task_share(&self, _context: &TaskContext, total: usize) -> usize {
        total
    }
}

#[async_trait]
impl UdfPool for SlowPool {
    async fn call(&self, block: RecordBatch) -> Result<AnswerStream, UdfError> {
        let now = 1 + self.now.fetch_add(1, Ordering::SeqCst);
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(2)).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        let next = int(&block, 0).iter().map(|a| Some(a? + 1));
        let rows = one_column(next.collect::<Int64Array>());
        Ok(stream::iter([Ok(Answer::Rows(rows))]).boxed())
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }

    fn stats(&self) -> PoolStats {
        PoolStats::default()
    }
}

/// A process with so much memory, of which others have some.
struct Memory {
    limit: usize,
    of_others: usize,
    percent: &'static str,
}

fn limit(limit: usize) -> Memory {
    Memory {
        limit,
        of_others: 0,
        percent: "50",
    }
}

/// Most blocks on their way at a time, and what EXPLAIN ANALYZE says of those held back,
/// while `sql` sums up `a + 1` over a table in two partitions.
async fn on_their_way(sql: &str, memory: Memory) -> (usize, usize) {
    let mut options = MobulaOptions::default();
    for (key, value) in [
        ("udf_batch_rows", BLOCK_ROWS),
        ("udf_memory_percent", memory.percent),
        ("udf_fuse", "false"),
    ] {
        options.set_value(key, value).unwrap();
    }
    let state = session_with(Arc::new(FakeHost::default()), options);
    let half = |from: i64| {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + ROWS / 2));
        RecordBatch::try_from_iter([("a", column)]).unwrap()
    };
    add_table(&state, "many", vec![half(0), half(ROWS / 2)]);
    let plan = physical(&state, sql).await.unwrap();
    let host = SlowHost::default();
    let most = Arc::clone(&host.most);
    let handle = TaskHostHandle(Arc::new(host));
    let config = state.config().clone().with_extension(Arc::new(handle));
    let pool: Arc<dyn MemoryPool> = Arc::new(FairSpillPool::new(memory.limit));
    let others = MemoryConsumer::new("others").register(&pool);
    others.grow(memory.of_others);
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::clone(&pool));
    let runtime = runtime.build_arc().unwrap();
    let context = TaskContext::from(&state)
        .with_session_config(config)
        .with_runtime(runtime);
    let rows = collect(Arc::clone(&plan), Arc::new(context)).await.unwrap();
    let sum: i64 = rows.iter().flat_map(|rows| int(rows, 0).values()).sum();
    let (calls, held_back) = figures(&plan);
    assert_eq!(sum, ROWS * (ROWS - 1) / 2 + calls * ROWS);
    drop(plan);
    assert_eq!(pool.reserved(), memory.of_others, "all is given back");
    (most.load(Ordering::SeqCst), held_back)
}

/// The calls in `plan`, and the blocks that they have held back.
fn figures(plan: &Arc<dyn ExecutionPlan>) -> (i64, usize) {
    let metrics = map_batches_exec(plan.as_ref()).and_then(|exec| exec.metrics());
    let held_back = metrics.and_then(|metrics| metrics.sum_by_name("blocks_held_back"));
    let own = held_back.map_or((0, 0), |count| (1, count.as_usize()));
    let below = plan.children().into_iter().map(figures);
    below.fold(own, |all, of| (all.0 + of.0, all.1 + of.1))
}

const SUM: &str =
    "SELECT sum(inc) FROM map_batches(TABLE(SELECT a FROM many), inc, concurrency => 8)";

#[tokio::test]
async fn memory_bounds_the_blocks_on_their_way() {
    // Each of the two streams has one in any case, and four find room in half a megabyte.
    let (most, held_back) = on_their_way(SUM, limit(2_200_000)).await;
    assert!((4..=6).contains(&most), "{most}");
    assert!(held_back > 0);
    let (most, held_back) = on_their_way(SUM, limit(1)).await;
    assert_eq!(most, 2);
    assert!(held_back > 0);
    // As many as there are workers, and one on its way to each.
    let (most, held_back) = on_their_way(SUM, limit(1 << 30)).await;
    assert_eq!((most, held_back), (17, 0));
}

#[tokio::test]
async fn blocks_leave_some_memory_to_others() {
    let all = |percent| Memory {
        limit: 40_000_000,
        of_others: 20_000_000,
        percent,
    };
    assert_eq!(on_their_way(SUM, all("50")).await.0, 2);
    assert_eq!(on_their_way(SUM, all("90")).await.0, 17);
}

#[tokio::test]
async fn calls_above_each_other_and_a_sort_go_through_with_hardly_any() {
    let chain = "SELECT sum(inc(inc(a))) FROM many";
    assert!(on_their_way(chain, limit(1)).await.0 >= 2);
    // The sort spills, and has what it needs for that.
    let sorted = "SELECT inc FROM map_batches(TABLE(SELECT a FROM many), inc, concurrency => 16)
        ORDER BY inc";
    let (most, _) = on_their_way(sorted, limit(30_000_000)).await;
    assert!(most >= 8, "{most}");
}
