//! How many rows a block of a named actor has, so that it takes about as long as it should:
//! pure.
//!
//! Others wait for the same actor, and none of them behind more than one block of ours. What
//! a call costs whatever it has, and what each row adds, is learnt from the blocks that are
//! through, the last ones counting most. The first block has one row, and no block more than
//! a few times as many as one that was through. Blocks are not cut so small that what each
//! call costs by itself takes more than a fifth of the actor's time.

use std::time::Duration;

use mobula_udfs::{CallMode, UdfCall};

use crate::config::MobulaOptions;

/// Rows of a block before anything is known: others may wait for it.
const FIRST_ROWS: usize = 1;
/// How many times as many rows a block has as one that is through, at most.
const GROWTH: usize = 16;
/// A call that takes such a part of what was learnt shows that something else is the case: the
/// first of a process takes long.
const QUICK: f64 = 0.25;
/// What older calls still count when one more is through.
const OLDER_COUNT: f64 = 0.9;
/// How many times the cost of a call its rows should take at least.
const WORTH: f64 = 4.0;
/// The spread of blocks' rows, by their mean, under which they say nothing of what a row adds.
const SPREAD: f64 = 0.1;

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
    costs: Costs,
    /// Most rows that a block may have for what is known.
    most: usize,
    /// Calls that are through, and whose time is not told yet, and their rows.
    untimed: (usize, usize),
    /// The actors' time for all that are told.
    timed: Duration,
}

impl Pace {
    /// Of blocks that should take `aim`.
    pub(super) fn new(aim: Duration) -> Self {
        Self {
            aim,
            costs: Costs::default(),
            most: FIRST_ROWS,
            untimed: (0, 0),
            timed: Duration::ZERO,
        }
    }

    /// A call with so many rows is through, by when all calls had `total` of the actors'
    /// time.
    pub(super) fn note(&mut self, rows: usize, total: Duration) {
        self.most = self.most.max(rows.saturating_mul(GROWTH));
        self.untimed = (self.untimed.0 + 1, self.untimed.1 + rows);
        let took = total.saturating_sub(self.timed);
        let (calls, rows) = self.untimed;
        if took.is_zero() || rows == 0 {
            return;
        }
        self.costs
            .note(calls as f64, rows as f64, took.as_secs_f64() * 1e6);
        (self.timed, self.untimed) = (total, (0, 0));
    }

    /// Rows that a block should have; at least 1.
    pub(super) fn rows(&self) -> usize {
        let rows = self.costs.rows(self.aim.as_secs_f64() * 1e6);
        rows.map_or(self.most, |rows| (rows as usize).clamp(1, self.most))
    }
}

/// A straight line through what calls took by their rows: sums over calls, older ones
/// counting less.
#[derive(Debug, Default)]
struct Costs {
    calls: f64,
    rows: f64,
    us: f64,
    rows_rows: f64,
    rows_us: f64,
}

impl Costs {
    /// So many calls with so many rows together took `us` microseconds.
    fn note(&mut self, calls: f64, rows: f64, us: f64) {
        let is_quick = |by: f64, all: f64| us / by < QUICK * self.us / all;
        if is_quick(calls, self.calls) && is_quick(rows, self.rows) {
            *self = Self::default();
        }
        let older = OLDER_COUNT.powf(calls);
        self.calls = older * self.calls + calls;
        self.rows = older * self.rows + rows;
        self.us = older * self.us + us;
        self.rows_rows = older * self.rows_rows + rows * rows / calls;
        self.rows_us = older * self.rows_us + rows * us / calls;
    }

    /// The rows of a call that should take `aim_us`; `None`: as many as may be.
    fn rows(&self, aim_us: f64) -> Option<f64> {
        if self.calls == 0.0 {
            return None;
        }
        let (rows, us) = (self.rows / self.calls, self.us / self.calls);
        let variance = self.rows_rows / self.calls - rows * rows;
        if variance < (SPREAD * rows).powi(2) {
            // As if a call by itself cost nothing. Whether that is so shows with another size.
            let by_rows = (aim_us * rows / us).max(1.0);
            let is_settled = (0.75..1.5).contains(&(by_rows / rows));
            return Some(if is_settled { 2.0 * by_rows } else { by_rows });
        }
        let slope = (self.rows_us / self.calls - rows * us) / variance;
        let row_us = slope.clamp(0.0, us / rows);
        let call_us = us - row_us * rows;
        (row_us > 0.0).then(|| ((aim_us - call_us) / row_us).max(WORTH * call_us / row_us))
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

    /// The mean of the last blocks.
    fn settled(rows: &[usize]) -> f64 {
        let last = &rows[rows.len() - 20..];
        last.iter().sum::<usize>() as f64 / last.len() as f64
    }

    #[test]
    fn blocks_take_as_long_as_they_should() {
        for (call_us, row_us, expected) in [
            (0.0, 1000.0, 50.0),
            (0.0, 100.0, 500.0),
            (0.0, 1.0, 50_000.0),
            // A call that costs 5 ms whatever it has.
            (5_000.0, 100.0, 450.0),
            // One row takes too long: it cannot be cut.
            (0.0, 1e6, 1.0),
        ] {
            let rows = blocks(100, call_us, row_us);
            // With one of twice the size now and then, see `Costs::rows`.
            let found = settled(&rows) / expected;
            assert!((0.9..1.3).contains(&found), "{call_us} {row_us}: {rows:?}");
            assert!(rows.windows(2).all(|two| two[1] <= two[0] * GROWTH));
        }
        assert_eq!(blocks(4, 0.0, 0.01), [1, 16, 256, 4096]);
    }

    #[test]
    fn calls_that_cost_much_by_themselves_are_not_cut_to_pieces() {
        // Rows add nothing: as many as there are.
        let rows = blocks(8, 60_000.0, 0.0);
        assert!(*rows.last().unwrap() >= GROWTH.pow(4), "{rows:?}");
        let rows = blocks(8, 50_000.0, 0.01);
        assert!(*rows.last().unwrap() >= GROWTH.pow(4), "{rows:?}");
        // Half a second, and a millisecond a row: two seconds of rows.
        let rows = blocks(100, 500_000.0, 1000.0);
        assert!((1800.0..2400.0).contains(&settled(&rows)), "{rows:?}");
    }

    #[test]
    fn what_rows_take_may_change_and_vary() {
        let mut pace = Pace::new(Duration::from_millis(50));
        let (mut total, mut late) = (0.0, vec![]);
        for at in 0..300_u32 {
            let next = pace.rows();
            let row_us = if at < 100 { 1000.0 } else { 100.0 };
            // By a third up and down.
            let noise = 1.0 + (f64::from(at * 7919 % 101) / 101.0 - 0.5) * 0.66;
            total += row_us * next as f64 * noise;
            pace.note(next, Duration::from_micros(total as u64));
            late.push(next);
        }
        let found = settled(&late[..100]);
        assert!((35.0..100.0).contains(&found), "{late:?}");
        let found = settled(&late);
        assert!((350.0..1000.0).contains(&found), "{late:?}");
    }

    #[test]
    fn a_slow_first_call_is_forgotten() {
        let mut pace = Pace::new(Duration::from_millis(50));
        let mut total = Duration::from_secs(2);
        pace.note(1, total);
        assert!(pace.rows() <= 2);
        for _ in 0..3 {
            let rows = pace.rows();
            total += Duration::from_micros(100 * rows as u64);
            pace.note(rows, total);
        }
        assert!((250..=1000).contains(&pace.rows()), "{pace:?}");
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
        assert_eq!((pace.untimed, pace.timed), ((0, 0), ms(40)));
    }
}
