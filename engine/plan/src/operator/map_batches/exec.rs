//! The physical half: properties, statistics, EXPLAIN, and one stream per
//! partition.
//!
//! It stands inside any stage and moves no rows between partitions. All
//! partitions of one exec in one task share one pool. Made by the physical
//! planner, and by the codec on the other side.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::stats::{ColumnStatistics, Precision};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{
    Distribution, EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalExpr,
};
use datafusion::physical_plan::execution_plan::{
    CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions,
};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{
    ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements, Partitioning,
    PlanProperties,
};
use mobula_udfs::{CallMode, Handling, Keyed, OnError, Overlap, UdfCall, Volatility};

use super::block_memory::BlockMemory;
use super::block_names::Runs;
use super::block_queue::{BlockLimits, BlockQueue};
use super::grouping::{ExecGrouping, GroupMarker};
use super::open_blocks::{self, open_blocks};
use super::pace::aim;
use super::shared_pool::SharedPool;
use super::stream::{Groups, MapBatchesStream, Setup, StreamMetrics};
use super::until_end::until_end;
use crate::config::MobulaOptions;
use crate::operator::Operator;
use crate::operator::repartition::BlocksExec;
use crate::task_host::{Interactive, PlacedPool, PlacedPools, QueryId, TaskHostHandle};

/// How a call meets its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecShape {
    /// The input's columns pass through, one is appended.
    Column {
        /// Input column of each parameter, in order.
        args: Vec<usize>,
        /// Input column that says which rows the call sees; `None`: all. The
        /// others get NULL.
        mask: Option<usize>,
    },
    /// The input's rows stay or go.
    Filter {
        /// Input column of each parameter, or of each key of a row, in order.
        args: Vec<usize>,
    },
    /// All columns go in, the function's table comes out.
    Table {
        /// A row for each row, as it was promised.
        keeps_rows: bool,
    },
}

impl ExecShape {
    /// The input column that says which rows the call sees.
    pub fn mask(&self) -> Option<usize> {
        match self {
            Self::Column { mask, .. } => *mask,
            Self::Filter { .. } | Self::Table { .. } => None,
        }
    }
}

/// `map_batches`, and the operators that are run like it, in a physical plan.
#[derive(Debug)]
pub struct MapBatchesExec {
    input: Arc<dyn ExecutionPlan>,
    call: Arc<UdfCall>,
    shape: ExecShape,
    concurrency: Option<usize>,
    /// The order that an ORDER BY inside the input gives all its rows.
    input_order: Option<LexOrdering>,
    /// Which rows must come together, only with [`ExecShape::Table`]; of a keyed call, by
    /// what they were spread.
    grouping: Option<ExecGrouping>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    /// Held by the streams of this exec; see [`SharedPool`].
    pool: Mutex<Weak<SharedPool>>,
    /// Names it among the operators that its coordinator has planned.
    call_id: u64,
    /// For the names of blocks.
    runs: Arc<Runs>,
}

/// What the next exec is named.
static NEXT_CALL_ID: AtomicU64 = AtomicU64::new(1);

impl MapBatchesExec {
    /// `concurrency`: workers over the whole cluster, `None`: as many as each
    /// task has cores.
    ///
    /// # Errors
    /// An internal error when call, shape and input do not fit.
    pub fn try_new(
        input: Arc<dyn ExecutionPlan>,
        call: Arc<UdfCall>,
        shape: ExecShape,
        concurrency: Option<usize>,
    ) -> Result<Self> {
        check(&input.schema(), &call, &shape)?;
        let properties = Arc::new(properties(&input, &call, &shape)?);
        Ok(Self {
            input,
            call,
            shape,
            concurrency,
            input_order: None,
            grouping: None,
            properties,
            metrics: ExecutionPlanMetricsSet::new(),
            pool: Mutex::new(Weak::new()),
            call_id: NEXT_CALL_ID.fetch_add(1, Ordering::Relaxed),
            runs: Arc::default(),
        })
    }

    /// Asks for the input as a whole and in this order, so that the sort below is
    /// kept whatever stands above.
    pub fn with_input_order(mut self, order: Option<LexOrdering>) -> Self {
        self.input_order = order;
        self
    }

