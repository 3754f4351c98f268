//! What executors have: told, listed, and asked for.

use arrow::datatypes::Float64Type;
use mobula_udfs::{
    CallDefaults, Demand, FunctionSpec, Language, ObjectKind, Param, ParamKind, Returns,
};

use super::*;

const HOST: &[(&str, &str)] = &[
    ("roles", "actors"),
    ("gpus", "2"),
    ("cpus", "1.5"),
    ("memory", "1GiB"),
    ("resource", "fpga=1"),
    ("label", "zone=a"),
];

/// Adds an executor named `id` with settings of its own.
pub async fn add(cluster: &mut TestCluster, id: &str, own: &[(&str, &str)]) {
    let mut settings = cluster.executor_settings();
    settings.id = Some(id.to_owned());
    for (key, value) in own {
        settings.options.set_value(key, value).unwrap();
    }
    cluster.add_executor_with(settings).await;
}

/// A class that asks for `gpus`; nothing here runs it.
fn asks_for(engine: &Engine, name: &str, demand: Demand) {
    engine.functions().insert(Arc::new(FunctionSpec {
        name: name.to_owned(),
        language: Language::Python,
        params: vec![Param {
            name: "k".to_owned(),
            kind: ParamKind::Value(DataType::Int64),
        }],
        returns: Returns::Scalar(DataType::Int64),
        object: ObjectKind::Class,
        volatility: mobula_udfs::Volatility::Volatile,
        strict: false,
        body: "x".to_owned(),
        defaults: CallDefaults {
            demand,
            ..CallDefaults::default()
        },
        actor: None,
    }));
}

