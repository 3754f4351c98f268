//! Workers that a pool has beyond its first ones: they go when they have nothing to do, and
//! what they had is others'.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use mobula_udfs::{
    ActorPool, Amount, Capacity, Demand, Ledger, UdfError, UdfPool, WorkerManager, WorkerSettings,
};

use crate::bench::*;
use crate::overlap::rows;

const SLEEPS: &str = "
import time
class f:
    def __call__(self, x):
        time.sleep(0.2)
        return x";

fn gpu() -> Demand {
    Demand {
        gpus: Some(Amount::ONE),
        ..Demand::default()
    }
}

fn ledger_of(gpus: usize) -> Arc<Ledger> {
    Ledger::new(Capacity {
        gpu_ids: (0..gpus).map(|gpu| gpu.to_string()).collect(),
        ..Capacity::default()
    })
}

fn manager_that(idle: Duration, ledger: &Arc<Ledger>) -> Arc<WorkerManager> {
    WorkerManager::new(WorkerSettings {
        actor_idle_ttl: idle,
        ledger: Arc::clone(ledger),
        init_timeout: Duration::from_secs(30),
        ..settings()
    })
}

/// A pool of 1 to 3 that asks for `demand`.
fn growing(manager: &Arc<WorkerManager>, demand: Demand) -> Arc<dyn UdfPool> {
    let mut case = Case::ints("f", SLEEPS).class();
    case.query = "q".into();
    case.handling.min_workers = Some(1);
    case.handling.demand = demand;
    case.pool(manager, 3)
}

/// Many blocks at once, for three workers.
async fn burst(pool: &Arc<dyn UdfPool>) {
    for out in join_all((0..50).map(|_| run(pool, counting(1)))).await {
        assert_eq!(values(&out.unwrap()), [Some(0)]);
    }
}

