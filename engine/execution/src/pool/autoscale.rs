//! How many actors a named pool should have: pure.
//!
//! [`decide`] looks at what a pool has to do and says whether it grows or shrinks. It grows
//! up to its `min` at once. Beyond that it grows to as many as it takes for a block to wait
//! no longer than the target, by the blocks in line and what one takes lately. Senders have
//! few blocks on their way, so that a line may be short where much is to be done: where all
//! actors have been at work and blocks have waited for as long as the target, there are
//! twice as many next, and four times as many where twice was not enough. It shrinks to its `max` at once, and to its `min` by the actors that
//! have had nothing to do for `idle_ttl`, or that would not have been missed for so long: blocks
//! that come now and then may give each of them one. It does not shrink soon after it grew, nor
//! grow soon after it shrank.
//!
//! After the actor pools of Ray Data, which compare work in flight with actors, and the
//! replicas of Ray Serve, which have a target and two delays.

use std::fmt;
use std::time::Duration;

/// The share of the time at work from which on actors count as always at work.
const ALWAYS: f64 = 0.9;
/// The share of their time that those are at work at most that are left where others go which
/// had something to do.
const ROOMY: f64 = 0.5;
/// How many times as many there are next where twice as many were not enough.
const RISE: usize = 4;
/// How long an actor that others wait for is kept when it has nothing to do.
const IDLE_IF_WANTED: Duration = Duration::from_secs(1);

/// What a pool has to do, and with how many actors.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolLoad {
    /// Those that take calls.
    pub actors: usize,
    /// Those that are being built.
    pub starting: usize,
    /// Blocks in line, those that senders could not send yet among them.
    pub waiting: usize,
    /// Actors at work.
    pub busy: usize,
    /// The share of the time since the last look that actors were at work.
    pub busy_share: f64,
    /// What a block takes lately; `None`: nobody knows.
    pub mean: Option<Duration>,
    /// For how long each actor that has nothing to do has had none.
    pub idle: Vec<Duration>,
    /// How many more there is room for.
    pub room: usize,
    /// Whether others wait for what its actors have.
    pub is_wanted: bool,
}

/// What a pool may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub min: usize,
    pub max: usize,
    pub idle_ttl: Duration,
    /// How long a block should wait at most.
    pub target: Duration,
    /// The least time between growing and shrinking, and the other way round.
    pub debounce: Duration,
}

/// What is remembered from look to look; times as `now` of [`decide`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct State {
    /// Since when all have been at work while blocks waited.
    pressed_since: Option<Duration>,
    /// Whether it was not so at the last look.
    missed: bool,
    grew_at: Option<Duration>,
    /// Whether it grew as all were at work, and that has not helped yet.
    is_rising: bool,
    shrank_at: Option<Duration>,
    /// How many would not have been missed at any look since then.
    spare: usize,
    spare_since: Option<Duration>,
    /// How many more it would have if there were room.
    pub short: usize,
    /// Since when it is short of some.
    pub short_since: Option<Duration>,
}

/// What a pool is to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Stay,
    Grow { by: usize, why: Why },
    Shrink { by: usize, why: Why },
}

/// Why it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    BelowMin,
    AboveMax,
    /// A block that comes now would wait so long.
    Line(Duration),
    /// All have been at work for so long while blocks waited.
    Pressed(Duration),
    /// Some have had nothing to do for so long.
    Idle(Duration),
    /// Fewer would have done for so long.
    Spare(Duration),
}

/// What a pool under `load` is to do at `now`, a time that only rises.
pub fn decide(load: &PoolLoad, limits: &Limits, state: &State, now: Duration) -> (Change, State) {
    let mut next = *state;
    let at_work = load.busy >= load.actors || load.busy_share >= ALWAYS;
    (next.pressed_since, next.missed) = match (load.waiting > 0 && at_work, state.missed) {
        (true, _) => (state.pressed_since.or(Some(now)), false),
        // Once is chance: where blocks are short, a line is empty now and then.
        (false, false) => (state.pressed_since, true),
        (false, true) => (None, true),
    };
    next.is_rising &= !(state.missed && next.missed);
    (next.spare, next.spare_since) = match (spare(load), state.spare_since) {
        (0, _) => (0, None),
        (n, None) => (n, Some(now)),
        (n, since) => (n.min(state.spare), since),
    };
    let have = load.actors + load.starting;
    let (wanted, why) = wanted(load, limits, &next, now);
    let more = wanted.saturating_sub(have);
    let by = more.min(load.room);
    next.short = more - by;
    next.short_since = match next.short {
        0 => None,
        _ => state.short_since.or(Some(now)),
    };
    if by > 0 {
        next.is_rising = matches!(why, Why::Pressed(_));
        // What they make of it is to be seen first.
        (next.grew_at, next.pressed_since) = (Some(now), None);
        return (Change::Grow { by, why }, next);
    }
    match surplus(load, limits, &next, now) {
        Some((by, why)) if more == 0 => {
            (next.shrank_at, next.spare_since) = (Some(now), None);
            (Change::Shrink { by, why }, next)
        }
        _ => (Change::Stay, next),
    }
}

