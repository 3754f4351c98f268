//! Actors that die, which are built anew and asked once more, and classes that
//! cannot be built.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::DataType;
use futures::future::join_all;
use mobula_udfs::{
    CallMode, FailedRow, Handling, Literal, OnError, UdfError, UdfErrorClass, WorkerManager,
    WorkerSettings,
};
use tempfile::TempDir;

use crate::bench::*;

/// Counts what it has seen, and dies once, at the first block with a 50.
const DIES_ONCE: &str = "
import os, signal
class f:
    def __init__(self):
        with open(DIR + '/built', 'a') as built:
            built.write(f'{os.getpid()}\\n')
        self.seen = 0
    def __call__(self, x):
        self.seen += 1
        if 50 in x:
            try:
                os.mkdir(DIR + '/died')
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
        return x * 1000 + self.seen";
/// Dies of every 5.
const DIES_OF_FIVE: &str = "
import ctypes
class f:
    def __call__(self, x):
        if x == 5:
            ctypes.string_at(0)
        return x * 2";
/// The same on a batch.
const DIES_OF_A_FIVE: &str = "
import ctypes
class f:
    def __call__(self, x):
        if 5 in x:
            ctypes.string_at(0)
        return x * 2";

/// A directory for what workers leave.
struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// `body` with this directory as `DIR`.
    fn body(&self, body: &str) -> String {
        body.replace("DIR", &format!("{:?}", self.0.path().display().to_string()))
    }

    /// Pids of the actors that were built.
    fn built(&self) -> Vec<String> {
        let built = std::fs::read_to_string(self.0.path().join("built")).unwrap();
        built.lines().map(str::to_owned).collect()
    }
}

fn places(failed: &[FailedRow]) -> Vec<usize> {
    failed.iter().map(|failed| failed.row).collect()
}

/// `x * 2` of `0..9` without row 5.
fn without_five() -> Vec<Option<i64>> {
    (0..9).map(|x| (x != 5).then_some(x * 2)).collect()
}

#[tokio::test]
async fn an_actor_that_dies_is_built_anew_and_gets_its_block_again() {
    let scratch = Scratch::new();
    let manager = manager();
    let case = Case::ints("f", &scratch.body(DIES_ONCE)).class();
    let pool = case.pool(&manager, 1);
    for (x, seen) in [(1, 1), (2, 2), (50, 1), (3, 2)] {
        let out = run(&pool, ints([Some(x)])).await.unwrap();
        // What the first one had seen is gone.
        assert_eq!(values(&out), [Some(x * 1000 + seen)]);
    }
    let stats = pool.stats();
    assert_eq!((stats.calls, stats.retries), (4, 1));
    assert_eq!(stats.workers_started, 2);
    let built = scratch.built();
    assert_eq!(built.len(), 2);
    assert_ne!(built[0], built[1]);
    assert_eq!(built[1], last_pid(&manager).await.to_string());
    manager.shutdown().await;
}

#[tokio::test]
async fn blocks_on_their_way_to_a_lost_actor_keep_their_order() {
    let scratch = Scratch::new();
    let manager = manager();
    let case = Case::ints("f", &scratch.body(DIES_ONCE)).class();
    let pool = case.pool(&manager, 1);
    let calls = (0..150).map(|x| {
        let pool = Arc::clone(&pool);
        async move { values(&run(&pool, ints([Some(x)])).await.unwrap())[0].unwrap() }
    });
    for (x, found) in (0..).zip(join_all(calls).await) {
        let seen = if x < 50 { x + 1 } else { x - 49 };
        assert_eq!(found, x * 1000 + seen);
    }
    let stats = pool.stats();
    assert_eq!((stats.calls, stats.retries), (150, 1));
    assert_eq!(stats.workers_started, 2);
    assert!(stats.blocks_ahead > 10, "{stats:?}");
    manager.shutdown().await;
}

#[tokio::test]
async fn pools_that_may_grow_go_on_with_another() {
    for (least, most, max_workers) in [(1, 3, 4), (2, 3, 4), (3, 3, 2), (1, 2, 1)] {
        let scratch = Scratch::new();
        let manager = WorkerManager::new(WorkerSettings {
            max_workers,
            ..settings()
        });
        let mut case = Case::ints("f", &scratch.body(DIES_ONCE)).class();
        case.handling = Handling {
            min_workers: Some(least),
            ..Handling::default()
        };
        let pool = case.pool(&manager, most);
        let calls = (0..100).map(|x| {
            let pool = Arc::clone(&pool);
            async move { values(&run(&pool, ints([Some(x)])).await.unwrap())[0].unwrap() / 1000 }
        });
        let found = join_all(calls).await;
        assert!(found.into_iter().eq(0..100), "{least}..{most}");
        assert_eq!(pool.stats().retries, 1);
        at_most(max_workers, &manager).await;
        manager.shutdown().await;
    }
}

