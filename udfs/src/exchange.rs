//! One block through one worker: PROCESS out, OUTPUT and DONE back.
//!
//! A block too long for a frame goes in halves, or in about halves where groups of
//! rows belong together. Outputs of a table function are
//! passed on as they come, and a slow reader stops the worker; those of a scalar
//! function are few and wait for DONE, so that the worker is free before the
//! reader looks. Only time spent waiting for the worker counts against the
//! deadline.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use mobula_block::BlockError;
use mobula_block::ipc::decode_block;
use mobula_block::plain::block_as;
use mobula_block::size::block_bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::activity::WorkerState;
use crate::error::UdfError;
use crate::failed_rows::OnError;
use crate::order::CallOrder;
use crate::pool::{Answer, PoolStats};
use crate::protocol::{Done, Failed, Frame, Kind, Process};
use crate::slots::Tally;
use crate::worker::{Deadline, Worker};

/// Bytes of a frame that are not the block: the header and the body.
const OVERHEAD_BYTES: usize = 4096;

/// What goes to the reader of a call.
#[derive(Debug)]
pub(crate) enum Part {
    Answer(Answer),
    /// The call is over; without it, it was cut off.
    End,
}

/// The sending half of a call's stream.
pub(crate) type Parts = mpsc::Sender<Result<Part, UdfError>>;

/// How an exchange ended early.
#[derive(Debug)]
pub(crate) enum Interruption {
    Failed(UdfError),
    /// Nobody reads any more.
    Abandoned,
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
}

impl Counters {
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
        }
    }
}

/// One call at work on one worker, which has it loaded.
pub(crate) struct Exchange<'a> {
    pub(crate) worker: &'a mut Worker,
    pub(crate) order: &'a CallOrder,
    pub(crate) parts: &'a Parts,
    pub(crate) counters: &'a Counters,
    /// For each block; its `at` is set when the block is sent.
    pub(crate) deadline: Deadline,
    /// Whether the reader has had anything: then a block cannot be sent again.
    pub(crate) passed_on: bool,
    /// Answers not yet passed on, those of earlier blocks included.
    pub(crate) held: &'a mut Vec<Answer>,
}

