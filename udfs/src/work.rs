//! What the workers of one pool do over time: what decides how many there should be.

use std::time::{Duration, Instant};

/// What the actors of a pool do, and have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ActorLoad {
    /// Blocks in line.
    pub queue: usize,
    /// Whether one of them is at work.
    pub is_at_work: bool,
    /// Whether one of them has ever been ready for a block.
    pub is_ready: bool,
    /// Blocks that they are through with.
    pub calls: u64,
    /// Time that at least one was at work, until now.
    pub busy: Duration,
}

/// Counts it.
#[derive(Debug, Default)]
pub(crate) struct Work {
    at_work: usize,
    /// Since when there has been one at work.
    since: Option<Instant>,
    busy: Duration,
    calls: u64,
    was_ready: bool,
}

impl Work {
    /// One begins.
    pub(crate) fn begin(&mut self) {
        self.at_work += 1;
        self.since.get_or_insert_with(Instant::now);
    }

    /// One that has begun is through.
    pub(crate) fn end(&mut self) {
        self.at_work = self.at_work.saturating_sub(1);
        if self.at_work == 0 {
            let took = self.since.take().map(|since| since.elapsed());
            self.busy += took.unwrap_or_default();
        }
    }

    /// There is one that is ready.
    pub(crate) fn ready(&mut self) {
        self.was_ready = true;
    }

    /// So many blocks are done.
    pub(crate) fn count(&mut self, blocks: u64) {
        self.calls += blocks;
    }

    /// All of it, with so many blocks in line.
    pub(crate) fn load(&self, queue: usize) -> ActorLoad {
        let now = self.since.map(|since| since.elapsed());
        ActorLoad {
            queue,
            is_at_work: self.at_work > 0,
            is_ready: self.was_ready,
            calls: self.calls,
            busy: self.busy + now.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_once_however_many_are_at_work() {
        let mut work = Work::default();
        assert_eq!(work.load(0), ActorLoad::default());
        work.begin();
        work.begin();
        work.ready();
        std::thread::sleep(Duration::from_millis(5));
        work.end();
        work.count(3);
        let during = work.load(2);
        assert!(during.is_at_work && during.is_ready);
        assert_eq!((during.queue, during.calls), (2, 3));
        assert!(during.busy >= Duration::from_millis(5));
        work.end();
        let after = work.load(0);
        assert!(!after.is_at_work && after.is_ready);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(work.load(0), after);
    }
}
