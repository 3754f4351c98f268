use std::sync::Arc;

use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::displayable;
use expect_test::{Expect, expect};

use super::FuseCalls;
use crate::test_session::{FakeHost, check_plan, plan, session};

/// As `check_plan`, and that the rule finds nothing more to do.
async fn check(sql: &str, expected: Expect) {
    let state = session(Arc::new(FakeHost::default()));
    let logical = plan(&state, sql).await.unwrap();
    let once = state.create_physical_plan(&logical).await.unwrap();
    let twice = FuseCalls.optimize(Arc::clone(&once), &ConfigOptions::new());
    let text = |plan: &Arc<_>| displayable(Arc::as_ref(plan)).indent(false).to_string();
    assert_eq!(text(&once), text(&twice.unwrap()));
    expected.assert_eq(&text(&once));
}

#[tokio::test]
async fn functions_of_the_same_rows_go_together() {
    check("SELECT net(a, b), inc(c), dice(a + 1) FROM t", expect![]).await;
}

#[tokio::test]
async fn a_result_that_the_next_one_takes_stays_in_the_worker() {
    check("SELECT inc(inc(a)), s FROM t", expect![]).await;
    check("SELECT inc(c), net(inc(c), b) FROM t", expect![]).await;
}

#[tokio::test]
async fn one_mask_is_for_all() {
    check(
        "SELECT CASE WHEN a > 1 THEN inc(a) + dice(c) END FROM t",
        expect![],
    )
    .await;
    check(
        "SELECT CASE WHEN a > 1 THEN inc(a) END, inc(c) FROM t",
        expect![],
    )
    .await;
}

#[tokio::test]
async fn rows_go_on_to_functions_of_a_row() {
    check(
        "SELECT s FROM filter(TABLE(SELECT s, x FROM map(TABLE(SELECT * FROM flat_map(TABLE(t), twice)), same)), good)",
        expect![],
    )
    .await;
    check(
        "SELECT * FROM map(TABLE(SELECT x AS a, s FROM map_groups(TABLE(t), twice, partition_by => c)), inc)",
        expect![],
    )
    .await;
}

#[tokio::test]
async fn what_counts_for_one_call_keeps_it_apart() {
    for option in [
        "concurrency => 2",
        "timeout => '1s'",
        "init_timeout => '1s'",
        "on_error => 'drop'",
        "batch_size => 9",
    ] {
        let sql = format!(
            "SELECT * FROM map(TABLE(SELECT * FROM flat_map(TABLE(t), twice)), same, {option})"
        );
        let state = session(Arc::new(FakeHost::default()));
        let logical = plan(&state, &sql).await.unwrap();
        let plan = state.create_physical_plan(&logical).await.unwrap();
        let text = displayable(plan.as_ref()).indent(false).to_string();
        assert!(!text.contains("then="), "{text}");
    }
    check_plan(
        "SELECT * FROM map_batches(TABLE(SELECT * FROM map(TABLE(t), twice)), same)",
        expect![],
    )
    .await;
    check_plan(
        "SELECT * FROM map_batches(TABLE(SELECT s, inc(a) FROM t), \"Embed\")",
        expect![],
    )
    .await;
}