    /// Asks for the rows of each group together; of a keyed call, for those of each actor in
    /// the order of the keys.
    pub fn with_grouping(mut self, grouping: Option<ExecGrouping>) -> Self {
        self.grouping = grouping;
        self
    }

    /// As the exec that is called so by its coordinator.
    pub fn with_call_id(mut self, call_id: u64) -> Self {
        self.call_id = call_id;
        self
    }

    /// Its name among the operators that its coordinator has planned: copies of the exec,
    /// in whatever process, have the same.
    pub fn call_id(&self) -> u64 {
        self.call_id
    }

    /// Its actors, where those are on hosts that were chosen for them.
    pub fn placed(&self, context: &TaskContext) -> Option<Arc<PlacedPool>> {
        PlacedPools::find(context, self.call_id, &self.call)
    }

    pub fn input_order(&self) -> Option<&LexOrdering> {
        self.input_order.as_ref()
    }

    pub fn grouping(&self) -> Option<&ExecGrouping> {
        self.grouping.as_ref()
    }

    pub fn call(&self) -> &Arc<UdfCall> {
        &self.call
    }

    pub fn shape(&self) -> &ExecShape {
        &self.shape
    }

    pub fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }

    /// Workers asked for over the whole cluster; `None`: the cores of each task.
    pub fn concurrency(&self) -> Option<usize> {
        self.concurrency
    }

    /// Whether a row comes out of every row of the input.
    pub(crate) fn keeps_rows(&self) -> bool {
        match self.shape {
            ExecShape::Column { .. } => !self.drops_rows(),
            ExecShape::Filter { .. } => false,
            ExecShape::Table { keeps_rows } => keeps_rows,
        }
    }

    /// Whether rows that fail are left out.
    fn drops_rows(&self) -> bool {
        self.call.errors.on_error.drops_rows()
    }

    /// Whether it may be made for what it does.
    fn is_volatile(&self) -> bool {
        let mut parts = self.call.parts();
        parts.any(|part| part.spec.volatility == Volatility::Volatile)
    }

    /// Whether blocks come out in the order they went in. Until a rule has found out who
    /// asks for it (`rule::order_where_asked`) values do unless told otherwise, tables only if.
    pub(crate) fn keeps_order(&self) -> bool {
        keeps_order(&self.call, &self.shape)
    }

    /// Whether one worker has all blocks, one after the other: nothing is gained by giving
    /// rows out in another order.
    pub(crate) fn keeps_order_for_nothing(&self) -> bool {
        // A method may be that of a pool.
        let is_one = self.concurrency == Some(1) && !self.call.spec.is_method();
        let is_alone = is_one && !self.call.is_async();
        is_alone && self.call.handling.preserve_order.is_none()
    }

    /// The same call, whose blocks come out in order, or not.
    ///
    /// # Errors
    /// An internal error when it did not fit its input before.
    pub(crate) fn keeping_order(&self, keeps: bool) -> Result<Self> {
        let mut call = self.call.as_ref().clone();
        call.handling.preserve_order = Some(keeps);
        self.remade(Arc::clone(&self.input), Arc::new(call))
    }

    /// The same exec in another place, under the same name.
    fn remade(&self, input: Arc<dyn ExecutionPlan>, call: Arc<UdfCall>) -> Result<Self> {
        let exec = Self::try_new(input, call, self.shape.clone(), self.concurrency)?;
        let exec = exec.with_input_order(self.input_order.clone());
        let mut exec = exec.with_call_id(self.call_id);
        exec.runs = Arc::clone(&self.runs);
        Ok(exec.with_grouping(self.grouping.clone()))
    }

    pub(crate) fn is_table(&self) -> bool {
        matches!(self.shape, ExecShape::Table { .. })
    }

    /// The pool of the streams that run now, or a new one.
    fn shared_pool(&self, context: &Arc<TaskContext>) -> Result<Arc<SharedPool>> {
        let host = TaskHostHandle::of(context)?;
        let mut shared = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = shared.upgrade() {
            return Ok(pool);
        }
        let placed = self.placed(context);
        let workers = match (&placed, self.concurrency) {
            // All tasks share them.
            (Some(placed), _) => placed.actors(),
            (None, Some(total)) => host.task_share(context, total),
            // A function without state: also a single partition keeps all cores
            // busy, with several blocks in flight.
            (None, None) => {
                let partitions = self.properties.output_partitioning().partition_count();
                partitions.max(context.session_config().target_partitions())
            }
        };
        let handling = self.handling_under(&options(context));
        // As it claims: what is there decides how many more.
        let takes = self.concurrency.is_none() && handling.demand.takes_resources();
        let least = handling.min_workers.or(takes.then_some(1));
        // One block at work and one on its way for each worker.
        let open = open_blocks(&self.call, &options(context)).unwrap_or(2);
        let call = Arc::new(UdfCall {
            handling: Handling {
                min_workers: least.map(|total| host.task_share(context, total)),
                ..handling
            },
            query: QueryId::of(context),
            priority: Interactive::priority(context, &options(context)),
            ..self.call_under(&options(context))
        });
        let aim = aim(&self.call, &options(context)).filter(|_| !self.takes_blocks());
        let percent = options(context).udf_memory_percent();
        let memory = BlockMemory::of(context, &self.call, percent);
        let context = Arc::clone(context);
        let pool = SharedPool::new(host, context, call, workers, open, &self.metrics);
        let pool = pool.with_placed(placed).with_pace(aim).with_memory(memory);
        let pool = Arc::new(pool);
        *shared = Arc::downgrade(&pool);
        Ok(pool)
    }

    /// The call with what a session with `options` limits it to.
    pub fn call_under(&self, options: &MobulaOptions) -> UdfCall {
        let call = self.call.as_ref();
        let listed = match call.errors.on_error {
            OnError::DeadLetter => Some(options.udf_errors_max_rows()),
            _ => None,
        };
        // A block takes the time of each function that it goes through.
        let functions = call.parts().count() as u32;
        let timeout = options.udf_call_timeout().map(|each| each * functions);
        UdfCall {
            timeout: call.handling.timeout.or(timeout),
            max_errors: call.errors.max_errors.into_iter().chain(listed).min(),
            handling: self.handling_under(options),
            ..call.clone()
        }
    }

    /// How its blocks are handled, with the limits of a session with `options`.
    fn handling_under(&self, options: &MobulaOptions) -> Handling {
        let handling = &self.call.handling;
        Handling {
            overlap: self.overlap_of_a_worker(),
            keyed: handling.keyed.map(|keyed| Keyed {
                snapshot_every: match keyed.snapshot_every {
                    0 => options.udf_snapshot_every() as u64,
                    every => every,
                },
                replay_bytes: options.udf_replay_bytes() as u64,
                snapshot_max_bytes: options.udf_snapshot_max_bytes() as u64,
                actors: keyed.actors,
            }),
            ..handling.clone()
        }
    }

    /// Whose actor rows of `partition` go to, of a keyed call. Those that are placed are
    /// counted over all tasks.
    fn lane(&self, partition: usize, context: &TaskContext) -> Result<Option<usize>> {
        if !self.is_keyed() {
            return Ok(None);
        }
        let Some(placed) = PlacedPools::find(context, self.call_id, &self.call) else {
            return Ok(Some(partition));
        };
        let host = TaskHostHandle::of(context)?;
        let named = self.concurrency.filter(|_| self.call.spec.is_method());
        let (first, count) = host.task_lanes(context, named.unwrap_or(placed.actors()));
        // Of named ones as many as there are to be, also while some of them are missed.
        let streams = self.properties.output_partitioning().partition_count();
        match named {
            Some(actors) if count != streams => {
                internal_err!("{streams} streams to {actors} actors")
            }
            _ => Ok(Some(first + partition % count)),
        }
    }

    /// Whether rows go to actors by key.
    pub fn is_keyed(&self) -> bool {
        self.call.handling.keyed.is_some()
    }

    /// The rate is that of all workers.
    fn overlap_of_a_worker(&self) -> Overlap {
        let overlap = self.call.handling.overlap;
        let share = |rate: f64| rate / self.concurrency.unwrap_or(1) as f64;
        Overlap {
            rate_limit: overlap.rate_limit.map(share),
            ..overlap
        }
    }

    fn groups(&self, context: &TaskContext) -> Option<Groups> {
        let grouping = self.grouping.as_ref().filter(|_| !self.is_keyed())?;
        Some(Groups {
            marker: GroupMarker::new(grouping.keys.clone()),
            max_bytes: options(context).udf_max_frame_bytes(),
        })
    }

    /// Whether a block is what the input calls one: where neither batches nor groups
    /// are asked for.
    fn takes_blocks(&self) -> bool {
        self.call.batch_size.is_none()
            && self.call.mode != CallMode::Groups
            && self.input.is::<BlocksExec>()
    }

    fn limits(&self, context: &TaskContext) -> BlockLimits {
        let options = options(context);
        if !self.takes_blocks()
            && let Some(open) = open_blocks(&self.call, &options)
        {
            return open_blocks::limits(&self.call, &options, open);
        }
        let rows = options.udf_batch_rows();
        let (rows, batch_size) = match self.call.mode {
            _ if self.takes_blocks() => (1, None),
            CallMode::Batches => (rows, self.call.batch_size),
            CallMode::Groups => (rows, None),
            // Whoever is called row by row sees no batch: it is a block.
            _ => (rows.min(self.call.batch_size.unwrap_or(rows)), None),
        };
        BlockLimits {
            rows,
            bytes: options.udf_batch_bytes(),
            batch_size,
        }
    }
}

