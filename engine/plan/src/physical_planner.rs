//! Our nodes become our execs.
//!
//! [`ExtensionNodes`] is asked by DataFusion's physical planner for each node
//! it does not know; [`MobulaQueryPlanner`] is that planner with it. The base's
//! distributed planner wraps the latter.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{Column, Result};
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

use crate::error::PlanError;
use crate::operator::keep::KeepNode;
use crate::operator::map_batches::{
    ExecGrouping, ExecShape, Grouping, MapBatchesExec, MapBatchesNode, NodeShape,
};
use crate::operator::repartition::{
    BlocksExec, RepartitionNode, SQL_NAME, Spread, SpreadExec, TaskLimit,
};

/// Plans the nodes of [`crate::operator::OPERATORS`].
#[derive(Debug, Default)]
pub struct ExtensionNodes;

#[async_trait]
impl ExtensionPlanner for ExtensionNodes {
    async fn plan_extension(
        &self,
        _planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        _planning_ctx: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let [input] = physical_inputs else {
            return Ok(None);
        };
        if let Some(node) = node.as_any().downcast_ref::<RepartitionNode>() {
            let tasks = session.config().get_extension::<TaskLimit>();
            let tasks = tasks.map_or(1, |limit| limit.0);
            let default = session.config().target_partitions() * tasks;
            return Ok(Some(repartition(node, input, tasks, default)?));
        }
        if let Some(node) = node.as_any().downcast_ref::<KeepNode>() {
            return Ok(Some(Arc::new(node.exec(Arc::clone(input)))));
        }
        match node.as_any().downcast_ref::<MapBatchesNode>() {
            Some(node) => {
                if let Some((_, parameter)) = node.call().parameters().first() {
                    return Err(PlanError::parameter(parameter, "has no value").into());
                }
                let tasks = session.config().get_extension::<TaskLimit>();
                let tasks = tasks.map_or(1, |limit| limit.0);
                Ok(Some(Arc::new(map_batches(node, input, tasks)?)))
            }
            None => Ok(None),
        }
    }
}

fn repartition(
    node: &RepartitionNode,
    input: &Arc<dyn ExecutionPlan>,
    tasks: usize,
    default_partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut plan = Arc::clone(input);
    let how = node.how();
    if how.spreads() {
        let partitions = how.partitions.unwrap_or(default_partitions);
        let by = how.by.iter();
        let by = by.map(|column| node.schema().index_of_column(column));
        let spread = Spread::over(partitions, tasks, by.collect::<Result<_>>()?);
        plan = Arc::new(SpreadExec::new(plan, spread, false));
    }
    if let Some(rows) = how.rows_per_block {
        let order = match node.keeps_order() && is_ordered(node.input()) {
            true => order_of(input, SQL_NAME)?,
            false => None,
        };
        plan = Arc::new(BlocksExec::new(plan, rows).with_input_order(order));
    }
    Ok(plan)
}

/// `tasks`: most tasks of a stage.
fn map_batches(
    node: &MapBatchesNode,
    input: &Arc<dyn ExecutionPlan>,
    tasks: usize,
) -> Result<MapBatchesExec> {
    let places = |args: &[Column]| {
        let schema = node.input().schema();
        let places = args.iter().map(|column| schema.index_of_column(column));
        places.collect::<Result<Vec<_>>>()
    };
    let schema = input.schema();
    let (shape, call) = match node.shape() {
        NodeShape::Table | NodeShape::Groups(_) => {
            let keeps_rows = *node.shape() == NodeShape::Table && node.call().keeps_rows();
            (
                ExecShape::Table { keeps_rows },
                node.call().over(&schema, ""),
            )
        }
        NodeShape::Column { args, mask, result } => {
            let (args, mask) = (places(args)?, places(mask.as_slice())?.pop());
            (
                ExecShape::Column { args, mask },
                node.call().over(&schema, result),
            )
        }
        NodeShape::Filter { args } => {
            let args = places(args)?;
            let call = node.call().over(&schema.project(&args)?, "stays");
            (ExecShape::Filter { args }, call)
        }
    };
    let call = Arc::new(call);
    if let Some(keys) = node.keys() {
        let grouping = exec_grouping(node, keys)?;
        let actors = node.call().concurrency().unwrap_or(1);
        // As many streams as actors, so that each key has one.
        let keys = grouping.keys.clone();
        let spread = match node.call().spec().is_method() {
            // A key has the same actor in all queries.
            true => Spread::alike(actors, keys),
            false => Spread::over(actors, tasks, keys),
        };
        let input = Arc::new(SpreadExec::new(Arc::clone(input), spread, false));
        let exec = MapBatchesExec::try_new(input, call, shape, Some(actors))?;
        return Ok(exec.with_grouping(Some(grouping)));
    }
    let exec = MapBatchesExec::try_new(Arc::clone(input), call, shape, node.call().concurrency())?;
    let grouping = match node.shape() {
        NodeShape::Groups(grouping) => Some(exec_grouping(node, grouping)?),
        _ => None,
    };
    if grouping.is_some() {
        return Ok(exec.with_grouping(grouping));
    }
    let order = match node.call().is_in_order() && is_ordered(node.input()) {
        true => order_of(input, &node.call().spec().name)?,
        false => None,
    };
    Ok(exec.with_input_order(order))
}

fn exec_grouping(node: &MapBatchesNode, grouping: &Grouping) -> Result<ExecGrouping> {
    let schema = node.input().schema();
    let keys = grouping.keys.iter().map(|key| schema.index_of_column(key));
    let keys = keys.collect::<Result<_>>()?;
    let order = grouping.order.iter().map(|(column, way)| {
        let at = schema.index_of_column(column)?;
        Ok((at, *way))
    });
    let order = order.collect::<Result<_>>()?;
    Ok(ExecGrouping { keys, order })
}

/// Whether the rows of `plan` have the order of an ORDER BY.
pub(crate) fn is_ordered(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(node) => is_ordered(&node.input),
        LogicalPlan::SubqueryAlias(node) => is_ordered(&node.input),
        LogicalPlan::Filter(node) => is_ordered(&node.input),
        LogicalPlan::Limit(node) => is_ordered(&node.input),
        LogicalPlan::Extension(extension) => {
            let node = extension.node.as_any();
            if let Some(node) = node.downcast_ref::<RepartitionNode>() {
                return node.keeps_order() && is_ordered(node.input());
            }
            node.downcast_ref::<MapBatchesNode>()
                .is_some_and(|n| !n.call().spec().is_table() && is_ordered(n.input()))
        }
        _ => false,
    }
}

/// The order of an ordered input; `None` when its rows are alike in it.
fn order_of(input: &Arc<dyn ExecutionPlan>, function: &str) -> Result<Option<LexOrdering>> {
    let mut node = input;
    loop {
        match (node.output_ordering(), node.children().as_slice()) {
            (Some(order), _) if Arc::ptr_eq(node, input) => return Ok(Some(order.clone())),
            (Some(_), _) => {
                let function = function.to_owned();
                return Err(PlanError::OrderNotSelected { function }.into());
            }
            (None, [below]) if node.is::<ProjectionExec>() || node.is::<FilterExec>() => {
                node = below;
            }
            _ => return Ok(None),
        }
    }
}

/// DataFusion's planner with our nodes.
#[derive(Debug, Default)]
pub struct MobulaQueryPlanner;

#[async_trait]
impl QueryPlanner for MobulaQueryPlanner {
    async fn create_physical_plan(
        &self,
        logical_plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let planner =
            DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(ExtensionNodes)]);
        planner.create_physical_plan(logical_plan, session).await
    }
}
