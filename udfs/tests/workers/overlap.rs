//! Async functions: many calls at a time, answers as they finish, and what goes wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, UInt64Type};
use futures::future::join_all;
use mobula_udfs::{
    Answer, AnswerStream, CallMode, Literal, ObjectKind, OnError, Overlap, UdfCall, UdfError,
    UdfPool, WorkerManager,
};

use crate::bench::*;

const DOUBLE: &str = "
import asyncio
async def f(x):
    await asyncio.sleep(0.02)
    return x * 2";

/// A function of a row that keeps no order.
fn rows(body: &str, in_flight: usize) -> Case {
    let mut case = Case::ints("f", body).by_row(CallMode::Map);
    case.spec.object = ObjectKind::AsyncFunction;
    case.handling.preserve_order = Some(false);
    case.handling.overlap.max_in_flight = Some(in_flight);
    case
}

/// One that does.
fn ordered(body: &str, in_flight: usize) -> Case {
    let mut case = rows(body, in_flight);
    case.handling.preserve_order = None;
    case
}

/// A pool whose calls may take so long each.
fn timed(case: &Case, manager: &Arc<WorkerManager>, limit: Duration) -> Arc<dyn UdfPool> {
    let call = UdfCall {
        timeout: Some(limit),
        ..case.call().as_ref().clone()
    };
    manager.open_pool(Arc::new(call), 1).unwrap()
}

/// Pairs of a row's place and its value, as they come.
fn pairs(answer: &RecordBatch) -> Vec<(u64, Option<i64>)> {
    let places = answer.column(answer.num_columns() - 1);
    let places = places.as_primitive::<UInt64Type>().values().iter();
    places.copied().zip(values(answer)).collect()
}

/// All values of a block by their rows, and the rows that failed with why.
async fn gathered(
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
        }
    }
    failed.sort();
    let found: Option<Vec<_>> = found.into_iter().collect();
    Ok((found.expect("a value for every row"), failed))
}

async fn answer(stream: &mut AnswerStream) -> Option<Result<Answer, UdfError>> {
    let next = tokio::time::timeout(PATIENCE, futures::StreamExt::next(stream)).await;
    next.expect("no answer in time")
}

