//! Who owns which process, and when it ends.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::DataType;
use mobula_udfs::{UdfErrorClass, WorkerManager, WorkerSettings};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::bench::*;

const ACTOR: &str = "
import os
class f:
    def __call__(self, x):
        return x * 0 + os.getpid()";

#[tokio::test]
async fn a_dropped_stream_ends_the_worker() {
    let manager = manager();
    let body = "
def f(rows):
    i = 0
    while True:
        i += 1
        yield {'y': [i]}";
    let pool = Case::table("f", &[("y", DataType::Int64)], body).pool(&manager, 1);
    let mut stream = pool.call(counting(1)).await.unwrap();
    assert_eq!(
        values(&next(&mut stream).await.unwrap().unwrap()),
        [Some(1)]
    );
    let pid = only_pid(&manager);
    drop(stream);
    gone(pid).await;
    // The permit came back as well.
    let mut stream = pool.call(counting(1)).await.unwrap();
    assert!(next(&mut stream).await.unwrap().is_ok());
    manager.shutdown().await;
}

#[tokio::test]
async fn a_slow_reader_stops_the_worker() {
    let dir = std::env::temp_dir().join(format!("mobula-udfs-made-{}", std::process::id()));
    let body = format!(
        "
def f(rows):
    for i in range(1000):
        open({:?}, 'w').write(str(i))
        yield {{'y': [i] * 100_000}}",
        dir.display().to_string()
    );
    let manager = manager();
    let pool = Case::table("f", &[("y", DataType::Int64)], &body).pool(&manager, 1);
    let mut stream = pool.call(counting(1)).await.unwrap();
    for _ in 0..5 {
        next(&mut stream).await.unwrap().unwrap();
    }
    let pid = only_pid(&manager);
    // Asleep in its send: it is ahead of the reader by the queue and the socket.
    let asleep = || {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .unwrap()
            .contains(") S ")
    };
    while !asleep() {
        tokio::task::yield_now().await;
    }
    let made: usize = std::fs::read_to_string(&dir).unwrap().parse().unwrap();
    assert!(made < 20, "{made} parts made for 5 read");
    drop(stream);
    gone(pid).await;
    std::fs::remove_file(&dir).unwrap();
}

#[tokio::test]
async fn a_pool_takes_its_actors_with_it() {
    let manager = manager();
    let pool = Case::ints("f", ACTOR).class().pool(&manager, 2);
    run(&pool, counting(1)).await.unwrap();
    let pid = only_pid(&manager);
    drop(pool);
    gone(pid).await;
}

#[tokio::test]
async fn a_class_that_will_not_end_is_ended() {
    let manager = manager();
    let body = "
import atexit, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
class f:
    def __init__(self):
        atexit.register(time.sleep, 600)
    def __call__(self, x):
        return x";
    let pool = Case::ints("f", body).class().pool(&manager, 1);
    run(&pool, counting(1)).await.unwrap();
    let pid = only_pid(&manager);
    drop(pool);
    gone(pid).await;
}

