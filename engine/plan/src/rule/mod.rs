//! Our plan rewrites, in the order they run.
//!
//! Analyzer rules run after DataFusion's type coercion, which has put casts
//! around arguments, and before its optimizer, which must never see a call of a
//! Python function inside an expression. Physical rules run after all of
//! DataFusion's, but for one before them (`not_constant`), and some in place of
//! others (`offset_apart`, `limit_apart`, `limit_stays`, `one_order`, `one_row_aggregate`, `twin_names`).

mod around;
pub mod drop_key_names;
pub mod fuse_calls;
pub mod hoist_udf;
pub mod in_list;
pub mod interval_length;
pub mod limit_apart;
pub mod limit_stays;
pub mod lower_spread;
pub mod nan_in_bounds;
pub mod not_constant;
pub mod numbers_no_days;
pub mod offset_apart;
pub mod one_order;
pub mod one_row_aggregate;
pub mod order_where_asked;
pub mod prune_call;
pub mod raise_blocks;
pub mod series_column;
pub mod sort_below_call;
pub mod sort_not_merge;
pub mod stream_above_call;
pub mod twin_names;
pub mod yield_in_join;

use std::iter;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::{AnalyzerRule, Optimizer, OptimizerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning};

use crate::operator::map_batches::map_batches_exec;

/// Rules appended to DataFusion's analyzer.
pub fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    vec![
        Arc::new(drop_key_names::DropKeyNames),
        Arc::new(numbers_no_days::NumbersNoDays),
        Arc::new(interval_length::IntervalLength),
        Arc::new(hoist_udf::HoistUdf),
        Arc::new(in_list::PlainInList),
    ]
}

/// DataFusion's optimizer, with what of ours stands in for rules of it.
pub fn optimizer_rules_before() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let rules = Optimizer::new().rules.into_iter();
    rules.map(one_row_aggregate::in_place_of).collect()
}

/// Rules appended to DataFusion's optimizer.
pub fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    vec![
        Arc::new(prune_call::PruneCall),
        Arc::new(sort_below_call::SortBelowCall),
    ]
}

/// DataFusion's physical optimizer, with what of ours does not come after it.
pub fn physical_rules_before() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let first = iter::once(Arc::new(not_constant::NotConstant) as _);
    let rules = PhysicalOptimizer::new().rules.into_iter();
    let rules = rules.map(one_row_aggregate::in_place_of_physical);
    let rules = rules.map(limit_stays::in_place_of);
    let rules = rules.map(one_order::in_place_of);
    let rules = rules.map(twin_names::in_place_of);
    let rules = rules.map(offset_apart::in_place_of);
    first.chain(rules.map(limit_apart::in_place_of)).collect()
}

/// Rules appended to DataFusion's physical optimizer.
pub fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    vec![
        Arc::new(sort_not_merge::SortNotMerge),
        Arc::new(yield_in_join::YieldInJoin),
        Arc::new(series_column::SeriesColumn),
        Arc::new(nan_in_bounds::NanInBounds),
        Arc::new(stream_above_call::StreamAboveCall),
        Arc::new(order_where_asked::OrderWhereAsked),
        Arc::new(raise_blocks::RaiseBlocks),
        Arc::new(fuse_calls::FuseCalls),
        Arc::new(lower_spread::LowerSpread),
    ]
}

/// `node`, with `change` made of each part of its expressions, from below, and their names as before.
fn each_part(
    node: LogicalPlan,
    change: impl Fn(Expr) -> Result<Transformed<Expr>>,
) -> Result<Transformed<LogicalPlan>> {
    let names = NamePreserver::new(&node);
    node.map_expressions(|expr| {
        let name = names.save(&expr);
        let changed = expr.transform_up(&change)?;
        Ok(changed.update_data(|expr| name.restore(expr)))
    })
}

/// Whether user code is called anywhere in `plan`.
fn has_call(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let mut found = false;
    plan.apply(|node| {
        found |= map_batches_exec(node.as_ref()).is_some();
        Ok(match found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

/// The input of a round robin.
fn round_robin_input(plan: &Arc<dyn ExecutionPlan>) -> Option<&Arc<dyn ExecutionPlan>> {
    let repartition = plan.downcast_ref::<RepartitionExec>()?;
    let is_round_robin = matches!(repartition.partitioning(), Partitioning::RoundRobinBatch(_));
    is_round_robin.then(|| repartition.input())
}
