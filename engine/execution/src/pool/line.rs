//! Who has what of the cluster's resources, and who waits: the coordinator's book.
//!
//! The ledger of each executor says the same of one process; here queries claim what
//! their calls ask for over all of them, at once, or wait in order of arrival. An actor
//! whose host is lost is placed anew before anybody in line is served. What a lost host
//! had counts no more: who registers again starts with all that it has. What is claimed of
//! actors that are all alike, as those of a named pool, or of one call of a query, may grow by
//! what nobody in line wants, and be given back one by one.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mobula_udfs::resources::{Taken, Waiting, classes};
use mobula_udfs::{Capacity, Demand};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use url::Url;

use super::placement::{Group, Room, at_once, place, preference, take};

mod instead;

/// A process that runs actors.
#[derive(Debug, Clone)]
pub struct ActorHostNow {
    pub executor_id: String,
    pub url: Url,
    /// Another one after it had to register again.
    pub epoch: u64,
    pub capacity: Capacity,
}

/// Where one actor of a query is to live.
#[derive(Debug, Clone)]
pub struct Held {
    pub executor_id: String,
    pub url: Url,
    pub epoch: u64,
    taken: Taken,
}

/// The hosts, what is taken of them, and the line.
#[derive(Debug, Default)]
pub struct ClusterLine {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    hosts: BTreeMap<String, Host>,
    line: VecDeque<Waiter>,
    claims: HashMap<String, Claimed>,
    /// Queries whose actors have moved.
    moved: BTreeSet<String>,
}

#[derive(Debug)]
struct Host {
    url: Url,
    epoch: u64,
    room: Room,
}

#[derive(Debug)]
struct Waiter {
    query: String,
    groups: Vec<Group>,
    since: Instant,
    granted: oneshot::Sender<()>,
}

/// What one query has.
#[derive(Debug)]
struct Claimed {
    groups: Vec<Group>,
    /// Of each group.
    seats: Vec<Vec<Held>>,
    /// Actors of each group that have lost their host.
    lost: Vec<usize>,
    /// When it last lost some.
    lost_at: Instant,
}

/// Actors of one claim that have lost their host and have no other yet.
#[derive(Debug, Clone)]
pub struct Lost {
    pub query: String,
    /// Of each.
    pub demand: Demand,
    pub actors: usize,
    /// When the last of them was lost.
    pub since: Instant,
}

/// What one query has claimed; given back when dropped.
#[derive(Debug)]
pub struct ClusterClaim {
    line: Arc<ClusterLine>,
    query: String,
}

/// Others had it all the time; these queries, in the order of their names.
#[derive(Debug, PartialEq, Eq)]
pub struct TimedOut {
    pub holders: Vec<String>,
}

impl ClusterLine {
    /// From now on these are the hosts.
    pub fn set_hosts(&self, hosts: Vec<ActorHostNow>) {
        let mut state = self.state.lock();
        let ids: BTreeSet<_> = hosts.iter().map(|host| host.executor_id.clone()).collect();
        state.hosts.retain(|id, _| ids.contains(id));
        for host in hosts {
            let known = state.hosts.get(&host.executor_id);
            if known.is_none_or(|known| known.epoch != host.epoch) {
                let new = Host {
                    room: Room::all_of(&host.capacity),
                    url: host.url,
                    epoch: host.epoch,
                };
                state.hosts.insert(host.executor_id, new);
            }
        }
        state.drop_lost();
        state.serve();
    }

    /// Claims the actors of `groups` for `query`, and waits in line for them up to
    /// `limit`. Also tells whether it had to wait.
    ///
    /// # Errors
    /// Who kept what it waited for.
    pub async fn claim(
        self: &Arc<Self>,
        query: &str,
        groups: Vec<Group>,
        limit: Duration,
    ) -> Result<(ClusterClaim, bool), TimedOut> {
        // From here on, dropping it leaves the line and gives back what came.
        let claim = ClusterClaim {
            line: Arc::clone(self),
            query: query.to_owned(),
        };
        let (granted, mut grant) = oneshot::channel();
        {
            let mut state = self.state.lock();
            state.line.push_back(Waiter {
                query: query.to_owned(),
                groups,
                since: Instant::now(),
                granted,
            });
            state.serve();
        }
        if grant.try_recv().is_ok() {
            return Ok((claim, false));
        }
        match tokio::time::timeout(limit, grant).await {
            Ok(Ok(())) => Ok((claim, true)),
            _ => Err(TimedOut {
                holders: self.holders(),
            }),
        }
    }