#[tokio::test]
async fn those_that_came_for_a_burst_go_after_it_and_come_again() {
    let manager = manager_that(Duration::from_millis(300), &ledger_of(0));
    let pool = growing(&manager, Demand::default());
    for started in [3, 5] {
        burst(&pool).await;
        assert_eq!(pool.stats().workers_at_once, 3);
        assert_eq!(pool.stats().workers_started, started);
        // The first one stays, and answers.
        at_most(1, &manager).await;
        run(&pool, counting(1)).await.unwrap();
        assert_eq!(pool.stats().workers_started, started);
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn what_they_had_is_for_who_waits_and_what_was_claimed_stays() {
    let ledger = ledger_of(3);
    // For an hour, unless others wait.
    let manager = manager_that(Duration::from_secs(3600), &ledger);
    let (claim, _) = ledger.claim("q", vec![gpu()], PATIENCE).await.unwrap();
    let pool = growing(&manager, gpu());
    burst(&pool).await;
    assert_eq!(ledger.free().gpus_sum(), Amount::ZERO);
    let began = Instant::now();
    let (other, waited) = ledger
        .claim("other", vec![gpu(), gpu()], PATIENCE)
        .await
        .unwrap();
    assert!(waited && began.elapsed() < Duration::from_secs(15));
    at_most(1, &manager).await;
    // It goes on with its own, and has no more while the other has the rest.
    burst(&pool).await;
    assert_eq!(manager.workers().len(), 1);
    drop(other);
    burst(&pool).await;
    assert_eq!(manager.workers().len(), 3);
    drop((pool, claim));
    at_most(0, &manager).await;
    manager.shutdown().await;
}

#[tokio::test]
async fn a_hosted_pool_is_ready_before_its_first_block_and_leaves_when_it_is_told() {
    let ledger = ledger_of(1);
    let manager = manager_that(Duration::from_secs(60), &ledger);
    let mut case = Case::ints("f", SLEEPS).class();
    case.query = "q".into();
    case.handling.demand = gpu();
    let (claim, _) = ledger.claim("q", vec![gpu()], PATIENCE).await.unwrap();
    let actors = ActorPool::try_new(&manager, case.call(), [1, 1]).unwrap();
    assert!(!actors.load().is_ready);
    actors.prepare().await.unwrap();
    let load = actors.load();
    assert!(
        load.is_ready && !load.is_at_work && load.calls == 0,
        "{load:?}"
    );
    let pid = only_pid(&manager);
    let ways = [actors.open().unwrap(), actors.open().unwrap()];
    let retire = async {
        while actors.load().queue == 0 {
            tokio::task::yield_now().await;
        }
        let during = actors.load();
        assert!(during.is_at_work, "{during:?}");
        actors.retire();
    };
    let (at_work, in_line, ()) = tokio::join!(
        run(&ways[0], counting(2)),
        run(&ways[1], counting(3)),
        retire
    );
    // It was built once, and what it was at it has finished.
    assert_eq!(at_work.unwrap().num_rows(), 2);
    assert!(matches!(in_line.unwrap_err(), UdfError::PoolGone { .. }));
    let after = actors.load();
    assert!(!after.is_at_work && after.calls == 1, "{after:?}");
    assert!(after.busy >= Duration::from_millis(200), "{after:?}");
    gone(pid).await;
    assert!(run(&ways[0], counting(1)).await.is_err());
    drop((actors, ways, claim));
    manager.shutdown().await;
}

#[tokio::test]
async fn an_async_pool_tells_what_it_does_and_takes_no_more_when_it_leaves() {
    let manager = manager_that(Duration::from_secs(60), &ledger_of(0));
    let body = "
import asyncio
async def f(x):
    await asyncio.sleep(0.2)
    return x";
    let case = rows(body, 4);
    let actors = ActorPool::try_new(&manager, case.call(), [1, 1]).unwrap();
    let way = actors.open().unwrap();
    assert!(!actors.load().is_at_work);
    let (out, during) = tokio::join!(run_whole(&way, counting(3)), async {
        while !actors.load().is_ready {
            tokio::task::yield_now().await;
        }
        let load = actors.load();
        actors.retire();
        load
    });
    assert!(during.is_at_work, "{during:?}");
    assert_eq!(out.unwrap().0.num_rows(), 3);
    let after = actors.load();
    assert!(!after.is_at_work && after.calls == 1, "{after:?}");
    let refused = run(&way, counting(1)).await.unwrap_err();
    assert!(matches!(refused, UdfError::PoolGone { .. }), "{refused}");
    at_most(0, &manager).await;
    manager.shutdown().await;
}

#[tokio::test]
async fn event_loops_that_came_for_a_burst_go_after_it_and_come_again() {
    let ledger = ledger_of(3);
    let manager = manager_that(Duration::from_millis(300), &ledger);
    let (claim, _) = ledger.claim("q", vec![gpu()], PATIENCE).await.unwrap();
    let body = "
import asyncio
async def f(x):
    await asyncio.sleep(0.02)
    return x";
    let mut case = rows(body, 2);
    case.query = "q".into();
    case.handling.min_workers = Some(1);
    case.handling.demand = gpu();
    let pool = case.pool(&manager, 3);
    for started in [3, 5] {
        let since = Instant::now();
        while pool.stats().workers_started < started {
            assert!(since.elapsed() < PATIENCE, "{:?}", pool.stats());
            for out in join_all((0..9).map(|_| run_whole(&pool, counting(2)))).await {
                assert_eq!(out.unwrap().0.num_rows(), 2);
            }
        }
        // The one that has what was claimed stays, and answers.
        at_most(1, &manager).await;
        assert_eq!(ledger.free().gpus_sum(), Amount::whole(2));
        run_whole(&pool, counting(3)).await.unwrap();
        assert_eq!(pool.stats().workers_started, started);
    }
    drop((pool, claim));
    at_most(0, &manager).await;
    manager.shutdown().await;
}