/// How many there should be, room or not: no less than there are, but for `max`.
fn wanted(load: &PoolLoad, limits: &Limits, state: &State, now: Duration) -> (usize, Why) {
    let have = load.actors + load.starting;
    if have < limits.min {
        return (limits.min, Why::BelowMin);
    }
    let stay = (have, Why::BelowMin);
    if is_recent(state.shrank_at, now, limits) || load.waiting == 0 {
        return stay;
    }
    // More than there are blocks would be idle.
    let most = limits.max.min(load.waiting + load.busy);
    let bounded = |wanted: usize, why| (wanted.min(most).max(have), why);
    let work = load.mean.unwrap_or_default().as_secs_f64() * load.waiting as f64;
    let wait = work / load.actors.max(1) as f64;
    if wait > limits.target.as_secs_f64() {
        let wanted = (work / limits.target.as_secs_f64().max(1e-6)).ceil();
        let why = Why::Line(Duration::from_secs_f64(wait));
        return bounded(wanted as usize, why);
    }
    let pressed = state.pressed_since.filter(|_| !state.missed);
    let pressed = pressed.map(|since| now.saturating_sub(since));
    match pressed.filter(|time| *time >= limits.target && load.starting == 0) {
        Some(time) => {
            let times = if state.is_rising { RISE } else { 2 };
            bounded(have.max(1) * times, Why::Pressed(time))
        }
        None => stay,
    }
}

/// How many should go.
fn surplus(load: &PoolLoad, limits: &Limits, state: &State, now: Duration) -> Option<(usize, Why)> {
    let beyond = |bound: usize| load.actors.saturating_sub(bound);
    if load.starting > 0 || beyond(limits.min) == 0 {
        return None;
    }
    if beyond(limits.max) > 0 {
        return Some((beyond(limits.max), Why::AboveMax));
    }
    if load.waiting > 0 || is_recent(state.grew_at, now, limits) {
        return None;
    }
    let ttl = match load.is_wanted {
        true => limits.idle_ttl.min(IDLE_IF_WANTED),
        false => limits.idle_ttl,
    };
    let idle = load.idle.iter().filter(|time| **time >= ttl);
    if let Some(longest) = idle.clone().max() {
        let by = idle.count().min(beyond(limits.min));
        return Some((by, Why::Idle(*longest)));
    }
    let spare_for = now.saturating_sub(state.spare_since?);
    // Of those that have nothing to do just now.
    let by = state.spare.min(load.idle.len()).min(beyond(limits.min));
    (spare_for >= ttl && by > 0).then_some((by, Why::Spare(spare_for)))
}

/// How many of those that there are would not be missed now.
fn spare(load: &PoolLoad) -> usize {
    let work = load.busy_share * load.actors as f64;
    let needed = (work / ROOMY).ceil() as usize;
    match load.waiting {
        0 => load.actors.saturating_sub(needed.max(1)),
        _ => 0,
    }
}

fn is_recent(at: Option<Duration>, now: Duration, limits: &Limits) -> bool {
    at.is_some_and(|at| now.saturating_sub(at) < limits.debounce)
}

/// `grew by 3: a block would have waited 1.3s`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stay => f.write_str("stayed"),
            Self::Grow { by, why } => write!(f, "grew by {by}: {why}"),
            Self::Shrink { by, why } => write!(f, "shrank by {by}: {why}"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |time: &Duration| time.as_secs_f64();
        match self {
            Self::BelowMin => f.write_str("it was below its min"),
            Self::AboveMax => f.write_str("it was above its max"),
            Self::Line(wait) => write!(f, "a block would have waited {:.1}s", seconds(wait)),
            Self::Pressed(time) => write!(
                f,
                "all were at work and blocks waited for {:.1}s",
                seconds(time)
            ),
            Self::Idle(time) => write!(f, "nothing to do for {:.1}s", seconds(time)),
            Self::Spare(time) => write!(f, "fewer would have done for {:.1}s", seconds(time)),
        }
    }
}

#[cfg(test)]
#[path = "autoscale_tests.rs"]
mod tests;