#[tokio::test]
async fn two_workers_really_run_at_once() {
    // Each waits until it sees the other.
    let dir = std::env::temp_dir().join(format!("mobula-udfs-meet-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let body = format!(
        "
import os, time
def f(x):
    open(os.path.join({0:?}, str(os.getpid())), 'w').close()
    end = time.monotonic() + 30
    while len(os.listdir({0:?})) < 2:
        assert time.monotonic() < end, 'alone'
    return x * 0 + os.getpid()",
        dir.display().to_string()
    );
    let manager = manager();
    let pool = Case::ints("f", &body).pool(&manager, 2);
    assert_eq!(pool.concurrency(), 2);
    let (a, b) = tokio::join!(run(&pool, counting(1)), run(&pool, counting(1)));
    assert_ne!(values(&a.unwrap()), values(&b.unwrap()));
    std::fs::remove_dir_all(&dir).unwrap();
    // No third one starts.
    let many = (0..8).map(|_| run(&pool, counting(1)));
    std::fs::create_dir_all(&dir).unwrap();
    futures::future::join_all(many)
        .await
        .into_iter()
        .for_each(|out| drop(out.unwrap()));
    assert_eq!(manager.workers().len(), 2);
    std::fs::remove_dir_all(&dir).unwrap();
    manager.shutdown().await;
}

#[tokio::test]
async fn stateless_workers_are_used_again_and_then_end() {
    let manager = WorkerManager::new(WorkerSettings {
        idle_ttl: Duration::from_millis(300),
        ..settings()
    });
    let pid = {
        let first = Case::ints("f", "def f(x): return x + 1").pool(&manager, 1);
        run(&first, counting(1)).await.unwrap();
        only_pid(&manager)
    };
    let second = Case::ints("g", "def g(x): return x + 2").pool(&manager, 1);
    assert_eq!(values(&run(&second, counting(1)).await.unwrap()), [Some(2)]);
    assert_eq!(only_pid(&manager), pid);
    assert_eq!(manager.workers()[0].function, "g");
    assert_eq!(second.stats().workers_started, 0);
    gone(pid).await;
}

#[tokio::test]
async fn stateless_workers_are_replaced_after_some_blocks() {
    const PID: &str = "import os\ndef f(x): return x * 0 + os.getpid()";
    let manager = WorkerManager::new(WorkerSettings {
        worker_max_blocks: 3,
        ..settings()
    });
    let pids = async |pool: &Arc<dyn mobula_udfs::UdfPool>| {
        let mut pids = vec![];
        for _ in 0..8 {
            pids.push(values(&run(pool, counting(1)).await.unwrap())[0].unwrap());
        }
        pids
    };
    let pool = Case::ints("f", PID).pool(&manager, 1);
    let found = pids(&pool).await;
    for (n, pid) in found.iter().enumerate() {
        assert_eq!(*pid, found[n / 3 * 3], "{found:?}");
    }
    assert_ne!(found[2], found[3]);
    assert_ne!(found[5], found[6]);
    assert_eq!(pool.stats().workers_started, 3);
    gone(u32::try_from(found[0]).unwrap()).await;
    // Blocks that go to a worker one behind the other do not keep it.
    let calls = (0..60).map(|_| run(&pool, counting(1)));
    let mut count = std::collections::HashMap::new();
    for out in futures::future::join_all(calls).await {
        *count.entry(values(&out.unwrap())[0].unwrap()).or_insert(0) += 1;
    }
    assert!(count.values().all(|blocks| *blocks <= 3), "{count:?}");
    // What an actor keeps would go with it.
    let actor = Case::ints("f", ACTOR).class().pool(&manager, 1);
    let mut found = pids(&actor).await;
    found.dedup();
    assert_eq!(found.len(), 1);
    manager.shutdown().await;
}

#[tokio::test]
async fn many_functions_fit_one_worker() {
    let manager = manager();
    let cases: Vec<_> = (0..40)
        .map(|i| Case::ints("f", &format!("def f(x): return x + {i}")).pool(&manager, 1))
        .collect();
    for _ in 0..2 {
        for (i, pool) in cases.iter().enumerate() {
            let out = run(pool, counting(1)).await.unwrap();
            assert_eq!(values(&out), [Some(i as i64)]);
        }
    }
    assert_eq!(manager.workers().len(), 1);
    manager.shutdown().await;
}

#[tokio::test]
async fn two_functions_share_one_place() {
    let manager = WorkerManager::new(WorkerSettings {
        max_workers: 1,
        ..settings()
    });
    let f = Case::ints("f", "def f(x): return x + 1").pool(&manager, 4);
    let g = Case::ints("g", "def g(x): return x * 2").pool(&manager, 4);
    let calls = (0..10).map(|_| async {
        let half = run(&f, counting(3)).await.unwrap();
        run(&g, ints(values(&half))).await.unwrap()
    });
    for out in futures::future::join_all(calls).await {
        assert_eq!(values(&out), [Some(2), Some(4), Some(6)]);
    }
    assert_eq!(manager.workers().len(), 1);
    manager.shutdown().await;
}

#[tokio::test]
async fn the_manager_ends_everything() {
    let manager = manager();
    let f = Case::ints("f", "def f(x): return x").pool(&manager, 1);
    let actor = Case::ints("f", ACTOR).class().pool(&manager, 1);
    run(&f, counting(1)).await.unwrap();
    run(&actor, counting(1)).await.unwrap();
    let pids: Vec<_> = manager.workers().iter().map(|w| w.pid).collect();
    assert_eq!(pids.len(), 2);
    manager.shutdown().await;
    for pid in pids {
        gone(pid).await;
    }
    let error = run(&f, counting(1)).await.unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::Lost);
    assert!(error.to_string().contains("shutting down"), "{error}");
}

