//! Autoscaling: single decisions, whole load curves in a closed loop, any load at all.
//!
//! A curve says when how many blocks come. The loop has actors that take a while to be
//! built and a while for a block, and looks as often as the engine does.

use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;
/// How often the engine looks, and how finely the loop goes.
const LOOK: u64 = 250;
const STEP: u64 = 10;

fn limits(min: usize, max: usize) -> Limits {
    Limits {
        min,
        max,
        idle_ttl: MS(5000),
        target: MS(500),
        debounce: MS(2000),
    }
}

fn load(actors: usize, waiting: usize, busy: usize) -> PoolLoad {
    PoolLoad {
        actors,
        waiting,
        busy,
        mean: Some(MS(100)),
        room: 100,
        ..PoolLoad::default()
    }
}

fn change(load: &PoolLoad, limits: &Limits) -> Change {
    decide(load, limits, &State::default(), MS(0)).0
}

#[test]
fn a_pool_has_its_min_whatever_it_has_to_do() {
    let grown = change(&load(1, 0, 0), &limits(3, 8));
    assert_eq!(
        grown,
        Change::Grow {
            by: 2,
            why: Why::BelowMin
        }
    );
    let two_on_their_way = PoolLoad {
        starting: 2,
        ..load(1, 0, 0)
    };
    assert_eq!(change(&two_on_their_way, &limits(3, 8)), Change::Stay);
    let no_room = PoolLoad {
        room: 0,
        ..load(1, 0, 0)
    };
    let (stays, state) = decide(&no_room, &limits(3, 8), &State::default(), MS(7));
    assert_eq!(stays, Change::Stay);
    assert_eq!((state.short, state.short_since), (2, Some(MS(7))));
    // Since then, and no longer than it lasts.
    let (_, later) = decide(&no_room, &limits(3, 8), &state, MS(9));
    assert_eq!(later.short_since, Some(MS(7)));
    let (_, over) = decide(&load(3, 0, 0), &limits(3, 8), &later, MS(11));
    assert_eq!((over.short, over.short_since), (0, None));
}

#[test]
fn it_grows_at_once_to_what_its_line_takes() {
    // 6 s of work, in half a second each.
    let grown = change(&load(1, 60, 1), &limits(1, 32));
    assert_eq!(
        grown.to_string(),
        "grew by 11: a block would have waited 6.0s"
    );
    assert!(matches!(
        change(&load(1, 60, 1), &limits(1, 8)),
        Change::Grow { by: 7, .. }
    ));
    let little_room = PoolLoad {
        room: 3,
        ..load(1, 60, 1)
    };
    let (grown, state) = decide(&little_room, &limits(1, 8), &State::default(), MS(0));
    assert!(matches!(grown, Change::Grow { by: 3, .. }));
    assert_eq!(state.short, 4);
    // No more than there are blocks, however long one takes.
    let long = PoolLoad {
        mean: Some(MS(60_000)),
        ..load(2, 3, 2)
    };
    assert!(matches!(
        change(&long, &limits(1, 32)),
        Change::Grow { by: 3, .. }
    ));
    assert_eq!(change(&load(4, 16, 4), &limits(1, 32)), Change::Stay);
}