    /// Those who wait, in the order they came.
    pub fn waiting(&self) -> Vec<Waiting> {
        let state = self.state.lock();
        let mut before: Vec<Vec<Demand>> = vec![];
        let line = state.line.iter().map(|waiter| {
            let demands = demands(&waiter.groups);
            let mine = classes(&demands);
            let in_the_way = before.iter().filter(|d| !classes(d).is_disjoint(&mine));
            let ahead = in_the_way.count();
            before.push(demands.clone());
            Waiting {
                query: waiter.query.clone(),
                demands,
                since: waiter.since,
                ahead,
            }
        });
        line.collect()
    }

    /// Where the actors of `query` are to live, those of each of its groups.
    pub fn seats(&self, query: &str) -> Vec<Vec<Held>> {
        let state = self.state.lock();
        let claimed = state.claims.get(query);
        claimed
            .map(|claimed| claimed.seats.clone())
            .unwrap_or_default()
    }

    /// The queries whose actors have moved since this was asked.
    pub fn moved(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.state.lock().moved)
    }

    /// The actors of `query` are to be looked at again.
    pub fn again(&self, query: &str) {
        let mut state = self.state.lock();
        if state.claims.contains_key(query) {
            state.moved.insert(query.to_owned());
        }
    }

    /// Gives `query` up to `most` more actors of its group at place `at`, beside those that it
    /// has, as far as there is room that nobody in line waits for; how many.
    pub fn grow(&self, query: &str, at: usize, most: usize) -> usize {
        let mut state = self.state.lock();
        (0..most)
            .take_while(|_| state.add_one(query, at).is_some())
            .count()
    }

    /// By how many, of `most`, [`Self::grow`] could let that group of `query` grow now.
    pub fn room_of(&self, query: &str, at: usize, most: usize) -> usize {
        let state = self.state.lock();
        let group = state.group(query, at);
        let Some(group) = group.filter(|group| !state.is_wanted(&group.demand)) else {
            return 0;
        };
        let more = state.hosts.iter().fold(0, |found, (id, host)| {
            let bound = state.more_on(query, at, id, host).min(most - found);
            found + at_once(std::slice::from_ref(&host.room), &group.demand, bound)
        });
        more.min(most)
    }

    /// Takes one actor of that group of `query`, on the host with that id and epoch, and gives
    /// to others what it had.
    pub fn shrink(&self, query: &str, at: usize, (executor_id, epoch): (&str, u64)) {
        let mut state = self.state.lock();
        let claimed = state.claims.get_mut(query);
        let Some(seats) = claimed.and_then(|claimed| claimed.seats.get_mut(at)) else {
            return;
        };
        let is_it = |held: &Held| held.executor_id == executor_id && held.epoch == epoch;
        if let Some(at) = seats.iter().position(is_it) {
            let held = seats.remove(at);
            state.put_back(&held);
            state.serve();
        }
    }

    /// Places no more actors of that group of `query` instead of lost ones than make it `most`
    /// again; how many those are.
    pub fn forget_lost(&self, query: &str, at: usize, most: usize) -> usize {
        let mut state = self.state.lock();
        let claimed = state.claims.get_mut(query);
        let of_group = claimed.and_then(|c| c.seats.get(at).zip(c.lost.get_mut(at)));
        let Some((seats, lost)) = of_group else {
            return 0;
        };
        *lost = (*lost).min(most.saturating_sub(seats.len()));
        *lost
    }

    /// Whether somebody in line waits for some of what each actor of that group of `query` has.
    pub fn is_waited_for(&self, query: &str, at: usize) -> bool {
        let state = self.state.lock();
        let group = state.group(query, at);
        group.is_some_and(|group| state.is_wanted(&group.demand))
    }

    /// The actors that have lost their host, and that there is no room for now.
    pub fn lost(&self) -> Vec<Lost> {
        let state = self.state.lock();
        let mut all = vec![];
        for (query, claimed) in &state.claims {
            let lost = claimed.groups.iter().zip(&claimed.lost);
            let lost = lost.filter(|(_, lost)| **lost > 0);
            all.extend(lost.map(|(group, lost)| Lost {
                query: query.clone(),
                demand: group.demand.clone(),
                actors: *lost,
                since: claimed.lost_at,
            }));
        }
        all
    }

    fn holders(&self) -> Vec<String> {
        let state = self.state.lock();
        let mut holders: Vec<_> = state.claims.keys().cloned().collect();
        holders.sort();
        holders
    }
}

