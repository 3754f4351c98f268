//! From a query's blocks to Flight data: cast, cut to size, encoded, cancelled.
//!
//! The schema message goes out first and at once, before the query starts:
//! drivers wait for it. Messages hold at most `message_bytes`, because clients
//! refuse larger ones; a block above it is halved until its parts fit. A single
//! row above [`ROW_LIMIT`] cannot be sent at all and fails by name.
//!
//! Invariant: [`ResultStream`] owns the query. When the client resets its stream
//! or its connection breaks, tonic drops this, and with it everything that works
//! for the query, here and on every executor.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::writer::IpcWriteOptions;
use arrow::record_batch::RecordBatch;
use arrow_flight::encode::{FlightDataEncoder, FlightDataEncoderBuilder};
use arrow_flight::error::FlightError;
use arrow_flight::{FlightData, IpcMessage, SchemaAsIpc};
use bytes::Bytes;
use futures::Stream;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Code, Status};

use super::sessions::Lease;
use super::tickets::Running;
use crate::status::{internal, query_status, refuse, status};
use crate::wire_schema::wire_block;
use crate::{Bound, Outcome};

/// The largest row that stock drivers can receive (they stop at 16 MiB).
pub const ROW_LIMIT: usize = 15 * 1024 * 1024;

/// A schema as Flight messages carry it.
pub fn encoded_schema(schema: &Schema) -> Result<Bytes, Status> {
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &IpcWriteOptions::default())
        .try_into()
        .map_err(|error| internal(format!("cannot encode a schema: {error}")))?;
    Ok(bytes)
}

/// Flight data of one result. Dropping it cancels its query.
pub struct ResultStream {
    /// `None` once it has ended: the query is let go at once, not when the
    /// client drops the call.
    data: Option<FlightDataEncoder>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    _running: Running,
    _lease: Arc<Lease>,
}

impl ResultStream {
    /// Runs `bound`, once for each row of its values, one after the other, and streams the
    /// rows as `schema`, which is its wire schema.
    pub fn run(
        lease: Lease,
        bound: Arc<Bound>,
        running: Running,
        schema: SchemaRef,
        message_bytes: usize,
    ) -> Self {
        let lease = Arc::new(lease);
        let session = Arc::clone(&lease);
        let runs = futures::stream::iter(0..bound.runs());
        let rows = runs
            .then(move |run| start(Arc::clone(&session), Arc::clone(&bound), run))
            .try_flatten()
            .boxed();
        Self {
            data: Some(encode(rows, schema, message_bytes)),
            cancelled: Box::pin(running.cancelled.clone().cancelled_owned()),
            _running: running,
            _lease: lease,
        }
    }
}

impl Stream for ResultStream {
    type Item = Result<FlightData, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(data) = &mut this.data else {
            return Poll::Ready(None);
        };
        if this.cancelled.as_mut().poll(cx).is_ready() {
            this.data = None;
            let text = "the query was cancelled";
            return Poll::Ready(Some(Err(refuse(Code::Cancelled, text))));
        }
        let item = match data.poll_next_unpin(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(item) => item,
        };
        if !matches!(item, Some(Ok(_))) {
            this.data = None;
        }
        Poll::Ready(item.map(|found| found.map_err(flight_status)))
    }
}

/// Flight data of one block that is here already.
pub fn one_block(
    block: RecordBatch,
    message_bytes: usize,
) -> BoxStream<'static, Result<FlightData, Status>> {
    let schema = block.schema();
    let rows = futures::stream::iter([Ok(block)]).boxed();
    FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .with_max_flight_data_size(message_bytes)
        .build(rows)
        .map_err(flight_status)
        .boxed()
}

/// Flight data of a result that has neither columns nor rows.
pub fn no_rows() -> BoxStream<'static, Result<FlightData, Status>> {
    FlightDataEncoderBuilder::new()
        .with_schema(Arc::new(Schema::empty()))
        .build(futures::stream::empty())
        .map_err(flight_status)
        .boxed()
}

type Rows = BoxStream<'static, Result<RecordBatch, Status>>;

