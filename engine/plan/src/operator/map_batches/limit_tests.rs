//! How many rows reach a function under LIMIT and WHERE, counted.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::physical_plan::{ExecutionPlan, collect};
use expect_test::expect;

use super::map_batches_exec;
use super::tests::{host, int, one_column, physical, run};
use crate::test_session::{FakeHost, add_table, check_plan, plan, rows_of_t, session};

/// Rows that come out of `sql` and rows that reached functions for it, over a
/// table `wide(a, b, c, s)` of 100,000 rows in two partitions.
async fn rows(host: FakeHost, sql: &str) -> (usize, usize) {
    let state = session(Arc::new(host));
    let parts = vec![rows_of_t(0..50_000), rows_of_t(50_000..100_000)];
    add_table(&state, "wide", parts);
    let plan = physical(&state, sql).await.unwrap();
    let out = collect(Arc::clone(&plan), state.task_ctx()).await.unwrap();
    let (mut sent, mut todo) = (0, vec![plan]);
    while let Some(plan) = todo.pop() {
        if let Some(exec) = map_batches_exec(plan.as_ref()) {
            let counted = exec.metrics().unwrap().sum_by_name("rows_to_workers");
            sent += counted.map_or(0, |count| count.as_usize());
        }
        todo.extend(plan.children().into_iter().cloned());
    }
    (out.iter().map(RecordBatch::num_rows).sum(), sent)
}

#[tokio::test]
async fn a_limit_goes_below_calls_that_keep_rows() {
    for sql in [
        "SELECT inc(a) FROM wide LIMIT 10",
        "SELECT a, inc(a) FROM wide WHERE c = 1 LIMIT 10",
        "SELECT * FROM map_batches(TABLE(SELECT a, c FROM wide), inc) WHERE c = 1 LIMIT 10",
        "SELECT * FROM map(TABLE(SELECT a, c FROM wide), inc) WHERE a < 60000 LIMIT 10",
        "SELECT m.inc FROM (SELECT * FROM map(TABLE(SELECT a, c FROM wide), inc)) m WHERE m.c = 2 LIMIT 7 OFFSET 3",
        "SELECT dice(a) FROM wide LIMIT 10",
        "SELECT a, inc(c) FROM wide ORDER BY a DESC LIMIT 10",
        "SELECT x FROM map(TABLE(SELECT * FROM wide), twice) LIMIT 10",
        "SELECT x FROM map_batches(TABLE(SELECT * FROM wide), twice, row_preserving => true) LIMIT 10",
    ] {
        let host = host().with("twice", |block| {
            let column = |i: usize| Arc::clone(block.column(i));
            let rows = RecordBatch::try_from_iter([("x", column(0)), ("s", column(3))]);
            Ok(vec![rows.unwrap()])
        });
        let (out, sent) = rows(host, sql).await;
        assert!((7..=10).contains(&out), "{sql}: {out}");
        assert_eq!(sent, out, "{sql}");
    }
}

#[tokio::test]
async fn a_limit_stays_above_calls_that_do_not() {
    // Some of the rows that are in flight when enough came out, not all.
    for sql in [
        "SELECT a FROM filter(TABLE(SELECT a FROM wide), big) LIMIT 10",
        "SELECT x FROM flat_map(TABLE(SELECT * FROM wide), twice) LIMIT 10",
    ] {
        let (out, sent) = rows(host(), sql).await;
        assert_eq!(out, 10);
        assert!(sent > 10, "{sql}: {sent}");
    }
}

#[tokio::test]
async fn filters_on_columns_that_pass_through_go_below() {
    let passed = "map_batches(TABLE(SELECT a AS x, s FROM t), same, passthrough => 'x')";
    // `same` is IMMUTABLE, `twice` is not.
    check_plan(
        &format!("SELECT x FROM {passed} WHERE x = 3 AND s = 'a'"),
        expect![[r#"
            FilterExec: s@1 = a, projection=[x@0]
              MapBatchesExec: udf=same, kind=table, volatility=immutable, batch_size=block, batch_format=numpy, concurrency=cores
                ProjectionExec: expr=[a@0 as x, s@1 as s]
                  FilterExec: a@0 = 3
                    DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
    )
    .await;
    check_plan(
        "SELECT x FROM map_batches(TABLE(SELECT a AS x, s FROM t), twice, passthrough => 'x') WHERE x = 3",
        expect![[r#"
            FilterExec: x@0 = 3
              ProjectionExec: expr=[x@0 as x]
                MapBatchesExec: udf=twice, kind=table, batch_size=block, batch_format=numpy, concurrency=cores
                  ProjectionExec: expr=[a@0 as x, s@1 as s]
                    DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
    )
    .await;
    // A column of another type is not the input's.
    check_plan(
        "SELECT x FROM map_batches(TABLE(SELECT b AS x, s FROM t), same, passthrough => 'x') WHERE x = 3",
        expect![[r#"
            FilterExec: x@0 = 3
              ProjectionExec: expr=[x@0 as x]
                MapBatchesExec: udf=same, kind=table, volatility=immutable, batch_size=block, batch_format=numpy, concurrency=cores
                  ProjectionExec: expr=[b@0 as x, s@1 as s]
                    DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
    )
    .await;
}

#[tokio::test]
async fn columns_that_are_not_read_are_pruned() {
    let state = session(Arc::new(FakeHost::default()));
    for (from, expected) in [
        (
            "flat_map(TABLE(t), same, reads => 's, a')",
            "projection=[a, s]",
        ),
        ("flat_map(TABLE(t), same)", "projection=[a, b, c, s]"),
        (
            "map_batches(TABLE(SELECT a AS x, b, s FROM t), same, reads => 'b', passthrough => 'x')",
            "projection=[a, b]",
        ),
    ] {
        let sql = format!("SELECT x FROM {from}");
        let optimized = state.optimize(&plan(&state, &sql).await.unwrap()).unwrap();
        assert_eq!(optimized, state.optimize(&optimized).unwrap(), "{sql}");
        let text = optimized.display_indent().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn broken_promises_and_wrong_ones_are_told() {
    let state = session(Arc::new(host().with("same", |block| {
        let rows = one_column(int(&block, 0).slice(0, 2));
        Ok(vec![
            RecordBatch::try_from_iter([
                ("x", Arc::clone(rows.column(0))),
                ("s", Arc::clone(block.slice(0, 2).column(3))),
            ])
            .unwrap(),
        ])
    })));
    for (from, expected) in [
        (
            "map_batches(TABLE(SELECT * FROM t WHERE a > 4), same, row_preserving => true)",
            "function \"same\" is declared row_preserving, but gave 2 rows for 4 rows. Return one row per row, or declare it without",
        ),
        (
            "flat_map(TABLE(t), same, reads => 'a, k')",
            "function \"same\" is called with reads => \"k\", and its input has no such column (a, b, c, s)",
        ),
        (
            "flat_map(TABLE(t), same, passthrough => 'x')",
            "function \"same\" is called with passthrough => \"x\", and its input has no such column (a, b, c, s)",
        ),
        (
            "map_batches(TABLE(t), inc, passthrough => 'a')",
            "option \"passthrough\" is for functions that return a table, and \"inc\" returns a value: all columns of its input pass by it anyway",
        ),
        (
            "map_batches(TABLE(t), same, reads => '')",
            "invalid value '' for option \"reads\" of map_batches: expected names of columns, as in 'a, b'",
        ),
    ] {
        let error = run(&state, &format!("SELECT * FROM {from}"))
            .await
            .unwrap_err();
        assert_eq!(
            error.find_root().strip_backtrace(),
            format!("External error: {expected}")
        );
    }
}
