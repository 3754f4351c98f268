//! Masked calls on fake workers: which rows reach them, and what comes out.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use arrow::array::Int64Array;
use expect_test::expect;

use super::tests::{check_rows, host, int, one_column, pieces, run};
use crate::MobulaOptions;
use crate::test_session::{FakeHost, add_table, check_plan, rows_of_t, session_with};

/// A host whose `inc` notes what it is asked, and answers in pieces.
fn noting(seen: &Arc<Mutex<Vec<i64>>>) -> FakeHost {
    let seen = Arc::clone(seen);
    host().with("inc", move |block| {
        seen.lock().unwrap().extend(int(&block, 0).values());
        let next = int(&block, 0).iter().map(|a| Some(a? + 1));
        Ok(pieces(&one_column(next.collect::<Int64Array>()), 4))
    })
}

#[tokio::test]
async fn the_mask_is_a_column_of_the_input() {
    check_plan(
        "SELECT CASE WHEN c = 1 THEN inc(a) ELSE 0 END AS r FROM t WHERE a > 2",
        expect![[r#"
            ProjectionExec: expr=[CASE WHEN c@1 = 1 THEN inc(t.a)@3 ELSE 0 END as r]
              MapBatchesExec: udf=inc, kind=scalar, volatility=immutable, batch_size=block, batch_format=numpy, concurrency=cores, mask=__mask@2, preserve_order=false
                ProjectionExec: expr=[a@0 as a, c@1 as c, (c@1 = 1) IS NOT DISTINCT FROM true as __mask]
                  FilterExec: a@0 > 2
                    DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
    )
    .await;
}

#[tokio::test]
async fn masked_rows_get_their_answers_and_the_others_null() {
    check_rows(
        "SELECT a, CASE WHEN c = 1 THEN inc(a) WHEN c = 2 THEN inc(inc(a)) ELSE 0 END AS r, \
         a > 3 AND inc(c) = 1 AS x, coalesce(nullif(a, 3), inc(c)) AS y FROM t ORDER BY a",
        expect![[r#"
            +---+----+-------+---+
            | a | r  | x     | y |
            +---+----+-------+---+
            | 0 | 0  | false | 0 |
            | 1 | 2  | false | 1 |
            | 2 | 4  | false | 2 |
            | 3 | 0  | false | 1 |
            | 4 | 5  | false | 4 |
            | 5 | 7  | false | 5 |
            | 6 | 0  | true  | 6 |
            | 7 | 8  | false | 7 |
            | 8 | 10 | false | 8 |
            +---+----+-------+---+"#]],
    )
    .await;
    // No row at all, and a condition that is NULL.
    check_rows(
        "SELECT sum(inc(a)) FILTER (WHERE a > 100) AS s, count(*) AS n, \
         max(CASE WHEN nullif(a, a) > 1 THEN inc(a) END) AS m FROM t",
        expect![[r#"
            +---+---+---+
            | s | n | m |
            +---+---+---+
            |   | 9 |   |
            +---+---+---+"#]],
    )
    .await;
}

#[tokio::test]
async fn rows_outside_the_mask_never_reach_a_worker() {
    for block_rows in ["1", "3", "7", "65536"] {
        let mut options = MobulaOptions::default();
        options.set_value("udf_batch_rows", block_rows).unwrap();
        let seen = Arc::new(Mutex::new(vec![]));
        let host = Arc::new(noting(&seen));
        let state = session_with(Arc::clone(&host), options);
        let parts = (0..10).map(|i| rows_of_t(i * 100..(i + 1) * 100)).collect();
        add_table(&state, "wide", parts);
        let sql = "SELECT a, CASE WHEN a % 10 = 3 AND a < 500 THEN inc(a) END AS r \
                   FROM (SELECT a FROM wide ORDER BY a)";
        let rows = run(&state, sql).await.unwrap();
        let pairs: Vec<_> = rows
            .iter()
            .flat_map(|rows| int(rows, 0).iter().zip(int(rows, 1)))
            .collect();
        let asked = |a: &i64| a % 10 == 3 && *a < 500;
        let expected = |a: i64| (Some(a), asked(&a).then_some(a + 1));
        assert_eq!(pairs, (0..1000).map(expected).collect::<Vec<_>>());
        let mut seen = seen.lock().unwrap().clone();
        seen.sort_unstable();
        assert_eq!(seen, (0..1000).filter(asked).collect::<Vec<_>>());
        assert_eq!(host.alive(), 0);
    }
}

#[tokio::test]
async fn without_masked_rows_no_pool_opens() {
    let host = Arc::new(host());
    let state = session_with(Arc::clone(&host), MobulaOptions::default());
    let rows = run(&state, "SELECT a < 0 AND inc(a) = 1 AS r FROM t").await;
    let rows: usize = rows.unwrap().iter().map(|rows| rows.num_rows()).sum();
    assert_eq!(rows, 9);
    assert_eq!(host.pools_opened.load(Ordering::SeqCst), 0);
}

/// Errors of what a condition guards: none for rows that are kept from it.
#[tokio::test]
async fn arguments_and_conditions_do_not_fail_for_rows_kept_from_them() {
    check_rows(
        "SELECT CASE WHEN c = 0 THEN -1 WHEN 2 / c > 1 THEN inc(10 / c) ELSE inc(inc(20 / c)) END AS r \
         FROM t ORDER BY a",
        expect![[r#"
            +----+
            | r  |
            +----+
            | -1 |
            | 11 |
            | 12 |
            | -1 |
            | 11 |
            | 12 |
            | -1 |
            | 11 |
            | 12 |
            +----+"#]],
    )
    .await;
    check_rows(
        "SELECT count(*) AS n FROM t WHERE c <> 0 AND a > 0 AND (inc(6 / c) = 7 OR inc(6 / (c - 1)) = 7)",
        expect![[r#"
            +---+
            | n |
            +---+
            | 6 |
            +---+"#]],
    )
    .await;
}
