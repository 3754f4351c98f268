//! The streams of `repartition`.
//!
//! Planned without a RepartitionExec below, which `rule::lower_spread` puts there
//! when DataFusion's rules are through. What is above sees as many partitions both
//! times, and is told of no keys: it would take two that count differently for alike.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions,
};
use datafusion::physical_plan::expressions::Column;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    PlanProperties,
};
use futures::StreamExt;

use super::alike::widest;
use super::route::{ROUTE, RouteExec};

/// How many tasks a stage may have, as an extension of DataFusion's session
/// configuration. Without it, one.
#[derive(Debug, Clone, Copy)]
pub struct TaskLimit(pub usize);

/// How rows are spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    /// Streams of each task.
    pub partitions: usize,
    pub tasks: usize,
    /// Columns of the input; none: rows in turn.
    pub by: Vec<usize>,
    /// Whether the same key has the same stream in all queries. Means nothing once there is a
    /// RepartitionExec below.
    pub alike: bool,
}

impl Spread {
    /// `partitions` streams over at most `tasks` tasks: as many for each, rounded up.
    pub fn over(partitions: usize, tasks: usize, by: Vec<usize>) -> Self {
        let tasks = tasks.clamp(1, partitions.max(1));
        Self {
            partitions: partitions.div_ceil(tasks).max(1),
            tasks,
            by,
            alike: false,
        }
    }

    /// `partitions` streams of one task, so that which one a key has depends on nothing but the
    /// key.
    pub fn alike(partitions: usize, by: Vec<usize>) -> Self {
        Self {
            alike: true,
            ..Self::over(partitions, 1, by)
        }
    }
}

/// Rows in other streams.
#[derive(Debug)]
pub struct SpreadExec {
    input: Arc<dyn ExecutionPlan>,
    spread: Spread,
    /// Whether rows come spread.
    is_lowered: bool,
    properties: Arc<PlanProperties>,
}

impl SpreadExec {
    /// Above rows that are spread already if `is_lowered`.
    pub fn new(input: Arc<dyn ExecutionPlan>, spread: Spread, is_lowered: bool) -> Self {
        let schema = input.schema();
        let fields = schema.fields().iter().filter(|field| field.name() != ROUTE);
        let fields: Vec<_> = fields.cloned().collect();
        let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::new(schema)),
            Partitioning::UnknownPartitioning(spread.partitions),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self {
            input,
            spread,
            is_lowered,
            properties: Arc::new(properties),
        }
    }

    pub fn spread(&self) -> &Spread {
        &self.spread
    }

    /// The same above a RepartitionExec; `None` if it stands there already.
    ///
    /// # Errors
    /// None that could happen: the keys are columns of the input.
    pub fn lowered(&self) -> Result<Option<Self>> {
        if self.is_lowered {
            return Ok(None);
        }
        let schema = self.input.schema();
        let key =
            |name: &str, at: usize| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new(name, at)) };
        let (below, keys) = match self.spread.by.as_slice() {
            [] => {
                let all = self.spread.partitions * self.spread.tasks;
                let routed = RouteExec::new(Arc::clone(&self.input), all);
                let routed: Arc<dyn ExecutionPlan> = Arc::new(routed);
                (routed, vec![key(ROUTE, schema.fields().len())])
            }
            by => {
                let keys = by.iter().map(|at| {
                    let key = key(schema.field(*at).name(), *at);
                    match self.spread.alike {
                        true => widest(key, &schema),
                        false => Ok(key),
                    }
                });
                (Arc::clone(&self.input), keys.collect::<Result<_>>()?)
            }
        };
        let partitioning = Partitioning::Hash(keys, self.spread.partitions);
        let below = RepartitionExec::try_new(below, partitioning)?;
        Ok(Some(Self::new(Arc::new(below), self.spread.clone(), true)))
    }
}

impl DisplayAs for SpreadExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match t {
            DisplayFormatType::Default | DisplayFormatType::Verbose => {
                write!(f, "SpreadExec: ")?;
                ", "
            }
            DisplayFormatType::TreeRender => "\n",
        };
        let Spread {
            partitions,
            tasks,
            by,
            ..
        } = &self.spread;
        write!(f, "partitions={}", partitions * tasks)?;
        if *tasks > 1 {
            write!(f, "{separator}tasks={tasks}")?;
        }
        if !by.is_empty() {
            let schema = self.input.schema();
            let by = by.iter().map(|at| schema.field(*at).name().as_str());
            write!(f, "{separator}by=[{}]", by.collect::<Vec<_>>().join(", "))?;
        }
        Ok(())
    }
}

impl ExecutionPlan for SpreadExec {
    fn name(&self) -> &'static str {
        "SpreadExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    /// Keys are column numbers, not expressions.
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
            return internal_err!("SpreadExec has one input");
        };
        let spread = self.spread.clone();
        Ok(Arc::new(Self::new(input, spread, self.is_lowered)))
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

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        match partition {
            None => vec![ChildStats::At(None)],
            Some(_) => vec![ChildStats::Skip],
        }
    }

    /// The input's; nothing for one partition, whose rows nobody knows before.
    fn statistics_from_inputs(
        &self,
        input_stats: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let width = self.schema().fields().len();
        match input_stats {
            [input] if args.partition().is_none() => {
                let mut statistics = input.as_ref().clone();
                statistics.column_statistics.truncate(width);
                Ok(Arc::new(statistics))
            }
            _ => Ok(Arc::new(Statistics::new_unknown(&self.schema()))),
        }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if !self.is_lowered {
            return internal_err!("SpreadExec before rule::lower_spread");
        }
        let columns: Vec<usize> = (0..self.schema().fields().len()).collect();
        let rows = self.input.execute(partition, context)?;
        let rows = rows.map(move |rows| Ok(rows?.project(&columns)?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}
