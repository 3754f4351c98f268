//! Blocks that are sent while their worker is still at work on another.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::DataType;
use futures::future::join_all;
use mobula_udfs::{UdfError, UdfErrorClass, UdfPool};

use crate::bench::*;

/// One call for each value, all at once and in their order.
async fn one_by_one(
    pool: &Arc<dyn UdfPool>,
    values: std::ops::Range<i64>,
) -> Vec<Result<Vec<Option<i64>>, UdfError>> {
    let calls = values.map(|x| async move {
        let out = run(pool, ints([Some(x)])).await?;
        Ok(crate::bench::values(&out))
    });
    join_all(calls).await
}

#[tokio::test]
async fn an_actor_sees_blocks_in_their_order() {
    let manager = manager();
    let body = "
class f:
    def __init__(self):
        self.seen = 0
    def __call__(self, x):
        self.seen += 1
        return x * 1000 + self.seen";
    let pool = Case::ints("f", body).class().pool(&manager, 1);
    let found = one_by_one(&pool, 0..200).await;
    for (x, found) in (0..).zip(found) {
        assert_eq!(found.unwrap(), [Some(x * 1000 + x + 1)]);
    }
    let stats = pool.stats();
    assert_eq!((stats.calls, stats.workers_started), (200, 1));
    assert!(stats.blocks_ahead > 10, "{stats:?}");
    manager.shutdown().await;
}

#[tokio::test]
async fn slow_blocks_wait_for_the_first_worker_that_comes_free() {
    let manager = manager();
    let body = "\nimport time\ndef f(x):\n    time.sleep(0.03)\n    return x";
    let pool = Case::ints("f", body).pool(&manager, 2);
    for found in one_by_one(&pool, 0..20).await {
        found.unwrap();
    }
    assert_eq!(pool.stats().blocks_ahead, 0);
    manager.shutdown().await;
}

#[tokio::test]
async fn an_error_of_one_block_is_not_that_of_the_next() {
    let manager = manager();
    let body = "\ndef f(x):\n    if x[0] % 10 == 3: raise ValueError(x[0])\n    return x";
    let pool = Case::ints("f", body).pool(&manager, 1);
    for (x, found) in (0..).zip(one_by_one(&pool, 0..100).await) {
        match (x % 10, found) {
            (3, found) => {
                let error = found.unwrap_err();
                assert!(
                    error.to_string().contains(&format!("ValueError: {x}")),
                    "{error}"
                );
            }
            (_, found) => assert_eq!(found.unwrap(), [Some(x)]),
        }
    }
    let stats = pool.stats();
    assert_eq!(stats.workers_started, 1);
    assert!(stats.blocks_ahead > 10, "{stats:?}");
    manager.shutdown().await;
}

#[tokio::test]
async fn who_follows_a_block_that_ends_workers_is_sent_again() {
    let manager = manager();
    let body = "\nimport os\ndef f(x):\n    if x[0] == 50: os._exit(3)\n    return x";
    let pool = Case::ints("f", body).pool(&manager, 1);
    for (x, found) in (0..).zip(one_by_one(&pool, 0..100).await) {
        match (x, found) {
            (50, found) => assert_eq!(found.unwrap_err().class(), UdfErrorClass::Lost),
            (_, found) => assert_eq!(found.unwrap(), [Some(x)]),
        }
    }
    let stats = pool.stats();
    // The first, one for the second try, one after that.
    assert_eq!((stats.calls, stats.workers_started), (100, 3));
    manager.shutdown().await;
}

/// How many of 100 calls gave 1 rather than 0.
async fn ones_of_100(pool: &Arc<dyn UdfPool>) -> i64 {
    let found = one_by_one(pool, 0..100).await;
    found
        .into_iter()
        .map(|found| found.unwrap()[0].unwrap())
        .sum()
}

/// Until more than ten of 100 calls give 1: where other work holds up the worker, nothing is sent ahead
/// for a while, nor an answer left to others.
async fn often_one_of_100(pool: &Arc<dyn UdfPool>) {
    let mut seen = vec![];
    while seen.last().is_none_or(|ones| *ones <= 10) {
        assert!(seen.len() < 20, "{seen:?} of 100");
        seen.push(ones_of_100(pool).await);
    }
}

/// Long enough that the worker reads ahead, too short to be sent no block ahead.
const NAP: &str = "time.sleep(0.004)";

#[tokio::test]
async fn the_next_block_is_prepared_while_user_code_waits() {
    let manager = manager();
    let body = "
import gc, time
def is_prepared():
    frames = [each for each in gc.get_objects() if type(each).__name__ == 'Frame']
    return any(frame.made is not None for frame in frames)
def f(x):
    until = time.monotonic() + 0.015
    time.sleep(0.004)
    while not (found := is_prepared()) and time.monotonic() < until:
        time.sleep(0.001)
    return x * 0 + int(found)";
    let pool = Case::ints("f", body).pool(&manager, 1);
    often_one_of_100(&pool).await;
    manager.shutdown().await;
}

#[tokio::test]
async fn answers_are_sent_while_user_code_waits() {
    let manager = manager();
    let body = format!(
        "
import gc, os, time
channels = [each for each in gc.get_objects() if type(each).__name__ == 'Channel']
channel = next(each for each in channels if each.pid == os.getpid())
def f(x):
    is_deferred = bool(channel.deferred)
    {NAP}
    return x * 0 + int(is_deferred and not channel.deferred)"
    );
    let pool = Case::ints("f", &body).pool(&manager, 1);
    often_one_of_100(&pool).await;
    manager.shutdown().await;
}

