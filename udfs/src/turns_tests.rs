//! Turns: who is next, and that it is fair whoever comes and goes.

use std::collections::BTreeMap;

use super::*;

fn turn(lane: Lane, client: &str) -> Turn {
    Turn {
        lane,
        client: client.into(),
    }
}

const fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// Serves all, one after the other, each in no time.
fn all(turns: &mut Turns<u32>) -> Vec<u32> {
    let mut served = vec![];
    while let Some((who, turn)) = turns.pop() {
        served.push(who);
        turn.iter().for_each(|turn| turns.ended(turn, ms(1)));
    }
    served
}

#[test]
fn the_urgent_go_first_but_every_eighth_turn_is_due_to_others() {
    let (urgent, batch) = (turn(Lane::Interactive, "u"), turn(Lane::Batch, "b"));
    let mut turns = Turns::new(8);
    (0..3).for_each(|who| turns.push(&batch, 100 + who));
    (0..16).for_each(|who| turns.push(&urgent, who));
    assert_eq!(turns.ahead(&urgent), 16);
    assert_eq!(turns.ahead(&batch), 19);
    turns.push_first(99);
    let served = all(&mut turns);
    let batch: Vec<_> = (0..served.len()).filter(|at| served[*at] >= 100).collect();
    assert_eq!((served[0], batch), (99, vec![8, 16, 19]));
    assert!(turns.is_empty());
}

#[test]
fn calls_that_come_as_they_come_stand_between() {
    let mut turns = Turns::new(8);
    let plain = turn(Lane::AsTheyCome, "");
    turns.push(&turn(Lane::Batch, ""), 3);
    turns.push(&plain, 1);
    turns.push(&plain, 2);
    turns.push(&turn(Lane::Interactive, ""), 0);
    assert_eq!(all(&mut turns), [0, 1, 2, 3]);
}

#[test]
fn queries_take_turns_and_keep_their_own_order() {
    let mut turns = Turns::new(8);
    let (a, b) = (turn(Lane::Batch, "a"), turn(Lane::Batch, "b"));
    [1, 2, 3].iter().for_each(|who| turns.push(&a, *who));
    [11, 12].iter().for_each(|who| turns.push(&b, *who));
    // One turn of b, and three of its own.
    assert_eq!((turns.ahead(&a), turns.ahead(&b)), (4, 3));
    assert_eq!(all(&mut turns), [1, 11, 2, 12, 3]);
}

#[test]
fn what_is_shared_is_time() {
    let mut turns = Turns::new(8);
    let (long, short) = (turn(Lane::Batch, "long"), turn(Lane::Batch, "short"));
    let (mut had, mut served) = ([0, 0], 0);
    for _ in 0..2 {
        turns.push(&long, 0);
        turns.push(&short, 1);
    }
    while served < 220 {
        let (who, at_work) = turns.pop().unwrap();
        let took = [100, 10][who];
        had[who] += took;
        served += 1;
        let at_work = at_work.unwrap();
        turns.push(&at_work, who);
        turns.ended(&at_work, ms(took));
    }
    assert!(had[0].abs_diff(had[1]) <= 100, "{had:?}");
}

#[test]
fn going_and_coming_back_earns_nothing() {
    let mut turns = Turns::new(8);
    let (guest, host) = (turn(Lane::Batch, "guest"), turn(Lane::Batch, "host"));
    let mut had = [0, 0];
    (0..2).for_each(|_| turns.push(&host, 1));
    for round in 0..300 {
        // It is away whenever it has been served.
        if round % 2 == 0 && turns.ahead(&guest) < 3 {
            turns.push(&guest, 0);
        }
        let (who, at_work) = turns.pop().unwrap();
        let (took, at_work) = ([100, 10][who], at_work.unwrap());
        had[who] += took;
        if who == 1 {
            turns.push(&host, 1);
        }
        turns.ended(&at_work, ms(took));
    }
    assert!(had[0].abs_diff(had[1]) <= 110, "{had:?}");
}