fn demands(groups: &[Group]) -> Vec<Demand> {
    let each = groups
        .iter()
        .map(|group| std::iter::repeat_n(group.demand.clone(), group.least));
    each.flatten().collect()
}

impl Claimed {
    fn new(groups: Vec<Group>, seats: Vec<Vec<Held>>) -> Self {
        Self {
            lost: vec![0; groups.len()],
            lost_at: Instant::now(),
            groups,
            seats,
        }
    }
}

impl State {
    /// Takes from claims what lost hosts had.
    fn drop_lost(&mut self) {
        for (query, claimed) in &mut self.claims {
            for (seats, lost) in claimed.seats.iter_mut().zip(&mut claimed.lost) {
                let before = seats.len();
                seats.retain(|held| is_there(&self.hosts, held));
                let gone = before - seats.len();
                *lost += gone;
                if gone > 0 {
                    claimed.lost_at = Instant::now();
                    self.moved.insert(query.clone());
                }
            }
        }
    }

    /// Gives what is free to those whose turn it is: first to who has lost some.
    fn serve(&mut self) {
        self.replace_lost();
        while let Some(at) = self.next() {
            let Some(waiter) = self.line.remove(at) else {
                return;
            };
            // Who waits behind has a right to what nobody needs.
            let is_line = !self.line.is_empty();
            let mut groups = waiter.groups.clone();
            for group in groups.iter_mut().filter(|group| is_line || group.grows) {
                group.most = Some(group.least);
            }
            let Some(seats) = self.place(&groups) else {
                return;
            };
            let claimed = Claimed::new(waiter.groups, seats);
            self.claims.insert(waiter.query, claimed);
            // Who has gone meanwhile gives it back by dropping its claim.
            let _ = waiter.granted.send(());
        }
    }

    /// The place in line of who is to be served now: as in the ledger of a process, one
    /// may pass another only by asking for nothing that the other one waits with.
    fn next(&self) -> Option<usize> {
        let waiters: Vec<_> = self.line.iter().map(|w| demands(&w.groups)).collect();
        let mut blocked = BTreeSet::new();
        for (at, (waiter, demands)) in self.line.iter().zip(&waiters).enumerate() {
            let wanted = classes(demands);
            if wanted.is_disjoint(&blocked) && self.fits(&waiter.groups) {
                return Some(at);
            }
            blocked.extend(wanted);
        }
        None
    }

    fn rooms(&self) -> Vec<Room> {
        self.hosts.values().map(|host| host.room.clone()).collect()
    }

    fn fits(&self, groups: &[Group]) -> bool {
        place(&mut self.rooms(), groups).is_some()
    }

    fn place(&mut self, groups: &[Group]) -> Option<Vec<Vec<Held>>> {
        let mut rooms = self.rooms();
        let placed = place(&mut rooms, groups)?;
        for (host, room) in self.hosts.values_mut().zip(rooms) {
            host.room = room;
        }
        let hosts: Vec<_> = self.hosts.iter().collect();
        let held = |seats: Vec<super::placement::Seat>| {
            let held = seats.into_iter().filter_map(|seat| {
                let (id, host) = hosts.get(seat.host)?;
                Some(Held {
                    executor_id: (*id).clone(),
                    url: host.url.clone(),
                    epoch: host.epoch,
                    taken: seat.taken,
                })
            });
            held.collect()
        };
        Some(placed.into_iter().map(held).collect())
    }

    /// As many as there is room for; the others wait.
    fn replace_lost(&mut self) {
        let mut wanting: Vec<_> = self.claims.keys().cloned().collect();
        wanting.sort();
        for query in wanting {
            let groups = match self.claims.get(&query) {
                Some(claimed) => claimed.groups.len(),
                None => continue,
            };
            for at in 0..groups {
                while self.replace_one(&query, at).is_some() {
                    self.moved.insert(query.clone());
                }
            }
        }
    }

    /// The group of `query` at place `at`.
    fn group(&self, query: &str, at: usize) -> Option<&Group> {
        self.claims.get(query)?.groups.get(at)
    }

