//! Workers that ask for something: what they see, what they may take, and that they
//! keep it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::DataType;
use futures::future::join_all;
use mobula_udfs::resources::{Reservation, Share};
use mobula_udfs::{
    ActorPool, Amount, Capacity, Demand, Ledger, UdfError, UdfErrorClass, UdfPool, WorkerManager,
    WorkerSettings, WorkerState,
};

use crate::bench::*;

/// What a worker sees of the machine; slow, so that all of a pool get to work.
const SEES: &str = "
import os, time
import pyarrow as pa
class see:
    def __call__(self, x):
        time.sleep(0.3)
        gpus = os.environ.get('CUDA_VISIBLE_DEVICES', 'all')
        text = f\"{gpus} {os.environ['OMP_NUM_THREADS']} {pa.cpu_count()} {os.environ.get('MOBULA_NUM_CPUS')}\"
        return [text] * len(x)";
const SLEEPS: &str = "
import time
class k:
    def __call__(self, x):
        time.sleep(0.3)
        return x";

fn two_gpus() -> Arc<Ledger> {
    Ledger::new(Capacity {
        cpus: Amount::whole(8),
        gpu_ids: vec!["GPU-a".into(), "GPU-b".into()],
        memory_bytes: 8 << 30,
        custom: [("fpga".to_owned(), Amount::ONE)].into(),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
    })
}

fn manager_over(ledger: &Arc<Ledger>) -> Arc<WorkerManager> {
    WorkerManager::new(WorkerSettings {
        ledger: Arc::clone(ledger),
        init_timeout: Duration::from_secs(30),
        ..settings()
    })
}

fn gpus(milli: u64) -> Demand {
    Demand {
        gpus: Some(Amount::from_milli(milli)),
        ..Demand::default()
    }
}

fn sees(demand: Demand) -> Case {
    let x = [("x", DataType::Int64)];
    let mut case = Case::scalar("see", &x, DataType::Utf8, SEES).class();
    case.handling.demand = demand;
    case
}

fn asking(name: &str, body: &str, demand: Demand) -> Case {
    let mut case = Case::ints(name, body);
    case.handling.demand = demand;
    case
}

/// What each of `calls` blocks sent at once was told, sorted, each text once.
async fn told(pool: &Arc<dyn UdfPool>, calls: usize) -> Vec<String> {
    let calls = (0..calls).map(|_| run(pool, counting(1)));
    let mut told = vec![];
    for out in join_all(calls).await {
        told.push(
            out.unwrap()
                .column(0)
                .as_string::<i32>()
                .value(0)
                .to_owned(),
        );
    }
    told.sort();
    told.dedup();
    told
}

#[tokio::test]
async fn workers_that_need_nothing_before_they_start_are_forked() {
    let ledger = two_gpus();
    let manager = manager_over(&ledger);
    let body = "
import os
import pyarrow as pa
class parent:
    def __call__(self, x):
        return [f\"{os.getppid()} {pa.cpu_count()} {os.environ.get('MOBULA_NUM_CPUS')}\"] * len(x)";
    let cpus = |milli| Demand {
        cpus: Some(Amount::from_milli(milli)),
        ..Demand::default()
    };
    let mut parents = vec![];
    for (demand, seen) in [
        (Demand::default(), "1 None"),
        (cpus(1000), "1 1"),
        (cpus(100), "1 0.1"),
        // Libraries read how many threads they may have when they are loaded.
        (cpus(2000), "2 2"),
        (gpus(1000), "1 None"),
    ] {
        let x = [("x", DataType::Int64)];
        let mut case = Case::scalar("parent", &x, DataType::Utf8, body).class();
        case.handling.demand = demand;
        let told = told(&case.pool(&manager, 1), 1).await;
        let (parent, rest) = told[0].split_once(' ').unwrap();
        assert_eq!(rest, seen);
        parents.push(parent.parse::<u32>().unwrap());
    }
    let (zygote, own) = (parents[0], std::process::id());
    assert_ne!(zygote, own);
    assert_eq!(parents, [zygote, zygote, zygote, own, own]);
    manager.shutdown().await;
}

#[tokio::test]
async fn two_actors_see_two_gpus() {
    let ledger = two_gpus();
    let manager = manager_over(&ledger);
    let pool = sees(gpus(1000)).pool(&manager, 2);
    assert_eq!(told(&pool, 4).await, ["GPU-a 1 1 None", "GPU-b 1 1 None"]);
    let mut ids: Vec<_> = manager.workers().into_iter().map(|w| w.gpu_ids).collect();
    ids.sort();
    assert_eq!(ids, [["GPU-a"], ["GPU-b"]]);
    assert_eq!(ledger.free().gpus_sum(), Amount::ZERO);
    drop(pool);
    at_most(0, &manager).await;
    // What it had is free once it is gone, and not before.
    assert_eq!(freed(&ledger).await, Amount::whole(2));
    manager.shutdown().await;
}

/// The GPUs that are free, once all are.
async fn freed(ledger: &Arc<Ledger>) -> Amount {
    let share = Share::new("", &gpus(2000), 1);
    let both = tokio::time::timeout(PATIENCE, ledger.obtain(&share));
    let both: Reservation = both.await.unwrap();
    drop(both);
    ledger.free().gpus_sum()
}

#[tokio::test]
async fn halves_share_one_and_zero_hides_all() {
    let ledger = two_gpus();
    let manager = manager_over(&ledger);
    let halves = sees(gpus(500)).pool(&manager, 2);
    assert_eq!(told(&halves, 4).await, ["GPU-a 1 1 None"]);
    assert_eq!(halves.stats().workers_started, 2);
    let none = sees(gpus(0)).pool(&manager, 1);
    assert_eq!(told(&none, 1).await, [" 1 1 None"]);
    let both = sees(gpus(2000));
    let pool = both.pool(&manager, 1);
    let mut waiting = pin!(told(&pool, 1));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "a whole device is shared: {early:?}");
    drop(halves);
    assert_eq!(waiting.await, ["GPU-a,GPU-b 1 1 None"]);
    manager.shutdown().await;
}

