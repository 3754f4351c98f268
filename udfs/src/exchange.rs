//! One block through one worker: PROCESS out, OUTPUT and DONE back.
//!
//! A block too long for a frame goes in halves, or in about halves where groups of
//! rows belong together. Outputs of a table function are
//! passed on as they come, and a slow reader stops the worker; those of a scalar
//! function are few and wait for DONE, so that the worker is free before the
//! reader looks. Only time spent waiting for the worker counts against the
//! deadline.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use mobula_block::BlockError;
use mobula_block::ipc::{decode_block, invalid_column};
use mobula_block::plain::block_as;
use mobula_block::size::block_bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::activity::WorkerState;
use crate::block_id::part_of;
use crate::call::UdfCall;
use crate::crew::Lease;
use crate::error::{UdfError, UserFailure};
use crate::failed_rows::OnError;
use crate::keyed::{Answered, Keeper, SnapshotParts};
use crate::order::CallOrder;
use crate::pool::{Answer, PoolStats};
use crate::protocol::{Done, Failed, Frame, Kind};
use crate::sender::{Encoded, SentBlock};
use crate::slots::Tally;
use crate::train::Mean;
use crate::worker::Deadline;

/// Blocks that take a worker longer than this on average are not sent ahead: the way
/// to it would hardly count, and a worker that comes free earlier could not have them.
const QUICK: Duration = Duration::from_millis(25);

/// How long, at most and with some slack, an answer is kept that was given in time, before
/// the block that comes next, so that they go together.
const KEPT: Duration = Duration::from_millis(10);

/// What goes to the reader of a call.
#[derive(Debug)]
pub(crate) enum Part {
    Answer(Answer),
    /// The call is over; without it, it was cut off.
    End,
}

/// Blocks being sent to a worker that is at work on another; `None` if they could
/// not be.
pub(crate) type Ahead = JoinHandle<Option<VecDeque<SentBlock>>>;

/// The sending half of a call's stream.
pub(crate) type Parts = mpsc::Sender<Result<Part, UdfError>>;

/// How an exchange ended early.
#[derive(Debug)]
pub(crate) enum Interruption {
    Failed(UdfError),
    /// Nobody reads any more.
    Abandoned,
}

impl Interruption {
    /// The same, saying at which line of which function of `call` a worker was lost.
    pub(crate) fn at_line(self, call: &UdfCall) -> Self {
        match self {
            Self::Failed(error) => Self::Failed(error.at_line(call)),
            Self::Abandoned => Self::Abandoned,
        }
    }
}

impl From<UdfError> for Interruption {
    fn from(error: UdfError) -> Self {
        Self::Failed(error)
    }
}

/// What a pool counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) calls: AtomicU64,
    pub(crate) workers_started: AtomicU64,
    rows_in: AtomicU64,
    rows_out: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    bytes_shared: AtomicU64,
    slots_created: AtomicU64,
    user_us: AtomicU64,
    transport_us: AtomicU64,
    pub(crate) blocks_ahead: AtomicU64,
    workers_at_once: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) snapshots: AtomicU64,
    pub(crate) replayed: AtomicU64,
    /// What a block takes lately.
    pub(crate) mean: Mean,
}

impl Counters {
    /// Whether blocks take so short a time that the next should be on its way.
    pub(crate) fn is_quick(&self) -> bool {
        self.mean.get().is_some_and(|mean| mean < QUICK)
    }

    /// So many workers are at work now.
    pub(crate) fn at_work(&self, workers: usize) {
        self.workers_at_once
            .fetch_max(workers as u64, Ordering::Relaxed);
    }

    /// A block of so many rows and bytes is on its way.
    pub(crate) fn sent(&self, rows: usize, bytes: usize) {
        add(&self.rows_in, rows);
        add(&self.bytes_in, bytes);
    }

    /// A worker has given so many rows and bytes.
    pub(crate) fn given(&self, rows: usize, bytes: usize) {
        add(&self.rows_out, rows);
        add(&self.bytes_out, bytes);
    }

