//! Who has what of a process's resources, and who waits.
//!
//! A query claims all that its calls need before it starts, or waits in line for it:
//! queries never hold some and wait for the rest. Its workers take their reservations
//! from its claim, and a reservation that comes back goes to the claim while there is
//! one: a worker that is lost is replaced with what it had, whoever waits. More than was
//! claimed is had only while nobody waits for it.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::amount::Amount;
use super::capacity::Capacity;
use super::demand::Demand;
use super::free::{Free, Shares};
use super::waiting::{Waiting, classes, next};

/// The resources of one process.
#[derive(Debug)]
pub struct Ledger {
    capacity: Capacity,
    state: Mutex<State>,
    /// Something came back.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    free: Free,
    line: VecDeque<Waiter>,
    /// What queries have and their workers have not taken, by query.
    claims: HashMap<String, Vec<Held>>,
}

#[derive(Debug)]
struct Waiter {
    query: String,
    demands: Vec<Demand>,
    since: Instant,
    granted: oneshot::Sender<()>,
}

/// Taken from [`State::free`].
#[derive(Debug)]
struct Held {
    demand: Demand,
    shares: Shares,
}

/// What one query has claimed; given back when dropped, what its workers have with
/// their end.
#[derive(Debug)]
pub struct Claim {
    ledger: Arc<Ledger>,
    query: String,
}

/// What one call may have of its query's claim: another call may have claimed the same,
/// and waits for it otherwise.
#[derive(Debug)]
pub struct Share {
    query: String,
    /// Of each worker.
    demand: Demand,
    /// Workers at once.
    most: usize,
    /// As many clones as are taken, and this one.
    taken: Arc<()>,
}

impl Share {
    /// What each worker asks for.
    pub fn demand(&self) -> &Demand {
        &self.demand
    }

    /// Of a call of `query` that starts with `most` workers, each of which asks for
    /// `demand`.
    pub fn new(query: &str, demand: &Demand, most: usize) -> Self {
        Self {
            query: query.to_owned(),
            demand: demand.clone(),
            most,
            taken: Arc::new(()),
        }
    }
}

/// What one worker has; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    ledger: Weak<Ledger>,
    /// Whose claim it came from, and the call's count.
    share: Option<(String, Arc<()>)>,
    held: Option<Held>,
    gpu_ids: Vec<String>,
}

/// Why a claim was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The process does not have as much.
    Never,
    /// Others had it all the time; these queries, in the order of their names.
    TimedOut { holders: Vec<String> },
}

