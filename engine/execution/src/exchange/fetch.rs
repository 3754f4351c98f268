//! Fetches task output from a peer: one `DoGet` a partition, opened at once.
//!
//! Opening early (not at the first poll) keeps the producer's task from being
//! evicted while a consumer is busy with its other side. Errors arrive as
//! [`crate::RemoteError`], or name the lost executor.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use arrow_flight::Ticket;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use datafusion::common::{DataFusionError, Result};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, Time};
use futures::future::try_join_all;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use mobula_proto::cluster::TaskTicket;
use prost::Message;
use url::Url;

use super::channels::ChannelPool;
use super::traffic::Traffic;
use crate::executor::task_run::InputMeter;
use crate::wire_error;

/// Blocks of one partition.
pub type Blocks = BoxStream<'static, Result<RecordBatch>>;

/// Opens every ticket at `url`, in order, as input of the task that `meter` counts for.
///
/// # Errors
/// The first stream that cannot be opened.
pub async fn fetch(
    pool: &ChannelPool,
    url: &Url,
    tickets: Vec<TaskTicket>,
    traffic: &Arc<Traffic>,
    metrics: &ExecutionPlanMetricsSet,
    meter: Option<InputMeter>,
) -> Result<Vec<Blocks>> {
    let counters = FetchMetrics::new(metrics, meter);
    let opened = tickets
        .into_iter()
        .map(|ticket| fetch_one(pool, url, ticket, Arc::clone(traffic), counters.clone()));
    try_join_all(opened).await
}

#[derive(Clone)]
struct FetchMetrics {
    bytes: Count,
    messages: Count,
    decode: Time,
    task: Option<InputMeter>,
}

impl FetchMetrics {
    fn new(set: &ExecutionPlanMetricsSet, task: Option<InputMeter>) -> Self {
        Self {
            bytes: MetricBuilder::new(set).global_counter("bytes_fetched"),
            messages: MetricBuilder::new(set).global_counter("messages_fetched"),
            decode: MetricBuilder::new(set).subset_time("decode_time", 0),
            task,
        }
    }
}

async fn fetch_one(
    pool: &ChannelPool,
    url: &Url,
    ticket: TaskTicket,
    traffic: Arc<Traffic>,
    metrics: FetchMetrics,
) -> Result<Blocks> {
    let mut client = pool
        .flight(url)
        .map_err(|e| DataFusionError::External(Box::new(e)))?;
    let peer = url.to_string();
    let task = metrics.task.clone();
    let messages = client
        .do_get(Ticket::new(ticket.encode_to_vec()))
        .await
        .map_err(|status| wire_error::from_status(&status, &peer))?
        .into_inner()
        .inspect_ok(move |data| {
            let bytes = traffic.received(data);
            if let Some(task) = &task {
                task.bytes_came(bytes);
            }
            metrics
                .bytes
                .add(data.data_body.len() + data.data_header.len());
            metrics.messages.add(1);
        })
        .map_err(|status| FlightError::Tonic(Box::new(status)));
    let decoded =
        FlightRecordBatchStream::new_from_flight_data(messages).map_err(move |e| match e {
            FlightError::Tonic(status) => wire_error::from_status(&status, &peer),
            other => DataFusionError::External(Box::new(other)),
        });
    let counted = decoded.inspect_ok(move |_| {
        if let Some(task) = &metrics.task {
            task.block_came();
        }
    });
    Ok(timed(counted.boxed(), metrics.decode))
}

/// Adds the time spent inside `poll` (receiving and decoding) to `time`.
fn timed(mut blocks: Blocks, time: Time) -> Blocks {
    futures::stream::poll_fn(move |cx| {
        let _running = time.timer();
        blocks.poll_next_unpin(cx)
    })
    .boxed()
}
