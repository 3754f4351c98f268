//! What an operator sees of the workers of one call.
//!
//! The trait is the boundary between plans and processes: plan tests implement
//! it with closures, `process_pool` with worker processes.

use std::fmt::Debug;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::stream::BoxStream;

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
}
