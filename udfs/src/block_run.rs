//! One call, from the block to the last answer, through one worker or several.
//!
//! A block that loses its worker is sent once more to another, unless its reader has
//! had some of what came of it: who wrote the function must expect that it runs twice.
//! An actor is built anew, and what it kept is gone; the block goes to the first that is
//! free, if there are others. A
//! block that ends two workers, or runs out of time, fails as if user code had
//! raised: the query ends, or, where failed rows are let through, the block is
//! halved down to the rows that do it, if the function is called row by row or says
//! the same when asked again. A worker that cannot be made ready is no block's fault.
//!
//! What a keyed actor kept is not gone: the next one is given it with the worker (`keyed`).
//!
//! A named actor outlives its readers: what it is at work on when a reader goes, it
//! finishes, and the answers are thrown away.
//!
//! A call may have several blocks, a train: they are parts of one as those are that a
//! block is halved to, on their way together instead of one after another (`train`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use tokio::sync::oneshot;

use crate::block_id::part_of;
use crate::call::{CallMode, UdfCall};
use crate::crew::{Lease, Vacancy};
use crate::error::{Down, ErrorBound, UdfError, UdfErrorClass, UserFailure};
use crate::exchange::{Ahead, Exchange, Interruption, Part, Parts, answer_bytes};
use crate::failed_rows::{FailedRow, OnError, RowFailure};
use crate::hosted::Hosted;
use crate::keyed::Answered;
use crate::line::Ticket;
use crate::manager::leaves_worker_usable;
use crate::pool::Answer;
use crate::process_pool::CallOn;
use crate::sender::SentBlock;
use crate::spawn::spawn_detached;
use crate::train::drain;

/// How long a worker may take to be through with what nobody wants any more.
const DRAIN_LIMIT: Duration = Duration::from_millis(100);

/// A part of the block that is still to be sent.
struct Todo {
    block: RecordBatch,
    /// Rows of the call's block before it.
    offset: usize,
    /// Whether it has ended a worker.
    is_suspect: bool,
}

impl Todo {
    /// What is left of it after its first `rows`.
    fn after(self, rows: usize) -> Self {
        Self {
            block: self.block.slice(rows, self.block.num_rows() - rows),
            offset: self.offset + rows,
            ..self
        }
    }
}

/// What a call has of a worker.
pub(crate) enum Place {
    /// What one has left that was lost.
    Vacancy(Vacancy),
    Worker(Lease),
    /// One that is at work on another block, with ours on their way to it.
    Behind {
        worker: oneshot::Receiver<Lease>,
        ahead: Ahead,
    },
}

impl Place {
    /// Waits until `blocks` may be sent.
    pub(crate) async fn wait(
        call: &Arc<CallOn>,
        blocks: &[RecordBatch],
        again: bool,
    ) -> Result<Self, UdfError> {
        let mean = || call.counters.mean.get();
        let grow = || CallOn::grow(call);
        let line = &call.crew.line;
        let opening = match line.wait_or_grow(&call.turn, again, mean, grow).await {
            Ticket::Permit(permit) => {
                let vacancy = Vacancy { permit, kept: None };
                return call.lease(vacancy).await.map(Self::Worker);
            }
            Ticket::Ahead(opening) => opening,
        };
        let (blocks, call) = (blocks.to_vec(), Arc::clone(call));
        // Whole, even if the call is dropped: the worker listens to others, too.
        let ahead = spawn_detached("udf-ahead", async move {
            let mut sender = opening.sender.lock().await;
            sender.send_ahead(&blocks, &call.order).await
        });
        let worker = opening.worker;
        Ok(Self::Behind { worker, ahead })
    }

    /// Waits for a worker, and for what was sent to it.
    async fn lease(
        mut self,
        call: &Arc<CallOn>,
        blocks: &[RecordBatch],
    ) -> Result<(Lease, Option<Ahead>), UdfError> {
        loop {
            self = match self {
                Self::Vacancy(vacancy) => Self::Worker(call.lease(vacancy).await?),
                Self::Worker(lease) => return Ok((lease, None)),
                Self::Behind { worker, ahead } => match worker.await {
                    Ok(lease) => return Ok((lease, Some(ahead))),
                    // Lost with the block before ours.
                    Err(_) => Self::wait(call, blocks, true).await?,
                },
            };
        }
    }
}

