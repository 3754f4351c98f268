//! Rows that stay where they are made, for later queries: what comes out is where they are.
//!
//! [`keep`] puts it above a query. Each stream of each task becomes a part of the table.

use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DFSchemaRef, Result, internal_datafusion_err, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    PlanProperties,
};
use futures::{StreamExt, stream};

use crate::kept::{KeptBlocks, KeptPart};
use crate::task_host::TaskHostHandle;

/// What comes out: one row a part.
static PARTS: LazyLock<SchemaRef> = LazyLock::new(|| {
    let number = |name: &str| Field::new(name, DataType::UInt64, false);
    Arc::new(Schema::new(vec![
        Field::new("executor_id", DataType::Utf8, false),
        number("part"),
        number("rows"),
        number("bytes"),
        number("spilled_bytes"),
    ]))
});

/// `rows`, kept as table `id`. The plan gives the parts: see [`parts_of`].
///
/// # Errors
/// None that a schema of ours has.
pub fn keep(rows: LogicalPlan, id: &str) -> Result<LogicalPlan> {
    let schema = DFSchema::try_from(Arc::clone(&PARTS))?;
    Ok(LogicalPlan::Extension(Extension {
        node: Arc::new(KeepNode {
            rows,
            id: id.to_owned(),
            schema: Arc::new(schema),
        }),
    }))
}

/// The parts that a block of [`keep`]'s tells of.
///
/// # Errors
/// It is no such block.
pub fn parts_of(block: &RecordBatch) -> Result<Vec<KeptPart>> {
    if block.schema().fields() != PARTS.fields() {
        return internal_err!("kept blocks come as {}", block.schema());
    }
    let number = |column: usize, row| block.column(column).as_primitive::<UInt64Type>().value(row);
    let parts = (0..block.num_rows()).map(|row| KeptPart {
        executor_id: block.column(0).as_string::<i32>().value(row).to_owned(),
        part: number(1, row),
        rows: number(2, row),
        bytes: number(3, row),
        spilled_bytes: number(4, row),
    });
    Ok(parts.collect())
}

fn row(part: &KeptPart) -> Result<RecordBatch> {
    let number = |n: u64| Arc::new(UInt64Array::from(vec![n])) as ArrayRef;
    let columns = vec![
        Arc::new(StringArray::from(vec![part.executor_id.as_str()])) as ArrayRef,
        number(part.part),
        number(part.rows),
        number(part.bytes),
        number(part.spilled_bytes),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&PARTS), columns)?)
}

/// `Keep` in a logical plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeepNode {
    rows: LogicalPlan,
    id: String,
    schema: DFSchemaRef,
}

impl KeepNode {
    pub(crate) fn exec(&self, rows: Arc<dyn ExecutionPlan>) -> KeepExec {
        KeepExec::new(rows, &self.id)
    }
}

impl PartialOrd for KeepNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.id.cmp(&other.id) {
            Ordering::Equal => self.rows.partial_cmp(&other.rows),
            order => Some(order),
        }
    }
}

impl UserDefinedLogicalNodeCore for KeepNode {
    fn name(&self) -> &'static str {
        "Keep"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.rows]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keep")
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Ok([rows]) = <[LogicalPlan; 1]>::try_from(inputs) else {
            return internal_err!("Keep has one input");
        };
        Ok(Self {
            rows,
            ..self.clone()
        })
    }
}

/// Keeps the rows of its input in this process.
#[derive(Debug)]
pub struct KeepExec {
    input: Arc<dyn ExecutionPlan>,
    id: String,
    properties: Arc<PlanProperties>,
}

impl KeepExec {
    /// As parts of table `id`.
    pub fn new(input: Arc<dyn ExecutionPlan>, id: &str) -> Self {
        let streams = input.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&PARTS)),
            Partitioning::UnknownPartitioning(streams),
            EmissionType::Final,
            input.boundedness(),
        );
        Self {
            input,
            id: id.to_owned(),
            properties: Arc::new(properties),
        }
    }

    pub fn id(&self) -> &str {
        &self.id
    }
}

impl DisplayAs for KeepExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match t {
            DisplayFormatType::TreeRender => Ok(()),
            _ => write!(f, "KeepExec"),
        }
    }
}

impl ExecutionPlan for KeepExec {
    fn name(&self) -> &'static str {
        "KeepExec"
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
            return internal_err!("KeepExec has one input");
        };
        Ok(Arc::new(Self::new(input, &self.id)))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let host = TaskHostHandle::of(&context)?;
        let kept = host.kept().ok_or_else(no_blocks)?;
        let blocks = self.input.execute(partition, context)?;
        let id = self.id.clone();
        let parts = stream::once(kept_part(kept, id, blocks));
        let parts = parts.filter_map(|part| std::future::ready(part.transpose()));
        let schema = Arc::clone(&PARTS);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, parts)))
    }
}

async fn kept_part(
    kept: Arc<dyn KeptBlocks>,
    id: String,
    mut blocks: SendableRecordBatchStream,
) -> Result<Option<RecordBatch>> {
    let mut writer = kept.begin(&id, &blocks.schema())?;
    while let Some(block) = blocks.next().await {
        writer.write(block?)?;
    }
    writer.finish()?.as_ref().map(row).transpose()
}

pub(super) fn no_blocks() -> datafusion::common::DataFusionError {
    internal_datafusion_err!("this program keeps no blocks")
}
