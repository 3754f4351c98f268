//! Our nodes become our execs.
//!
//! [`ExtensionNodes`] is asked by DataFusion's physical planner for each node
//! it does not know; [`MobulaQueryPlanner`] is that planner with it. The base's
//! distributed planner wraps the latter.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{Column, Result, internal_err};
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

use crate::operator::map_batches::{ExecShape, MapBatchesExec, MapBatchesNode, NodeShape};

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
        _session: &dyn Session,
        _planning_ctx: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<MapBatchesNode>() else {
            return Ok(None);
        };
        let [input] = physical_inputs else {
            return internal_err!("{} has one input", node.call().operator().node);
        };
        Ok(Some(Arc::new(map_batches(node, input)?)))
    }
}

fn map_batches(node: &MapBatchesNode, input: &Arc<dyn ExecutionPlan>) -> Result<MapBatchesExec> {
    let places = |args: &[Column]| {
        let schema = node.input().schema();
        let places = args.iter().map(|column| schema.index_of_column(column));
        places.collect::<Result<Vec<_>>>()
    };
    let schema = input.schema();
    let (shape, call) = match node.shape() {
        NodeShape::Table => (ExecShape::Table, node.call().over(&schema, "")),
        NodeShape::Column { args, result } => {
            let args = places(args)?;
            (
                ExecShape::Column { args },
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
    MapBatchesExec::try_new(Arc::clone(input), call, shape, node.call().concurrency())
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
