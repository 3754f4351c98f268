//! Finds the first rows before a function is called for them.
//!
//! ```text
//! Sort: t.a, fetch=10                              Projection: t.a, net(t.b) AS n
//!   Projection: t.a, net(t.b) AS n           →       MapBatches: net over [t.b] AS net(t.b)
//!     MapBatches: net over [t.b] AS net(t.b)           Sort: t.a, fetch=10
//!       TableScan: t                                     TableScan: t
//! ```
//!
//! Ten rows reach the function instead of all. Only with a limit: without one
//! nothing is saved. Only past calls that append a column which the sort does not
//! read, and that are not volatile; rows and their order are kept by them. Runs
//! at the end of each optimizer pass, when limits have gone into sorts.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, Sort, SortExpr};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use crate::operator::map_batches::{MapBatchesNode, NodeShape};

/// The rule; see the head of this file.
#[derive(Debug, Default)]
pub struct SortBelowCall;

impl OptimizerRule for SortBelowCall {
    fn name(&self) -> &str {
        "sort_below_call"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Sort(sort) = &plan else {
            return Ok(Transformed::no(plan));
        };
        if sort.fetch.is_none() {
            return Ok(Transformed::no(plan));
        }
        Ok(match pushed(&sort.input, sort.expr.clone(), sort.fetch)? {
            Some(pushed) => Transformed::yes(pushed),
            None => Transformed::no(plan),
        })
    }
}

/// `plan` sorted by `keys` below its calls; `None` if it has none that may be
/// passed.
fn pushed(
    plan: &LogicalPlan,
    keys: Vec<SortExpr>,
    fetch: Option<usize>,
) -> Result<Option<LogicalPlan>> {
    let (input, keys) = match plan {
        LogicalPlan::Projection(projection) => {
            let Some(keys) = before(plan, &projection.expr, keys)? else {
                return Ok(None);
            };
            (&*projection.input, keys)
        }
        LogicalPlan::Extension(extension) => {
            match extension.node.as_any().downcast_ref::<MapBatchesNode>() {
                Some(node) if is_passed(node, &keys) => (node.input(), keys),
                _ => return Ok(None),
            }
        }
        _ => return Ok(None),
    };
    let is_call = matches!(plan, LogicalPlan::Extension(_));
    let below = match pushed(input, keys.clone(), fetch)? {
        Some(below) => below,
        None if is_call => LogicalPlan::Sort(Sort {
            expr: keys,
            input: Arc::new(input.clone()),
            fetch,
        }),
        None => return Ok(None),
    };
    plan.with_new_exprs(plan.expressions(), vec![below])
        .map(Some)
}

/// Whether the sort may run before the call.
fn is_passed(node: &MapBatchesNode, keys: &[SortExpr]) -> bool {
    let NodeShape::Column { result, .. } = node.shape() else {
        return false;
    };
    let reads = |key: &SortExpr| key.expr.column_refs().iter().any(|c| c.name == *result);
    // Rows that fail and are left out would be missing among those picked.
    let keeps_rows = !node.call().errors().on_error.drops_rows();
    let is_keyed = node.keys().is_some();
    keeps_rows && !is_keyed && !node.call().is_volatile() && !keys.iter().any(reads)
}

/// `keys` in the columns that `projection` is made of; `None` when one of them
/// would be computed differently each time.
fn before(
    projection: &LogicalPlan,
    exprs: &[Expr],
    keys: Vec<SortExpr>,
) -> Result<Option<Vec<SortExpr>>> {
    let schema = projection.schema();
    let origin = |column: &Column| -> Result<Expr> {
        let expr = &exprs[schema.index_of_column(column)?];
        Ok(expr.clone().unalias_nested().data)
    };
    let keys = keys.into_iter().map(|mut key| {
        let expr = key.expr.transform_down(|expr| match &expr {
            Expr::Column(column) => {
                let origin = origin(column)?;
                // Its columns are those below: not to be looked at again.
                Ok(Transformed::new(origin, true, TreeNodeRecursion::Jump))
            }
            _ => Ok(Transformed::no(expr)),
        })?;
        key.expr = expr.data;
        Ok(key)
    });
    let keys = keys.collect::<Result<Vec<_>>>()?;
    let volatile = keys.iter().any(|key| key.expr.is_volatile());
    Ok((!volatile).then_some(keys))
}

