//! Who may have a worker: places for processes, and idle ones to lend again.
//!
//! At most `max_workers` processes of a manager live at a time, each holding a
//! [`Slot`]. Stateless workers come back after every call, so that two functions
//! of one query cannot starve each other; an actor stays with its pool. When all
//! places are taken, pools that have no worker at all are served before pools
//! that want more, in order of arrival. Idle workers end after `idle_ttl`, or at
//! once when an actor needs their place.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::spawn::{OwnedTask, spawn_named};
use crate::worker::Worker;

/// What a pool wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// Any worker will do.
    Stateless,
    /// A process of its own, started fresh.
    Actor,
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
}

/// The places and the idle workers of one manager.
#[derive(Debug)]
pub(crate) struct Roster {
    state: Mutex<State>,
    max_workers: usize,
    idle_ttl: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// Slots in existence; idle workers hold theirs.
    used: usize,
    /// The longest idle first.
    idle: VecDeque<Idle>,
    idle_count: u64,
    /// Pools without a worker, then pools that want one more.
    waiting: [VecDeque<Waiter>; 2],
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
    /// `max_workers` is at least 1.
    pub(crate) fn new(max_workers: usize, idle_ttl: Duration) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            max_workers: max_workers.max(1),
            idle_ttl,
        })
    }

    /// Waits for a worker or the right to start one. `has_none`: whether the
    /// pool has no worker yet.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        want: Want,
        has_none: bool,
        limit: Duration,
    ) -> Result<Grant, Refusal> {
        let waiting = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(Refusal::Closed);
            }
            if let Some(grant) = self.take(&mut state, want) {
                return Ok(grant);
            }
            let (grant, granted) = oneshot::channel();
            state.waiting[usize::from(!has_none)].push_back(Waiter { want, grant });
            granted
        };
        match tokio::time::timeout(limit, waiting).await {
            Ok(Ok(grant)) => Ok(grant),
            Ok(Err(_)) => Err(Refusal::Closed),
            Err(_) => Err(Refusal::TimedOut),
        }
    }

    /// Takes a stateless worker back, for whoever waits or for later.
    pub(crate) fn release(self: &Arc<Self>, worker: Worker) {
        let mut worker = Box::new(worker);
        loop {
            let mut state = self.state.lock();
            // Without a Tokio runtime nobody could end it later.
            let may_idle = !state.closed && tokio::runtime::Handle::try_current().is_ok();
            if !worker.process().is_running() || !may_idle {
                drop(state);
                return;
            }
            let Some(Waiter { want, grant }) = state.next_waiter() else {
                self.keep_idle(&mut state, worker);
                return;
            };
            drop(state);
            let offer = match want {
                Want::Stateless => Grant::Worker(worker),
                Want::Actor => match worker.into_slot() {
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
        let (idle, waiting) = {
            let mut state = self.state.lock();
            state.closed = true;
            (
                std::mem::take(&mut state.idle),
                std::mem::take(&mut state.waiting),
            )
        };
        drop((idle, waiting));
    }

    /// Most processes at a time.
    pub(crate) fn max_workers(&self) -> usize {
        self.max_workers
    }

    fn take(self: &Arc<Self>, state: &mut State, want: Want) -> Option<Grant> {
        // The last one used is the warmest. One that has just ended is skipped;
        // its slot is freed by `forget`.
        if want == Want::Stateless {
            let warm = state
                .idle
                .iter()
                .rposition(|idle| idle.worker.process().is_running());
            if let Some(idle) = warm.and_then(|at| state.idle.remove(at)) {
                return Some(Grant::Worker(idle.worker));
            }
        }
        if state.used < self.max_workers {
            state.used += 1;
            return Some(Grant::Slot(Slot {
                roster: Arc::downgrade(self),
            }));
        }
        let coldest = state.idle.pop_front()?;
        coldest.worker.into_slot().map(Grant::Slot)
    }

    fn keep_idle(self: &Arc<Self>, state: &mut State, worker: Box<Worker>) {
        state.idle_count += 1;
        let id = state.idle_count;
        let (roster, ttl) = (Arc::downgrade(self), self.idle_ttl);
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
    fn next_waiter(&mut self) -> Option<Waiter> {
        let [first, more] = &mut self.waiting;
        first.pop_front().or_else(|| more.pop_front())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(roster) = self.roster.upgrade() else {
            return;
        };
        loop {
            let waiter = {
                let mut state = roster.state.lock();
                let waiter = state.next_waiter();
                if waiter.is_none() {
                    state.used -= 1;
                }
                waiter
            };
            let Some(waiter) = waiter else {
                return;
            };
            let offer = Grant::Slot(Slot {
                roster: Arc::downgrade(&roster),
            });
            match waiter.grant.send(offer) {
                // Not given back: this loop still holds the place.
                Err(Grant::Slot(mut refused)) => refused.roster = Weak::new(),
                Err(Grant::Worker(_)) | Ok(()) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    async fn slot(roster: &Arc<Roster>, has_none: bool) -> Slot {
        match roster
            .acquire(Want::Actor, has_none, Duration::from_secs(5))
            .await
        {
            Ok(Grant::Slot(slot)) => slot,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn places_are_bounded_and_come_back() {
        let roster = Roster::new(2, SOON);
        let first = slot(&roster, true).await;
        let _second = slot(&roster, true).await;
        let refused = roster.acquire(Want::Stateless, true, SOON).await;
        assert_eq!(refused.unwrap_err(), Refusal::TimedOut);
        drop(first);
        // The one that gave up waiting must not have taken the place with it.
        let _third = slot(&roster, false).await;
        assert_eq!(roster.state.lock().used, 2);
    }

    #[tokio::test]
    async fn pools_without_a_worker_go_first() {
        let roster = Roster::new(1, SOON);
        let held = slot(&roster, true).await;
        let order = Mutex::new(Vec::new());
        let wait = |has_none, name| {
            let (roster, order) = (&roster, &order);
            async move {
                let slot = slot(roster, has_none).await;
                order.lock().push(name);
                drop(slot);
            }
        };
        // Joined futures are polled, and so queue up, in this order.
        let release = async { drop(held) };
        tokio::join!(
            wait(false, "more"),
            wait(true, "none"),
            wait(true, "none too"),
            release
        );
        assert_eq!(*order.lock(), ["none", "none too", "more"]);
        assert_eq!(roster.state.lock().used, 0);
    }

    #[tokio::test]
    async fn closing_refuses_those_who_wait() {
        let roster = Roster::new(1, SOON);
        let _held = slot(&roster, true).await;
        let waiting = roster.acquire(Want::Actor, true, Duration::from_secs(5));
        let close = async { roster.close() };
        let (refused, ()) = tokio::join!(waiting, close);
        assert_eq!(refused.unwrap_err(), Refusal::Closed);
        let refused = roster.acquire(Want::Actor, true, SOON).await;
        assert_eq!(refused.unwrap_err(), Refusal::Closed);
    }
}
