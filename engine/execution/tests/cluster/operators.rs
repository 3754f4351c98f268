//! `system.operators` while a query runs and after it, over executors that answer
//! and one that does not.

use std::sync::{Condvar, Mutex};
use std::time::Instant;

use super::*;

const RUNNING: &str = "from system.operators where function = 'gated' and state = 'running'";
const ENDED: &str = "from system.operators where function = 'gated' and state = 'ended'";

/// Holds a function back at the last rows of each file.
#[derive(Default)]
pub(super) struct Gate {
    is_open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    pub(super) fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    /// Waits until it is open; not for ever.
    fn pass(&self) -> Result<(), NativeError> {
        let is_open = self.is_open.lock().unwrap();
        let limit = Duration::from_secs(60);
        let waited = self
            .changed
            .wait_timeout_while(is_open, limit, |open| !*open);
        match waited.unwrap().1.timed_out() {
            true => Err("nobody opened the gate".into()),
            false => Ok(()),
        }
    }
}

pub(super) fn gated(gate: &Arc<Gate>) -> RustFunctions {
    let gate = Arc::clone(gate);
    let code = move |batch: &RecordBatch| -> Result<ArrayRef, NativeError> {
        let k = batch.column(0).as_primitive::<Int64Type>();
        if k.iter().flatten().any(|k| k % 5000 == 4999) {
            gate.pass()?;
        }
        Ok(Arc::clone(batch.column(0)))
    };
    let gated = Native::scalar("gated", [("k", DataType::Int64)], DataType::Int64, code);
    RustFunctions::new().with_native(gated.immutable()).unwrap()
}

/// Asks until `sql` gives at least `wanted`.
pub(super) async fn reaches(cluster: &TestCluster, sql: &str, wanted: u64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while cluster.number(sql).await < wanted {
        let all = "select * from system.operators";
        assert!(
            Instant::now() < deadline,
            "{sql}\n{}",
            cluster.text(all).await
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_listed_with_what_they_have_done_while_they_run_and_after() {
    let gate = Arc::<Gate>::default();
    let mut cluster = TestCluster::start_with(3, false, gated(&gate)).await;
    let context = SessionContext::new_with_state(cluster.state.clone());
    // Several calls for each file.
    context
        .sql("SET mobula.udf_batch_rows = 500")
        .await
        .unwrap();
    cluster.state = context.state();
    let (engine, state) = (Arc::clone(&cluster.engine), cluster.state.clone());
    let running = spawn_named("query", async move {
        query(&engine, &state, "select sum(gated(k)) from numbers").await
    });

    reaches(
        &cluster,
        &format!("select count(distinct executor_id) {RUNNING}"),
        2,
    )
    .await;
    let busy = format!("{RUNNING} and calls > 0 and rows_in > 0 and rows_out > 0");
    reaches(&cluster, &format!("select count(*) {busy}"), 2).await;
    // Long enough for a wait of milliseconds.
    reaches(&cluster, &format!("select max(elapsed_ms) {RUNNING}"), 100).await;
    assert_eq!(cluster.number(&format!("select count(*) {ENDED}")).await, 0);
    gate.open();
    let sum = running.join().await.unwrap().unwrap();
    assert_eq!(
        sum[0].column(0).as_primitive::<Int64Type>().value(0),
        199_990_000
    );

    reaches(&cluster, &format!("select sum(rows_in) {ENDED}"), 20_000).await;
    let all = cluster.text("select * from system.operators").await;
    assert_eq!(
        cluster.number(&format!("select count(*) {RUNNING}")).await,
        0,
        "{all}"
    );
    let totals = format!(
        "select sum(rows_in), sum(rows_out), sum(calls), count(distinct query_id), \
         count(distinct operator), sum(wait_workers_ms) > 0 {ENDED}"
    );
    let totals = cluster.text(&totals).await;
    assert!(
        totals.contains("| 20000 ") && totals.matches("20000").count() == 2,
        "{totals}"
    );
    assert!(
        totals.contains("| 40 ") && totals.contains("true"),
        "{totals}\n{all}"
    );
    assert!(!all.contains("coordinator"), "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_that_does_not_answer_is_left_out() {
    let gate = Arc::<Gate>::default();
    gate.open();
    let mut cluster = TestCluster::start_with(2, false, gated(&gate)).await;
    cluster
        .query("select sum(gated(k)) from numbers")
        .await
        .unwrap();
    let executors = "select count(distinct executor_id) from system.operators";
    reaches(&cluster, executors, 2).await;
    // Alive by its heartbeats; where it says it is, connections get no word.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap().to_string();
    cluster.add_executor_at(Some(address)).await;
    let members = "select count(*) from system.executors where role = 'executor'";
    assert_eq!(cluster.number(members).await, 3);
    let workers = cluster.query("select count(*) from system.workers");
    let found = tokio::time::timeout(Duration::from_secs(20), workers).await;
    found.unwrap().unwrap();
    // The others still have their rows.
    reaches(&cluster, executors, 2).await;
}

#[tokio::test]
async fn as_many_ended_operators_are_kept_as_the_setting_says() {
    let gate = Arc::<Gate>::default();
    gate.open();
    let mut settings = engine_settings();
    settings.options.set_value("operators_kept", "2").unwrap();
    let engine = Engine::embedded_with(settings, gated(&gate)).unwrap();
    let data = tempfile::tempdir().unwrap();
    let state = state_over(&engine, data.path()).await;
    for limit in [1000, 2000, 3000] {
        let sql = format!("select sum(gated(k)) from numbers where k < {limit}");
        query(&engine, &state, &sql).await.unwrap();
    }
    let kept = "select executor_id, rows_in from system.operators order by rows_in";
    let kept = query(&engine, &state, kept).await.unwrap();
    let kept = pretty_format_batches(&kept).unwrap().to_string();
    assert!(kept.contains("| embedded    | 2000    |"), "{kept}");
    assert!(kept.contains("| embedded    | 3000    |"), "{kept}");
    assert!(!kept.contains("1000"), "{kept}");
}
