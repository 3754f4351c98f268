//! Async functions: many calls at a time, answers as they finish, and what goes wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, UInt64Type};
use futures::StreamExt;
use futures::future::{Either, join_all};
use mobula_udfs::{
    Answer, AnswerStream, BlockId, CallMode, Literal, ObjectKind, OnError, Overlap, UdfError,
    UdfPool, WorkerManager,
};

use crate::bench::*;

pub(crate) const DOUBLE: &str = "
import asyncio
async def f(x):
    await asyncio.sleep(0.02)
    return x * 2";

/// A function of a row that keeps no order.
pub(crate) fn rows(body: &str, in_flight: usize) -> Case {
    let mut case = Case::ints("f", body).by_row(CallMode::Map);
    case.spec.object = ObjectKind::AsyncFunction;
    case.handling.preserve_order = Some(false);
    case.handling.overlap.max_in_flight = Some(in_flight);
    case
}

/// One that does.
pub(crate) fn ordered(body: &str, in_flight: usize) -> Case {
    let mut case = rows(body, in_flight);
    case.handling.preserve_order = None;
    case
}

/// Pairs of a row's place and its value, as they come.
fn pairs(answer: &RecordBatch) -> Vec<(u64, Option<i64>)> {
    let places = answer.column(answer.num_columns() - 1);
    let places = places.as_primitive::<UInt64Type>().values().iter();
    places.copied().zip(values(answer)).collect()
}

/// All values of a block by their rows, and the rows that failed with why.
pub(crate) async fn gathered(
    pool: &Arc<dyn UdfPool>,
    block: RecordBatch,
) -> Result<(Vec<Option<i64>>, Vec<(usize, String)>), UdfError> {
    let count = block.num_rows();
    let (mut found, mut failed) = (vec![None; count], vec![]);
    let mut stream = pool.call(block).await?;
    while let Some(answer) = answer(&mut stream).await {
        match answer? {
            Answer::Rows(rows) => {
                for (place, value) in pairs(&rows) {
                    let before = found[place as usize].replace(value);
                    assert_eq!(before, None, "row {place} twice");
                }
            }
            Answer::Failed(rows) => failed.extend(rows.into_iter().map(|row| {
                let reason = row.reason.map(|reason| reason.message);
                (row.row, reason.unwrap_or_default())
            })),
            other => panic!("{other:?}"),
        }
    }
    failed.sort();
    let found: Option<Vec<_>> = found.into_iter().collect();
    Ok((found.expect("a value for every row"), failed))
}

pub(crate) async fn answer(stream: &mut AnswerStream) -> Option<Result<Answer, UdfError>> {
    let next = tokio::time::timeout(PATIENCE, futures::StreamExt::next(stream)).await;
    next.expect("no answer in time")
}

pub(crate) fn doubled(n: i64) -> Vec<Option<i64>> {
    (0..n).map(|x| Some(2 * x)).collect()
}

