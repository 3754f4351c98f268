//! Plans run on fake workers: rows, order, pruning, errors, cancel, metrics.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Float32Type};
use arrow::util::pretty::pretty_format_batches;
use datafusion::common::Result;
use datafusion::execution::SessionState;
use datafusion::physical_plan::{ExecutionPlan, collect, execute_stream};
use expect_test::{Expect, expect};
use futures::StreamExt;
use mobula_udfs::UdfError;

use super::map_batches_exec;
use crate::MobulaOptions;
use crate::test_session::{
    FakeHost, add_table, check_plan, plan, rows_of_t, session, session_with,
};

pub(super) fn int(batch: &RecordBatch, column: usize) -> &Int64Array {
    batch.column(column).as_any().downcast_ref().unwrap()
}

fn float(batch: &RecordBatch, column: usize) -> &Float64Array {
    batch.column(column).as_any().downcast_ref().unwrap()
}

pub(super) fn one_column(column: impl Array + 'static) -> RecordBatch {
    RecordBatch::try_from_iter([("r", Arc::new(column) as ArrayRef)]).unwrap()
}

/// Cuts `batch` into pieces of at most `rows`, as a worker may.
pub(super) fn pieces(batch: &RecordBatch, rows: usize) -> Vec<RecordBatch> {
    let starts = (0..batch.num_rows()).step_by(rows);
    starts
        .map(|i| batch.slice(i, rows.min(batch.num_rows() - i)))
        .collect()
}

/// `net(a, b) = a * b`, `inc(a) = a + 1`, `dice(a) = a`, `one() = 1`;
/// `twice` gives every row of `t` twice.
pub(super) fn host() -> FakeHost {
    FakeHost::default()
        .with("net", |block| {
            let product = float(&block, 0)
                .iter()
                .zip(float(&block, 1))
                .map(|(a, b)| Some(a? * b?));
            Ok(vec![one_column(product.collect::<Float64Array>())])
        })
        .with("inc", |block| {
            let next = int(&block, 0).iter().map(|a| Some(a? + 1));
            Ok(pieces(&one_column(next.collect::<Int64Array>()), 2))
        })
        .with("dice", |block| Ok(vec![block]))
        .with("one", |block| {
            Ok(vec![one_column(Int64Array::from(vec![
                1;
                block.num_rows()
            ]))])
        })
        .with("big", |block| {
            // NULL for 4, and an answer in pieces.
            let stays = int(&block, 0).iter().map(|a| match a {
                Some(4) => None,
                a => Some(a? % 2 == 0),
            });
            Ok(pieces(&one_column(stays.collect::<BooleanArray>()), 2))
        })
        .with("good", |block| {
            assert_eq!(block.num_columns(), 4);
            Ok(vec![one_column(BooleanArray::from(vec![
                false;
                block.num_rows()
            ]))])
        })
        .with("twice", |block| {
            assert_eq!(block.schema().field(3).name(), "s");
            let rows = |column: usize| Arc::clone(block.column(column));
            let batch = RecordBatch::try_from_iter([("x", rows(0)), ("s", rows(3))]).unwrap();
            Ok(vec![batch.slice(0, 0), batch.clone(), batch])
        })
}

pub(super) async fn physical(state: &SessionState, sql: &str) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = plan(state, sql).await?;
    state.create_physical_plan(&plan).await
}

pub(super) async fn run(state: &SessionState, sql: &str) -> Result<Vec<RecordBatch>> {
    collect(physical(state, sql).await?, state.task_ctx()).await
}

pub(super) async fn check_rows(sql: &str, expected: Expect) {
    let host = Arc::new(host());
    let state = session(Arc::clone(&host));
    let batches = run(&state, sql).await.unwrap();
    expected.assert_eq(&pretty_format_batches(&batches).unwrap().to_string());
    assert_eq!(host.alive(), 0, "a pool outlived its query");
}

