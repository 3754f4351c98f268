//! How long an actor that has answered an interactive call stays free for the next one.
//!
//! Who asks one question after the other is back a moment after each answer. By then the
//! actor would have begun a batch call, and so have all others of its pool: the question
//! waits for one of them, every time. So the actor waits a little before it goes on with batch
//! calls (as anticipatory disk schedulers do: Iyer and Druschel, SOSP 2001), for no longer
//! than a batch call takes, which is what there is to win. If nobody comes it tries less often,
//! twice as seldom each time. Pure; asked by `line`.

use std::time::{Duration, Instant};

use crate::train::Mean;

/// Least share of answers after which it waits, if nobody ever comes: one in so many.
const LEAST: u32 = 64;

/// What one line knows of those who come back.
#[derive(Debug, Default)]
pub(crate) struct Linger {
    /// Longest time to wait; 0: not at all.
    most: Duration,
    /// What batch calls take lately.
    batch: Mean,
    /// Until when it waits.
    until: Option<Instant>,
    /// In how many answers it waits once; at least 1.
    every: u32,
    /// Answers since it last waited.
    answers: u32,
}

impl Linger {
    pub(crate) fn new(most: Duration) -> Self {
        Self {
            most,
            every: 1,
            ..Self::default()
        }
    }

    /// A batch call took so long.
    pub(crate) fn batch_ended(&mut self, took: Duration) {
        self.batch.add(took);
    }

    /// An interactive call has been answered.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.answers += 1;
        let wait = self.batch.get().unwrap_or_default().min(self.most);
        if wait > Duration::ZERO && self.answers >= self.every {
            self.answers = 0;
            self.until = Some(now + wait);
        }
    }

    /// An interactive call has come.
    pub(crate) fn asked(&mut self) {
        if self.until.take().is_some() {
            self.every = 1;
        }
    }

    /// It does something else.
    pub(crate) fn stop(&mut self) {
        self.until = None;
    }

    /// Until when batch calls are to wait, if they are.
    pub(crate) fn until(&mut self, now: Instant) -> Option<Instant> {
        match self.until {
            Some(until) if until <= now => {
                self.until = None;
                self.every = self.every.saturating_mul(2).min(LEAST);
                None
            }
            until => until,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_waits_as_long_as_a_batch_call_takes_and_no_longer_than_it_may() {
        let now = Instant::now();
        for (most, batch, waits) in [
            (5, None, None),
            (5, Some(2), Some(2)),
            (5, Some(500), Some(5)),
            (0, Some(500), None),
        ] {
            let mut linger = Linger::new(most * MS);
            if let Some(batch) = batch {
                linger.batch_ended(batch * MS);
            }
            assert_eq!(linger.until(now), None);
            linger.answered(now);
            let until = linger.until(now);
            assert_eq!(
                until,
                waits.map(|ms: u32| now + ms * MS),
                "{most} {batch:?}"
            );
        }
    }

    #[test]
    fn it_waits_more_seldom_while_nobody_comes() {
        let mut linger = Linger::new(5 * MS);
        linger.batch_ended(10 * MS);
        let mut now = Instant::now();
        let mut answers_until_it_waits = |linger: &mut Linger| {
            (1..1_000).find(|_| {
                linger.answered(now);
                let waits = linger.until(now).is_some();
                now += 100 * MS;
                assert_eq!(linger.until(now), None);
                waits
            })
        };
        let found: Vec<_> = (0..9)
            .map(|_| answers_until_it_waits(&mut linger).unwrap())
            .collect();
        assert_eq!(found, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
    }

    #[test]
    fn who_comes_back_finds_it_waiting_after_each_answer() {
        let mut linger = Linger::new(5 * MS);
        linger.batch_ended(10 * MS);
        let now = Instant::now();
        // Nobody came three times.
        for _ in 0..3 {
            while linger.until(now).is_none() {
                linger.answered(now);
            }
            assert_eq!(linger.until(now + 5 * MS), None);
        }
        while linger.until(now).is_none() {
            linger.answered(now);
        }
        for _ in 0..10 {
            linger.asked();
            assert_eq!(linger.until(now), None);
            linger.answered(now);
            assert!(linger.until(now).is_some());
        }
        // What it does meanwhile says nothing of who comes.
        linger.stop();
        linger.answered(now);
        assert!(linger.until(now).is_some());
    }
}
