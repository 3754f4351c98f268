//! A hand: has one worker of a pool, feeds it jobs and hears what it says.
//!
//! The two halves run at the same time: a worker that is given a large block may have
//! to be heard before it takes it. A hand ends by itself, when its pool is closed and
//! nobody waits for what it has.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use super::at_work::{AtWork, Wrong, with_places};
use super::block::Job;
use super::queue::Queue;
use crate::activity::WorkerState;
use crate::block_run::{ends_worker, without};
use crate::channel::ChannelError;
use crate::crew::{Lease, Vacancy};
use crate::error::UdfError;
use crate::failed_rows::OnError;
use crate::line::Ticket;
use crate::overlap::alive_every;
use crate::process::Process;
use crate::process_pool::CallOn;
use crate::protocol::Kind;
use crate::sender::Sender;
use crate::worker::Worker;

/// Of the items that may be in flight in a worker, how many times as many it has: those
/// that wait begin without the way between.
const AHEAD: usize = 2;

/// How long a worker may say nothing beyond the time of a call: a machine that is busy is not
/// a loop that stands still.
const GRACE: Duration = Duration::from_secs(1);

/// How a hand is through with a worker.
enum End {
    /// There is nothing more to do.
    Over,
    /// Others of the pool are enough, see [`Queue::leave`].
    Idle,
    /// Nobody waits for what it is at.
    Abandoned,
    Lost(UdfError),
}

/// One worker of a pool, from its first job to its last.
pub(super) struct Hand {
    pub(super) call: Arc<CallOn>,
    pub(super) queue: Arc<Queue>,
    /// Whether it still counts as one.
    pub(super) counts: bool,
}

impl Drop for Hand {
    fn drop(&mut self) {
        if self.counts {
            self.queue.gone();
        }
    }
}

impl Hand {
    pub(super) async fn run(mut self) {
        let mut kept = None;
        while self.queue.has_work().await {
            let vacancy = match kept.take() {
                Some(vacancy) => vacancy,
                None => self.vacancy().await,
            };
            let leased = tokio::select! {
                biased;
                leased = self.call.lease(vacancy) => leased,
                () = self.queue.over() => return,
            };
            let mut lease = match leased {
                Ok(lease) => lease,
                Err(error) => {
                    let Some(error) = self.queue.cannot_grow(error) else {
                        return;
                    };
                    // The others would hear the same: each has its own try.
                    if let Some(job) = self.queue.pop(|_| true) {
                        job.block.fail(error);
                    }
                    continue;
                }
            };
            self.queue.ready(true);
            let at_work = Mutex::new(AtWork::new());
            let end = self.serve(&mut lease.worker, &at_work).await;
            self.counts = !matches!(end, End::Idle);
            if self.counts {
                self.queue.ready(false);
            }
            let tally = lease.worker.channel.take_tally();
            self.call.counters.add_slots(tally);
            match end {
                End::Over => return lease.end(),
                End::Idle => return lease.dismiss(),
                // Dropped: ended at once.
                End::Abandoned => return,
                End::Lost(error) => {
                    kept = self.lost(lease, at_work.into_inner(), error);
                }
            }
        }
    }

    async fn vacancy(&self) -> Vacancy {
        loop {
            // Nobody offers a place behind another: all have permits.
            if let Ticket::Permit(permit) = self.call.crew.line.wait(&self.call.turn, false).await {
                return Vacancy { permit, kept: None };
            }
        }
    }

    /// Has a worker do jobs until there is no more to do, or it is lost.
    async fn serve(&self, worker: &mut Worker, at_work: &Mutex<AtWork>) -> End {
        let sender = Arc::clone(worker.channel.sender());
        let process = Arc::clone(worker.process());
        let is_claimed = worker.is_claimed();
        let hear = self.hear(worker, at_work);
        let feed = self.feed(&sender, at_work, &process, is_claimed);
        let (mut hear, mut feed) = (pin!(hear), pin!(feed));
        tokio::select! {
            biased;
            error = &mut hear => End::Lost(error),
            end = &mut feed => end,
        }
    }

    /// Hears what the worker says until it is lost; why it is.
    async fn hear(&self, worker: &mut Worker, at_work: &Mutex<AtWork>) -> UdfError {
        let call = &self.call.order.call;
        let function = self.call.order.function();
        let deadline = self.call.crew.manager.call_deadline(call);
        // A call may take so long; that the loop turns is told a moment later.
        let patience = call.timeout;
        let patience = patience.map(|limit| limit + GRACE.max(2 * alive_every(limit)));
        loop {
            let stuck_at = || {
                let patience = patience?;
                let since = at_work.lock().silent_since();
                // Asked again then: it may have something to do by that time.
                Some(since.unwrap_or_else(Instant::now) + patience)
            };
            let frame = match worker.next_frame(function, stuck_at, deadline).await {
                Ok(frame) => frame,
                Err(error) => return error.at_line(call),
            };
            let heard = at_work.lock().hear(&self.call, worker, &frame);
            match heard {
                Ok(()) => {}
                Err(Wrong::Udf(error)) => return error,
                Err(Wrong::Protocol(problem)) => return worker.broken(function, problem),
                Err(Wrong::Noise(problem)) => return worker.lost_by(function, &problem).await,
            }
            if at_work.lock().is_empty() {
                worker.process().enter(WorkerState::Idle, None);
            }
            if frame.kind != Kind::Alive {
                self.queue.changed.notify_waiters();
            }
        }
    }

