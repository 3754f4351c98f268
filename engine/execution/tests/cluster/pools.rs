//! Actors that ask for resources live where these are, whoever has the rows.

use std::collections::BTreeSet;
use std::time::Instant;

use arrow::datatypes::Float64Type;
use mobula_plan::actor_methods;
use mobula_udfs::{
    ActorSpec, CallDefaults, Demand, FunctionSpec, Language, ObjectKind, Param, ParamKind,
    PoolBounds, Returns, Volatility as UdfVolatility,
};

use super::resources::add;
use super::*;

/// Says which actor it is.
const WHERE: &str = "
import os
class whereabouts:
    def __call__(self, k):
        at = [os.environ['MOBULA_EXECUTOR_ID'], os.environ['CUDA_VISIBLE_DEVICES'], str(os.getpid())]
        return [' '.join(at)] * len(k)
";

/// Takes its time; the slower the fewer devices its host has.
const SLOW: &str = "
import os, time
class slow:
    def __call__(self, k):
        host, began = os.environ['MOBULA_EXECUTOR_ID'], time.monotonic()
        time.sleep(0.5 if host == 'slow' else 0.05)
        return [f'{host} {began} {time.monotonic()}'] * len(k)
";

/// Takes a while for a block.
const STEADY: &str = "
import os, time
class steady:
    def __call__(self, k):
        time.sleep(0.01)
        return [os.environ['MOBULA_EXECUTOR_ID']] * len(k)
";

/// Dies of one row.
const POISON: &str = "
import os
class poison:
    def __call__(self, k):
        if 777 in k:
            os.kill(os.getpid(), 9)
        return ['fine'] * len(k)
";

/// Takes longer for some rows.
const NAP: &str = "
import asyncio
class nap:
    async def __call__(self, k):
        await asyncio.sleep(0.02 if k % 7 == 0 else 0.001)
        return str(2 * k)
";

pub fn declare(cluster: &mut TestCluster, name: &str, body: &str) {
    declare_as(cluster, name, body, ObjectKind::Class);
}

fn declare_as(cluster: &mut TestCluster, name: &str, body: &str, object: ObjectKind) {
    cluster.engine.functions().insert(Arc::new(FunctionSpec {
        name: name.to_owned(),
        language: Language::Python,
        params: vec![Param {
            name: "k".to_owned(),
            kind: ParamKind::Value(DataType::Int64),
        }],
        returns: Returns::Scalar(DataType::Utf8),
        object,
        volatility: UdfVolatility::Volatile,
        strict: false,
        body: body.to_owned(),
        defaults: CallDefaults::default(),
        actor: None,
    }));
    cluster.engine.sync_functions(&mut cluster.state);
}

/// Blocks of so many rows.
pub async fn batches_of(cluster: &mut TestCluster, rows: usize) {
    let context = SessionContext::new_with_state(cluster.state.clone());
    let set = format!("SET mobula.udf_batch_rows = {rows}");
    context.sql(&set).await.unwrap();
    cluster.state = context.state();
}

pub(super) const GPUS: &[(&str, &str)] = &[("roles", "actors"), ("gpus", "2")];

/// Two executors with tasks, and `host` with two GPUs and no tasks.
async fn with_host() -> TestCluster {
    let mut cluster = TestCluster::start(2, false).await;
    add(&mut cluster, "host", GPUS).await;
    cluster
}

