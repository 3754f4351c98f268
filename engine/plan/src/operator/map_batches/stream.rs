//! Runs one partition: blocks out to workers, answers back in order.
//!
//! ```text
//! input → BlockQueue → call (a task each) → answers, older calls first → output
//! ```
//!
//! Calls ask for a worker in the order of their blocks, whatever the scheduler
//! does: an actor that keeps state across batches sees them in order.
//!
//! Where calls are short, a call has several small blocks: then they travel to the worker
//! together, each to be answered by itself, as one block in parts would be.
//!
//! A call is driven by its own task, not by whoever reads this stream: a worker
//! shared with another partition must be freed even if nobody polls us, or a
//! merge that waits for the other partition would wait for ever. So the answers
//! of a scalar call are buffered whole (they are as many rows as its block, and
//! the block is bounded). A table call may answer without bound; there the task
//! waits when two answers are unread. That cannot deadlock: rule `sort_not_merge`
//! sees to it that nothing merges by order right above it, and we read every call
//! in flight, not just the oldest, which may be waiting for a worker that a later
//! one holds.
//!
//! Dropping the stream aborts the tasks, which drops the calls.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options, concat_batches};
use arrow::datatypes::SchemaRef;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, Time};
use futures::{Stream, StreamExt};
use mobula_udfs::{Answer, BlockId, UdfCall, UdfError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::coop::unconstrained;

use super::block_memory::{BlockSize, Made, Room};
use super::block_queue::{Block, BlockQueue};
use super::exec::ExecShape;
use super::grouping::{GroupMarker, with_starts};
use super::in_flight::{InFlight, Reply};
use super::piece::Piece;
use super::scattered::Scattered;
use super::shared_pool::SharedPool;
use crate::operator::output_metrics::OutputMetrics;

/// Answers of a table call that may wait unread.
const TABLE_ANSWERS: usize = 2;

/// Everything a partition needs to run.
pub(super) struct Setup {
    pub input: SendableRecordBatchStream,
    pub queue: BlockQueue,
    /// How groups are found, if rows go in by groups.
    pub groups: Option<Groups>,
    /// Whether each batch of the input is a block.
    pub takes_blocks: bool,
    pub pool: Arc<SharedPool>,
    /// The name of the next block, if they are named.
    pub next_id: Option<BlockId>,
    /// Of a keyed call: which of the task's streams it is, and so whose actor it has.
    pub lane: Option<usize>,
    /// Of a keyed call: calls that may be in flight beyond the first.
    pub own_extra: Option<Arc<Semaphore>>,
    pub call: Arc<UdfCall>,
    pub shape: ExecShape,
    pub schema: SchemaRef,
    /// Whether blocks come out in the order they went in.
    pub keeps_order: bool,
    /// Most bytes of answers of later calls that wait for an older one.
    pub keep_bytes: usize,
}

/// Groups of rows that go in together.
pub(super) struct Groups {
    pub marker: GroupMarker,
    /// Most bytes of one.
    pub max_bytes: usize,
}

/// Metrics of one partition.
pub(super) struct StreamMetrics {
    pub(super) output: OutputMetrics,
    calls: Count,
    rows_to_workers: Count,
    blocks_held_back: Count,
    wait_input: Time,
    wait_workers: Time,
    wait_downstream: Time,
}

impl StreamMetrics {
    pub fn new(metrics: &ExecutionPlanMetricsSet, partition: usize) -> Self {
        let time = |name| MetricBuilder::new(metrics).subset_time(name, partition);
        let count = |name: &'static str| MetricBuilder::new(metrics).counter(name, partition);
        Self {
            output: OutputMetrics::new(metrics, partition),
            calls: count("calls"),
            rows_to_workers: count("rows_to_workers"),
            blocks_held_back: count("blocks_held_back"),
            wait_input: time("wait_input"),
            wait_workers: time("wait_workers"),
            wait_downstream: time("wait_downstream"),
        }
    }
}

/// The running half of `map_batches` for one partition.
pub(super) struct MapBatchesStream {
    /// `None` once the stream has ended: input, calls and pool are let go at
    /// once, not when the stream is dropped.
    running: Option<Running>,
    schema: SchemaRef,
    metrics: StreamMetrics,
    /// Since when nobody has asked for the next rows.
    given_since: Option<Instant>,
}

struct Running {
    setup: Setup,
    in_flight: VecDeque<InFlight>,
    /// Blocks that wait for memory, while others are in flight.
    held_back: Option<(Vec<Block>, BlockSize)>,
    /// The first failure of any call: it ends the stream at once, though older
    /// calls may still be at work for long.
    failed: mpsc::Receiver<UdfError>,
    fail: mpsc::Sender<UdfError>,
    /// Since when we wait for input, or for the oldest call.
    input_since: Option<Instant>,
    answer_since: Option<Instant>,
}

impl MapBatchesStream {
    pub fn new(setup: Setup, metrics: StreamMetrics) -> Self {
        let (fail, failed) = mpsc::channel(1);
        Self {
            schema: Arc::clone(&setup.schema),
            running: Some(Running {
                setup,
                in_flight: VecDeque::new(),
                held_back: None,
                failed,
                fail,
                input_since: None,
                answer_since: None,
            }),
            metrics,
            given_since: None,
        }
    }
}

impl Stream for MapBatchesStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(since) = this.given_since.take() {
            this.metrics.wait_downstream.add_elapsed(since);
        }
        let Some(running) = &mut this.running else {
            return Poll::Ready(None);
        };
        let polled = running.poll(cx, &this.metrics);
        match polled {
            Poll::Ready(Some(Ok(_))) => {
                running.setup.pool.tell();
                this.given_since = Some(Instant::now());
            }
            Poll::Ready(_) => this.running = None,
            Poll::Pending => {}
        }
        this.metrics.output.record_poll(polled)
    }
}

