//! A process whose queries hold all of its threads is not taken for dead.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use futures::StreamExt;

use super::*;

/// Threads of the tests' runtime, which the coordinator and its executors share.
const THREADS: usize = 2;
/// Longer than silence is borne, of heartbeats and of connections.
const HELD: Duration = Duration::from_secs(7);

/// Holds all threads that run queries, as plans may that do not give way.
async fn hold_all_threads() {
    let all = Arc::new(Barrier::new(THREADS));
    let held = (0..THREADS).map(|_| {
        let all = Arc::clone(&all);
        spawn_named("holds-a-thread", async move {
            all.wait();
            std::thread::sleep(HELD);
        })
    });
    for task in held.collect::<Vec<_>>() {
        task.join().await.unwrap();
    }
}

/// The most that a heartbeat was ever late, in ms, and the fewest executors there were, as
/// somebody sees it who has a thread of his own.
async fn watch(cluster: &TestCluster) -> (u64, u64) {
    let (mut late, mut fewest) = (0, u64::MAX);
    let since = Instant::now();
    while since.elapsed() < HELD {
        let of =
            |what: &str| format!("select {what} from system.executors where role = 'executor'");
        late = late.max(cluster.number(&of("max(heartbeat_age_ms)")).await);
        fewest = fewest.min(cluster.number(&of("count(*)")).await);
        std::thread::sleep(Duration::from_millis(100));
    }
    (late, fewest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_thread_left_for_queries_is_not_lost() {
    let cluster = Arc::new(TestCluster::start(2, false).await);
    // On its way while nothing runs.
    let rows = "select value from repartition((SELECT value FROM generate_series(1, 3000000)), 4)";
    let plan = cluster.state.create_logical_plan(rows).await.unwrap();
    let mut stream = cluster
        .engine
        .run(&cluster.state, plan)
        .await
        .unwrap()
        .stream;
    let mut count = stream.next().await.unwrap().unwrap().num_rows();
    let watched = Arc::clone(&cluster);
    let watcher = std::thread::spawn(move || {
        let mut own = tokio::runtime::Builder::new_current_thread();
        let own = own.enable_all().build().unwrap();
        own.block_on(watch(&watched))
    });
    hold_all_threads().await;
    let (late, fewest) = watcher.join().unwrap();
    assert!(late < 2900, "a heartbeat was {late} ms late");
    assert_eq!(fewest, 2);
    while let Some(block) = stream.next().await {
        count += block.unwrap().num_rows();
    }
    assert_eq!(count, 3_000_000);
}