#[tokio::test]
async fn as_many_are_in_flight_as_may_be_and_no_more() {
    let body = "
import asyncio
now = most = 0
async def f(x):
    global now, most
    now += 1
    most = max(most, now)
    # Until as many are here as are let in.
    while most < N:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    now -= 1
    return most";
    let manager = manager();
    for in_flight in [1, 7, 64] {
        let body = body.replace('N', &in_flight.to_string());
        let pool = rows(&body, in_flight).pool(&manager, 1);
        let blocks = join_all((0..4).map(|_| gathered(&pool, counting(30)))).await;
        let most = blocks.into_iter().flat_map(|block| block.unwrap().0);
        assert_eq!(most.max().unwrap(), Some(in_flight as i64));
        assert_eq!(pool.stats().workers_started, 1);
        assert_eq!((pool.stats().rows_in, pool.stats().calls), (120, 4));
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn streams_of_blocks_take_turns() {
    let manager = manager();
    let named = |partition, number| {
        let id = BlockId::first_of("q", [0, 0, partition, 0]).plus(number);
        id.name(counting(8))
    };
    for case in [rows(DOUBLE, 4), ordered(DOUBLE, 4)] {
        let pool = case.pool(&manager, 1);
        // One has two seconds' worth of rows in line when the other comes with its first.
        let mut calls = vec![];
        for number in 0..50 {
            calls.push(pool.call(named(0, number)).await.unwrap().count());
        }
        let second = pool.call(named(1, 0)).await.unwrap().count();
        let (first, second) = (Box::pin(join_all(calls)), Box::pin(second));
        let through = futures::future::select(first, second).await;
        assert!(matches!(through, Either::Right(_)));
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn a_straggler_delays_nothing_but_itself() {
    let body = "
import asyncio
gate = asyncio.Event()
async def f(x):
    if x == 5:
        await gate.wait()
    if x == 999:
        gate.set()
    await asyncio.sleep(0.01)
    return x * 2";
    let manager = manager();
    let pool = rows(body, 8).pool(&manager, 1);
    let mut first = pool.call(counting(20)).await.unwrap();
    // The rows beside it come, and so do all of twenty blocks behind.
    let mut found = vec![];
    while found.len() < 19 {
        let Some(Ok(Answer::Rows(rows))) = answer(&mut first).await else {
            panic!("no rows");
        };
        found.extend(pairs(&rows));
    }
    assert!(found.iter().all(|(place, _)| *place != 5), "{found:?}");
    let others = join_all((0..20).map(|_| gathered(&pool, ints((100..120).map(Some))))).await;
    assert!(others.into_iter().all(|block| block.unwrap().1.is_empty()));
    assert!(
        futures::FutureExt::now_or_never(futures::StreamExt::next(&mut first)).is_none(),
        "it still waits"
    );
    gathered(&pool, ints([Some(999)])).await.unwrap();
    let Some(Ok(Answer::Rows(last))) = answer(&mut first).await else {
        panic!("no row");
    };
    assert_eq!(pairs(&last), [(5, Some(10))]);
    assert!(answer(&mut first).await.is_none());
    manager.shutdown().await;
}

#[tokio::test]
async fn where_order_is_kept_a_block_comes_whole() {
    let body = "
import asyncio
async def f(x):
    await asyncio.sleep(0.2 if x == 0 else 0.001)
    return x * 2";
    let manager = manager();
    let pool = ordered(body, 4).pool(&manager, 1);
    let (out, failed) = run_whole(&pool, counting(50)).await.unwrap();
    assert_eq!((values(&out), failed), (doubled(50), vec![]));
    assert_eq!(out.num_columns(), 1);
    manager.shutdown().await;
}

#[tokio::test]
async fn one_slow_row_of_a_block_in_order_does_not_keep_the_worker_from_others() {
    let body = "
import asyncio
now = []
async def f(x):
    if x < 0:
        await asyncio.sleep(1)
        return len(now)
    now.append(x)
    await asyncio.sleep(0.005)
    return x * 2";
    let manager = manager();
    let pool = ordered(body, 4).pool(&manager, 1);
    let slow = run_whole(&pool, ints([Some(-1), Some(0), Some(1), Some(2)]));
    let others = join_all((0..10).map(|_| run_whole(&pool, counting(4))));
    let (slow, others) = tokio::join!(slow, others);
    assert!(
        others
            .into_iter()
            .all(|out| values(&out.unwrap().0) == doubled(4))
    );
    // All the others were called while it waited.
    assert_eq!(values(&slow.unwrap().0)[0], Some(43));
    manager.shutdown().await;
}

#[tokio::test]
async fn no_more_begin_than_the_rate_lets() {
    let manager = manager();
    let mut case = rows(DOUBLE, 64);
    case.handling.overlap.rate_limit = Some(100.0);
    let pool = case.pool(&manager, 1);
    let since = Instant::now();
    let (out, _) = gathered(&pool, counting(60)).await.unwrap();
    let took = since.elapsed();
    assert_eq!(out, doubled(60));
    // 60 rows, of which five may be made up for, at 10 ms.
    assert!(took >= Duration::from_millis(500), "{took:?}");
    manager.shutdown().await;
}

#[tokio::test]
async fn a_class_is_built_where_a_loop_runs_and_keeps_its_state() {
    let body = "
import asyncio
class f:
    def __init__(self, step):
        self.loop, self.step, self.n = asyncio.get_running_loop(), step, 0
    async def __call__(self, x):
        assert asyncio.get_running_loop() is self.loop
        await asyncio.sleep(0)
        self.n += self.step
        return self.n";
    let manager = manager();
    let mut case = rows(body, 16).arg("step", Literal::Int(3));
    case.spec.object = ObjectKind::AsyncClass;
    assert_eq!(
        manager.describe(&case.spec).await.unwrap(),
        ObjectKind::AsyncClass
    );
    let pool = case.pool(&manager, 1);
    for block in 0..3 {
        let (mut found, _) = gathered(&pool, counting(10)).await.unwrap();
        found.sort();
        let expected = (1..=10).map(|n| Some(3 * (10 * block + n)));
        assert_eq!(found, expected.collect::<Vec<_>>());
    }
    case.args.clear();
    let error = gathered(&case.pool(&manager, 1), counting(1))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("step"), "{error}");
    manager.shutdown().await;
}

#[tokio::test]
async fn rows_of_rows_come_as_they_are_made() {
    let flat = "
import asyncio
async def f(row):
    await asyncio.sleep(0.05 if row['x'] == 0 else 0)
    for n in range(row['x'] % 3):
        yield {'y': row['x']}";
    let listed = flat.replace(
        "    for n in range(row['x'] % 3):\n        yield {'y': row['x']}",
        "    return [{'y': row['x']}] * (row['x'] % 3)",
    );
    let manager = manager();
    for body in [flat, listed.as_str()] {
        let mut case = Case::table("f", &[("y", DataType::Int64)], body).by_row(CallMode::FlatMap);
        case.spec.object = ObjectKind::AsyncFunction;
        let (out, _) = run_whole(&case.pool(&manager, 1), counting(30))
            .await
            .unwrap();
        let mut found = values(&out);
        found.sort();
        let expected = (0..30).flat_map(|x| vec![Some(x); x as usize % 3]);
        assert_eq!(found, expected.collect::<Vec<_>>());
        case.handling.preserve_order = Some(true);
        let (out, _) = run_whole(&case.pool(&manager, 1), counting(30))
            .await
            .unwrap();
        assert_eq!(values(&out), found);
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn batches_are_in_flight_as_rows_are() {
    let body = "
import asyncio
now = most = 0
async def f(x):
    global now, most
    now, most = now + 1, max(most, now + 1)
    await asyncio.sleep(0.02)
    now -= 1
    if 13 in x: raise ValueError('no 13')
    return x * 0 + (most if len(x) == 2 else 0)";
    let manager = manager();
    let mut case = Case::ints("f", body).batches_of(2).immutable();
    case.spec.object = ObjectKind::AsyncFunction;
    case.handling.overlap = Overlap {
        max_in_flight: Some(3),
        rate_limit: None,
    };
    let (out, _) = run_whole(&case.pool(&manager, 1), counting(12))
        .await
        .unwrap();
    assert_eq!(values(&out)[11], Some(3));
    // Halved down to the row that does it.
    let case = case.on_error(OnError::DeadLetter);
    let (out, failed) = run_whole(&case.pool(&manager, 1), counting(16))
        .await
        .unwrap();
    assert_eq!(failed.iter().map(|row| row.row).collect::<Vec<_>>(), [13]);
    assert_eq!((values(&out)[12], values(&out)[13]), (Some(0), None));
    let mut table = Case::table(
        "f",
        &[("x", DataType::Int64)],
        "async def f(rows): return rows",
    )
    .batches_of(4);
    table.spec.object = ObjectKind::AsyncFunction;
    let (out, _) = run_whole(&table.pool(&manager, 1), counting(10))
        .await
        .unwrap();
    let mut found = values(&out);
    found.sort();
    assert_eq!(found, (0..10).map(Some).collect::<Vec<_>>());
    manager.shutdown().await;
}

#[tokio::test]
async fn rows_with_null_are_not_called_where_it_is_strict() {
    let manager = manager();
    let block = || ints([Some(1), None, Some(3), None]);
    let expected = [Some(2), None, Some(6), None];
    let (found, _) = gathered(&rows(DOUBLE, 4).strict().pool(&manager, 1), block())
        .await
        .unwrap();
    assert_eq!(found, expected);
    let (out, _) = run_whole(&ordered(DOUBLE, 4).strict().pool(&manager, 1), block())
        .await
        .unwrap();
    assert_eq!(values(&out), expected);
    let (found, _) = gathered(
        &rows(DOUBLE, 4).strict().pool(&manager, 1),
        ints([None, None]),
    )
    .await
    .unwrap();
    assert_eq!(found, [None, None]);
    manager.shutdown().await;
}

#[tokio::test]
async fn blocks_that_are_too_long_for_a_frame_are_cut() {
    let manager = WorkerManager::new(mobula_udfs::WorkerSettings {
        max_frame_bytes: 64 << 10,
        ..settings()
    });
    let n = 40_000;
    let (found, _) = gathered(
        &rows("async def f(x): return x * 2", 64).pool(&manager, 1),
        counting(n),
    )
    .await
    .unwrap();
    assert_eq!(found, doubled(n));
    let (out, _) = run_whole(
        &ordered("async def f(x): return x * 2", 64).pool(&manager, 2),
        counting(n),
    )
    .await
    .unwrap();
    assert_eq!(values(&out), doubled(n));
    manager.shutdown().await;
}

/// What the issue asks for: 64 in flight on a call of 20 ms, and one that takes 5 s.
#[tokio::test]
async fn sixty_four_in_flight_make_2500_rows_a_second() {
    let body = "
import asyncio
async def f(x):
    await asyncio.sleep(5 if x == 17 else 0.02)
    return x * 2";
    let manager = manager();
    let pool = rows(body, 64).pool(&manager, 1);
    assert_eq!(gathered(&pool, counting(1)).await.unwrap().0, [Some(0)]);
    let since = Instant::now();
    let mut ends = vec![];
    let mut waiting: Vec<_> = (0..157).collect();
    // As many blocks open as an operator has.
    let mut open = futures::stream::FuturesUnordered::new();
    let (mut rows, mut last) = (0, Duration::ZERO);
    while rows < 157 * 64 {
        while open.len() < 66 && !waiting.is_empty() {
            let at = waiting.remove(0);
            let pool = Arc::clone(&pool);
            open.push(async move {
                let block = ints((at * 64..at * 64 + 64).map(Some));
                gathered(&pool, block).await.unwrap().0
            });
        }
        let block = futures::StreamExt::next(&mut open).await.unwrap();
        rows += block.len();
        ends.push(since.elapsed());
        last = since.elapsed();
    }
    ends.sort();
    let others = ends[155];
    let per_s = 156.0 * 64.0 / others.as_secs_f64();
    println!("{per_s:.0} rows/s, the last of the others after {others:?}, all after {last:?}");
    assert!(last >= Duration::from_secs(5), "{last:?}");
    let longest = others.max(Duration::from_secs(5));
    assert!(last < longest + Duration::from_millis(500), "{last:?}");
    // Half of what is owed: tests run beside others.
    assert!(per_s > 1250.0, "{per_s} rows/s");
    manager.shutdown().await;
}