#[tokio::test]
async fn scalar_calls_give_their_column() {
    check_rows(
        "SELECT a, net(a, b) FROM t WHERE inc(c) > 1 ORDER BY a",
        expect![[r#"
        +---+--------------+
        | a | net(t.a,t.b) |
        +---+--------------+
        | 1 | 0.5          |
        | 2 | 2.0          |
        | 4 | 8.0          |
        | 5 | 12.5         |
        | 7 | 24.5         |
        | 8 | 32.0         |
        +---+--------------+"#]],
    )
    .await;
    check_rows(
        "SELECT sum(inc(a)) AS s, inc(c) FROM t GROUP BY inc(c) ORDER BY 2",
        expect![[r#"
        +----+----------+
        | s  | inc(t.c) |
        +----+----------+
        | 12 | 1        |
        | 15 | 2        |
        | 18 | 3        |
        +----+----------+"#]],
    )
    .await;
    check_rows(
        "SELECT inc(inc(1)) AS x, one() AS y",
        expect![[r#"
        +---+---+
        | x | y |
        +---+---+
        | 3 | 1 |
        +---+---+"#]],
    )
    .await;
    check_rows(
        "SELECT count(*) AS n, sum(one()) AS s FROM t",
        expect![[r#"
        +---+---+
        | n | s |
        +---+---+
        | 9 | 9 |
        +---+---+"#]],
    )
    .await;
    check_rows(
        "SELECT * FROM map_batches(TABLE(SELECT a FROM t), inc, batch_size => 2) ORDER BY a",
        expect![[r#"
        +---+-----+
        | a | inc |
        +---+-----+
        | 0 | 1   |
        | 1 | 2   |
        | 2 | 3   |
        | 3 | 4   |
        | 4 | 5   |
        | 5 | 6   |
        | 6 | 7   |
        | 7 | 8   |
        | 8 | 9   |
        +---+-----+"#]],
    )
    .await;
}

#[tokio::test]
async fn table_calls_give_their_table() {
    check_rows("SELECT x, count(*) AS n FROM map_batches(TABLE(t), twice) WHERE x < 3 GROUP BY x ORDER BY x", expect![[r#"
        +---+---+
        | x | n |
        +---+---+
        | 0 | 2 |
        | 1 | 2 |
        | 2 | 2 |
        +---+---+"#]]).await;
}

#[tokio::test]
async fn an_empty_input_gives_no_rows_and_opens_no_pool() {
    let host = Arc::new(host());
    let state = session(Arc::clone(&host));
    let rows = run(&state, "SELECT inc(a) FROM t WHERE a > 100")
        .await
        .unwrap();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    assert_eq!(host.pools_opened.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn unread_columns_are_pruned_and_filters_move_below() {
    check_plan("SELECT n FROM (SELECT *, net(a, b) AS n FROM t) WHERE c = 1 AND n > 2", expect![[r#"
        ProjectionExec: expr=[net(t.a,t.b)@0 as n]
          FilterExec: net(t.a,t.b)@0 > 2
            ProjectionExec: expr=[net(t.a,t.b)@3 as net(t.a,t.b)]
              MapBatchesExec: udf=net, kind=scalar, volatility=immutable, batch_size=block, batch_format=numpy, concurrency=cores, preserve_order=false
                FilterExec: c@2 = 1
                  DataSourceExec: partitions=2, partition_sizes=[1, 1]
    "#]]).await;
    check_plan("SELECT * FROM (SELECT a, dice(a) AS d FROM t) WHERE a = 1", expect![[r#"
        ProjectionExec: expr=[a@0 as a, dice(t.a)@1 as d]
          FilterExec: a@0 = 1
            MapBatchesExec: udf=dice, kind=scalar, batch_size=block, batch_format=numpy, concurrency=cores, preserve_order=false
              DataSourceExec: partitions=2, partition_sizes=[1, 1]
    "#]]).await;
    check_plan(
        "SELECT x FROM map_batches(TABLE(t), twice, batch_size => 5, concurrency => 3) WHERE x > 1",
        expect![[r#"
        FilterExec: x@0 > 1
          ProjectionExec: expr=[x@0 as x]
            MapBatchesExec: udf=twice, kind=table, batch_size=5, batch_format=numpy, concurrency=3
              DataSourceExec: partitions=2, partition_sizes=[1, 1]
    "#]],
    )
    .await;
    check_plan("SELECT * FROM map_batches(TABLE(t), \"Embed\"(model => 'big')) LIMIT 2", expect![[r#"
        MapBatchesExec: udf=Embed(model => 'big'), kind=scalar, batch_size=8, batch_format=numpy, concurrency=1
          CoalescePartitionsExec: fetch=2
            DataSourceExec: partitions=2, partition_sizes=[1, 1], fetch=2
    "#]]).await;
}

#[tokio::test]
async fn order_is_kept_with_many_calls_in_flight() {
    let mut options = MobulaOptions::default();
    options.set_value("udf_batch_rows", "7").unwrap();
    let host = Arc::new(host());
    let state = session_with(Arc::clone(&host), options);
    add_table(&state, "wide", vec![rows_of_t(0..1000)]);
    let sql =
        "SELECT a, inc FROM map_batches((SELECT a FROM wide ORDER BY a), inc, concurrency => 5)";
    let rows = run(&state, sql).await.unwrap();
    let pairs: Vec<(i64, i64)> = rows
        .iter()
        .flat_map(|b| {
            int(b, 0)
                .values()
                .iter()
                .copied()
                .zip(int(b, 1).values().iter().copied())
        })
        .collect();
    assert_eq!(pairs, (0..1000).map(|i| (i, i + 1)).collect::<Vec<_>>());
    assert_eq!(host.calls.load(Ordering::SeqCst), 1000_usize.div_ceil(7));
    assert_eq!(*host.concurrency.lock().unwrap(), [5]);
}

#[tokio::test]
async fn partitions_share_one_pool_of_one_worker_and_a_merge_does_not_hang() {
    let mut options = MobulaOptions::default();
    options.set_value("udf_batch_rows", "3").unwrap();
    let host = Arc::new(host());
    let state = session_with(Arc::clone(&host), options);
    add_table(
        &state,
        "halves",
        vec![rows_of_t(0..500), rows_of_t(500..1000)],
    );
    // Sorted by a in each partition, then merged: the merge waits for both.
    let sql =
        "SELECT a FROM map_batches((SELECT a FROM halves), inc, concurrency => 1) ORDER BY a, inc";
    let rows = run(&state, sql).await.unwrap();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 1000);
    assert_eq!(*host.concurrency.lock().unwrap(), [1]);
    assert_eq!(host.alive(), 0);
}

#[tokio::test]
async fn a_merge_that_polls_one_partition_at_a_time_does_not_starve_it() {
    let mut options = MobulaOptions::default();
    options.set_value("udf_batch_rows", "3").unwrap();
    let host = Arc::new(host());
    let state = session_with(Arc::clone(&host), options);
    add_table(
        &state,
        "halves",
        vec![rows_of_t(0..100), rows_of_t(100..200)],
    );
    let sql = "SELECT * FROM map_batches((SELECT a FROM halves), inc, concurrency => 1)";
    let plan = physical(&state, sql).await.unwrap();
    let mut streams: Vec<_> = (0..2)
        .map(|i| plan.execute(i, state.task_ctx()).unwrap())
        .collect();
    // The first partition gets going and is then left alone.
    let first = streams[0].next().await.unwrap().unwrap();
    let rest: Vec<_> = streams.pop().unwrap().collect().await;
    let rows = |batch: &Result<RecordBatch>| batch.as_ref().unwrap().num_rows();
    assert_eq!(rest.iter().map(rows).sum::<usize>(), 100);
    let more: Vec<_> = streams.pop().unwrap().collect().await;
    assert_eq!(first.num_rows() + more.iter().map(rows).sum::<usize>(), 100);
}

#[tokio::test]
async fn a_worker_error_arrives_unchanged_and_ends_the_stream() {
    let host = host().with("inc", |_| {
        Err(UdfError::ShuttingDown {
            function: "inc".into(),
        })
    });
    let state = session(Arc::new(host));
    let plan = physical(&state, "SELECT inc(a) FROM t").await.unwrap();
    let mut stream = plan.execute(0, state.task_ctx()).unwrap();
    let error = stream.next().await.unwrap().unwrap_err();
    let root = error.find_root();
    assert!(
        matches!(root, datafusion::common::DataFusionError::External(e) if e.is::<UdfError>()),
        "{error:?}"
    );
    assert!(stream.next().await.is_none());
    drop(stream);
}

#[tokio::test]
async fn wrong_row_counts_are_told() {
    for (answers, word) in [(vec![], "fewer"), (vec![vec![1; 3], vec![1; 300]], "more")] {
        let host = host().with("inc", move |_| {
            let batches = answers.iter().cloned().map(Int64Array::from);
            Ok(batches.map(one_column).collect())
        });
        let state = session(Arc::new(host));
        let error = run(&state, "SELECT inc(a) FROM t")
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("answered {word} rows")), "{error}");
    }
}

#[tokio::test]
async fn a_value_that_does_not_fit_a_parameter_is_an_error() {
    let host = host().with("inc", |block| Ok(vec![block]));
    let state = session(Arc::new(host));
    let sql = "SELECT inc FROM map_batches(TABLE(SELECT arrow_cast(18446744073709551615, 'UInt64') AS a), inc)";
    let error = run(&state, sql).await.unwrap_err().to_string();
    assert!(error.contains("18446744073709551615"), "{error}");
}

#[tokio::test]
async fn workers_see_plain_types_and_rows_keep_theirs() {
    let host = host().with("Embed", |block| {
        assert_eq!(block.schema().field(0).data_type(), &DataType::Utf8);
        assert_eq!(block.schema().field(0).name(), "s");
        let vectors = ListArray::from_iter_primitive::<Float32Type, _, _>(
            (0..block.num_rows()).map(|_| Some([Some(1.0), None])),
        );
        Ok(vec![one_column(vectors)])
    });
    let state = session(Arc::new(host));
    for data_type in ["Utf8View", "Dictionary(Int32, Utf8)", "LargeUtf8"] {
        let input = format!("SELECT arrow_cast(s, '{data_type}') AS s FROM t");
        let sql = format!("SELECT * FROM map_batches(TABLE({input}), \"Embed\")");
        let rows = run(&state, &sql).await.unwrap();
        let found = rows[0].schema().field(0).data_type().to_string();
        assert_eq!(found, data_type);
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 9);
    }
}

#[tokio::test]
async fn a_dropped_stream_lets_go_of_its_pool() {
    let host = Arc::new(host());
    let state = session(Arc::clone(&host));
    let plan = physical(&state, "SELECT inc(a) FROM t").await.unwrap();
    let mut stream = execute_stream(Arc::clone(&plan), state.task_ctx()).unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    // Aborted tasks are dropped when the runtime gets to them.
    while host.alive() > 0 {
        tokio::task::yield_now().await;
    }
    drop(plan);
}

#[tokio::test]
async fn metrics_count_calls_and_rows() {
    let state = session(Arc::new(host()));
    let plan = physical(&state, "SELECT inc(a) FROM t").await.unwrap();
    collect(Arc::clone(&plan), state.task_ctx()).await.unwrap();
    let mut found = None;
    let mut todo = vec![plan];
    while let Some(plan) = todo.pop() {
        found = found.or_else(|| map_batches_exec(plan.as_ref()).and_then(ExecutionPlan::metrics));
        todo.extend(plan.children().into_iter().cloned());
    }
    let metrics = found.unwrap();
    assert_eq!(metrics.output_rows(), Some(9));
    assert_eq!(metrics.sum_by_name("calls").unwrap().as_usize(), 2);
    assert_eq!(
        metrics.sum_by_name("rows_to_workers").unwrap().as_usize(),
        9
    );
    assert!(metrics.sum_by_name("wait_workers").is_some());
}

#[tokio::test]
async fn a_slow_reader_is_told_apart_from_slow_workers() {
    let state = session(Arc::new(host()));
    let plan = physical(&state, "SELECT * FROM map_batches(TABLE(t), inc)");
    let plan = plan.await.unwrap();
    let mut stream = plan.execute(0, state.task_ctx()).unwrap();
    let waited = Duration::from_millis(40);
    while let Some(rows) = stream.next().await {
        rows.unwrap();
        tokio::time::sleep(waited).await;
    }
    let metrics = map_batches_exec(plan.as_ref()).unwrap().metrics().unwrap();
    let found = metrics.sum_by_name("wait_downstream").unwrap().as_usize();
    assert!(found >= waited.as_nanos() as usize, "{found}");
}

#[tokio::test]
async fn explain_analyze_shows_them() {
    let state = session(Arc::new(host()));
    let rows = run(&state, "EXPLAIN ANALYZE SELECT inc(a) FROM t")
        .await
        .unwrap();
    let text = rows[0]
        .column(1)
        .as_any()
        .downcast_ref::<StringArray>()
        .unwrap()
        .value(0)
        .to_owned();
    assert!(
        text.contains("MapBatchesExec: udf=inc, kind=scalar"),
        "{text}"
    );
    assert!(text.contains("calls=2"), "{text}");
}

#[tokio::test]
async fn without_a_host_the_error_says_what_to_do() {
    let state = session(Arc::new(host()));
    let plan = physical(&state, "SELECT inc(a) FROM t").await.unwrap();
    let error = collect(plan, Arc::default()).await.unwrap_err().to_string();
    assert!(
        error.contains("with_extension(Arc::new(TaskHostHandle(..)))"),
        "{error}"
    );
}

#[tokio::test]
async fn without_a_count_a_task_gets_its_cores() {
    let host = Arc::new(host());
    let state = session(Arc::clone(&host));
    // One partition, two cores; an actor has one worker whatever the cores.
    run(&state, "SELECT inc(x) FROM u").await.unwrap();
    assert_eq!(*host.concurrency.lock().unwrap(), [2]);
}

/// A session with table `long` (as `t`) in `partitions` of 4,000 rows, and what
/// `twice` was sent: the first `a` of each block.
fn long_session(partitions: i64) -> (SessionState, Arc<Mutex<Vec<i64>>>) {
    let starts = Arc::new(Mutex::new(vec![]));
    let seen = Arc::clone(&starts);
    let host = FakeHost::default().with("twice", move |block| {
        seen.lock().unwrap().push(int(&block, 0).value(0));
        let column = |i: usize| Arc::clone(block.column(i));
        let rows = RecordBatch::try_from_iter([("x", column(0)), ("s", column(3))]).unwrap();
        Ok(pieces(&rows, 3))
    });
    let mut state = session(Arc::new(host));
    state.config_mut().options_mut().execution.target_partitions = partitions as usize;
    let parts = (0..partitions).map(|p| rows_of_t(p * 4000..(p + 1) * 4000));
    add_table(&state, "long", parts.collect());
    (state, starts)
}

/// On several threads, where the call started last may come first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_held_by_a_later_call_is_read() {
    for _ in 0..20 {
        let (state, _) = long_session(2);
        let sql = "SELECT count(*) FROM map_batches(TABLE(SELECT * FROM long), twice, \
                   batch_size => 2, concurrency => 2)";
        let rows = tokio::time::timeout(Duration::from_secs(60), run(&state, sql));
        let rows = rows.await.expect("calls wait for each other").unwrap();
        assert_eq!(int(&rows[0], 0).value(0), 8000);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_worker_gets_the_blocks_in_their_order() {
    for _ in 0..20 {
        let (state, starts) = long_session(1);
        let sql = "SELECT x FROM map_batches(TABLE(SELECT * FROM long), twice, \
                   batch_size => 2, concurrency => 1)";
        let blocks = run(&state, sql).await.unwrap();
        let rows: Vec<i64> = blocks
            .iter()
            .flat_map(|b| int(b, 0).values().to_vec())
            .collect();
        assert!(rows.is_sorted() && rows.len() == 4000);
        let starts = starts.lock().unwrap();
        assert!(starts.is_sorted() && starts.len() == 125, "{starts:?}");
    }
}