/// The exec behind `plan`, if it is ours.
pub fn map_batches_exec(plan: &dyn ExecutionPlan) -> Option<&MapBatchesExec> {
    plan.downcast_ref::<MapBatchesExec>()
}

fn check(input: &Schema, call: &UdfCall, shape: &ExecShape) -> Result<()> {
    let name = &call.spec.name;
    // Groups have a column more, which tells where they start.
    let marks = usize::from(call.mode == CallMode::Groups);
    match shape {
        ExecShape::Column { args, .. } | ExecShape::Filter { args } => {
            if let Some(mask) = shape.mask()
                && input.fields().get(mask).map(|f| f.data_type()) != Some(&DataType::Boolean)
            {
                return internal_err!("column {mask} is no mask for the call of \"{name}\"");
            }
            if args.len() != call.input.fields().len()
                || call.output.fields().len() != call.parts().count()
            {
                return internal_err!("the call of \"{name}\" does not fit its declaration");
            }
            match args.iter().find(|i| **i >= input.fields().len()) {
                Some(i) => internal_err!(
                    "the call of \"{name}\" reads column {i} of {}",
                    input.fields().len()
                ),
                None => Ok(()),
            }
        }
        ExecShape::Table { .. } if input.fields().len() + marks != call.input.fields().len() => {
            internal_err!("the call of \"{name}\" does not fit its input")
        }
        ExecShape::Table { .. } => Ok(()),
    }
}

