//! Numbers rows so that a hash of the number sends them to all partitions in turn.
//!
//! Only a hash moves rows between executors, and hashes of 1, 2, 3, … are not even:
//! of eight rows over eight partitions a third of the partitions would get none. So
//! the numbers are searched for: one for each partition, found by asking the
//! partitioner itself. They hold for `partitions` partitions; with another number
//! rows are spread as evenly as a hash does it.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions,
};
use datafusion::physical_plan::expressions::Column;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::BatchPartitioner;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::StreamExt;

/// The column of the numbers, last of all; never seen outside `repartition`.
pub(super) const ROUTE: &str = "__mobula_route";

/// Appends the number of each row's partition.
#[derive(Debug)]
pub struct RouteExec {
    input: Arc<dyn ExecutionPlan>,
    /// Over all tasks.
    partitions: usize,
    properties: Arc<PlanProperties>,
}

impl RouteExec {
    /// `partitions` is at least 1.
    pub fn new(input: Arc<dyn ExecutionPlan>, partitions: usize) -> Self {
        let fields = input.schema().fields().iter().cloned().collect::<Vec<_>>();
        let route = Arc::new(Field::new(ROUTE, DataType::UInt32, false));
        let fields: Vec<_> = fields.into_iter().chain([route]).collect();
        let schema = Schema::new_with_metadata(fields, input.schema().metadata().clone());
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::new(schema)),
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self {
            input,
            partitions,
            properties: Arc::new(properties),
        }
    }

    /// Over all tasks.
    pub fn partitions(&self) -> usize {
        self.partitions
    }
}

/// A number for each of `partitions` partitions whose hash leads there.
fn numbers(partitions: usize) -> Result<Vec<u32>> {
    let schema = Arc::new(Schema::new(vec![Field::new(
        ROUTE,
        DataType::UInt32,
        false,
    )]));
    let key: Arc<dyn PhysicalExpr> = Arc::new(Column::new(ROUTE, 0));
    let mut partitioner =
        BatchPartitioner::new_hash_partitioner(vec![key], partitions, Time::default())?;
    let mut found: Vec<Option<u32>> = vec![None; partitions];
    let step = 16 * partitions.max(64) as u32;
    let mut next = 0;
    while found.iter().any(Option::is_none) {
        let tried: ArrayRef = Arc::new(UInt32Array::from_iter_values(next..next + step));
        let tried = RecordBatch::try_new(Arc::clone(&schema), vec![tried])?;
        partitioner.partition(tried, |partition, numbers| {
            let numbers = numbers.column(0).as_any().downcast_ref::<UInt32Array>();
            let number = numbers.and_then(|numbers| numbers.iter().flatten().next());
            if let Some(place) = found.get_mut(partition) {
                *place = place.or(number);
            }
            Ok(())
        })?;
        next += step;
    }
    Ok(found.into_iter().flatten().collect())
}

/// Adds numbers to the rows of one partition.
struct Router {
    numbers: Vec<u32>,
    schema: SchemaRef,
    next: usize,
}

impl Router {
    fn route(&mut self, rows: RecordBatch) -> Result<RecordBatch> {
        let numbers = self.numbers.iter().copied().cycle().skip(self.next);
        let numbers = UInt32Array::from_iter_values(numbers.take(rows.num_rows()));
        self.next = (self.next + rows.num_rows()) % self.numbers.len().max(1);
        let numbers: ArrayRef = Arc::new(numbers);
        let columns = rows.columns().iter().cloned().chain([numbers]).collect();
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

impl DisplayAs for RouteExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !matches!(t, DisplayFormatType::TreeRender) {
            write!(f, "RouteExec: ")?;
        }
        write!(f, "partitions={}", self.partitions)
    }
}

impl ExecutionPlan for RouteExec {
    fn name(&self) -> &'static str {
        "RouteExec"
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
            return internal_err!("RouteExec has one input");
        };
        Ok(Arc::new(Self::new(input, self.partitions)))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let numbers = numbers(self.partitions)?;
        let inputs = self.input.output_partitioning().partition_count().max(1);
        let mut router = Router {
            // Inputs of few rows each do not all begin with the same partition.
            next: partition * numbers.len() / inputs,
            numbers,
            schema: self.schema(),
        };
        let rows = self.input.execute(partition, context)?;
        let rows = rows.map(move |rows| router.route(rows?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_to_all_partitions_in_turn() {
        for partitions in [1, 2, 7, 64, 1024] {
            let key: Arc<dyn PhysicalExpr> = Arc::new(Column::new(ROUTE, 0));
            let mut partitioner =
                BatchPartitioner::new_hash_partitioner(vec![key], partitions, Time::default())
                    .unwrap();
            let found = numbers(partitions).unwrap();
            assert_eq!(found.len(), partitions);
            let schema = Arc::new(Schema::new(vec![Field::new(
                ROUTE,
                DataType::UInt32,
                false,
            )]));
            let mut router = Router {
                numbers: found,
                schema: Arc::clone(&schema),
                next: 0,
            };
            let no_columns = Arc::new(Schema::empty());
            let mut rows_of = vec![0; partitions];
            for rows in [3 * partitions - 1, 1] {
                let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
                let empty =
                    RecordBatch::try_new_with_options(Arc::clone(&no_columns), vec![], &options);
                let routed = router.route(empty.unwrap()).unwrap();
                partitioner
                    .partition(routed, |partition, rows| {
                        rows_of[partition] += rows.num_rows();
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!(rows_of, vec![3; partitions]);
        }
    }
}
