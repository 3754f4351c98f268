//! Keeps what is wanted of a LIMIT's rows from choosing other rows below it.
//!
//! DataFusion 55 puts a LIMIT into the operator below it, a scan above all, and then has some
//! of its rules see no limit there: the rows of `ORDER BY x LIMIT 5` of a table that is in that order would
//! be read from its other end for an ORDER BY x DESC above, and would be others where a filter
//! that is known only while the query runs (of a join, of an ORDER BY y LIMIT) comes to the scan. While those
//! rules run, a limit of no rows at all stands between, through which nothing is pushed.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;

use super::around::{PhysicalRule, around};

/// The rules of DataFusion's that see no limits within operators.
const BLIND: [&str; 2] = ["PushdownSort", "FilterPushdown(Post)"];
/// A limit that limits nothing.
const NO_LIMIT: usize = usize::MAX;

/// `rule` of DataFusion's, or what stands in for it.
pub fn in_place_of(rule: PhysicalRule) -> PhysicalRule {
    around(rule, &BLIND, optimize)
}

fn optimize(
    rule: &PhysicalRule,
    plan: Arc<dyn ExecutionPlan>,
    config: &ConfigOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = plan.transform_up(|node| {
        Ok(match limits_within(&node) {
            true => Transformed::yes(Arc::new(LocalLimitExec::new(node, NO_LIMIT)) as _),
            false => Transformed::no(node),
        })
    })?;
    let has_limits = plan.transformed;
    let plan = rule.optimize(plan.data, config)?;
    if !has_limits {
        return Ok(plan);
    }
    let bare = |node: Arc<dyn ExecutionPlan>| {
        let limit = node.downcast_ref::<LocalLimitExec>();
        let limit = limit.filter(|limit| limit.fetch() == NO_LIMIT);
        Ok(match limit.map(|limit| Arc::clone(limit.input())) {
            Some(input) => Transformed::yes(input),
            None => Transformed::no(node),
        })
    };
    plan.transform_up(bare).data()
}

/// Whether `node` has a limit that those rules do not see.
fn limits_within(node: &Arc<dyn ExecutionPlan>) -> bool {
    let is_seen = node.is::<SortExec>()
        || node.is::<SortPreservingMergeExec>()
        || node.is::<GlobalLimitExec>()
        || node.is::<LocalLimitExec>();
    node.fetch().is_some() && !is_seen
}
