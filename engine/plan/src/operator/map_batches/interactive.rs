//! Whether somebody seems to wait for a query that calls actors, from its physical plan.
//!
//! `SELECT embed('text')` is a question, `SELECT embed(text) FROM t` is work: what reads
//! and calls for no more than [`FEW_ROWS`] goes before the rest in the line of a pool, unless
//! the session says otherwise (`udf_priority`). Where nothing is known of how many rows a call
//! gets, it is work.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

use super::exec::map_batches_exec;

/// Most rows of a leaf, and of the input of a call.
const FEW_ROWS: usize = 16;

/// Whether `plan` calls user code, and all it reads and calls for is a few rows.
///
/// # Errors
/// None of its own.
pub fn is_interactive(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let (mut calls, mut is_small) = (false, true);
    plan.apply(|node| {
        let exec = map_batches_exec(node.as_ref());
        calls |= exec.is_some();
        is_small &= match exec {
            Some(exec) => is_few(exec.input()),
            None if node.children().is_empty() => is_few(node),
            None => true,
        };
        Ok(match is_small {
            true => TreeNodeRecursion::Continue,
            false => TreeNodeRecursion::Stop,
        })
    })?;
    Ok(calls && is_small)
}

fn is_few(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let statistics = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new());
    let rows = statistics.map(|statistics| statistics.num_rows.get_value().copied());
    rows.is_ok_and(|rows| rows.is_some_and(|rows| rows <= FEW_ROWS))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{host, physical};
    use super::*;
    use crate::test_session::session;

    #[tokio::test]
    async fn a_question_is_told_from_work() {
        let state = session(Arc::new(host()));
        for (sql, expected) in [
            ("SELECT inc(1)", true),
            ("SELECT inc(inc(1)) + 1", true),
            ("SELECT inc(column1) FROM (VALUES (1), (2))", true),
            ("SELECT 1", false),
            ("SELECT inc(value) FROM generate_series(1, 100000)", false),
            // Nobody knows how many rows that are.
            ("SELECT inc(x) FROM (SELECT unnest([1, 2]) AS x)", false),
        ] {
            let plan = physical(&state, sql).await.unwrap();
            assert_eq!(is_interactive(&plan).unwrap(), expected, "{sql}");
        }
    }
}
