//! Placement: what is spread, packed, preferred, and that it is right for any cluster.

use mobula_udfs::Amount;

use super::*;

fn room(gpus: usize, cpus: usize, zone: &str) -> Room {
    Room::all_of(&Capacity {
        cpus: Amount::whole(cpus),
        gpu_ids: (0..gpus).map(|gpu| gpu.to_string()).collect(),
        memory_bytes: 1 << 30,
        labels: [("zone".to_owned(), zone.to_owned())].into(),
        ..Capacity::default()
    })
}

fn gpus(milli: u64, least: usize) -> Group {
    Group {
        demand: Demand {
            gpus: Some(Amount::from_milli(milli)),
            ..Demand::default()
        },
        least,
        most: Some(least),
        grows: false,
    }
}

fn cpus(milli: u64, least: usize) -> Group {
    Group {
        demand: Demand {
            cpus: Some(Amount::from_milli(milli)),
            ..Demand::default()
        },
        least,
        most: Some(least),
        grows: false,
    }
}

fn hosts(placed: &[Vec<Seat>]) -> Vec<Vec<usize>> {
    let groups = placed.iter();
    groups
        .map(|seats| seats.iter().map(|seat| seat.host).collect())
        .collect()
}

#[test]
fn actors_are_spread_over_hosts_and_all_or_none_are_placed() {
    let mut rooms = [room(2, 4, "a"), room(2, 4, "b"), room(0, 4, "c")];
    let before = rooms.clone();
    assert!(place(&mut rooms, &[gpus(1000, 3), gpus(2000, 1)]).is_none());
    let frees = |rooms: &[Room]| rooms.iter().map(|r| r.free.clone()).collect::<Vec<_>>();
    assert_eq!(frees(&rooms), frees(&before));
    let placed = place(&mut rooms, &[gpus(1000, 3)]).unwrap();
    assert_eq!(hosts(&placed), [[0, 1, 0]]);
    let placed = place(&mut rooms, &[cpus(1000, 4)]).unwrap();
    assert_eq!(hosts(&placed), [[0, 1, 2, 0]]);
    assert!(place(&mut rooms, &[gpus(1000, 2)]).is_none());
    assert!(place(&mut rooms, &[gpus(500, 2)]).is_some());
}

#[test]
fn what_does_not_fit_spread_is_packed_or_found_by_trying() {
    // Spread, the halves would take both devices.
    let mut rooms = [room(1, 1, "a"), room(1, 1, "b")];
    let placed = place(&mut rooms, &[gpus(500, 2), gpus(1000, 1)]).unwrap();
    assert_eq!(hosts(&placed), [vec![1, 1], vec![0]]);
    // Only one way fits: 3 and 3 cores for three times 2, with 2 and 4 hosts of 3.
    let mut rooms = [room(0, 5, "a"), room(0, 4, "b")];
    let placed = place(&mut rooms, &[cpus(2000, 3), cpus(3000, 1)]).unwrap();
    let mut used = [0, 0];
    for (group, cores) in placed.iter().zip([2, 3]) {
        group.iter().for_each(|seat| used[seat.host] += cores);
    }
    assert_eq!(used, [5, 4]);
}

