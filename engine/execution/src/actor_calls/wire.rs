//! Blocks of an exchange as Flight messages, and back.
//!
//! Types are plain (`mobula_block::plain`), so each message is a record batch without
//! dictionaries, of a schema that the first message of its direction has. A block that
//! is longer than a message may be goes in several.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_flight::{FlightData, FlightDescriptor, SchemaAsIpc};
use arrow_ipc::reader::RecordBatchDecoder;
use arrow_ipc::root_as_message;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use mobula_block::plain::plain_schema;
use mobula_block::size::block_bytes;
use mobula_proto::actor::{ActorCall, FailedReason, FailedRow as WireRow, LaneCall};
use mobula_udfs::{
    FailedRow, Priority, ROW_PLACES, RemoteFailure, RowFailure, UdfCall, UdfError, UdfErrorClass,
};
use prost::Message;

use super::pool::{LaneWay, Way};
use super::{CREDITS, CREDITS_MAX};

/// Why bytes are not what they should be; continues a sentence.
pub type Problem = String;

/// A message with its rows; its metadata is still to be set.
#[derive(Debug)]
pub struct Piece {
    pub data: FlightData,
    pub rows: usize,
}

/// Why a block cannot be sent.
#[derive(Debug)]
pub enum Unsendable {
    /// No message holds one of its rows.
    TooLong {
        bytes: usize,
        limit: usize,
    },
    Encode(ArrowError),
}

impl Unsendable {
    /// What becomes of a call of `function` at `place`.
    pub fn of(self, function: &str, place: &str) -> UdfError {
        let (class, message) = match self {
            Self::TooLong { bytes, limit } => (
                UdfErrorClass::Setup,
                format!(
                    "function \"{function}\" needs {bytes} bytes for one row, but a message between executors may have {limit}, four times `exchange_message_bytes`. Raise that"
                ),
            ),
            Self::Encode(error) => (
                UdfErrorClass::Bug,
                format!("a block for function \"{function}\" cannot be encoded: {error}"),
            ),
        };
        UdfError::Remote(Box::new(RemoteFailure {
            class,
            message,
            place: place.to_owned(),
            traceback: None,
        }))
    }
}

/// Writes blocks of one schema.
#[derive(Debug, Clone)]
pub struct BlockWriter {
    schema: SchemaRef,
    /// What a message aims at.
    message_bytes: usize,
}

impl BlockWriter {
    /// For blocks of `schema`, in its plain form.
    pub fn new(schema: &Schema, message_bytes: usize) -> Self {
        Self {
            schema: Arc::new(plain_schema(schema)),
            message_bytes: message_bytes.max(1),
        }
    }

    /// What blocks must have.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn message_bytes(&self) -> usize {
        self.message_bytes
    }

    /// The message that goes before all blocks.
    pub fn opening(&self) -> FlightData {
        SchemaAsIpc::new(&self.schema, &IpcWriteOptions::default()).into()
    }

    /// `block` in messages; at least one.
    ///
    /// # Errors
    /// [`Unsendable::TooLong`] for a row that is.
    pub fn write(&self, block: &RecordBatch) -> Result<Vec<Piece>, Unsendable> {
        let mut pieces = Vec::with_capacity(1);
        self.push(block, &mut pieces)?;
        Ok(pieces)
    }

    fn push(&self, block: &RecordBatch, pieces: &mut Vec<Piece>) -> Result<(), Unsendable> {
        let rows = block.num_rows();
        if rows > 1 && block_bytes(block) > self.message_bytes {
            return self.push_halves(block, pieces);
        }
        let data = encode(block).map_err(Unsendable::Encode)?;
        let bytes = data.data_header.len() + data.data_body.len();
        // Peers read messages of four times what they aim at: one row may be long.
        let limit = self.message_bytes.saturating_mul(4);
        // The metadata and the framing need some.
        match bytes.saturating_add(1024) > limit {
            false => {
                pieces.push(Piece { data, rows });
                Ok(())
            }
            true if rows > 1 => self.push_halves(block, pieces),
            true => Err(Unsendable::TooLong { bytes, limit }),
        }
    }

    fn push_halves(&self, block: &RecordBatch, pieces: &mut Vec<Piece>) -> Result<(), Unsendable> {
        let (rows, half) = (block.num_rows(), block.num_rows() / 2);
        self.push(&block.slice(0, half), pieces)?;
        self.push(&block.slice(half, rows - half), pieces)
    }
}

