//! Hides what is constant, or equal, only so far.
//!
//! ```text
//! HashJoinExec: join_type=Left        HashJoinExec: join_type=Left
//!   DataSourceExec                →     DataSourceExec
//!   FilterExec: kind = paid             VeilExec
//!                                         FilterExec: kind = paid
//! ```
//!
//! DataFusion 55 takes a column that is constant in the optional side of an outer join for
//! constant above it, where it may be NULL as well: it would drop an ORDER BY of it, and take
//! rows for sorted by it that are not, in windows and in GROUP BY. The same with columns of
//! GROUPING SETS that are constant, or equal to another: they are NULL in some of them. And what the
//! rows of a window are parted by may be known for constant where it is planned and not where
//! it runs, for exchanges between executors tell orders alone; there it fails.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{JoinType, Result};
use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::joins::{
    HashJoinExec, NestedLoopJoinExec, PiecewiseMergeJoinExec, SortMergeJoinExec,
};
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use crate::config::PlanningOptions;
use crate::operator::veil::VeilExec;

/// The rule; see the head of this file. Runs before DataFusion's own.
#[derive(Debug, Default)]
pub struct NotConstant;

impl PhysicalOptimizerRule for NotConstant {
    fn name(&self) -> &str {
        "not_constant"
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let planning = config.extensions.get::<PlanningOptions>();
        let is_distributed = planning.is_some_and(|planning| planning.is_distributed);
        let hide = |node: Arc<dyn ExecutionPlan>| {
            let children: Vec<_> = node.children().into_iter().cloned().collect();
            let hidden: Vec<_> = (0..children.len())
                .map(|side| hides(&node, side, &children[side], is_distributed))
                .collect();
            if !hidden.contains(&true) {
                return Ok(Transformed::no(node));
            }
            let children = children.into_iter().zip(hidden);
            let children = children.map(|(child, is_hidden)| match is_hidden {
                true => Arc::new(VeilExec::new(child)) as _,
                false => child,
            });
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            node.replace_children(children.collect(), options)
                .map(Transformed::yes)
        };
        plan.transform_up(hide).data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether `node` and what is above it must not know what is constant or equal in `child`.
fn hides(
    node: &Arc<dyn ExecutionPlan>,
    side: usize,
    child: &Arc<dyn ExecutionPlan>,
    is_distributed: bool,
) -> bool {
    let known = child.equivalence_properties();
    if known.eq_group().is_empty() {
        return false;
    }
    match (join_type(node), side) {
        (Some(JoinType::Left), 1) | (Some(JoinType::Right), 0) | (Some(JoinType::Full), _) => {
            !known.constants().is_empty()
        }
        (Some(_), _) => false,
        (None, _) => has_grouping_sets(node) || is_distributed && has_partitions(node),
    }
}

fn has_grouping_sets(node: &Arc<dyn ExecutionPlan>) -> bool {
    let aggregate = node.downcast_ref::<AggregateExec>();
    aggregate.is_some_and(|aggregate| aggregate.group_expr().has_grouping_set())
}

/// Whether it is a window with PARTITION BY.
fn has_partitions(node: &Arc<dyn ExecutionPlan>) -> bool {
    let windows = match node.downcast_ref::<BoundedWindowAggExec>() {
        Some(window) => Some(window.window_expr()),
        None => node.downcast_ref().map(WindowAggExec::window_expr),
    };
    let first = windows.and_then(|windows| windows.first());
    first.is_some_and(|window| !window.partition_by().is_empty())
}

fn join_type(node: &Arc<dyn ExecutionPlan>) -> Option<JoinType> {
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        return Some(*join.join_type());
    }
    if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
        return Some(*join.join_type());
    }
    if let Some(join) = node.downcast_ref::<SortMergeJoinExec>() {
        return Some(join.join_type());
    }
    let join = node.downcast_ref::<PiecewiseMergeJoinExec>();
    join.map(PiecewiseMergeJoinExec::join_type)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::test_session::check_plan;