/// Runs `blocks`, tells `parts` what came of them, and gives the worker back.
pub(crate) async fn run(call: Arc<CallOn>, place: Place, blocks: Vec<RecordBatch>, parts: Parts) {
    let count = blocks.len() as u64;
    let mut run = BlockRun {
        call: &call,
        parts: &parts,
        place: Some(place),
        sent: VecDeque::new(),
        held: vec![],
        wall: Duration::ZERO,
        behind: 0,
        is_past: false,
        failed: 0,
        passed_on: false,
        answered: Answered::default(),
    };
    let mut outcome = run.all(blocks).await;
    call.counters.calls.fetch_add(count, Ordering::Relaxed);
    call.crew.count(count);
    let mut reusable = match &outcome {
        Ok(()) => true,
        Err(Interruption::Failed(error)) => leaves_worker_usable(error),
        Err(Interruption::Abandoned) => false,
    };
    if reusable && !run.sent.is_empty() {
        outcome = run.tell_early(outcome).await;
        reusable = run.drain().await;
    }
    let BlockRun {
        place, mut held, ..
    } = run;
    if outcome.is_ok() {
        let news = call.keeper.as_ref().and_then(|keeper| keeper.take_news());
        held.extend(news.map(Answer::Snapshot));
    }
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
    /// The next blocks, as far as the worker has them and has not answered them.
    sent: VecDeque<SentBlock>,
    held: Vec<Answer>,
    /// See [`Exchange::wall`].
    wall: Duration,
    /// How many blocks behind the one without an answer the worker was when it was lost.
    behind: usize,
    /// Whether it was lost on the block of who follows: it was through with ours.
    is_past: bool,
    /// Rows that ended workers.
    failed: u64,
    /// Whether the reader has had any of what came of the call.
    passed_on: bool,
    /// Of the block at work, what a keyed actor has answered already.
    answered: Answered,
}

