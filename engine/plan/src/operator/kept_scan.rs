//! Reads blocks that processes have kept.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, internal_datafusion_err, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::{TryStreamExt, stream};

use super::keep::no_blocks;
use crate::kept::{Hold, KeptName, PlacedPart};
use crate::task_host::TaskHostHandle;

/// The rows of some parts of a table, some of its columns.
#[derive(Clone)]
pub struct KeptScanExec {
    table: KeptName,
    /// Of the table.
    schema: SchemaRef,
    projection: Vec<usize>,
    /// The parts of each stream, read one after another.
    streams: Vec<Vec<PlacedPart>>,
    /// Where it was planned.
    hold: Option<Hold>,
    properties: Arc<PlanProperties>,
}

impl KeptScanExec {
    /// # Errors
    /// `projection` names a column that `schema` has not.
    pub fn try_new(
        table: KeptName,
        schema: SchemaRef,
        projection: Vec<usize>,
        streams: Vec<Vec<PlacedPart>>,
    ) -> Result<Self> {
        let shown = Arc::new(schema.project(&projection)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(shown),
            Partitioning::UnknownPartitioning(streams.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self {
            table,
            schema,
            projection,
            streams,
            hold: None,
            properties: Arc::new(properties),
        })
    }

    /// Keeps the table's blocks as long as the plan is there.
    pub fn with_hold(self, hold: Hold) -> Self {
        let hold = Some(hold);
        Self { hold, ..self }
    }

    /// The same of other parts.
    ///
    /// # Errors
    /// None.
    pub fn of_parts(&self, streams: Vec<Vec<PlacedPart>>) -> Result<Self> {
        let (schema, projection) = (Arc::clone(&self.schema), self.projection.clone());
        let scan = Self::try_new(self.table.clone(), schema, projection, streams)?;
        Ok(Self {
            hold: self.hold.clone(),
            ..scan
        })
    }

    pub fn table(&self) -> &KeptName {
        &self.table
    }

    /// All columns of the table.
    pub fn table_schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn projection(&self) -> &[usize] {
        &self.projection
    }

    pub fn streams(&self) -> &[Vec<PlacedPart>] {
        &self.streams
    }

    pub fn parts(&self) -> impl Iterator<Item = &PlacedPart> {
        self.streams.iter().flatten()
    }
}

impl fmt::Debug for KeptScanExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptScanExec")
            .field("table", &self.table)
            .field("projection", &self.projection)
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

impl DisplayAs for KeptScanExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !matches!(t, DisplayFormatType::TreeRender) {
            write!(f, "KeptScanExec: ")?;
        }
        let mut executors: Vec<_> = self.parts().map(|part| &part.kept.executor_id).collect();
        executors.sort_unstable();
        executors.dedup();
        let rows: u64 = self.parts().map(|part| part.kept.rows).sum();
        let (table, parts) = (&self.table.name, self.parts().count());
        write!(
            f,
            "table={table}, parts={parts}, executors={}, rows={rows}",
            executors.len()
        )
    }
}

impl ExecutionPlan for KeptScanExec {
    fn name(&self) -> &'static str {
        "KeptScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
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
        match children.is_empty() {
            true => Ok(self),
            false => internal_err!("KeptScanExec has no input"),
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn statistics_from_inputs(
        &self,
        _input_stats: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let streams = match args.partition() {
            Some(stream) => self.streams.get(stream..=stream).unwrap_or_default(),
            None => &self.streams,
        };
        let parts = || streams.iter().flatten().map(|part| &part.kept);
        let (rows, bytes): (u64, u64) = (
            parts().map(|part| part.rows).sum(),
            parts().map(|part| part.bytes).sum(),
        );
        let mut statistics = Statistics::new_unknown(&self.schema());
        statistics.num_rows = Precision::Exact(rows as usize);
        // Columns are taken to be equally wide.
        let all = self.schema.fields().len().max(1) as u64;
        let share = bytes / all * self.projection.len() as u64;
        statistics.total_byte_size = Precision::Inexact(share as usize);
        Ok(Arc::new(statistics))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let host = TaskHostHandle::of(&context)?;
        let kept = host.kept().ok_or_else(no_blocks)?;
        let parts = self.streams.get(partition).cloned().ok_or_else(|| {
            internal_datafusion_err!("stream {partition} of {}", self.streams.len())
        })?;
        let scan = self.clone();
        let parts = stream::iter(parts.into_iter().map(Ok));
        let blocks = parts.and_then(move |part| {
            let columns = (&scan.schema, scan.projection.as_slice());
            std::future::ready(kept.read(&scan.table, &part, columns, &context))
        });
        let schema = self.schema();
        let blocks = blocks.try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, blocks)))
    }
}
