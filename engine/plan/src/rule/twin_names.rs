//! Keeps filters from columns that have the same name as theirs.
//!
//! ```text
//! FilterExec: j@0 IS NULL                    FilterExec: j@0 IS NULL
//!   ProjectionExec: [j@2 as j, j@0 as j]       VeilExec
//!     HashJoinExec                         →     ProjectionExec: [j@2 as j, j@0 as j]
//! ```
//!
//! DataFusion 55 pushes filters down by names: of two columns `j`, of two tables that are joined, the
//! filter of one falls on the other. While it does so, veils stand above all that has such columns; they let
//! filters of other columns pass, and are taken away again.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_plan::ExecutionPlan;

use super::around::{PhysicalRule, around};
use crate::operator::veil::VeilExec;

/// The rules of DataFusion's that push filters down, before and after others.
const PUSHDOWNS: [&str; 2] = ["FilterPushdown", "FilterPushdown(Post)"];

/// `rule` of DataFusion's, or what stands in for it.
pub fn in_place_of(rule: PhysicalRule) -> PhysicalRule {
    around(rule, &PUSHDOWNS, optimize)
}

fn optimize(
    rule: &PhysicalRule,
    plan: Arc<dyn ExecutionPlan>,
    config: &ConfigOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    let veiled = plan.transform_up(|node| {
        Ok(match has_twins(&node) {
            true => Transformed::yes(Arc::new(VeilExec::passing(node)) as _),
            false => Transformed::no(node),
        })
    })?;
    let pushed = rule.optimize(veiled.data, config)?;
    if !veiled.transformed {
        return Ok(pushed);
    }
    pushed
        .transform_up(|node| {
            let veil = node.downcast_ref::<VeilExec>();
            Ok(match veil.and_then(VeilExec::behind_passing) {
                Some(behind) => Transformed::yes(Arc::clone(behind)),
                None => Transformed::no(node),
            })
        })
        .data()
}

/// Whether two columns of `plan` have one name.
fn has_twins(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut names = HashSet::new();
    let schema = plan.schema();
    schema
        .fields()
        .iter()
        .any(|field| !names.insert(field.name()))
}