#[test]
fn it_doubles_while_all_are_at_work_and_blocks_wait() {
    let (unknown, limits) = (
        PoolLoad {
            mean: None,
            ..load(3, 4, 3)
        },
        limits(1, 32),
    );
    let (first, state) = decide(&unknown, &limits, &State::default(), MS(1000));
    let (second, state) = decide(&unknown, &limits, &state, MS(1250));
    let (third, state) = decide(&unknown, &limits, &state, MS(1500));
    assert_eq!((first, second), (Change::Stay, Change::Stay));
    assert_eq!(
        third.to_string(),
        "grew by 3: all were at work and blocks waited for 0.5s"
    );
    // Those on their way are waited for.
    let starting = PoolLoad {
        starting: 3,
        ..unknown.clone()
    };
    let mut state = state;
    for at in [1750, 2000, 2250, 2500, 9000] {
        let (stays, next) = decide(&starting, &limits, &state, MS(at));
        assert_eq!(stays, Change::Stay, "{at}");
        state = next;
    }
    // Twice as many were not enough.
    let six = |waiting| PoolLoad {
        mean: None,
        ..load(6, waiting, 6)
    };
    let (grown, _) = decide(&six(90), &limits, &state, MS(9250));
    assert!(matches!(grown, Change::Grow { by: 18, .. }), "{grown}");
    // They were, for a while.
    let (_, once) = decide(&six(0), &limits, &state, MS(9250));
    let (_, mut eased) = decide(&six(0), &limits, &once, MS(9500));
    for at in [9750, 10_000] {
        eased = decide(&six(90), &limits, &eased, MS(at)).1;
    }
    let (grown, _) = decide(&six(90), &limits, &eased, MS(10_250));
    assert!(matches!(grown, Change::Grow { by: 6, .. }), "{grown}");
    // A pause begins it anew, as does one that is free; once is chance.
    for (waiting, busy) in [(0, 3), (4, 2)] {
        let rest = load(3, waiting, busy);
        let (_, before) = decide(&unknown, &limits, &State::default(), MS(0));
        let (stays, once) = decide(&rest, &limits, &before, MS(400));
        assert_eq!(stays, Change::Stay);
        let (grown, _) = decide(&unknown, &limits, &once, MS(600));
        assert!(matches!(grown, Change::Grow { by: 3, .. }));
        let (stays, twice) = decide(&rest, &limits, &once, MS(600));
        assert_eq!(stays, Change::Stay);
        let (stays, _) = decide(&unknown, &limits, &twice, MS(700));
        assert_eq!(stays, Change::Stay);
    }
}

#[test]
fn it_shrinks_by_who_has_nothing_to_do() {
    let mut idle = PoolLoad {
        idle: vec![MS(100), MS(6000), MS(7000), MS(9000)],
        ..load(5, 0, 1)
    };
    let shrunk = |load: &PoolLoad, min| change(load, &limits(min, 8)).to_string();
    assert_eq!(shrunk(&idle, 1), "shrank by 3: nothing to do for 9.0s");
    assert_eq!(shrunk(&idle, 3), "shrank by 2: nothing to do for 9.0s");
    assert_eq!(shrunk(&idle, 5), "stayed");
    // Sooner where others wait for what they have.
    idle.idle = vec![MS(1500), MS(500)];
    assert_eq!(shrunk(&idle, 1), "stayed");
    idle.is_wanted = true;
    assert_eq!(shrunk(&idle, 1), "shrank by 1: nothing to do for 1.5s");
    // A smaller max is kept at once, whoever is at work.
    let above = change(&load(9, 5, 9), &limits(1, 8));
    assert_eq!(above.to_string(), "shrank by 1: it was above its max");
}

/// Blocks that go round give each actor one now and then.
#[test]
fn it_shrinks_to_as_many_as_would_do_where_none_is_idle_for_long() {
    let limits = limits(1, 8);
    let round = |actors: usize, wanted| PoolLoad {
        busy_share: 0.9 / actors as f64,
        idle: (1..actors as u64).map(|n| MS(n * 200)).collect(),
        is_wanted: wanted,
        ..load(actors, 0, 1)
    };
    for (wanted, after) in [(false, 5000), (true, 1000)] {
        let (mut state, mut now) = (State::default(), 0);
        let change = loop {
            let (change, next) = decide(&round(4, wanted), &limits, &state, MS(now));
            if change != Change::Stay {
                break change;
            }
            (state, now) = (next, now + LOOK);
        };
        assert_eq!(now, after);
        // Two are at work for half of their time.
        let text = format!("shrank by 2: fewer would have done for {}.0s", after / 1000);
        assert_eq!(change.to_string(), text);
        for at in 1..100 {
            let (stays, next) = decide(&round(2, wanted), &limits, &state, MS(now + at * LOOK));
            assert_eq!(stays, Change::Stay);
            state = next;
        }
    }
    // A moment in which all are at work, or blocks wait, begins it anew, and the fewest count.
    let mut state = State::default();
    for (at, busy_share, waiting) in [(0, 0.1, 0), (3000, 1.0, 0), (3250, 0.1, 0), (6000, 0.3, 0)] {
        let seen = PoolLoad {
            busy_share,
            waiting,
            ..round(4, false)
        };
        let (stays, next) = decide(&seen, &limits, &state, MS(at));
        assert_eq!(stays, Change::Stay, "{at}");
        state = next;
    }
    let (shrinks, _) = decide(&round(4, false), &limits, &state, MS(8250));
    assert_eq!(
        shrinks.to_string(),
        "shrank by 1: fewer would have done for 5.0s"
    );
}

