//! A placed actor, or pool, in place of another of its name.
//!
//! The new one is built beside the old one, which serves until it is there. Where there is
//! no room for both, what the old one has goes to the new one at once, past who else waits,
//! and the old one ends first: its callers wait meanwhile. A statement that fails leaves
//! things as they were: should the new one not come to be, the old one is built again,
//! without what it kept.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::common::Result;
use mobula_udfs::resources::classes;

use super::placed_actor::{Hosts, PlacedActor, external};
use crate::error::NotReplaced;
use crate::spawn::spawn_named;

/// How often it is tried to have what the old one has.
const TRY_EVERY: Duration = Duration::from_millis(50);
/// Between tries to build actors that should be there.
const AGAIN: Duration = Duration::from_secs(1);

impl Hosts {
    /// The one that `placed` is to replace, if that is there.
    fn old_of(&self, placed: &PlacedActor) -> Option<Arc<PlacedActor>> {
        let old = self.placed.lock().get(&placed.spec.name).cloned()?;
        let is_other = !std::ptr::eq(old.as_ref(), placed);
        (is_other && old.members.lock().is_filled).then_some(old)
    }

    /// Has `placed`, which waits in line, take over what the one has that it replaces, as soon
    /// as that is enough. Never ends.
    pub(super) async fn take_over(&self, placed: &PlacedActor) {
        let Some(starter) = &self.starter else {
            return pending().await;
        };
        loop {
            tokio::time::sleep(TRY_EVERY).await;
            let Some(old) = self.old_of(placed) else {
                continue;
            };
            let (new, claim) = (&placed.claim_name, &old.claim_name);
            if starter.line.take_over(new, claim) {
                *placed.instead_of.lock() = Some(old);
                return pending().await;
            }
        }
    }

    /// Where this process is all there is: waits until there is room for `placed`, or the one
    /// that it replaces is there and has some of what it asks for, which `placed` takes over;
    /// for no longer than it may take to be built.
    pub(super) async fn take_over_here(&self, placed: &PlacedActor) {
        let demands = [placed.spec.demand.clone()];
        let mine = classes(&demands);
        let patience = placed.spec.init_timeout.unwrap_or(self.init_timeout);
        let since = Instant::now();
        while !self.has_room_here(placed) && since.elapsed() < patience {
            let known = self.placed.lock().get(&placed.spec.name).cloned();
            let old = known.filter(|known| {
                let has_some = !known.spec.demand.classes().is_disjoint(&mine);
                has_some && !std::ptr::eq(known.as_ref(), placed)
            });
            let Some(old) = old else { return };
            // It may just be being built.
            if old.members.lock().is_filled {
                *placed.instead_of.lock() = Some(old);
                return;
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
    }

    /// Ends the one whose resources `placed` has taken over.
    pub(super) async fn end_old_first(&self, placed: &PlacedActor) {
        let old = placed.instead_of.lock().clone();
        let Some(old) = old else { return };
        let actor = &placed.spec.name;
        tracing::info!(
            actor,
            "a named actor ends before the one in place of it is built"
        );
        // Who calls it waits for the new one.
        self.publish(&old, &[]);
        self.end(&old).await;
    }

    fn has_room_here(&self, placed: &PlacedActor) -> bool {
        let mut free = self.actors.free();
        (0..placed.least()).all(|_| free.try_take(&placed.spec.demand).is_some())
    }

    /// The one for which `old` has ended will not come to be: `old` is built again, unless it
    /// was dropped or replaced meanwhile.
    pub(super) fn restore(self: &Arc<Self>, old: Option<Arc<PlacedActor>>) {
        let Some(old) = old else { return };
        let known = self.placed.lock().get(&old.spec.name).cloned();
        if known.is_some_and(|known| Arc::ptr_eq(&known, &old)) {
            self.fill_later(&old);
        }
    }

    /// Builds `placed` in the background, again and again until it is there or nobody has it.
    pub(super) fn fill_later(self: &Arc<Self>, placed: &Arc<PlacedActor>) {
        let (shared, actor) = (Arc::downgrade(self), Arc::downgrade(placed));
        let retry = async move {
            // An executor that it needs may come after an hour: that is said once.
            let mut told = String::new();
            while let (Some(shared), Some(placed)) = (shared.upgrade(), actor.upgrade()) {
                let name = &placed.spec.name;
                let sql = format!("-- \"{name}\" of the catalog");
                let listed = shared.queries.list(&placed.claim_name, &sql);
                let forgotten = shared.forgotten(&placed);
                let Err(error) = shared.fill(&placed, &listed, forgotten).await else {
                    return;
                };
                if !shared.is_known(&placed) {
                    return;
                }
                let text = error.to_string();
                if text != told {
                    let actor = name;
                    tracing::warn!(%error, actor, "a named actor is not there; it is tried again");
                    told = text;
                }
                drop((listed, shared, placed));
                tokio::time::sleep(AGAIN).await;
            }
        };
        self.own(spawn_named("actor-later", retry));
    }
}

/// What came of building `placed`: an error says if the old one had to end for it.
pub(super) fn said(placed: &PlacedActor, filled: Result<()>) -> Result<()> {
    let Err(source) = filled else { return Ok(()) };
    Err(match placed.instead_of.lock().is_some() {
        true => external(NotReplaced {
            actor: placed.spec.name.clone(),
            source,
        }),
        false => source,
    })
}