impl RecordBatchStream for MapBatchesStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl Running {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        metrics: &StreamMetrics,
    ) -> Poll<Option<Result<RecordBatch>>> {
        loop {
            if let Err(error) = self.send_blocks(cx, metrics) {
                return Poll::Ready(Some(Err(error)));
            }
            if let Poll::Ready(Some(error)) = self.failed.poll_recv(cx) {
                return Poll::Ready(Some(Err(external(error))));
            }
            if self.in_flight.is_empty() {
                // Either all is done, or input is pending.
                return match self.setup.queue.is_finished() {
                    true => match self.setup.pool.failures().check_end() {
                        Ok(()) => Poll::Ready(None),
                        Err(error) => Poll::Ready(Some(Err(external(error)))),
                    },
                    false => Poll::Pending,
                };
            }
            let Some((idx, answer)) = self.poll_answers(cx, metrics) else {
                self.answer_since.get_or_insert_with(Instant::now);
                return Poll::Pending;
            };
            if let Some(since) = self.answer_since.take() {
                metrics.wait_workers.add_elapsed(since);
            }
            match answer {
                Ok(Some(rows)) => return Poll::Ready(Some(Ok(rows))),
                Ok(None) => self.end_call(idx),
                Err(error) => {
                    // A call that ends without an answer has said why there.
                    let said = self.failed.try_recv().ok();
                    let error = said.map_or(error, external);
                    return Poll::Ready(Some(Err(error)));
                }
            };
        }
    }

    /// Forgets a call that is over. If it was the one that needs no permit, the oldest is
    /// that from now on: else each partition would do with one call less than it may have.
    /// Not for rows of a table that keep no order: those of one worker come in that of the
    /// calls as long as a call is mostly alone, which users have come to see.
    fn end_call(&mut self, idx: usize) {
        let over = self.in_flight.remove(idx);
        let is_table = matches!(self.setup.shape, ExecShape::Table { .. });
        if is_table && !self.setup.keeps_order {
            return;
        }
        if over.is_some_and(|call| call.permit.is_none())
            && let Some(oldest) = self.in_flight.front_mut()
        {
            oldest.permit = None;
        }
    }

    /// The first answer there is, and of which call: of the oldest alone where
    /// rows keep their order. A table's later calls are read all the same, see
    /// above, as far as their answers may be kept.
    fn poll_answers(
        &mut self,
        cx: &mut Context<'_>,
        metrics: &StreamMetrics,
    ) -> Option<(usize, Result<Option<RecordBatch>>)> {
        let readable = match self.setup.keeps_order {
            true => 1,
            false => self.in_flight.len(),
        };
        let calls = self.in_flight.iter_mut().take(readable).enumerate();
        for (idx, call) in calls {
            if let Poll::Ready(answer) = call.poll(cx, &self.setup, metrics) {
                return Some((idx, answer));
            }
        }
        if self.setup.keeps_order && matches!(self.setup.shape, ExecShape::Table { .. }) {
            let kept: usize = self.in_flight.iter().map(InFlight::kept_bytes).sum();
            let mut room = self.setup.keep_bytes.saturating_sub(kept);
            let later = self.in_flight.iter_mut().skip(1);
            later.for_each(|call| call.read_ahead(cx, &mut room));
        }
        None
    }

    /// Sends blocks while calls may be added and input is ready.
    fn send_blocks(&mut self, cx: &mut Context<'_>, metrics: &StreamMetrics) -> Result<()> {
        loop {
            let permit = match self.in_flight.is_empty() {
                true => None,
                false => match self.setup.extra_permit() {
                    Some(permit) => Some(permit),
                    None => return Ok(()),
                },
            };
            let held_back = self.held_back.take();
            let is_new = held_back.is_none();
            let (blocks, size) = match held_back {
                Some(held_back) => held_back,
                None => match self.poll_block(cx, metrics)? {
                    Poll::Ready(Some(block)) => self.setup.with_more(block),
                    Poll::Ready(None) | Poll::Pending => return Ok(()),
                },
            };
            // The first one goes in any case.
            let Some(room) = self.setup.pool.room(size, permit.is_none()) else {
                metrics.blocks_held_back.add(usize::from(is_new));
                // The end of one in flight has it tried again.
                self.held_back = Some((blocks, size));
                return Ok(());
            };
            self.start(cx, blocks, (permit, room), metrics)?;
        }
    }

    /// The next block; `None` when there will be no more.
    fn poll_block(
        &mut self,
        cx: &mut Context<'_>,
        metrics: &StreamMetrics,
    ) -> Result<Poll<Option<Block>>> {
        if let Some(rows) = self.setup.pool.block_rows() {
            self.setup.queue.cut_to(rows);
        }
        loop {
            if let Some(block) = self.setup.queue.pop() {
                return Ok(Poll::Ready(Some(block)));
            }
            if self.setup.queue.is_finished() {
                return Ok(Poll::Ready(None));
            }
            let Poll::Ready(rows) = self.setup.input.poll_next_unpin(cx) else {
                self.input_since.get_or_insert_with(Instant::now);
                return Ok(Poll::Pending);
            };
            if let Some(since) = self.input_since.take() {
                metrics.wait_input.add_elapsed(since);
            }
            match rows.transpose()? {
                Some(rows) => self.setup.push(rows)?,
                None => self.setup.queue.finish(),
            }
        }
    }

    /// Starts the call of one block, or of several.
    fn start(
        &mut self,
        cx: &mut Context<'_>,
        blocks: Vec<Block>,
        (permit, room): (Option<OwnedSemaphorePermit>, Room),
        metrics: &StreamMetrics,
    ) -> Result<()> {
        let _timer = metrics.output.elapsed_compute().timer();
        let (rows, count) = (blocks.iter().map(|b| b.rows).sum::<usize>(), blocks.len());
        // Of some a mask kept all rows from the worker.
        let sent = blocks.iter().filter(|block| block.rows > 0);
        let sent = sent.map(|block| for_worker(block, &self.setup.call));
        let sent = self.setup.named(sent.collect::<Result<Vec<_>>>()?);
        metrics.calls.add(sent.len());
        metrics.rows_to_workers.add(rows);
        let asked = blocks.iter().filter(|block| block.rows > 0);
        let pieces = asked.flat_map(|block| &block.pieces);
        let kept = pieces.map(|piece| piece.passed.rows());
        let kept = self.setup.pool.failures().kept(kept);
        // A scalar call has at most as many answers as rows, as many words of
        // failed rows, and the end.
        let mut scattered = None;
        let (capacity, waiting) = match &self.setup.shape {
            ExecShape::Column { .. } | ExecShape::Filter { .. } => {
                let pieces = blocks.into_iter().flat_map(|block| block.pieces);
                let mut passed = pieces.map(|piece| piece.passed).collect();
                if self.setup.call.scatters() {
                    (scattered, passed) = Scattered::of(passed).map(|(s, o)| (Some(s), o))?;
                }
                (2 * rows + 1, passed.into())
            }
            ExecShape::Table { .. } => (TABLE_ANSWERS * count, VecDeque::new()),
        };
        let (sender, answers) = mpsc::channel(capacity);
        let (pool, fail) = (Arc::clone(&self.setup.pool), self.fail.clone());
        let lane = self.setup.lane;
        let made = room.made(TABLE_ANSWERS * count, &self.setup.shape);
        let mut call = Box::pin(async move {
            let end = match sent.is_empty() {
                false => run_call(&pool, lane, sent, (kept, made), &sender).await,
                true => Ok(()),
            };
            let end = end.map_err(|error| error.of_call(pool.call()));
            // The pool must not outlive the stream, which may end on this.
            drop(pool);
            // A receiver that is gone wants no answer, and one failure is enough.
            match end {
                Ok(()) => drop(sender.send(Reply::End).await),
                Err(error) => drop(fail.try_send(error)),
            }
        });
        // Polled once here, it stands in line for a worker before the next call;
        // spawned tasks start in any order. Tokio's budget must not stop it short
        // of the line.
        let over = pin!(unconstrained(call.as_mut())).poll(cx).is_ready();
        let task = (!over).then(|| SpawnedTask::spawn(call));
        self.in_flight.push_back(InFlight {
            answers,
            kept: VecDeque::new(),
            waiting,
            sent: rows as i64,
            owed: rows as i64,
            scattered,
            rest: None,
            dropped: VecDeque::new(),
            come: 0,
            _task: task,
            permit,
            _room: room,
        });
        Ok(())
    }
}

