//! Who gets a worker when more are wanted than there may be: nobody waits for
//! somebody who waits for him.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::DataType;
use futures::StreamExt;
use futures::future::join_all;
use mobula_udfs::{UdfError, UdfErrorClass, UdfPool, WorkerManager, WorkerSettings};

use crate::bench::*;

const ACTOR: &str = "
import time
class k:
    def __call__(self, x):
        time.sleep(0.02)
        return x + 1";

/// Its second output stays in the socket until somebody reads the first ones.
const TABLE: &str = "
def t(rows):
    for i in range(20):
        yield {'y': [i] * 200_000}";

fn manager_of(max_workers: usize) -> Arc<WorkerManager> {
    WorkerManager::new(WorkerSettings {
        max_workers,
        init_timeout: Duration::from_secs(20),
        ..settings()
    })
}

fn def() -> Case {
    Case::ints("a", "def a(x): return x * 2")
}

async fn all_of(pool: &Arc<dyn UdfPool>, calls: i64) {
    let calls = (0..calls).map(|n| async move {
        let out = run(pool, ints([Some(n)])).await.unwrap();
        assert_eq!(values(&out), [Some(n + 1)]);
    });
    join_all(calls).await;
}

#[tokio::test]
async fn a_pool_goes_on_with_the_actors_it_got() {
    let manager = manager_of(2);
    let pool = Case::ints("k", ACTOR).class().pool(&manager, 5);
    all_of(&pool, 30).await;
    assert_eq!(manager.workers().len(), 2);
    assert_eq!(pool.stats().workers_started, 2);
    manager.shutdown().await;
}

#[tokio::test]
async fn a_pool_that_lost_its_actors_gets_another() {
    let manager = manager_of(1);
    let body = "
import os
class k:
    def __call__(self, x):
        if x[0] < 0: os._exit(3)
        return x + 1";
    let pool = Case::ints("k", body).class().pool(&manager, 3);
    let killer = async {
        let lost = run(&pool, ints([Some(-1)])).await.unwrap_err();
        assert!(matches!(lost, UdfError::WorkerLost { .. }), "{lost:?}");
    };
    // In line while the only actor ends.
    tokio::join!(killer, all_of(&pool, 6));
    manager.shutdown().await;
}

#[tokio::test]
async fn a_def_below_actors_that_have_all_places_still_runs() {
    let manager = manager_of(2);
    let actors = Case::ints("k", ACTOR).class().pool(&manager, 2);
    all_of(&actors, 8).await;
    let defs = [def().pool(&manager, 2), def().pool(&manager, 2)];
    for _ in 0..5 {
        let calls = defs.iter().map(|pool| run(pool, counting(3)));
        for out in join_all(calls).await {
            assert_eq!(values(&out.unwrap()), [Some(0), Some(2), Some(4)]);
        }
    }
    // One place is enough for all defs; a worker that has to go takes a moment.
    at_most(3, &manager).await;
    manager.shutdown().await;
}

#[tokio::test]
async fn chains_of_calls_run_at_once_in_one_place() {
    let manager = manager_of(1);
    let chains = (0..6).map(|_| async {
        let table = Case::table("t", &[("y", DataType::Int64)], TABLE).pool(&manager, 1);
        let def = def().pool(&manager, 2);
        let actor = Case::ints("k", ACTOR).class().pool(&manager, 2);
        let mut made = table.call(counting(1)).await.unwrap();
        let mut sum = 0;
        while let Some(block) = next(&mut made).await {
            let block = block.unwrap().slice(0, 1);
            let doubled = run(&def, ints(values(&block))).await.unwrap();
            let out = run(&actor, ints(values(&doubled))).await.unwrap();
            sum += values(&out)[0].unwrap();
        }
        sum
    });
    for sum in join_all(chains).await {
        assert_eq!(sum, 20 * 19 + 20);
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn waiting_for_a_slow_def_of_others_has_a_limit_that_says_so() {
    let manager = WorkerManager::new(WorkerSettings {
        max_workers: 1,
        init_timeout: Duration::from_secs(2),
        ..settings()
    });
    let slow = "
import time
def slow(x):
    time.sleep(60)";
    let slow = Case::ints("slow", slow).pool(&manager, 1);
    let mut busy = slow.call(counting(1)).await.unwrap();
    let pid = worker_in(&manager, "busy").await;
    let error = run(&def().pool(&manager, 1), counting(1))
        .await
        .unwrap_err();
    assert!(
        matches!(error, UdfError::NoFreeWorker { max_workers: 1, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("`udf_max_workers`"), "{error}");
    assert_eq!(error.class(), UdfErrorClass::Exhausted);
    assert!(futures::poll!(busy.next()).is_pending());
    drop(busy);
    gone(pid).await;
    run(&def().pool(&manager, 1), counting(1)).await.unwrap();
    manager.shutdown().await;
}

#[tokio::test]
async fn an_actor_takes_the_place_of_an_idle_worker() {
    let manager = manager_of(1);
    run(&def().pool(&manager, 1), counting(1)).await.unwrap();
    let idle = only_pid(&manager);
    let actor = Case::ints("k", ACTOR).class().pool(&manager, 1);
    run(&actor, counting(1)).await.unwrap();
    gone(idle).await;
    manager.shutdown().await;
}

#[tokio::test]
async fn a_scalar_call_keeps_its_worker_beyond_the_bound() {
    let manager = manager_of(1);
    let actors = Case::ints("k", ACTOR).class().pool(&manager, 2);
    all_of(&actors, 1).await;
    let scalar = def().pool(&manager, 1);
    for _ in 0..5 {
        run(&scalar, counting(3)).await.unwrap();
    }
    assert_eq!(scalar.stats().workers_started, 1);
    assert_eq!(manager.workers().len(), 2);
    // It goes as soon as somebody else needs its place.
    drop(actors);
    let others = Case::ints("k", ACTOR).class().pool(&manager, 1);
    all_of(&others, 2).await;
    at_most(1, &manager).await;
    manager.shutdown().await;
}
