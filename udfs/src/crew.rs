//! The workers behind calls: who is at work, who is free, how one more comes.
//!
//! A pool has a crew of its own, and ends it when it goes. The crew of a named actor
//! is one worker with the built class, serves the calls of many queries, and goes
//! when the actor is dropped (`hosted`).
//!
//! A `def` borrows any worker of the manager for each call. A `class` keeps its
//! workers, the actors, on a shelf. A call that finds all actors at work takes the
//! first to come free, or one more if the manager has a place before that.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::activity::WorkerState;
use crate::error::UdfError;
use crate::exchange::Counters;
use crate::hosted::Hosted;
use crate::keyed::inherit;
use crate::line::{Line, Offer, Permit};
use crate::manager::{TimeLimit, WorkerManager, leaves_worker_usable};
use crate::order::CallOrder;
use crate::resources::Share;
use crate::roster::{Grant, Rank, Slot, Want};
use crate::signal;
use crate::spawn::OwnedTask;
use crate::work::{ActorLoad, Work};
use crate::worker::{Deadline, Worker};

/// How often in a row a worker is made ready before its call fails with what went
/// wrong: once is chance, and who fails three times does not come right by waiting.
const BUILD_TRIES: u32 = 3;

/// Workers, and the line of those who want one.
#[derive(Debug)]
pub(crate) struct Crew {
    pub(crate) manager: Arc<WorkerManager>,
    pub(crate) line: Arc<Line<Lease>>,
    /// What its workers are, for the manager.
    want: Want,
    /// What they may have of what the query has claimed.
    share: Option<Share>,
    /// The named actor that it is.
    pub(crate) hosted: Option<Hosted>,
    shelf: Mutex<Shelf>,
    /// An actor came free, or the last worker went.
    shelf_changed: Notify,
    /// It was dismissed.
    dismissed: Notify,
    /// Makes one more worker ready.
    pub(crate) grower: Mutex<Option<OwnedTask>>,
    /// Lets go of those that it has beyond the first ones and does not need.
    pub(crate) shrinker: Mutex<Option<OwnedTask>>,
    /// Make others ready for those that were lost.
    replacing: Mutex<Vec<OwnedTask>>,
}

/// A crew's workers.
#[derive(Debug, Default)]
struct Shelf {
    /// Actors with nothing to do.
    free: Vec<Resting>,
    /// Turns in existence.
    at_work: usize,
    /// What those do that are ready.
    work: Work,
    closed: bool,
    /// Whether those in line get nobody any more.
    refuses: bool,
}

/// An actor with nothing to do.
#[derive(Debug)]
struct Resting {
    worker: Worker,
    since: Instant,
}

/// What a worker is made ready for.
pub(crate) struct Claim<'a> {
    /// Named in errors.
    pub(crate) function: &'a str,
    /// To be loaded; `None`: it has only to be there.
    pub(crate) order: Option<&'a CallOrder>,
    pub(crate) limit: TimeLimit,
    pub(crate) counters: &'a Counters,
}

impl Crew {
    /// With `least` workers at first, at least 1, and up to `growth` more.
    pub(crate) fn new(
        manager: Arc<WorkerManager>,
        want: Want,
        share: Option<Share>,
        hosted: Option<Hosted>,
        [least, growth]: [usize; 2],
    ) -> Arc<Self> {
        let (every, linger) = (manager.settings.batch_every, manager.settings.actor_linger);
        Arc::new(Self {
            manager,
            line: Line::new(least, growth, every, linger),
            want,
            share,
            hosted,
            shelf: Mutex::default(),
            shelf_changed: Notify::new(),
            dismissed: Notify::new(),
            grower: Mutex::default(),
            shrinker: Mutex::default(),
            replacing: Mutex::default(),
        })
    }

    /// Whether its workers stay with it: they hold a built class, or resources.
    pub(crate) fn keeps_workers(&self) -> bool {
        matches!(self.want, Want::Actor | Want::Named)
    }

    /// Ends the workers that are free now, and the others when they come free.
    pub(crate) fn close(&self) {
        let free = {
            let mut shelf = self.shelf.lock();
            shelf.closed = true;
            std::mem::take(&mut shelf.free)
        };
        drop(self.grower.lock().take());
        drop(self.shrinker.lock().take());
        self.replacing.lock().clear();
        let free = free.into_iter().map(|resting| resting.worker);
        free.for_each(|actor| self.manager.end(actor));
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shelf.lock().closed
    }

