//! Named actors called by tasks on executors: one instance, reached over `DoExchange`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, FlightDescriptor};
use mobula_plan::actor_methods;
use mobula_udfs::{
    ActorInfo, ActorSpec, CallDefaults, Demand, FunctionSpec, Language, ObjectKind, Param,
    ParamKind, Returns, Volatility as UdfVolatility,
};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::Code;

use super::*;

const COUNTER: &str = "
import os, time
class counter:
    def __init__(self):
        self.n, self.seen = 0, set()
    def __call__(self, x):
        return x
    def add(self, x: int) -> int:
        self.n += x
        return self.n
    def get(self) -> int:
        return self.n
    def pid(self) -> int:
        return os.getpid()
    def odd(self, x: int) -> int:
        if x % 2 == 0:
            raise ValueError(f'{x} is even')
        return x
    def slow(self, x: int) -> int:
        time.sleep(0.05)
        self.n += 1
        return self.n
    def dies(self, path: str) -> int:
        if not os.path.exists(path):
            open(path, 'w').close()
            os.kill(os.getpid(), 9)
        return 1
    def rows(self, rows: 'TABLE') -> 'TABLE(k BIGINT, t VARCHAR)':
        self.n += 1
        for _ in range(3):
            yield {'k': rows['k'], 't': rows['t']}
";

async fn create(cluster: &mut TestCluster, actor: &str) {
    let class = FunctionSpec {
        name: "counter".into(),
        language: Language::Python,
        params: vec![Param {
            name: "x".into(),
            kind: ParamKind::Value(DataType::Int64),
        }],
        returns: Returns::Scalar(DataType::Int64),
        object: ObjectKind::Class,
        volatility: UdfVolatility::Volatile,
        strict: false,
        body: COUNTER.into(),
        defaults: CallDefaults::default(),
        actor: None,
    };
    let described = cluster.engine.describe_methods(&class).await.unwrap();
    let mut spec = ActorSpec {
        name: actor.into(),
        class,
        args: vec![],
        timeout: None,
        init_timeout: None,
        methods: vec![],
        demand: Demand::default(),
        pool: None,
        member: 0,
    };
    spec.methods = actor_methods(&spec, described);
    let spec = Arc::new(spec);
    let built = cluster.engine.actors().build(Arc::clone(&spec), "").await;
    drop(cluster.engine.actors().put(built.unwrap()));
    cluster.engine.functions().insert_actor(&spec);
    cluster.engine.sync_functions(&mut cluster.state);
}

async fn with_actor(n_executors: usize) -> TestCluster {
    let mut cluster = TestCluster::start(n_executors, false).await;
    create(&mut cluster, "c").await;
    cluster
}

fn info(cluster: &TestCluster) -> ActorInfo {
    cluster.engine.actors().here().remove(0)
}

