//! Whose turn it is where several clients wait for the same workers: pure.
//!
//! Who waits stands in a lane. The more urgent lane is served first, but for one that was
//! passed over so often that a turn is due to it: it gets at least every `every`-th. Within
//! a lane the client is next that has had least of the workers' time, measured; who waits for
//! one client is served in order. A client that comes counts as one that had as much as
//! the last one served, so that coming late earns nothing; and one that had more is
//! remembered when it goes, so that going earns nothing either (start-time fair queueing:
//! Goyal, Vin and Cheng, SIGCOMM 1996). Made by `line`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::call::{Priority, UdfCall};

/// Clients that are remembered when they go, in each lane.
const REMEMBERED: usize = 64;

/// How urgent a turn is; the first is the most urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Interactive,
    /// Of an actor that takes calls as they come.
    AsTheyCome,
    Batch,
}

const LANES: usize = 3;

/// Who stands in line.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    lane: Lane,
    /// Turns are shared out among clients.
    client: Arc<str>,
}

impl Turn {
    /// That of a block of `call`. With `shares`, queries share the workers in turns; without,
    /// they are served as they come, but for those whose session says otherwise.
    pub(crate) fn of(call: &UdfCall, shares: bool) -> Self {
        Self::new(&call.query, call.priority, shares)
    }

    /// The same, of a call that `query` makes.
    pub(crate) fn new(query: &str, priority: Priority, shares: bool) -> Self {
        let lane = match (shares || priority.is_said, priority.is_interactive) {
            (false, _) => Lane::AsTheyCome,
            (true, true) => Lane::Interactive,
            (true, false) => Lane::Batch,
        };
        let client = if shares { query } else { "" };
        Self {
            lane,
            client: client.into(),
        }
    }

    /// Whether others may be served before it, and it may be made to wait for them.
    pub(crate) fn is_batch(&self) -> bool {
        self.lane == Lane::Batch
    }

    /// Whether somebody waits for the answer who may come back.
    pub(crate) fn is_question(&self) -> bool {
        self.lane == Lane::Interactive && !self.client.is_empty()
    }

    /// That of who sees to it that an actor is there.
    pub(crate) fn of_keeper() -> Self {
        Self {
            lane: Lane::Interactive,
            client: "".into(),
        }
    }
}

/// Those who wait, each with a `T`.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    lanes: [Waiting<T>; LANES],
    /// They have been through once: before all others.
    again: VecDeque<T>,
    every: u32,
}

/// Those of one lane.
#[derive(Debug)]
struct Waiting<T> {
    /// In the order they came.
    clients: Vec<Client<T>>,
    /// What the client had had that was served last.
    floor: Duration,
    /// Turns of others since the last one of this lane, while somebody waited.
    passed: u32,
}

#[derive(Debug)]
struct Client<T> {
    name: Arc<str>,
    /// Time that it had of the workers.
    had: Duration,
    at_work: usize,
    waiting: VecDeque<T>,
}

impl<T> Turns<T> {
    /// Nobody. A lane in which somebody waits gets at least every `every`-th turn.
    pub(crate) fn new(every: u32) -> Self {
        Self {
            lanes: [Waiting::new(), Waiting::new(), Waiting::new()],
            again: VecDeque::new(),
            every: every.max(2),
        }
    }

    /// `who` waits as the last one of its client.
    pub(crate) fn push(&mut self, turn: &Turn, who: T) {
        self.lane(turn.lane)
            .client(&turn.client)
            .waiting
            .push_back(who);
    }

    /// `who` waits before all others.
    pub(crate) fn push_first(&mut self, who: T) {
        self.again.push_front(who);
    }

