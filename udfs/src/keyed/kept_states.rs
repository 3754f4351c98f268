//! How much is kept of the states of named actors, and how much may be.
//!
//! They outlive queries, so no query's memory counts them. Each who keeps one has a share,
//! which says how much it is now and gives that back when it goes; blocks for such actors
//! are refused while all together are more than there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::UdfError;

/// What is kept in one process.
#[derive(Debug)]
pub struct KeptStates {
    used: AtomicUsize,
    most: usize,
}

/// What is kept of one actor.
#[derive(Debug)]
pub struct KeptShare {
    of: Arc<KeptStates>,
    bytes: usize,
}

impl KeptStates {
    /// So many bytes, `most`, may be kept before blocks are refused.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            most,
        })
    }

    /// A share with nothing in it.
    pub fn share(states: &Arc<Self>) -> KeptShare {
        KeptShare {
            of: Arc::clone(states),
            bytes: 0,
        }
    }

    /// Bytes that are kept.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether `function` may add to what is kept.
    ///
    /// # Errors
    /// [`UdfError::StatesMax`].
    pub fn check(&self, function: &str) -> Result<(), UdfError> {
        let (used, limit) = (self.used(), self.most);
        match used > limit {
            true => Err(UdfError::StatesMax {
                function: function.to_owned(),
                used,
                limit,
            }),
            false => Ok(()),
        }
    }
}

impl KeptShare {
    /// From now on it is so many bytes.
    pub fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        self.of.used.fetch_add(bytes, Ordering::Relaxed);
        self.of.used.fetch_sub(before, Ordering::Relaxed);
    }

    /// What all of them are counted in.
    pub fn states(&self) -> &KeptStates {
        &self.of
    }
}

impl Drop for KeptShare {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_counted_together_while_they_are_there() {
        let states = KeptStates::new(10);
        let (mut one, mut other) = (KeptStates::share(&states), KeptStates::share(&states));
        one.set(4);
        other.set(6);
        assert!(states.check("f").is_ok());
        one.set(5);
        let refused = states.check("f").unwrap_err().to_string();
        assert!(refused.contains("take 11 bytes"), "{refused}");
        drop(other);
        assert_eq!(states.used(), 5);
        assert!(states.check("f").is_ok());
    }
}
