//! Small blocks that travel together, each a call of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use futures::TryStreamExt;
use futures::future::join_all;
use mobula_udfs::{ActorState, Answer, OnError, UdfError, UdfErrorClass, UdfPool};

use crate::bench::*;
use crate::stage::*;

/// Numbers its calls, which take one row each.
const COUNTS: &str = "
class f:
    def __init__(self):
        self.calls = 0
    def __call__(self, x):
        assert len(x) == 1, len(x)
        self.calls += 1
        return x * 1000 + self.calls";

fn train(values: std::ops::Range<i64>) -> Vec<RecordBatch> {
    values.map(|x| ints([Some(x)])).collect()
}

/// What comes of `blocks`, and the rows that failed.
async fn each(
    pool: &Arc<dyn UdfPool>,
    blocks: Vec<RecordBatch>,
) -> Result<(Vec<Option<i64>>, Vec<usize>), UdfError> {
    let work = async {
        let answers: Vec<Answer> = pool.call_each(blocks).await?.try_collect().await?;
        let (mut found, mut failed) = (vec![], vec![]);
        for answer in answers {
            match answer {
                Answer::Rows(rows) => found.extend(values(&rows)),
                Answer::Failed(rows) => failed.extend(rows.iter().map(|failed| failed.row)),
                other => panic!("{other:?}"),
            }
        }
        Ok((found, failed))
    };
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| panic!("no answer within {PATIENCE:?}"))
}

#[tokio::test]
async fn each_block_is_a_call_in_its_order() {
    let manager = manager();
    let pool = Case::ints("f", COUNTS).class().pool(&manager, 1);
    assert_eq!(pool.train(), 1, "nothing is known of its blocks");
    let mut calls = 0;
    for blocks in [1, 2, 40, 64] {
        let (found, failed) = each(&pool, train(0..blocks)).await.unwrap();
        let expected = (0..blocks).map(|x| Some(x * 1000 + calls + x + 1));
        assert!(found.into_iter().eq(expected), "{blocks}");
        assert_eq!(failed, [0; 0]);
        calls += blocks;
    }
    let stats = pool.stats();
    assert_eq!((stats.calls, stats.rows_in), (107, 107));
    assert_eq!(stats.workers_started, 1);
    // Blocks without rows are none.
    let (found, _) = each(&pool, vec![ints([]), ints([Some(7)]), ints([])])
        .await
        .unwrap();
    assert_eq!(found, [Some(7_108)]);
    assert_eq!(each(&pool, vec![ints([])]).await.unwrap().0, [None; 0]);
    manager.shutdown().await;
}

/// Says what it was given, and looks at all that it was given before.
const KEEPS: &str = "
class f:
    def __init__(self):
        self.kept = []
    def __call__(self, s, x):
        self.kept.append((s, x, str(s.to_pylist()), str(x.to_pylist())))
        for s, x, was_s, was_x in self.kept:
            assert (str(s.to_pylist()), str(x.to_pylist())) == (was_s, was_x)
        return [f'{s.null_count} {x.null_count} {s.to_pylist()} {x.to_pylist()}'] * len(s)";