/// Sends blocks to a worker and passes its answers on, but for the end; `kept`
/// are their rows, if those that fail are listed; `made` counts what comes.
async fn run_call(
    pool: &SharedPool,
    lane: Option<usize>,
    sent: Vec<RecordBatch>,
    (kept, mut made): (Vec<RecordBatch>, Option<Made>),
    answers: &mpsc::Sender<Reply>,
) -> Result<(), UdfError> {
    let count = sent.iter().map(RecordBatch::num_rows).sum();
    let mut failed = vec![];
    let mut stream = match lane {
        Some(lane) => pool.pool()?.call_lane(lane, sent).await?,
        None => pool.pool()?.call_each(sent).await?,
    };
    while let Some(answer) = stream.next().await {
        let reply = match answer? {
            Answer::Rows(rows) if rows.num_rows() == 0 => continue,
            Answer::Rows(rows) => {
                if let Some(made) = &mut made {
                    made.add(&rows);
                }
                Reply::Rows(rows)
            }
            Answer::Failed(rows) => {
                let dropped = rows.iter().map(|failed| failed.row).collect();
                failed.extend(rows);
                Reply::Dropped(dropped)
            }
            // It is kept by who is on the way to the actor.
            Answer::Snapshot(_) => continue,
        };
        if answers.send(reply).await.is_err() {
            break;
        }
    }
    made.into_iter().for_each(Made::tell);
    pool.note_rows(count);
    pool.failures().note(count, &kept, failed).await
}

