//! How busy named actors are: what a host tells of its own, and what a process knows of
//! those elsewhere by the blocks that its own tasks have sent them.
//!
//! A task asks the hosts before a call that somebody waits for (`ends/asking`). Between the
//! answer and the block other tasks may choose, too: those of the same process see each
//! other's blocks here, so that questions that come at once go to different actors.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use mobula_proto::pool::{AskLoads, ToldLoads};
use mobula_udfs::{ActorHost, Priority};
use parking_lot::Mutex;
use prost::Message;

use crate::actor_calls::as_us;

/// What a host says of an actor that it does not have.
pub(super) const NOT_HERE: u64 = u64::MAX;

/// The named actors that tasks of this process call, by executor and member.
#[derive(Debug, Default)]
pub struct Loads {
    known: Mutex<HashMap<(String, String), Weak<Load>>>,
}

/// Blocks of this process on their way to one actor.
#[derive(Debug, Default)]
pub(super) struct Load {
    blocks: AtomicUsize,
}

impl Loads {
    /// That of the actor that `executor` calls `member`.
    pub(super) fn of(&self, executor: &str, member: String) -> Arc<Load> {
        let mut known = self.known.lock();
        let key = (executor.to_owned(), member);
        if let Some(load) = known.get(&key).and_then(Weak::upgrade) {
            return load;
        }
        known.retain(|_, load| load.strong_count() > 0);
        let load = Arc::new(Load::default());
        known.insert(key, Arc::downgrade(&load));
        load
    }
}

impl Load {
    pub(super) fn add(&self) {
        self.blocks.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn take(&self) {
        self.blocks.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn blocks(&self) -> usize {
        self.blocks.load(Ordering::Relaxed)
    }
}

/// How long a block would wait for the actors of `host` that are `asked` about.
pub fn answer(host: &ActorHost, asked: &AskLoads) -> Vec<u8> {
    let priority = Priority {
        is_interactive: asked.is_interactive,
        is_said: asked.is_priority_said,
    };
    let waits = asked.members.iter().map(|member| {
        let wait = host.wait_expected(member, &asked.query_id, priority);
        wait.map_or(NOT_HERE, as_us)
    });
    let told = ToldLoads {
        waits_us: waits.collect(),
    };
    told.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_a_process_see_each_others_blocks_while_there_are_any() {
        let loads = Loads::default();
        let one = loads.of("e", "m#1".into());
        one.add();
        assert_eq!(loads.of("e", "m#1".into()).blocks(), 1);
        assert_eq!(loads.of("f", "m#1".into()).blocks(), 0);
        assert_eq!(loads.of("e", "m#2".into()).blocks(), 0);
        one.take();
        assert_eq!(loads.of("e", "m#1".into()).blocks(), 0);
        one.add();
        drop(one);
        assert_eq!(loads.of("e", "m#1".into()).blocks(), 0, "nobody calls it");
        assert_eq!(loads.known.lock().len(), 1);
    }
}
