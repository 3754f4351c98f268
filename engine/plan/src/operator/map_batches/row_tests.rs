//! Which rows come, and in which order: filters, limits, an ORDER BY inside the
//! input.

use std::sync::Arc;

use datafusion::physical_plan::displayable;
use expect_test::expect;

use super::tests::{check_rows, host, physical};
use crate::test_session::check_plan;
use crate::test_session::session;

#[tokio::test]
async fn a_filter_drops_rows_and_keeps_columns() {
    check_rows(
        "SELECT * FROM filter(TABLE(t), big) ORDER BY a",
        expect![[r#"
            +---+-----+---+----+
            | a | b   | c | s  |
            +---+-----+---+----+
            | 0 | 0.0 | 0 | s0 |
            | 2 | 1.0 | 2 | s2 |
            | 6 | 3.0 | 0 | s6 |
            | 8 | 4.0 | 2 | s8 |
            +---+-----+---+----+"#]],
    )
    .await;
    check_rows(
        "SELECT s, inc(a) AS i FROM filter(TABLE(t), big) WHERE c < 2 ORDER BY 1",
        expect![[r#"
            +----+---+
            | s  | i |
            +----+---+
            | s0 | 1 |
            | s6 | 7 |
            +----+---+"#]],
    )
    .await;
    check_rows(
        "SELECT count(*) AS n FROM (SELECT a FROM filter(TABLE(t), big) LIMIT 2)",
        expect![[r#"
            +---+
            | n |
            +---+
            | 2 |
            +---+"#]],
    )
    .await;
    check_rows(
        "SELECT count(*) AS n FROM filter(TABLE(t), good)",
        expect![[r#"
            +---+
            | n |
            +---+
            | 0 |
            +---+"#]],
    )
    .await;
}

/// Nobody above needs the order: the calls do.
#[tokio::test]
async fn an_order_inside_the_input_is_kept_below_an_aggregate() {
    for input in [
        "map_batches(TABLE(SELECT a FROM t ORDER BY a DESC), inc)",
        "map(TABLE(SELECT * FROM filter(TABLE(SELECT a FROM t ORDER BY a DESC), big)), inc)",
        "map(TABLE(SELECT a FROM (SELECT a, s FROM t ORDER BY s, a) WHERE a > 1), inc)",
    ] {
        let state = session(Arc::new(host()));
        let sql = format!("SELECT max(inc) FROM {input}");
        let plan = physical(&state, &sql).await;
        if input.contains("BY s") {
            let text = plan.unwrap_err().find_root().strip_backtrace();
            assert!(
                text.contains("ORDER BY over a column that it does not select"),
                "{text}"
            );
            continue;
        }
        let text = displayable(plan.unwrap().as_ref())
            .indent(false)
            .to_string();
        let below = text.split("udf=").last().unwrap();
        assert!(
            below.contains("SortPreservingMergeExec: [a@0 DESC]"),
            "{text}"
        );
    }
    check_plan(
        "SELECT max(x) FROM map_batches(TABLE(SELECT a, s FROM t ORDER BY a LIMIT 5), twice)",
        expect![[r#"
            AggregateExec: mode=Final, gby=[], aggr=[max(x)]
              CoalescePartitionsExec
                AggregateExec: mode=Partial, gby=[], aggr=[max(x)]
                  RepartitionExec: partitioning=RoundRobinBatch(2), input_partitions=1
                    ProjectionExec: expr=[x@0 as x]
                      MapBatchesExec: udf=twice, kind=table, batch_size=block, batch_format=numpy, concurrency=cores
                        SortPreservingMergeExec: [a@0 ASC NULLS LAST], fetch=5
                          SortExec: TopK(fetch=5), expr=[a@0 ASC NULLS LAST], preserve_partitioning=[true]
                            DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
    )
    .await;
    // All rows are alike in it.
    let state = session(Arc::new(host()));
    let sql = "SELECT max(inc) FROM map(TABLE(SELECT a FROM t WHERE a = 1 ORDER BY a), inc)";
    physical(&state, sql).await.unwrap();
}

#[tokio::test]
async fn conditions_move_below_a_filter_and_limits_do_not() {
    check_plan(
        "SELECT s FROM filter(TABLE(t), big) WHERE c = 1 LIMIT 3",
        expect![[r#"
            CoalescePartitionsExec: fetch=3
              ProjectionExec: expr=[s@1 as s]
                LocalLimitExec: fetch=3
                  UdfFilterExec: udf=big, kind=scalar, volatility=immutable, concurrency=cores, preserve_order=false
                    FilterExec: c@1 = 1, projection=[a@0, s@2]
                      DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
    )
    .await;
}
