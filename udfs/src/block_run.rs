//! One call, from the block to the last answer, through one worker or several.
//!
//! A block that loses its worker is sent once more to another, unless its reader has
//! had some of what came of it: who wrote the function must expect that it runs twice.
//! An actor is built anew for that, and what it kept is gone. A
//! block that ends two workers, or runs out of time, fails as if user code had
//! raised: the query ends, or, where failed rows are let through, the block is
//! halved down to the rows that do it, if the function is called row by row or says
//! the same when asked again. A worker that cannot be made ready is no block's fault.
//!
//! A named actor outlives its readers: what it is at work on when a reader goes, it
//! finishes, and the answers are thrown away.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use tokio::sync::oneshot;

use crate::call::CallMode;
use crate::crew::{Lease, Vacancy};
use crate::error::{ErrorBound, UdfError, UdfErrorClass, UserFailure};
use crate::exchange::{Ahead, Exchange, Interruption, Part, Parts, answer_bytes};
use crate::failed_rows::{FailedRow, OnError, RowFailure};
use crate::hosted::Hosted;
use crate::line::Ticket;
use crate::manager::leaves_worker_usable;
use crate::pool::Answer;
use crate::process_pool::CallOn;
use crate::spawn::spawn_detached;

/// A part of the block that is still to be sent.
struct Todo {
    block: RecordBatch,
    /// Rows of the call's block before it.
    offset: usize,
    /// Whether it has ended a worker.
    is_suspect: bool,
}

/// What a call has of a worker.
pub(crate) enum Place {
    /// What one has left that was lost.
    Vacancy(Vacancy),
    Worker(Lease),
    /// One that is at work on another block, with ours on its way to it.
    Behind {
        worker: oneshot::Receiver<Lease>,
        ahead: Ahead,
    },
}

impl Place {
    /// Waits until `block` may be sent.
    pub(crate) async fn wait(
        call: &Arc<CallOn>,
        block: &RecordBatch,
        again: bool,
    ) -> Result<Self, UdfError> {
        let mean = || call.counters.mean();
        let grow = || CallOn::grow(call);
        let opening = match call.crew.line.wait_or_grow(again, mean, grow).await {
            Ticket::Permit(permit) => {
                let vacancy = Vacancy { permit, kept: None };
                return call.lease(vacancy).await.map(Self::Worker);
            }
            Ticket::Ahead(opening) => opening,
        };
        let (block, call) = (block.clone(), Arc::clone(call));
        // Whole, even if the call is dropped: the worker listens to others, too.
        let ahead = spawn_detached("udf-ahead", async move {
            let mut sender = opening.sender.lock().await;
            sender.send_ahead(&block, &call.order).await
        });
        let worker = opening.worker;
        Ok(Self::Behind { worker, ahead })
    }

    /// Waits for a worker, and for what was sent to it.
    async fn lease(
        mut self,
        call: &Arc<CallOn>,
        block: &RecordBatch,
    ) -> Result<(Lease, Option<Ahead>), UdfError> {
        loop {
            self = match self {
                Self::Vacancy(vacancy) => Self::Worker(call.lease(vacancy).await?),
                Self::Worker(lease) => return Ok((lease, None)),
                Self::Behind { worker, ahead } => match worker.await {
                    Ok(lease) => return Ok((lease, Some(ahead))),
                    // Lost with the block before ours.
                    Err(_) => Self::wait(call, block, true).await?,
                },
            };
        }
    }
}