#[tokio::test]
async fn calls_that_lose_their_only_actors_keep_their_first_places() {
    let manager = WorkerManager::new(WorkerSettings {
        max_workers: 1,
        init_timeout: Duration::from_secs(20),
        ..settings()
    });
    let scratches: Vec<_> = (0..3).map(|_| Scratch::new()).collect();
    let queries = scratches.iter().map(|scratch| {
        let case = Case::ints("f", &scratch.body(DIES_ONCE)).class();
        // Each would like more than there is.
        let pool = case.pool(&manager, 2);
        async move {
            let calls = (45..55).map(|x| run(&pool, ints([Some(x)])));
            for (x, out) in (45..).zip(join_all(calls).await) {
                assert_eq!(values(&out.unwrap())[0].unwrap() / 1000, x);
            }
            assert_eq!(pool.stats().retries, 1);
        }
    });
    join_all(queries).await;
    manager.shutdown().await;
}

#[tokio::test]
async fn a_row_that_ends_two_actors_is_the_users_error() {
    let case = Case::ints("f", DIES_OF_FIVE).class().by_row(CallMode::Map);
    let manager = manager();
    let pool = case.pool(&manager, 1);
    let error = run(&pool, counting(9)).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, UdfError::WorkerLost { .. }), "{error:?}");
    let expected = "SIGSEGV (line 6: ctypes.string_at(0))";
    assert!(text.ends_with(expected), "{text}");
    let stats = pool.stats();
    assert_eq!((stats.retries, stats.workers_started), (1, 2));
    // The pool is as good as before.
    let out = run(&pool, counting(3)).await.unwrap();
    assert_eq!(values(&out), [Some(0), Some(2), Some(4)]);
    for on_error in [OnError::Drop, OnError::DeadLetter] {
        let pool = case.clone().on_error(on_error).pool(&manager, 1);
        let (out, failed) = run_whole(&pool, counting(9)).await.unwrap();
        assert_eq!(places(&failed), [5]);
        assert_eq!(values(&out), without_five());
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn a_batch_that_ends_actors_is_cut_if_they_are_immutable() {
    let case = Case::ints("f", DIES_OF_A_FIVE).class();
    let manager = manager();
    let immutable = case.clone().immutable().on_error(OnError::DeadLetter);
    let pool = immutable.pool(&manager, 1);
    let (out, failed) = run_whole(&pool, counting(9)).await.unwrap();
    assert_eq!(places(&failed), [5]);
    let reason = failed[0].reason.as_ref().unwrap();
    assert_eq!(reason.error_type, "WorkerLost");
    assert_eq!(values(&out), without_five());
    // Who may say something else the next time is not asked about a part.
    let other = case.on_error(OnError::Drop).pool(&manager, 1);
    let (out, failed) = run_whole(&other, counting(9)).await.unwrap();
    assert_eq!(places(&failed), (0..9).collect::<Vec<_>>());
    assert_eq!(out.column(0).null_count(), 9);
    assert_eq!(values(&run(&other, counting(3)).await.unwrap()).len(), 3);
    manager.shutdown().await;
}

#[tokio::test]
async fn an_exception_of_an_immutable_actor_is_bisected() {
    let body = "
class f:
    def __call__(self, x):
        if 5 in x:
            raise ValueError('five')
        return x * 2";
    let case = Case::ints("f", body).class().on_error(OnError::Drop);
    let manager = manager();
    for (case, lost) in [
        (case.clone().immutable(), vec![5]),
        (case, (0..9).collect()),
    ] {
        let pool = case.pool(&manager, 1);
        let (_, failed) = run_whole(&pool, counting(9)).await.unwrap();
        assert_eq!(places(&failed), lost);
        assert_eq!(pool.stats().workers_started, 1);
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn rows_that_were_read_are_not_made_again() {
    let body = "
import os
class f:
    def __call__(self, rows):
        yield {'y': [1]}
        os._exit(3)";
    let manager = manager();
    let case = Case::table("f", &[("y", DataType::Int64)], body).class();
    let pool = case.pool(&manager, 1);
    let mut stream = pool.call(counting(1)).await.unwrap();
    let first = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(values(&first), [Some(1)]);
    let error = next(&mut stream).await.unwrap().unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::Lost);
    let stats = pool.stats();
    assert_eq!((stats.retries, stats.workers_started), (0, 1));
    manager.shutdown().await;
}

#[tokio::test]
async fn a_block_that_ran_out_of_time_is_not_sent_again() {
    let body = "
import time
class f:
    def __call__(self, x):
        if 5 in x:
            time.sleep(600)
        return x * 2";
    let manager = WorkerManager::new(WorkerSettings {
        call_timeout: Some(Duration::from_millis(500)),
        ..settings()
    });
    let pool = Case::ints("f", body).class().pool(&manager, 1);
    let error = run(&pool, counting(9)).await.unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::Timeout);
    let stats = pool.stats();
    assert_eq!((stats.retries, stats.workers_started), (0, 1));
    assert_eq!(values(&run(&pool, counting(2)).await.unwrap()).len(), 2);
    manager.shutdown().await;
}

/// Cannot be built before it was tried so often.
const BUILT_LATE: &str = "
import os, signal
class f:
    def __init__(self, fails, dies=False):
        with open(DIR + '/built', 'a') as built:
            built.write(f'{os.getpid()}\\n')
        with open(DIR + '/built') as built:
            tries = len(built.readlines())
        if tries <= fails:
            if dies: os._exit(7)
            raise ConnectionError(f'try {tries}')
    def __call__(self, x):
        return x * 2";

#[tokio::test]
async fn a_class_that_cannot_be_built_is_tried_again() {
    for dies in [false, true] {
        for fails in [1, 2] {
            let scratch = Scratch::new();
            let manager = manager();
            let case = Case::ints("f", &scratch.body(BUILT_LATE)).class();
            let case = case.arg("fails", Literal::Int(fails));
            let pool = case.arg("dies", Literal::Bool(dies)).pool(&manager, 1);
            let out = run(&pool, counting(3)).await.unwrap();
            assert_eq!(values(&out), [Some(0), Some(2), Some(4)]);
            let mut built = scratch.built();
            assert_eq!(built.last(), Some(&last_pid(&manager).await.to_string()));
            built.dedup();
            assert_eq!(built.len(), fails as usize + 1);
            // No block has been sent again.
            assert_eq!(pool.stats().retries, 0);
            manager.shutdown().await;
        }
    }
}

#[tokio::test]
async fn a_class_that_cannot_be_built_three_times_fails_the_query() {
    let scratch = Scratch::new();
    let manager = manager();
    let case = Case::ints("f", &scratch.body(BUILT_LATE)).class();
    let case = case.arg("fails", Literal::Int(9));
    // Not a row's fault.
    let raises = case.clone().by_row(CallMode::Map).on_error(OnError::Drop);
    let error = run(&raises.pool(&manager, 1), counting(3))
        .await
        .unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::User);
    assert_eq!(
        error.to_string(),
        "function \"f\" failed: ConnectionError: try 3 (line 11: raise ConnectionError(f'try {tries}')). \
         It was tried 3 times in a row"
    );
    let traceback = error.traceback().unwrap();
    assert!(traceback.contains("line 11, in __init__"), "{traceback}");
    assert_eq!(scratch.built().len(), 3);

    let dies = case.arg("dies", Literal::Bool(true));
    let dies = dies.immutable().on_error(OnError::Drop);
    let error = run(&dies.pool(&manager, 1), counting(3)).await.unwrap_err();
    let UdfError::WorkerLost { pid, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(
        error.to_string(),
        format!(
            "function \"f\" lost its worker (pid {pid}): exit code 7. It was tried 3 times in a row"
        )
    );
    assert_eq!(scratch.built().len(), 6);
    gone(pid).await;
    manager.shutdown().await;
}

#[tokio::test]
async fn a_class_that_is_wrong_is_not_tried_again() {
    let manager = manager();
    let pool = Case::ints("f", "class f: pass").class().pool(&manager, 1);
    let error = run(&pool, counting(1)).await.unwrap_err();
    assert!(matches!(error, UdfError::Refused(_)), "{error:?}");
    assert!(!error.to_string().contains("times in a row"), "{error}");
    assert_eq!(pool.stats().workers_started, 1);
    // A def is no class: what its body raises is told at once.
    let pool = Case::ints("f", "1 / 0\ndef f(x): return x").pool(&manager, 1);
    let error = run(&pool, counting(1)).await.unwrap_err();
    assert!(error.to_string().ends_with("(line 1: 1 / 0)"), "{error}");
    manager.shutdown().await;
}

#[tokio::test]
async fn a_call_may_bound_its_own_start() {
    let body = "
import time
class f:
    def __init__(self, seconds):
        time.sleep(seconds)
    def __call__(self, x):
        return x * 2";
    let bounded = |seconds: f64, limit: Option<Duration>| {
        let mut case = Case::ints("f", body).class();
        case.handling.init_timeout = limit;
        case.arg("seconds", Literal::Float(seconds))
    };
    let manager = WorkerManager::new(WorkerSettings {
        init_timeout: Duration::from_millis(1500),
        ..settings()
    });
    for (limit, says) in [(None, "1.5s"), (Some(Duration::from_secs(1)), "1s")] {
        let pool = bounded(600.0, limit).pool(&manager, 1);
        let error = run(&pool, counting(1)).await.unwrap_err();
        assert_eq!(error.class(), UdfErrorClass::Timeout);
        let setting = limit.map_or("udf_init_timeout", |_| "init_timeout");
        let text = error.to_string();
        let start = format!("function \"f\" did not start within {says} (line 5: ");
        assert!(text.starts_with(&start), "{text}");
        let end = format!("Raise `{setting}` if that is too short");
        assert!(text.ends_with(&end), "{text}");
        // Who runs out of time is not tried again.
        assert_eq!(pool.stats().workers_started, 1);
    }
    let pool = bounded(2.0, Some(PATIENCE)).pool(&manager, 1);
    assert_eq!(values(&run(&pool, counting(1)).await.unwrap()), [Some(0)]);
    manager.shutdown().await;
}
