//! Which host gets which actors: pure.
//!
//! All that must be there fits at once, or nothing is placed. A call's actors are spread
//! over the hosts that its labels prefer, or lie on few of them if it says so; where that
//! leaves no room for all, all are packed, and where that does not either, combinations are
//! tried, up to a bound. What calls may have besides goes where there is room after that.

use std::collections::BTreeMap;

use mobula_udfs::resources::{Free, Taken};
use mobula_udfs::{Capacity, Demand, Placement};

/// Combinations that are tried at most.
const MAX_STEPS: usize = 10_000;
/// So many more actors on a host are as good as any number.
const MOST_COUNTED: usize = 256;

/// What a host could give.
#[derive(Debug, Clone)]
pub struct Room {
    pub free: Free,
    pub labels: BTreeMap<String, String>,
    /// Actors of one call that it takes at most where nobody says how many.
    pub cores: usize,
}

impl Room {
    /// That of a host of which nothing is in use.
    pub fn all_of(capacity: &Capacity) -> Self {
        Self {
            free: Free::all_of(capacity),
            labels: capacity.labels.clone(),
            cores: capacity.cpus.floor().max(1),
        }
    }
}

/// The actors of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Of each.
    pub demand: Demand,
    /// So many must be placed.
    pub least: usize,
    /// So many may be; `None`: as many as there is room for.
    pub most: Option<usize>,
    /// Whether it gets `least` at first, and may have more later.
    pub grows: bool,
}

/// A placed actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// The place of its host among those that were asked.
    pub host: usize,
    pub taken: Taken,
}

/// The seats of each group: at least `least` of each, the first of them those that had
/// to be. Takes them from `rooms`. `None`: they do not fit, and nothing is taken.
pub fn place(rooms: &mut [Room], groups: &[Group]) -> Option<Vec<Vec<Seat>>> {
    let items = items(groups);
    let mut after = rooms.to_vec();
    let mut placed = greedily(&mut after, groups, &items, Way::AsAsked)
        .or_else(|| {
            after = rooms.to_vec();
            greedily(&mut after, groups, &items, Way::Pack)
        })
        .or_else(|| {
            after = rooms.to_vec();
            let mut search = Search {
                rooms: &mut after,
                groups,
                items: &items,
                steps: 0,
                seats: vec![],
            };
            search.run(0).then(|| search.seats.clone())
        })
        .map(|seats| by_group(groups, &items, seats))?;
    add_more(&mut after, groups, &mut placed);
    rooms.clone_from_slice(&after);
    Some(placed)
}

/// How many actors with `demand` hosts with `rooms` can have at once, of `most`.
pub fn at_once(rooms: &[Room], demand: &Demand, most: usize) -> usize {
    let mut left = most;
    for room in rooms {
        let mut room = room.clone();
        while left > 0 && take(&mut room, demand).is_some() {
            left -= 1;
        }
    }
    most - left
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    AsAsked,
    Pack,
}

/// How much a host with `room`, which has `has` actors of the same call, is liked for one more
/// with `demand`: least is most. First comes which of its labels it meets.
pub fn preference(demand: &Demand, room: &Room, has: usize) -> (Option<usize>, usize) {
    let by_place = match demand.placement {
        Placement::Spread => has,
        // Where they are already, and where most can be, so that few hosts have all.
        Placement::Pack => {
            let more = at_once(std::slice::from_ref(room), demand, MOST_COUNTED);
            usize::MAX - 2 * has - more
        }
    };
    (demand.labels.alternative(&room.labels), by_place)
}

/// The group of each actor that must be placed: those that ask for most come first.
fn items(groups: &[Group]) -> Vec<usize> {
    let mut order: Vec<_> = (0..groups.len()).collect();
    let size = |at: usize| {
        groups.get(at).map(|group: &Group| {
            let demand = &group.demand;
            (
                demand.gpus_taken(),
                demand.custom.values().max().copied(),
                demand.cpus_taken(),
                demand.memory_taken(),
            )
        })
    };
    order.sort_by_key(|at| std::cmp::Reverse(size(*at)));
    let repeated = order.into_iter().map(|at| {
        let least = groups.get(at).map_or(0, |group| group.least);
        std::iter::repeat_n(at, least)
    });
    repeated.flatten().collect()
}

