//! What the actors of a pool do, from look to look: pure.
//!
//! Hosts tell running totals of each actor; here they become what a pool has to do now: who
//! is at work, who has had nothing to do for how long, what a block takes lately.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How much the last blocks count in what a block takes lately.
const LAST_COUNTS: f64 = 0.3;

/// What one actor has done until now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// Blocks in its line.
    pub queue: usize,
    /// Blocks that it is through with.
    pub calls: u64,
    /// Time at work, the block that it is at included.
    pub busy: Duration,
    pub is_at_work: bool,
    /// It has ended and could not be built, which is tried again.
    pub has_failed: bool,
}

/// What all of them do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// Blocks in their lines.
    pub queue: usize,
    /// Those at work; one that nothing is known of counts as one.
    pub busy: usize,
    /// The share of the time since the last look that they were at work.
    pub busy_share: f64,
    /// What a block takes lately.
    pub mean: Option<Duration>,
    /// Those that have nothing to do, and for how long.
    pub idle: Vec<(u64, Duration)>,
}

/// Remembers them.
#[derive(Debug)]
pub struct Watch {
    looked_at: Instant,
    actors: HashMap<u64, Known>,
    mean: Option<Duration>,
    /// Time at work that is in no mean yet: no block has ended since.
    unaccounted: Duration,
}

#[derive(Debug)]
struct Known {
    figures: Figures,
    idle_since: Instant,
}

impl Watch {
    pub fn new(now: Instant) -> Self {
        Self {
            looked_at: now,
            actors: HashMap::new(),
            mean: None,
            unaccounted: Duration::ZERO,
        }
    }

    /// Looks at `actors`, by their numbers; `None`: their host did not answer.
    pub fn look(&mut self, now: Instant, actors: &[(u64, Option<Figures>)]) -> Seen {
        let since = now.saturating_duration_since(self.looked_at);
        self.looked_at = now;
        self.actors
            .retain(|number, _| actors.iter().any(|(n, _)| n == number));
        let mut seen = Seen::default();
        let (mut calls, mut busy, mut told) = (0, Duration::ZERO, 0_u32);
        for (number, figures) in actors {
            let Some(figures) = figures else {
                seen.busy += 1;
                continue;
            };
            told += 1;
            let known = self.actors.entry(*number).or_insert(Known {
                figures: Figures::default(),
                idle_since: now,
            });
            let new_calls = figures.calls.saturating_sub(known.figures.calls);
            calls += new_calls;
            busy += figures.busy.saturating_sub(known.figures.busy);
            known.figures = *figures;
            seen.queue += figures.queue;
            if figures.is_at_work {
                seen.busy += 1;
            }
            if figures.is_at_work || figures.queue > 0 || new_calls > 0 {
                known.idle_since = now;
            } else {
                let idle = now.saturating_duration_since(known.idle_since);
                seen.idle.push((*number, idle));
            }
        }
        let time = since.as_secs_f64() * f64::from(told);
        seen.busy_share = match time > 0.0 {
            true => (busy.as_secs_f64() / time).min(1.0),
            false => 0.0,
        };
        seen.mean = self.mean_of(calls, busy);
        seen
    }

    fn mean_of(&mut self, calls: u64, busy: Duration) -> Option<Duration> {
        self.unaccounted += busy;
        if calls > 0 {
            let all = std::mem::take(&mut self.unaccounted).as_secs_f64();
            let lately = all / calls as f64;
            let before = self.mean.map_or(lately, |mean| mean.as_secs_f64());
            let mean = before + LAST_COUNTS * (lately - before);
            self.mean = Some(Duration::from_secs_f64(mean.max(0.0)));
        }
        self.mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn figures(queue: usize, calls: u64, busy: u64, is_at_work: bool) -> Option<Figures> {
        Some(Figures {
            queue,
            calls,
            busy: MS(busy),
            is_at_work,
            has_failed: false,
        })
    }

    #[test]
    fn totals_become_what_there_is_to_do() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let at = |ms| start + MS(ms);
        let none = figures(0, 0, 0, false);
        let first = watch.look(at(100), &[(1, none), (2, none)]);
        assert_eq!((first.busy, first.mean), (0, None));
        assert_eq!(first.idle, [(1, MS(0)), (2, MS(0))]);
        // One is at a long block, one has done four short ones in between.
        let short = figures(0, 4, 80, false);
        let second = watch.look(at(1100), &[(1, figures(2, 0, 900, true)), (2, short)]);
        assert_eq!((second.queue, second.busy), (2, 1));
        assert!((second.busy_share - 0.49).abs() < 0.001, "{second:?}");
        assert_eq!(second.mean, Some(MS(245)));
        assert!(second.idle.is_empty());
        let third = watch.look(at(2100), &[(1, figures(0, 1, 1900, true)), (2, short)]);
        assert_eq!(third.idle, [(2, MS(1000))]);
        assert!(third.mean > second.mean, "{third:?}");
        // Nobody is idle that nothing is heard of, and nobody is remembered that has gone.
        let fourth = watch.look(at(3100), &[(1, none), (2, None)]);
        assert_eq!((fourth.busy, fourth.idle.len()), (1, 1));
        watch.look(at(4100), &[(1, none)]);
        let again = watch.look(at(5100), &[(1, none), (2, short)]);
        assert_eq!(again.idle, [(1, MS(3000))]);
    }
}