    /// How many more of its actors host `id` may have beside those that it has, room or not.
    fn more_on(&self, query: &str, at: usize, id: &str, host: &Host) -> usize {
        match self.group(query, at) {
            // Nobody says how many: it is as many as it has cores.
            Some(Group { most: None, .. }) => {
                let seats = self.claims.get(query).and_then(|c| c.seats.get(at));
                let seats = seats.into_iter().flatten();
                let has = seats.filter(|held| held.executor_id == id).count();
                host.room.cores.saturating_sub(has)
            }
            _ => usize::MAX,
        }
    }

    /// Whether somebody in line waits for some of what `demand` takes.
    fn is_wanted(&self, demand: &Demand) -> bool {
        let mine = demand.classes();
        let mut line = self.line.iter().flat_map(|waiter| &waiter.groups);
        line.any(|group| !group.demand.classes().is_disjoint(&mine))
    }

    /// One more actor for that group of `query`, where it likes it best.
    fn add_one(&mut self, query: &str, at: usize) -> Option<()> {
        let demand = self.group(query, at)?.demand.clone();
        if self.is_wanted(&demand) {
            return None;
        }
        let has: Vec<_> = self.claims.get(query)?.seats.get(at)?.iter().collect();
        let of_host = |id: &str| has.iter().filter(|held| held.executor_id == id).count();
        let fitting = self.hosts.iter().filter(|(id, host)| {
            let mut room = host.room.clone();
            self.more_on(query, at, id, host) > 0 && take(&mut room, &demand).is_some()
        });
        let id = fitting.min_by_key(|(id, host)| {
            let liked = preference(&demand, &host.room, of_host(id));
            (liked, (*id).clone())
        })?;
        let id = id.0.clone();
        let host = self.hosts.get_mut(&id)?;
        let held = Held {
            taken: take(&mut host.room, &demand)?,
            url: host.url.clone(),
            epoch: host.epoch,
            executor_id: id,
        };
        let seats = self.claims.get_mut(query)?.seats.get_mut(at)?;
        seats.push(held);
        Some(())
    }

    /// What `held` had is free again, if its host is still the same.
    fn put_back(&mut self, held: &Held) {
        let host = self.hosts.get_mut(&held.executor_id);
        if let Some(host) = host.filter(|host| host.epoch == held.epoch) {
            host.room.free.put_back(&held.taken);
        }
    }

    fn replace_one(&mut self, query: &str, at: usize) -> Option<()> {
        let claimed = self.claims.get(query)?;
        let demand = claimed.groups.get(at)?.demand.clone();
        if *claimed.lost.get(at)? == 0 {
            return None;
        }
        let one = Group {
            demand,
            least: 1,
            most: Some(1),
            grows: false,
        };
        let held = self.place(&[one])?.pop()?.pop()?;
        let claimed = self.claims.get_mut(query)?;
        *claimed.lost.get_mut(at)? -= 1;
        claimed.seats.get_mut(at)?.push(held);
        Some(())
    }
}

fn is_there(hosts: &BTreeMap<String, Host>, held: &Held) -> bool {
    let host = hosts.get(&held.executor_id);
    host.is_some_and(|host| host.epoch == held.epoch)
}

impl ClusterClaim {
    /// Whose it is.
    pub fn query(&self) -> &str {
        &self.query
    }
}

impl Drop for ClusterClaim {
    fn drop(&mut self) {
        let mut state = self.line.state.lock();
        state.line.retain(|waiter| waiter.query != self.query);
        state.moved.remove(&self.query);
        let claimed = state.claims.remove(&self.query);
        for held in claimed.into_iter().flat_map(|c| c.seats).flatten() {
            state.put_back(&held);
        }
        state.serve();
    }
}

#[cfg(test)]
mod tests {
    use mobula_udfs::Amount;

    use super::*;

    pub(super) fn host(id: &str, epoch: u64, gpus: usize) -> ActorHostNow {
        ActorHostNow {
            executor_id: id.to_owned(),
            url: Url::parse(&format!("http://{id}:1")).unwrap(),
            epoch,
            capacity: Capacity {
                cpus: Amount::whole(4),
                gpu_ids: (0..gpus).map(|gpu| gpu.to_string()).collect(),
                ..Capacity::default()
            },
        }
    }

    pub(super) fn gpus(n: usize) -> Vec<Group> {
        vec![Group {
            demand: Demand {
                gpus: Some(Amount::ONE),
                ..Demand::default()
            },
            least: n,
            most: Some(n),
            grows: false,
        }]
    }