#[test]
fn who_goes_is_not_remembered_for_ever() {
    let mut turns = Turns::new(8);
    let stays = turn(Lane::Interactive, "stays");
    // Two workers: one of them never comes back, so that the line is never idle.
    turns.push(&stays, 0);
    assert!(turns.pop().is_some());
    for who in 0..10_000_u64 {
        let once = turn(Lane::Interactive, &who.to_string());
        turns.push(&once, who);
        let (_, at_work) = turns.pop().unwrap();
        turns.ended(&at_work.unwrap(), ms(who % 7));
    }
    assert!(turns.lanes[0].clients.len() <= REMEMBERED + 1);
    turns.ended(&stays, ms(1));
    assert!(turns.lanes[0].clients.is_empty());
}

/// The same numbers every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

const ALL_LANES: [Lane; 3] = [Lane::Interactive, Lane::AsTheyCome, Lane::Batch];

/// A client of a simulation.
struct Client {
    turn: Turn,
    pushed: u64,
    served: u64,
}

#[test]
fn nobody_is_lost_overtaken_by_its_own_or_passed_over_for_ever() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for _ in 0..300 {
        let every = 2 + dice.roll(9) as u32;
        let workers = 1 + dice.roll(3) as usize;
        let mut turns = Turns::new(every);
        let clients = 1 + dice.roll(6);
        let mut clients: Vec<_> = (0..clients)
            .map(|client| Client {
                turn: turn(ALL_LANES[dice.roll(3) as usize], &client.to_string()),
                pushed: 0,
                served: 0,
            })
            .collect();
        let (mut at_work, mut passed) = (vec![], [0_u32; 3]);
        for step in 0..3000 {
            for (at, client) in clients.iter_mut().enumerate() {
                // At last nobody comes any more.
                if step < 200 && dice.roll(3) == 0 {
                    turns.push(&client.turn, (at, client.pushed));
                    client.pushed += 1;
                }
            }
            while at_work.len() < workers {
                let waits = ALL_LANES.map(|lane| turns.lanes[lane as usize].is_waited_in());
                let Some(((at, number), turn)) = turns.pop() else {
                    break;
                };
                let turn = turn.unwrap();
                assert_eq!(number, clients[at].served, "overtaken by its own");
                clients[at].served += 1;
                for lane in ALL_LANES {
                    let passed = &mut passed[lane as usize];
                    *passed = match waits[lane as usize] && lane != turn.lane {
                        true => *passed + 1,
                        false => 0,
                    };
                    // Another lane may be as long due.
                    assert!(
                        *passed < every + 1,
                        "{lane:?} was passed over {passed} times"
                    );
                }
                at_work.push((step + dice.roll(4), turn));
            }
            at_work.retain(|(until, turn)| {
                let over = *until <= step;
                if over {
                    turns.ended(turn, ms(1 + step % 5));
                }
                !over
            });
        }
        assert!(turns.is_empty());
        for client in &clients {
            assert_eq!(client.served, client.pushed);
        }
    }
}

#[test]
fn who_always_waits_has_as_much_as_any_other_up_to_one_block() {
    let mut dice = Dice(7);
    for _ in 0..200 {
        let (clients, longest) = (2 + dice.roll(6), 1 + dice.roll(500));
        let mut turns = Turns::new(8);
        let names: Vec<_> = (0..clients)
            .map(|n| turn(Lane::Batch, &n.to_string()))
            .collect();
        for (who, turn) in names.iter().enumerate() {
            turns.push(turn, who);
            turns.push(turn, who);
        }
        let mut had = BTreeMap::from_iter((0..names.len()).map(|who| (who, 0)));
        for _ in 0..500 {
            let (who, at_work) = turns.pop().unwrap();
            let took = 1 + dice.roll(longest);
            *had.entry(who).or_default() += took;
            let at_work = at_work.unwrap();
            turns.push(&at_work, who);
            turns.ended(&at_work, ms(took));
            let (least, most) = (had.values().min(), had.values().max());
            assert!(most.unwrap() - least.unwrap() <= longest, "{had:?}");
        }
    }
}