fn properties(
    input: &Arc<dyn ExecutionPlan>,
    call: &UdfCall,
    shape: &ExecShape,
) -> Result<PlanProperties> {
    let (equivalence, partitioning) = match shape {
        // Old columns keep their places, so all that was known of them holds.
        ExecShape::Column { .. } | ExecShape::Filter { .. } => {
            let mut equivalence = input.equivalence_properties().clone();
            if !keeps_order(call, shape) {
                equivalence.clear_orderings();
            }
            if matches!(shape, ExecShape::Column { .. }) {
                let schema = appended(&input.schema(), &call.output);
                equivalence = EquivalenceProperties::new(schema).extend(equivalence)?;
            }
            (equivalence, input.output_partitioning().clone())
        }
        ExecShape::Table { .. } => {
            let equivalence = EquivalenceProperties::new(Arc::clone(&call.output));
            let count = input.output_partitioning().partition_count();
            (equivalence, Partitioning::UnknownPartitioning(count))
        }
    };
    Ok(PlanProperties::new(
        equivalence,
        partitioning,
        input.pipeline_behavior(),
        input.boundedness(),
    ))
}

/// Our settings in the session of `context`.
fn options(context: &TaskContext) -> MobulaOptions {
    let extensions = &context.session_config().options().extensions;
    extensions.get().cloned().unwrap_or_default()
}

