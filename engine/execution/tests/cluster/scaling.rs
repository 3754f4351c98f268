//! Named pools that follow their load: over executors, within their bounds, without a lost row.

use std::time::Instant;

use mobula_udfs::PoolBounds;

use super::pools::{batches_of, create, free, texts};
use super::resources::add;
use super::*;

const FOUR: &[(&str, &str)] = &[("roles", "actors"), ("gpus", "4")];
/// 50 ms for each row, a block of its own.
const NAPS: &str =
    "select n, count(*) from (select p.nap(k) as n from numbers where k < 300) group by n";

fn bounds(min: usize, max: usize, idle_ms: u64) -> PoolBounds {
    PoolBounds {
        min,
        max,
        idle_ttl: Some(Duration::from_millis(idle_ms)),
    }
}

/// Two executors with tasks, and `host` with four GPUs; the pool `p`.
async fn with_pool(bounds: PoolBounds) -> TestCluster {
    let mut cluster = TestCluster::start(2, false).await;
    add(&mut cluster, "host", FOUR).await;
    batches_of(&mut cluster, 1).await;
    create(&mut cluster, "p", Some(bounds)).await;
    cluster
}

async fn actors(cluster: &TestCluster) -> u64 {
    cluster
        .number("select actors from system.actor_pools")
        .await
}

/// Waits until `p` has so many actors; how long that took.
async fn becomes(cluster: &TestCluster, wanted: u64) -> Duration {
    let began = Instant::now();
    while actors(cluster).await != wanted {
        assert!(began.elapsed() < Duration::from_secs(30), "never {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_grows_while_blocks_wait_and_gives_back_what_it_does_not_need() {
    let cluster = with_pool(bounds(1, 3, 500)).await;
    assert_eq!(actors(&cluster).await, 1);
    free(&cluster, "host", 3.0).await;
    let (found, took) = tokio::join!(cluster.query(NAPS), becomes(&cluster, 3));
    // Within 3 s where nothing else is at work: the benchmark `burst` measures that.
    assert!(took < Duration::from_secs(12), "{took:?}");
    let counts: Vec<_> = found
        .unwrap()
        .iter()
        .flat_map(|rows| rows.column(1).as_primitive::<Int64Type>().values().to_vec())
        .collect();
    // All three had a share of it, the query was there before two of them.
    assert_eq!(counts.iter().sum::<i64>(), 300, "{counts:?}");
    assert_eq!(counts.len(), 3, "{counts:?}");
    assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
    becomes(&cluster, 1).await;
    let why = "select last_change from system.actor_pools";
    let said = texts(&cluster, why).await.remove(0);
    assert!(said.contains("nothing to do for"), "{said}");
    free(&cluster, "host", 3.0).await;
    let listed = "select count(*) from system.actors where pool = 'p'";
    assert_eq!(cluster.number(listed).await, 1);
    for pool in cluster.engine.actors().take("p") {
        cluster.engine.actors().end(pool).await;
    }
    free(&cluster, "host", 4.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bounds_are_followed_at_once_and_no_row_is_lost() {
    let cluster = with_pool(bounds(1, 1, 60_000)).await;
    let named = cluster.engine.actors();
    assert!(named.with_bounds("p", bounds(9, 9, 0)).is_err());
    assert!(named.with_bounds("q", bounds(1, 1, 0)).unwrap().is_none());
    named.set_bounds("p", bounds(4, 4, 60_000));
    assert!(becomes(&cluster, 4).await < Duration::from_secs(5));
    // Three go while they are at work, with blocks in their lines.
    let (found, ()) = tokio::join!(cluster.query(NAPS), async {
        let busy = "select count(*) from system.actors where state = 'busy'";
        while cluster.number(busy).await < 4 {}
        named.set_bounds("p", bounds(1, 1, 60_000));
    });
    let counts = found.unwrap();
    let counts = counts
        .iter()
        .flat_map(|rows| rows.column(1).as_primitive::<Int64Type>().values().to_vec());
    assert_eq!(counts.sum::<i64>(), 300);
    assert_eq!(actors(&cluster).await, 1);
    free(&cluster, "host", 3.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_start_if_there_were_room_is_told() {
    let mut cluster = with_pool(bounds(1, 6, 60_000)).await;
    let demand =
        "select resource || ' ' || amount || ' ' || actors || ' ' || waiting from system.demand";
    assert!(texts(&cluster, demand).await.is_empty());
    cluster
        .engine
        .actors()
        .set_bounds("p", bounds(6, 6, 60_000));
    becomes(&cluster, 4).await;
    let began = Instant::now();
    while texts(&cluster, demand).await != ["gpus 2.0 2 1"] {
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    add(&mut cluster, "more", FOUR).await;
    becomes(&cluster, 6).await;
    assert!(texts(&cluster, demand).await.is_empty());
}
