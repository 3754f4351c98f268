//! Pools of queries that follow their load: they take what comes free, give back what they do
//! not need, and lose no row by either.

use std::time::Instant;

use super::pools::{batches_of, declare, free, texts};
use super::resources::add;
use super::*;

/// 50 ms for each row, a block of its own; says which actor it was.
const NAPS: &str = "
import os, time
class naps:
    def __call__(self, k):
        time.sleep(0.05)
        return [str(os.getpid())] * len(k)
";
/// Lets 300 rows pass at once, the others one a second.
const GATE: &str = "
import time
class gate:
    def __call__(self, k):
        if k[0] >= 300:
            time.sleep(1)
        return [str(x) for x in k]
";
const POOL: &str = "from system.actor_pools where query_id is not null";
/// As many blocks as rows.
const JOB: &str = "select naps, count(*) as n from map_batches((select k from numbers where k < 400), naps, concurrency => '1..4', num_gpus => 1) group by naps";

/// Two executors with tasks, and `host` with four GPUs.
async fn with_host() -> TestCluster {
    let mut cluster = TestCluster::start(2, false).await;
    add(&mut cluster, "host", &[("roles", "actors"), ("gpus", "4")]).await;
    declare(&mut cluster, "naps", NAPS);
    declare(&mut cluster, "gate", GATE);
    batches_of(&mut cluster, 1).await;
    cluster
}

/// Waits until `sql` gives `wanted`; how long that took.
async fn becomes(cluster: &TestCluster, sql: &str, wanted: &[&str]) -> Duration {
    let began = Instant::now();
    loop {
        let found = texts(cluster, sql).await;
        if found == wanted {
            return began.elapsed();
        }
        let waited = began.elapsed();
        assert!(
            waited < Duration::from_secs(40),
            "{found:?}, not {wanted:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Rows that each actor had.
fn counts(rows: &[RecordBatch]) -> Vec<i64> {
    let columns = rows.iter().map(|rows| rows.column(1));
    columns
        .flat_map(|column| column.as_primitive::<Int64Type>().values().to_vec())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_takes_what_another_one_leaves() {
    let cluster = with_host().await;
    let holds = "select naps from map_batches((select a.k from numbers a, numbers b), naps, concurrency => 3, num_gpus => 1)";
    let plan = cluster.state.create_logical_plan(holds).await.unwrap();
    let mut holder = cluster.engine.run(&cluster.state, plan).await.unwrap();
    assert!(holder.stream.try_next().await.unwrap().is_some());
    let (found, ()) = tokio::join!(cluster.query(JOB), async {
        // What it would have more is told, and not to be had yet.
        let demand = "select resource || ' ' || amount from system.demand";
        becomes(&cluster, demand, &["gpus 1.0"]).await;
        let size = format!("select name || ' ' || min || ' ' || max || ' ' || actors {POOL}");
        assert_eq!(texts(&cluster, &size).await, ["naps 1 4 1"]);
        drop(holder);
        let all = format!("select actors || ' ' || executors {POOL}");
        becomes(&cluster, &all, &["4 host"]).await;
        let why = texts(&cluster, &format!("select last_change {POOL}")).await;
        assert!(why[0].starts_with("grew by "), "{why:?}");
        assert!(texts(&cluster, demand).await.is_empty());
    });
    let counts = counts(&found.unwrap());
    assert_eq!(counts.iter().sum::<i64>(), 400, "{counts:?}");
    assert_eq!(counts.len(), 4, "{counts:?}");
    assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
    free(&cluster, "host", 4.0).await;
    assert!(
        texts(&cluster, &format!("select name {POOL}"))
            .await
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_lets_those_who_wait_have_what_it_does_not_need() {
    let cluster = with_host().await;
    let bursty = "select naps, count(*) as n from map_batches((select cast(gate as bigint) as k from map_batches((select k from numbers where k < 320), gate)), naps, concurrency => '1..4', num_gpus => 1) group by naps";
    let other = "select naps, count(*) as n from map_batches((select k from numbers where k < 6), naps, concurrency => 2, num_gpus => 1) group by naps";
    let first_is_through = std::sync::atomic::AtomicBool::new(false);
    let first = async {
        let found = cluster.query(bursty).await.unwrap();
        first_is_through.store(true, std::sync::atomic::Ordering::Relaxed);
        found
    };
    let (first, second) = tokio::join!(first, async {
        becomes(&cluster, &format!("select actors {POOL}"), &["4"]).await;
        let second = cluster.query(other).await.unwrap();
        assert!(!first_is_through.load(std::sync::atomic::Ordering::Relaxed));
        second
    });
    assert_eq!(counts(&second).iter().sum::<i64>(), 6);
    let counts = counts(&first);
    assert_eq!(counts.iter().sum::<i64>(), 320, "{counts:?}");
    assert!(counts.len() >= 4, "{counts:?}");
    free(&cluster, "host", 4.0).await;
}