#[tokio::test]
async fn a_block_that_ends_workers_at_once_takes_no_other_with_it() {
    let manager = manager();
    for (fatal, class) in [
        ("os._exit(3)", UdfErrorClass::Lost),
        // Keeps the interpreter, so that the answer before it is held back.
        (
            "ctypes.PyDLL(None).usleep(20_000_000)",
            UdfErrorClass::Timeout,
        ),
    ] {
        let body = format!(
            "\nimport ctypes, os, time\ndef f(x):\n    if x[0] == 50: {fatal}\n    {NAP}\n    return x"
        );
        let mut call = Case::ints("f", &body).call();
        Arc::get_mut(&mut call).unwrap().timeout = Some(Duration::from_secs(1));
        let pool = manager.open_pool(call, 1).unwrap();
        for (x, found) in (0..).zip(one_by_one(&pool, 0..100).await) {
            match (x, found) {
                (50, found) => assert_eq!(found.unwrap_err().class(), class),
                (_, found) => assert_eq!(found.unwrap(), [Some(x)], "{fatal}"),
            }
        }
        // The block and the one before it may be sent once more each.
        assert!(pool.stats().retries <= 2, "{:?}", pool.stats());
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn what_is_prepared_is_user_codes_alone() {
    let manager = manager();
    let body = format!("\nimport time\ndef f(x):\n    {NAP}\n    x += 1\n    return x");
    let mut case = Case::ints("f", &body);
    case.handling.zero_copy_batch = false;
    let pool = case.pool(&manager, 1);
    for (x, found) in (0..).zip(one_by_one(&pool, 0..100).await) {
        assert_eq!(found.unwrap(), [Some(x + 1)]);
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn errors_and_ends_of_workers_are_those_of_their_blocks_where_the_next_is_prepared() {
    let manager = manager();
    let body = format!(
        "\nimport os, time\ndef f(x):\n    {NAP}\n    if x[0] == 50: os._exit(3)\n    if x[0] % 10 == 3: raise ValueError(x[0])\n    return x"
    );
    let pool = Case::ints("f", &body).pool(&manager, 1);
    for (x, found) in (0..).zip(one_by_one(&pool, 0..100).await) {
        match found {
            Ok(found) => assert_eq!(found, [Some(x)]),
            Err(error) if x == 50 => assert_eq!(error.class(), UdfErrorClass::Lost),
            Err(error) => {
                assert_eq!(x % 10, 3, "{error}");
                assert!(
                    error.to_string().contains(&format!("ValueError: {x}")),
                    "{error}"
                );
            }
        }
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn user_code_may_fork_where_the_next_block_is_prepared() {
    let manager = manager();
    let body = format!(
        "\nimport os, time\ndef f(x):\n    child = os.fork()\n    if not child: os._exit(0)\n    {NAP}\n    os.waitpid(child, 0)\n    return x"
    );
    let pool = Case::ints("f", &body).pool(&manager, 1);
    for (x, found) in (0..).zip(one_by_one(&pool, 0..100).await) {
        assert_eq!(found.unwrap(), [Some(x)]);
    }
    assert_eq!(pool.stats().workers_started, 1);
    manager.shutdown().await;
}

#[tokio::test]
async fn a_child_of_user_code_may_fork_where_the_next_block_is_prepared() {
    let manager = manager();
    let body = format!(
        "\nimport os, time\ndef f(x):\n    child = os.fork()\n    if not child:\n        os.fork()\n        os._exit(0)\n    {NAP}\n    os.waitpid(child, 0)\n    return x"
    );
    let pool = Case::ints("f", &body).pool(&manager, 1);
    for (x, found) in (0..).zip(one_by_one(&pool, 0..20).await) {
        assert_eq!(found.unwrap(), [Some(x)]);
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn a_call_that_is_dropped_on_its_way_takes_nobody_along() {
    let manager = manager();
    let body = "\nimport time\ndef f(x):\n    if x[0] < 0: time.sleep(0.5)\n    return x";
    let pool = Case::ints("f", body).pool(&manager, 1);
    for found in one_by_one(&pool, 0..20).await {
        found.unwrap();
    }
    let slow = run(&pool, ints([Some(-1)]));
    let rest = async {
        worker_in(&manager, "busy").await;
        let behind = run(&pool, ints([Some(1)]));
        let third = run(&pool, ints([Some(2)]));
        let dropped = tokio::time::timeout(Duration::from_millis(100), behind).await;
        assert!(dropped.is_err(), "{dropped:?}");
        third.await
    };
    let (slow, third) = tokio::join!(slow, rest);
    assert_eq!(values(&slow.unwrap()), [Some(-1)]);
    assert_eq!(values(&third.unwrap()), [Some(2)]);
    manager.shutdown().await;
}

#[tokio::test]
async fn large_outputs_and_large_blocks_on_their_way_share_the_socket() {
    let body = "
def f(rows):
    for part in range(6):
        yield {'y': rows['x'] + part}";
    for shared_memory in [true, false] {
        let manager = mobula_udfs::WorkerManager::new(mobula_udfs::WorkerSettings {
            shared_memory,
            ..settings()
        });
        let pool = Case::table("f", &[("y", DataType::Int64)], body).pool(&manager, 1);
        let rows = 100_000;
        let calls = (0..30).map(|_| run(&pool, counting(rows)));
        for out in join_all(calls).await {
            let out = values(&out.unwrap());
            let expected = (0..6).flat_map(|part| (0..rows).map(move |x| Some(x + part)));
            assert!(out.into_iter().eq(expected));
        }
        manager.shutdown().await;
    }
}
