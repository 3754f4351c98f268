//! The actor's side of an exchange: blocks in, answers out.
//!
//! Each exchange has a pool on the actor, as a task in this process would, and so
//! stands in the actor's line with each block. One task runs it: it goes on standing
//! there while the peer reads nothing, since a turn that nobody takes would keep others
//! from the actor. When the peer goes, the task ends; the block at work does not.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow_flight::FlightData;
use futures::StreamExt;
use futures::stream::BoxStream;
use mobula_block::BlockError;
use mobula_block::plain::{block_as, plain_block};
use mobula_proto::actor::{self as wire_actor, AnswerTag, BlockDone, BlockTag};
use mobula_proto::pool::StartActor;
use mobula_udfs::{
    ActorHost, ActorSpec, Answer, Down, FailedRow, PoolStats, UdfCall, UdfError, UdfPool,
};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::call::{Call, CallState};
use super::pool::Way;
use super::snapshots;
use super::wire::{
    BlockReader, BlockWriter, answer_schema, as_us, failed_to_wire, opened, rows_of,
};
use super::words::{blocks_of, down_of, malformed, named};
use crate::classify::classify_any;
use crate::error::ErrorClass;
use crate::exchange::traffic::Traffic;
use crate::pool::dispatch::PoolLine;
use crate::pool::hosting::Hosting;
use crate::spawn::spawn_named;
use crate::wire_error;

/// A peer that opens an exchange says at once which.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// The state of a keyed actor comes with it.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is looked whether an actor is built, until one is.
const READY_EVERY: Duration = Duration::from_millis(50);
/// Messages between the task and the transport.
const MESSAGES_WAITING: usize = 2;
/// Messages that are made before the transport has taken the first of them; those of
/// one answer are together.
const MESSAGES_READY: usize = 2;

/// Serves calls of the actors of this process.
pub struct ActorCalls {
    pub actors: Arc<ActorHost>,
    /// Those of queries.
    pub hosting: Arc<Hosting>,
    /// Has the lanes of named actors that are called by key.
    pub line: Arc<PoolLine>,
    pub executor_id: String,
    pub traffic: Arc<Traffic>,
    /// Where others reach this process: errors name it.
    pub this_url: String,
    /// Size a message aims at, in bytes.
    pub message_bytes: usize,
    /// Whether named actors live here: an executor has none.
    pub has_actors: bool,
}

impl ActorCalls {
    /// Opens the exchange whose messages are `blocks`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for what is no call, and why the actor cannot be called.
    pub async fn open(
        &self,
        mut blocks: Streaming<FlightData>,
    ) -> Result<BoxStream<'static, Result<FlightData, Status>>, Status> {
        let first = tokio::time::timeout(OPENING_TIMEOUT, blocks.message()).await;
        let first = first.map_err(|_| malformed("it says nothing"))??;
        let first = first.ok_or_else(|| malformed("it says nothing"))?;
        self.traffic.received(&first);
        let (call, mut way, state) = opened(&first).map_err(malformed)?;
        let reader = BlockReader::new(&call.input);
        reader.check_opening(&first).map_err(malformed)?;
        if let (Some(lane), Some(bytes)) = (&mut way.lane, state) {
            let read = snapshots::read(&mut blocks, bytes, &call);
            let read = tokio::time::timeout(SNAPSHOT_TIMEOUT, read).await;
            let read = read.map_err(|_| malformed("its state does not come"))?;
            lane.snapshot = Some(read?);
        }
        let call = Arc::new(call);
        let pool = self.pool(&call, &way).map_err(|error| self.status(error))?;
        let writer = BlockWriter::new(&answer_schema(&call), self.message_bytes);
        let opening = Outgoing {
            tag: None,
            data: writer.opening(),
        };
        let serving = Serving {
            pool,
            call,
            reader,
            writer,
            url: self.this_url.clone(),
            part: None,
            credits: way.credits,
            is_ordered: way.pool.is_none(),
            is_member: !way.member.is_empty(),
            calls: VecDeque::new(),
            ready: VecDeque::from([opening]),
            told: PoolStats::default(),
        };
        let (out, answers) = mpsc::channel(MESSAGES_WAITING);
        let (open, traffic) = (self.traffic.open_stream(), Arc::clone(&self.traffic));
        let task = spawn_named("actor-exchange", serving.run(blocks, out, traffic));
        let traffic = Arc::clone(&self.traffic);
        let answers = ReceiverStream::new(answers).map(move |message| {
            let _while_open = (&open, &task);
            message.inspect(|data| traffic.sent(data))
        });
        Ok(answers.boxed())
    }

    fn pool(&self, call: &Arc<UdfCall>, way: &Way) -> Result<Arc<dyn UdfPool>, UdfError> {
        if let Some(pool) = &way.pool {
            let found = match &way.lane {
                Some(lane) => self.hosting.open_lane(pool, lane.clone())?,
                None => self.hosting.open(pool)?,
            };
            return found.ok_or_else(|| UdfError::PoolGone {
                function: call.spec.name.clone(),
                place: self.executor_id.clone(),
            });
        }
        if !way.member.is_empty() {
            return match self.member(call, way) {
                // It was here when its caller was told.
                Err(UdfError::ActorElsewhere { function, .. }) => Err(UdfError::PoolGone {
                    function,
                    place: self.executor_id.clone(),
                }),
                other => other,
            };
        }
        if let Some(lane) = &way.lane {
            let lane = usize::try_from(lane.lane).unwrap_or(usize::MAX);
            return self.line.open_named_lane(call, lane);
        }
        match self.actors.open_pool(Arc::clone(call)) {
            // It was here when the query was planned.
            Err(UdfError::ActorElsewhere {
                function, actor, ..
            }) if self.has_actors => Err(UdfError::ActorGone { function, actor }),
            other => other,
        }
    }

    /// The way to a named actor that was placed here; by key, to who is not too late.
    fn member(&self, call: &Arc<UdfCall>, way: &Way) -> Result<Arc<dyn UdfPool>, UdfError> {
        let Some(lane) = &way.lane else {
            return self.actors.open_member(&way.member, Arc::clone(call));
        };
        let state = (lane.generation, lane.snapshot.clone());
        let call = Arc::clone(call);
        let opened = self
            .actors
            .open_keyed(&way.member, Arc::clone(&call), state)?;
        opened.ok_or_else(|| UdfError::PoolGone {
            function: call.spec.name.clone(),
            place: self.executor_id.clone(),
        })
    }

    /// Builds a named actor here.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for what is none, and why it cannot be built.
    pub async fn build(&self, request: StartActor) -> Result<(), Status> {
        let spec = ActorSpec::decode(&request.spec).map_err(|error| self.status(error))?;
        let built = self.actors.build(Arc::new(spec)).await;
        let built = built.map_err(|error| self.status(error))?;
        drop(self.actors.put(built));
        Ok(())
    }

    fn status(&self, error: UdfError) -> Status {
        let error = datafusion::common::DataFusionError::External(Box::new(error));
        wire_error::to_status(&error, &self.this_url)
    }
}

