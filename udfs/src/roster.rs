//! Who may have a worker: places for processes, and idle ones to lend again.
//!
//! Past `max_workers` processes nobody gets one more, with two exceptions that
//! keep queries from waiting for each other for ever:
//!
//! - The first worker of an actor pool or of a table call is never refused. Such
//!   a worker keeps its place until its reader is through, and the reader may
//!   want a place itself. Who opens pools bounds how many there are.
//! - A scalar call's worker comes back by itself. Scalar calls therefore stand
//!   in line, before anyone who wants more than a first worker, but if no place
//!   is in the hands of a scalar call, one is made.
//!
//! Stateless workers come back after every call; an actor stays with its pool. Named
//! actors are not counted: they outlive queries, and idle ones would take the places of
//! those that are at work.
//! Idle workers end after `idle_ttl`, or at once when somebody else needs their
//! place; one that has had `max_blocks` ends when it comes back.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::resources::Reservation;
use crate::spawn::{OwnedTask, spawn_named};
use crate::worker::Worker;

/// What a worker is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// One block through a scalar def; any worker will do.
    ScalarCall,
    /// One block through a table def, as fast as it is read; any worker will do.
    TableCall,
    /// A process of its own, started fresh and kept.
    Actor,
    /// The same, not bounded here: a named actor.
    Named,
}

/// How much a pool depends on what it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rank {
    /// It has no worker at work.
    First,
    /// It goes on without.
    More,
}

/// What a pool gets.
#[derive(Debug)]
pub(crate) enum Grant {
    /// A worker that is already running.
    Worker(Box<Worker>),
    /// The right to start one.
    Slot(Slot),
}

/// Why nothing was to be had.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Closed,
    TimedOut,
}

/// The right to have one process; given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    roster: Weak<Roster>,
    /// In the hands of a scalar call, and counted as such.
    is_lent: bool,
    /// What its process has of what this one shares out. It goes with the process, or
    /// with the next one in the same place.
    reserved: Option<Reservation>,
}

impl Slot {
    /// For a process that has `reserved`.
    pub(crate) fn with(mut self, reserved: Option<Reservation>) -> Self {
        self.reserved = reserved;
        self
    }

    pub(crate) fn reserved(&self) -> Option<&Reservation> {
        self.reserved.as_ref()
    }

    pub(crate) fn take_reserved(&mut self) -> Option<Reservation> {
        self.reserved.take()
    }
}

/// The places and the idle workers of one manager.
#[derive(Debug)]
pub(crate) struct Roster {
    state: Mutex<State>,
    bounds: Bounds,
}

/// How many workers there are, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// At least 1.
    pub(crate) max_workers: usize,
    pub(crate) idle_ttl: Duration,
    /// Of a stateless worker; 0: any number.
    pub(crate) max_blocks: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Slots in existence; idle workers hold theirs.
    used: usize,
    /// Slots in the hands of scalar calls.
    lent: usize,
    /// The longest idle first.
    idle: VecDeque<Idle>,
    idle_count: u64,
    /// First workers of scalar pools. While one waits here, `lent` is not zero.
    waiting_first: VecDeque<Waiter>,
    waiting_more: VecDeque<Waiter>,
    closed: bool,
}

#[derive(Debug)]
struct Idle {
    id: u64,
    worker: Box<Worker>,
    _expiry: OwnedTask,
}

#[derive(Debug)]
struct Waiter {
    want: Want,
    grant: oneshot::Sender<Grant>,
}

impl Roster {
    pub(crate) fn new(mut bounds: Bounds) -> Arc<Self> {
        bounds.max_workers = bounds.max_workers.max(1);
        Arc::new(Self {
            state: Mutex::default(),
            bounds,
        })
    }

