//! The actors that a task reaches in one process, and what it knows of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mobula_plan::PoolHost;
use mobula_udfs::UdfPool;

use crate::pool::choose::{EndView, UNKNOWN_US};
use crate::pool::loads::Load;

/// A member that is built anew is asked again after so long.
const DOWN_FOR: Duration = Duration::from_millis(300);
/// How much the last block counts in what blocks take lately.
const LAST_COUNTS: f64 = 0.3;

/// Some actors, in one process.
#[derive(Debug)]
pub(super) struct End {
    pub(super) host: PoolHost,
    /// Blocks that may be on their way to it.
    pub(super) credits: usize,
    pub(super) pool: Arc<dyn UdfPool>,
    pub(super) is_local: bool,
    pub(super) in_flight: usize,
    /// Of a named actor elsewhere: blocks of all tasks of this process.
    pub(super) load: Option<Arc<Load>>,
    /// How long a block would wait there, and when its host has told so.
    pub(super) told: Option<(Duration, Instant)>,
    pub(super) mean_us: Option<f64>,
    /// What the mean was made from.
    pub(super) seen: (u64, Duration),
    pub(super) lost_at: Option<Instant>,
    /// Whether its host is there, and builds its actor anew.
    pub(super) is_down: bool,
    /// The coordinator does not name it any more.
    pub(super) is_leaving: bool,
}

impl End {
    pub(super) fn view(&self) -> EndView {
        EndView {
            actors: self.host.actors,
            in_flight: self.in_flight,
            credits: self.credits,
            mean_us: self.mean_us,
            // Of its own that is counted by the block.
            others_us: match self.in_flight {
                0 => self.others_us(),
                _ => 0.0,
            },
            is_local: self.is_local,
            is_there: self.is_there(),
        }
    }

    /// How long blocks of others keep it, as far as this process knows.
    pub(super) fn others_us(&self) -> f64 {
        let told = self
            .told
            .map(|(wait, at)| wait.saturating_sub(at.elapsed()));
        let told = told.unwrap_or_default().max(self.pool.wait_expected());
        let mean_us = self.mean_us.unwrap_or(UNKNOWN_US);
        told.as_micros() as f64 + self.blocks_of_others() as f64 * mean_us
    }

    /// Blocks of other tasks of this process on their way to it, if it is elsewhere.
    pub(super) fn blocks_of_others(&self) -> usize {
        let all = self.load.as_ref().map_or(0, |load| load.blocks());
        all.saturating_sub(self.in_flight)
    }

    pub(super) fn is_there(&self) -> bool {
        !self.is_lost() && !self.is_leaving
    }

    /// Whether one of its actors has nothing of this task to do.
    pub(super) fn is_free(&self) -> bool {
        self.is_there() && self.in_flight < self.host.actors
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost_at.is_some()
    }

    pub(super) fn is_of(&self, host: &PoolHost) -> bool {
        (&self.host.executor_id, self.host.part) == (&host.executor_id, host.part)
    }

    /// What its actor is built anew for long enough gets blocks again, if `host` names it.
    pub(super) fn try_again(&mut self, host: &PoolHost) {
        let down_for = self.lost_at.filter(|_| self.is_down).map(|at| at.elapsed());
        if self.is_of(host) && down_for.is_some_and(|time| time >= DOWN_FOR) {
            (self.lost_at, self.is_down) = (None, false);
        }
    }

    /// Takes what its actors have done meanwhile into account.
    pub(super) fn learn(&mut self) {
        let stats = self.pool.stats();
        let (calls, time) = self.seen;
        let new = stats.calls.saturating_sub(calls);
        if new > 0 {
            let lately = stats.user_time.saturating_sub(time).as_micros() as f64 / new as f64;
            let before = self.mean_us.unwrap_or(lately);
            self.mean_us = Some(before + LAST_COUNTS * (lately - before));
            self.seen = (stats.calls, stats.user_time);
        }
    }
}