/// The texts of the first column.
pub async fn texts(cluster: &TestCluster, sql: &str) -> Vec<String> {
    let rows = cluster.query(sql).await.unwrap();
    let columns = rows.iter().map(|block| block.column(0));
    let texts = columns.flat_map(|column| {
        let column = arrow::compute::cast(column, &DataType::Utf8).unwrap();
        let column = column.as_string::<i32>();
        column
            .iter()
            .map(|text| text.unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    });
    texts.collect()
}

/// Waits until `host` has so many GPUs that nobody has.
pub async fn free(cluster: &TestCluster, host: &str, wanted: f64) {
    let sql = format!("select gpus_free from system.executors where executor_id = '{host}'");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let rows = cluster.query(&sql).await.unwrap();
        if rows[0].column(0).as_primitive::<Float64Type>().value(0) == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{wanted} GPUs are never free");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn stop(executor: TestExecutor) {
    executor.stop.send(()).unwrap();
    executor.task.join().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_lives_where_the_gpus_are_and_is_fed_by_scans_elsewhere() {
    let mut cluster = with_host().await;
    declare(&mut cluster, "whereabouts", WHERE);
    batches_of(&mut cluster, 500).await;
    let call = "map_batches((SELECT k FROM numbers), whereabouts, concurrency => 2, num_gpus => 1)";
    let plan = cluster.text(&format!("explain select * from {call}")).await;
    assert!(plan.contains("tasks=2"), "{plan}");
    let places = texts(
        &cluster,
        &format!("select distinct whereabouts from {call} order by 1"),
    )
    .await;
    let parts: Vec<Vec<_>> = places.iter().map(|p| p.split(' ').collect()).collect();
    assert!(parts.iter().all(|part| part[0] == "host"), "{places:?}");
    let devices: BTreeSet<_> = parts.iter().map(|part| part[1]).collect();
    assert_eq!(devices, BTreeSet::from(["0", "1"]), "{places:?}");
    assert_eq!(parts.len(), 2, "one process a device: {places:?}");
    free(&cluster, "host", 2.0).await;
    // Every row comes out once, embedded in whatever query.
    let sums = format!("select count(*), sum(k), count(distinct k) from {call}");
    let found = cluster.text(&sums).await;
    assert!(
        found.contains("| 20000    | 199990000 ") && found.contains("| 20000 "),
        "{found}"
    );
    let twice = "select count(*) from (select whereabouts(k, num_gpus => 1) as a, k from numbers) x join numbers y on x.k = y.k";
    // A call in an expression takes its demand from the function.
    assert!(cluster.query(twice).await.is_err());
    free(&cluster, "host", 2.0).await;
    let three = "select * from map_batches((SELECT k FROM numbers), whereabouts, num_gpus => 3)";
    let found = classify(&cluster.query(three).await.unwrap_err());
    assert_eq!(found.class, ErrorClass::User);
    assert!(
        found.message.contains("num_gpus => 3") && found.message.contains("host has 2 GPUs"),
        "{}",
        found.message
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_queries_of_all_gpus_run_one_after_the_other() {
    let mut cluster = with_host().await;
    add(&mut cluster, "more", GPUS).await;
    declare(&mut cluster, "whereabouts", WHERE);
    let sql = "select distinct whereabouts from map_batches((SELECT k FROM repartition((SELECT k FROM numbers), rows_per_block => 100)), whereabouts, concurrency => 4, num_gpus => 1)";
    let plan = cluster.state.create_logical_plan(sql).await.unwrap();
    let first = cluster.engine.run(&cluster.state, plan).await.unwrap();
    let waiting = {
        let mut second = std::pin::pin!(cluster.query(sql));
        let early = Duration::from_millis(300);
        assert!(tokio::time::timeout(early, second.as_mut()).await.is_err());
        let line = "select waits_for from system.queries where state = 'waiting'";
        assert_eq!(
            texts(&cluster, line).await,
            ["\"whereabouts\" for 4 workers with 1 GPU each"]
        );
        let rows: Vec<_> = first.stream.try_collect().await.unwrap();
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 4);
        second.await.unwrap()
    };
    assert_eq!(waiting.iter().map(RecordBatch::num_rows).sum::<usize>(), 4);
    free(&cluster, "host", 2.0).await;
    free(&cluster, "more", 2.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_host_gets_few_blocks() {
    let mut cluster = TestCluster::start(2, false).await;
    for id in ["slow", "a", "b"] {
        add(&mut cluster, id, &[("roles", "actors"), ("gpus", "1")]).await;
    }
    declare(&mut cluster, "slow", SLOW);
    let sql = "select distinct slow from map_batches((SELECT k FROM repartition((SELECT k FROM numbers), rows_per_block => 100)), slow, concurrency => 3, num_gpus => 1)";
    let calls = texts(&cluster, sql).await;
    assert_eq!(calls.len(), 200);
    let calls: Vec<_> = calls.iter().map(|call| timed(call)).collect();
    let of = |host: &'static str| calls.iter().filter(move |call| call.0 == host);
    // Actors start at times of their own: what counts is from when all are there.
    let first = |host| of(host).map(|call| call.1).reduce(f64::min).unwrap();
    let last = |host| of(host).map(|call| call.2).reduce(f64::max).unwrap();
    let all_there = first("slow").max(first("a")).max(first("b"));
    let (ends, all) = (last("a").min(last("b")), last("a").max(last("b")));
    for host in ["a", "b"] {
        let busy = of(host).filter(|call| call.1 >= all_there && call.2 <= ends);
        let busy: f64 = busy.map(|call| call.2 - call.1).sum();
        assert!(busy > 0.7 * (ends - all_there), "{host} waited: {calls:?}");
    }
    // Nothing lies in its line but the two blocks that each of two tasks sends ahead.
    let behind = of("slow").filter(|call| call.1 >= all).count();
    assert!(
        behind <= 4,
        "{behind} blocks wait for the slow one: {calls:?}"
    );
}

/// Host, begin and end, in seconds, of one call of `SLOW`.
fn timed(call: &str) -> (&str, f64, f64) {
    let mut parts = call.trim_matches('"').split(' ');
    let host = parts.next().unwrap();
    let mut time = || parts.next().unwrap().parse().unwrap();
    (host, time(), time())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_of_a_lost_host_go_to_others_and_to_who_comes_in_its_place() {
    let mut cluster = TestCluster::start(2, false).await;
    for id in ["a", "b"] {
        add(&mut cluster, id, &[("roles", "actors"), ("gpus", "1")]).await;
    }
    declare(&mut cluster, "steady", STEADY);
    let sql = "select steady, k from map_batches((SELECT k FROM repartition((SELECT k FROM numbers), rows_per_block => 20)), steady, concurrency => 2, num_gpus => 1)";
    let plan = cluster.state.create_logical_plan(sql).await.unwrap();
    let mut running = cluster.engine.run(&cluster.state, plan).await.unwrap();
    let (mut keys, mut places) = (vec![], BTreeSet::new());
    let mut blocks = 0;
    while let Some(block) = running.stream.try_next().await.unwrap() {
        // From when both hosts have actors that are ready.
        blocks += usize::from(places.len() >= 2);
        let text = arrow::compute::cast(block.column(0), &DataType::Utf8).unwrap();
        places.extend(text.as_string::<i32>().iter().flatten().map(str::to_owned));
        keys.extend_from_slice(block.column(1).as_primitive::<Int64Type>().values());
        match blocks {
            20 => stop(cluster.executors.pop().unwrap()).await,
            60 => {
                add(&mut cluster, "c", &[("roles", "actors"), ("gpus", "1")]).await;
            }
            _ => {}
        }
    }
    keys.sort_unstable();
    assert_eq!(keys, (0..20_000).collect::<Vec<_>>());
    let expected = ["a", "b", "c"].map(str::to_owned);
    assert_eq!(places, BTreeSet::from(expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_kills_its_actors_is_the_users_error_and_takes_nobody_else() {
    let mut cluster = with_host().await;
    declare(&mut cluster, "poison", POISON);
    batches_of(&mut cluster, 100).await;
    let call = |more: &str| {
        format!(
            "map_batches((SELECT k FROM numbers), poison, num_gpus => 1, concurrency => 1{more})"
        )
    };
    let error = cluster
        .query(&format!("select * from {}", call("")))
        .await
        .unwrap_err();
    let found = classify(&error);
    assert_eq!(found.class, ErrorClass::User, "{}", found.message);
    assert!(found.message.contains("\"poison\""), "{}", found.message);
    free(&cluster, "host", 2.0).await;
    let dropped = call(", on_error => 'drop', volatility => 'immutable'");
    let kept = cluster
        .number(&format!("select count(*) from {dropped}"))
        .await;
    assert_eq!(kept, 19_999);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actors_of_a_query_that_is_dropped_end_at_once() {
    let mut cluster = with_host().await;
    declare(&mut cluster, "steady", STEADY);
    batches_of(&mut cluster, 10).await;
    let sql = "select steady from map_batches((SELECT k FROM numbers), steady, concurrency => 2, num_gpus => 1)";
    let plan = cluster.state.create_logical_plan(sql).await.unwrap();
    let mut running = cluster.engine.run(&cluster.state, plan).await.unwrap();
    running.stream.try_next().await.unwrap();
    free(&cluster, "host", 0.0).await;
    drop(running);
    let began = Instant::now();
    free(&cluster, "host", 2.0).await;
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(
        cluster
            .number("select count(*) from system.workers where executor_id = 'host'")
            .await,
        0
    );
}

/// A class that keeps count, and says where.
const COUNTS: &str = "
import os, time
class counts:
    def __init__(self, start=0):
        self.n = start
    def __call__(self, k):
        return [os.environ['MOBULA_EXECUTOR_ID']] * len(k)
    def add(self, k: int) -> int:
        self.n += k
        return self.n
    def place(self) -> str:
        return f\"{os.environ['MOBULA_EXECUTOR_ID']} {os.environ['CUDA_VISIBLE_DEVICES']}\"
    def pid(self) -> int:
        return os.getpid()
    def nap(self, k: int) -> int:
        time.sleep(0.05)
        return os.getpid()
    def dies(self, k: int) -> int:
        os._exit(3)
";

/// Builds `counts` under the name `actor`, with one GPU for each.
pub async fn create(cluster: &mut TestCluster, actor: &str, pool: Option<PoolBounds>) {
    declare(cluster, "counts", COUNTS);
    let class = cluster.engine.functions().get("counts").unwrap();
    let described = cluster.engine.describe_methods(&class).await.unwrap();
    let mut spec = ActorSpec {
        name: actor.into(),
        class: class.as_ref().clone(),
        args: vec![],
        timeout: None,
        init_timeout: None,
        methods: vec![],
        demand: Demand {
            gpus: Some(mobula_udfs::Amount::ONE),
            ..Demand::default()
        },
        pool,
        member: 0,
    };
    spec.methods = actor_methods(&spec, described);
    let spec = Arc::new(spec);
    let actors = cluster.engine.actors();
    let built = actors.build(Arc::clone(&spec), "").await.unwrap();
    for replaced in actors.put(built) {
        actors.end(replaced).await;
    }
    cluster.engine.functions().insert_actor(&spec);
    cluster.engine.sync_functions(&mut cluster.state);
}

fn bounds(min: usize) -> Option<PoolBounds> {
    Some(PoolBounds {
        min,
        max: min + 1,
        idle_ttl: None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_actor_lives_where_its_gpu_is_and_moves_when_that_is_lost() {
    let mut cluster = with_host().await;
    create(&mut cluster, "c", None).await;
    assert_eq!(texts(&cluster, "select c.place()").await, ["host 0"]);
    free(&cluster, "host", 1.0).await;
    // Called from every task, and once at a time.
    let sum = "select max(n) from (select c.add(k) as n from numbers)";
    assert_eq!(cluster.number(sum).await, 199_990_000);
    let listed = "select name || ' ' || executor_id || ' ' || state from system.actors";
    assert_eq!(texts(&cluster, listed).await, ["c host idle"]);
    add(&mut cluster, "other", GPUS).await;
    // The one in place of another has all that it keeps.
    create(&mut cluster, "c", None).await;
    assert_eq!(cluster.number("select c.add(5)").await, 5);
    let place = texts(&cluster, "select c.place()").await.remove(0);
    let host = place.split(' ').next().unwrap().to_owned();
    let at = match host.as_str() {
        "host" => 2,
        _ => 3,
    };
    stop(cluster.executors.remove(at)).await;
    // Built anew elsewhere, without what it kept.
    let moved = texts(&cluster, "select c.place()").await.remove(0);
    assert_ne!(moved, place);
    assert_eq!(cluster.number("select c.add(7)").await, 7);
    for actor in cluster.engine.actors().take("c") {
        cluster.engine.actors().end(actor).await;
    }
    let left = moved.split(' ').next().unwrap();
    free(&cluster, left, 2.0).await;
    let gone = classify(&cluster.query("select c.add(1)").await.unwrap_err());
    assert_eq!(gone.class, ErrorClass::Unavailable, "{}", gone.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_pool_outlives_queries_and_serves_all_of_them() {
    let mut cluster = with_host().await;
    batches_of(&mut cluster, 100).await;
    create(&mut cluster, "p", bounds(2)).await;
    free(&cluster, "host", 0.0).await;
    let pids = "select distinct p.pid() from numbers order by 1";
    let first = texts(&cluster, pids).await;
    assert_eq!(first.len(), 2, "{first:?}");
    let many = futures::future::join_all((0..4).map(|_| cluster.text(pids)));
    let texts_of_all = many.await;
    assert!(
        texts_of_all
            .iter()
            .all(|text| first.iter().all(|pid| text.contains(pid)))
    );
    let count = "select p, count(*) from map_batches((SELECT k FROM numbers), p) group by p";
    assert!(cluster.text(count).await.contains("| host | 20000 "));
    let pools = "select name || ' ' || actors || ' ' || executors || ' ' || asks_for from system.actor_pools";
    assert_eq!(texts(&cluster, pools).await, ["p 2 host 1 GPU"]);
    let members = texts(
        &cluster,
        "select name from system.actors where pool = 'p' order by 1",
    );
    assert_eq!(members.await.len(), 2);
    // One that dies is built anew in its place.
    let killed = std::process::Command::new("kill")
        .args(["-9", &first[0]])
        .status();
    assert!(killed.unwrap().success());
    // Meanwhile the other one takes all blocks.
    let mut again = texts(&cluster, pids).await;
    while again.len() < 2 {
        assert_eq!(again[..], first[1..]);
        tokio::time::sleep(Duration::from_millis(50)).await;
        again = texts(&cluster, pids).await;
    }
    assert!(again.len() == 2 && again != first, "{again:?}");
    // A block that has ended two actors ends no others.
    let deadly = classify(&cluster.query("select p.dies(1)").await.unwrap_err());
    assert_eq!(deadly.class, ErrorClass::User, "{}", deadly.message);
    let restarts = "select sum(restarts) from system.actors where pool = 'p'";
    assert!(cluster.number(restarts).await <= 3);
    for pool in cluster.engine.actors().take("p") {
        cluster.engine.actors().end(pool).await;
    }
    free(&cluster, "host", 2.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_async_class_elsewhere_answers_rows_in_any_order() {
    let mut cluster = with_host().await;
    declare_as(&mut cluster, "nap", NAP, ObjectKind::AsyncClass);
    let call = "map((SELECT k FROM numbers WHERE k < 500), nap, num_gpus => 1, max_in_flight => 50, preserve_order => false)";
    let sql = format!("select count(*), sum(k), sum(cast(nap as bigint)) from {call}");
    let found = cluster.text(&sql).await;
    assert!(
        found.contains("| 500      | 124750 ") && found.contains("| 249500 "),
        "{found}"
    );
    free(&cluster, "host", 2.0).await;
}

/// Where the tasks of the last query over executors ran.
const PLACE: &str = "select distinct executor_id from system.tasks where stage > 0 and \
                     query_id = (select query_id from system.tasks where stage = 1 \
                     order by plan_arrived desc limit 1)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_run_beside_the_actors_that_they_feed() {
    let mut cluster = TestCluster::start(2, false).await;
    add(&mut cluster, "host", &[("gpus", "2")]).await;
    create(&mut cluster, "c", None).await;
    declare(&mut cluster, "whereabouts", WHERE);
    let context = SessionContext::new_with_state(cluster.state.clone());
    let skew = "SET mobula.task_skew_max = 2";
    context.sql(skew).await.unwrap();
    cluster.state = context.state();
    let calls = [
        // Actors of the query, and a named one.
        "select count(*) from map_batches((SELECT k FROM numbers), whereabouts, num_gpus => 1)",
        "select count(c(k)) from numbers",
    ];
    for call in calls {
        assert_eq!(cluster.number(call).await, 20_000);
        let all = cluster.text("select * from system.tasks").await;
        assert_eq!(texts(&cluster, PLACE).await, ["host"], "{call}\n{all}");
    }
}