/// A message that waits for the transport; its tag may still grow.
struct Outgoing {
    tag: Option<AnswerTag>,
    data: FlightData,
}

impl Outgoing {
    fn into_message(self) -> FlightData {
        match self.tag {
            Some(tag) => self.data.with_app_metadata(tag.encode_to_vec()),
            None => self.data,
        }
    }
}

/// One exchange.
struct Serving {
    pool: Arc<dyn UdfPool>,
    call: Arc<UdfCall>,
    reader: BlockReader,
    writer: BlockWriter,
    url: String,
    /// A block that has come in part.
    part: Option<(BlockTag, Vec<RecordBatch>)>,
    /// Blocks that may be on their way.
    credits: usize,
    /// Whether the oldest block is answered first; else each as it comes.
    is_ordered: bool,
    /// Whether it is a named actor that was placed.
    is_member: bool,
    /// The oldest first.
    calls: VecDeque<Call>,
    ready: VecDeque<Outgoing>,
    /// What the pool had done when it was last told.
    told: PoolStats,
}

impl Serving {
    async fn run(
        mut self,
        blocks: Streaming<FlightData>,
        out: mpsc::Sender<Result<FlightData, Status>>,
        traffic: Arc<Traffic>,
    ) {
        if let Err(status) = self.serve(blocks, &out, &traffic).await {
            // A peer that has gone is not told.
            let _ = out.send(Err(status)).await;
        }
    }

