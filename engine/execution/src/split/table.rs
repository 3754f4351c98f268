//! `read_split('name', reader)`: the rows of one reader, as a table.
//!
//! A reader is read where queries are sent to, for the query that it shares runs there: plans
//! that read one are not cut into stages.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::datasource::source_as_provider;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, LogicalPlan, TableType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use futures::{StreamExt, stream};

use super::{Split, Splits};
use crate::error::ExecutionError;

/// Whether `plan` has the rows of a reader.
///
/// # Errors
/// None of its own.
pub fn reads_split(plan: &LogicalPlan) -> Result<bool> {
    let mut reads = false;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            reads |=
                source_as_provider(&scan.source).is_ok_and(|provider| provider.is::<SplitTable>());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(reads)
}

/// The table function.
#[derive(Debug)]
pub struct ReadSplit(pub Arc<Splits>);

impl TableFunctionImpl for ReadSplit {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let (name, reader) = match args.exprs() {
            [Expr::Literal(name, _), Expr::Literal(reader, _)] => (text(name), number(reader)),
            _ => (None, None),
        };
        let (Some(name), Some(reader)) = (name, reader) else {
            return plan_err!(
                "read_split takes the name of a split and the number of a reader, from 0: read_split('s', 0)"
            );
        };
        let Some(split) = self.0.get(&name) else {
            return plan_err!(
                "there is no split \"{name}\": it goes with DROP SPLIT, and with the session that made it. system.splits lists those there are"
            );
        };
        if reader >= split.readers {
            return plan_err!(
                "split \"{name}\" has no reader {reader}. It has {}, from 0 on",
                split.readers
            );
        }
        Ok(Arc::new(SplitTable(SplitReader { split, reader })))
    }
}

fn text(value: &ScalarValue) -> Option<String> {
    value.try_as_str().flatten().map(str::to_owned)
}

fn number(value: &ScalarValue) -> Option<usize> {
    match value {
        ScalarValue::Int64(Some(n)) => usize::try_from(*n).ok(),
        ScalarValue::UInt64(Some(n)) => usize::try_from(*n).ok(),
        _ => None,
    }
}

#[derive(Debug)]
struct SplitTable(SplitReader);

#[derive(Debug, Clone)]
struct SplitReader {
    split: Arc<Split>,
    reader: usize,
}

#[async_trait]
impl TableProvider for SplitTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.split.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows: Arc<dyn PartitionStream> = Arc::new(self.0.clone());
        let schema = self.schema();
        let scan = StreamingTableExec::try_new(schema, vec![rows], projection, [], false, limit)?;
        Ok(Arc::new(scan))
    }
}

impl PartitionStream for SplitReader {
    fn schema(&self) -> &SchemaRef {
        &self.split.schema
    }

    /// Enters the epoch when it is first read, not when it is planned.
    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (split, reader) = (Arc::clone(&self.split), self.reader);
        let schema = Arc::clone(&split.schema);
        let entered = stream::once(async move { split.enter(reader).map_err(external) });
        let rows = entered.flat_map(|entered| match entered {
            Err(error) => stream::once(async { Err(error) }).boxed(),
            Ok(reading) => stream::unfold(Some(reading), |reading| async {
                let reading = reading?;
                let open = &reading.split.open;
                let next = reading.epoch.next(reading.reader, open).await?;
                let Ok(block) = &next else {
                    return Some((next, None));
                };
                reading.count(block.num_rows());
                Some((next, Some(reading)))
            })
            .boxed(),
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }
}

fn external(error: ExecutionError) -> datafusion::common::DataFusionError {
    datafusion::common::DataFusionError::External(Box::new(error))
}