impl BlockRun<'_> {
    async fn all(&mut self, blocks: Vec<RecordBatch>) -> Result<(), Interruption> {
        let mut todo = in_order(blocks);
        while let Some(next) = todo.pop() {
            // Others wait for a named actor. What nobody reads is not begun there.
            let is_idle = self.sent.is_empty();
            if is_idle && self.call.crew.hosted.is_some() && self.parts.is_closed() {
                return Err(Interruption::Abandoned);
            }
            let held = self.held.len();
            let outcome = self.next(&next, &todo).await;
            let (error, passed_on) = match outcome.map_err(|error| self.not_built(error))? {
                (Ok(()), _) => continue,
                (Err(Interruption::Failed(error)), passed_on) => (error, passed_on),
                (Err(abandoned), _) => return Err(abandoned),
            };
            if passed_on || !ends_worker(&error) {
                return Err(error.into());
            }
            if std::mem::take(&mut self.is_past) {
                self.hand_over_lost(&error);
                self.held.truncate(held);
                todo.push(next);
                continue;
            }
            if next.offset == 0 && self.goes_to_others(&error) {
                let function = self.call.function();
                let down = Down::Begun(Box::new(error));
                return Err(UdfError::ActorDown { function, down }.into());
            }
            if let Some(Place::Worker(lease)) = self.place.take() {
                let vacancy = lease.into_vacancy();
                self.place = match self.call.keeper.is_none() && self.call.crew.has_others() {
                    true => {
                        CallOn::replace(self.call, vacancy);
                        None
                    }
                    false => Some(Place::Vacancy(vacancy)),
                };
            }
            // Those that it had and had not begun are sent again as well.
            self.sent.clear();
            // Its state has what it has answered: the next one is given that.
            let answered = self.answered;
            self.held.truncate(held.max(answered.held));
            let next = next.after(answered.rows);
            match std::mem::take(&mut self.behind) {
                0 => todo.extend(self.after(next, error)?),
                behind => {
                    self.suspect(&mut todo, behind, error)?;
                    todo.push(next);
                }
            }
        }
        Ok(())
    }

    /// Whether another actor of its pool takes a block that has ended this one, of which
    /// nobody has had anything. Where failed rows are let through, who has lost it finds those
    /// that do it.
    fn goes_to_others(&self, error: &UdfError) -> bool {
        let Some(hosted) = &self.call.crew.hosted else {
            return false;
        };
        if error.class() != UdfErrorClass::Lost || !hosted.is_one_of_many(&self.call.order.call) {
            return false;
        }
        if let Some(Place::Worker(lease)) = &self.place {
            // What stands in line for it need not wait until it is built anew.
            hosted.has_ended(lease.worker.process());
        }
        self.call.order.call.errors.on_error == OnError::Raise && self.held.is_empty()
    }

    /// Gives a worker that was lost on the block of who follows to that call, whose loss it is.
    fn hand_over_lost(&mut self, error: &UdfError) {
        tracing::warn!(%error, "a block is sent once more, as its answer was lost with the next one");
        self.call.counters.retries.fetch_add(1, Ordering::Relaxed);
        if let Some(Place::Worker(lease)) = self.place.take() {
            lease.end();
        }
    }

    /// What a call is told whose actor has ended and cannot be built: others of its pool take
    /// all of it, unless its reader has had some of what came of it.
    fn not_built(&self, error: UdfError) -> UdfError {
        let hosted = self.call.crew.hosted.as_ref();
        let hosted = hosted.filter(|hosted| hosted.is_one_of_many(&self.call.order.call));
        match hosted.and_then(Hosted::failure) {
            Some(reason) if !self.passed_on => {
                let (function, down) = (self.call.function(), Down::Failed(reason));
                UdfError::ActorDown { function, down }
            }
            _ => error,
        }
    }

    /// Has `next` answered, before those of `rest`, the last of which goes with it.
    async fn next(
        &mut self,
        next: &Todo,
        rest: &[Todo],
    ) -> Result<(Result<(), Interruption>, bool), UdfError> {
        let place = match self.place.take() {
            Some(Place::Worker(lease)) if !self.sent.is_empty() => {
                return Ok(self.once(next, rest, lease, &[], None).await);
            }
            place => place,
        };
        let train = train_of(next, rest);
        let place = match place {
            Some(place) => place,
            None => Place::wait(self.call, &train, true).await?,
        };
        let (lease, ahead) = place.lease(self.call, &train).await?;
        Ok(self.once(next, rest, lease, &train, ahead).await)
    }

    /// Sends one block, if the worker does not have it, as well as what goes with it;
    /// whether the reader has had any of what came.
    async fn once(
        &mut self,
        next: &Todo,
        rest: &[Todo],
        mut lease: Lease,
        train: &[RecordBatch],
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
            may_follow: false,
            unread: false,
            wall: &mut self.wall,
            has_more: false,
            keeper: call.keeper.as_deref(),
            answered: Answered::default(),
            seq: None,
        };
        let mean = call.counters.mean.get();
        let hosted = call.crew.hosted.as_ref();
        let busy = hosted.map(|hosted| hosted.begin_block(mean));
        let sending = exchange.send_together(train, ahead, &mut self.sent).await;
        let outcome = match sending {
            Ok(()) => {
                let sent = self.sent.pop_front();
                // Others must not be lost with a block that has ended a worker.
                exchange.may_follow = !next.is_suspect && self.sent.len() == rest.len();
                exchange.has_more = !self.sent.is_empty();
                exchange.run(next.block.clone(), next.offset, sent).await
            }
            Err(error) => Err(error.into()),
        };
        let outcome = outcome.map_err(|stop| stop.at_line(&call.order.call));
        let (passed_on, unread, seq) = (exchange.passed_on, exchange.unread, exchange.seq);
        self.answered = exchange.answered;
        self.passed_on |= passed_on;
        drop(busy);
        if let Err(Interruption::Failed(error)) = &outcome
            && ends_worker(error)
        {
            let at = lease.worker.at_work_on(&self.sent);
            self.behind = at.map_or(0, |at| at + 1);
            // One with an event loop begins the next block before it is through with the last.
            let is_last = self.sent.is_empty() && !call.order.call.is_async();
            self.is_past = is_last && seq.is_some_and(|seq| lease.worker.is_past(seq));
        }
        if let (Some(hosted), Err(Interruption::Failed(error))) = (&call.crew.hosted, &outcome) {
            hosted.note(error);
        }
        call.counters.add_slots(lease.worker.channel.take_tally());
        self.place = Some(match unread {
            true => {
                // What it was sent besides goes to another.
                self.sent.clear();
                Place::Vacancy(lease.into_vacancy())
            }
            false => Place::Worker(lease),
        });
        (outcome, passed_on)
    }

    /// Tells readers of a named actor what went wrong before the actor is through with
    /// what it was sent as well, which may take long.
    async fn tell_early(&self, outcome: Result<(), Interruption>) -> Result<(), Interruption> {
        match outcome {
            Err(Interruption::Failed(error)) if self.call.crew.hosted.is_some() => {
                let _ = self.parts.send(Err(error)).await;
                Err(Interruption::Abandoned)
            }
            outcome => outcome,
        }
    }

    /// Waits until the worker is through with what nobody wants any more; whether it is.
    async fn drain(&mut self) -> bool {
        let Some(Place::Worker(lease)) = &mut self.place else {
            return false;
        };
        let (crew, order, sent) = (&self.call.crew, &self.call.order, &mut self.sent);
        let all = async {
            while let Some(block) = sent.pop_front() {
                let hosted = crew.hosted.as_ref();
                let _busy = hosted.map(|hosted| hosted.begin_block(None));
                let deadline = crew.manager.call_deadline(&order.call);
                if !drain(lease, order, deadline, block).await {
                    return false;
                }
            }
            true
        };
        match crew.hosted {
            // Others wait for it, and it is not ended for what one of them did not want.
            Some(_) => all.await,
            None => tokio::time::timeout(DRAIN_LIMIT, all).await == Ok(true),
        }
    }

    /// After a worker was lost over a block `behind` the one to answer next: that block is
    /// sent alone then, and those before it once more.
    fn suspect(
        &mut self,
        todo: &mut [Todo],
        behind: usize,
        error: UdfError,
    ) -> Result<(), UdfError> {
        let call = &self.call.order.call;
        if error.class() != UdfErrorClass::Lost && call.errors.on_error == OnError::Raise {
            return Err(error);
        }
        tracing::warn!(%error, "a block is sent once more");
        self.call.counters.retries.fetch_add(1, Ordering::Relaxed);
        if let Some(blamed) = todo.iter_mut().rev().nth(behind - 1) {
            blamed.is_suspect = true;
        }
        Ok(())
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
                block: part_of(&block, start, rows),
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
        without(&self.call.order.call, offset..offset + rows, error)
    }
}

