//! What is kept of a lane beside its actor: enough for another one to go on.
//!
//! The owner is who took the lane over last. Whoever was it before is refused, so that a
//! process that stood still cannot write over what came after it.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use mobula_block::size::block_bytes;
use parking_lot::Mutex;

use super::kept_states::KeptShare;
use crate::order::CallOrder;
use crate::process::Process;

/// The last snapshot, the blocks answered since, and whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    /// Whether who calls keeps snapshots as well: another process, for the loss of this one.
    tells: bool,
    kept: Mutex<Kept>,
    /// The owner's.
    process: Mutex<Option<Arc<Process>>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Of the owner; 0: there was none yet.
    generation: u64,
    /// Whether the class of the owner can tell its state.
    keeps_state: bool,
    /// `None`: as the constructor made it.
    snapshot: Option<Buffer>,
    /// Blocks answered after it.
    since: Vec<Seen>,
    /// By which call the owner can be given the state; `None`: nobody has made one.
    by: Option<Arc<CallOrder>>,
    /// Whether the snapshot is still to be told.
    is_news: bool,
    /// Nobody may own it any more: the lane lives elsewhere.
    is_revoked: bool,
    /// Where its bytes are counted.
    share: Option<KeptShare>,
}

impl Kept {
    fn count(&mut self) {
        let since = self.since.iter().map(|seen| block_bytes(&seen.block));
        let bytes = self.snapshot.as_ref().map_or(0, Buffer::len) + since.sum::<usize>();
        if let Some(share) = &mut self.share {
            share.set(bytes);
        }
    }
}

/// A block that was answered, as it was sent.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) block: RecordBatch,
    /// By which call, where an actor has several.
    pub(crate) order: Option<Arc<CallOrder>>,
}

/// What a new owner begins with.
#[derive(Debug)]
pub(crate) struct Inheritance {
    pub(crate) generation: u64,
    pub(crate) snapshot: Option<Buffer>,
    pub(crate) blocks: Vec<Seen>,
}

/// It is not the owner any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fenced;

impl Keeper {
    /// Of a lane that goes on from `snapshot`, and whose caller wants to know of later ones.
    pub(crate) fn from_elsewhere(snapshot: Option<Buffer>) -> Self {
        let kept = Kept {
            snapshot,
            ..Kept::default()
        };
        Self {
            tells: true,
            kept: Mutex::new(kept),
            ..Self::default()
        }
    }

    /// Of a named actor, which counts what is kept of it in `share`, if nobody else does.
    pub(crate) fn of_actor(snapshot: Option<Buffer>, from: u64, share: Option<KeptShare>) -> Self {
        let keeper = Self::from_elsewhere(snapshot);
        let mut kept = keeper.kept.lock();
        kept.generation = from;
        kept.share = share;
        let tells = kept.share.is_none();
        drop(kept);
        Self { tells, ..keeper }
    }

    /// From here on an owner can be given its state by the call of `order`.
    pub(crate) fn called_by(&self, order: &Arc<CallOrder>) {
        self.kept.lock().by.get_or_insert_with(|| Arc::clone(order));
    }

    /// The call by which an owner can be given its state, if there has been any.
    pub(crate) fn order(&self) -> Option<Arc<CallOrder>> {
        self.kept.lock().by.clone()
    }

    /// Whether what `generation` says counts.
    pub(crate) fn is_owner(&self, generation: u64) -> bool {
        let kept = self.kept.lock();
        generation > 0 && kept.generation == generation
    }

    /// Whether its owner is asked about nothing twice that it has answered.
    pub(crate) fn keeps_state(&self) -> bool {
        self.kept.lock().keeps_state
    }

    /// Makes way for a new owner, whose class can tell its state or not.
    ///
    /// # Errors
    /// [`Fenced`] where nobody may be it any more.
    pub(crate) fn pass_on(&self, keeps_state: bool) -> Result<Inheritance, Fenced> {
        let mut kept = self.kept.lock();
        if kept.is_revoked {
            return Err(Fenced);
        }
        kept.generation += 1;
        kept.keeps_state = keeps_state;
        Ok(Inheritance {
            generation: kept.generation,
            snapshot: kept.snapshot.clone(),
            blocks: kept.since.clone(),
        })
    }