#[tokio::test]
async fn rows_that_travel_as_one_are_cut_where_their_blocks_end() {
    let manager = manager();
    let params = [("s", DataType::Utf8), ("x", DataType::Int64)];
    let case = Case::scalar("f", &params, DataType::Utf8, KEEPS);
    let pool = case.class().pyarrow().pool(&manager, 1);
    let block = |texts: &[Option<&str>]| {
        let numbers = texts.iter().map(|text| text.map(|text| text.len() as i64));
        let numbers = Int64Array::from_iter(numbers);
        let texts = StringArray::from_iter(texts.iter().copied());
        let columns: [(_, ArrayRef); 2] = [("s", Arc::new(texts)), ("x", Arc::new(numbers))];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, values)| (name, values, true)))
            .unwrap()
    };
    let blocks = vec![
        block(&[Some("a")]),
        block(&[None, Some("bé"), None]),
        block(&[]),
        // One that is cut from a longer one.
        block(&[Some("no"), None, Some("cc"), Some("no")]).slice(1, 2),
        block(&[None]),
    ];
    let answers = pool.call_each(blocks).await.unwrap();
    let answers: Vec<Answer> = answers.try_collect().await.unwrap();
    let found = answers.iter().flat_map(|answer| match answer {
        Answer::Rows(rows) => rows.column(0).as_string::<i32>().iter(),
        other => panic!("{other:?}"),
    });
    let found: Vec<_> = found.map(Option::unwrap).collect();
    assert_eq!(
        found,
        [
            "0 0 ['a'] [1]",
            "2 2 [None, 'bé', None] [None, 3, None]",
            "2 2 [None, 'bé', None] [None, 3, None]",
            "2 2 [None, 'bé', None] [None, 3, None]",
            "1 1 [None, 'cc'] [None, 2]",
            "1 1 [None, 'cc'] [None, 2]",
            "1 1 [None] [None]",
        ]
    );
    let stats = pool.stats();
    assert_eq!((stats.calls, stats.rows_in), (4, 7));
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trains_behind_each_other_keep_their_order() {
    let manager = manager();
    let pool = Case::ints("f", COUNTS).class().pool(&manager, 1);
    each(&pool, train(0..1)).await.unwrap();
    let trains = (0..50).map(|at| each(&pool, train(at * 20 + 1..at * 20 + 21)));
    let found = join_all(trains).await;
    let found = found.into_iter().flat_map(|train| train.unwrap().0);
    assert!(found.eq((1..1001).map(|x| Some(x * 1000 + x + 1))));
    let stats = pool.stats();
    assert_eq!((stats.calls, stats.workers_started), (1001, 1));
    assert!(stats.blocks_ahead > 100, "{stats:?}");
    manager.shutdown().await;
}

#[tokio::test]
async fn only_short_blocks_make_trains() {
    let manager = manager();
    let body = "\nimport time\ndef f(x):\n    time.sleep(x[0] / 1000)\n    return x";
    let pool = Case::ints("f", body).pool(&manager, 1);
    for _ in 0..10 {
        run(&pool, ints([Some(5)])).await.unwrap();
    }
    assert_eq!(pool.train(), 1);
    // Where nobody else is at work, at once.
    let since = Instant::now();
    while pool.train() == 1 {
        assert!(since.elapsed() < PATIENCE);
        run(&pool, ints([Some(0)])).await.unwrap();
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn what_one_block_raises_leaves_the_worker_to_others() {
    let manager = manager();
    let body = "\ndef f(x):\n    if x[0] % 10 == 3: raise ValueError(x[0])\n    return x";
    let pool = Case::ints("f", body).pool(&manager, 1);
    for _ in 0..5 {
        let error = each(&pool, train(0..30)).await.unwrap_err();
        assert!(error.to_string().contains("ValueError: 3"), "{error}");
        let (found, _) = each(&pool, train(4..10)).await.unwrap();
        assert!(found.into_iter().eq((4..10).map(Some)));
    }
    assert_eq!(pool.stats().workers_started, 1);
    manager.shutdown().await;
}

#[tokio::test]
async fn rows_that_fail_are_counted_over_all_blocks() {
    let manager = manager();
    let body = "\ndef f(x):\n    if x % 10 == 3: raise ValueError(x)\n    return x";
    let case = Case::ints("f", body).on_error(OnError::DeadLetter);
    let pool = case.by_row(mobula_udfs::CallMode::Map).pool(&manager, 1);
    let blocks = vec![counting(5), ints([Some(13)]), counting(14), ints([Some(1)])];
    let (found, failed) = each(&pool, blocks).await.unwrap();
    // 5 rows, 1 row, 14 rows: their fourth, first, fourth and last.
    assert_eq!(failed, [3, 5, 9, 19]);
    let nulls = found.iter().enumerate().filter(|(_, x)| x.is_none());
    assert!(nulls.map(|(at, _)| at).eq(failed));
    manager.shutdown().await;
}

#[tokio::test]
async fn a_worker_that_dies_on_the_way_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log").display().to_string();
    let manager = manager();
    // 20 once, 30 always.
    let body = format!(
        "
import os
def f(x):
    with open({log:?}, 'a') as log: log.write(f'{{x[0]}}\\n')
    if x[0] == 20 and open({log:?}).read().split().count('20') == 1: os._exit(3)
    if x[0] == 30: os._exit(3)
    return x"
    );
    let pool = Case::ints("f", &body).pool(&manager, 1);
    each(&pool, train(-1..0)).await.unwrap();
    let (found, _) = each(&pool, train(0..29)).await.unwrap();
    assert!(found.into_iter().eq((0..29).map(Some)));
    let told = || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.lines()
            .map(|x| x.parse().unwrap())
            .collect::<Vec<i64>>()
    };
    // Of those before it the last may be called again, whose answers were kept to go
    // together; it is alone then, and those after it are called once.
    let all = told();
    let lost_at = all.iter().position(|x| *x == 20).unwrap();
    let (before, after) = all.split_at(lost_at + 1);
    assert!(before.iter().copied().eq(-1..=20), "{all:?}");
    assert!(after.iter().copied().eq(after[0]..29), "{all:?}");
    assert_eq!((pool.stats().workers_started, pool.stats().retries), (2, 1));
    std::fs::write(&log, "20\n").unwrap();
    let error = each(&pool, train(25..35)).await.unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::Lost, "{error}");
    let all = told();
    assert_eq!(all.iter().filter(|x| **x == 30).count(), 2, "{all:?}");
    assert!(!all.contains(&31), "{all:?}");
    let (found, _) = each(&pool, train(0..5)).await.unwrap();
    assert!(found.into_iter().eq((0..5).map(Some)));
    manager.shutdown().await;
}

