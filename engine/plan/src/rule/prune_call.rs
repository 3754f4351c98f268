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

use std::collections::HashSet;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use crate::operator::map_batches::{Grouping, MapBatchesNode, NodeShape};

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
        let mut read = HashSet::new();
        plan.apply_expressions(|expr| {
            read.extend(expr.column_refs().iter().map(|column| column.name.clone()));
            Ok(TreeNodeRecursion::Continue)
        })?;
        let Some(pruned) = without_unread_calls(input, read)? else {
            return Ok(Transformed::no(plan));
        };
        let exprs = plan.expressions();
        plan.with_new_exprs(exprs, vec![pruned])
            .map(Transformed::yes)
    }
}

/// `plan`, a chain of calls, without those whose result is not in `read`;
/// `None` if all are.
fn without_unread_calls(
    plan: &LogicalPlan,
    mut read: HashSet<String>,
) -> Result<Option<LogicalPlan>> {
    let LogicalPlan::Extension(extension) = plan else {
        return Ok(None);
    };
    let Some(node) = extension.node.as_any().downcast_ref::<MapBatchesNode>() else {
        return Ok(None);
    };
    let NodeShape::Column { result, .. } = node.shape() else {
        return Ok(None);
    };
    let errors = node.call().errors();
    // Its rows that fail are missing above, or listed: that is read.
    if !read.contains(result) && !node.call().is_volatile() && !errors.on_error.drops_rows() {
        let below = without_unread_calls(node.input(), read)?;
        return Ok(Some(below.unwrap_or_else(|| node.input().clone())));
    }
    let keys = node.keys().into_iter().flat_map(Grouping::columns);
    read.extend(keys.map(|column| column.name.clone()));
    read.extend(
        node.shape()
            .reads()
            .into_iter()
            .map(|column| column.name.clone()),
    );
    let Some(below) = without_unread_calls(node.input(), read)? else {
        return Ok(None);
    };
    plan.with_new_exprs(plan.expressions(), vec![below])
        .map(Some)
}

#[cfg(test)]
mod tests {
    use crate::test_session::{FakeHost, plan, session};
    use expect_test::{Expect, expect};
    use std::sync::Arc;

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
            expect!["TableScan: t projection=[a]"],
        )
        .await;
        check_rule(
            "SELECT count(*) FROM (SELECT inc(a) AS i FROM t WHERE c = 1)",
            expect![[r#"
                Projection: count(Int64(1)) AS count(*)
                  Aggregate: groupBy=[[]], aggr=[[count(Int64(1))]]
                    Projection:
                      Filter: t.c = Int64(1)
                        TableScan: t projection=[c]"#]],
        )
        .await;
        check_rule(
            "SELECT u.x FROM (SELECT a, inc(c) AS i FROM t) v JOIN u ON u.a = v.a",
            expect![[r#"
                Projection: u.x
                  Inner Join: v.a = u.a
                    SubqueryAlias: v
                      TableScan: t projection=[a]
                    TableScan: u projection=[a, x]"#]],
        )
        .await;
    }

    #[tokio::test]
    async fn a_read_or_volatile_call_stays() {
        check_rule(
            "SELECT i FROM (SELECT net(b, c) AS n, inc(a) AS i FROM t)",
            expect![[r#"
                Projection: inc(t.a) AS i
                  MapBatches: inc over [t.a] AS inc(t.a)
                    TableScan: t projection=[a]"#]],
        )
        .await;
        check_rule(
            "SELECT a FROM (SELECT a, dice(c) AS d FROM t)",
            expect![[r#"
            Projection: t.a
              MapBatches: dice over [t.c] AS dice(t.c)
                TableScan: t projection=[a, c]"#]],
        )
        .await;
        check_rule(
            "SELECT 1 AS x FROM map_batches(TABLE(t), twice)",
            expect![[r#"
            Projection: Int64(1) AS x
              MapBatches: twice over TABLE
                Projection: t.a AS a, t.b AS b, t.c AS c, t.s AS s
                  TableScan: t projection=[a, b, c, s]"#]],
        )
        .await;
    }
}