impl Exchange<'_> {
    /// Runs `block`, which `offset` rows of the call's went before, through the
    /// worker.
    pub(crate) async fn run(
        &mut self,
        block: RecordBatch,
        mut offset: usize,
    ) -> Result<(), Interruption> {
        self.worker
            .process()
            .enter(WorkerState::Busy, Some(self.order.function()));
        let rows = block.num_rows();
        let before = self.held.len();
        let mut todo = vec![block];
        while let Some(block) = todo.pop() {
            let (call, pieces) = self.encode(&block)?;
            let bytes: usize = pieces.iter().map(Buffer::len).sum();
            let limit = self.worker.channel.max_frame_bytes();
            if bytes + OVERHEAD_BYTES <= limit {
                self.send_and_collect(call, &block, offset, &pieces).await?;
                offset += block.num_rows();
            } else if let Some(half) = self.order.call.cut(&block) {
                todo.push(block.slice(half, block.num_rows() - half));
                todo.push(block.slice(0, half));
            } else {
                let function = self.order.function().to_owned();
                let error = match block.num_rows() {
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
                };
                return Err(error.into());
            }
        }
        self.check_rows(rows, before)?;
        self.worker.process().enter(WorkerState::Idle, None);
        Ok(())
    }

    fn encode(&mut self, block: &RecordBatch) -> Result<(u64, Vec<Buffer>), UdfError> {
        match self.worker.current() {
            Some((call, encoder)) => {
                let pieces = encoder.encode(block);
                pieces
                    .map(|pieces| (call, pieces))
                    .map_err(|source| self.bad_block(source))
            }
            None => Err(self
                .worker
                .broken(self.order.function(), "it has nothing loaded".into())),
        }
    }

    async fn send_and_collect(
        &mut self,
        call: u64,
        block: &RecordBatch,
        offset: usize,
        pieces: &[Buffer],
    ) -> Result<(), Interruption> {
        let function = self.order.function();
        let sent = Instant::now();
        let mut deadline = self.deadline;
        deadline.at = (deadline.at.is_some()).then(|| sent + deadline.limit);
        let max_errors = self.order.call.max_errors;
        let request = Process { call, max_errors };
        let seq = self
            .worker
            .request(function, Kind::Process, &request, pieces, deadline)
            .await?;
        let bytes: usize = pieces.iter().map(Buffer::len).sum();
        add(&self.counters.rows_in, block.num_rows());
        add(&self.counters.bytes_in, bytes);
        let mut reader_time = Duration::ZERO;
        loop {
            let frame = self.worker.answer(function, seq, deadline).await?;
            match frame.kind {
                Kind::Output | Kind::Failed => {
                    let output = match frame.kind {
                        Kind::Failed => self.failed(&frame, block.num_rows(), offset)?,
                        _ => Answer::Rows(self.decode(&frame)?),
                    };
                    let since = Instant::now();
                    self.pass_on(output).await?;
                    let waited = since.elapsed();
                    reader_time += waited;
                    deadline.at = deadline.at.map(|at| at + waited);
                }
                Kind::Done => {
                    let done: Done = self.worker.read(&frame, function)?;
                    let wall = sent.elapsed().saturating_sub(reader_time);
                    let transport = wall.saturating_sub(Duration::from_micros(done.user_us));
                    self.counters
                        .user_us
                        .fetch_add(done.user_us, Ordering::Relaxed);
                    add(&self.counters.transport_us, transport.as_micros() as usize);
                    return Ok(());
                }
                other => {
                    let problem = format!("it answers {other:?} instead of Output or Done");
                    return Err(self.worker.broken(function, problem).into());
                }
            }
        }
    }

    fn decode(&self, frame: &Frame) -> Result<RecordBatch, UdfError> {
        let Some(payload) = &frame.payload else {
            let problem = "it sent an Output without a block".to_owned();
            return Err(self.worker.broken(self.order.function(), problem));
        };
        let output = decode_block(payload, &self.order.output)
            .and_then(|block| block_as(block, &self.order.call.output))
            .map_err(|source| self.bad_block(source))?;
        add(&self.counters.rows_out, output.num_rows());
        add(&self.counters.bytes_out, payload.len());
        Ok(output)
    }

    fn failed(&self, frame: &Frame, rows: usize, offset: usize) -> Result<Answer, UdfError> {
        let failed: Failed = self.worker.read(frame, self.order.function())?;
        let failed = failed.rows(rows, offset);
        failed
            .map(Answer::Failed)
            .map_err(|problem| self.worker.broken(self.order.function(), problem))
    }

    async fn pass_on(&mut self, output: Answer) -> Result<(), Interruption> {
        self.held.push(output);
        if self.holds() {
            return Ok(());
        }
        self.passed_on = true;
        for answer in self.held.drain(..) {
            let sent = self.parts.send(Ok(Part::Answer(answer))).await;
            sent.map_err(|_| Interruption::Abandoned)?;
        }
        Ok(())
    }

    /// Whether answers wait for the end of the call: those of a scalar function,
    /// and, where rows may fail, of a table function as well, so that its block can
    /// be sent again; but no more of these than a frame holds.
    fn holds(&self) -> bool {
        let call = &self.order.call;
        if !call.spec.is_table() {
            return true;
        }
        let bytes = |answer: &Answer| match answer {
            Answer::Rows(rows) => block_bytes(rows),
            Answer::Failed(_) => 0,
        };
        call.errors.on_error != OnError::Raise
            && self.held.iter().map(bytes).sum::<usize>() < self.worker.channel.max_frame_bytes()
    }

    /// A scalar function gives a value for every row; its answers are those held
    /// from place `before` on.
    fn check_rows(&self, wanted: usize, before: usize) -> Result<(), UdfError> {
        if self.order.call.spec.is_table() {
            return Ok(());
        }
        let rows = self.held.iter().skip(before).map(|answer| match answer {
            Answer::Rows(block) => block.num_rows(),
            Answer::Failed(_) => 0,
        });
        let found: usize = rows.sum();
        if found == wanted {
            return Ok(());
        }
        let problem = format!("it gave {found} values for {wanted} rows");
        Err(self.worker.broken(self.order.function(), problem))
    }

    fn bad_block(&self, source: BlockError) -> UdfError {
        UdfError::Block {
            function: self.order.function().to_owned(),
            source,
        }
    }
}

fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}