    /// The owner is, or will be, `process`.
    pub(crate) fn held_by(&self, process: &Arc<Process>) {
        *self.process.lock() = Some(Arc::clone(process));
        if self.kept.lock().is_revoked {
            process.kill();
        }
    }

    /// Nobody owns it from here on, and the process that did ends, even if it stands still.
    /// The number of its last owner.
    pub(crate) fn revoke(&self) -> u64 {
        let mut kept = self.kept.lock();
        kept.is_revoked = true;
        let last = std::mem::take(&mut kept.generation);
        drop(kept);
        if let Some(process) = self.process.lock().take() {
            process.kill();
        }
        last
    }

    /// The state after all that was answered, if that was not told before.
    pub(crate) fn take_news(&self) -> Option<Buffer> {
        let mut kept = self.kept.lock();
        let is_all = self.tells && kept.since.is_empty();
        let news = is_all && std::mem::take(&mut kept.is_news);
        kept.snapshot.clone().filter(|_| news)
    }

    /// The owner has answered `block` whole, by the call of `order` where it has several,
    /// and maybe told its state after it.
    ///
    /// # Errors
    /// [`Fenced`]: then nobody may hear the answers.
    pub(crate) fn answered(
        &self,
        generation: u64,
        (block, order): (&RecordBatch, Option<&Arc<CallOrder>>),
        snapshot: Option<Buffer>,
    ) -> Result<(), Fenced> {
        let mut kept = self.kept.lock();
        if kept.generation != generation {
            return Err(Fenced);
        }
        match snapshot {
            Some(snapshot) => {
                kept.snapshot = Some(snapshot);
                kept.is_news = true;
                kept.since.clear();
            }
            None if kept.keeps_state => kept.since.push(Seen {
                block: block.clone(),
                order: order.cloned(),
            }),
            None => {}
        }
        kept.count();
        Ok(())
    }