    /// As [`Self::close`]; those that wait for a worker, or will, are refused: what
    /// theirs would have had belongs to others.
    pub(crate) fn dismiss(&self) {
        self.shelf.lock().refuses = true;
        self.close();
        self.dismissed.notify_waiters();
    }

    /// Ready once it is dismissed.
    async fn refuses(&self) {
        let mut dismissed = pin!(self.dismissed.notified());
        // From here on it is not missed.
        dismissed.as_mut().enable();
        if !self.shelf.lock().refuses {
            dismissed.await;
        }
    }

    /// Whether there are others besides one that was lost, which keep their places.
    pub(crate) fn has_others(&self) -> bool {
        let shelf = self.shelf.lock();
        self.hosted.is_none() && self.keeps_workers() && shelf.at_work + shelf.free.len() > 1
    }

    /// `task` makes a worker ready, as long as the crew is there.
    pub(crate) fn replace_by(&self, task: OwnedTask) {
        let mut replacing = self.replacing.lock();
        replacing.retain(|task| !task.is_finished());
        replacing.push(task);
    }

    /// Whether one of its workers is at work, or being made ready.
    pub(crate) fn is_at_work(&self) -> bool {
        self.shelf.lock().at_work > 0
    }

    /// A worker that is ready. One that fails to get ready makes way for another, a
    /// few times.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        vacancy: Vacancy,
        claim: &Claim<'_>,
    ) -> Result<Lease, UdfError> {
        let Vacancy { permit, mut kept } = vacancy;
        let mut tries = 0;
        loop {
            tries += 1;
            if let Some(hosted) = &self.hosted {
                hosted.check_is_there(self, claim.function)?;
            }
            let (mut turn, source) = match kept.take() {
                Some((turn, slot)) => (turn, Source::Granted(Grant::Slot(slot))),
                None => tokio::select! {
                    biased;
                    () = self.refuses() => return Err(self.gone(claim.function)),
                    taken = self.take_turn(claim) => taken?,
                },
            };
            let is_built = matches!(source, Source::Granted(_));
            let error = match self.ready(source, claim).await {
                Ok(worker) => {
                    turn.begin_work();
                    return Ok(Lease {
                        worker,
                        turn,
                        permit,
                        offer: None,
                    });
                }
                Err(error) => match claim.order {
                    Some(order) => error.at_line(&order.call),
                    None => error,
                },
            };
            let error = match self.may_try_again(claim, &error) {
                true if tries < BUILD_TRIES => {
                    tracing::warn!(%error, tries, "a worker is made ready once more");
                    continue;
                }
                true => error.after_tries(tries),
                false => error,
            };
            match &self.hosted {
                Some(hosted) if is_built => hosted.failed_to_build(&error),
                Some(hosted) => hosted.note(&error),
                None => {}
            }
            return Err(error);
        }
    }

    /// The worker of `source`, with the call loaded.
    async fn ready(&self, source: Source, claim: &Claim<'_>) -> Result<Worker, UdfError> {
        let (mut worker, deadline) = match source {
            Source::Own(actor) => (actor, self.load_deadline(claim)),
            Source::Granted(grant) => {
                let started = &claim.counters.workers_started;
                let employed = self
                    .manager
                    .employ(grant, claim.function, claim.limit, started);
                let mut worker = employed.await?;
                if let Some(hosted) = &self.hosted {
                    hosted.build(&mut worker, claim.limit).await?;
                    inherit(self, hosted, &mut worker, claim).await?;
                }
                (worker, claim.limit.deadline())
            }
        };
        let Some(order) = claim.order else {
            return Ok(worker);
        };
        let loaded = worker.load(order, deadline).await;
        match loaded {
            Ok(()) => Ok(worker),
            Err(error) => {
                // An actor of one call is its call's; a named one has others.
                let stays = !self.keeps_workers() || self.hosted.is_some();
                if leaves_worker_usable(&error) && stays {
                    self.give_back(worker);
                }
                Err(error)
            }
        }
    }

    /// For a worker that is there. A named actor has nothing to build for a method: that
    /// it does not answer is as if it did not answer a block.
    fn load_deadline(&self, claim: &Claim<'_>) -> Deadline {
        let hosted = self.hosted.as_ref().and(claim.order);
        let of_call = hosted.map(|order| self.manager.call_deadline(&order.call));
        of_call
            .filter(|deadline| deadline.at.is_some())
            .unwrap_or_else(|| claim.limit.deadline())
    }

    /// Whether what kept a worker from getting ready may have been chance: its death,
    /// or an exception while a class was built.
    fn may_try_again(&self, claim: &Claim<'_>, error: &UdfError) -> bool {
        let is_class = |order: &CallOrder| order.call.spec.object.is_class();
        match error {
            UdfError::WorkerLost { .. } => true,
            UdfError::Handshake { exit, .. } => signal::is_killed(exit),
            UdfError::Raised(_) => claim.order.is_none_or(is_class),
            _ => false,
        }
    }

    pub(crate) fn gone(&self, function: &str) -> UdfError {
        UdfError::PoolGone {
            function: function.to_owned(),
            place: self.manager.settings.executor_id.clone(),
        }
    }

    /// Waits for an actor of our own to come free or for one more worker,
    /// whichever is first.
    async fn take_turn(self: &Arc<Self>, claim: &Claim<'_>) -> Result<(Turn, Source), UdfError> {
        loop {
            let mut changed = pin!(self.shelf_changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let first = {
                let mut shelf = self.shelf.lock();
                if let Some(actor) = shelf.free_actor() {
                    let turn = Turn::begin(self, &mut shelf, claim.counters);
                    return Ok((turn, Source::Own(actor)));
                }
                (shelf.at_work == 0).then(|| Turn::begin(self, &mut shelf, claim.counters))
            };
            if let Some(turn) = first {
                let grant = self.grant(claim, Rank::First).await?;
                return Ok((turn, Source::Granted(grant)));
            }
            tokio::select! {
                biased;
                grant = self.grant(claim, Rank::More) => {
                    let turn = Turn::begin(self, &mut self.shelf.lock(), claim.counters);
                    return Ok((turn, Source::Granted(grant?)));
                }
                () = changed => {}
            }
        }
    }

    /// A worker, or the right to start one with what it asks for. What was claimed for
    /// one is not waited for.
    async fn grant(&self, claim: &Claim<'_>, rank: Rank) -> Result<Grant, UdfError> {
        let (manager, function) = (&self.manager, claim.function);
        let (reserved, rank) = match &self.share {
            None => (None, rank),
            Some(share) => match manager.claimed(share) {
                Some(reserved) => (Some(reserved), Rank::First),
                None => (manager.reserve(function, share, rank).await?, rank),
            },
        };
        let grant = manager.place(function, self.want, rank).await?;
        Ok(match grant {
            Grant::Slot(slot) => Grant::Slot(slot.with(reserved)),
            lent => lent,
        })
    }

    /// One more worker that is ready and has nothing to do.
    pub(crate) async fn newcomer(&self, claim: &Claim<'_>) -> Result<(), UdfError> {
        let grant = self.grant(claim, Rank::More).await?;
        let worker = self.ready(Source::Granted(grant), claim).await?;
        worker.process().enter(WorkerState::Idle, None);
        self.shelf.lock().work.ready();
        self.give_back(worker);
        Ok(())
    }

    /// Its workers are through with so many blocks.
    pub(crate) fn count(&self, blocks: u64) {
        self.shelf.lock().work.count(blocks);
    }

    /// What they do, and have done.
    pub(crate) fn load(&self) -> ActorLoad {
        let queue = self.line.len();
        self.shelf.lock().work.load(queue)
    }

    /// Ends a worker of those that have come besides, if one has had nothing to do for so
    /// long; whether there was one.
    pub(crate) fn let_go(&self, idle_for: Duration) -> bool {
        let rested = {
            let mut shelf = self.shelf.lock();
            // What is claimed stays the query's, for its next worker.
            let at = shelf.free.iter().position(|resting| {
                !resting.worker.is_claimed() && resting.since.elapsed() >= idle_for
            });
            let Some(at) = at.filter(|_| self.line.shrink()) else {
                return false;
            };
            shelf.free.remove(at)
        };
        self.manager.end(rested.worker);
        true
    }

    /// Whether others wait for what each of its workers has.
    pub(crate) fn is_waited_for(&self) -> bool {
        let share = self.share.as_ref();
        let ledger = self.manager.ledger();
        self.manager.has_waiting() || share.is_some_and(|share| ledger.is_wanted(share.demand()))
    }

    /// Lets go of workers that have died with nothing to do; how many.
    pub(crate) fn drop_dead(&self) -> usize {
        let dead: Vec<Resting> = {
            let mut shelf = self.shelf.lock();
            let all = std::mem::take(&mut shelf.free).into_iter();
            let (running, dead) = all.partition(|resting| resting.worker.process().is_running());
            shelf.free = running;
            dead
        };
        // What they had is free from here on.
        dead.len()
    }

    /// Takes a worker back that is fit for more.
    fn give_back(&self, worker: Worker) {
        if !self.keeps_workers() {
            self.manager.release(worker);
            return;
        }
        let refused = {
            let mut shelf = self.shelf.lock();
            match shelf.closed {
                true => Some(worker),
                false => {
                    let since = Instant::now();
                    shelf.free.push(Resting { worker, since });
                    self.shelf_changed.notify_one();
                    None
                }
            }
        };
        if let Some(worker) = refused {
            self.manager.end(worker);
        }
    }
}

