//! Keeps what is above an aggregate that gives a row for no rows from going below it.
//!
//! An aggregate without keys, and some of GROUPING SETS, give a row whatever comes in. DataFusion 55
//! moves a condition without columns below them (`WHERE kind = 'a'` where a UNION's branch has
//! `'b' AS kind`), so that it filters what is counted and leaves the row. And it answers a count
//! from statistics without looking at its FILTER.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;

use super::around::{PhysicalRule, around};

const PUSH_DOWN: &str = "push_down_filter";
const STATISTICS: &str = "aggregate_statistics";

/// `rule` of DataFusion's, or what stands in for it.
pub fn in_place_of(
    rule: Arc<dyn OptimizerRule + Send + Sync>,
) -> Arc<dyn OptimizerRule + Send + Sync> {
    match rule.name() {
        PUSH_DOWN => Arc::new(FiltersStay { rule }),
        _ => rule,
    }
}

/// The same for rules of physical plans.
pub fn in_place_of_physical(rule: PhysicalRule) -> PhysicalRule {
    around(rule, &[STATISTICS], optimize)
}

/// Filters stay above such aggregates.
#[derive(Debug)]
struct FiltersStay {
    rule: Arc<dyn OptimizerRule + Send + Sync>,
}

impl OptimizerRule for FiltersStay {
    fn name(&self) -> &str {
        self.rule.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.rule.apply_order()
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        match is_above_one_row(&plan) {
            true => Ok(Transformed::no(plan)),
            false => self.rule.rewrite(plan, config),
        }
    }
}

/// Whether `plan` is a filter, or several, right above an aggregate that may give a row for none.
fn is_above_one_row(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Filter(filter) = plan else {
        return false;
    };
    match filter.input.as_ref() {
        LogicalPlan::Aggregate(aggregate) => {
            let keys = &aggregate.group_expr;
            keys.is_empty() || matches!(keys.as_slice(), [Expr::GroupingSet(_)])
        }
        below => is_above_one_row(below),
    }
}

fn optimize(
    rule: &PhysicalRule,
    plan: Arc<dyn ExecutionPlan>,
    config: &ConfigOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut has_filter = false;
    plan.apply(|node| {
        let aggregate = node.downcast_ref::<AggregateExec>();
        let filters = aggregate.map_or(&[][..], AggregateExec::filter_expr);
        has_filter = filters.iter().any(Option::is_some);
        Ok(match has_filter {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    match has_filter {
        true => Ok(plan),
        false => rule.optimize(plan, config),
    }
}