#[tokio::test]
async fn a_time_limit_is_that_of_each_block() {
    let manager = manager();
    let body = "\nimport time\ndef f(x):\n    time.sleep(x[0] / 1000)\n    return x";
    let mut call = Case::ints("f", body).call();
    Arc::get_mut(&mut call).unwrap().timeout = Some(Duration::from_millis(400));
    let pool = manager.open_pool(call, 1).unwrap();
    run(&pool, ints([Some(0)])).await.unwrap();
    // Together they take longer.
    let slow = |count| vec![ints([Some(150)]); count];
    let (found, _) = each(&pool, slow(5)).await.unwrap();
    assert_eq!(found.len(), 5);
    let blocks = [slow(2), vec![ints([Some(60_000)])], slow(2)].concat();
    let error = each(&pool, blocks).await.unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::Timeout, "{error}");
    assert_eq!(pool.stats().workers_started, 1);
    manager.shutdown().await;
}

#[tokio::test]
async fn the_block_that_kills_or_hangs_is_the_one_that_is_lost() {
    // Nearly all are so short that their answers go together.
    for (fatal, error) in [("os._exit(3)", "WorkerLost"), ("time.sleep(60)", "Timeout")] {
        let manager = manager();
        let body =
            format!("\nimport os, time\ndef f(x):\n    if x[0] in (17, 40): {fatal}\n    return x");
        let case = Case::ints("f", &body).on_error(OnError::DeadLetter);
        let mut call = case.call();
        Arc::get_mut(&mut call).unwrap().timeout = Some(Duration::from_millis(500));
        let pool = manager.open_pool(call, 1).unwrap();
        each(&pool, train(-1..0)).await.unwrap();
        for _ in 0..2 {
            let work = pool.call_each(train(0..60)).await.unwrap();
            let answers: Vec<Answer> = work.try_collect().await.unwrap();
            let (mut found, mut failed) = (vec![], vec![]);
            for answer in answers {
                match answer {
                    Answer::Rows(rows) => found.extend(values(&rows)),
                    Answer::Failed(rows) => failed.extend(rows),
                    Answer::Snapshot(_) => panic!("it is not keyed"),
                }
            }
            let expected = (0..60).map(|x| (x != 17 && x != 40).then_some(x));
            assert!(found.iter().copied().eq(expected), "{fatal}: {found:?}");
            let rows: Vec<_> = failed.iter().map(|failed| failed.row).collect();
            assert_eq!(rows, [17, 40], "{fatal}");
            let reasons = failed.iter().filter_map(|failed| failed.reason.as_ref());
            let reasons: Vec<_> = reasons.map(|reason| reason.error_type.as_str()).collect();
            assert_eq!(reasons, [error; 2]);
        }
        manager.shutdown().await;
    }
}