    async fn serve(
        &mut self,
        mut blocks: Streaming<FlightData>,
        out: &mpsc::Sender<Result<FlightData, Status>>,
        traffic: &Traffic,
    ) -> Result<(), Status> {
        let mut more = true;
        let mut is_told = self.pool.was_ready();
        let mut look = tokio::time::interval(READY_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.tell_ready(is_told);
        while more || !self.calls.is_empty() || !self.ready.is_empty() {
            tokio::select! {
                room = out.reserve(), if !self.ready.is_empty() => {
                    let Ok(room) = room else { return Ok(()) };
                    if let Some(message) = self.ready.pop_front() {
                        room.send(Ok(message.into_message()));
                    }
                }
                message = blocks.next(), if more => match message.transpose()? {
                    Some(message) => {
                        traffic.received(&message);
                        self.take(&message)?;
                    }
                    None => more = false,
                },
                () = poll_fn(|cx| self.poll_calls(cx)), if !self.calls.is_empty() => {}
                _ = look.tick(), if !is_told => {
                    is_told = self.pool.was_ready();
                    self.tell_ready(is_told);
                }
                () = out.closed() => return Ok(()),
            }
        }
        match self.part {
            Some(_) => Err(malformed("its last block is cut off")),
            None => Ok(()),
        }
    }

    /// Says that blocks may be begun from now on.
    fn tell_ready(&mut self, is_ready: bool) {
        if is_ready {
            self.ready.push_back(Outgoing {
                tag: Some(AnswerTag {
                    is_ready,
                    ..AnswerTag::default()
                }),
                data: FlightData::new(),
            });
        }
    }

    /// Takes a message of the peer.
    fn take(&mut self, message: &FlightData) -> Result<(), Status> {
        let tag = BlockTag::decode(message.app_metadata.clone())
            .map_err(|e| malformed(format!("a block has no tag: {e}")))?;
        if tag.cancelled {
            self.cancel(tag.seq);
            return Ok(());
        }
        let (begun, mut parts) = match self.part.take() {
            Some((begun, _)) if (begun.seq, begun.rows) != (tag.seq, tag.rows) => {
                return Err(malformed("a block comes within another"));
            }
            Some(part) => part,
            None if self.calls.len() >= self.credits => {
                let most = format!("more than {} blocks are on their way", self.credits);
                return Err(malformed(most));
            }
            None => (tag, vec![]),
        };
        let so_far: u64 = parts
            .iter()
            .map(|part: &RecordBatch| part.num_rows() as u64)
            .sum();
        let rows = rows_of(message).map_err(malformed)?;
        // The last part has what is missing, and no part more than that.
        let missing = tag
            .rows
            .checked_sub(so_far)
            .filter(|missing| *missing >= rows);
        if missing.is_none() || (!tag.more && missing != Some(rows)) {
            return Err(malformed("a block has other rows than it says"));
        }
        parts.push(self.reader.read(message, rows).map_err(malformed)?);
        match tag.more {
            true => self.part = Some((begun, parts)),
            false => self.begin(begun, parts)?,
        }
        Ok(())
    }

    fn begin(&mut self, tag: BlockTag, mut parts: Vec<RecordBatch>) -> Result<(), Status> {
        let block = match (parts.pop(), parts.is_empty()) {
            (Some(whole), true) => whole,
            (last, _) => {
                parts.extend(last);
                let whole = concat_batches(self.reader.schema(), &parts);
                whole.map_err(|e| malformed(e.to_string()))?
            }
        };
        let blocks = named(blocks_of(block, tag.block_rows)?, &tag);
        let pool = Arc::clone(&self.pool);
        let turn = async move { pool.call_each(blocks).await };
        self.calls.push_back(Call::new(tag.seq, turn));
        Ok(())
    }

    /// Nobody reads what comes of block `seq`.
    fn cancel(&mut self, seq: u64) {
        let found = self.calls.iter_mut().find(|call| call.seq == seq);
        if let Some(call) = found {
            call.state = CallState::Over(None);
        }
    }

    /// Lets all stand in line, and takes what is answered; ready when anything has
    /// changed.
    fn poll_calls(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut changed = false;
        for call in &mut self.calls {
            changed |= call.poll_line(cx);
        }
        // Where the transport is slower than the actor, what has come goes first.
        while self.ready.len() < MESSAGES_READY && self.poll_answers(cx).is_ready() {
            changed = true;
        }
        match changed {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Takes one answer to a block whose turn it is, or its end.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let most = match self.is_ordered {
            true => 1,
            false => self.calls.len(),
        };
        for at in 0..most {
            if self.poll_answer(at, cx).is_ready() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// The same, of the block at place `at`.
    fn poll_answer(&mut self, at: usize, cx: &mut Context<'_>) -> Poll<()> {
        let Some(call) = self.calls.get_mut(at) else {
            return Poll::Pending;
        };
        let seq = call.seq;
        let answer = match &mut call.state {
            CallState::InLine(_) => return Poll::Pending,
            CallState::Answering(answers) => ready!(answers.poll_next_unpin(cx)),
            CallState::Over(error) => {
                let error = error.take();
                self.finish(at, error);
                return Poll::Ready(());
            }
        };
        let over = match answer {
            Some(Ok(Answer::Rows(rows))) if !self.call.spec.is_table() => {
                call.held.push(rows);
                None
            }
            Some(Ok(Answer::Rows(rows))) => self.push_rows(seq, rows).err(),
            Some(Ok(Answer::Failed(rows))) => {
                self.push_failed(seq, rows);
                None
            }
            Some(Ok(Answer::Snapshot(state))) => {
                let parts = snapshots::parts(&state, self.writer.message_bytes());
                self.ready.extend(parts.map(|(part, data)| Outgoing {
                    tag: Some(AnswerTag {
                        seq,
                        snapshot: Some(part),
                        ..AnswerTag::default()
                    }),
                    data,
                }));
                None
            }
            Some(Err(error)) => Some(Some(error)),
            None => {
                let held = std::mem::take(&mut call.held);
                Some(self.push_held(seq, held).err().flatten())
            }
        };
        if let (Some(error), Some(call)) = (over, self.calls.get_mut(at)) {
            call.state = CallState::Over(error);
        }
        Poll::Ready(())
    }

    /// The values of a scalar function, as one block: their end is the last answer's.
    fn push_held(&mut self, seq: u64, held: Vec<RecordBatch>) -> Result<(), Option<UdfError>> {
        let Some(first) = held.first() else {
            return Ok(());
        };
        let whole = concat_batches(&first.schema(), &held);
        let whole = whole.map_err(|source| UdfError::Block {
            function: self.call.spec.name.clone(),
            source: BlockError::Assemble(source),
        });
        self.push_rows(seq, whole.map_err(Some)?)
    }

    fn push_rows(&mut self, seq: u64, rows: RecordBatch) -> Result<(), Option<UdfError>> {
        let function = &self.call.spec.name;
        let rows = plain_block(rows).and_then(|rows| block_as(rows, self.writer.schema()));
        let rows = rows.map_err(|source| UdfError::Block {
            function: function.clone(),
            source,
        });
        let pieces = self.writer.write(&rows.map_err(Some)?);
        let pieces = pieces.map_err(|problem| Some(problem.of(function, &self.url)))?;
        self.ready.extend(pieces.into_iter().map(|piece| Outgoing {
            tag: Some(AnswerTag {
                seq,
                rows: piece.rows as u64,
                ..AnswerTag::default()
            }),
            data: piece.data,
        }));
        Ok(())
    }

    /// Failed rows, in messages that are not too long.
    fn push_failed(&mut self, seq: u64, rows: Vec<FailedRow>) {
        let limit = self.writer.message_bytes();
        let mut tag = AnswerTag {
            seq,
            ..AnswerTag::default()
        };
        let (mut tags, mut bytes) = (vec![], 0);
        for row in rows.into_iter().map(failed_to_wire) {
            let length = row.encoded_len();
            if bytes > 0 && bytes + length > limit {
                let next = AnswerTag {
                    seq,
                    ..AnswerTag::default()
                };
                tags.push(std::mem::replace(&mut tag, next));
                bytes = 0;
            }
            bytes += length;
            tag.failed.push(row);
        }
        tags.push(tag);
        self.ready.extend(tags.into_iter().map(|tag| Outgoing {
            tag: Some(tag),
            data: FlightData::new(),
        }));
    }

    /// The block at place `at` is answered whole.
    fn finish(&mut self, at: usize, error: Option<UdfError>) {
        let Some(call) = self.calls.remove(at) else {
            return;
        };
        let (now, told) = (self.pool.stats(), self.told);
        self.told = now;
        // Of what a block behind it has done already the sum is right.
        let done = BlockDone {
            user_us: as_us(now.user_time.saturating_sub(told.user_time)),
            waited_us: as_us(call.waited),
            retries: now.retries.saturating_sub(told.retries),
            workers_started: now.workers_started.saturating_sub(told.workers_started),
            train: self.pool.train() as u64,
            snapshots: now.snapshots.saturating_sub(told.snapshots),
            replayed: now.replayed.saturating_sub(told.replayed),
            keeps_state: self.pool.keeps_state(),
            wait_us: as_us(self.pool.wait_expected()),
            down: error.as_ref().map_or(wire_actor::Down::No, down_of).into(),
            error: error.map(|error| {
                let error = match error {
                    UdfError::ActorDown {
                        down: Down::Begun(cause),
                        ..
                    } => *cause,
                    error => error,
                };
                let error = error.of_call(&self.call);
                let mut classified = classify_any(&error);
                // It has ended two workers: another host would lose some, too.
                match error {
                    UdfError::WorkerLost { .. } if !self.is_ordered || self.is_member => {
                        classified.class = ErrorClass::User;
                    }
                    UdfError::ActorDown {
                        down: Down::Failed(reason),
                        ..
                    } => classified.message = reason,
                    // It is there, but is not to be had.
                    UdfError::ActorFailed { .. } if self.is_member => {
                        classified.class = ErrorClass::Setup;
                    }
                    _ => {}
                }
                wire_error::to_wire(classified, &self.url)
            }),
        };
        let last = self.ready.back_mut().and_then(|last| last.tag.as_mut());
        match last.filter(|tag| tag.seq == call.seq && !tag.is_ready) {
            Some(tag) => tag.done = Some(done),
            None => self.ready.push_back(Outgoing {
                tag: Some(AnswerTag {
                    seq: call.seq,
                    done: Some(done),
                    ..AnswerTag::default()
                }),
                data: FlightData::new(),
            }),
        }
    }
}