fn doubled(n: i64) -> Vec<Option<i64>> {
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
    await asyncio.sleep(0.02)
    now -= 1
    return most";
    let manager = manager();
    for in_flight in [1, 7, 64] {
        let pool = rows(body, in_flight).pool(&manager, 1);
        let blocks = join_all((0..4).map(|_| gathered(&pool, counting(30)))).await;
        let most = blocks.into_iter().flat_map(|block| block.unwrap().0);
        assert_eq!(most.max().unwrap(), Some(in_flight as i64));
        assert_eq!(pool.stats().workers_started, 1);
        assert_eq!((pool.stats().rows_in, pool.stats().calls), (120, 4));
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

const SEVENS: &str = "
import asyncio
async def f(x):
    await asyncio.sleep(0.001)
    if x % 7 == 3:
        raise ValueError(f'no {x}')
    return x * 2 if x != 5 else 'five'";

#[tokio::test]
async fn an_error_has_its_class_its_line_and_its_traceback() {
    let manager = manager();
    let sevens = |x: usize| x % 7 == 3 || x == 5;
    let line = "ValueError: no 3 (line 6: raise ValueError(f'no {x}'))";
    for case in [rows(SEVENS, 8), ordered(SEVENS, 8)] {
        let pool = case.pool(&manager, 1);
        let error = run_whole(&pool, counting(4)).await.unwrap_err();
        assert_eq!(error.to_string(), format!("function \"f\" failed: {line}"));
        let traceback = error.traceback().unwrap();
        assert!(traceback.contains("line 6, in f"), "{traceback}");
        assert!(!traceback.contains("mobula"), "{traceback}");
    }
    for on_error in [OnError::Null, OnError::Drop, OnError::DeadLetter] {
        let pool = rows(SEVENS, 8).on_error(on_error).pool(&manager, 1);
        let (found, failed) = gathered(&pool, counting(30)).await.unwrap();
        let places: Vec<_> = failed.iter().map(|(row, _)| *row).collect();
        assert_eq!(places, (0..30).filter(|x| sevens(*x)).collect::<Vec<_>>());
        for (x, value) in found.into_iter().enumerate() {
            assert_eq!(value, (!sevens(x)).then_some(2 * x as i64), "row {x}");
        }
        if on_error == OnError::DeadLetter {
            assert_eq!(failed[0].1, line);
            assert!(
                failed[1].1.starts_with("function \"f\" returned")
                    || failed[1].1.contains("BIGINT")
                    || failed[1].1.contains("int64"),
                "{}",
                failed[1].1
            );
        }
    }
    // As many as may fail, and one more.
    let mut case = rows(SEVENS, 1).on_error(OnError::Null);
    case.max_errors = Some(2);
    let error = gathered(&case.pool(&manager, 1), counting(30))
        .await
        .unwrap_err();
    assert!(matches!(error, UdfError::TooManyErrors { .. }), "{error}");
    manager.shutdown().await;
}

#[tokio::test]
async fn a_call_that_raises_what_was_named_is_made_again_after_a_while() {
    let body = "
import collections, time
first, seen = {}, collections.Counter()
class Busy(Exception):
    retry_after = 0.3
async def f(x):
    seen[x] += 1
    if x % 3 == 0 and seen[x] < 3:
        first.setdefault(x, time.monotonic())
        raise Busy(x)
    return int(1000 * (time.monotonic() - first[x])) if x in first else -1";
    let manager = manager();
    let mut case = rows(body, 16);
    case.handling.retry_exceptions = vec!["Busy".into()];
    let pool = case.pool(&manager, 1);
    let (waited, _) = gathered(&pool, counting(7)).await.unwrap();
    for (x, ms) in waited.into_iter().enumerate() {
        match x % 3 {
            0 => assert!(ms.unwrap() >= 600, "row {x}: {ms:?}"),
            _ => assert_eq!(ms, Some(-1)),
        }
    }
    assert_eq!(pool.stats().retries, 6);
    case.handling.max_retries = 1;
    let error = gathered(&case.pool(&manager, 1), counting(1))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("Busy: 0") && text.contains("given up after 2 calls"),
        "{text}"
    );
    manager.shutdown().await;
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_an_error_of_its_row() {
    let body = "
import asyncio
tries = 0
async def f(x):
    global tries
    if x == 2:
        tries += 1
        await asyncio.sleep(0 if tries > 2 else 60)
    return x * 2";
    let manager = manager();
    let limit = Duration::from_millis(200);
    let pool = timed(&rows(body, 4), &manager, limit);
    let error = gathered(&pool, counting(4)).await.unwrap_err().to_string();
    let line = "TimeoutError: no result within 0.2 s (line 8: await asyncio.sleep(0 if tries > 2 else 60))";
    assert_eq!(error, format!("function \"f\" failed: {line}"));
    drop(pool);
    let pool = timed(
        &rows(body, 4).on_error(OnError::DeadLetter),
        &manager,
        limit,
    );
    let (found, failed) = gathered(&pool, counting(4)).await.unwrap();
    assert_eq!(found, [Some(0), Some(2), None, Some(6)]);
    assert_eq!(failed, [(2, line.to_owned())]);
    drop(pool);
    let mut again = rows(body, 4);
    again.handling.retry_exceptions = vec!["TimeoutError".into()];
    let pool = timed(&again, &manager, limit);
    assert_eq!(gathered(&pool, counting(4)).await.unwrap().0, doubled(4));
    assert_eq!(pool.stats().retries, 2);
    manager.shutdown().await;
}

#[tokio::test]
async fn a_loop_that_stands_still_is_ended_and_long_waits_are_not() {
    let body = "
import asyncio, time
async def f(x):
    await asyncio.sleep(0.01)
    if x == 2:
        time.sleep(60)
    return x * 2";
    let manager = manager();
    let limit = Duration::from_millis(400);
    let pool = timed(&rows(body, 2), &manager, limit);
    let error = gathered(&pool, counting(4)).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, UdfError::TimedOut { .. }), "{text}");
    assert!(
        text.contains("time.sleep(60)") || text.contains("line 6"),
        "{text}"
    );
    drop(pool);
    // The one row, whatever was beside it.
    let pool = timed(&rows(body, 2).on_error(OnError::Null), &manager, limit);
    let (found, failed) = gathered(&pool, counting(4)).await.unwrap();
    assert_eq!(found, [Some(0), Some(2), None, Some(6)]);
    assert_eq!(failed.len(), 1);
    drop(pool);
    // Many that wait for each other's places take longer than one may.
    let pool = timed(&rows(DOUBLE, 1), &manager, Duration::from_millis(500));
    assert_eq!(gathered(&pool, counting(60)).await.unwrap().0, doubled(60));
    manager.shutdown().await;
}

