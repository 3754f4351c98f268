//! Rows as they come, of which nothing is known above: no constants, equal columns or orders.
//!
//! `rule::not_constant` puts it where what is constant or equal below is not so above,
//! `rule::one_order` where only one of the orders below is one above, and `rule::limit_stays`
//! below a sort that has to stay; `rule::twin_names` for a while, where columns share a name.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions,
};
use datafusion::physical_plan::filter_pushdown::{
    ChildFilterDescription, FilterDescription, FilterPushdownPhase,
};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};

/// The rows of its input.
#[derive(Debug)]
pub struct VeilExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    is_passing: bool,
}

impl VeilExec {
    pub fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self {
            input,
            properties: Arc::new(properties),
            is_passing: false,
        }
    }

    /// One that whoever put it there takes away again.
    pub fn passing(input: Arc<dyn ExecutionPlan>) -> Self {
        Self {
            is_passing: true,
            ..Self::new(input)
        }
    }

    /// What is behind it, if it is to be taken away.
    pub fn behind_passing(&self) -> Option<&Arc<dyn ExecutionPlan>> {
        self.is_passing.then_some(&self.input)
    }
}

/// Whether more than one column has this name.
fn is_shared(schema: &Schema, name: &str) -> bool {
    let same = schema.fields().iter().filter(|f| f.name() == name);
    same.count() > 1
}

impl DisplayAs for VeilExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match t {
            DisplayFormatType::TreeRender => Ok(()),
            _ => write!(f, "VeilExec"),
        }
    }
}

impl ExecutionPlan for VeilExec {
    fn name(&self) -> &'static str {
        "VeilExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[Arc<dyn ExecutionPlan>; 1]>::try_from(children) else {
            return internal_err!("VeilExec has one input");
        };
        Ok(Arc::new(Self {
            is_passing: self.is_passing,
            ..Self::new(input)
        }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    /// It does, and a sort that is wanted above must not be planned below, where less is to sort.
    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false]
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    /// Filters go on but for those of a name that columns share: DataFusion finds them by names.
    fn gather_filters_for_pushdown(
        &self,
        _phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _config: &ConfigOptions,
    ) -> Result<FilterDescription> {
        let schema = self.input.schema();
        let alone = schema.fields().iter().enumerate();
        let alone = alone.filter(|(_, field)| !is_shared(&schema, field.name()));
        let alone = alone.map(|(at, _)| at).collect();
        let below = ChildFilterDescription::from_child_with_allowed_indices(
            &parent_filters,
            alone,
            &self.input,
        )?;
        Ok(FilterDescription::new().with_child(below))
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(
        &self,
        input_stats: &[Arc<Statistics>],
        _args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let [input] = input_stats else {
            return internal_err!("VeilExec has one input");
        };
        Ok(Arc::clone(input))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }
}
