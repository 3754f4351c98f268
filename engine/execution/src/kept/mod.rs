//! Temporary tables whose blocks stay with the processes that made them.
//!
//! `CREATE TEMP TABLE … AS` runs its query with a `KeepExec` on top: each stream of each task
//! becomes a part, which lies in the [`store`] of its process. The [`table`] knows the parts
//! and where they are; scans of it are cut so that each task has those of one process (`deal`),
//! and tasks run there (`base/route`). What has to be read from elsewhere is fetched as the
//! output of tasks is. Parts go when nobody holds their table any more, and with their process.

pub mod deal;
pub mod store;
pub mod table;

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, TryStreamExt, stream};
use mobula_block::size::block_bytes;
use mobula_plan::{KeptBlocks, KeptName, KeptWriter, PlacedPart};
use mobula_proto::cluster::{KeptTicket, TaskHead, TaskTicket};
use url::Url;

use crate::error::ExecutionError;
use crate::exchange::channels::ChannelPool;
use crate::exchange::fetch::fetch;
use crate::exchange::traffic::Traffic;
use crate::executor::task_run::{InputMeter, TaskRun};
use crate::kept::store::{KeptStore, lost};
use crate::wire_error::lost_executor;

/// Begins what heartbeats call a table that has parts in a process.
const KEPT: &str = "kept ";
/// What tasks count as the stage that kept blocks come from.
const NO_STAGE: u64 = 0;

/// What heartbeats call table `id`.
pub fn hosted_name(id: &str) -> String {
    format!("{KEPT}{id}")
}

/// The table that heartbeats call so, if it is one.
pub fn table_hosted(name: &str) -> Option<&str> {
    name.strip_prefix(KEPT)
}

/// The way of tasks to kept blocks, here and elsewhere.
#[derive(Debug)]
pub struct KeptLine {
    pub store: Arc<KeptStore>,
    pub channels: ChannelPool,
    pub traffic: Arc<Traffic>,
}

impl KeptBlocks for KeptLine {
    fn begin(&self, id: &str, schema: &SchemaRef) -> Result<Box<dyn KeptWriter>> {
        Ok(Box::new(self.store.begin(id, schema)))
    }

    fn read(
        &self,
        table: &KeptName,
        part: &PlacedPart,
        columns: (&SchemaRef, &[usize]),
        context: &Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let (schema, projection) = columns;
        let schema = Arc::new(schema.project(projection)?);
        let is_here = part.kept.executor_id == self.store.executor_id();
        let url = Url::parse(&part.url).ok();
        let run = TaskRun::of(context);
        let meter = run.zip(url.as_ref());
        let meter = meter.map(|(run, url)| run.input(NO_STAGE, url, is_here));
        let blocks = match is_here {
            true => {
                let (id, number) = (&table.id, part.kept.part);
                let blocks = self.store.read(id, &table.name, number, projection)?;
                counted(blocks, meter).boxed()
            }
            false => self.fetched(table, part, projection, (url, meter)).boxed(),
        };
        let as_declared = Arc::clone(&schema);
        let blocks = blocks.map(move |block| as_schema(&block?, &as_declared));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, blocks)))
    }
}

impl KeptLine {
    fn fetched(
        &self,
        table: &KeptName,
        part: &PlacedPart,
        projection: &[usize],
        (url, meter): (Option<Url>, Option<InputMeter>),
    ) -> impl futures::Stream<Item = Result<RecordBatch>> + Send + use<> {
        let ticket = KeptTicket {
            id: table.id.clone(),
            name: table.name.clone(),
            part: part.kept.part,
            projection: projection.iter().map(|column| *column as u32).collect(),
        };
        let ticket = TaskTicket {
            head: Some(TaskHead::Kept(ticket)),
            compression: "none".to_owned(),
            ..TaskTicket::default()
        };
        let (channels, traffic) = (self.channels.clone(), Arc::clone(&self.traffic));
        let (name, executor) = (table.name.clone(), part.kept.executor_id.clone());
        let address = part.url.clone();
        let told = move |error: DataFusionError| match lost_executor(&error) {
            Some(_) => lost(&name, &executor),
            None => error,
        };
        let opened = async move {
            let url = url.ok_or(ExecutionError::BadAddress { url: address });
            let url = url.map_err(|error| DataFusionError::External(Box::new(error)))?;
            let metrics = ExecutionPlanMetricsSet::new();
            let opened = fetch(&channels, &url, vec![ticket], &traffic, &metrics, meter);
            Ok::<_, DataFusionError>(stream::iter(opened.await?).flatten())
        };
        stream::once(opened).try_flatten().map_err(told)
    }
}

/// Counts what a task reads in its own process.
fn counted(
    blocks: SendableRecordBatchStream,
    meter: Option<InputMeter>,
) -> impl futures::Stream<Item = Result<RecordBatch>> + Send {
    blocks.inspect_ok(move |block| {
        if let Some(meter) = &meter {
            meter.bytes_came(block_bytes(block) as u64);
            meter.block_came();
        }
    })
}

/// `block` with the names that its table declares.
fn as_schema(block: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(block.num_rows()));
    let (schema, columns) = (Arc::clone(schema), block.columns().to_vec());
    Ok(RecordBatch::try_new_with_options(
        schema, columns, &options,
    )?)
}
