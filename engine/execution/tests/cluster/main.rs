//! A coordinator and executors in one test process, over real sockets.
//!
//! Pins what we rely on from the base (stages are cut, rows are right, the
//! block RPC is ours) and what we promise above it: membership changes the next
//! query, options arrive, every byte is counted, losses are named.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod actors;
mod busy;
mod native_pools;
mod operators;
mod pools;
mod query_scaling;
mod resources;
mod scaling;
mod tasks;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
    MemorySchemaProvider,
};
use datafusion::execution::SessionState;
use datafusion::execution::options::ParquetReadOptions;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use mobula_execution::{
    ClusterSettings, ClusterToken, Engine, EngineSettings, ErrorClass, Executor, ExecutorSettings,
    OwnedTask, RustFunctions, classify, spawn_named,
};
use mobula_plan::MobulaOptions;
use mobula_udfs::{Native, NativeError};
use tokio::sync::oneshot;

const GROUPS: &str = "select k % 7 as g, count(*) as n, sum(k) as s, max(t) as t \
                      from numbers group by 1 order by 1";

struct TestCluster {
    engine: Arc<Engine>,
    state: SessionState,
    token: ClusterToken,
    /// Of the executors to come.
    functions: RustFunctions,
    executors: Vec<TestExecutor>,
    /// Files of tables, and the token.
    data: tempfile::TempDir,
}

struct TestExecutor {
    stop: oneshot::Sender<()>,
    task: OwnedTask<()>,
}

fn options() -> MobulaOptions {
    let mut options = MobulaOptions::default();
    // Tiny files would stay in one task; these tests are about many.
    options.set_value("scan_bytes_per_task", "1").unwrap();
    // Whatever this machine has.
    options.set_value("gpus", "0").unwrap();
    options
}

fn python() -> PathBuf {
    std::env::var_os("MOBULA_PYTHON").map_or_else(|| "python3".into(), PathBuf::from)
}

fn engine_settings() -> EngineSettings {
    EngineSettings {
        options: options(),
        python: python(),
    }
}

impl TestCluster {
    async fn start(n_executors: usize, local_executor: bool) -> Self {
        Self::start_with(n_executors, local_executor, RustFunctions::new()).await
    }

    async fn start_with(
        n_executors: usize,
        local_executor: bool,
        functions: RustFunctions,
    ) -> Self {
        let data = tempfile::tempdir().unwrap();
        let token = ClusterToken::read_or_create(&data.path().join("token")).unwrap();
        let cluster = ClusterSettings {
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            token: token.clone(),
            local_executor,
        };
        let engine = Engine::coordinator_with(engine_settings(), cluster, functions.clone());
        let engine = engine.await.unwrap();
        let state = state_over(&engine, data.path()).await;
        let mut cluster = Self {
            engine,
            state,
            token,
            functions,
            executors: vec![],
            data,
        };
        for _ in 0..n_executors {
            cluster.add_executor().await;
        }
        cluster
    }

    async fn add_executor(&mut self) {
        self.add_executor_at(None).await;
    }

    /// Adds one that says that others reach it at `advertise`.
    async fn add_executor_at(&mut self, advertise: Option<String>) {
        let mut settings = self.executor_settings();
        settings.advertise = advertise;
        self.add_executor_with(settings).await;
    }

    async fn add_executor_with(&mut self, settings: ExecutorSettings) {
        let executor = Executor::start_with(settings, self.functions.clone());
        let executor = executor.await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = spawn_named("executor", async move {
            executor
                .run(async {
                    let _ = stopped.await;
                })
                .await
                .unwrap();
        });
        self.executors.push(TestExecutor { stop, task });
        self.engine
            .wait_for_executors(self.executors.len(), Duration::from_secs(10))
            .await
            .unwrap();
    }

    fn executor_settings(&self) -> ExecutorSettings {
        ExecutorSettings {
            coordinator: format!("grpc://{}", self.engine.cluster_address().unwrap()),
            token: self.token.clone(),
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            options: options(),
            python: python(),
            id: None,
        }
    }

    async fn query(&self, sql: &str) -> datafusion::common::Result<Vec<RecordBatch>> {
        query(&self.engine, &self.state, sql).await
    }

    async fn text(&self, sql: &str) -> String {
        let rows = self.query(sql).await.unwrap();
        pretty_format_batches(&rows).unwrap().to_string()
    }

    async fn number(&self, sql: &str) -> u64 {
        let rows = self.query(sql).await.unwrap();
        let column = rows[0].column(0);
        match column.as_primitive_opt::<UInt64Type>() {
            Some(unsigned) => unsigned.value(0),
            None => column.as_primitive::<Int64Type>().value(0) as u64,
        }
    }
}

async fn query(
    engine: &Engine,
    state: &SessionState,
    sql: &str,
) -> datafusion::common::Result<Vec<RecordBatch>> {
    let plan = state.create_logical_plan(sql).await?;
    engine.run(state, plan).await?.stream.try_collect().await
}

