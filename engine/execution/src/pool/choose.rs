//! Which host gets the next block: pure.
//!
//! The one that is likely to be through with it first: blocks on their way to it, by the
//! number of its actors, times what a block takes there lately, after what others have
//! there, as far as that is known. A host that nothing is
//! known of yet is as fast as the fastest, and so gets some. Ties go to the process that
//! the task is in, then to the first.

/// What a block is taken to need where nobody has answered one yet.
pub(super) const UNKNOWN_US: f64 = 1000.0;

/// A host as a task sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EndView {
    pub actors: usize,
    /// Blocks of this task on their way to it.
    pub in_flight: usize,
    /// Blocks that may be.
    pub credits: usize,
    /// What one actor there takes for a block, in microseconds; `None`: nobody knows.
    pub mean_us: Option<f64>,
    /// How long blocks of others keep it, in microseconds; 0 where nobody knows.
    pub others_us: f64,
    pub is_local: bool,
    /// Whether it answers.
    pub is_there: bool,
}

/// The place of the host for the next block; `None`: all have as many as they may.
pub fn choose(ends: &[EndView]) -> Option<usize> {
    let known = ends.iter().filter(|end| end.is_there);
    let fastest = known.filter_map(|end| end.mean_us).reduce(f64::min);
    let usable = ends.iter().enumerate();
    let usable = usable.filter(|(_, end)| end.is_there && end.in_flight < end.credits);
    let at = |end: &EndView| {
        let Some(mean_us) = end.mean_us.or(fastest) else {
            return UNKNOWN_US + end.others_us;
        };
        let actors = end.actors.max(1) as f64;
        // Those that come first take the actors that are free.
        let turns = ((end.in_flight + 1) as f64 / actors).max(1.0);
        turns * mean_us.max(1.0) + end.others_us
    };
    usable
        .min_by(|(_, a), (_, b)| {
            let by_end = at(a).total_cmp(&at(b));
            // Idle actors before a second block to one that has one.
            let load = |end: &EndView| end.in_flight as f64 / end.actors.max(1) as f64;
            by_end
                .then(load(a).total_cmp(&load(b)))
                .then(b.is_local.cmp(&a.is_local))
        })
        .map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(actors: usize, mean_us: Option<f64>) -> EndView {
        EndView {
            actors,
            in_flight: 0,
            credits: 2 * actors,
            mean_us,
            others_us: 0.0,
            is_local: false,
            is_there: true,
        }
    }

    #[test]
    fn free_actors_first_then_here_then_in_turn() {
        let mut ends = [end(1, None), end(1, None), end(2, None)];
        ends[1].is_local = true;
        let mut order = vec![];
        while let Some(at) = choose(&ends) {
            ends[at].in_flight += 1;
            order.push(at);
        }
        assert_eq!(order, [1, 0, 2, 2, 1, 0, 2, 2]);
        ends[0].in_flight -= 1;
        assert_eq!(choose(&ends), Some(0));
        ends[0].is_there = false;
        assert_eq!(choose(&ends), None);
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn one_that_others_keep_is_passed_over_for_as_long() {
        let mut ends = [end(1, Some(10.0)), end(1, Some(10.0))];
        ends[0].others_us = 15.0;
        let mut order = vec![];
        while let Some(at) = choose(&ends) {
            ends[at].in_flight += 1;
            order.push(at);
        }
        assert_eq!(order, [1, 1, 0, 0]);
        // Also where nothing is known of what a block takes.
        let mut ends = [end(1, None), end(1, None), end(1, None)];
        (ends[0].others_us, ends[1].others_us) = (900.0, 500.0);
        ends[2].others_us = 600.0;
        assert_eq!(choose(&ends), Some(1));
    }

    /// Blocks that each of `means_us` gets of `blocks`, with actors that take so long,
    /// and the time until all are through, by a simulation of the task's side.
    fn simulate(means_us: &[f64], blocks: usize) -> (Vec<usize>, f64) {
        let mut ends: Vec<_> = means_us.iter().map(|_| end(1, None)).collect();
        let mut done_at: Vec<Vec<f64>> = vec![vec![]; ends.len()];
        let mut got = vec![0; ends.len()];
        let (mut left, mut now) = (blocks, 0.0_f64);
        loop {
            while left > 0 {
                let Some(at) = choose(&ends) else { break };
                let begins = done_at[at].last().copied().unwrap_or(now).max(now);
                done_at[at].push(begins + means_us[at]);
                ends[at].in_flight += 1;
                got[at] += 1;
                left -= 1;
            }
            let next = done_at.iter().enumerate();
            let next = next.filter_map(|(at, times)| times.first().map(|time| (at, *time)));
            let Some((at, time)) = next.min_by(|a, b| a.1.total_cmp(&b.1)) else {
                return (got, now);
            };
            now = time;
            done_at[at].remove(0);
            ends[at].in_flight -= 1;
            ends[at].mean_us = Some(means_us[at]);
        }
    }

    #[test]
    fn one_ten_times_slower_gets_a_tenth_and_holds_nobody_up() {
        let (got, took) = simulate(&[100.0, 100.0, 100.0, 1000.0], 3100);
        let ideal = 3100.0 / (3.0 / 100.0 + 1.0 / 1000.0);
        assert!(took <= 1.05 * ideal, "{took} {ideal}");
        let share = got[3] as f64 / got[0] as f64;
        assert!((0.08..0.12).contains(&share), "{got:?}");
    }
}
