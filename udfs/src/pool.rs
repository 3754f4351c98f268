//! What an operator sees of the workers of one call.
//!
//! The trait is the boundary between plans and processes: plan tests implement
//! it with closures, `process_pool` with worker processes.

use std::fmt::Debug;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};

use crate::error::UdfError;
use crate::failed_rows::FailedRow;

/// What a call gives for one block it got. Dropping it cancels the call; a named actor
/// finishes what it has begun.
pub type AnswerStream = BoxStream<'static, Result<Answer, UdfError>>;

/// A part of what a call gives.
#[derive(Debug)]
pub enum Answer {
    Rows(RecordBatch),
    /// Rows of the block that failed, in no order; none twice. A scalar function
    /// tells them before their NULLs.
    Failed(Vec<FailedRow>),
    /// The state of a keyed actor after the block, told last; only where another process
    /// asks for it.
    Snapshot(Buffer),
}

impl Answer {
    /// The same, with `rows` counted before its block.
    pub(crate) fn after(mut self, rows: usize) -> Self {
        if let Self::Failed(failed) = &mut self {
            failed.iter_mut().for_each(|failed| failed.row += rows);
        }
        self
    }
}

/// The workers of one call in one task. Dropping it ends those it owns.
#[async_trait]
pub trait UdfPool: Send + Sync + Debug {
    /// Waits, in order of arrival, for a free worker, sends it `block` and
    /// streams what it gives. The outputs of a scalar function sum to exactly
    /// the block's rows, in their order; a table function gives any number. Where a call
    /// [`scatters`](crate::UdfCall::scatters), values come in any order, with
    /// [`ROW_PLACES`](crate::ROW_PLACES) beside them; and calls of an async function do not
    /// wait here: whoever makes them bounds how many there are.
    ///
    /// At most two outputs wait unread; then the worker waits. Dropping the
    /// stream, or this future, kills the worker if it is at work. A named actor is
    /// others' as well: its outputs wait for the block's end, and it goes on.
    ///
    /// # Errors
    /// When no worker can be had in time or it cannot be set up. What fails
    /// later, the stream says.
    async fn call(&self, block: RecordBatch) -> Result<AnswerStream, UdfError>;

    /// As [`Self::call`] of each of `blocks`, one after the other on one worker: the
    /// answers to the first come first, and failed rows are counted from the first
    /// row of all. For small blocks where calls are short, no more than
    /// [`Self::train`] of them: then they travel together.
    ///
    /// # Errors
    /// As of [`Self::call`].
    async fn call_each(&self, blocks: Vec<RecordBatch>) -> Result<AnswerStream, UdfError> {
        one_by_one(self, blocks).await
    }

    /// As [`Self::call_each`], on the actor of `lane`; where actors have no lanes, on any.
    ///
    /// # Errors
    /// As of [`Self::call`].
    async fn call_lane(
        &self,
        _lane: usize,
        blocks: Vec<RecordBatch>,
    ) -> Result<AnswerStream, UdfError> {
        self.call_each(blocks).await
    }

    /// How many small blocks [`Self::call_each`] should be given at a time now; at least
    /// 1, and more only where blocks take less time than their way.
    fn train(&self) -> usize {
        1
    }

    /// About how long a block that is given now would wait for blocks of others, as far as
    /// this process knows.
    fn wait_expected(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether a worker has ever been ready for a block: before that none was begun.
    fn was_ready(&self) -> bool {
        true
    }

    /// Whether it has a keyed actor that can tell its state; known once it has answered.
    fn keeps_state(&self) -> bool {
        false
    }

    /// Most workers at work at a time; at least 1.
    fn concurrency(&self) -> usize;

    /// Totals since the pool was opened.
    fn stats(&self) -> PoolStats;
}

/// What a pool has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Finished calls, failed ones included.
    pub calls: u64,
    pub rows_in: u64,
    pub rows_out: u64,
    /// Bytes of Arrow IPC, as sent and received.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Of both, those that crossed in shared memory.
    pub bytes_shared: u64,
    /// Pieces of shared memory that were made; each serves many blocks.
    pub slots_created: u64,
    /// Inside user code, conversion of batches included; summed over workers.
    pub user_time: Duration,
    /// From sending to the last answer, less `user_time` and less waiting for
    /// the reader; summed over workers.
    pub transport_time: Duration,
    /// Processes started for this pool; re-used ones do not count.
    pub workers_started: u64,
    /// Most workers at work at a time.
    pub workers_at_once: u64,
    /// Blocks that were sent while their worker was at work on another.
    pub blocks_ahead: u64,
    /// Calls of user code that were made again, and blocks that were sent again.
    pub retries: u64,
    /// States that keyed actors have told.
    pub snapshots: u64,
    /// Blocks that an actor saw again, answered before, when it took over from another.
    pub replayed: u64,
}

impl PoolStats {
    /// What two pools have done together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            rows_in: self.rows_in + other.rows_in,
            rows_out: self.rows_out + other.rows_out,
            bytes_in: self.bytes_in + other.bytes_in,
            bytes_out: self.bytes_out + other.bytes_out,
            bytes_shared: self.bytes_shared + other.bytes_shared,
            slots_created: self.slots_created + other.slots_created,
            user_time: self.user_time + other.user_time,
            transport_time: self.transport_time + other.transport_time,
            workers_started: self.workers_started + other.workers_started,
            workers_at_once: self.workers_at_once + other.workers_at_once,
            blocks_ahead: self.blocks_ahead + other.blocks_ahead,
            retries: self.retries + other.retries,
            snapshots: self.snapshots + other.snapshots,
            replayed: self.replayed + other.replayed,
        }
    }
}

/// As [`UdfPool::call_each`], of a pool to which each block goes by itself.
///
/// # Errors
/// As of [`UdfPool::call`].
pub async fn one_by_one<P: UdfPool + ?Sized>(
    pool: &P,
    blocks: Vec<RecordBatch>,
) -> Result<AnswerStream, UdfError> {
    let blocks = match <[RecordBatch; 1]>::try_from(blocks) {
        Ok([one]) => return pool.call(one).await,
        Err(blocks) => blocks,
    };
    let (mut answers, mut before) = (vec![], 0);
    for block in blocks {
        let rows = block.num_rows();
        let mut of_block = pool.call(block).await?;
        while let Some(answer) = of_block.next().await {
            answers.push(Ok(answer?.after(before)));
        }
        before += rows;
    }
    Ok(stream::iter(answers).boxed())
}