    /// What a worker says of its work at the end of a block.
    pub(crate) fn done(&self, done: &Done) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.retries.fetch_add(done.retries, Ordering::Relaxed);
        self.user_us.fetch_add(done.user_us, Ordering::Relaxed);
    }

    /// Adds what a worker's slots did for the pool.
    pub(crate) fn add_slots(&self, tally: Tally) {
        let Tally {
            slots_created,
            bytes_shared,
        } = tally;
        self.slots_created
            .fetch_add(slots_created, Ordering::Relaxed);
        self.bytes_shared.fetch_add(bytes_shared, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> PoolStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PoolStats {
            calls: read(&self.calls),
            rows_in: read(&self.rows_in),
            rows_out: read(&self.rows_out),
            bytes_in: read(&self.bytes_in),
            bytes_out: read(&self.bytes_out),
            bytes_shared: read(&self.bytes_shared),
            slots_created: read(&self.slots_created),
            user_time: Duration::from_micros(read(&self.user_us)),
            transport_time: Duration::from_micros(read(&self.transport_us)),
            workers_started: read(&self.workers_started),
            blocks_ahead: read(&self.blocks_ahead),
            workers_at_once: read(&self.workers_at_once),
            retries: read(&self.retries),
            snapshots: read(&self.snapshots),
            replayed: read(&self.replayed),
        }
    }
}

/// One call at work on one worker, which has it loaded.
pub(crate) struct Exchange<'a> {
    pub(crate) lease: &'a mut Lease,
    pub(crate) order: &'a Arc<CallOrder>,
    pub(crate) parts: &'a Parts,
    pub(crate) counters: &'a Counters,
    /// For each block; its `at` is set when the block is sent.
    pub(crate) deadline: Deadline,
    /// Whether the reader has had anything: then a block cannot be sent again.
    pub(crate) passed_on: bool,
    /// Answers not yet passed on, those of earlier blocks included.
    pub(crate) held: &'a mut Vec<Answer>,
    /// Bytes of those.
    pub(crate) held_bytes: usize,
    /// Whether the next block may be sent while the worker is at work on this one.
    pub(crate) may_follow: bool,
    /// Whether the worker has more to say that nobody will hear.
    pub(crate) unread: bool,
    /// What answers took that is not yet told apart: those of a train come together.
    pub(crate) wall: &'a mut Duration,
    /// Whether another block of the train is behind this one.
    pub(crate) has_more: bool,
    /// Of a keyed call: what is kept beside its actor.
    pub(crate) keeper: Option<&'a Keeper>,
    /// How much of the block is in what is kept.
    pub(crate) answered: Answered,
    /// The request whose answers are awaited.
    pub(crate) seq: Option<u64>,
}

