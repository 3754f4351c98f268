//! Hides what is constant only so far.
//!
//! ```text
//! HashJoinExec: join_type=Left        HashJoinExec: join_type=Left
//!   DataSourceExec                →     DataSourceExec
//!   FilterExec: kind = paid             VeilExec: hides=[constants]
//!                                         FilterExec: kind = paid
//! ```
//!
//! DataFusion 55 takes a column that is constant in the optional side of an outer join for
//! constant above it, where it may be NULL as well: it would drop an ORDER BY of it, and take
//! rows for sorted by it that are not, in windows and in GROUP BY. The same with a constant column of
//! GROUPING SETS, which is NULL in some of them. And what the rows of a window
//! are parted by may be known for constant where it is planned and not where it runs, for exchanges
//! between executors tell orders and no constants; there it fails.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{JoinType, Result};
use datafusion::config::ConfigOptions;
use datafusion::physical_expr::ConstExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::joins::{
    HashJoinExec, NestedLoopJoinExec, PiecewiseMergeJoinExec, SortMergeJoinExec,
};
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

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
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let hide = |node: Arc<dyn ExecutionPlan>| {
            let children: Vec<_> = node.children().into_iter().cloned().collect();
            let hidden: Vec<_> = (0..children.len())
                .map(|side| hides(&node, side, &children[side]))
                .collect();
            if !hidden.contains(&true) {
                return Ok(Transformed::no(node));
            }
            let children = children.into_iter().zip(hidden);
            let children = children.map(|(child, is_hidden)| match is_hidden {
                true => Arc::new(VeilExec::new(child, false)) as _,
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

/// Whether `node` and what is above it must not know what is constant in `child`.
fn hides(node: &Arc<dyn ExecutionPlan>, side: usize, child: &Arc<dyn ExecutionPlan>) -> bool {
    let constants = child.equivalence_properties().constants();
    if constants.is_empty() {
        return false;
    }
    match (join_type(node), side) {
        (Some(JoinType::Left), 1) | (Some(JoinType::Right), 0) | (Some(JoinType::Full), _) => true,
        (Some(_), _) => false,
        (None, _) => has_grouping_sets(node) || is_parted_by(node, &constants),
    }
}

fn has_grouping_sets(node: &Arc<dyn ExecutionPlan>) -> bool {
    let aggregate = node.downcast_ref::<AggregateExec>();
    aggregate.is_some_and(|aggregate| aggregate.group_expr().has_grouping_set())
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

/// Whether one of `constants` is in the PARTITION BY of a window.
fn is_parted_by(node: &Arc<dyn ExecutionPlan>, constants: &[ConstExpr]) -> bool {
    let windows = match node.downcast_ref::<BoundedWindowAggExec>() {
        Some(window) => Some(window.window_expr()),
        None => node.downcast_ref().map(WindowAggExec::window_expr),
    };
    let first = windows.and_then(|windows| windows.first());
    let keys = first.map_or(&[][..], |window| window.partition_by());
    let is_constant = |key| constants.iter().any(|constant| constant.expr.eq(key));
    keys.iter().any(is_constant)
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
            expect![[r#""#]],
        )
        .await;
        check_plan(
            &format!("SELECT flag, count(*) FROM {OPTIONAL} GROUP BY flag"),
            expect![[r#""#]],
        )
        .await;
        check_plan(
            "SELECT t.a, o.flag FROM t LEFT JOIN (SELECT a AS k, s AS flag FROM t) AS o ON t.a = o.k WHERE t.s = 'x' ORDER BY t.s",
            expect![[r#""#]],
        )
        .await;
    }

    #[tokio::test]
    async fn windows_know_no_constants() {
        check_plan(
            "SELECT a, row_number() OVER (PARTITION BY s ORDER BY a) FROM t WHERE s = 'x'",
            expect![[r#""#]],
        )
        .await;
    }
}