fn keeps_order(call: &UdfCall, shape: &ExecShape) -> bool {
    let is_table = matches!(shape, ExecShape::Table { .. });
    // What comes of a key comes in the order of its rows.
    let is_keyed = call.handling.keyed.is_some();
    let ordered = call.handling.preserve_order;
    ordered.unwrap_or(!is_table || is_keyed)
}

fn appended(input: &Schema, result: &Schema) -> SchemaRef {
    let fields = input.fields().iter().chain(result.fields()).cloned();
    Arc::new(Schema::new_with_metadata(
        fields.collect::<Vec<_>>(),
        input.metadata().clone(),
    ))
}

impl ExecutionPlan for MapBatchesExec {
    fn name(&self) -> &str {
        Operator::of(self.call.mode).exec
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    /// Arguments are column numbers, not expressions.
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
            return internal_err!("{} has one input", self.name());
        };
        let call = Arc::clone(&self.call);
        Ok(Arc::new(self.remade(input, call)?))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![match (&self.grouping, &self.input_order) {
            // Its streams are spread below.
            (Some(_), _) if self.is_keyed() => Distribution::UnspecifiedDistribution,
            (Some(grouping), _) => {
                Distribution::KeyPartitioned(grouping.key_exprs(&self.input.schema()))
            }
            (None, Some(_)) => Distribution::SinglePartition,
            (None, None) => Distribution::UnspecifiedDistribution,
        }])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        let order = match &self.grouping {
            Some(grouping) if self.is_keyed() => grouping.order_of_keys(&self.input.schema()),
            Some(grouping) => grouping.ordering(&self.input.schema()),
            None => self.input_order.clone(),
        };
        vec![order.map(OrderingRequirements::from)]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![!self.is_table() && self.keeps_order()]
    }

    fn supports_limit_pushdown(&self) -> bool {
        self.keeps_rows() && !self.is_keyed()
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        match self.shape {
            _ if self.keeps_rows() => CardinalityEffect::Equal,
            ExecShape::Column { .. } | ExecShape::Filter { .. } => CardinalityEffect::LowerEqual,
            ExecShape::Table { .. } => CardinalityEffect::Unknown,
        }
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        match self.is_table() {
            false => vec![ChildStats::At(partition)],
            true => vec![ChildStats::Skip],
        }
    }

    /// Scalar: the input's, with nothing known of the new column. Filter: the
    /// input's as bounds. Table: none.
    fn statistics_from_inputs(
        &self,
        input_stats: &[Arc<Statistics>],
        _args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let [input] = input_stats else {
            return internal_err!("{} has one input", self.name());
        };
        let mut statistics = input.as_ref().clone();
        match self.shape {
            ExecShape::Table { .. } => statistics = Statistics::new_unknown(&self.schema()),
            ExecShape::Filter { .. } => statistics = statistics.to_inexact(),
            ExecShape::Column { .. } => {
                statistics.total_byte_size = Precision::Absent;
                let made = self.call.output.fields().iter();
                let unknown = made.map(|_| ColumnStatistics::new_unknown());
                statistics.column_statistics.extend(unknown);
                // Nobody may answer from the statistics what only the call can.
                if self.drops_rows() || self.is_volatile() {
                    statistics = statistics.to_inexact();
                }
            }
        }
        Ok(Arc::new(statistics))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let pool = self.shared_pool(&context)?;
        let place = [self.call_id, partition as u64];
        let setup = Setup {
            next_id: self.runs.begin(&context, &self.call, place)?,
            lane: self.lane(partition, &context)?,
            own_extra: pool.own_extra(),
            keeps_order: self.keeps_order() || self.keeps_order_for_nothing(),
            keep_bytes: options(&context).udf_max_frame_bytes(),
            queue: BlockQueue::new(self.limits(&context)).counting(pool.counts_memory()),
            groups: self.groups(&context),
            takes_blocks: self.takes_blocks(),
            input: self.input.execute(partition, Arc::clone(&context))?,
            pool,
            call: Arc::clone(&self.call),
            shape: self.shape.clone(),
            schema: self.schema(),
        };
        let rows = MapBatchesStream::new(setup, StreamMetrics::new(&self.metrics, partition));
        Ok(until_end(&self.call.spec.name, rows, &context))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