fn encode(block: &RecordBatch) -> Result<FlightData, ArrowError> {
    let mut dictionaries = DictionaryTracker::new(false);
    let options = IpcWriteOptions::default();
    let mut context = IpcWriteContext::default();
    let encoded =
        IpcDataGenerator::default().encode(block, &mut dictionaries, &options, &mut context);
    encoded.map(|(_, batch)| batch.into())
}

/// Reads what a [`BlockWriter`] wrote.
#[derive(Debug, Clone)]
pub struct BlockReader {
    schema: SchemaRef,
}

impl BlockReader {
    /// What blocks have.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// For blocks of `schema`, in its plain form.
    pub fn new(schema: &Schema) -> Self {
        Self {
            schema: Arc::new(plain_schema(schema)),
        }
    }

    /// Checks the message that goes before all blocks.
    ///
    /// # Errors
    /// When it is none, or has other columns.
    pub fn check_opening(&self, data: &FlightData) -> Result<(), Problem> {
        let found = Schema::try_from(data).map_err(|e| format!("it has no schema: {e}"))?;
        let types = |schema: &Schema| {
            let fields = schema.fields().iter();
            fields.map(|f| f.data_type().clone()).collect::<Vec<_>>()
        };
        match types(&found) == types(&self.schema) {
            true => Ok(()),
            false => Err("its columns are not those of the call".to_owned()),
        }
    }

    /// The rows of a message, which says that it has `rows`. All offsets and texts
    /// are checked.
    ///
    /// # Errors
    /// When it is no record batch that fits the schema, or has another number.
    pub fn read(&self, data: &FlightData, rows: u64) -> Result<RecordBatch, Problem> {
        let message = root_as_message(&data.data_header).map_err(|e| bad(&e))?;
        let batch = batch(&message)?;
        let body = Buffer::from(data.data_body.clone());
        let buffers = batch.buffers().into_iter().flatten();
        // The decoder takes that for granted.
        let is_inside = |offset: i64, length: i64| {
            let end = offset.checked_add(length);
            offset >= 0 && length >= 0 && end.is_some_and(|end| end as usize <= body.len())
        };
        if !buffers
            .into_iter()
            .all(|buffer| is_inside(buffer.offset(), buffer.length()))
        {
            return Err(bad(&"it is cut off"));
        }
        let none: HashMap<i64, ArrayRef> = HashMap::new();
        let version = message.version();
        let block =
            RecordBatchDecoder::try_new(&body, batch, Arc::clone(&self.schema), &none, &version)
                .and_then(RecordBatchDecoder::read_record_batch)
                .map_err(|e| bad(&e))?;
        match block.num_rows() as u64 == rows {
            true => Ok(block),
            false => Err(bad(&format!("{} rows instead of {rows}", block.num_rows()))),
        }
    }
}

/// Rows in a message, as its head says.
///
/// # Errors
/// When it has no rows.
pub fn rows_of(data: &FlightData) -> Result<u64, Problem> {
    let message = root_as_message(&data.data_header).map_err(|e| bad(&e))?;
    u64::try_from(batch(&message)?.length()).map_err(|e| bad(&e))
}

fn batch<'a>(message: &arrow_ipc::Message<'a>) -> Result<arrow_ipc::RecordBatch<'a>, Problem> {
    let batch = message.header_as_record_batch();
    batch.ok_or_else(|| bad(&"it is no record batch"))
}

fn bad(problem: &dyn std::fmt::Display) -> Problem {
    format!("it is no block of the call: {problem}")
}