    const OPTIONAL: &str = "t LEFT JOIN (SELECT a AS k, 'x' AS flag FROM t) AS o ON t.a = o.k";

    #[tokio::test]
    async fn an_optional_constant_is_sorted_and_grouped_by() {
        check_plan(
            &format!("SELECT a, flag FROM {OPTIONAL} ORDER BY flag"),
            expect![[r#"
                SortPreservingMergeExec: [flag@1 ASC NULLS LAST]
                  SortExec: expr=[flag@1 ASC NULLS LAST], preserve_partitioning=[true]
                    HashJoinExec: mode=CollectLeft, join_type=Left, on=[(a@0, k@0)], projection=[a@0, flag@2]
                      CoalescePartitionsExec
                        DataSourceExec: partitions=2, partition_sizes=[1, 1]
                      VeilExec
                        ProjectionExec: expr=[a@0 as k, x as flag]
                          DataSourceExec: partitions=2, partition_sizes=[1, 1]
            "#]],
        )
        .await;
        check_plan(
            &format!("SELECT flag, count(*) FROM {OPTIONAL} GROUP BY flag"),
            expect![[r#"
                ProjectionExec: expr=[flag@0 as flag, count(Int64(1))@1 as count(*)]
                  AggregateExec: mode=FinalPartitioned, gby=[flag@0 as flag], aggr=[count(Int64(1))]
                    RepartitionExec: partitioning=Hash([flag@0], 2), input_partitions=2
                      AggregateExec: mode=Partial, gby=[flag@0 as flag], aggr=[count(Int64(1))]
                        HashJoinExec: mode=CollectLeft, join_type=Left, on=[(a@0, k@0)], projection=[flag@2]
                          CoalescePartitionsExec
                            DataSourceExec: partitions=2, partition_sizes=[1, 1]
                          VeilExec
                            ProjectionExec: expr=[a@0 as k, x as flag]
                              DataSourceExec: partitions=2, partition_sizes=[1, 1]
            "#]],
        )
        .await;
        check_plan(
            "SELECT t.a, o.flag FROM t LEFT JOIN (SELECT a AS k, s AS flag FROM t) AS o ON t.a = o.k WHERE t.s = 'x' ORDER BY t.s",
            expect![[r#"
                CoalescePartitionsExec
                  ProjectionExec: expr=[a@0 as a, flag@1 as flag]
                    HashJoinExec: mode=CollectLeft, join_type=Left, on=[(a@0, k@0)], projection=[a@0, flag@3, s@1]
                      CoalescePartitionsExec
                        FilterExec: s@1 = x
                          DataSourceExec: partitions=2, partition_sizes=[1, 1]
                      ProjectionExec: expr=[a@0 as k, s@1 as flag]
                        DataSourceExec: partitions=2, partition_sizes=[1, 1]
            "#]],
        )
        .await;
    }

    #[tokio::test]
    async fn grouping_sets_know_no_equal_columns() {
        check_plan(
            "SELECT x, y FROM (SELECT a AS x, a AS y FROM t) GROUP BY ROLLUP (x, y) ORDER BY x, y",
            expect![[r#"
                SortPreservingMergeExec: [x@0 ASC NULLS LAST, y@1 ASC NULLS LAST]
                  SortExec: expr=[x@0 ASC NULLS LAST, y@1 ASC NULLS LAST], preserve_partitioning=[true]
                    ProjectionExec: expr=[x@0 as x, y@1 as y]
                      AggregateExec: mode=FinalPartitioned, gby=[x@0 as x, y@1 as y, __grouping_id@2 as __grouping_id], aggr=[]
                        RepartitionExec: partitioning=Hash([x@0, y@1, __grouping_id@2], 2), input_partitions=2
                          AggregateExec: mode=Partial, gby=[(NULL as x, NULL as y), (x@0 as x, NULL as y), (x@0 as x, y@1 as y)], aggr=[]
                            VeilExec
                              ProjectionExec: expr=[a@0 as x, a@0 as y]
                                DataSourceExec: partitions=2, partition_sizes=[1, 1]
            "#]],
        )
        .await;
    }
}