/// The blocks of a call, the last one first.
fn in_order(blocks: Vec<RecordBatch>) -> Vec<Todo> {
    let mut offset = 0;
    let todo = blocks.into_iter().map(|block| {
        let before = offset;
        offset += block.num_rows();
        Todo {
            block,
            offset: before,
            is_suspect: false,
        }
    });
    let mut todo: Vec<_> = todo.collect();
    todo.reverse();
    todo
}

/// `next` and those after it that may be on their way with it: none with a block that
/// has ended a worker.
fn train_of(next: &Todo, rest: &[Todo]) -> Vec<RecordBatch> {
    let first = std::iter::once(next);
    let together = first.chain(rest.iter().rev().take_while(|_| !next.is_suspect));
    let together = together.enumerate();
    let together = together.take_while(|(at, todo)| *at == 0 || !todo.is_suspect);
    together.map(|(_, todo)| todo.block.clone()).collect()
}

/// The answers of `call` for rows that end workers.
pub(crate) fn without(
    call: &UdfCall,
    rows: impl ExactSizeIterator<Item = usize>,
    error: &UdfError,
) -> Vec<Answer> {
    let listed = call.errors.on_error == OnError::DeadLetter;
    let reason = listed.then(|| RowFailure {
        error_type: match error.class() {
            UdfErrorClass::Timeout => "Timeout".to_owned(),
            _ => "WorkerLost".to_owned(),
        },
        message: error.to_string(),
        traceback: error.traceback().unwrap_or_default().to_owned(),
    });
    let count = rows.len();
    let failed = rows.map(|row| FailedRow {
        row,
        reason: reason.clone(),
    });
    let mut answers = vec![Answer::Failed(failed.collect())];
    if !call.spec.is_table() {
        let nulls = call.output.fields().iter();
        let nulls = nulls.map(|field| new_null_array(field.data_type(), count));
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let output = Arc::clone(&call.output);
        let block = RecordBatch::try_new_with_options(output, nulls.collect(), &options);
        // The output is nullable everywhere, so this cannot fail.
        answers.extend(block.map(Answer::Rows));
    }
    answers
}

/// Whether the worker is gone with the block it had.
pub(crate) fn ends_worker(error: &UdfError) -> bool {
    matches!(
        error,
        UdfError::WorkerLost { .. } | UdfError::TimedOut { .. }
    )
}
