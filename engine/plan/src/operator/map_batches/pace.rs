//! How many rows a block of a named actor has, so that it takes about as long as it should:
//! pure.
//!
//! Others wait for the same actor, and none of them behind more than one block of ours. What a
//! row takes is learnt from the blocks that are through, the last ones counting most. The
//! first block has few rows, and no block more than a few times as many as one that was
//! through: where each call costs something whatever it has, small blocks say too much.

use std::time::Duration;

use mobula_udfs::{CallMode, UdfCall};

use crate::config::MobulaOptions;

/// Rows of a block before anything is known.
const FIRST_ROWS: usize = 64;
/// How many times as many rows a block has as one that is through, at most.
const GROWTH: usize = 4;
/// How much the last block counts in what a row takes.
const LAST_COUNTS: f64 = 0.3;

/// What a block of `call` should take; `None`: as long as it takes.
pub(super) fn aim(call: &UdfCall, options: &MobulaOptions) -> Option<Duration> {
    let is_cut = call.spec.is_method() && call.mode != CallMode::Groups;
    let aim = options.actor_block_time();
    (is_cut && !aim.is_zero()).then_some(aim)
}

/// What is known of the blocks of one call in one task.
#[derive(Debug)]
pub(super) struct Pace {
    /// What a block should take.
    aim: Duration,
    /// Of the actors' time, as far as it is known.
    row_us: Option<f64>,
    /// Most rows that a block may have for what is known.
    most: usize,
    /// Rows that are through, and whose time is not told yet.
    untimed: usize,
    /// The actors' time for all that are told.
    timed: Duration,
}

impl Pace {
    /// Of blocks that should take `aim`.
    pub(super) fn new(aim: Duration) -> Self {
        Self {
            aim,
            row_us: None,
            most: FIRST_ROWS,
            untimed: 0,
            timed: Duration::ZERO,
        }
    }

    /// A call with so many rows is through, by when all calls had `total` of the actors'
    /// time.
    pub(super) fn note(&mut self, rows: usize, total: Duration) {
        self.most = self.most.max(rows.saturating_mul(GROWTH));
        self.untimed += rows;
        let took = total.saturating_sub(self.timed);
        if took.is_zero() || self.untimed == 0 {
            return;
        }
        let lately = took.as_secs_f64() * 1e6 / self.untimed as f64;
        let before = self.row_us.unwrap_or(lately);
        self.row_us = Some(before + LAST_COUNTS * (lately - before));
        (self.timed, self.untimed) = (total, 0);
    }

    /// Rows that a block should have; at least 1.
    pub(super) fn rows(&self) -> usize {
        let Some(row_us) = self.row_us else {
            return self.most;
        };
        let rows = self.aim.as_secs_f64() * 1e6 / row_us;
        (rows as usize).clamp(1, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of each of `blocks` blocks, whose calls take `call_us` and `row_us` a row.
    fn blocks(blocks: usize, call_us: f64, row_us: f64) -> Vec<usize> {
        let mut pace = Pace::new(Duration::from_millis(50));
        let (mut total, mut rows) = (0.0, vec![]);
        for _ in 0..blocks {
            let next = pace.rows();
            rows.push(next);
            total += call_us + row_us * next as f64;
            pace.note(next, Duration::from_micros(total as u64));
        }
        rows
    }

    #[test]
    fn blocks_take_as_long_as_they_should() {
        for (call_us, row_us, expected) in [
            (0.0, 1000.0, 50),
            (0.0, 100.0, 500),
            (0.0, 1.0, 50_000),
            // A call that costs 10 ms whatever it has.
            (10_000.0, 100.0, 400),
            // One row takes too long: it cannot be cut.
            (0.0, 1e6, 1),
        ] {
            let rows = blocks(60, call_us, row_us);
            let last = *rows.last().unwrap() as f64;
            let found = last / f64::from(expected);
            assert!((0.9..1.1).contains(&found), "{call_us} {row_us}: {rows:?}");
            assert!(rows.windows(2).all(|two| two[1] <= two[0] * GROWTH));
        }
        assert_eq!(blocks(4, 0.0, 0.01), [64, 256, 1024, 4096]);
    }

    #[test]
    fn calls_at_the_same_time_are_timed_together() {
        let mut pace = Pace::new(Duration::from_millis(10));
        let ms = Duration::from_millis;
        // The first to be through finds the time of both.
        pace.note(10, ms(20));
        pace.note(10, ms(20));
        assert_eq!(pace.rows(), 5);
        pace.note(10, ms(40));
        // 20 rows in 20 ms.
        assert_eq!(pace.row_us, Some(2000.0 - LAST_COUNTS * 1000.0));
    }
}