/// A session over `numbers` (four files) with `system` beside it.
async fn state_over(engine: &Arc<Engine>, data: &Path) -> SessionState {
    if !data.join("numbers").exists() {
        write_numbers(&data.join("numbers"));
    }
    let catalog = MemoryCatalogProvider::new();
    catalog
        .register_schema("public", Arc::new(MemorySchemaProvider::new()))
        .unwrap();
    catalog
        .register_schema("system", engine.system_schema())
        .unwrap();
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog("mobula".into(), Arc::new(catalog));
    let state = engine.session_state("test", Arc::new(catalogs), engine.functions(), options());
    SessionContext::new_with_state(state.clone())
        .register_parquet(
            "numbers",
            data.join("numbers").to_str().unwrap(),
            ParquetReadOptions::default(),
        )
        .await
        .unwrap();
    state
}

fn write_numbers(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    for part in 0..4i64 {
        let keys = part * 5000..(part + 1) * 5000;
        let block = RecordBatch::try_from_iter([
            (
                "k",
                Arc::new(Int64Array::from_iter_values(keys.clone())) as _,
            ),
            (
                "t",
                Arc::new(StringArray::from_iter_values(
                    keys.map(|k| format!("value {k}")),
                )) as _,
            ),
        ])
        .unwrap();
        let file = std::fs::File::create(dir.join(format!("{part}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(file, block.schema(), None).unwrap();
        writer.write(&block).unwrap();
        writer.close().unwrap();
    }
}

async fn embedded_text(sql: &str) -> String {
    let engine = Engine::embedded(engine_settings()).unwrap();
    let data = tempfile::tempdir().unwrap();
    let state = state_over(&engine, data.path()).await;
    let rows = query(&engine, &state, sql).await.unwrap();
    pretty_format_batches(&rows).unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn same_rows_on_one_process_and_on_three_executors() {
    let cluster = TestCluster::start(3, false).await;
    let plan = cluster.text(&format!("explain {GROUPS}")).await;
    assert!(plan.contains("tasks=3"), "{plan}");
    assert_eq!(cluster.text(GROUPS).await, embedded_text(GROUPS).await);
    let join = "select count(*), sum(a.k) from numbers a join numbers b on a.k = b.k + 1 where b.t like '%9'";
    assert_eq!(cluster.text(join).await, embedded_text(join).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_sent_is_received_by_someone() {
    let cluster = TestCluster::start(2, true).await;
    cluster.query(GROUPS).await.unwrap();
    let sum = |column: &str| format!("select sum({column}) from system.executors");
    let both = async {
        loop {
            // Executors report with their heartbeats.
            let sent = cluster.number(&sum("bytes_sent")).await;
            if sent > 0 && sent == cluster.number(&sum("bytes_received")).await {
                return sent;
            }
            tokio::task::yield_now().await;
        }
    };
    let sent = tokio::time::timeout(Duration::from_secs(10), both).await;
    assert!(
        sent.is_ok(),
        "{}",
        cluster.text("select * from system.executors").await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_and_a_leave_change_the_next_query() {
    let mut cluster = TestCluster::start(2, false).await;
    let explain = format!("explain {GROUPS}");
    assert!(cluster.text(&explain).await.contains("tasks=2"));
    cluster.add_executor().await;
    assert!(cluster.text(&explain).await.contains("tasks=3"));
    for executor in cluster.executors.drain(..) {
        executor.stop.send(()).unwrap();
        executor.task.join().await.unwrap();
    }
    assert_eq!(
        cluster
            .number("select count(*) from system.executors")
            .await,
        1
    );
    let error = cluster.query(GROUPS).await.unwrap_err();
    let found = classify(&error);
    assert_eq!(found.class, ErrorClass::Unavailable);
    assert!(found.message.contains("no executor"), "{}", found.message);
    assert_eq!(cluster.number("select 41 + 1").await, 42);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_go_to_as_many_executors_as_there_are_of_both() {
    let cluster = TestCluster::start(3, false).await;
    let stages = |partitions| {
        let rows =
            format!("repartition((SELECT value FROM generate_series(1, 999)), {partitions})");
        format!("explain select value % 7, count(*) from {rows} group by 1")
    };
    for (partitions, tasks, each) in [(1, 1, 1), (2, 2, 1), (3, 3, 1), (7, 3, 3)] {
        let found = cluster.text(&stages(partitions)).await;
        let all = tasks * each;
        let (many, spread) = match tasks {
            1 => (String::new(), format!("SpreadExec: partitions={all}")),
            _ => (
                format!("tasks={tasks}"),
                format!("SpreadExec: partitions={all}, tasks={tasks}"),
            ),
        };
        assert!(found.contains(&many) && found.contains(&spread), "{found}");
        assert!(
            found.contains(&format!("RouteExec: partitions={all}")),
            "{found}"
        );
    }
    // Each of them got its third of the rows.
    let counts = "select n, count(*) from (select count(*) as n from \
                  repartition((SELECT value FROM generate_series(1, 999)), 3) \
                  group by value % 1) group by n";
    assert!(cluster.text(counts).await.contains("| 999 | 1 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_says_which_limit_cut_a_scan() {
    let cluster = TestCluster::start(3, false).await;
    let explain = "explain select k from numbers";
    let found = cluster.text(explain).await;
    let tasks =
        "3 tasks: as many as there are processes to take them; scan_bytes_per_task=1.0 B asks for";
    assert!(found.contains(tasks), "{found}");
    let alone = embedded_text(explain).await;
    assert!(
        alone.contains("1 task: one process runs the query"),
        "{alone}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_on_an_executor_keeps_class_and_address() {
    let cluster = TestCluster::start(2, false).await;
    let error = cluster
        .query(
            "select g, sum(100 / (k - 7777)) from (select k % 3 as g, k from numbers) group by g",
        )
        .await
        .unwrap_err();
    let found = classify(&error);
    assert_eq!(found.class, ErrorClass::User, "{}", found.message);
    assert!(
        found.message.to_lowercase().contains("divi"),
        "{}",
        found.message
    );
    assert!(
        found
            .executor
            .is_some_and(|url| url.starts_with("http://127.0.0.1:"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_token_no_port_accepts_anything() {
    let cluster = TestCluster::start(1, false).await;
    let mut wrong = cluster.executor_settings();
    wrong.token = ClusterToken::generate();
    let error = Executor::start(wrong).await.err().unwrap().to_string();
    assert!(error.contains("token"), "{error}");

    let address = cluster.engine.cluster_address().unwrap();
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = arrow_flight::flight_service_client::FlightServiceClient::new(channel);
    let status = client
        .do_get(arrow_flight::Ticket::new("x"))
        .await
        .err()
        .unwrap();
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
}

fn rust_functions() -> RustFunctions {
    let code = |batch: &RecordBatch| -> Result<ArrayRef, NativeError> {
        let k = batch.column(0).as_primitive::<Int64Type>();
        assert!(k.iter().all(|k| k != Some(19_999)), "19999 is the last");
        Ok(Arc::new(k.unary::<_, Int64Type>(|k| 2 * k)))
    };
    let double = Native::scalar("double_of", [("k", DataType::Int64)], DataType::Int64, code);
    let negative = create_udf(
        "negative",
        vec![DataType::Int64],
        DataType::Int64,
        Volatility::Immutable,
        Arc::new(|args| {
            let values = ColumnarValue::values_to_arrays(args)?;
            let values = values[0].as_primitive::<Int64Type>();
            let negated = values.unary::<_, Int64Type>(|k| -k);
            Ok(ColumnarValue::Array(Arc::new(negated)))
        }),
    );
    let functions = RustFunctions::new().with_native(double.immutable());
    functions.unwrap().with_scalar(negative)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_in_rust_run_on_executors() {
    let cluster = TestCluster::start_with(3, false, rust_functions()).await;
    let sql = "select count(*), sum(d), sum(k) from \
               (select k, double_of(k) as d, negative(k) as n from numbers where k < 19000) \
               where n <= 0";
    let text = cluster.text(sql).await;
    assert!(text.contains("360981000"), "{text}");
    let stages = cluster.text(&format!("explain {sql}")).await;
    assert!(stages.contains("tasks=3"), "{stages}");
    assert!(
        stages.contains("udf=double_of, kind=scalar, language=native"),
        "{stages}"
    );
    let error = cluster.query("select sum(double_of(k)) from numbers").await;
    let found = classify(&error.unwrap_err());
    assert_eq!(found.class, ErrorClass::User);
    assert_eq!(
        found.message,
        "function \"double_of\" failed: panicked: 19999 is the last"
    );
    assert!(found.executor.is_some());
    // Nothing else died.
    assert!(cluster.text(sql).await.contains("360981000"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_of_another_program_says_what_it_lacks() {
    let mut cluster = TestCluster::start_with(1, false, rust_functions()).await;
    cluster.functions = RustFunctions::new();
    cluster.add_executor().await;
    let sql = "select sum(double_of(k)) from numbers where k < 19000";
    let found = classify(&cluster.query(sql).await.unwrap_err());
    assert_eq!(found.class, ErrorClass::Setup);
    let lacking = "function \"double_of\" is native, and the program of executor \"e-";
    assert!(found.message.starts_with(lacking), "{}", found.message);
}

#[test]
fn a_native_function_with_a_taken_name_is_refused() {
    let code =
        |batch: &RecordBatch| -> Result<ArrayRef, NativeError> { Ok(Arc::clone(batch.column(0))) };
    for name in ["abs", "sum", "map_batches", "generate_series"] {
        let int = DataType::Int64;
        let native = Native::scalar(name, [("x", int.clone())], int, code);
        let functions = RustFunctions::new().with_native(native).unwrap();
        let error = Engine::embedded_with(engine_settings(), functions).unwrap_err();
        assert!(error.to_string().contains("is built in"), "{error}");
    }
}