    pub(super) fn hosts_of(line: &ClusterLine, query: &str) -> Vec<String> {
        let seats = line.seats(query).into_iter().flatten();
        let mut ids: Vec<_> = seats.map(|held| held.executor_id).collect();
        ids.sort();
        ids
    }

    pub(super) const SOON: Duration = Duration::from_millis(50);
    pub(super) const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn queries_get_all_over_hosts_or_wait_in_order() {
        let line = Arc::new(ClusterLine::default());
        line.set_hosts(vec![host("a", 1, 1), host("b", 2, 1)]);
        let (first, waited) = line.claim("q1", gpus(2), SOON).await.unwrap();
        assert!(!waited);
        assert_eq!(hosts_of(&line, "q1"), ["a", "b"]);
        let refused = line.claim("q2", gpus(1), SOON).await.unwrap_err();
        assert_eq!(refused.holders, ["q1"]);
        let (second, third) = {
            let mut second = std::pin::pin!(line.claim("q2", gpus(2), LONG));
            assert!(tokio::time::timeout(SOON, second.as_mut()).await.is_err());
            let mut third = std::pin::pin!(line.claim("q3", gpus(1), LONG));
            assert!(tokio::time::timeout(SOON, third.as_mut()).await.is_err());
            let told: Vec<_> = line.waiting().into_iter().map(|w| w.ahead).collect();
            assert_eq!(told, [0, 1]);
            // Who asks for nothing that others wait for passes.
            let cpus = vec![Group {
                demand: Demand {
                    cpus: Some(Amount::ONE),
                    ..Demand::default()
                },
                least: 1,
                most: None,
                grows: false,
            }];
            let (fourth, waited) = line.claim("q4", cpus, SOON).await.unwrap();
            assert!(!waited);
            // No more than it needs, since others wait.
            assert_eq!(hosts_of(&line, "q4").len(), 1);
            drop(first);
            let (second, waited) = second.await.unwrap();
            assert!(waited);
            assert!(tokio::time::timeout(SOON, third.as_mut()).await.is_err());
            drop((second, fourth));
            (hosts_of(&line, "q2"), third.await.unwrap())
        };
        assert!(second.is_empty());
        assert_eq!(hosts_of(&line, "q3"), ["a"]);
        drop(third);
        assert!(line.claim("q5", gpus(2), SOON).await.is_ok());
    }

    #[tokio::test]
    async fn what_a_lost_host_had_is_placed_anew_before_who_waits() {
        let line = Arc::new(ClusterLine::default());
        line.set_hosts(vec![host("a", 1, 2), host("b", 2, 1)]);
        let (claim, _) = line.claim("q1", gpus(2), SOON).await.unwrap();
        assert_eq!(hosts_of(&line, "q1"), ["a", "b"]);
        assert!(line.moved().is_empty());
        // Its other GPU takes over for the lost host.
        line.set_hosts(vec![host("a", 1, 2)]);
        assert_eq!(hosts_of(&line, "q1"), ["a", "a"]);
        assert_eq!(line.moved().into_iter().collect::<Vec<_>>(), ["q1"]);
        let mut other = std::pin::pin!(line.claim("q2", gpus(1), LONG));
        assert!(tokio::time::timeout(SOON, other.as_mut()).await.is_err());
        // Registered again: nothing of before is there.
        line.set_hosts(vec![host("a", 3, 1)]);
        assert_eq!(hosts_of(&line, "q1"), ["a"]);
        assert_eq!(line.moved().len(), 1);
        line.set_hosts(vec![host("a", 3, 1), host("b", 4, 1)]);
        assert_eq!(hosts_of(&line, "q1"), ["a", "b"]);
        assert!(line.moved().contains("q1"));
        drop(claim);
        let (other, _) = other.await.unwrap();
        // What the first host had is not given back to the one after it.
        let (third, _) = line.claim("q3", gpus(1), SOON).await.unwrap();
        assert!(line.claim("q4", gpus(1), SOON).await.is_err());
        drop((other, third));
    }