#[cfg(test)]
mod tests {
    use crate::test_session::{FakeHost, check_plan, plan, session};
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
    async fn the_first_rows_are_found_before_their_calls() {
        check_rule(
            "SELECT a AS k, inc(c) AS i, big(a) FROM t ORDER BY k DESC, b + 1 LIMIT 3",
            expect![[r#"
                Projection: t.a AS k, inc(t.c) AS i, big(t.a)
                  Limit: skip=0, fetch=3
                    MapBatches: big over [t.a] AS big(t.a)
                      Limit: skip=0, fetch=3
                        MapBatches: inc over [t.c] AS inc(t.c)
                          Sort: t.a DESC NULLS FIRST, t.b + Float64(1) AS t.b + Int64(1) ASC NULLS LAST, fetch=3
                            TableScan: t projection=[a, b, c]"#]],
        )
        .await;
        check_rule(
            "SELECT * FROM (SELECT a, c, inc(a) AS i FROM t) WHERE c > 0 ORDER BY a LIMIT 3 OFFSET 2",
            expect![[r#"
                Projection: t.a, t.c, inc(t.a) AS i
                  Limit: skip=2, fetch=3
                    MapBatches: inc over [t.a] AS inc(t.a)
                      Sort: t.a ASC NULLS LAST, fetch=5
                        Filter: t.c > Int64(0)
                          TableScan: t projection=[a, c]"#]],
        )
        .await;
        // What comes out is still in order.
        check_plan(
            "SELECT a, CASE WHEN c = 1 THEN inc(a) END AS r FROM t ORDER BY a LIMIT 3",
            expect![[r#"
                ProjectionExec: expr=[a@0 as a, CASE WHEN c@1 = 1 THEN inc(t.a)@3 END as r]
                  MapBatchesExec: udf=inc, kind=scalar, volatility=immutable, batch_size=block, batch_format=numpy, concurrency=cores, mask=__mask@2
                    SortPreservingMergeExec: [a@0 ASC NULLS LAST], fetch=3
                      SortExec: TopK(fetch=3), expr=[a@0 ASC NULLS LAST], preserve_partitioning=[true]
                        ProjectionExec: expr=[a@0 as a, c@1 as c, (c@1 = 1) IS NOT DISTINCT FROM true as __mask]
                          DataSourceExec: partitions=2, partition_sizes=[1, 1]
            "#]],
        )
        .await;
    }

    #[tokio::test]
    async fn a_sort_that_reads_the_result_or_has_no_limit_stays() {
        check_rule(
            "SELECT inc(a) AS i FROM t ORDER BY i LIMIT 3",
            expect![[r#"
            Sort: i ASC NULLS LAST, fetch=3
              Projection: inc(t.a) AS i
                MapBatches: inc over [t.a] AS inc(t.a)
                  TableScan: t projection=[a]"#]],
        )
        .await;
        check_rule(
            "SELECT a, inc(a) AS i FROM t ORDER BY a",
            expect![[r#"
            Sort: t.a ASC NULLS LAST
              Projection: t.a, inc(t.a) AS i
                MapBatches: inc over [t.a] AS inc(t.a)
                  TableScan: t projection=[a]"#]],
        )
        .await;
        check_rule(
            "SELECT a, dice(a) AS d FROM t ORDER BY a LIMIT 3",
            expect![[r#"
                Sort: t.a ASC NULLS LAST, fetch=3
                  Projection: t.a, dice(t.a) AS d
                    MapBatches: dice over [t.a] AS dice(t.a)
                      TableScan: t projection=[a]"#]],
        )
        .await;
        check_rule(
            "SELECT a FROM filter(TABLE(t), big) ORDER BY a LIMIT 3",
            expect![[r#"
                Sort: a ASC NULLS LAST, fetch=3
                  UdfFilter: big over [a]
                    Projection: t.a AS a
                      TableScan: t projection=[a]"#]],
        )
        .await;
    }
}
