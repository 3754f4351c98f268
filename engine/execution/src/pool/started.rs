//! Which actors of a query were started where, and which are missing: pure.
//!
//! The book says where a query has seats (`line`); here is what was made of them. Actors of a
//! call that are started together on one host share a line there, but for those of a pool
//! that follows its load: each has one of its own, so that it can leave by itself.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use mobula_plan::operator::map_batches::DemandingCall;
use mobula_plan::{PlacedPool, PoolHost};
use url::Url;

use super::line::Held;

/// More parts than a query has.
const PARTS_MAX: u64 = 1 << 32;

/// The actors of one query.
#[derive(Default)]
pub(super) struct Started {
    next_part: u64,
    /// Those that tasks are told of: one for each start of some actors of one call on one
    /// host.
    pub(super) pools: Vec<StartedPool>,
    /// Those that are being built.
    pub(super) starting: Vec<StartedPool>,
    /// Those that end when they are through with what they are at.
    pub(super) leaving: Vec<StartedPool>,
}

/// Actors of a call, started together.
#[derive(Debug, Clone)]
pub(super) struct StartedPool {
    /// The place of its call.
    pub(super) call: usize,
    pub(super) executor_id: String,
    pub(super) epoch: u64,
    pub(super) url: Url,
    pub(super) actors: usize,
    /// Of them, those that it has from the first blocks on.
    pub(super) least: usize,
    pub(super) part: u64,
    /// Which of the call's actors they are.
    pub(super) slots: Vec<u64>,
}

impl Started {
    /// None yet, of the `start`-th one of all queries: one that could not be started, and is
    /// tried again, has other parts.
    pub(super) fn of(start: u64) -> Self {
        Self {
            next_part: start.wrapping_mul(PARTS_MAX),
            ..Self::default()
        }
    }

    /// All that have seats.
    pub(super) fn all(&self) -> impl Iterator<Item = &StartedPool> {
        self.pools.iter().chain(&self.starting).chain(&self.leaving)
    }

    /// Forgets those whose host is lost.
    pub(super) fn forget_lost(&mut self, seats: &[Vec<Held>]) {
        for pools in [&mut self.pools, &mut self.starting, &mut self.leaving] {
            pools.retain(|pool| {
                let of_call = seats.get(pool.call);
                of_call.is_some_and(|held| held.iter().any(|held| pool.is_of(held)))
            });
        }
    }

    /// What is claimed and not started.
    pub(super) fn missing(
        &mut self,
        seats: &[Vec<Held>],
        calls: &[DemandingCall],
    ) -> Vec<StartedPool> {
        let shared = self.new_part();
        let mut missing: Vec<StartedPool> = vec![];
        for (at, (held, call)) in seats.iter().zip(calls).enumerate() {
            let demand = &call.demand;
            let mut slots = self.free_slots(at, held.len()).into_iter();
            let of_call = self.all().filter(|pool| pool.call == at);
            let mut there: Vec<_> = of_call.cloned().collect();
            for (place, held) in held.iter().enumerate() {
                let has = there.iter_mut().find(|p| p.is_of(held) && p.actors > 0);
                if let Some(has) = has {
                    has.actors -= 1;
                    continue;
                }
                let slot = slots.next().unwrap_or_default();
                let begins = usize::from(place < demand.workers);
                let same = |pool: &&mut StartedPool| pool.call == at && pool.is_of(held);
                match missing.iter_mut().find(same) {
                    Some(pool) if !demand.follows => {
                        pool.actors += 1;
                        pool.slots.push(slot);
                        pool.least += begins;
                    }
                    _ => missing.push(StartedPool {
                        call: at,
                        executor_id: held.executor_id.clone(),
                        epoch: held.epoch,
                        url: held.url.clone(),
                        actors: 1,
                        least: begins,
                        part: match demand.follows {
                            true => self.new_part(),
                            false => shared,
                        },
                        slots: vec![slot],
                    }),
                }
            }
        }
        missing
    }

    /// Has up to `by` actors of a call leave, of those that have had nothing to do (`idle`, by
    /// their parts): the longest idle first, of them the youngest. At least `least` stay.
    pub(super) fn retire(
        &mut self,
        call: usize,
        [by, least]: [usize; 2],
        idle: &HashMap<u64, Duration>,
    ) -> Vec<StartedPool> {
        let of_call = self.pools.iter().filter(|pool| pool.call == call);
        let may_go = of_call.clone().count().saturating_sub(least);
        let idle_for = |pool: &StartedPool| idle.get(&pool.part).copied();
        let mut going: Vec<_> = of_call.filter(|p| idle_for(p).is_some()).cloned().collect();
        going.sort_by_key(|pool| Reverse((idle_for(pool), pool.part)));
        going.truncate(by.min(may_go));
        for pool in &going {
            take(&mut self.pools, pool.part);
        }
        self.leaving.extend(going.iter().cloned());
        going
    }

    fn new_part(&mut self) -> u64 {
        self.next_part += 1;
        self.next_part - 1
    }

    /// The first `n` numbers of actors of a call that are not there, the smallest first: who
    /// comes instead of another has its number.
    fn free_slots(&self, call: usize, n: usize) -> Vec<u64> {
        let of_call = self.all().filter(|pool| pool.call == call);
        let taken: BTreeSet<u64> = of_call.flat_map(|pool| pool.slots.clone()).collect();
        (0..).filter(|slot| !taken.contains(slot)).take(n).collect()
    }

    /// What tasks are told.
    pub(super) fn placed(&self, calls: &[DemandingCall]) -> Vec<PlacedPool> {
        let calls = calls.iter().enumerate();
        let placed = calls.map(|(at, call)| PlacedPool {
            call_id: call.demand.call_id,
            actor: String::new(),
            hosts: self
                .pools
                .iter()
                .filter(|pool| pool.call == at)
                .map(|pool| PoolHost {
                    executor_id: pool.executor_id.clone(),
                    url: pool.url.to_string(),
                    actors: pool.actors,
                    part: pool.part,
                    slots: pool.slots.clone(),
                })
                .collect(),
            follows: call.demand.follows,
        });
        placed.collect()
    }
}

impl StartedPool {
    fn is_of(&self, held: &Held) -> bool {
        (self.executor_id.as_str(), self.epoch) == (held.executor_id.as_str(), held.epoch)
    }
}

/// Takes `part` out; `None`: it was not there.
pub(super) fn take(pools: &mut Vec<StartedPool>, part: u64) -> Option<StartedPool> {
    let at = pools.iter().position(|pool| pool.part == part)?;
    Some(pools.remove(at))
}

#[cfg(test)]
#[path = "started_tests.rs"]
mod tests;