impl Shelf {
    /// The last one that came free; before it one that has what is claimed, so that others
    /// may go.
    fn free_actor(&mut self) -> Option<Worker> {
        let next = || {
            let claimed = self.free.iter().rposition(|r| r.worker.is_claimed());
            let at = claimed.or(self.free.len().checked_sub(1))?;
            Some(self.free.remove(at).worker)
        };
        std::iter::from_fn(next).find(Worker::is_fit)
    }
}

/// Where a crew's next worker comes from.
enum Source {
    Own(Worker),
    Granted(Grant),
}

/// The right to a worker.
#[derive(Debug)]
pub(crate) struct Vacancy {
    pub(crate) permit: Permit<Lease>,
    /// The place of a worker that is lost, for the one that takes up its block.
    pub(crate) kept: Option<(Turn, Slot)>,
}

/// Counts as one of the crew's workers at work.
#[derive(Debug)]
pub(crate) struct Turn {
    crew: Arc<Crew>,
    /// Whether its worker is ready.
    works: bool,
}

impl Turn {
    fn begin(crew: &Arc<Crew>, shelf: &mut Shelf, counters: &Counters) -> Self {
        shelf.at_work += 1;
        counters.at_work(shelf.at_work);
        Self {
            crew: Arc::clone(crew),
            works: false,
        }
    }