#[tokio::test]
async fn blocks_too_large_to_go_together_arrive() {
    let manager = manager();
    let body = "\ndef f(s):\n    return [len(x) for x in s]";
    let case = Case::scalar("f", &[("s", DataType::Utf8)], DataType::Int64, body);
    let pool = case.pool(&manager, 1);
    let sizes = [10, 20_000, 20_000, 5, 300_000, 7, 7, 40_000, 1];
    let blocks = sizes.iter().map(|size| {
        let column: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(*size)]));
        RecordBatch::try_from_iter_with_nullable([("s", column, true)]).unwrap()
    });
    let (found, _) = each(&pool, blocks.collect()).await.unwrap();
    assert!(
        found
            .into_iter()
            .eq(sizes.iter().map(|size| Some(*size as i64)))
    );
    manager.shutdown().await;
}

#[tokio::test]
async fn tables_come_in_the_order_of_their_blocks() {
    let manager = manager();
    let body = "
def f(rows):
    for _ in range(rows['x'][0]):
        yield {'y': rows['x']}";
    let pool = Case::table("f", &[("y", DataType::Int64)], body).pool(&manager, 1);
    let (found, _) = each(&pool, train(0..20)).await.unwrap();
    let expected = (0..20).flat_map(|x| std::iter::repeat_n(Some(x), x as usize));
    assert!(found.into_iter().eq(expected));
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_actor_takes_trains_of_many_in_their_turns() {
    let stage = Stage::new(COUNTER);
    stage.create("c", &[]).await.unwrap();
    let pools = [stage.pool("c", "add"), stage.pool("c", "add")];
    // Each adds 1; those of a train follow each other.
    let trains = (0..40).map(|at| each(&pools[at % 2], vec![ints([Some(1)]); 10]));
    let mut all = vec![];
    for train in join_all(trains).await {
        let (found, _) = train.unwrap();
        let first = found[0].unwrap();
        assert!(found.iter().copied().eq((first..first + 10).map(Some)));
        all.extend(found);
    }
    all.sort_unstable();
    assert!(all.into_iter().eq((1..=400).map(Some)));
    assert_eq!(stage.info("c").calls, 400);
    let stats = pools[0].stats();
    assert_eq!((stats.calls, stats.blocks_ahead), (200, 0));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_actor_outlives_what_fails_or_is_not_read_any_more() {
    let stage = Stage::new(COUNTER);
    stage.create("c", &[]).await.unwrap();
    let pid = stage.call("c", "pid", 0).await.unwrap();
    let fails = stage.pool("c", "fails");
    for _ in 0..3 {
        let error = each(&fails, train(0..20)).await.unwrap_err();
        assert!(error.to_string().contains("ValueError: 0"), "{error}");
    }
    // Gone while it is at work on the first of them: it has the others already.
    let slow = stage.pool("c", "slow");
    let stream = slow.call_each(vec![ints([Some(100)]); 3]).await.unwrap();
    stage.until("c", ActorState::Busy).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop((stream, slow));
    let found = stage.call("c", "get", 0).await.unwrap();
    assert_eq!(found, 3);
    assert_eq!(stage.call("c", "pid", 0).await.unwrap(), pid);
    assert_eq!(stage.info("c").restarts, 0);
    let (found, _) = each(&stage.pool("c", "add"), train(1..4)).await.unwrap();
    assert_eq!(found, [Some(4), Some(6), Some(9)]);
    // What ends it twice is an error, whatever was on its way behind it.
    let error = each(&stage.pool("c", "dies"), train(0..5))
        .await
        .unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::Lost, "{error}");
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), 0);
    stage.end().await;
}