    /// Gives the worker jobs until there are no more, or it has had nothing to do for long and
    /// has nothing that was claimed for the pool.
    async fn feed(
        &self,
        sender: &tokio::sync::Mutex<Sender>,
        at_work: &Mutex<AtWork>,
        process: &Process,
        is_claimed: bool,
    ) -> End {
        let mut idle_since = None;
        loop {
            let mut changed = pin!(self.queue.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let cancel = at_work.lock().abandoned();
            if let Some(seq) = cancel {
                let mut sender = sender.lock().await;
                let sent = sender.send(Kind::Cancel, seq, &json!({}), &[]).await;
                if sent.is_err() {
                    return never().await;
                }
                continue;
            }
            if let Some(job) = self.next(at_work) {
                idle_since = None;
                process.enter(WorkerState::Busy, Some(self.call.order.function()));
                match self.send(sender, at_work, job).await {
                    Ok(()) => continue,
                    Err(ChannelError::Malformed(problem)) => {
                        let (function, pid) = (self.call.function(), process.pid());
                        return End::Lost(UdfError::Protocol {
                            function,
                            pid,
                            problem,
                        });
                    }
                    Err(_) => return never().await,
                }
            }
            if self.queue.is_over() {
                let at_work = at_work.lock();
                match (at_work.is_empty(), at_work.is_abandoned()) {
                    (true, _) => return End::Over,
                    (false, true) => return End::Abandoned,
                    (false, false) => {}
                }
            }
            if is_claimed || !at_work.lock().is_empty() {
                changed.await;
                continue;
            }
            let since = *idle_since.get_or_insert_with(Instant::now);
            tokio::select! {
                biased;
                () = changed => {}
                () = self.call.crew.idle_since(since) => match self.queue.leave() {
                    true => return End::Idle,
                    false => idle_since = None,
                },
            }
        }
    }

    /// The next job, if the worker takes one more. What was with a worker that was lost
    /// is done alone.
    fn next(&self, at_work: &Mutex<AtWork>) -> Option<Job> {
        let at_work = at_work.lock();
        let call = &self.call.order.call;
        let load = at_work.load(call);
        let has_room = !at_work.has_suspect() && load < AHEAD * call.handling.overlap.in_flight();
        let is_free = at_work.is_empty();
        drop(at_work);
        match has_room {
            true => self.queue.pop(|job| is_free || !job.is_suspect),
            false => None,
        }
    }

    async fn send(
        &self,
        sender: &tokio::sync::Mutex<Sender>,
        at_work: &Mutex<AtWork>,
        job: Job,
    ) -> Result<(), ChannelError> {
        let order = &self.call.order;
        let function = self.call.function();
        let limit = self.call.crew.manager.max_frame_bytes();
        let mut sender = sender.lock().await;
        let encoded = match sender.encode(&job.rows) {
            Some(Ok(encoded)) => encoded.at(&job.places),
            Some(Err(source)) => {
                job.block.fail(UdfError::Block { function, source });
                return Ok(());
            }
            None => return Err(ChannelError::Malformed("it has nothing loaded".into())),
        };
        if !encoded.fits(limit) {
            let bytes = encoded.bytes;
            match order.call.cut(&job.rows) {
                Some(at) => self.queue.push_front(job.cut(at).into_iter()),
                None => job.block.fail(UdfError::RowTooLarge {
                    function,
                    bytes,
                    limit,
                }),
            }
            return Ok(());
        }
        self.call.counters.sent(job.places.len(), encoded.bytes);
        // Known before it is sent: the answer may be here before we go on.
        at_work.lock().add(sender.seq() + 1, job);
        sender.send_block(&encoded, order).await.map(|_| ())
    }

    /// A worker is gone with jobs; the right to another, if there is one.
    fn lost(&self, lease: Lease, at_work: AtWork, error: UdfError) -> Option<Vacancy> {
        let jobs = at_work.unanswered();
        if !ends_worker(&error) {
            drop(lease);
            let mut jobs = jobs.into_iter();
            if let Some(job) = jobs.next() {
                job.block.fail(error);
            }
            // That fails the query. Others are not left without a word.
            self.queue.push_front(jobs);
            return None;
        }
        let vacancy = lease.into_vacancy();
        let mut again = vec![];
        for job in jobs {
            match job.is_suspect {
                false => {
                    tracing::warn!(%error, "a block is sent once more");
                    let retries = &self.call.counters.retries;
                    retries.fetch_add(1, Ordering::Relaxed);
                    again.push(Job {
                        is_suspect: true,
                        ..job
                    });
                }
                // It was alone, so the error is its own.
                true => return self.suspect_again(job, error, vacancy),
            }
        }
        self.queue.push_front(again.into_iter());
        Some(vacancy)
    }

    /// What was alone with a worker has ended it as well.
    fn suspect_again(&self, job: Job, error: UdfError, vacancy: Vacancy) -> Option<Vacancy> {
        let call = &self.call.order.call;
        if call.errors.on_error == OnError::Raise {
            job.block.fail(error);
            return Some(vacancy);
        }
        let may_cut = call.is_by_row() || call.may_ask_again();
        if let Some(at) = call.cut(&job.rows).filter(|_| may_cut) {
            self.queue.push_front(job.cut(at).into_iter());
            return Some(vacancy);
        }
        let rows = job.places.len();
        let answers = without(call, job.places.iter().copied(), &error);
        if call.keeps_order() {
            let first = job.places.first().copied().unwrap_or_default();
            job.block.keep(first, answers, rows);
            return Some(vacancy);
        }
        let answers = match call.spec.is_table() {
            true => Ok(answers),
            false => with_places(call, answers, &job.places),
        };
        match answers {
            Ok(answers) => {
                job.block.pass(answers, rows);
                job.block.settle();
            }
            Err(_) => job.block.fail(error),
        }
        Some(vacancy)
    }
}

/// A worker that does not hear has ended: whoever listens to it says how.
async fn never() -> End {
    std::future::pending().await
}