#[tokio::test]
async fn threads_follow_num_cpus_and_nothing_else() {
    let manager = manager_over(&two_gpus());
    let cpus = |milli| Demand {
        cpus: Some(Amount::from_milli(milli)),
        ..Demand::default()
    };
    // What the engine's own process sees, these see.
    let all = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or("all".to_owned());
    for (demand, threads) in [
        (cpus(3500), "3 3 3.5"),
        (cpus(500), "1 1 0.5"),
        (Demand::default(), "1 1 None"),
    ] {
        let pool = sees(demand).pool(&manager, 1);
        assert_eq!(told(&pool, 1).await, [format!("{all} {threads}")]);
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn a_def_with_a_demand_is_not_lent_on() {
    let ledger = two_gpus();
    let manager = manager_over(&ledger);
    let plain = Case::ints("p", "def p(x): return x");
    run(&plain.pool(&manager, 1), counting(1)).await.unwrap();
    let shared = only_pid(&manager);
    let body = "\nimport os\ndef own(x): return x * 0 + os.getpid()";
    let pool = asking("own", body, gpus(1000)).pool(&manager, 1);
    let mut pids = vec![];
    for _ in 0..3 {
        pids.extend(values(&run(&pool, counting(1)).await.unwrap()));
        run(&plain.pool(&manager, 1), counting(1)).await.unwrap();
    }
    pids.dedup();
    assert!(
        pids.len() == 1 && pids[0] != Some(i64::from(shared)),
        "{pids:?}"
    );
    assert_eq!(pool.stats().workers_started, 1);
    assert_eq!(manager.workers().len(), 2);
    drop(pool);
    assert_eq!(freed(&ledger).await, Amount::whole(2));
    assert_eq!(last_pid(&manager).await, shared);
    manager.shutdown().await;
}

#[tokio::test]
async fn a_killed_actor_keeps_its_gpu() {
    let ledger = two_gpus();
    let manager = manager_over(&ledger);
    let claim = ledger
        .claim("q1", vec![gpus(1000)], PATIENCE)
        .await
        .unwrap();
    let mut case = sees(gpus(1000));
    case.query = "q1".to_owned();
    let pool = case.pool(&manager, 1);
    let before = told(&pool, 1).await;
    let mut waiting = pin!(ledger.claim("q2", vec![gpus(2000)], PATIENCE));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    for _ in 0..2 {
        let pid = only_pid(&manager);
        let kill = ["-9", &pid.to_string()];
        let killed = std::process::Command::new("kill").args(kill).status();
        assert!(killed.unwrap().success());
        dead(pid).await;
        assert_eq!(told(&pool, 1).await, before);
    }
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    assert!(pool.stats().workers_started >= 3);
    drop((pool, claim));
    let granted = tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    assert!(granted.unwrap().1, "it waited");
    manager.shutdown().await;
}

#[tokio::test]
async fn a_pool_grows_with_what_comes_free() {
    let ledger = two_gpus();
    let manager = manager_over(&ledger);
    let held = ledger.try_reserve(&gpus(1000)).unwrap();
    let pool = asking("k", SLEEPS, gpus(1000)).class().pool(&manager, 2);
    let calls = (0..4).map(|_| run(&pool, counting(1)));
    join_all(calls)
        .await
        .into_iter()
        .for_each(|out| drop(out.unwrap()));
    assert_eq!(pool.stats().workers_started, 1);
    drop(held);
    let calls = (0..4).map(|_| run(&pool, counting(1)));
    join_all(calls)
        .await
        .into_iter()
        .for_each(|out| drop(out.unwrap()));
    assert_eq!(pool.stats().workers_started, 2);
    manager.shutdown().await;
}

#[tokio::test]
async fn what_is_not_there_is_refused_and_what_is_kept_is_waited_for() {
    let ledger = two_gpus();
    let manager = WorkerManager::new(WorkerSettings {
        ledger: Arc::clone(&ledger),
        init_timeout: Duration::from_millis(200),
        ..settings()
    });
    let open = |demand| manager.open_pool(asking("k", SLEEPS, demand).class().call(), 1);
    let text = open(gpus(3000)).unwrap_err().to_string();
    assert_eq!(
        text,
        "function \"k\" asks for num_gpus => 3, and this process has 2 GPUs. Ask for less, or start with --gpus 3"
    );
    let labels = Demand {
        labels: "zone=b".parse().unwrap(),
        ..Demand::default()
    };
    let error = open(labels).unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::User);
    assert!(error.to_string().contains("has zone=a"), "{error}");
    let _held = ledger.try_reserve(&gpus(2000)).unwrap();
    let pool = open(gpus(500)).unwrap();
    let error = run(&pool, counting(1)).await.unwrap_err();
    assert!(matches!(error, UdfError::NoResources { .. }), "{error}");
    assert!(
        error.to_string().contains("waited 200ms for 0.5 GPU"),
        "{error}"
    );
    assert_eq!(error.class(), UdfErrorClass::Exhausted);
    manager.shutdown().await;
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn memory_is_a_limit() {
    let manager = manager_over(&two_gpus());
    let demand = Demand {
        memory_bytes: Some(512 << 20),
        ..Demand::default()
    };
    let body = "\ndef f(x): return x * 0 + len(bytearray(int(x[0]) << 20))";
    let pool = asking("f", body, demand).pool(&manager, 1);
    let error = run(&pool, ints([Some(2048)])).await.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.class(), UdfErrorClass::User, "{text}");
    assert!(text.contains("MemoryError"), "{text}");
    assert!(
        text.ends_with("; `memory` lets a worker take 536870912 bytes)"),
        "{text}"
    );
    let out = run(&pool, ints([Some(64)])).await.unwrap();
    assert_eq!(values(&out), [Some(64 << 20)]);
    // Others are bound by the setting alone.
    let free = Case::ints("f", body).pool(&manager, 1);
    assert_eq!(
        values(&run(&free, ints([Some(2048)])).await.unwrap()),
        [Some(2 << 30)]
    );
    manager.shutdown().await;
}

#[tokio::test]
async fn who_waits_for_actors_that_are_let_go_is_told() {
    let ledger = two_gpus();
    let manager = manager_over(&ledger);
    let mut case = asking("sleep", SLEEPS, gpus(1000)).class();
    case.query = "q".into();
    let (claim, _) = ledger.claim("q", vec![gpus(1000)], PATIENCE).await.unwrap();
    let actors = ActorPool::try_new(&manager, case.call(), [1, 1]).unwrap();
    let ways = [actors.open().unwrap(), actors.open().unwrap()];
    // From here on there is an actor.
    run(&ways[0], counting(1)).await.unwrap();
    let let_go = async {
        at_work(&manager).await;
        drop((actors, claim));
    };
    let (at_work, in_line, ()) = tokio::join!(
        run(&ways[0], counting(2)),
        run(&ways[1], counting(3)),
        let_go
    );
    // What it was at work on it finishes; what it had is not for those in line.
    assert_eq!(at_work.unwrap().num_rows(), 2);
    let told = in_line.unwrap_err();
    assert!(
        matches!(&told, UdfError::PoolGone { place, .. } if place == "executor-7"),
        "{told}"
    );
    assert_eq!(told.class(), UdfErrorClass::Lost);
    at_most(0, &manager).await;
    assert_eq!(freed(&ledger).await, Amount::whole(2));
    manager.shutdown().await;
}

#[tokio::test]
async fn an_actor_that_dies_with_nothing_to_do_is_built_anew_at_once() {
    let ledger = two_gpus();
    let manager = manager_over(&ledger);
    let mut case = asking("sleep", SLEEPS, gpus(1000)).class();
    case.query = "q".into();
    let (claim, _) = ledger.claim("q", vec![gpus(1000)], PATIENCE).await.unwrap();
    let actors = ActorPool::try_new(&manager, case.call(), [1, 1]).unwrap();
    let way = actors.open().unwrap();
    run(&way, counting(1)).await.unwrap();
    let pid = only_pid(&manager);
    let killed = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    // Nobody calls it.
    let began = std::time::Instant::now();
    let is_anew = || {
        let workers = manager.workers();
        matches!(workers.as_slice(), [one] if one.pid != pid && one.state == WorkerState::Idle)
    };
    while !is_anew() {
        assert!(began.elapsed() < PATIENCE, "{:?}", manager.workers());
        tokio::task::yield_now().await;
    }
    let anew = only_pid(&manager);
    run(&way, counting(1)).await.unwrap();
    assert_eq!(only_pid(&manager), anew);
    drop((way, actors, claim));
    at_most(0, &manager).await;
    manager.shutdown().await;
}

/// Waits until a worker is at work.
async fn at_work(manager: &Arc<WorkerManager>) {
    let is_busy = || {
        manager
            .workers()
            .iter()
            .any(|w| w.state == WorkerState::Busy)
    };
    while !is_busy() {
        tokio::task::yield_now().await;
    }
}
