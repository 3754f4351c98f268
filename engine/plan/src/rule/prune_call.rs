//! Drops calls whose result nobody reads.
//!
//! ```text
//! Projection: t.a                               Projection: t.a
//!   MapBatches: net over [t.b] AS net(t.b)  →     TableScan: t
//!     TableScan: t
//! ```
//!
//! Such calls come from views and subqueries that compute more than the query
//! asks for; DataFusion prunes columns below a node of ours, but cannot drop the
//! node. A volatile call stays: it may be made for what it does. Runs at the end
//! of each optimizer pass, so that filters have moved out of the way and the
//! next pass prunes the arguments.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use crate::operator::map_batches::{MapBatchesNode, NodeShape};

/// The rule; see the head of this file.
#[derive(Debug, Default)]
pub struct PruneCall;

impl OptimizerRule for PruneCall {
    fn name(&self) -> &str {
        "prune_call"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        // Only these two say by themselves which columns they read.
        let input = match &plan {
            LogicalPlan::Projection(projection) => &projection.input,
            LogicalPlan::Aggregate(aggregate) => &aggregate.input,
            _ => return Ok(Transformed::no(plan)),
        };
        let Some(below) = below_unread_call(&plan, input)? else {
            return Ok(Transformed::no(plan));
        };
        let exprs = plan.expressions();
        plan.with_new_exprs(exprs, vec![below])
            .map(Transformed::yes)
    }
}

/// The input of the call that is `input`, if `plan` does not read its result.
fn below_unread_call(plan: &LogicalPlan, input: &Arc<LogicalPlan>) -> Result<Option<LogicalPlan>> {
    let LogicalPlan::Extension(extension) = input.as_ref() else {
        return Ok(None);
    };
    let Some(node) = extension.node.as_any().downcast_ref::<MapBatchesNode>() else {
        return Ok(None);
    };
    let NodeShape::Column { result, .. } = node.shape() else {
        return Ok(None);
    };
    if node.call().is_volatile() {
        return Ok(None);
    }
    let mut read = false;
    plan.apply_expressions(|expr| {
        read |= expr
            .column_refs()
            .iter()
            .any(|column| column.name == *result);
        Ok(match read {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok((!read).then(|| node.input().clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_session::{FakeHost, plan, session};
    use expect_test::{Expect, expect};

    /// The optimized plan of `sql`; optimizing it again must change nothing.
    async fn check_rule(sql: &str, expected: Expect) {
        let state = session(Arc::new(FakeHost::default()));
        let optimized = state.optimize(&plan(&state, sql).await.unwrap()).unwrap();
        assert_eq!(optimized, state.optimize(&optimized).unwrap(), "{sql}");
        expected.assert_eq(&optimized.display_indent().to_string());
    }

    #[tokio::test]
    async fn an_unread_call_is_dropped_with_its_arguments() {
        check_rule(
            "SELECT a FROM (SELECT a, net(b, c) AS n, inc(a) AS i FROM t)",
            expect![],
        )
        .await;
        check_rule(
            "SELECT count(*) FROM (SELECT inc(a) AS i FROM t WHERE c = 1)",
            expect![],
        )
        .await;
        check_rule(
            "SELECT u.x FROM (SELECT a, inc(c) AS i FROM t) v JOIN u ON u.a = v.a",
            expect![],
        )
        .await;
    }

    #[tokio::test]
    async fn a_read_or_volatile_call_stays() {
        check_rule(
            "SELECT i FROM (SELECT net(b, c) AS n, inc(a) AS i FROM t)",
            expect![],
        )
        .await;
        check_rule("SELECT a FROM (SELECT a, dice(c) AS d FROM t)", expect![]).await;
        check_rule("SELECT 1 AS x FROM map_batches(TABLE(t), twice)", expect![]).await;
    }
}