/// One actor of the loop.
#[derive(Debug, Clone, Copy)]
struct Actor {
    ready_at: u64,
    busy_until: u64,
    idle_since: u64,
}

/// What a pool does with its curve.
struct Loop {
    limits: Limits,
    /// What a block takes, and an actor to be built.
    block_ms: u64,
    build_ms: u64,
    /// Blocks that senders have on their way for each actor; `None`: all that there are.
    credits: Option<usize>,
    /// When there is how much room, and whether others wait; none: room for all.
    crowd: &'static str,
}

/// One look.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: u64,
    actors: usize,
    left: usize,
    change: Change,
}

impl Loop {
    fn run(&self, curve: &str, until: u64) -> Vec<Seen> {
        let mut coming = curve.lines().skip(1).map(|line| {
            let (at, blocks) = line.split_once(',').unwrap();
            (at.parse::<u64>().unwrap(), blocks.parse::<usize>().unwrap())
        });
        let mut next = coming.next();
        let mut actors = vec![
            Actor {
                ready_at: 0,
                busy_until: 0,
                idle_since: 0
            };
            self.limits.min
        ];
        let (mut line, mut state, mut seen, mut worked, mut any) =
            (0, State::default(), vec![], 0, false);
        for now in (0..until).step_by(STEP as usize) {
            while let Some((_, blocks)) = next.filter(|(at, _)| *at <= now) {
                line += blocks;
                next = coming.next();
            }
            for actor in actors.iter_mut().filter(|actor| actor.ready_at <= now) {
                if actor.busy_until <= now && line > 0 {
                    any |= actor.busy_until > 0;
                    line -= 1;
                    actor.busy_until = now + self.block_ms;
                    actor.idle_since = actor.busy_until;
                }
                worked += u64::from(actor.busy_until > now);
            }
            if now % LOOK == 0 {
                let load = self.load(&actors, line, worked, any, now);
                let (change, after) = decide(&load, &self.limits, &state, MS(now));
                (state, worked) = (after, 0);
                seen.push(Seen {
                    at: now,
                    actors: load.actors,
                    left: line + load.busy,
                    change,
                });
                self.apply(change, &mut actors, now);
            }
        }
        seen
    }

    fn load(&self, actors: &[Actor], line: usize, worked: u64, any: bool, now: u64) -> PoolLoad {
        let there: Vec<_> = actors.iter().filter(|a| a.ready_at <= now).collect();
        let (busy, idle): (Vec<&Actor>, Vec<&Actor>) =
            there.iter().partition(|a| a.busy_until > now);
        let seen = self.credits.map_or(line, |n| {
            line.min((there.len() * n).saturating_sub(busy.len()))
        });
        PoolLoad {
            actors: there.len(),
            starting: actors.len() - there.len(),
            waiting: seen,
            busy: busy.len(),
            busy_share: worked as f64 * STEP as f64 / (LOOK * there.len().max(1) as u64) as f64,
            mean: any.then(|| MS(self.block_ms)),
            idle: idle.iter().map(|a| MS(now - a.idle_since)).collect(),
            room: self
                .crowd_at(now)
                .0
                .saturating_sub(actors.len() - self.limits.min),
            is_wanted: self.crowd_at(now).1,
        }
    }

    /// How many it may have beside its min, and whether others wait.
    fn crowd_at(&self, now: u64) -> (usize, bool) {
        let lines = self.crowd.lines().skip(1).map(|line| {
            let numbers: Vec<u64> = line.split(',').map(|n| n.parse().unwrap()).collect();
            (numbers[0], numbers[1] as usize, numbers[2] > 0)
        });
        let last = lines.take_while(|(at, ..)| *at <= now).last();
        last.map_or((100, false), |(_, room, waits)| (room, waits))
    }

