//! The blocks of `repartition`: `rows_per_block` rows each, but the last of a stream.
//!
//! A call right above that has no batch size takes each of them as it is.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, LexOrdering, OrderingRequirements, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions,
};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    InputDistributionRequirements, PlanProperties,
};
use futures::{Stream, StreamExt, ready};
use mobula_block::size::block_bytes;

use crate::operator::output_metrics::OutputMetrics;

/// Rows in other blocks.
#[derive(Debug)]
pub struct BlocksExec {
    input: Arc<dyn ExecutionPlan>,
    rows_per_block: usize,
    /// The order that an ORDER BY inside the input gives all its rows.
    input_order: Option<LexOrdering>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl BlocksExec {
    /// `rows_per_block` is at least 1.
    pub fn new(input: Arc<dyn ExecutionPlan>, rows_per_block: usize) -> Self {
        let properties = PlanProperties::new(
            input.equivalence_properties().clone(),
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self {
            input,
            rows_per_block,
            input_order: None,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// Asks for the input as a whole and in this order, so that the sort below is
    /// kept whatever stands above.
    pub fn with_input_order(mut self, order: Option<LexOrdering>) -> Self {
        self.input_order = order;
        self
    }

    pub fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }

    pub fn rows_per_block(&self) -> usize {
        self.rows_per_block
    }
}

impl DisplayAs for BlocksExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !matches!(t, DisplayFormatType::TreeRender) {
            write!(f, "BlocksExec: ")?;
        }
        write!(f, "rows_per_block={}", self.rows_per_block)
    }
}

impl ExecutionPlan for BlocksExec {
    fn name(&self) -> &'static str {
        "BlocksExec"
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
            return internal_err!("BlocksExec has one input");
        };
        let exec = Self::new(input, self.rows_per_block);
        Ok(Arc::new(exec.with_input_order(self.input_order.clone())))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![match self.input_order {
            Some(_) => Distribution::SinglePartition,
            None => Distribution::UnspecifiedDistribution,
        }])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        vec![self.input_order.clone().map(OrderingRequirements::from)]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
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
            return internal_err!("BlocksExec has one input");
        };
        Ok(Arc::clone(input))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let consumer = MemoryConsumer::new(format!("BlocksExec[{partition}]"));
        Ok(Box::pin(BlockStream {
            waiting: Waiting {
                schema: self.schema(),
                rows_per_block: self.rows_per_block,
                pieces: VecDeque::new(),
                rows: 0,
                is_finished: false,
            },
            reserved: consumer.register(context.memory_pool()),
            metrics: OutputMetrics::new(&self.metrics, partition),
            schema: self.schema(),
            input: self.input.execute(partition, context)?,
        }))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// Cuts one stream.
struct BlockStream {
    input: SendableRecordBatchStream,
    waiting: Waiting,
    reserved: MemoryReservation,
    metrics: OutputMetrics,
    schema: SchemaRef,
}

/// Rows of a block that is not whole yet.
struct Waiting {
    schema: SchemaRef,
    rows_per_block: usize,
    pieces: VecDeque<RecordBatch>,
    rows: usize,
    is_finished: bool,
}

impl Waiting {
    fn push(&mut self, piece: RecordBatch) {
        self.rows += piece.num_rows();
        self.pieces.push_back(piece);
    }

    fn bytes(&self) -> usize {
        self.pieces.iter().map(block_bytes).sum()
    }

    /// The next block; smaller ones only at the end.
    fn pop(&mut self) -> Result<Option<RecordBatch>> {
        let wanted = match self.is_finished {
            true => self.rows.min(self.rows_per_block),
            false => self.rows_per_block,
        };
        if wanted == 0 || self.rows < wanted {
            return Ok(None);
        }
        let (mut block, mut missing) = (Vec::new(), wanted);
        while missing > 0
            && let Some(piece) = self.pieces.pop_front()
        {
            let taken = piece.num_rows().min(missing);
            block.push(piece.slice(0, taken));
            missing -= taken;
            if taken < piece.num_rows() {
                let rest = piece.slice(taken, piece.num_rows() - taken);
                self.pieces.push_front(rest);
            }
        }
        self.rows -= wanted;
        match <[RecordBatch; 1]>::try_from(block) {
            Ok([block]) => Ok(Some(block)),
            Err(pieces) => Ok(Some(concat_batches(&self.schema, &pieces)?)),
        }
    }
}

impl BlockStream {
    fn poll_block(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<RecordBatch>>> {
        loop {
            if let Some(block) = self.waiting.pop().transpose() {
                self.reserved.resize(self.waiting.bytes());
                return Poll::Ready(Some(block));
            }
            if self.waiting.is_finished {
                return Poll::Ready(None);
            }
            match ready!(self.input.poll_next_unpin(cx)) {
                None => self.waiting.is_finished = true,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(rows)) => {
                    self.waiting.push(rows);
                    if let Err(error) = self.reserved.try_resize(self.waiting.bytes()) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
        }
    }
}

impl Stream for BlockStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.poll_block(cx);
        self.metrics.record_poll(polled)
    }
}

impl RecordBatchStream for BlockStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