    /// Lets go of those that are not to be kept.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.again.retain(&mut keep);
        for lane in &mut self.lanes {
            let clients = lane.clients.iter_mut();
            clients.for_each(|client| client.waiting.retain(&mut keep));
        }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        let clients = self.lanes.iter().flat_map(|lane| &lane.clients);
        let waiting = clients.map(|client| client.waiting.len());
        self.again.len() + waiting.sum::<usize>()
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.again.is_empty() && !self.lanes.iter().any(Waiting::is_waited_in)
    }

    /// About how many are served before one that comes now.
    pub(crate) fn ahead(&self, turn: &Turn) -> usize {
        let before = &self.lanes[..turn.lane as usize];
        let before = before.iter().map(Waiting::len).sum::<usize>();
        let own = &self.lanes[turn.lane as usize];
        // Each of the others has one turn, and the same client all that it waits for.
        let own = own
            .clients
            .iter()
            .map(|client| match client.name == turn.client {
                true => client.waiting.len(),
                false => client.waiting.len().min(1),
            });
        self.again.len() + before + own.sum::<usize>()
    }

    /// The next one, and what is to be told by [`Self::ended`]; `None` of one that has been
    /// through once.
    pub(crate) fn pop(&mut self) -> Option<(T, Option<Turn>)> {
        if let Some(who) = self.again.pop_front() {
            return Some((who, None));
        }
        let next = self.next_lane()?;
        for lane in &mut self.lanes {
            lane.passed = if lane.is_waited_in() {
                lane.passed + 1
            } else {
                0
            };
        }
        let lane = self.lane(next);
        lane.passed = 0;
        let (who, client) = lane.pop()?;
        Some((who, Some(Turn { lane: next, client })))
    }

    /// Whether the next one is of the least urgent lane, and no turn is due to it.
    pub(crate) fn next_may_wait(&self) -> bool {
        let batch = &self.lanes[Lane::Batch as usize];
        let is_due = batch.passed + 1 >= self.every;
        self.again.is_empty() && !is_due && self.next_lane() == Some(Lane::Batch)
    }

    /// One that was served is through after it had a worker for `took`.
    pub(crate) fn ended(&mut self, turn: &Turn, took: Duration) {
        self.lane(turn.lane).ended(&turn.client, took);
    }

    fn lane(&mut self, lane: Lane) -> &mut Waiting<T> {
        &mut self.lanes[lane as usize]
    }

    fn next_lane(&self) -> Option<Lane> {
        let lanes = [Lane::Interactive, Lane::AsTheyCome, Lane::Batch];
        let of = |lane: &Lane| &self.lanes[*lane as usize];
        let mut waited_in = lanes.into_iter().filter(|lane| of(lane).is_waited_in());
        let is_due = |lane: &Lane| of(lane).passed + 1 >= self.every;
        // Of several the one that has waited longest.
        let due = waited_in.clone().filter(is_due);
        due.max_by_key(|lane| of(lane).passed)
            .or_else(|| waited_in.next())
    }
}

impl<T> Waiting<T> {
    fn new() -> Self {
        Self {
            clients: vec![],
            floor: Duration::ZERO,
            passed: 0,
        }
    }

    fn is_waited_in(&self) -> bool {
        self.clients.iter().any(|client| !client.waiting.is_empty())
    }

    fn len(&self) -> usize {
        self.clients.iter().map(|client| client.waiting.len()).sum()
    }

    fn client(&mut self, name: &Arc<str>) -> &mut Client<T> {
        let at = self.clients.iter().position(|client| client.name == *name);
        let at = at.unwrap_or_else(|| {
            self.clients.push(Client {
                name: Arc::clone(name),
                had: self.floor,
                at_work: 0,
                waiting: VecDeque::new(),
            });
            self.clients.len() - 1
        });
        let client = &mut self.clients[at];
        if client.is_away() {
            client.had = client.had.max(self.floor);
        }
        client
    }

    fn pop(&mut self) -> Option<(T, Arc<str>)> {
        let waiting = self.clients.iter_mut().filter(|c| !c.waiting.is_empty());
        // Of equals the one that has less at work, then the one that came first.
        let next = waiting.min_by_key(|client| (client.had, client.at_work))?;
        let who = next.waiting.pop_front()?;
        next.at_work += 1;
        self.floor = self.floor.max(next.had);
        Some((who, Arc::clone(&next.name)))
    }

    fn ended(&mut self, name: &Arc<str>, took: Duration) {
        if let Some(client) = self.clients.iter_mut().find(|c| c.name == *name) {
            client.had += took;
            client.at_work = client.at_work.saturating_sub(1);
        }
        self.forget();
    }

    /// Forgets clients that are away and have had no more than others.
    fn forget(&mut self) {
        if self.clients.iter().all(Client::is_away) {
            self.clients.clear();
            self.floor = Duration::ZERO;
            return;
        }
        let floor = self.floor;
        self.clients.retain(|c| !c.is_away() || c.had > floor);
        while self.clients.iter().filter(|c| c.is_away()).count() > REMEMBERED {
            let away = self.clients.iter().enumerate().filter(|(_, c)| c.is_away());
            let Some((at, _)) = away.min_by_key(|(_, c)| c.had) else {
                return;
            };
            self.clients.remove(at);
        }
    }
}

impl<T> Client<T> {
    fn is_away(&self) -> bool {
        self.waiting.is_empty() && self.at_work == 0
    }
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
