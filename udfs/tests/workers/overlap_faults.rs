//! Async functions that fail, hang, die or are left: what becomes of their rows and of
//! the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use mobula_udfs::{OnError, UdfCall, UdfError, UdfPool, WorkerManager};

use crate::bench::*;
use crate::overlap::{DOUBLE, doubled, gathered, ordered, rows};

/// A pool whose calls may take so long each.
fn timed(case: &Case, manager: &Arc<WorkerManager>, limit: Duration) -> Arc<dyn UdfPool> {
    let call = UdfCall {
        timeout: Some(limit),
        ..case.call().as_ref().clone()
    };
    manager.open_pool(Arc::new(call), 1).unwrap()
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
    let limit = Duration::from_secs(1);
    let pool = timed(&rows(body, 4), &manager, limit);
    let error = gathered(&pool, counting(4)).await.unwrap_err().to_string();
    let line =
        "TimeoutError: no result within 1 s (line 8: await asyncio.sleep(0 if tries > 2 else 60))";
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
async fn a_call_that_catches_its_cancellation_is_left() {
    let body = "
import asyncio
async def f(x):
    while x == 2:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
    try:
        await asyncio.sleep(60 if x == 1 else 0)
    except asyncio.CancelledError:
        return -1
    return x * 2";
    let manager = manager();
    let case = rows(body, 2).on_error(OnError::DeadLetter);
    let pool = timed(&case, &manager, Duration::from_millis(200));
    let (found, failed) = gathered(&pool, counting(9)).await.unwrap();
    // What one makes of its cancellation at once is its result.
    let mut wanted: Vec<_> = (0..9).map(|x| Some(x * 2)).collect();
    (wanted[1], wanted[2]) = (Some(-1), None);
    assert_eq!(found, wanted);
    let text = "TimeoutError: no result within 0.2 s, and it goes on: it catches its cancellation";
    assert_eq!(failed, [(2, text.to_owned())]);
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
    let since = Instant::now();
    while !manager.workers().is_empty() {
        assert!(since.elapsed() < PATIENCE, "it stays listed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    manager.shutdown().await;
}
