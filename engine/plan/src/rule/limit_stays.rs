//! Keeps a LIMIT of sorted rows above what has to see all rows.
//!
//! ```text
//! SortPreservingMergeExec: [k], fetch=1     SortPreservingMergeExec: [k], fetch=1
//!   WindowAggExec: count(*)                   SortExec: TopK(fetch=1), [k]
//!     SortExec: TopK(fetch=1), [k]      →       VeilExec
//!                                                 WindowAggExec: count(*)
//!                                                   SortExec: [k]
//! ```
//!
//! Where rows come in the order that a LIMIT's ORDER BY wants, DataFusion 55 takes the sort away
//! and passes on how many rows are wanted, to the next sort, whatever is between the two: a window over
//! all rows, a filter, a merge join. Where its plan has done so, this has it plan again with rows
//! whose order the sort does not know: it stays, and what is below it gives all.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::output_requirements::OutputRequirementExec;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;

use super::around::{ENSURE, PhysicalRule, around};
use crate::operator::veil::VeilExec;

/// `rule` of DataFusion's, or what stands in for it.
pub fn in_place_of(rule: PhysicalRule) -> PhysicalRule {
    around(rule, &[ENSURE], optimize)
}

fn optimize(
    rule: &PhysicalRule,
    plan: Arc<dyn ExecutionPlan>,
    config: &ConfigOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    let ensured = rule.optimize(Arc::clone(&plan), config)?;
    let cut = limits_below(&ensured)?;
    if cut.is_empty() || cut == limits_below(&plan)? {
        return Ok(ensured);
    }
    let veiled = plan.transform_up(|node| match node.downcast_ref::<SortExec>() {
        Some(sort) if sort.fetch().is_some() => {
            let veil = Arc::new(VeilExec::new(Arc::clone(sort.input())));
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            node.replace_children(vec![veil], options)
                .map(Transformed::yes)
        }
        _ => Ok(Transformed::no(node)),
    });
    rule.optimize(veiled.data()?, config)
}

/// The limits of sorts below operators whose rows are not just those of their inputs, in order.
fn limits_below(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<usize>> {
    let mut limits = vec![];
    plan.apply(|node| {
        if !passes_rows(node) {
            limits.extend(node.children().into_iter().flat_map(next_limits));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    limits.sort_unstable();
    Ok(limits)
}

/// The limits of the first sorts with one, from `plan` on, that what is above it gets rows of.
fn next_limits(plan: &Arc<dyn ExecutionPlan>) -> Vec<usize> {
    match plan.fetch() {
        Some(limit) if is_sort(plan) => vec![limit],
        _ if passes_rows(plan) => plan.children().into_iter().flat_map(next_limits).collect(),
        _ => vec![],
    }
}

/// Whether the first rows that come out of `node` need no more than the first ones of its inputs.
fn passes_rows(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.supports_limit_pushdown()
        || is_sort(node)
        || node.is::<RepartitionExec>()
        || node.is::<OutputRequirementExec>()
}

fn is_sort(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.is::<SortExec>() || node.is::<SortPreservingMergeExec>()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::test_session::{FakeHost, physical_text, plan, session};

    /// The operators of the plan of `sql`, from above.
    async fn operators(sql: &str) -> Vec<String> {
        let state = session(Arc::new(FakeHost::default()));
        let plan = plan(&state, sql).await.unwrap();
        let plan = state.create_physical_plan(&plan).await.unwrap();
        let text = physical_text(&plan);
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    #[tokio::test]
    async fn a_window_over_all_rows_gets_all() {
        let number = "row_number() OVER (PARTITION BY a ORDER BY a) AS n";
        let sql = format!("SELECT a, count(*) OVER () AS c, {number} FROM t ORDER BY a LIMIT 1");
        let plan = operators(&sql).await;
        let mut operators = plan.iter();
        let window = operators.position(|text| text.starts_with("WindowAggExec"));
        let (above, below) = plan.split_at(window.expect("a window over all rows"));
        let has_limit = |plan: &[String]| plan.iter().any(|text| text.contains("fetch="));
        assert!(has_limit(above) && !has_limit(below), "{plan:#?}");
    }

    #[tokio::test]
    async fn what_may_be_cut_short_is() {
        let number = "row_number() OVER (PARTITION BY a ORDER BY a) AS n";
        for sql in [
            "SELECT a FROM t ORDER BY a LIMIT 3".to_owned(),
            "SELECT count(*) FROM (SELECT a FROM t ORDER BY a LIMIT 5) WHERE a > 1".to_owned(),
            format!("SELECT a, {number} FROM t ORDER BY a LIMIT 1"),
        ] {
            let plan = operators(&sql).await;
            let is_veiled = plan.iter().any(|text| text == "VeilExec");
            assert!(!is_veiled, "{sql}: {plan:#?}");
        }
    }
}