    /// A new owner is through with the first `blocks` of those it was given, and has told
    /// its state.
    ///
    /// # Errors
    /// [`Fenced`].
    pub(crate) fn replayed(
        &self,
        generation: u64,
        blocks: usize,
        snapshot: Buffer,
    ) -> Result<(), Fenced> {
        let mut kept = self.kept.lock();
        if kept.generation != generation {
            return Err(Fenced);
        }
        kept.snapshot = Some(snapshot);
        kept.is_news = true;
        let blocks = blocks.min(kept.since.len());
        kept.since.drain(..blocks);
        kept.count();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::super::kept_states::KeptStates;
    use super::*;

    fn block(n: i64) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![n]));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    fn blocks(inherited: &Inheritance) -> Vec<RecordBatch> {
        let seen = inherited.blocks.iter();
        seen.map(|seen| seen.block.clone()).collect()
    }

    fn state(text: &str) -> Buffer {
        Buffer::from_vec(text.as_bytes().to_vec())
    }

    #[test]
    fn a_new_owner_gets_the_snapshot_and_what_came_after_it() {
        let keeper = Keeper::default();
        let first = keeper.pass_on(true).unwrap();
        assert_eq!((first.generation, first.blocks.len()), (1, 0));
        assert!(first.snapshot.is_none());
        keeper.answered(1, (&block(1), None), None).unwrap();
        keeper
            .answered(1, (&block(2), None), Some(state("two")))
            .unwrap();
        keeper.answered(1, (&block(3), None), None).unwrap();
        keeper.answered(1, (&block(4), None), None).unwrap();
        let second = keeper.pass_on(true).unwrap();
        assert_eq!(second.snapshot, Some(state("two")));
        assert_eq!(blocks(&second), [block(3), block(4)]);
        // It tells its state while it catches up.
        keeper.replayed(2, 1, state("three")).unwrap();
        let third = keeper.pass_on(true).unwrap();
        assert_eq!(third.snapshot, Some(state("three")));
        assert_eq!(blocks(&third), [block(4)]);
    }

    #[test]
    fn an_older_owner_is_refused_whatever_it_says() {
        let keeper = Keeper::default();
        assert!(!keeper.is_owner(0));
        keeper.pass_on(true).unwrap();
        keeper
            .answered(1, (&block(1), None), Some(state("new")))
            .unwrap();
        keeper.pass_on(true).unwrap();
        assert!(keeper.is_owner(2) && !keeper.is_owner(1));
        let late = Some(state("old"));
        assert_eq!(keeper.answered(1, (&block(2), None), late), Err(Fenced));
        assert_eq!(keeper.answered(1, (&block(2), None), None), Err(Fenced));
        assert_eq!(keeper.replayed(1, 0, state("old")), Err(Fenced));
        let next = keeper.pass_on(true).unwrap();
        assert_eq!((next.snapshot, next.blocks.len()), (Some(state("new")), 0));
    }

    #[test]
    fn of_a_class_that_cannot_tell_its_state_nothing_is_kept() {
        let keeper = Keeper::default();
        keeper.pass_on(false).unwrap();
        keeper.answered(1, (&block(1), None), None).unwrap();
        assert!(!keeper.keeps_state());
        assert_eq!(keeper.pass_on(false).unwrap().blocks.len(), 0);
    }

    #[test]
    fn a_lane_that_lives_elsewhere_has_no_owner_here() {
        let keeper = Keeper::from_elsewhere(Some(state("one")));
        let first = keeper.pass_on(true).unwrap();
        assert_eq!(first.snapshot, Some(state("one")));
        keeper.revoke();
        assert!(!keeper.is_owner(1));
        let late = Some(state("late"));
        assert_eq!(keeper.answered(1, (&block(1), None), late), Err(Fenced));
        assert!(keeper.pass_on(true).is_err());
        assert_eq!(keeper.take_news(), None);
    }

    #[test]
    fn only_the_state_after_all_that_was_answered_is_told_and_once() {
        let keeper = Keeper::from_elsewhere(None);
        keeper.pass_on(true).unwrap();
        keeper
            .answered(1, (&block(1), None), Some(state("one")))
            .unwrap();
        keeper.answered(1, (&block(2), None), None).unwrap();
        assert_eq!(keeper.take_news(), None);
        keeper
            .answered(1, (&block(3), None), Some(state("three")))
            .unwrap();
        assert_eq!(keeper.take_news(), Some(state("three")));
        assert_eq!(keeper.take_news(), None);
        // Nobody asks where the lane has been here all the time.
        let here = Keeper::default();
        here.pass_on(true).unwrap();
        here.answered(1, (&block(1), None), Some(state("one")))
            .unwrap();
        assert_eq!(here.take_news(), None);
    }

    #[test]
    fn who_owned_a_named_actor_before_owns_nothing_of_what_comes_after() {
        let states = KeptStates::new(100);
        let first = Keeper::of_actor(None, 0, Some(KeptStates::share(&states)));
        let owner = first.pass_on(true).unwrap().generation;
        let told = Some(state("one"));
        first.answered(owner, (&block(1), None), told).unwrap();
        assert_eq!((states.used(), first.take_news()), (3, None));
        let last = first.revoke();
        // Its state comes with who has it now, who counts it.
        let second = Keeper::of_actor(Some(state("two")), last + 1, None);
        assert!(!second.is_owner(owner));
        let next = second.pass_on(true).unwrap();
        assert!(next.generation > owner + 1);
        assert_eq!(next.snapshot, Some(state("two")));
        let told = Some(state("three"));
        second
            .answered(next.generation, (&block(2), None), told)
            .unwrap();
        assert_eq!(second.take_news(), Some(state("three")));
        assert_eq!(states.used(), 3);
        drop(first);
        assert_eq!(states.used(), 0);
    }
}