    /// Waits for a worker or the right to start one; `limit`: how long, `None`
    /// for ever.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        want: Want,
        rank: Rank,
        limit: Option<Duration>,
    ) -> Result<Grant, Refusal> {
        if want == Want::Named {
            return self.beside();
        }
        let waiting = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(Refusal::Closed);
            }
            if let Some(grant) = self.take(&mut state, want, rank) {
                return Ok(grant);
            }
            let (grant, granted) = oneshot::channel();
            let line = match rank {
                Rank::First => &mut state.waiting_first,
                Rank::More => &mut state.waiting_more,
            };
            // Who gave up waiting does not make the line longer.
            line.retain(|waiter| !waiter.grant.is_closed());
            line.push_back(Waiter { want, grant });
            granted
        };
        let granted = match limit {
            Some(limit) => tokio::time::timeout(limit, waiting).await,
            None => Ok(waiting.await),
        };
        match granted {
            Ok(Ok(grant)) => Ok(grant),
            Ok(Err(_)) => Err(Refusal::Closed),
            Err(_) => Err(Refusal::TimedOut),
        }
    }

    /// The right to a process beside the bound, for one that no query waits for and
    /// that outlives them.
    fn beside(&self) -> Result<Grant, Refusal> {
        match self.state.lock().closed {
            true => Err(Refusal::Closed),
            false => Ok(Grant::Slot(Slot {
                // Nothing to give back.
                roster: Weak::new(),
                is_lent: false,
                reserved: None,
            })),
        }
    }

    /// Takes a stateless worker back, for whoever waits or for later.
    pub(crate) fn release(self: &Arc<Self>, worker: Worker) {
        let mut worker = Box::new(worker);
        let is_worn_out = worker.is_worn_out(self.bounds.max_blocks);
        loop {
            let mut state = self.state.lock();
            // Without a Tokio runtime nobody could end it later.
            let may_idle = !state.closed && tokio::runtime::Handle::try_current().is_ok();
            if !worker.process().is_running() || is_worn_out || !may_idle {
                // Its slot finds the next one by being dropped.
                drop(state);
                return;
            }
            state.take_back(worker.slot());
            let Some(Waiter { want, grant }) = state.next_waiter(self.bounds.max_workers) else {
                // One stays beyond the bound as long as nobody needs its place: the
                // next block of a scalar call would start another.
                let is_surplus = state.lent > 0 || !state.idle.is_empty();
                match state.used > self.bounds.max_workers && is_surplus {
                    true => drop(state),
                    false => self.keep_idle(&mut state, worker),
                }
                return;
            };
            state.lend(worker.slot(), want);
            drop(state);
            let offer = match want {
                Want::ScalarCall | Want::TableCall => Grant::Worker(worker),
                Want::Actor | Want::Named => match worker.into_slot() {
                    Some(slot) => Grant::Slot(slot),
                    None => return,
                },
            };
            match grant.send(offer) {
                // The waiter is gone; a slot finds the next one by being dropped.
                Err(Grant::Worker(back)) => worker = back,
                Err(Grant::Slot(_)) | Ok(()) => return,
            }
        }
    }

    /// Strikes off an idle worker whose process has ended.
    pub(crate) fn forget(&self, pid: u32) {
        let gone = self.remove(|idle| idle.worker.process().pid() == pid);
        drop(gone);
    }

    /// Refuses everyone from now on and ends the idle workers.
    pub(crate) fn close(&self) {
        let gone = {
            let mut state = self.state.lock();
            state.closed = true;
            (
                std::mem::take(&mut state.idle),
                std::mem::take(&mut state.waiting_first),
                std::mem::take(&mut state.waiting_more),
            )
        };
        drop(gone);
    }

    /// Past how many processes only first workers are started.
    pub(crate) fn max_workers(&self) -> usize {
        self.bounds.max_workers
    }

    /// Whether more processes are in use than anyone may add to.
    pub(crate) fn is_overfull(&self) -> bool {
        let state = self.state.lock();
        state.used - state.idle.len() > self.bounds.max_workers
    }

    /// Whether somebody waits for a worker.
    pub(crate) fn has_waiting(&self) -> bool {
        let state = self.state.lock();
        let mut all = state.waiting_first.iter().chain(&state.waiting_more);
        all.any(|waiter| !waiter.grant.is_closed())
    }

    /// What can be had without waiting.
    fn take(self: &Arc<Self>, state: &mut State, want: Want, rank: Rank) -> Option<Grant> {
        // The last one used is the warmest. One that has just ended is skipped;
        // its slot is freed by `forget`.
        if want != Want::Actor {
            let warm = state
                .idle
                .iter()
                .rposition(|idle| idle.worker.process().is_running());
            if let Some(Idle { mut worker, .. }) = warm.and_then(|at| state.idle.remove(at)) {
                state.lend(worker.slot(), want);
                return Some(Grant::Worker(worker));
            }
        }
        let has_room = state.used < self.bounds.max_workers;
        let coldest = match has_room {
            true => None,
            false => state.idle.pop_front(),
        };
        if let Some(mut slot) = coldest.and_then(|idle| idle.worker.into_slot()) {
            state.lend(Some(&mut slot), want);
            return Some(Grant::Slot(slot));
        }
        let must = rank == Rank::First && (want != Want::ScalarCall || state.lent == 0);
        if !has_room && !must {
            return None;
        }
        state.used += 1;
        let mut slot = Slot {
            roster: Arc::downgrade(self),
            is_lent: false,
            reserved: None,
        };
        state.lend(Some(&mut slot), want);
        Some(Grant::Slot(slot))
    }

    fn keep_idle(self: &Arc<Self>, state: &mut State, worker: Box<Worker>) {
        state.idle_count += 1;
        let id = state.idle_count;
        let (roster, ttl) = (Arc::downgrade(self), self.bounds.idle_ttl);
        let expiry = spawn_named("udf-idle", async move {
            tokio::time::sleep(ttl).await;
            if let Some(roster) = roster.upgrade() {
                drop(roster.remove(|idle| idle.id == id));
            }
        });
        state.idle.push_back(Idle {
            id,
            worker,
            _expiry: expiry,
        });
    }

    /// Takes an idle worker out; to be dropped without the lock.
    fn remove(&self, which: impl Fn(&Idle) -> bool) -> Option<Idle> {
        let mut state = self.state.lock();
        let at = state.idle.iter().position(which)?;
        state.idle.remove(at)
    }
}

