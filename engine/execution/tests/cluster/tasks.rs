//! Where tasks run, and what `system.tasks` says of them.

use super::operators::{Gate, gated, reaches};
use super::*;

/// One task feeds three, those three more, and these the client.
const ONE_TO_THREE: &str = "select g, count(*) from (select value % 7 as g from \
                            repartition((SELECT value FROM generate_series(1, 9999)), 3)) \
                            group by g";
/// Of a query's tasks those below its last stage.
const BELOW: &str = "from system.tasks where stage > 0";

async fn set(cluster: &mut TestCluster, setting: &str) {
    let context = SessionContext::new_with_state(cluster.state.clone());
    context.sql(&format!("SET mobula.{setting}")).await.unwrap();
    cluster.state = context.state();
}

/// Waits until what was sent has been received by someone, and executors have said so.
async fn bytes_agree(cluster: &TestCluster) {
    let agree = "select count(*) from (select sum(bytes_sent) as sent, sum(bytes_received) as \
                 received from system.executors) where sent > 0 and sent = received";
    reaches(cluster, agree, 1).await;
}

/// Waits until no task has another state than `finished`.
async fn all_finished(cluster: &TestCluster) {
    let others = "select count(*) as n from system.tasks where state <> 'finished'";
    let none = format!("select count(*) from ({others}) where n = 0");
    reaches(cluster, &none, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_beside_their_input_read_nothing_over_sockets() {
    let mut cluster = TestCluster::start(3, false).await;
    set(&mut cluster, "task_skew_max = 2").await;
    cluster.query(ONE_TO_THREE).await.unwrap();
    all_finished(&cluster).await;
    let all = cluster.text("select * from system.tasks").await;
    let below = format!(
        "select count(distinct executor_id), count(distinct stage) >= 2, sum(remote_bytes), \
         sum(local_bytes) > 0 {BELOW}"
    );
    let below = cluster.query(&below).await.unwrap();
    let below = pretty_format_batches(&below).unwrap().to_string();
    let row = below.lines().nth(3).unwrap();
    let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
    assert_eq!(cells, ["1", "true", "0", "true"], "{all}");
    // Only the client's stage, which runs elsewhere, received bytes.
    bytes_agree(&cluster).await;
    let received = "select sum(bytes_received) from system.executors where role = 'executor'";
    assert_eq!(cluster.number(received).await, 0, "{all}");
    let head = "select count(*) from system.tasks where stage = 0 and remote_bytes > 0";
    assert_eq!(cluster.number(head).await, 1, "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_whose_input_is_elsewhere_say_how_much_and_where() {
    let cluster = TestCluster::start(3, false).await;
    cluster.query(ONE_TO_THREE).await.unwrap();
    all_finished(&cluster).await;
    let all = cluster.text("select * from system.tasks").await;
    // An even division comes first: one of the three is where the one below them is.
    let of_three = |which: &str| {
        format!(
            "select count(distinct executor_id) {BELOW} and tasks = 3 and stage = 2 and {which}"
        )
    };
    let there =
        "remote_bytes > 0 and local_bytes = 0 and inputs like 'stage 1 at http%bytes remote'";
    assert_eq!(cluster.number(&of_three(there)).await, 2, "{all}");
    let here = "remote_bytes = 0 and local_bytes > 0 and inputs like 'stage 1 at http%bytes local'";
    assert_eq!(cluster.number(&of_three(here)).await, 1, "{all}");
    let times = "plan_arrived <= started and started <= first_input and first_input <= finished";
    assert_eq!(cluster.number(&of_three(times)).await, 3, "{all}");
    // The one that reads no task had no input to wait for.
    let first = format!("select count(*) {BELOW} and stage = 1 and first_input is null");
    assert_eq!(cluster.number(&first).await, 1, "{all}");
    let rows = format!("select sum(rows_out) {BELOW} and stage = 1");
    assert_eq!(cluster.number(&rows).await, 9999, "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_tasks_read_elsewhere_is_what_their_processes_received() {
    for local_executor in [false, true] {
        let cluster = TestCluster::start(3, local_executor).await;
        cluster.query(GROUPS).await.unwrap();
        let join = "select count(*) from numbers a join numbers b on a.k = b.k + 1";
        cluster.query(join).await.unwrap();
        bytes_agree(&cluster).await;
        let equal = "select count(*) from system.executors e left join \
                     (select executor_id, sum(remote_bytes) as read from system.tasks \
                      group by executor_id) t on e.executor_id = t.executor_id \
                     where coalesce(t.read, 0) = e.bytes_received";
        // The server is one of them.
        reaches(&cluster, equal, 4).await;
        let all = cluster.text("select * from system.tasks").await;
        let remote = format!("select count(*) {BELOW} and remote_bytes > 0");
        assert!(cluster.number(&remote).await > 0, "{all}");
        all_finished(&cluster).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fewer_tasks_than_executors_stay_where_their_input_is() {
    let mut cluster = TestCluster::start(3, false).await;
    set(&mut cluster, "max_tasks_per_stage = 2").await;
    for _ in 0..4 {
        cluster.query(GROUPS).await.unwrap();
    }
    all_finished(&cluster).await;
    // Two stages with two tasks each.
    let strays = "select count(*) from (select query_id from system.tasks where stage > 0 \
                  group by query_id having count(distinct executor_id) <> 2 or count(*) <> 4)";
    let all = cluster
        .text("select * from system.tasks where stage > 0")
        .await;
    assert_eq!(cluster.number(strays).await, 0, "{all}");
    let alone = format!("select count(*) {BELOW} and stage = 2 and local_bytes = 0");
    assert_eq!(cluster.number(&alone).await, 0, "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_tell_of_failures_and_of_readers_that_went_away() {
    let gate = Arc::<Gate>::default();
    let mut cluster = TestCluster::start_with(3, false, gated(&gate)).await;
    let failing =
        "select g, sum(100 / (k - 7777)) from (select k % 3 as g, k from numbers) group by g";
    cluster.query(failing).await.unwrap_err();
    let failed = "select count(*) from system.tasks where state = 'failed' and stage";
    reaches(&cluster, &format!("{failed} = 0"), 1).await;
    reaches(&cluster, &format!("{failed} > 0"), 2).await;
    let over = "select count(*) from system.tasks where state <> 'running' and stage > 0";
    reaches(&cluster, over, 6).await;

    // Blocks of their own, so that the gate holds tasks and not the first block.
    set(&mut cluster, "udf_batch_rows = 500").await;
    let (engine, state) = (Arc::clone(&cluster.engine), cluster.state.clone());
    let running = spawn_named("query", async move {
        query(&engine, &state, "select sum(gated(k)) from numbers").await
    });
    let at_work = "select count(*) from system.tasks where state = 'running' and started is not null and stage > 0";
    reaches(&cluster, at_work, 2).await;
    let dropped = "select count(*) from system.tasks where state = 'dropped' and finished is not null and stage > 0";
    let before = cluster.number(dropped).await;
    drop(running);
    reaches(&cluster, dropped, before + 3).await;
    gate.open();
    let left = "select count(*) from system.tasks where state = 'running'";
    assert_eq!(cluster.number(left).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_loses_an_executor_has_failed() {
    let gate = Arc::<Gate>::default();
    let mut cluster = TestCluster::start_with(2, false, gated(&gate)).await;
    let (engine, state) = (Arc::clone(&cluster.engine), cluster.state.clone());
    let running = spawn_named("query", async move {
        query(&engine, &state, "select sum(gated(k)) from numbers").await
    });
    let at_work =
        "select count(*) from system.tasks where started is not null and state = 'running'";
    reaches(&cluster, at_work, 3).await;
    let lost = cluster.executors.pop().unwrap();
    lost.stop.send(()).unwrap();
    running.join().await.unwrap().unwrap_err();
    gate.open();
    let failed = "select count(*) from system.tasks where state = 'failed' and stage = 0";
    assert_eq!(cluster.number(failed).await, 1);
    let running = "select count(*) as n from system.tasks where state = 'running'";
    let none = format!("select count(*) from ({running}) where n = 0");
    reaches(&cluster, &none, 1).await;
}

#[tokio::test]
async fn embedded_a_query_is_one_task_and_as_many_are_kept_as_the_setting_says() {
    let mut settings = engine_settings();
    settings.options.set_value("tasks_kept", "2").unwrap();
    let engine = Engine::embedded(settings).unwrap();
    let data = tempfile::tempdir().unwrap();
    let state = state_over(&engine, data.path()).await;
    for limit in [1000, 2000, 3000] {
        let sql = format!("select k from numbers where k < {limit}");
        query(&engine, &state, &sql).await.unwrap();
    }
    let sql = "select executor_id, stage, tasks, state, rows_out, bytes_out, local_bytes, \
               remote_bytes, inputs from system.tasks order by rows_out";
    let kept = query(&engine, &state, sql).await.unwrap();
    let kept = pretty_format_batches(&kept).unwrap().to_string();
    let cells = |rows: u64, bytes: u64| {
        format!(
            "| embedded    | 0     | 1     | finished | {rows}     | {bytes}     | 0           | 0            |        |"
        )
    };
    assert!(kept.contains(&cells(2000, 16_000)), "{kept}");
    assert!(kept.contains(&cells(3000, 24_000)), "{kept}");
    assert!(!kept.contains("1000"), "{kept}");
}