#[tokio::test]
async fn dropping_the_last_owner_ends_everything() {
    let manager = manager();
    let f = Case::ints("f", "def f(x): return x").pool(&manager, 1);
    run(&f, counting(1)).await.unwrap();
    let pid = only_pid(&manager);
    drop(f);
    assert_eq!(Arc::strong_count(&manager), 1);
    drop(manager);
    gone(pid).await;
}

#[tokio::test]
async fn what_a_worker_started_ends_with_it() {
    let body = "
import subprocess
def f(x):
    return x * 0 + subprocess.Popen(['sleep', '600']).pid";
    let manager = manager();
    let pool = Case::ints("f", body).pool(&manager, 1);
    let out = run(&pool, counting(1)).await.unwrap();
    let grandchild = u32::try_from(values(&out)[0].unwrap()).unwrap();
    assert!(std::path::Path::new(&format!("/proc/{grandchild}")).exists());
    manager.shutdown().await;
    // Its own parent is gone, so whoever adopted it reaps it; dead is enough.
    dead(grandchild).await;
}

/// Set in the process that the next test kills, to the file where the process
/// that its worker started is named.
const HOST: &str = "MOBULA_TEST_HOST_OF_WORKERS";

#[tokio::test]
async fn a_killed_host_takes_its_workers_along() {
    if let Ok(stray_file) = std::env::var(HOST) {
        return host_a_worker_that_never_looks_up(&stray_file).await;
    }
    let stray_file = std::env::temp_dir().join(format!("mobula-udfs-stray-{}", std::process::id()));
    let mut host = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "lifetimes::a_killed_host_takes_its_workers_along",
            "--nocapture",
        ])
        .env(HOST, &stray_file)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(host.stdout.take().unwrap()).lines();
    let worker = loop {
        let line = lines
            .next_line()
            .await
            .unwrap()
            .expect("the host names its worker");
        if let Some((_, pid)) = line.split_once("worker=") {
            break pid.trim().parse().unwrap();
        }
    };
    let stray = loop {
        match std::fs::read_to_string(&stray_file).map(|text| text.trim().parse::<u32>()) {
            Ok(Ok(pid)) => break pid,
            _ => tokio::task::yield_now().await,
        }
    };
    for pid in [worker, stray] {
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
    host.start_kill().unwrap();
    host.wait().await.unwrap();
    dead(worker).await;
    dead(stray).await;
    std::fs::remove_file(stray_file).unwrap();
}

async fn host_a_worker_that_never_looks_up(stray_file: &str) {
    let manager = manager();
    // In C, with the lock of the interpreter held; before that it starts a
    // process that leaves the worker's group.
    let body = format!(
        "
import os, subprocess
def f(x):
    stray = subprocess.Popen(['sleep', '600'], start_new_session=True)
    with open({stray_file:?}, 'w') as file:
        file.write(str(stray.pid) + chr(10))
    return sum(range(10**15))"
    );
    let pool = Case::ints("f", &body).pool(&manager, 1);
    let _stream = pool.call(counting(1)).await.unwrap();
    println!("worker={}", worker_in(&manager, "busy").await);
    std::future::pending::<()>().await;
}