    fn apply(&self, change: Change, actors: &mut Vec<Actor>, now: u64) {
        match change {
            Change::Stay => {}
            Change::Grow { by, .. } => actors.extend(std::iter::repeat_n(
                Actor {
                    ready_at: now + self.build_ms,
                    busy_until: 0,
                    idle_since: now + self.build_ms,
                },
                by,
            )),
            Change::Shrink { by, .. } => {
                actors.sort_by_key(|a| std::cmp::Reverse((a.busy_until > now, a.idle_since)));
                let left = actors.len() - by;
                assert!(actors[left..].iter().all(|a| a.busy_until <= now));
                actors.truncate(left);
            }
        }
    }
}

/// That it kept to its bounds and turned round no sooner than it may.
fn check(seen: &[Seen], limits: &Limits) {
    let mut last: Option<(u64, bool)> = None;
    for look in seen {
        assert!((limits.min..=limits.max).contains(&look.actors), "{look:?}");
        let grows = match look.change {
            Change::Stay => continue,
            Change::Grow { .. } => true,
            Change::Shrink { .. } => false,
        };
        if let Some((at, grew)) = last {
            let since = MS(look.at - at);
            assert!(grew == grows || since >= limits.debounce, "{look:?}");
        }
        last = Some((look.at, grows));
    }
}

fn at(seen: &[Seen], time: u64) -> Seen {
    *seen.iter().find(|look| look.at >= time).unwrap()
}

const BURSTY: &str = include_str!("testdata/bursty.csv");
const STEADY: &str = include_str!("testdata/steady.csv");
const PULSES: &str = include_str!("testdata/pulses.csv");
const RAMP: &str = include_str!("testdata/ramp.csv");
const CROWDED: &str = include_str!("testdata/crowded.csv");
const TRICKLE: &str = include_str!("testdata/trickle.csv");

/// Blocks of a job that comes at 5 s and at 100 s, seen whole and by senders' credits alone.
#[test]
fn it_follows_a_bursty_job_within_3_seconds_and_is_small_again_after_it() {
    for (credits, block_ms, build_ms) in [
        (None, 100, 200),
        (Some(2), 100, 200),
        (Some(6), 100, 1000),
        (Some(2), 20, 200),
        (Some(2), 2000, 200),
    ] {
        let own = Loop {
            limits: limits(1, 8),
            block_ms,
            build_ms,
            credits,
            crowd: "",
        };
        let seen = own.run(BURSTY, 200_000);
        check(&seen, &own.limits);
        for burst in [5_000, 100_000] {
            let before = at(&seen, burst - LOOK).actors;
            let grown = seen.iter().find(|l| l.at >= burst && l.actors == 8);
            // Unless there is less to do than that.
            let took = grown.map(|look| look.at - burst);
            let case = format!("{credits:?} {block_ms} {build_ms} {took:?}");
            assert_eq!(before, 1, "{case}");
            match block_ms {
                20 => assert!(took.is_none_or(|took| took <= 4_000), "{case}"),
                _ => assert!(took.unwrap() <= 3_000, "{case}"),
            }
            let done = seen.iter().find(|l| l.at > burst && l.left == 0).unwrap();
            let small = seen.iter().find(|l| l.at > done.at && l.actors == 1);
            let took = small.unwrap().at - done.at;
            assert!(took <= 5_000 + 2 * LOOK, "{case}: {took}");
        }
    }
}

#[test]
fn it_stays_where_one_is_enough() {
    let own = Loop {
        limits: limits(1, 8),
        block_ms: 100,
        build_ms: 200,
        credits: None,
        crowd: "",
    };
    let seen = own.run(STEADY, 60_000);
    assert!(seen.iter().all(|look| look.change == Change::Stay));
}

#[test]
fn pulses_do_not_make_it_flap() {
    for credits in [None, Some(2)] {
        let own = Loop {
            limits: limits(1, 8),
            block_ms: 100,
            build_ms: 200,
            credits,
            crowd: "",
        };
        let seen = own.run(PULSES, 60_000);
        check(&seen, &own.limits);
        // They come more often than actors are idle: those that came stay.
        let shrank = seen
            .iter()
            .filter(|l| matches!(l.change, Change::Shrink { .. }));
        assert!(shrank.clone().all(|look| look.at > 30_000), "{credits:?}");
        let changes = seen.iter().filter(|look| look.change != Change::Stay);
        assert!(changes.count() <= 8, "{credits:?}");
    }
}

