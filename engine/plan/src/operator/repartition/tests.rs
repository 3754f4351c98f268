//! Rows and blocks that come out, on tables in memory.

use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::{ExecutionPlanProperties, collect, execute_stream_partitioned};
use futures::TryStreamExt;

use crate::test_session::{FakeHost, plan, session};

/// Rows of the blocks of each stream.
async fn blocks(sql: &str) -> Vec<Vec<usize>> {
    let state = session(Arc::new(FakeHost::default()));
    let logical = plan(&state, sql).await.unwrap();
    let physical = state.create_physical_plan(&logical).await.unwrap();
    let mut found = vec![];
    for stream in execute_stream_partitioned(physical, state.task_ctx()).unwrap() {
        let blocks: Vec<_> = stream.try_collect().await.unwrap();
        found.push(
            blocks
                .iter()
                .map(|block: &arrow::array::RecordBatch| block.num_rows())
                .collect(),
        );
    }
    found
}

#[tokio::test]
async fn blocks_have_the_rows_asked_for() {
    let input = "SELECT value FROM generate_series(1, 100) LIMIT 100";
    for (rows, expected) in [
        (30, vec![30, 30, 30, 10]),
        (50, vec![50, 50]),
        (100, vec![100]),
        (101, vec![100]),
    ] {
        let sql = format!("SELECT * FROM repartition(TABLE({input}), rows_per_block => {rows})");
        assert_eq!(blocks(&sql).await, [expected], "{rows}");
    }
    // No columns, as count(*) reads it.
    let sql = format!("SELECT count(*) FROM repartition(TABLE({input}), rows_per_block => 7)");
    assert_eq!(blocks(&sql).await, [[1]]);
}

#[tokio::test]
async fn streams_are_equally_long() {
    let sql = "SELECT * FROM repartition(TABLE(SELECT value FROM generate_series(1, 22)), 7)";
    let mut rows: Vec<usize> = blocks(sql).await.iter().map(|b| b.iter().sum()).collect();
    rows.sort_unstable();
    assert_eq!(rows, [3, 3, 3, 3, 3, 3, 4]);
}

#[tokio::test]
async fn a_block_that_memory_cannot_hold_is_refused() {
    let state = session(Arc::new(FakeHost::default()));
    let sql = "SELECT * FROM repartition(TABLE(SELECT value FROM generate_series(1, 100000)), rows_per_block => 90000)";
    let logical = plan(&state, sql).await.unwrap();
    let physical = state.create_physical_plan(&logical).await.unwrap();
    assert_eq!(physical.output_partitioning().partition_count(), 1);
    let runtime =
        RuntimeEnvBuilder::new().with_memory_pool(Arc::new(GreedyMemoryPool::new(100_000)));
    let context = TaskContext::from(&state).with_runtime(runtime.build_arc().unwrap());
    let error = collect(physical, Arc::new(context)).await.unwrap_err();
    assert!(error.to_string().contains("BlocksExec[0]"), "{error}");
}
