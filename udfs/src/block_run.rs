//! One call, from the block to the last answer, through one worker or several.
//!
//! A `def` that loses its worker is tried once more with another, unless its reader
//! has had some of what it made: who wrote it must expect that it runs twice. A
//! block that ends two workers, or runs out of time, fails as if user code had
//! raised: the query ends, or, where failed rows are let through, the block is
//! halved down to the rows that do it, if the function is called row by row or says
//! the same when asked again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use tokio::sync::OwnedSemaphorePermit;

use crate::call::CallMode;
use crate::error::{UdfError, UdfErrorClass, UserFailure};
use crate::exchange::{Exchange, Interruption, Part, Parts};
use crate::failed_rows::{FailedRow, OnError, RowFailure};
use crate::manager::leaves_worker_usable;
use crate::pool::Answer;
use crate::process_pool::{Lease, Shared};

/// A part of the block that is still to be sent.
struct Todo {
    block: RecordBatch,
    /// Rows of the call's block before it.
    offset: usize,
    /// Whether it has ended a worker.
    is_suspect: bool,
}

/// Runs `block`, tells `parts` what came of it, and gives the worker back.
pub(crate) async fn run(
    lease: Lease,
    permit: OwnedSemaphorePermit,
    block: RecordBatch,
    parts: Parts,
) {
    let shared = lease.shared();
    let mut run = BlockRun {
        shared: &shared,
        parts: &parts,
        lease: Some(lease),
        held: vec![],
        failed: 0,
    };
    let outcome = run.all(block).await;
    shared.counters.calls.fetch_add(1, Ordering::Relaxed);
    let BlockRun { lease, held, .. } = run;
    let reusable = match &outcome {
        Ok(()) => true,
        Err(Interruption::Failed(error)) => leaves_worker_usable(error),
        Err(Interruption::Abandoned) => false,
    };
    // The worker is free before the reader sees the end, so that a reader's next
    // call finds it.
    match (reusable, lease) {
        (true, Some(lease)) => lease.end(),
        (_, lease) => drop(lease),
    }
    drop(permit);
    match outcome {
        Ok(()) => {
            for answer in held {
                // Nobody reads any more: nothing is lost.
                let _ = parts.send(Ok(Part::Answer(answer))).await;
            }
            let _ = parts.send(Ok(Part::End)).await;
        }
        Err(Interruption::Failed(error)) => {
            let _ = parts.send(Err(error)).await;
        }
        Err(Interruption::Abandoned) => {}
    }
}

struct BlockRun<'a> {
    shared: &'a Arc<Shared>,
    parts: &'a Parts,
    /// `None` between a worker that was lost and the next.
    lease: Option<Lease>,
    held: Vec<Answer>,
    /// Rows that ended workers.
    failed: u64,
}

impl BlockRun<'_> {
    async fn all(&mut self, block: RecordBatch) -> Result<(), Interruption> {
        let mut todo = vec![Todo {
            block,
            offset: 0,
            is_suspect: false,
        }];
        while let Some(next) = todo.pop() {
            let (block, offset) = (next.block.clone(), next.offset);
            let held = self.held.len();
            let (error, passed_on) = match self.once(block, offset).await {
                (Ok(()), _) => continue,
                (Err(Interruption::Failed(error)), passed_on) => (error, passed_on),
                (Err(abandoned), _) => return Err(abandoned),
            };
            if passed_on || self.shared.is_actor() || !ends_worker(&error) {
                return Err(error.into());
            }
            self.lease = None;
            self.held.truncate(held);
            todo.extend(self.after(next, error)?);
        }
        Ok(())
    }

    /// Sends one block; whether the reader has had any of what came.
    async fn once(
        &mut self,
        block: RecordBatch,
        offset: usize,
    ) -> (Result<(), Interruption>, bool) {
        let lease = match self.lease.take() {
            Some(lease) => lease,
            None => match Shared::lease(self.shared).await {
                Ok(lease) => lease,
                Err(error) => return (Err(error.into()), false),
            },
        };
        let shared = self.shared;
        let lease = self.lease.insert(lease);
        let mut exchange = Exchange {
            worker: &mut lease.worker,
            order: &shared.order,
            parts: self.parts,
            counters: &shared.counters,
            deadline: shared.manager.call_deadline(shared.order.call.timeout),
            passed_on: false,
            held: &mut self.held,
        };
        let outcome = exchange.run(block, offset).await;
        let passed_on = exchange.passed_on;
        shared.counters.add_slots(lease.worker.channel.take_tally());
        (outcome, passed_on)
    }

    /// What to try after a block has ended its worker; the last part first.
    fn after(&mut self, lost: Todo, error: UdfError) -> Result<Vec<Todo>, UdfError> {
        let call = &self.shared.order.call;
        // Who runs out of time will do so again.
        if !lost.is_suspect && error.class() == UdfErrorClass::Lost {
            tracing::warn!(%error, "a block is sent once more");
            let is_suspect = true;
            return Ok(vec![Todo { is_suspect, ..lost }]);
        }
        if call.errors.on_error == OnError::Raise {
            return Err(error);
        }
        let Todo { block, offset, .. } = lost;
        let rows = block.num_rows();
        let by_row = !matches!(call.mode, CallMode::Batches | CallMode::Groups);
        let may_cut = by_row || call.may_ask_again();
        if let Some(half) = call.cut(&block).filter(|_| may_cut) {
            let part = |start: usize, rows: usize| Todo {
                block: block.slice(start, rows),
                offset: offset + start,
                is_suspect: true,
            };
            return Ok(vec![part(half, rows - half), part(0, half)]);
        }
        self.failed += rows as u64;
        if call.max_errors.is_some_and(|most| self.failed > most) {
            return Err(UdfError::TooManyErrors(Box::new(UserFailure {
                function: call.spec.name.clone(),
                message: error.to_string(),
                traceback: error.traceback().map(str::to_owned),
            })));
        }
        self.held.extend(self.without(rows, offset, &error));
        Ok(vec![])
    }

    /// The answers for rows that end workers.
    fn without(&self, rows: usize, offset: usize, error: &UdfError) -> Vec<Answer> {
        let call = &self.shared.order.call;
        let listed = call.errors.on_error == OnError::DeadLetter;
        let reason = listed.then(|| RowFailure {
            error_type: match error.class() {
                UdfErrorClass::Timeout => "Timeout".to_owned(),
                _ => "WorkerLost".to_owned(),
            },
            message: error.to_string(),
            traceback: error.traceback().unwrap_or_default().to_owned(),
        });
        let failed = (offset..offset + rows).map(|row| FailedRow {
            row,
            reason: reason.clone(),
        });
        let mut answers = vec![Answer::Failed(failed.collect())];
        if !call.spec.is_table() {
            let nulls = call.output.fields().iter();
            let nulls = nulls.map(|field| new_null_array(field.data_type(), rows));
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            let block = RecordBatch::try_new_with_options(
                Arc::clone(&call.output),
                nulls.collect(),
                &options,
            );
            // The output is nullable everywhere, so this cannot fail.
            answers.extend(block.map(Answer::Rows));
        }
        answers
    }
}

/// Whether the worker is gone with the block it had.
fn ends_worker(error: &UdfError) -> bool {
    matches!(
        error,
        UdfError::WorkerLost { .. } | UdfError::TimedOut { .. }
    )
}