    /// Its worker is ready.
    fn begin_work(&mut self) {
        if !std::mem::replace(&mut self.works, true) {
            let work = &mut self.crew.shelf.lock().work;
            work.ready();
            work.begin();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut shelf = self.crew.shelf.lock();
        shelf.at_work -= 1;
        if self.works {
            shelf.work.end();
        }
        if shelf.at_work == 0 {
            // Who waits for more has nothing else to wait for now.
            self.crew.shelf_changed.notify_one();
        }
    }
}

/// A worker at work for this crew. Dropped while it still has it, it ends it.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) worker: Worker,
    turn: Turn,
    permit: Permit<Lease>,
    /// Who may follow.
    offer: Option<Offer<Lease>>,
}

impl Lease {
    /// Lets the next block be sent while the worker is at work on one, the last of
    /// this call.
    pub(crate) fn offer(&mut self, counters: &Counters) {
        let crew = &self.turn.crew;
        // Once is enough, and the next block in the line of a named actor may be another
        // call's.
        if self.offer.is_some() || crew.hosted.is_some() {
            return;
        }
        // What is handed on is not given back, where worn out workers are replaced.
        let stays = crew.keeps_workers() || !crew.manager.is_worn_out(&self.worker);
        if stays && counters.is_quick() && !crew.manager.has_waiting() {
            self.offer = Some(crew.line.offer(self.worker.channel.sender()));
        }
    }

    /// Hands the worker to who follows, or gives it back.
    pub(crate) fn end(mut self) {
        let back = match self.offer.take() {
            Some(offer) => offer.hand_over(self).err(),
            None => Some(self),
        };
        let Some(Self {
            worker,
            turn,
            permit,
            ..
        }) = back
        else {
            return;
        };
        turn.crew.give_back(worker);
        drop(permit);
    }

    /// Ends the worker: what it has is others'.
    pub(crate) fn dismiss(self) {
        let Self { worker, turn, .. } = self;
        turn.crew.manager.end(worker);
    }

    /// The right to another worker, this one gone.
    pub(crate) fn into_vacancy(self) -> Vacancy {
        let Self {
            worker,
            turn,
            permit,
            ..
        } = self;
        let kept = worker.into_slot().map(|slot| (turn, slot));
        Vacancy { permit, kept }
    }
}
