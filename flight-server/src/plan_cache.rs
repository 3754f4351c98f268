//! Statements that were planned, for when their text comes again.
//!
//! A plan belongs to the session that made it, whose settings decided names, types and
//! rules, and holds the tables, views and functions that it was made over. So it serves
//! its own session alone, and only while its [`Version`] is that of the session: any DDL,
//! any function or actor made anew, any SET gives another one (ADR 25). Which statements
//! may be kept at all, `session` says.
//!
//! Invariants: at most `max` statements, of at most `bytes_max` bytes as they are estimated;
//! the one not used for longest gives way; what is out of date is never given out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::session::Prepared;

/// What a plan was made under: of two that are equal, the same text gives the same plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    /// Of the database: tables, views, schemas, functions, actors.
    pub database: u64,
    /// Of the functions, which a program may change without the database.
    pub functions: u64,
    /// Of the session's settings.
    pub settings: u64,
}

/// A session and a text.
type Key = (String, String);

struct Slot {
    prepared: Arc<Prepared>,
    bytes: usize,
    /// When it was last used, in uses of the cache.
    used: u64,
}

#[derive(Default)]
struct Kept {
    slots: HashMap<Key, Slot>,
    /// Keys by when they were last used.
    order: BTreeMap<u64, Key>,
    uses: u64,
    bytes: usize,
}

/// The statements that are kept.
pub(crate) struct PlanCache {
    kept: Mutex<Kept>,
    max: usize,
    bytes_max: usize,
}

impl PlanCache {
    /// Of at most `max` statements and about `bytes_max` bytes.
    pub fn new(max: usize, bytes_max: usize) -> Self {
        Self {
            kept: Mutex::default(),
            max,
            bytes_max,
        }
    }

    /// What session `session` has planned of `sql` under `version`.
    pub fn get(&self, session: &str, sql: &str, version: Version) -> Option<Arc<Prepared>> {
        let key = (session.to_owned(), sql.to_owned());
        let mut kept = self.kept.lock();
        let slot = kept.slots.get(&key)?;
        if slot.prepared.version != version {
            kept.remove(&key);
            return None;
        }
        let prepared = Arc::clone(&slot.prepared);
        kept.touch(&key);
        Some(prepared)
    }

    /// Keeps `prepared` for its session, instead of what it had of that text.
    pub fn put(&self, session: &str, prepared: &Arc<Prepared>, bytes: usize) {
        let bytes = bytes + 2 * (session.len() + prepared.sql.len());
        if self.max == 0 || bytes > self.bytes_max {
            return;
        }
        let key = (session.to_owned(), prepared.sql.clone());
        let mut kept = self.kept.lock();
        kept.remove(&key);
        let slot = Slot {
            prepared: Arc::clone(prepared),
            bytes,
            used: 0,
        };
        kept.bytes += bytes;
        kept.slots.insert(key.clone(), slot);
        kept.touch(&key);
        while kept.slots.len() > self.max || kept.bytes > self.bytes_max {
            let Some((_, oldest)) = kept.order.pop_first() else {
                break;
            };
            kept.remove(&oldest);
        }
    }

    /// Drops what `session` has, which ends.
    pub fn forget(&self, session: &str) {
        let mut kept = self.kept.lock();
        let own = kept.slots.keys().filter(|(owner, _)| owner == session);
        let own: Vec<Key> = own.cloned().collect();
        for key in own {
            kept.remove(&key);
        }
    }

    /// How many are kept, and their bytes.
    #[cfg(test)]
    pub fn size(&self) -> (usize, usize) {
        let kept = self.kept.lock();
        assert_eq!(kept.slots.len(), kept.order.len());
        let bytes: usize = kept.slots.values().map(|slot| slot.bytes).sum();
        assert_eq!(kept.bytes, bytes);
        (kept.slots.len(), kept.bytes)
    }
}

impl Kept {
    /// Notes that `key` is used now.
    fn touch(&mut self, key: &Key) {
        self.uses += 1;
        let now = self.uses;
        if let Some(slot) = self.slots.get_mut(key) {
            self.order.remove(&slot.used);
            slot.used = now;
            self.order.insert(now, key.clone());
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(slot) = self.slots.remove(key) {
            self.order.remove(&slot.used);
            self.bytes -= slot.bytes;
        }
    }
}