/// What answers of `call` have: its output, and beside values that come in any order
/// the rows that they are for.
pub fn answer_schema(call: &UdfCall) -> SchemaRef {
    if !call.scatters() {
        return Arc::clone(&call.output);
    }
    let places = Arc::new(Field::new(ROW_PLACES, DataType::UInt64, false));
    let fields = call.output.fields().iter().cloned().chain([places]);
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The message that opens an exchange for `call`, whose blocks `writer` writes.
///
/// # Errors
/// [`UdfError::EncodeSpec`].
pub fn opening(call: &UdfCall, writer: &BlockWriter, way: &Way) -> Result<FlightData, UdfError> {
    let header = ActorCall {
        udf_call: call.encode()?,
        timeout_us: call.timeout.map(as_us),
        max_errors: call.max_errors,
        pool: way.pool.clone(),
        member: way.member.clone(),
        credits: way.credits as u32,
        query_id: call.query.clone(),
        is_interactive: call.priority.is_interactive,
        is_priority_said: call.priority.is_said,
        lane: way.lane.as_ref().map(|lane| LaneCall {
            lane: lane.lane,
            generation: lane.generation,
            snapshot_bytes: lane.snapshot.as_ref().map(|state| state.len() as u64),
        }),
    };
    let descriptor = FlightDescriptor::new_cmd(header.encode_to_vec());
    Ok(writer.opening().with_descriptor(descriptor))
}

/// The call that `first`, the first message of an exchange, opens, whom it leads to, and the
/// bytes of the state that follows it.
///
/// # Errors
/// When it names none.
pub fn opened(first: &FlightData) -> Result<(UdfCall, Way, Option<u64>), Problem> {
    let descriptor = first.flight_descriptor.as_ref();
    let command = descriptor.map(|descriptor| descriptor.cmd.clone());
    let command = command.ok_or("its first message has no command")?;
    let header = ActorCall::decode(command).map_err(|e| format!("it names no call: {e}"))?;
    let mut call =
        UdfCall::decode(&header.udf_call).map_err(|e| format!("it names no call: {e}"))?;
    if !call.spec.is_method() && header.pool.is_none() {
        return Err(format!("\"{}\" is no method of an actor", call.spec.name));
    }
    call.timeout = header.timeout_us.map(Duration::from_micros);
    call.max_errors = header.max_errors;
    call.query = header.query_id;
    call.priority = Priority {
        is_interactive: header.is_interactive,
        is_said: header.is_priority_said,
    };
    let credits = match header.pool {
        Some(_) => (header.credits as usize).clamp(1, CREDITS_MAX),
        None => CREDITS,
    };
    let way = Way {
        pool: header.pool,
        member: header.member,
        credits,
        lane: header.lane.map(|lane| LaneWay {
            lane: lane.lane,
            generation: lane.generation,
            snapshot: None,
        }),
    };
    let state = header.lane.and_then(|lane| lane.snapshot_bytes);
    Ok((call, way, state))
}

/// `time` in whole microseconds.
pub fn as_us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A failed row to be sent.
pub fn failed_to_wire(row: FailedRow) -> WireRow {
    WireRow {
        row: row.row as u64,
        reason: row.reason.map(|reason| FailedReason {
            error_type: reason.error_type,
            message: reason.message,
            traceback: reason.traceback,
        }),
    }
}

/// A failed row of a block of `rows`.
///
/// # Errors
/// When the block has no such row.
pub fn failed_from_wire(row: WireRow, rows: usize) -> Result<FailedRow, Problem> {
    let at = usize::try_from(row.row).ok().filter(|at| *at < rows);
    Ok(FailedRow {
        row: at.ok_or_else(|| format!("it fails row {} of {rows}", row.row))?,
        reason: row.reason.map(|reason| RowFailure {
            error_type: reason.error_type,
            message: reason.message,
            traceback: reason.traceback,
        }),
    })
}