async fn start(lease: Arc<Lease>, bound: Arc<Bound>, run: usize) -> Result<Rows, Status> {
    let running = lease
        .session
        .execute_run(&bound, run, std::future::pending());
    match running.await {
        Ok(Outcome::Rows(run)) => {
            let sql = &bound.prepared().sql;
            tracing::debug!(query_id = %run.query_id, sql, "query started");
            Ok(run.stream.map_err(|error| query_status(&error)).boxed())
        }
        Ok(Outcome::Affected(_)) => Err(internal("a query returned no rows but a count")),
        Err(error) => Err(status(&error)),
    }
}

fn encode(rows: Rows, schema: SchemaRef, message_bytes: usize) -> FlightDataEncoder {
    let wire = Arc::clone(&schema);
    let parts = rows
        .map(move |block| wire_parts(&wire, block?, message_bytes))
        .map_ok(|parts| futures::stream::iter(parts).map(Ok::<_, Status>));
    FlightDataEncoderBuilder::new()
        .with_schema(schema)
        // The parts fit already, by their exact size and not by an average row.
        .with_max_flight_data_size(usize::MAX)
        .build(parts.try_flatten().map_err(FlightError::from))
}

/// Casts `block` to `schema` and cuts it into parts of at most `limit` bytes.
fn wire_parts(
    schema: &SchemaRef,
    block: RecordBatch,
    limit: usize,
) -> Result<Vec<RecordBatch>, Status> {
    let block = wire_block(schema, block)
        .map_err(|error| internal(format!("cannot send a result: {error}")))?;
    let mut parts = Vec::new();
    cut(block, limit, &mut parts)?;
    Ok(parts)
}

/// Halves `block` until each part is at most `limit` bytes or one row.
fn cut(block: RecordBatch, limit: usize, parts: &mut Vec<RecordBatch>) -> Result<(), Status> {
    let bytes = sent_bytes(&block)?;
    let rows = block.num_rows();
    if bytes <= limit {
        parts.push(block);
    } else if rows > 1 {
        cut(block.slice(0, rows / 2), limit, parts)?;
        cut(block.slice(rows / 2, rows - rows / 2), limit, parts)?;
    } else if bytes > ROW_LIMIT {
        return Err(too_large(&block, bytes)?);
    } else {
        parts.push(block);
    }
    Ok(())
}

fn sent_bytes(block: &RecordBatch) -> Result<usize, Status> {
    block.columns().iter().map(column_bytes).sum()
}

fn column_bytes(column: &ArrayRef) -> Result<usize, Status> {
    column
        .to_data()
        .get_slice_memory_size()
        .map_err(|error| internal(format!("cannot measure a column: {error}")))
}

fn too_large(row: &RecordBatch, bytes: usize) -> Result<Status, Status> {
    let mut widest = ("", 0);
    let schema = row.schema_ref();
    for (column, field) in row.columns().iter().zip(schema.fields()) {
        let size = column_bytes(column)?;
        if size >= widest.1 {
            widest = (field.name().as_str(), size);
        }
    }
    Ok(refuse(
        Code::ResourceExhausted,
        format!(
            "a row of {bytes} bytes cannot be sent, {ROW_LIMIT} is the most. Its widest column is \"{}\" with {} bytes: select a part of it, as with substr",
            widest.0, widest.1
        ),
    ))
}

fn flight_status(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => internal(format!("cannot encode a result: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};

    fn block(texts: Vec<String>) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..texts.len() as i64));
        let texts: ArrayRef = Arc::new(StringArray::from(texts));
        RecordBatch::try_from_iter(vec![("number", numbers), ("text", texts)]).unwrap()
    }

    #[test]
    fn parts_fit_even_when_rows_are_uneven() {
        let mut texts = vec!["x".to_owned(); 1000];
        texts[17] = "y".repeat(5000);
        let whole = block(texts);
        let mut parts = Vec::new();
        cut(whole.clone(), 4096, &mut parts).unwrap();
        for part in &parts {
            assert!(part.num_rows() == 1 || sent_bytes(part).unwrap() <= 4096);
        }
        let again = arrow::compute::concat_batches(&whole.schema(), &parts).unwrap();
        assert_eq!(again, whole);
    }

    #[test]
    fn a_huge_row_is_refused_by_the_name_of_its_column() {
        let mut parts = Vec::new();
        let refused = cut(block(vec!["z".repeat(ROW_LIMIT + 1)]), 4096, &mut parts).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(
            refused.message().contains("\"text\""),
            "{}",
            refused.message()
        );
    }
}
