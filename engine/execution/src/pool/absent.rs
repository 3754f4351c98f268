//! Placed actors and pools that are not there: since when and why, and what calls are told.
//!
//! One of a database that was opened, or that has lost its host, is built in the background.
//! Where its constructor fails, calls get the reason until it has been built after all: they
//! would wait for nothing. Where nobody has what it asks for, calls wait, since an executor may
//! come, and `system.demand` tells of what it lacks.

use std::fmt::Display;
use std::time::Instant;

use datafusion::common::Result;
use mobula_udfs::{ActorInfo, ActorState};

use super::placed_actor::{Hosts, PlacedActor, directory_key, external};
use super::scaling::Short;
use crate::error::ExecutionError;
use crate::resource_check::check_actors;

/// One that is not there.
#[derive(Debug, Clone)]
pub(super) struct Absence {
    since: Instant,
    why: Absent,
    reason: String,
}

/// What keeps one from being there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// It could not be built.
    Failed,
    /// It had to wait for too long for others.
    InLine,
    /// No process, nor all of them, have what it asks for.
    Nowhere,
}

impl Hosts {
    /// `placed` is not there, or one of it, as `error` says.
    pub(super) fn is_absent(&self, placed: &PlacedActor, why: Absent, error: &dyn Display) {
        let reason = error.to_string();
        let is_news = {
            let mut absence = placed.absence.lock();
            let before = absence.as_ref().filter(|before| before.why == why);
            let is_news = before.is_none_or(|before| before.reason != reason);
            *absence = Some(Absence {
                since: before.map_or_else(Instant::now, |before| before.since),
                why,
                reason: reason.clone(),
            });
            is_news
        };
        if is_news {
            let text = match why {
                Absent::Failed => "could not be built, which is tried again",
                Absent::InLine | Absent::Nowhere => "waits for room",
            };
            placed.note(format!("{text}: {reason}"));
        }
        let is_nobody_there = placed.members.lock().there.is_empty();
        if why == Absent::Failed && is_nobody_there && self.is_known(placed) {
            let key = directory_key(&placed.spec.name);
            self.directory.fail(&key, reason);
        }
    }

    /// `placed` is there, with all that it must have.
    pub(super) fn is_present(&self, placed: &PlacedActor) {
        if placed.absence.lock().take().is_some() {
            placed.note("it is there".to_owned());
        }
    }

    /// Those of which nobody is there, and why, as actors that have no host.
    pub(super) fn absent(&self) -> Vec<ActorInfo> {
        let placed: Vec<_> = self.placed.lock().values().cloned().collect();
        placed.iter().filter_map(|placed| placed.absent()).collect()
    }

    /// Refuses a `min` of a pool, larger than before, that can never be had. Where nobody has
    /// what one asks for it waits for that as before, whatever its `min`.
    ///
    /// # Errors
    /// How many there is room for, or may be.
    pub(super) fn check_more(&self, placed: &PlacedActor, min: usize) -> Result<()> {
        let (what, hosts) = (placed.what(), self.hosts());
        if check_actors(&what, &placed.demand(1), &hosts).is_err() {
            return Ok(());
        }
        let checked = check_actors(&what, &placed.demand(min), &hosts);
        checked.map_err(external)?;
        self.check_size(placed, min).map_err(external)
    }

    /// Refuses a pool that would have more than there may be, at least `min`, beside others.
    ///
    /// # Errors
    /// How many there may be, and are.
    pub(super) fn check_size(
        &self,
        placed: &PlacedActor,
        min: usize,
    ) -> std::result::Result<(), ExecutionError> {
        if placed.spec.pool.is_none() {
            return Ok(());
        }
        let (hosts, actors_max) = (self.hosts(), self.actors.actors_max());
        let is_here = hosts.iter().any(|host| host.id == self.executor_id);
        let here = self.actors.list().into_iter();
        let here = here.filter(|actor| is_here && actor.member == 0).count();
        let all: Vec<_> = self.placed.lock().values().cloned().collect();
        let others = all.iter().filter(|p| !std::ptr::eq(p.as_ref(), placed));
        let others = here
            + others
                .map(|other| other.members.lock().count())
                .sum::<usize>();
        let most = actors_max * hosts.len();
        match min + others <= most {
            true => Ok(()),
            false => Err(ExecutionError::PoolTooLarge {
                pool: placed.spec.name.clone(),
                min,
                actors_max,
                hosts: hosts.len(),
                others,
            }),
        }
    }
}

impl PlacedActor {
    /// Is shown as what it did last, if it is a pool.
    fn note(&self, text: String) {
        if let Some(pool) = self.following.lock().as_mut() {
            pool.note(text);
        }
    }

    /// It is in line now, or nobody lacks anything for it.
    pub(super) fn has_room(&self) {
        {
            let mut absence = self.absence.lock();
            let Some(absence) = absence.as_mut().filter(|a| a.why == Absent::Nowhere) else {
                return;
            };
            absence.why = Absent::InLine;
            absence.reason.clear();
        }
        self.note("somebody has what it asks for now: it is its turn next".to_owned());
    }

    /// What it lacks that nobody has.
    pub(super) fn lacking(&self) -> Option<Short> {
        let absence = self.absence.lock();
        let absence = absence.as_ref().filter(|a| a.why == Absent::Nowhere)?;
        Some(Short {
            claim: self.claim_name.clone(),
            demand: self.spec.demand.clone(),
            actors: self.least(),
            since: absence.since,
        })
    }

    fn absent(&self) -> Option<ActorInfo> {
        let absence = self.absence.lock().clone()?;
        if !self.members.lock().there.is_empty() {
            return None;
        }
        Some(ActorInfo {
            name: self.spec.name.clone(),
            class: self.spec.class.name.clone(),
            state: match absence.why {
                Absent::Failed => ActorState::Failed,
                Absent::InLine | Absent::Nowhere => ActorState::Starting,
            },
            pid: None,
            queue: 0,
            calls: 0,
            busy_share: 0.0,
            restarts: 0,
            memory_bytes: 0,
            age: absence.since.elapsed(),
            last_error: absence.reason,
            is_pooled: self.spec.pool.is_some(),
            member: 0,
        })
    }
}