#[test]
fn it_has_as_many_as_a_rising_load_takes() {
    let own = Loop {
        limits: limits(1, 16),
        block_ms: 100,
        build_ms: 200,
        credits: None,
        crowd: "",
    };
    let seen = own.run(RAMP, 120_000);
    check(&seen, &own.limits);
    // 60 blocks a second, a tenth of a second each.
    let peak = seen.iter().map(|look| look.actors).max().unwrap();
    assert!((6..=12).contains(&peak), "{peak}");
    let longest = seen.iter().map(|look| look.left).max().unwrap();
    assert!(longest <= 60, "{longest}");
    assert_eq!(at(&seen, 119_000).actors, 1);
}

/// A query's pool beside others: one that holds all ends at 12 s, another one waits from 40 s
/// on, and has all from 46 s to 70 s.
#[test]
fn it_takes_what_comes_free_and_gives_way_when_it_has_little_to_do() {
    let own = Loop {
        limits: Limits {
            idle_ttl: MS(60_000),
            ..limits(1, 8)
        },
        block_ms: 100,
        build_ms: 200,
        credits: Some(2),
        crowd: CROWDED,
    };
    let seen = own.run(TRICKLE, 100_000);
    check(&seen, &own.limits);
    // No more than there is room for, however much waits.
    assert!(seen.iter().all(|l| l.at >= 12_000 || l.actors == 1));
    let grown = seen.iter().find(|look| look.actors == 4).unwrap();
    assert!(grown.at <= 12_000 + 3_000, "{grown:?}");
    assert!(seen.iter().all(|look| look.actors <= 4));
    // From 30 s on one is enough for what comes; the others are kept until somebody waits.
    assert_eq!(at(&seen, 34_000).actors, 4);
    let gone = seen
        .iter()
        .find(|l| l.at >= 40_000 && l.actors == 1)
        .unwrap();
    assert!(gone.at <= 42_000, "{gone:?}");
    // It is there again for the last burst, when the other has ended.
    assert_eq!(at(&seen, 69_000).actors, 1);
    let again = seen
        .iter()
        .find(|l| l.at >= 70_000 && l.actors == 4)
        .unwrap();
    assert!(again.at <= 73_000, "{again:?}");
}

/// Random numbers, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[test]
fn whatever_the_load_it_keeps_to_its_bounds_and_its_room() {
    for seed in 1..500_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let min = 1 + random.below(4) as usize;
        let limits = Limits {
            idle_ttl: MS(random.below(3000)),
            target: MS(random.below(2000)),
            debounce: MS(random.below(4000)),
            ..limits(min, min + random.below(8) as usize)
        };
        let (mut actors, mut starting, mut state, mut now) = (min, 0, State::default(), 0);
        let mut last: Option<(u64, bool)> = None;
        for _ in 0..300 {
            now += random.below(600);
            let arrived = random.below(starting as u64 + 1) as usize;
            (actors, starting) = (actors + arrived, starting - arrived);
            let busy = random.below(actors as u64 + 1) as usize;
            let seen = PoolLoad {
                actors,
                starting,
                waiting: random.below(3) as usize * random.below(200) as usize,
                busy,
                busy_share: random.below(101) as f64 / 100.0,
                mean: (random.below(3) > 0).then(|| MS(random.below(5000))),
                idle: (busy..actors).map(|_| MS(random.below(9000))).collect(),
                room: random.below(6) as usize,
                is_wanted: random.below(2) > 0,
            };
            let (change, next) = decide(&seen, &limits, &state, MS(now));
            state = next;
            let grows = match change {
                Change::Stay => continue,
                Change::Grow { by, .. } => {
                    assert!(by > 0 && by <= seen.room, "{seen:?} {change:?}");
                    starting += by;
                    true
                }
                Change::Shrink { by, .. } => {
                    assert!(by > 0 && by <= seen.idle.len(), "{seen:?} {change:?}");
                    actors -= by;
                    false
                }
            };
            let all = limits.min..=limits.max;
            assert!(all.contains(&(actors + starting)), "{seen:?} {change:?}");
            if let Some((at, grew)) = last {
                assert!(grew == grows || MS(now - at) >= limits.debounce);
            }
            last = Some((now, grows));
        }
    }
}