impl Ledger {
    pub fn new(capacity: Capacity) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                free: Free::all_of(&capacity),
                line: VecDeque::new(),
                claims: HashMap::new(),
            }),
            capacity,
            changed: Notify::new(),
        })
    }

    /// All that there is.
    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// What nobody has.
    pub fn free(&self) -> Free {
        self.state.lock().free.clone()
    }

    /// Those who wait, in the order they came.
    pub fn waiting(&self) -> Vec<Waiting> {
        let state = self.state.lock();
        let in_the_way = |place: usize, mine: &Waiter| {
            let mine = classes(&mine.demands);
            let before = state.line.iter().take(place);
            let before = before.filter(|other| !classes(&other.demands).is_disjoint(&mine));
            before.count()
        };
        let line = state.line.iter().enumerate();
        line.map(|(place, waiter)| Waiting {
            query: waiter.query.clone(),
            demands: waiter.demands.clone(),
            since: waiter.since,
            ahead: in_the_way(place, waiter),
        })
        .collect()
    }

    /// Claims all of `demands` for `query`, at once, and waits in line for them up to
    /// `limit`. Also tells whether it had to wait.
    ///
    /// # Errors
    /// When there is not as much, or others keep it.
    pub async fn claim(
        self: &Arc<Self>,
        query: &str,
        demands: Vec<Demand>,
        limit: Duration,
    ) -> Result<(Claim, bool), Refusal> {
        if !self.capacity.fits_at_once(&demands) {
            return Err(Refusal::Never);
        }
        // From here on, dropping it leaves the line and gives back what came.
        let claim = Claim {
            ledger: Arc::clone(self),
            query: query.to_owned(),
        };
        let (granted, mut grant) = oneshot::channel();
        {
            let mut state = self.state.lock();
            state.line.push_back(Waiter {
                query: query.to_owned(),
                demands,
                since: Instant::now(),
                granted,
            });
            state.serve();
        }
        if grant.try_recv().is_ok() {
            return Ok((claim, false));
        }
        match tokio::time::timeout(limit, grant).await {
            Ok(Ok(())) => Ok((claim, true)),
            _ => Err(Refusal::TimedOut {
                holders: self.holders(),
            }),
        }
    }

    /// A reservation from what is claimed, if the call has not taken its share.
    pub fn take(self: &Arc<Self>, share: &Share) -> Option<Reservation> {
        let mut state = self.state.lock();
        if Arc::strong_count(&share.taken) > share.most {
            return None;
        }
        let claimed = state.claims.get_mut(&share.query)?;
        let mine = |held: &Held| held.demand == share.demand;
        let held = claimed.swap_remove(claimed.iter().position(mine)?);
        let share = (share.query.clone(), Arc::clone(&share.taken));
        Some(self.reservation(Some(share), held))
    }

    /// A reservation that nobody has claimed; `None` where it is not free, or where
    /// others wait for some of it.
    pub fn try_reserve(self: &Arc<Self>, demand: &Demand) -> Option<Reservation> {
        let mut state = self.state.lock();
        let wanted = demand.classes();
        let mut others = state.line.iter();
        if others.any(|waiter| !classes(&waiter.demands).is_disjoint(&wanted)) {
            return None;
        }
        let shares = state.free.take(demand)?;
        let demand = demand.clone();
        Some(self.reservation(None, Held { demand, shares }))
    }

    /// Whether somebody in line waits for some of what `demand` takes.
    pub fn is_wanted(&self, demand: &Demand) -> bool {
        let wanted = demand.classes();
        let state = self.state.lock();
        let mut line = state.line.iter();
        line.any(|waiter| !classes(&waiter.demands).is_disjoint(&wanted))
    }

    /// Waits for a reservation: of what is claimed, or of what nobody wants.
    pub async fn obtain(self: &Arc<Self>, share: &Share) -> Reservation {
        loop {
            let mut changed = pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let found = self.take(share);
            if let Some(found) = found.or_else(|| self.try_reserve(&share.demand)) {
                return found;
            }
            changed.await;
        }
    }

    fn reservation(self: &Arc<Self>, share: Option<(String, Arc<()>)>, held: Held) -> Reservation {
        let ids = held.shares.iter();
        let ids = ids.filter_map(|(place, _)| self.capacity.gpu_ids.get(*place));
        Reservation {
            ledger: Arc::downgrade(self),
            share,
            gpu_ids: ids.cloned().collect(),
            held: Some(held),
        }
    }

    fn holders(&self) -> Vec<String> {
        let state = self.state.lock();
        let mut holders: Vec<_> = state.claims.keys().cloned().collect();
        holders.sort();
        holders
    }

    fn give_back(&self, query: Option<&str>, held: Held) {
        {
            let mut state = self.state.lock();
            let claim = query.and_then(|query| state.claims.get_mut(query));
            match claim {
                Some(claim) => claim.push(held),
                None => {
                    state.free.give(&held.demand, &held.shares);
                    state.serve();
                }
            }
        }
        self.changed.notify_waiters();
    }
}

impl State {
    /// Gives what is free to those whose turn it is.
    fn serve(&mut self) {
        while let Some(place) = next(&self.free, self.line.iter().map(|w| w.demands.as_slice())) {
            let Some(waiter) = self.line.remove(place) else {
                return;
            };
            let Some(taken) = self.free.take_all(&waiter.demands) else {
                return;
            };
            let held = waiter.demands.into_iter().zip(taken);
            let held = held.map(|(demand, shares)| Held { demand, shares });
            self.claims.insert(waiter.query, held.collect());
            // Who has gone meanwhile gives it back by dropping its claim.
            let _ = waiter.granted.send(());
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        {
            let mut state = self.ledger.state.lock();
            state.line.retain(|waiter| waiter.query != self.query);
            for held in state.claims.remove(&self.query).unwrap_or_default() {
                state.free.give(&held.demand, &held.shares);
            }
            state.serve();
        }
        self.ledger.changed.notify_waiters();
    }
}

impl Reservation {
    /// Of the GPUs that it has, or has a share of.
    pub fn gpu_ids(&self) -> &[String] {
        &self.gpu_ids
    }

    /// Whether it goes back to a claim.
    pub fn is_claimed(&self) -> bool {
        self.share.is_some()
    }

    /// What it was asked for.
    pub fn demand(&self) -> Option<&Demand> {
        self.held.as_ref().map(|held| &held.demand)
    }

    /// Whole cores of it, at least one; `None` where none were asked for.
    pub fn cores(&self) -> Option<usize> {
        let cpus = self.demand()?.cpus?;
        Some(cpus.max(Amount::ONE).floor())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // It does not count any more when others are told.
        let query = self.share.take().map(|(query, _)| query);
        if let (Some(ledger), Some(held)) = (self.ledger.upgrade(), self.held.take()) {
            ledger.give_back(query.as_deref(), held);
        }
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
