//! Workers that a pool has beyond its first ones go again when they have nothing to do.
//!
//! A pool gets one more worker when its blocks wait longer than they take (`line`). What that
//! worker has is others' again once it has had nothing to do for a while: a query that is
//! through with its burst holds up nobody. Its first workers stay, with what was claimed for
//! them, and so what has started can go on.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::crew::Crew;
use crate::spawn::spawn_named;

/// How often a pool that has grown is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a worker that others wait for is kept when it has nothing to do.
const IDLE_IF_WANTED: Duration = Duration::from_secs(1);

impl Crew {
    /// Sees to it from now on, as long as there is this crew.
    pub(crate) fn watch_idle(self: &Arc<Self>) {
        let mut shrinker = self.shrinker.lock();
        if !self.keeps_workers() || shrinker.is_some() {
            return;
        }
        let crew = Arc::downgrade(self);
        *shrinker = Some(spawn_named("udf-shrink", async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let Some(crew) = crew.upgrade() else { return };
                if crew.line.has_grown() {
                    while crew.let_go(crew.idle_for()) {}
                }
            }
        }));
    }

    /// Ready when a worker that has had nothing to do from `since` on is kept no longer.
    pub(crate) async fn idle_since(&self, since: Instant) {
        // Others may begin to wait for it meanwhile.
        while since.elapsed() < self.idle_for() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How long a worker is kept now.
    fn idle_for(&self) -> Duration {
        let ttl = self.manager.settings.actor_idle_ttl;
        match self.is_waited_for() {
            true => ttl.min(IDLE_IF_WANTED),
            false => ttl,
        }
    }
}