impl Exchange<'_> {
    /// Runs `block`, which `offset` rows of the call's went before, through the
    /// worker, if that does not have it already, as `sent`.
    pub(crate) async fn run(
        &mut self,
        block: RecordBatch,
        mut offset: usize,
        sent: Option<SentBlock>,
    ) -> Result<(), Interruption> {
        let process = Arc::clone(self.lease.worker.process());
        process.enter(WorkerState::Busy, Some(self.order.function()));
        let (rows, before) = (block.num_rows(), self.held.len());
        let mut todo = match sent {
            Some(sent) => {
                self.lease.worker.count_block();
                self.offer();
                self.collect(sent, &block, offset).await?;
                vec![]
            }
            None => vec![block],
        };
        while let Some(block) = todo.pop() {
            let encoded = self.encode(&block).await?;
            if encoded.fits(self.lease.worker.channel.max_frame_bytes()) {
                let deadline = self.deadline_from_now();
                let worker = &mut self.lease.worker;
                let sent = worker.send_block(&encoded, self.order, deadline).await?;
                drop(encoded);
                worker.count_block();
                if todo.is_empty() {
                    self.offer();
                }
                self.collect(sent, &block, offset).await?;
                offset += block.num_rows();
            } else if let Some(half) = self.order.call.cut(&block) {
                todo.push(part_of(&block, half, block.num_rows() - half));
                todo.push(part_of(&block, 0, half));
            } else {
                return Err(self.too_large(&block, encoded.bytes).into());
            }
        }
        self.check_rows(rows, before)?;
        process.enter(WorkerState::Idle, None);
        Ok(())
    }

    /// Nothing of this call is sent after this.
    fn offer(&mut self) {
        if self.may_follow {
            self.lease.offer(self.counters);
        }
    }

    async fn encode(&self, block: &RecordBatch) -> Result<Encoded, UdfError> {
        let worker = &self.lease.worker;
        let encoded = worker.channel.sender().lock().await.encode(block);
        match encoded {
            Some(encoded) => encoded.map_err(|source| self.bad_block(source)),
            None => Err(worker.broken(self.order.function(), "it has nothing loaded".into())),
        }
    }

    fn too_large(&self, block: &RecordBatch, bytes: usize) -> UdfError {
        let function = self.order.function().to_owned();
        let limit = self.lease.worker.channel.max_frame_bytes();
        match block.num_rows() {
            1 => UdfError::RowTooLarge {
                function,
                bytes,
                limit,
            },
            _ => UdfError::GroupTooLarge {
                function,
                bytes,
                limit,
            },
        }
    }

    pub(crate) fn deadline_from_now(&self) -> Deadline {
        let mut deadline = self.deadline;
        deadline.at = (deadline.at.is_some()).then(|| Instant::now() + deadline.limit);
        deadline
    }

    /// Passes on what the worker answers to a block, which is the oldest it has.
    async fn collect(
        &mut self,
        sent: SentBlock,
        block: &RecordBatch,
        offset: usize,
    ) -> Result<(), Interruption> {
        let function = self.order.function();
        let since = Instant::now();
        let mut deadline = self.deadline_from_now();
        if self.has_more {
            deadline.at = deadline.at.map(|at| at + KEPT);
        }
        let SentBlock { seq, bytes } = sent;
        self.seq = Some(seq);
        add(&self.counters.rows_in, block.num_rows());
        add(&self.counters.bytes_in, bytes);
        let mut reader_time = Duration::ZERO;
        let mut refused = None;
        let mut snapshot = SnapshotParts::default();
        loop {
            let frame = self.lease.worker.answer(function, seq, deadline).await?;
            match frame.kind {
                Kind::Output | Kind::Failed | Kind::Snapshot if refused.is_some() => {}
                Kind::Snapshot => {
                    if let Err(error) = self.take_snapshot(&frame, &mut snapshot) {
                        refused = Some(self.hear_out(error)?);
                    }
                }
                Kind::Output | Kind::Failed => {
                    let output = match frame.kind {
                        Kind::Failed => self.failed(&frame, block.num_rows(), offset)?,
                        _ => match self.decode(&frame) {
                            Ok(rows) => Answer::Rows(rows),
                            Err(error) => {
                                refused = Some(self.hear_out(error)?);
                                continue;
                            }
                        },
                    };
                    let given = Instant::now();
                    self.pass_on(output).await?;
                    let waited = given.elapsed();
                    reader_time += waited;
                    deadline.at = deadline.at.map(|at| at + waited);
                }
                Kind::Done => {
                    let done: Done = self.lease.worker.read(&frame, function)?;
                    self.took(&done, since.elapsed().saturating_sub(reader_time));
                    return match refused {
                        Some(error) => Err(error.into()),
                        None => Ok(self.note_answered(block, snapshot)?),
                    };
                }
                other => {
                    let problem = format!("it answers {other:?} instead of Output or Done");
                    return Err(self.lease.worker.broken(function, problem).into());
                }
            }
        }
    }

    /// Counts a block whose last word came after `wall`.
    fn took(&mut self, done: &Done, wall: Duration) {
        let Counters {
            mean,
            retries,
            user_us,
            transport_us,
            ..
        } = self.counters;
        let user = Duration::from_micros(done.user_us);
        // Its answer may have waited for others, or come with those that did.
        mean.add(wall.max(user));
        retries.fetch_add(done.retries, Ordering::Relaxed);
        user_us.fetch_add(done.user_us, Ordering::Relaxed);
        *self.wall = (*self.wall + wall).saturating_sub(user);
        if !self.has_more {
            let transport = std::mem::take(self.wall);
            add(transport_us, transport.as_micros() as usize);
        }
    }

    fn decode(&self, frame: &Frame) -> Result<RecordBatch, UdfError> {
        let Some(payload) = &frame.payload else {
            let problem = "it sent an Output without a block".to_owned();
            return Err(self.lease.worker.broken(self.order.function(), problem));
        };
        let output = decode_block(payload, &self.order.output)
            .map_err(|source| self.refused(payload, source))?;
        let output =
            block_as(output, &self.order.call.output).map_err(|source| self.bad_block(source))?;
        add(&self.counters.rows_out, output.num_rows());
        add(&self.counters.bytes_out, payload.len());
        Ok(output)
    }

    /// Of a block that cannot be decoded: whoever made it made a column that is none.
    fn refused(&self, payload: &Buffer, source: BlockError) -> UdfError {
        let schema = &self.order.output;
        let Some((column, problem)) = invalid_column(payload, schema) else {
            return self.bad_block(source);
        };
        let field = schema.field(column);
        let what = match self.order.call.spec.is_table() {
            true => format!("column \"{}\" as values", field.name()),
            false => "values".to_owned(),
        };
        let wanted = field.data_type();
        UdfError::Refused(Box::new(UserFailure {
            function: self.order.function().to_owned(),
            message: format!("returned {what} that are no valid {wanted}: {problem}"),
            traceback: None,
        }))
    }

    /// After what user code returned is refused here, the worker has more to say. A
    /// generator may have no end: then it is let go. Others are few: `error` comes
    /// after them, and the worker, or the named actor that it is, lives on.
    fn hear_out(&mut self, error: UdfError) -> Result<UdfError, UdfError> {
        let spec = &self.order.call.spec;
        let is_refusal = matches!(error, UdfError::Refused(_));
        self.unread = is_refusal && spec.is_table() && !spec.is_method();
        match is_refusal && !self.unread {
            true => Ok(error),
            false => Err(error),
        }
    }

    fn failed(&self, frame: &Frame, rows: usize, offset: usize) -> Result<Answer, UdfError> {
        let failed: Failed = self.lease.worker.read(frame, self.order.function())?;
        let failed = failed.rows(rows, offset);
        failed
            .map(Answer::Failed)
            .map_err(|problem| self.lease.worker.broken(self.order.function(), problem))
    }

    async fn pass_on(&mut self, output: Answer) -> Result<(), Interruption> {
        self.held_bytes += answer_bytes(&output);
        self.held.push(output);
        if self.holds() {
            return Ok(());
        }
        self.passed_on = true;
        self.held_bytes = 0;
        for answer in self.held.drain(..) {
            let sent = self.parts.send(Ok(Part::Answer(answer))).await;
            // A named actor goes on without its reader.
            if sent.is_err() && !self.order.call.spec.is_method() {
                return Err(Interruption::Abandoned);
            }
        }
        Ok(())
    }

    /// Whether answers wait for the end of the call: those of a scalar function,
    /// and, where rows may fail, of a table function as well, so that its block can
    /// be sent again; but no more of these than a frame holds. Those of a named actor
    /// wait too: a slow reader does not keep it from others; and those of a keyed one,
    /// which may have to see its block again.
    fn holds(&self) -> bool {
        let call = &self.order.call;
        if !call.spec.is_table() {
            return true;
        }
        let waits = call.spec.is_method() || call.handling.keyed.is_some();
        (call.errors.on_error != OnError::Raise || waits)
            && self.held_bytes < self.lease.worker.channel.max_frame_bytes()
    }

    /// A scalar function gives a value for every row; its answers are those held
    /// from place `before` on.
    fn check_rows(&self, wanted: usize, before: usize) -> Result<(), UdfError> {
        if self.order.call.spec.is_table() {
            return Ok(());
        }
        let rows = self.held.iter().skip(before).map(|answer| match answer {
            Answer::Rows(block) => block.num_rows(),
            Answer::Failed(_) | Answer::Snapshot(_) => 0,
        });
        let found: usize = rows.sum();
        if found == wanted {
            return Ok(());
        }
        let problem = format!("it gave {found} values for {wanted} rows");
        Err(self.lease.worker.broken(self.order.function(), problem))
    }

    fn bad_block(&self, source: BlockError) -> UdfError {
        UdfError::Block {
            function: self.order.function().to_owned(),
            source,
        }
    }
}

/// What an answer that waits is counted as.
pub(crate) fn answer_bytes(answer: &Answer) -> usize {
    match answer {
        Answer::Rows(rows) => block_bytes(rows),
        Answer::Failed(_) => 0,
        Answer::Snapshot(state) => state.len(),
    }
}

fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}