/// Runs `block`, tells `parts` what came of it, and gives the worker back.
pub(crate) async fn run(call: Arc<CallOn>, place: Place, block: RecordBatch, parts: Parts) {
    let mut run = BlockRun {
        call: &call,
        parts: &parts,
        place: Some(place),
        held: vec![],
        failed: 0,
    };
    let outcome = run.all(block).await;
    call.counters.calls.fetch_add(1, Ordering::Relaxed);
    let BlockRun { place, held, .. } = run;
    let reusable = match &outcome {
        Ok(()) => true,
        Err(Interruption::Failed(error)) => leaves_worker_usable(error),
        Err(Interruption::Abandoned) => false,
    };
    // The worker is free before the reader sees the end, so that a reader's next
    // call finds it.
    match (reusable, place) {
        (true, Some(Place::Worker(lease))) => lease.end(),
        (_, place) => drop(place),
    }
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
    call: &'a Arc<CallOn>,
    parts: &'a Parts,
    /// `None` only where it could not be had.
    place: Option<Place>,
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
            // Others wait for a named actor. What nobody reads is not begun there.
            if self.call.crew.hosted.is_some() && self.parts.is_closed() {
                return Err(Interruption::Abandoned);
            }
            let held = self.held.len();
            let (lease, ahead) = self.lease(&next.block).await?;
            let (error, passed_on) = match self.once(&next, lease, ahead).await {
                (Ok(()), _) => continue,
                (Err(Interruption::Failed(error)), passed_on) => (error, passed_on),
                (Err(abandoned), _) => return Err(abandoned),
            };
            if passed_on || !ends_worker(&error) {
                return Err(error.into());
            }
            if let Some(Place::Worker(lease)) = self.place.take() {
                self.place = Some(Place::Vacancy(lease.into_vacancy()));
            }
            self.held.truncate(held);
            todo.extend(self.after(next, error)?);
        }
        Ok(())
    }

    /// Waits for a worker, and for what was sent ahead to it.
    async fn lease(&mut self, block: &RecordBatch) -> Result<(Lease, Option<Ahead>), UdfError> {
        let place = match self.place.take() {
            Some(place) => place,
            None => Place::wait(self.call, block, true).await?,
        };
        place.lease(self.call, block).await
    }

    /// Sends one block; whether the reader has had any of what came.
    async fn once(
        &mut self,
        next: &Todo,
        mut lease: Lease,
        ahead: Option<Ahead>,
    ) -> (Result<(), Interruption>, bool) {
        let call = self.call;
        let mut exchange = Exchange {
            lease: &mut lease,
            order: &call.order,
            parts: self.parts,
            counters: &call.counters,
            deadline: call.crew.manager.call_deadline(&call.order.call),
            passed_on: false,
            held_bytes: self.held.iter().map(answer_bytes).sum(),
            held: &mut self.held,
            // Others must not be lost with a block that has ended a worker.
            may_follow: !next.is_suspect,
            unread: false,
        };
        let busy = call.crew.hosted.as_ref().map(Hosted::begin_block);
        let outcome = exchange.run(next.block.clone(), next.offset, ahead).await;
        let outcome = outcome.map_err(|stop| stop.at_line(&call.order.call));
        let (passed_on, unread) = (exchange.passed_on, exchange.unread);
        drop(busy);
        if let (Some(hosted), Err(Interruption::Failed(error))) = (&call.crew.hosted, &outcome) {
            hosted.note(error);
        }
        call.counters.add_slots(lease.worker.channel.take_tally());
        self.place = Some(match unread {
            true => Place::Vacancy(lease.into_vacancy()),
            false => Place::Worker(lease),
        });
        (outcome, passed_on)
    }

    /// What to try after a block has ended its worker; the last part first.
    fn after(&mut self, lost: Todo, error: UdfError) -> Result<Vec<Todo>, UdfError> {
        let call = &self.call.order.call;
        // Who runs out of time will do so again.
        if !lost.is_suspect && error.class() == UdfErrorClass::Lost {
            tracing::warn!(%error, "a block is sent once more");
            let retries = &self.call.counters.retries;
            retries.fetch_add(1, Ordering::Relaxed);
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
            return Err(UdfError::TooManyErrors {
                bound: ErrorBound::Unknown,
                last: Box::new(UserFailure {
                    function: call.spec.name.clone(),
                    message: error.to_string(),
                    traceback: error.traceback().map(str::to_owned),
                }),
            });
        }
        self.held.extend(self.without(rows, offset, &error));
        Ok(vec![])
    }

    /// The answers for rows that end workers.
    fn without(&self, rows: usize, offset: usize, error: &UdfError) -> Vec<Answer> {
        let call = &self.call.order.call;
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
