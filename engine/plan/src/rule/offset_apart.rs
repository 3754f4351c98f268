//! Keeps what is wanted of rows behind an OFFSET from what is below it.
//!
//! ```text
//! SortExec: [x]                              GlobalLimitExec: skip=5, fetch=10
//!   GlobalLimitExec: skip=5, fetch=10    →     SortExec: TopK(fetch=15), [x]
//!     SortExec: TopK(fetch=15), [x]
//! ```
//!
//! DataFusion 55 passes an order that is asked for, and how many rows, through an OFFSET as if it
//! were none: in place of the 15 rows above it would sort out 10 and skip five of those, and it sorts
//! by another column below an OFFSET without a LIMIT. So this stands in for its rule: what is below
//! an OFFSET is planned by itself, with its own order, and what is above sees no further.

use std::fmt::{self, Formatter};
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, OrderingRequirements, PhysicalExpr};
use datafusion::physical_optimizer::output_requirements::OutputRequirementExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};

use super::around::{ENSURE, PhysicalRule, around};

/// `rule` of DataFusion's, or what stands in for it.
pub fn in_place_of(rule: PhysicalRule) -> PhysicalRule {
    around(rule, &[ENSURE], optimize)
}

fn optimize(
    rule: &PhysicalRule,
    plan: Arc<dyn ExecutionPlan>,
    config: &ConfigOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut has_offsets = false;
    let plan = plan.transform_down(|node| match offset(&node) {
        None => Ok(Transformed::no(node)),
        Some(limit) => {
            has_offsets = true;
            let below = alone(rule, limit.input(), config)?;
            let limit = GlobalLimitExec::new(below, limit.skip(), limit.fetch());
            let apart: Arc<dyn ExecutionPlan> = Arc::new(ApartExec { limit });
            Ok(Transformed::new(apart, true, TreeNodeRecursion::Jump))
        }
    })?;
    let plan = rule.optimize(plan.data, config)?;
    if !has_offsets {
        return Ok(plan);
    }
    let seen = |node: Arc<dyn ExecutionPlan>| {
        Ok(match node.downcast_ref::<ApartExec>() {
            Some(apart) => Transformed::yes(Arc::new(apart.limit.clone()) as _),
            None => Transformed::no(node),
        })
    };
    plan.transform_up(seen).data()
}

/// The input of an OFFSET, in one stream and with the order that it has; also one by columns
/// that are not selected.
fn alone(
    rule: &PhysicalRule,
    input: &Arc<dyn ExecutionPlan>,
    config: &ConfigOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(projection) = input.downcast_ref::<ProjectionExec>() {
        let below = vec![alone(rule, projection.input(), config)?];
        let recompute = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        return Arc::clone(input).replace_children(below, recompute);
    }
    let order = input.output_ordering().cloned();
    let wanted = OutputRequirementExec::new(
        Arc::clone(input),
        order.map(OrderingRequirements::from),
        Distribution::SinglePartition,
        None,
    );
    let ensured = optimize(rule, Arc::new(wanted), config)?;
    match ensured.downcast_ref::<OutputRequirementExec>() {
        Some(wanted) => Ok(wanted.input()),
        None => Ok(ensured),
    }
}

fn offset(node: &Arc<dyn ExecutionPlan>) -> Option<&GlobalLimitExec> {
    let limit = node.downcast_ref::<GlobalLimitExec>();
    limit.filter(|limit| limit.skip() > 0)
}

/// An OFFSET and what is below it, as if it were a table. Never runs.
#[derive(Debug)]
struct ApartExec {
    limit: GlobalLimitExec,
}

impl DisplayAs for ApartExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        self.limit.fmt_as(t, f)
    }
}

impl ExecutionPlan for ApartExec {
    fn name(&self) -> &str {
        "ApartExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.limit.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn statistics_from_inputs(
        &self,
        _inputs: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        StatisticsContext::new().compute(&self.limit, args)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("an OFFSET was left apart")
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::test_session::check_plan;

    #[tokio::test]
    async fn a_sort_above_an_offset_takes_no_rows_from_below_it() {
        let page = "SELECT a FROM t ORDER BY a LIMIT 10 OFFSET 5";
        check_plan(
            &format!("SELECT * FROM ({page}) ORDER BY a"),
            expect![[r#"
                GlobalLimitExec: skip=5, fetch=10
                  SortPreservingMergeExec: [a@0 ASC NULLS LAST], fetch=15
                    SortExec: TopK(fetch=15), expr=[a@0 ASC NULLS LAST], preserve_partitioning=[true]
                      DataSourceExec: partitions=2, partition_sizes=[1, 1]
            "#]],
        )
        .await;
        check_plan(
            &format!("SELECT * FROM ({page}) ORDER BY a LIMIT 3"),
            expect![[r#"
                GlobalLimitExec: skip=5, fetch=3
                  SortPreservingMergeExec: [a@0 ASC NULLS LAST], fetch=8
                    SortExec: TopK(fetch=8), expr=[a@0 ASC NULLS LAST], preserve_partitioning=[true]
                      DataSourceExec: partitions=2, partition_sizes=[1, 1]
            "#]],
        )
        .await;
        check_plan(
            "SELECT * FROM (SELECT a, s FROM t ORDER BY s OFFSET 5) ORDER BY a",
            expect![[r#"
                SortExec: expr=[a@0 ASC NULLS LAST], preserve_partitioning=[false]
                  GlobalLimitExec: skip=5, fetch=None
                    SortPreservingMergeExec: [s@1 ASC NULLS LAST]
                      SortExec: expr=[s@1 ASC NULLS LAST], preserve_partitioning=[true]
                        DataSourceExec: partitions=2, partition_sizes=[1, 1]
            "#]],
        )
        .await;
        check_plan(
            &format!("SELECT a, sum(a) OVER (ORDER BY a) FROM ({page})"),
            expect![[r#"
                BoundedWindowAggExec: wdw=[sum(t.a) ORDER BY [t.a ASC NULLS LAST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW: Field { "sum(t.a) ORDER BY [t.a ASC NULLS LAST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW": nullable Int64 }, frame: RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW], mode=[Sorted]
                  GlobalLimitExec: skip=5, fetch=10
                    SortPreservingMergeExec: [a@0 ASC NULLS LAST], fetch=15
                      SortExec: TopK(fetch=15), expr=[a@0 ASC NULLS LAST], preserve_partitioning=[true]
                        DataSourceExec: partitions=2, partition_sizes=[1, 1]
            "#]],
        )
        .await;
        check_plan(
            "SELECT a FROM t LIMIT 10 OFFSET 5",
            expect![[r#"
            GlobalLimitExec: skip=5, fetch=10
              CoalescePartitionsExec: fetch=15
                DataSourceExec: partitions=2, partition_sizes=[1, 1], fetch=15
        "#]],
        )
        .await;
    }
}