/// Waits until no exchange is open anywhere, and nothing stands in the actor's line.
async fn settles(cluster: &TestCluster) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let streams = "select sum(streams) from system.executors";
    while cluster.number(streams).await > 0 || info(cluster).queue > 0 {
        assert!(
            Instant::now() < deadline,
            "{}",
            cluster.text("select * from system.executors").await
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_on_three_executors_call_one_instance() {
    let mut cluster = with_actor(3).await;
    let sql = "select count(*), sum(k), min(n), count(distinct n), max(n) \
               from (select k, c.add(1) as n from numbers)";
    let plan = cluster.text(&format!("explain {sql}")).await;
    assert!(plan.contains("tasks=3"), "{plan}");
    let tasks = cluster
        .number("select sum(tasks_started) from system.executors")
        .await;
    // Each call gave another number: none ran beside another, and none was lost.
    let text = cluster.text(sql).await;
    assert!(text.contains("| 20000    | 199990000      | 1 "), "{text}");
    assert_eq!(text.matches("20000 ").count(), 3, "{text}");
    assert_eq!(cluster.number("select c.get()").await, 20_000);
    let pids = "select count(distinct p) from (select c.pid() as p from numbers)";
    assert_eq!(cluster.number(pids).await, 1);
    let started = async || {
        cluster
            .number("select sum(tasks_started) from system.executors")
            .await
    };
    while started().await < tasks + 6 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    settles(&cluster).await;
    // Two actors do not get in each other's way, nor do two calls of one.
    create(&mut cluster, "d").await;
    let both = "select count(*), count(distinct n), count(distinct m), sum(c.get() - c.get()) \
                from (select c.add(1) as n, d.add(1) as m from numbers)";
    let text = cluster.text(both).await;
    assert!(
        text.contains("| 20000    | 20000             | 20000 "),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_many_rows_come_whole_and_every_byte_is_counted() {
    let cluster = with_actor(2).await;
    let sql = "select count(*), sum(k), count(distinct t) \
               from map_batches((select k, t from numbers), c.rows, batch_size => 100)";
    let text = cluster.text(sql).await;
    assert!(text.contains("| 60000    | 599970000 "), "{text}");
    let both = async {
        loop {
            let sum = |column: &str| format!("select sum({column}) from system.executors");
            let sent = cluster.number(&sum("bytes_sent")).await;
            // Both ways: the rows to the actor, and three times as many back.
            if sent > 4 * 20_000 * 16 && sent == cluster.number(&sum("bytes_received")).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let equal = tokio::time::timeout(Duration::from_secs(10), both).await;
    assert!(
        equal.is_ok(),
        "{}",
        cluster.text("select * from system.executors").await
    );
    settles(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_analyze_has_the_figures_of_a_remote_call() {
    let cluster = with_actor(2).await;
    let text = cluster
        .text("explain analyze select sum(c.slow(k)) from numbers where k % 5000 < 3")
        .await;
    let line = text
        .lines()
        .find(|line| line.contains("c.slow") && line.contains("calls="));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    for figure in [
        "rows_to_workers=12",
        "user_time=",
        "transport_time=",
        "wait_workers=",
        "workers_at_once=",
    ] {
        assert!(line.contains(figure), "{figure}: {line}");
    }
    for none in [
        "user_time=1ns",
        "user_time=0",
        "bytes_to_workers=0,",
        "bytes_from_workers=0,",
    ] {
        assert!(!line.contains(none), "{none}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_an_actor_keeps_class_place_and_traceback() {
    let cluster = with_actor(2).await;
    let error = cluster
        .query("select sum(c.odd(k)) from numbers")
        .await
        .unwrap_err();
    let found = classify(&error);
    assert_eq!(found.class, ErrorClass::User, "{}", found.message);
    assert!(
        found
            .message
            .starts_with("function \"c.odd\" failed: ValueError: "),
        "{}",
        found.message
    );
    assert!(
        found.message.contains("is even (line "),
        "{}",
        found.message
    );
    let traceback = found.detail.unwrap();
    assert!(traceback.contains("raise ValueError"), "{traceback}");
    let url = cluster.engine.cluster_url().unwrap().to_string();
    assert_eq!(found.executor, Some(url));
    settles(&cluster).await;
    assert_eq!(cluster.number("select c.odd(1)").await, 1);
    assert_eq!(info(&cluster).restarts, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_rows_become_null_are_dropped_or_listed() {
    let cluster = with_actor(2).await;
    let rows = |policy: &str| {
        format!(
            "select count(*), count(odd), sum(odd) from \
             map((select k as x from numbers where k % 5000 < 100), c.odd, on_error => '{policy}')"
        )
    };
    let text = cluster.text(&rows("null")).await;
    assert!(
        text.contains("| 400      | 200        | 1510000 "),
        "{text}"
    );
    for policy in ["drop", "dead_letter"] {
        let text = cluster.text(&rows(policy)).await;
        assert!(
            text.contains("| 200      | 200        | 1510000 "),
            "{text}"
        );
    }
    let listed = "select count(*), count(distinct message), min(error_type) from system.errors \
                  where function = 'c.odd' and traceback like '%raise ValueError%'";
    let text = cluster.text(listed).await;
    assert!(
        text.contains("| 200      | 200 ") && text.contains("ValueError"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_leaves_the_actor_and_nothing_else() {
    let cluster = with_actor(3).await;
    let mut cluster = cluster;
    let context = SessionContext::new_with_state(cluster.state.clone());
    context.sql("SET mobula.udf_batch_rows = 1").await.unwrap();
    cluster.state = context.state();
    let pid = info(&cluster).pid;
    assert_eq!(
        cluster
            .query("select c.slow(k) from numbers limit 3")
            .await
            .unwrap()
            .len(),
        3
    );
    settles(&cluster).await;
    let n = cluster.number("select c.get()").await;
    // Of 20,000 calls those read, one at work and what was on its way.
    assert!(n < 60, "{n}");
    let plan = cluster
        .state
        .create_logical_plan("select c.slow(k) from numbers");
    let mut run = cluster
        .engine
        .run(&cluster.state, plan.await.unwrap())
        .await
        .unwrap();
    run.stream.try_next().await.unwrap().unwrap();
    drop(run);
    settles(&cluster).await;
    let n = cluster.number("select c.get()").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(cluster.number("select c.get()").await, n);
    let now = info(&cluster);
    assert_eq!((now.pid, now.restarts, now.queue), (pid, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_dies_is_built_anew_and_the_block_sent_again() {
    let cluster = with_actor(2).await;
    let flag = tempfile::tempdir().unwrap();
    let path = flag.path().join("died");
    let sql = format!(
        "select sum(c.dies('{}')) from numbers where k < 9",
        path.display()
    );
    assert_eq!(cluster.number(&sql).await, 9);
    assert_eq!(info(&cluster).restarts, 1);
    let pid = info(&cluster).pid.unwrap();
    let killed = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status();
    assert!(killed.unwrap().success());
    assert_eq!(
        cluster.number("select max(c.add(1)) from numbers").await,
        20_000
    );
    assert_eq!(info(&cluster).restarts, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_was_dropped_says_so_on_executors() {
    let cluster = with_actor(2).await;
    drop(cluster.engine.actors().take("c"));
    let found = classify(
        &cluster
            .query("select sum(c.add(k)) from numbers")
            .await
            .unwrap_err(),
    );
    assert_eq!(found.class, ErrorClass::Unavailable);
    let said = "actor \"c\" was dropped or replaced while \"c.add\" was called";
    assert!(found.message.starts_with(said), "{}", found.message);
    // While it waits, too.
    let cluster = with_actor(2).await;
    let (engine, state) = (Arc::clone(&cluster.engine), cluster.state.clone());
    let waiting = spawn_named("query", async move {
        query(&engine, &state, "select sum(c.slow(k)) from numbers").await
    });
    while info(&cluster).calls == 0 && info(&cluster).queue == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(cluster.engine.actors().take("c"));
    let found = classify(&waiting.join().await.unwrap().unwrap_err());
    assert_eq!(found.class, ErrorClass::Unavailable, "{}", found.message);
}

/// Passes connections on to the coordinator, and cuts them when told.
struct Proxy {
    address: SocketAddr,
    cut: watch::Sender<u32>,
    _task: OwnedTask<()>,
}

impl Proxy {
    async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, _) = watch::channel(0);
        let cuts = cut.clone();
        let task = spawn_named("proxy", async move {
            let mut open = vec![];
            loop {
                let (mut one, _) = listener.accept().await.unwrap();
                let mut cut = cuts.subscribe();
                open.push(spawn_named("way", async move {
                    let mut other = TcpStream::connect(to).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut one, &mut other) => {}
                        _ = cut.changed() => {}
                    }
                }));
            }
        });
        Self {
            address,
            cut,
            _task: task,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_is_made_again_and_its_blocks_sent_once_more() {
    let mut cluster = TestCluster::start(0, false).await;
    create(&mut cluster, "c").await;
    let proxy = Proxy::start(cluster.engine.cluster_address().unwrap()).await;
    for _ in 0..2 {
        let mut settings = cluster.executor_settings();
        settings.coordinator = format!("grpc://{}", proxy.address);
        cluster.add_executor_with(settings).await;
    }
    let context = SessionContext::new_with_state(cluster.state.clone());
    context.sql("SET mobula.udf_batch_rows = 2").await.unwrap();
    cluster.state = context.state();
    let (engine, state) = (Arc::clone(&cluster.engine), cluster.state.clone());
    let running = spawn_named("query", async move {
        let sql = "select count(*), count(distinct n) from \
                   (select c.slow(k) as n from numbers where k % 5000 < 6)";
        query(&engine, &state, sql).await
    });
    while info(&cluster).calls < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.cut.send_replace(1);
    let rows = running.join().await.unwrap().unwrap();
    let text = pretty_format_batches(&rows).unwrap().to_string();
    assert!(text.contains("| 24       | 24 "), "{text}");
    // What was at work or in line when it broke was done twice at most.
    let calls = cluster.number("select c.get()").await;
    assert!((24..=24 + 2 * 2 * 2).contains(&calls), "{calls}");
    let retries =
        cluster.number("select sum(retries) from system.operators where function = 'c.slow'");
    assert!(retries.await >= 1);
    settles(&cluster).await;
}

type Client = FlightServiceClient<tonic::transport::Channel>;

async fn client(cluster: &TestCluster) -> Client {
    let address = cluster.engine.cluster_address().unwrap();
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    FlightServiceClient::new(endpoint.unwrap().connect().await.unwrap())
}

async fn exchange(client: &mut Client, token: Option<&str>, messages: Vec<FlightData>) -> Code {
    let mut request = tonic::Request::new(futures::stream::iter(messages));
    if let Some(token) = token {
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
    }
    let answers = client.do_exchange(request).await;
    let told = match answers {
        Ok(answers) => answers.into_inner().try_collect::<Vec<_>>().await,
        Err(status) => Err(status),
    };
    match told {
        Ok(_) => Code::Ok,
        Err(status) => {
            assert!(!status.message().is_empty());
            status.code()
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_needs_the_token_and_garbage_harms_nobody() {
    let cluster = with_actor(1).await;
    let mut client = client(&cluster).await;
    let token = std::fs::read_to_string(cluster.data.path().join("token")).unwrap();
    let token = token.trim();
    let command = |bytes: &[u8]| {
        let descriptor = FlightDescriptor::new_cmd(bytes.to_vec());
        FlightData::new().with_descriptor(descriptor)
    };
    let refused = exchange(&mut client, None, vec![command(b"x")]).await;
    assert_eq!(refused, Code::Unauthenticated);
    let wrong = "x".repeat(token.len());
    let refused = exchange(&mut client, Some(&wrong), vec![command(b"x")]).await;
    assert_eq!(refused, Code::Unauthenticated);
    let garbage: HashMap<&str, Vec<FlightData>> = HashMap::from([
        ("nothing", vec![]),
        ("an empty message", vec![FlightData::new()]),
        ("a command", vec![command(b"\xFF\x00garbage")]),
        (
            "a block",
            vec![FlightData::new().with_data_body(vec![1; 100])],
        ),
    ]);
    for (what, messages) in garbage {
        let refused = exchange(&mut client, Some(token), messages).await;
        assert_eq!(refused, Code::InvalidArgument, "{what}");
    }
    settles(&cluster).await;
    assert_eq!(
        cluster.number("select max(c.add(1)) from numbers").await,
        20_000
    );
}