    #[tokio::test]
    async fn a_claim_grows_by_what_nobody_waits_for_and_gives_back() {
        let line = Arc::new(ClusterLine::default());
        line.set_hosts(vec![host("a", 1, 3), host("b", 2, 2)]);
        let (pool, _) = line.claim("p", gpus(1), SOON).await.unwrap();
        assert_eq!(hosts_of(&line, "p"), ["a"]);
        assert_eq!((line.room_of("p", 0, 9), line.room_of("p", 0, 2)), (4, 2));
        // Beside the one that it has, not on top of it.
        assert_eq!(line.grow("p", 0, 2), 2);
        assert_eq!(hosts_of(&line, "p"), ["a", "a", "b"]);
        assert!(!line.is_waited_for("p", 0));
        let (third, seats) = {
            let mut third = std::pin::pin!(line.claim("q", gpus(3), LONG));
            assert!(tokio::time::timeout(SOON, third.as_mut()).await.is_err());
            // What is free now is for who waits.
            assert!(line.is_waited_for("p", 0));
            assert_eq!((line.room_of("p", 0, 9), line.grow("p", 0, 1)), (0, 0));
            line.shrink("p", 0, ("a", 7));
            assert_eq!(hosts_of(&line, "p").len(), 3);
            line.shrink("p", 0, ("a", 1));
            (third.await.unwrap(), hosts_of(&line, "p"))
        };
        assert_eq!(seats, ["a", "b"]);
        assert_eq!(line.grow("p", 0, 1), 0);
        drop(third);
        assert_eq!(line.grow("p", 0, 9), 3);
        // One that is lost is forgotten where there are enough without it.
        line.set_hosts(vec![host("a", 1, 3)]);
        assert_eq!(hosts_of(&line, "p").len(), 3);
        assert_eq!(line.lost()[0].actors, 2);
        assert_eq!(line.forget_lost("p", 0, 4), 1);
        assert_eq!(line.lost()[0].actors, 1);
        assert_eq!(line.forget_lost("p", 0, 3), 0);
        assert!(line.lost().is_empty());
        line.set_hosts(vec![host("a", 1, 3), host("b", 2, 2)]);
        assert_eq!(hosts_of(&line, "p").len(), 3);
        drop(pool);
        assert!(line.claim("r", gpus(5), SOON).await.is_ok());
        assert_eq!(line.grow("p", 0, 1), 0);
    }

    #[tokio::test]
    async fn calls_of_a_query_grow_each_for_itself_and_begin_with_what_they_need() {
        let line = Arc::new(ClusterLine::default());
        line.set_hosts(vec![host("a", 1, 3), host("b", 2, 2)]);
        let cores = Group {
            demand: Demand {
                cpus: Some(Amount::from_milli(100)),
                ..Demand::default()
            },
            least: 1,
            most: None,
            grows: true,
        };
        let mut groups = gpus(1);
        groups[0].most = Some(4);
        groups[0].grows = true;
        groups.push(cores);
        let (query, _) = line.claim("q", groups, SOON).await.unwrap();
        let counts = |line: &ClusterLine| {
            let seats = line.seats("q").into_iter();
            seats.map(|seats| seats.len()).collect::<Vec<_>>()
        };
        assert_eq!(counts(&line), [1, 1]);
        assert_eq!((line.room_of("q", 0, 9), line.room_of("q", 2, 9)), (4, 0));
        // Where nobody says how many, as many as hosts have cores, however little each takes.
        assert_eq!((line.room_of("q", 1, 99), line.room_of("q", 1, 5)), (7, 5));
        assert_eq!((line.grow("q", 1, 99), line.grow("q", 0, 2)), (7, 2));
        assert_eq!(counts(&line), [3, 8]);
        {
            let mut waits = std::pin::pin!(line.claim("r", gpus(3), LONG));
            assert!(tokio::time::timeout(SOON, waits.as_mut()).await.is_err());
            // Only what it wants is not to be had.
            assert!(line.is_waited_for("q", 0) && !line.is_waited_for("q", 1));
            assert_eq!((line.room_of("q", 0, 9), line.grow("q", 0, 1)), (0, 0));
            line.shrink("q", 1, ("a", 1));
            assert_eq!((counts(&line), line.room_of("q", 1, 9)), (vec![3, 7], 1));
        }
        line.set_hosts(vec![host("a", 1, 3)]);
        // There is room for all that the lost host had.
        assert_eq!(
            (counts(&line), line.forget_lost("q", 1, 9)),
            (vec![3, 7], 0)
        );
        drop(query);
        assert_eq!(line.room_of("q", 0, 9), 0);
        assert!(line.claim("r", gpus(3), SOON).await.is_ok());
    }
}
