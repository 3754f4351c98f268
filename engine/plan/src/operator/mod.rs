//! Our operators, each with its node, exec, stream and message.
//!
//! Adding one is a module here, a line in [`OPERATORS`], a message in
//! `mobula_proto::plan` and an arm in the codec and the physical planner.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;
use mobula_udfs::{CallMode, FunctionSpec, Language, ObjectKind};

use self::map_batches::map_batches_exec;

mod filter;
mod flat_map;
pub mod keep;
pub mod kept_scan;
mod map;
pub mod map_batches;
mod map_groups;
mod output_metrics;
pub mod repartition;
pub mod veil;

/// An operator's names: in SQL, as node, as exec; and how it calls functions.
#[derive(Debug, Clone, Copy)]
pub struct Operator {
    pub sql: &'static str,
    pub node: &'static str,
    pub exec: &'static str,
    pub mode: CallMode,
}

/// Every operator of ours.
pub static OPERATORS: &[Operator] = &[
    map_batches::OPERATOR,
    map::OPERATOR,
    flat_map::OPERATOR,
    filter::OPERATOR,
    map_groups::OPERATOR,
];

/// Name, syntax and purpose of every operator, as SHOW FUNCTIONS gives them.
pub const SYNTAX: &[(&str, &str, &str)] = &[
    (
        "map_batches",
        "FROM map_batches(TABLE(query), function, option => value, …)",
        "Hands batches of rows to a function or actor: a column more, or the function's table.",
    ),
    (
        "map",
        "FROM map(TABLE(query), function, option => value, …)",
        "Calls a function or actor for each row: a column more, or one row for each.",
    ),
    (
        "flat_map",
        "FROM flat_map(TABLE(query), function, option => value, …)",
        "Calls a function or actor for each row: any number of rows for each.",
    ),
    (
        "filter",
        "FROM filter(TABLE(query), function, option => value, …)",
        "Keeps the rows for which a function or actor says true.",
    ),
    (
        "map_groups",
        "FROM map_groups(TABLE(query), function, partition_by => (column, …), order_by => (column, …), option => value, …)",
        "Calls a function or actor for each group of rows: any number of rows for each.",
    ),
    (
        repartition::SQL_NAME,
        "FROM repartition(TABLE(query), partitions, by => (column, …), rows_per_block => n)",
        "The same rows in other streams or blocks.",
    ),
    (
        "read_split",
        "FROM read_split('split', reader)",
        "The rows of one of a split's readers.",
    ),
];

impl Operator {
    /// The operator that calls functions by `mode`.
    pub fn of(mode: CallMode) -> &'static Self {
        let mut found = OPERATORS.iter().filter(|o| o.mode == mode);
        found.next().unwrap_or(&map_batches::OPERATOR)
    }

    #[cfg(test)]
    fn is_described(&self) -> bool {
        SYNTAX.iter().any(|(name, ..)| *name == self.sql)
    }

    /// The operator called `name` in SQL, if it is one of ours.
    pub fn named(name: &str) -> Option<&'static Self> {
        OPERATORS.iter().find(|o| o.sql == name)
    }
}

/// How many worker processes `plan` keeps at least while it runs, in each process
/// that takes part: one for every call of a class, an async or a table function, and all that
/// a call starts with whose workers ask for resources, unless those `are_placed` by
/// themselves. The workers of other scalar functions come and go, those of native ones
/// are threads, and a named actor is there anyway.
///
/// # Errors
/// None of its own.
pub fn workers_kept(plan: &Arc<dyn ExecutionPlan>, are_placed: bool) -> Result<usize> {
    let mut kept = 0;
    plan.apply(|node| {
        let exec = map_batches_exec(node.as_ref());
        let keeps = |spec: &FunctionSpec| {
            spec.language != Language::Native
                && !spec.is_method()
                && (spec.object != ObjectKind::Function || spec.is_table())
        };
        if let Some(exec) = exec {
            kept += match exec.demand() {
                Some(_) if are_placed => 0,
                Some(asked) if asked.takes_resources() => asked.workers,
                _ => usize::from(keeps(&exec.call().spec)),
            };
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_is_described() {
        assert!(OPERATORS.iter().all(Operator::is_described));
    }
}