impl State {
    /// Who gets a place that has come free and is still counted in `used`.
    fn next_waiter(&mut self, max_workers: usize) -> Option<Waiter> {
        let has_room = self.used <= max_workers;
        let first = match has_room || self.lent == 0 {
            true => self.waiting_first.pop_front(),
            false => None,
        };
        match first {
            None if has_room => self.waiting_more.pop_front(),
            first => first,
        }
    }

    fn lend(&mut self, slot: Option<&mut Slot>, want: Want) {
        if let Some(slot) = slot.filter(|_| want == Want::ScalarCall) {
            slot.is_lent = true;
            self.lent += 1;
        }
    }

    fn take_back(&mut self, slot: Option<&mut Slot>) {
        if let Some(slot) = slot.filter(|slot| slot.is_lent) {
            slot.is_lent = false;
            self.lent -= 1;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(roster) = self.roster.upgrade() else {
            return;
        };
        // The next in line has a demand of its own, or none.
        let mut place = Slot {
            roster: Arc::downgrade(&roster),
            is_lent: self.is_lent,
            reserved: None,
        };
        loop {
            // Dropped without the lock: an idle worker beyond the bound, whose
            // place is the next one in line's.
            let mut _surplus = None;
            let waiter = {
                let mut state = roster.state.lock();
                state.take_back(Some(&mut place));
                if state.used > roster.bounds.max_workers && !state.waiting_more.is_empty() {
                    _surplus = state.idle.pop_front();
                }
                let waiter = state.next_waiter(roster.bounds.max_workers);
                match &waiter {
                    Some(waiter) => state.lend(Some(&mut place), waiter.want),
                    None => state.used -= 1,
                }
                waiter
            };
            let Some(waiter) = waiter else {
                place.roster = Weak::new();
                return;
            };
            match waiter.grant.send(Grant::Slot(place)) {
                // This loop goes on with the place.
                Err(Grant::Slot(refused)) => place = refused,
                Err(Grant::Worker(_)) | Ok(()) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{Amount, Capacity, Demand, Ledger};

    const SOON: Duration = Duration::from_millis(20);

    const LATER: Option<Duration> = Some(Duration::from_secs(5));

    fn roster_of(max_workers: usize) -> Arc<Roster> {
        Roster::new(Bounds {
            max_workers,
            idle_ttl: SOON,
            max_blocks: 0,
        })
    }

    async fn slot(roster: &Arc<Roster>, want: Want, rank: Rank) -> Slot {
        match roster.acquire(want, rank, LATER).await {
            Ok(Grant::Slot(slot)) => slot,
            other => panic!("{other:?}"),
        }
    }

    fn used(roster: &Roster) -> usize {
        roster.state.lock().used
    }

    #[tokio::test]
    async fn more_than_a_first_worker_is_bounded() {
        let roster = roster_of(2);
        let first = slot(&roster, Want::Actor, Rank::First).await;
        let _second = slot(&roster, Want::Actor, Rank::More).await;
        for want in [Want::ScalarCall, Want::TableCall, Want::Actor] {
            let refused = roster.acquire(want, Rank::More, Some(SOON)).await;
            assert_eq!(refused.unwrap_err(), Refusal::TimedOut);
        }
        drop(first);
        // Those that gave up waiting must not have taken the place with them.
        let _third = slot(&roster, Want::Actor, Rank::More).await;
        assert_eq!(used(&roster), 2);
    }

    #[tokio::test]
    async fn named_actors_take_nobodys_place() {
        let roster = roster_of(1);
        let _named = slot(&roster, Want::Named, Rank::First).await;
        let mut named = vec![];
        for _ in 0..3 {
            named.push(slot(&roster, Want::Named, Rank::First).await);
        }
        assert_eq!(used(&roster), 0);
        let _only = slot(&roster, Want::Actor, Rank::More).await;
        drop(named);
        assert_eq!(used(&roster), 1);
        assert!(!roster.is_overfull());
        roster.close();
        let refused = roster.acquire(Want::Named, Rank::First, LATER).await;
        assert_eq!(refused.unwrap_err(), Refusal::Closed);
    }

    #[tokio::test]
    async fn a_first_worker_that_stays_is_never_refused_and_its_place_goes_again() {
        let roster = roster_of(1);
        let full = slot(&roster, Want::Actor, Rank::First).await;
        let beyond = slot(&roster, Want::Actor, Rank::First).await;
        let other = slot(&roster, Want::TableCall, Rank::First).await;
        let wanted = roster.acquire(Want::Actor, Rank::More, LATER);
        let gone = async {
            drop((beyond, other));
            assert_eq!(used(&roster), 1);
            drop(full);
        };
        let (granted, ()) = tokio::join!(wanted, gone);
        assert_eq!(used(&roster), 1);
        drop(granted);
        assert_eq!(used(&roster), 0);
    }

    #[tokio::test]
    async fn scalar_calls_share_one_place_beyond_the_bound() {
        let roster = roster_of(1);
        let actor = slot(&roster, Want::Actor, Rank::First).await;
        let made = slot(&roster, Want::ScalarCall, Rank::First).await;
        assert_eq!(used(&roster), 2);
        let refused = roster.acquire(Want::ScalarCall, Rank::First, Some(SOON));
        assert_eq!(refused.await.unwrap_err(), Refusal::TimedOut);
        // The place goes from hand to hand, not to who wants more.
        let more = roster.acquire(Want::Actor, Rank::More, LATER);
        let line = async {
            let next = roster.acquire(Want::ScalarCall, Rank::First, LATER);
            let done = async { drop(made) };
            let (next, ()) = tokio::join!(next, done);
            assert_eq!(used(&roster), 2);
            drop(next);
            assert_eq!(used(&roster), 1);
            drop(actor);
        };
        let (more, ()) = tokio::join!(more, line);
        assert!(more.is_ok());
    }

    #[tokio::test]
    async fn pools_without_a_worker_go_first() {
        let roster = roster_of(1);
        let held = slot(&roster, Want::ScalarCall, Rank::First).await;
        let order = Mutex::new(Vec::new());
        let wait = |rank, name| {
            let (roster, order) = (&roster, &order);
            async move {
                let slot = slot(roster, Want::ScalarCall, rank).await;
                order.lock().push(name);
                drop(slot);
            }
        };
        let release = async { drop(held) };
        // Joined futures are polled, and so queue up, in this order.
        tokio::join!(
            wait(Rank::More, "more"),
            wait(Rank::First, "none"),
            wait(Rank::First, "none too"),
            release
        );
        assert_eq!(*order.lock(), ["none", "none too", "more"]);
        assert_eq!(used(&roster), 0);
    }

    #[tokio::test]
    async fn a_place_that_is_passed_on_brings_no_resources() {
        let (roster, ledger) = (roster_of(1), Ledger::new(Capacity::found()));
        let demand = Demand {
            cpus: Some(Amount::ONE),
            ..Demand::default()
        };
        let full = ledger.free();
        let held = slot(&roster, Want::Actor, Rank::First).await;
        let held = held.with(ledger.try_reserve(&demand));
        assert!(held.reserved().is_some() && ledger.free() != full);
        let waiting = roster.acquire(Want::Actor, Rank::More, LATER);
        let (granted, ()) = tokio::join!(waiting, async { drop(held) });
        let Ok(Grant::Slot(next)) = granted else {
            panic!("{granted:?}");
        };
        assert!(next.reserved().is_none());
        assert_eq!(ledger.free(), full);
    }

    #[tokio::test]
    async fn closing_refuses_those_who_wait() {
        let roster = roster_of(1);
        let _held = slot(&roster, Want::Actor, Rank::First).await;
        let waiting = roster.acquire(Want::Actor, Rank::More, None);
        let close = async { roster.close() };
        let (refused, ()) = tokio::join!(waiting, close);
        assert_eq!(refused.unwrap_err(), Refusal::Closed);
        let refused = roster.acquire(Want::Actor, Rank::First, None).await;
        assert_eq!(refused.unwrap_err(), Refusal::Closed);
    }
}