fn gpus(milli: u64) -> Demand {
    Demand {
        gpus: Some(mobula_udfs::Amount::from_milli(milli)),
        ..Demand::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_for_actors_gets_no_tasks() {
    let mut cluster = TestCluster::start(2, false).await;
    add(&mut cluster, "host", HOST).await;
    let plan = cluster.text(&format!("explain {GROUPS}")).await;
    assert!(
        plan.contains("tasks=2") && !plan.contains("tasks=3"),
        "{plan}"
    );
    cluster.query(GROUPS).await.unwrap();
    let told = async {
        // Executors report with their heartbeats.
        let others = "select min(tasks_started) from system.executors where role = 'executor' and takes_tasks";
        while cluster.number(others).await == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(600)).await;
    };
    tokio::time::timeout(Duration::from_secs(10), told)
        .await
        .unwrap();
    let found = cluster
        .text("select takes_tasks, runs_actors, tasks_started, cpus, cpus_free, gpus, gpus_free, gpu_ids, memory_bytes, memory_free_bytes, resources, resources_free, labels from system.executors where executor_id = 'host'")
        .await;
    let words: Vec<_> = found
        .split_whitespace()
        .filter(|word| *word != "|")
        .collect();
    let expected = "false true 0 1.5 1.5 2.0 2.0 0,1 1073741824 1073741824 fpga=1 fpga=1 zone=a";
    assert!(words.join(" ").contains(expected), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_of_actors_alone_run_no_scans() {
    let mut cluster = TestCluster::start(0, false).await;
    add(&mut cluster, "host", HOST).await;
    let found = classify(&cluster.query(GROUPS).await.unwrap_err());
    assert_eq!(found.class, ErrorClass::Unavailable);
    assert!(found.message.contains("--roles tasks"), "{}", found.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demand_that_cannot_be_met_is_refused_before_anything_starts() {
    let mut cluster = TestCluster::start_with(1, true, RustFunctions::new()).await;
    add(&mut cluster, "host", HOST).await;
    asks_for(&cluster.engine, "three", gpus(3000));
    asks_for(&cluster.engine, "none", gpus(0));
    cluster.engine.sync_functions(&mut cluster.state);
    for (function, wanted) in [
        (
            "three",
            "\"three\" asks for num_gpus => 3 for each worker, and no process has as much: ",
        ),
        ("three", "host has 2 GPUs"),
    ] {
        for explain in ["", "explain ", "explain analyze "] {
            let sql = format!("{explain}select {function}(k) from numbers");
            let found = classify(&cluster.query(&sql).await.unwrap_err());
            assert_eq!(found.class, ErrorClass::User);
            assert!(found.message.contains(wanted), "{}", found.message);
        }
    }
    // What asks for something does not keep the others from their tasks.
    let asked = cluster.text("explain select none(k) from numbers").await;
    assert!(
        asked.contains("num_gpus=0") && asked.contains("tasks=2"),
        "{asked}"
    );
}

/// An engine of this process alone with two GPUs and classes `a` and `b` that ask for
/// one each.
async fn two_gpus(patience: &str) -> (Arc<Engine>, SessionState, tempfile::TempDir) {
    let mut settings = engine_settings();
    for (key, value) in [("gpus", "2"), ("udf_init_timeout", patience)] {
        settings.options.set_value(key, value).unwrap();
    }
    let engine = Engine::embedded(settings).unwrap();
    asks_for(&engine, "a", gpus(1000));
    asks_for(&engine, "b", gpus(1000));
    let data = tempfile::tempdir().unwrap();
    let state = state_over(&engine, data.path()).await;
    (engine, state, data)
}

/// Starts `sql`, whose classes nobody builds before its stream is read.
async fn started(
    engine: &Engine,
    state: &SessionState,
    sql: &str,
) -> datafusion::common::Result<mobula_execution::QueryRun> {
    let plan = state.create_logical_plan(sql).await?;
    engine.run(state, plan).await
}

/// Waits until so many GPUs are free: who has one has it until it is gone.
async fn free(engine: &Engine, state: &SessionState, wanted: f64) {
    let sql = "select gpus_free from system.executors";
    let wait = async {
        loop {
            let rows = query(engine, state, sql).await.unwrap();
            if rows[0].column(0).as_primitive::<Float64Type>().value(0) == wanted {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let came = tokio::time::timeout(Duration::from_secs(30), wait).await;
    assert!(came.is_ok(), "{wanted} GPUs are never free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_queries_of_two_gpus_do_not_lock() {
    let (engine, state, _data) = two_gpus("30s").await;
    let both = "select a(k), b(k) from numbers";
    let first = started(&engine, &state, both).await.unwrap();
    free(&engine, &state, 0.0).await;
    {
        let mut second = std::pin::pin!(started(&engine, &state, both));
        let mut small = std::pin::pin!(started(&engine, &state, "select a(k) from numbers"));
        let early = Duration::from_millis(200);
        assert!(tokio::time::timeout(early, second.as_mut()).await.is_err());
        assert!(tokio::time::timeout(early, small.as_mut()).await.is_err());
        let line = "select state, waits_for, ahead from system.queries order by started, state";
        let rows = query(&engine, &state, line).await.unwrap();
        let found = pretty_format_batches(&rows).unwrap().to_string();
        let words: Vec<_> = found
            .split_whitespace()
            .filter(|word| *word != "|")
            .collect();
        let both = "\"b\" for 1 GPU, \"a\" for 1 GPU";
        let expected = format!("running waiting {both} 0 waiting \"a\" for 1 GPU 1 planning");
        assert!(words.join(" ").contains(&expected), "{found}");
        // Who asks for nothing passes.
        assert_eq!(
            query(&engine, &state, GROUPS).await.unwrap()[0].num_rows(),
            7
        );
        drop(first);
        let second = second.await.unwrap();
        free(&engine, &state, 0.0).await;
        assert!(tokio::time::timeout(early, small.as_mut()).await.is_err());
        drop(second);
        let small = small.await.unwrap();
        free(&engine, &state, 1.0).await;
        drop(small);
    }
    free(&engine, &state, 2.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_gets_all_or_waits_and_not_for_ever() {
    let (engine, state, _data) = two_gpus("200ms").await;
    let first = started(&engine, &state, "select a(k) from numbers")
        .await
        .unwrap();
    let both = started(&engine, &state, "select a(k), b(k) from numbers").await;
    let found = classify(&both.err().unwrap());
    assert_eq!(found.class, ErrorClass::ResourceExhausted);
    let wanted = format!(
        "waited 200ms for resources (\"b\" for 1 GPU, \"a\" for 1 GPU) that query {} kept",
        first.query_id
    );
    assert!(
        found.message.contains(&wanted),
        "{}\n{wanted}",
        found.message
    );
    free(&engine, &state, 1.0).await;
    let three = "select a(k), b(k), a(k + 1) from numbers";
    let found = classify(&started(&engine, &state, three).await.err().unwrap());
    assert_eq!(found.class, ErrorClass::User);
    assert!(
        found.message.contains("ask for more than there is at once"),
        "{}",
        found.message
    );
}