#[test]
fn labels_prefer_and_what_more_may_be_had_is() {
    let mut group = cpus(1000, 2);
    group.demand.labels = "zone=b | zone=a".parse().unwrap();
    let rooms = [room(0, 4, "a"), room(0, 1, "b"), room(0, 4, "c")];
    let placed = place(&mut rooms.clone(), std::slice::from_ref(&group)).unwrap();
    assert_eq!(hosts(&placed), [[1, 0]]);
    group.most = Some(4);
    let placed = place(&mut rooms.clone(), std::slice::from_ref(&group)).unwrap();
    assert_eq!(hosts(&placed), [[1, 0, 0, 0]]);
    group.most = None;
    let placed = place(&mut rooms.clone(), std::slice::from_ref(&group)).unwrap();
    assert_eq!(hosts(&placed)[0].len(), 5);
    // Nothing is taken, so cores bound it.
    group.demand.cpus = None;
    let placed = place(&mut rooms.clone(), std::slice::from_ref(&group)).unwrap();
    let on = |host| hosts(&placed)[0].iter().filter(|h| **h == host).count();
    assert_eq!((on(0), on(1), on(2)), (4, 2, 0));
    assert_eq!(at_once(&rooms, &cpus(2000, 1).demand, 9), 4);
    assert_eq!(at_once(&rooms, &cpus(1000, 1).demand, 3), 3);
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

/// Whether any assignment fits, by trying all of them.
fn fits(rooms: &mut [Room], demands: &[&Demand]) -> bool {
    let Some((demand, rest)) = demands.split_first() else {
        return true;
    };
    (0..rooms.len()).any(|host| {
        let Some(taken) = take(&mut rooms[host], demand) else {
            return false;
        };
        let found = fits(rooms, rest);
        rooms[host].free.put_back(&taken);
        found
    })
}

#[test]
fn for_any_small_cluster_it_places_exactly_what_fits_and_never_more() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut placed_some, mut refused_some) = (0, 0);
    for _ in 0..3000 {
        let zones = ["a", "b"];
        let mut rooms: Vec<_> = (0..1 + dice.roll(3))
            .map(|_| {
                let zone = zones[dice.roll(2) as usize];
                room(dice.roll(3) as usize, 1 + dice.roll(4) as usize, zone)
            })
            .collect();
        let groups: Vec<_> = (0..1 + dice.roll(2))
            .map(|_| {
                let least = 1 + dice.roll(3) as usize;
                let mut group = match dice.roll(2) {
                    0 => gpus([500, 600, 1000, 2000][dice.roll(4) as usize], least),
                    _ => cpus(1000 + 500 * dice.roll(4), least),
                };
                if dice.roll(4) == 0 {
                    group.demand.labels = "zone=a".parse().unwrap();
                }
                group.most = [Some(least), Some(least + 2), None][dice.roll(3) as usize];
                group
            })
            .collect();
        // Larger first: devices are given as they are asked for.
        let items = items(&groups);
        let demands: Vec<_> = items.iter().map(|g| &groups[*g].demand).collect();
        let possible = fits(&mut rooms.clone(), &demands);
        let before = rooms.clone();
        let placed = place(&mut rooms, &groups);
        assert_eq!(placed.is_some(), possible, "{before:?} {groups:?}");
        let Some(placed) = placed else {
            refused_some += 1;
            continue;
        };
        placed_some += 1;
        for (group, seats) in groups.iter().zip(&placed) {
            assert!(seats.len() >= group.least);
            assert!(group.most.is_none_or(|most| seats.len() <= most));
            for seat in seats {
                assert!(group.demand.labels.accepts(&rooms[seat.host].labels));
            }
        }
        for seat in placed.iter().flatten() {
            rooms[seat.host].free.put_back(&seat.taken);
        }
        for (now, then) in rooms.iter().zip(&before) {
            assert_eq!(now.free, then.free);
        }
    }
    assert!(placed_some > 500 && refused_some > 500);
}

#[test]
fn what_is_spread_differs_by_one_at_most_where_there_is_room() {
    let mut dice = Dice(7);
    for _ in 0..200 {
        let n_hosts = 1 + dice.roll(5) as usize;
        let mut rooms = vec![room(0, 8, "a"); n_hosts];
        let actors = 1 + dice.roll(8) as usize;
        let placed = place(&mut rooms, &[cpus(1000, actors)]).unwrap();
        let mut counts = vec![0; n_hosts];
        placed[0].iter().for_each(|seat| counts[seat.host] += 1);
        let (least, most) = (counts.iter().min(), counts.iter().max());
        assert!(most.unwrap() - least.unwrap() <= 1, "{counts:?}");
    }
}

#[test]
fn a_call_that_says_so_lies_on_as_few_hosts_as_have_room() {
    let pack = |mut group: Group| {
        group.demand.placement = Placement::Pack;
        group
    };
    let on = |rooms: &[Room], group: Group| {
        let placed = place(&mut rooms.to_vec(), &[group]).unwrap();
        placed[0].iter().map(|seat| seat.host).collect::<Vec<_>>()
    };
    let rooms = [room(2, 8, "a"), room(4, 8, "a"), room(2, 8, "b")];
    assert_eq!(on(&rooms, gpus(1000, 3)), [0, 1, 2]);
    assert_eq!(on(&rooms, pack(gpus(1000, 3))), [1, 1, 1]);
    assert_eq!(on(&rooms, pack(gpus(1000, 6))), [1, 1, 1, 1, 0, 0]);
    // Those that it may have besides as well, and labels come first.
    let mut more = pack(gpus(1000, 1));
    more.most = Some(5);
    assert_eq!(on(&rooms, more), [1, 1, 1, 1, 0]);
    let mut liked = pack(gpus(1000, 3));
    liked.demand.labels = "zone=b | zone=a".parse().unwrap();
    assert_eq!(on(&rooms, liked), [2, 2, 1]);
}