/// Takes what an actor with `demand` has from `room`, if that will do and has as much.
pub fn take(room: &mut Room, demand: &Demand) -> Option<Taken> {
    match demand.labels.accepts(&room.labels) {
        true => room.free.try_take(demand),
        false => None,
    }
}

fn greedily(rooms: &mut [Room], groups: &[Group], items: &[usize], way: Way) -> Option<Vec<Seat>> {
    let mut seats: Vec<Seat> = vec![];
    for (at, group) in items.iter().enumerate() {
        let demand = &groups.get(*group)?.demand;
        let of_group = |host: usize| {
            let mine = items.iter().take(at).zip(&seats);
            mine.filter(|(g, seat)| *g == group && seat.host == host)
                .count()
        };
        let of_all = |host: usize| seats.iter().filter(|seat| seat.host == host).count();
        let fitting = rooms.iter().enumerate().filter(|(_, room)| {
            let mut room = (*room).clone();
            take(&mut room, demand).is_some()
        });
        let host = fitting
            .min_by_key(|(host, room)| {
                match way {
                    Way::AsAsked => {
                        let (preferred, by_group) = preference(demand, room, of_group(*host));
                        (preferred, by_group, of_all(*host), *host)
                    }
                    // Where others are already, and whatever labels are liked.
                    Way::Pack => (None, 0, usize::MAX - of_all(*host), *host),
                }
            })
            .map(|(host, _)| host)?;
        let taken = take(rooms.get_mut(host)?, demand)?;
        seats.push(Seat { host, taken });
    }
    Some(seats)
}

/// Tries combinations, the actors of one group in the order of hosts.
struct Search<'a> {
    rooms: &'a mut [Room],
    groups: &'a [Group],
    items: &'a [usize],
    steps: usize,
    seats: Vec<Seat>,
}

impl Search<'_> {
    fn run(&mut self, at: usize) -> bool {
        let Some(group) = self.items.get(at).copied() else {
            return true;
        };
        let same = at.checked_sub(1).and_then(|before| self.items.get(before)) == Some(&group);
        let first = match same {
            true => self.seats.last().map_or(0, |seat| seat.host),
            false => 0,
        };
        for host in first..self.rooms.len() {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return false;
            }
            let (Some(room), Some(group)) = (self.rooms.get_mut(host), self.groups.get(group))
            else {
                return false;
            };
            let Some(taken) = take(room, &group.demand) else {
                continue;
            };
            self.seats.push(Seat { host, taken });
            if self.run(at + 1) {
                return true;
            }
            if let (Some(seat), Some(room)) = (self.seats.pop(), self.rooms.get_mut(host)) {
                room.free.put_back(&seat.taken);
            }
        }
        false
    }
}

fn by_group(groups: &[Group], items: &[usize], seats: Vec<Seat>) -> Vec<Vec<Seat>> {
    let mut placed = vec![vec![]; groups.len()];
    for (group, seat) in items.iter().zip(seats) {
        if let Some(seats) = placed.get_mut(*group) {
            seats.push(seat);
        }
    }
    placed
}

/// Gives groups in turn one more, until none has room for one.
fn add_more(rooms: &mut [Room], groups: &[Group], placed: &mut [Vec<Seat>]) {
    let mut grew = true;
    while std::mem::take(&mut grew) {
        for (group, seats) in groups.iter().zip(placed.iter_mut()) {
            if group.most.is_some_and(|most| seats.len() >= most) {
                continue;
            }
            let of_group = |host: usize| seats.iter().filter(|seat| seat.host == host).count();
            let fitting = rooms.iter().enumerate().filter(|(host, room)| {
                let mut after = (*room).clone();
                let has_core = group.most.is_some() || of_group(*host) < room.cores;
                has_core && take(&mut after, &group.demand).is_some()
            });
            let host = fitting.min_by_key(|(host, room)| {
                (preference(&group.demand, room, of_group(*host)), *host)
            });
            let Some(host) = host.map(|(host, _)| host) else {
                continue;
            };
            let taken = rooms
                .get_mut(host)
                .and_then(|room| take(room, &group.demand));
            if let Some(taken) = taken {
                seats.push(Seat { host, taken });
                grew = true;
            }
        }
    }
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