#[tokio::test]
async fn what_a_lost_worker_had_not_answered_goes_again() {
    let body = "
import asyncio, os
async def f(x):
    await asyncio.sleep(0.2 if x == 3 else 0.001)
    mark = MARK
    if x == 3 and not os.path.exists(mark):
        open(mark, 'w').close()
        os._exit(7)
    return x * 2 if x != 4 else os.getpid()";
    let scratch = tempfile::tempdir().unwrap();
    let mark = format!("{:?}", scratch.path().join("died").to_str().unwrap());
    let manager = manager();
    let pool = rows(&body.replace("MARK", &mark), 8).pool(&manager, 1);
    let (first, second) = tokio::join!(
        gathered(&pool, counting(40)),
        gathered(&pool, ints((40..60).map(Some)))
    );
    let (first, second) = (first.unwrap().0, second.unwrap().0);
    // Answered before its worker died, and not asked again.
    let pid = u32::try_from(first[4].unwrap()).unwrap();
    gone(pid).await;
    assert_eq!(first[5..], doubled(40)[5..]);
    assert_eq!(second, (40..60).map(|x| Some(2 * x)).collect::<Vec<_>>());
    assert_eq!(pool.stats().workers_started, 2);
    manager.shutdown().await;
}

#[tokio::test]
async fn a_row_that_ends_every_worker_is_found_among_many() {
    let body = "
import asyncio, os
async def f(x):
    await asyncio.sleep(0.01)
    if x == 13:
        os._exit(7)
    return x * 2";
    let manager = manager();
    for case in [rows(body, 8), ordered(body, 8)] {
        let error = run_whole(&case.pool(&manager, 1), counting(20)).await;
        let error = error.unwrap_err();
        assert!(matches!(error, UdfError::WorkerLost { .. }), "{error}");
    }
    let pool = rows(body, 8)
        .on_error(OnError::DeadLetter)
        .pool(&manager, 2);
    let blocks = (0..3).map(|at| ints((at * 10..at * 10 + 10).map(Some)));
    let blocks = join_all(blocks.map(|block| gathered(&pool, block))).await;
    for (at, block) in blocks.into_iter().enumerate() {
        let (found, failed) = block.unwrap();
        let failed: Vec<_> = failed.into_iter().map(|(row, _)| row).collect();
        assert_eq!(failed, if at == 1 { vec![3] } else { vec![] });
        for (row, value) in found.into_iter().enumerate() {
            let x = 10 * at + row;
            assert_eq!(value, (x != 13).then_some(2 * x as i64));
        }
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn who_goes_takes_its_calls_along_and_the_others_stay() {
    let body = "
import asyncio
ended = 0
async def f(x):
    global ended
    if x == 1000:
        return ended
    try:
        await asyncio.sleep(0 if x >= 0 else 60)
    finally:
        ended += x < 0
    return x * 2";
    let manager = manager();
    let pool = rows(body, 4).pool(&manager, 1);
    let hang = pool
        .call(ints([Some(-1), Some(-2), Some(3)]))
        .await
        .unwrap();
    assert_eq!(gathered(&pool, counting(9)).await.unwrap().0, doubled(9));
    let pid = only_pid(&manager);
    drop(hang);
    let since = Instant::now();
    while gathered(&pool, ints([Some(1000)])).await.unwrap().0 != [Some(2)] {
        assert!(since.elapsed() < PATIENCE, "they go on");
    }
    assert_eq!(only_pid(&manager), pid);
    // A pool that goes with all that is in flight.
    let hang = pool.call(ints([Some(-1)])).await.unwrap();
    assert_eq!(gathered(&pool, counting(1)).await.unwrap().0, [Some(0)]);
    drop((hang, pool));
    gone(pid).await;
    assert_eq!(manager.workers().len(), 0);
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