/// The columns of a block as the worker declares them: one batch, cast to the
/// call's types, which are plain.
fn for_worker(block: &Block, call: &UdfCall) -> Result<RecordBatch> {
    let sent = block.pieces.iter().map(|piece| &piece.sent);
    let rows = match block.pieces.front() {
        Some(only) if block.pieces.len() == 1 => only.sent.clone(),
        Some(first) => concat_batches(first.sent.schema_ref(), sent)?,
        None => RecordBatch::new_empty(Arc::clone(&call.input)),
    };
    // Like SQL's CAST: a value that does not fit is an error, not NULL.
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let columns = rows.columns().iter().zip(call.input.fields());
    let columns = columns
        .map(
            |(column, field)| match column.data_type() == field.data_type() {
                true => Ok(Arc::clone(column)),
                false => cast_with_options(column, field.data_type(), &strict),
            },
        )
        .collect::<Result<Vec<ArrayRef>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(block.rows));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(&call.input),
        columns,
        &options,
    )?)
}

fn external(error: UdfError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl Setup {
    /// `first`, and small blocks that are there and may go with it, and how large they are.
    fn with_more(&mut self, first: Block) -> (Vec<Block>, BlockSize) {
        let most = match self.shape {
            // Each block keeps its promise by itself.
            ExecShape::Table { keeps_rows: true } => 1,
            _ => self.pool.train(),
        };
        let mut blocks = vec![first];
        while blocks.len() < most
            && let Some(next) = self.queue.pop_small()
        {
            blocks.push(next);
        }
        let size = self.pool.size_of(&blocks, &self.shape);
        (blocks, size)
    }

    /// The right to one more call in flight, if there is one.
    fn extra_permit(&self) -> Option<OwnedSemaphorePermit> {
        match &self.own_extra {
            Some(own) => Arc::clone(own).try_acquire_owned().ok(),
            None => self.pool.extra_permit(),
        }
    }

    /// The next blocks with their names.
    fn named(&mut self, blocks: Vec<RecordBatch>) -> Vec<RecordBatch> {
        let Some(next) = &mut self.next_id else {
            return blocks;
        };
        let name = |block| {
            let id = *next;
            *next = id.plus(1);
            id.name(block)
        };
        blocks.into_iter().map(name).collect()
    }

    /// Takes rows of the input.
    fn push(&mut self, rows: RecordBatch) -> Result<()> {
        let piece = self.shape.split(rows)?;
        let Some(groups) = &mut self.groups else {
            match self.takes_blocks {
                true => self.queue.push_block(piece),
                false => self.queue.push(piece),
            }
            return Ok(());
        };
        let starts = groups.marker.starts(&piece.sent)?;
        let sent = with_starts(&piece.sent, &starts)?;
        self.queue.push_groups(Piece { sent, ..piece }, &starts);
        let (bytes, limit) = (self.queue.open_bytes(), groups.max_bytes);
        match bytes > limit {
            true => Err(external(UdfError::GroupTooLarge {
                function: self.call.spec.name.clone(),
                bytes,
                limit,
            })),
            false => Ok(()),
        }
    }
}

impl ExecShape {
    /// Parts rows into what passes by and what goes to the worker.
    fn split(&self, rows: RecordBatch) -> Result<Piece> {
        let sent = match self {
            Self::Column { args, .. } | Self::Filter { args } => rows.project(args)?,
            Self::Table { .. } => rows.clone(),
        };
        match self.mask() {
            Some(mask) => {
                let mask = Arc::clone(rows.column(mask));
                Piece::masked(rows, &sent, mask.as_boolean())
            }
            None => Ok(Piece::whole(rows, sent)),
        }
    }
}
