//! The hosts of one pool as one task reaches them: who has room, who is lost, who is new.
//!
//! Each is a pool of its own: an exchange, or the actors of this process. What is lost stays
//! listed for its figures. While some are missed the coordinator is asked where they are
//! now, which also finds those that took their place. It is asked for a pool that follows its
//! load, too, while all actors have something to do: it is told of that load so.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mobula_plan::{PlacedPool, PoolHost};
use mobula_proto::pool::PoolRef;
use mobula_udfs::{Down, PoolStats, UdfCall, UdfError, UdfPool, member_key};
use parking_lot::Mutex;
use tokio::sync::Notify;
use url::Url;

use self::end::End;
use super::choose::choose;
use super::directory::Asker;
use super::dispatch::{Found, PoolLine};
use super::placed_actor::directory_key;
use crate::actor_calls::link::Place;
use crate::actor_calls::pool::{RemoteActor, Way};
use crate::spawn::{OwnedTask, spawn_named};

mod asking;
mod end;

/// How often the coordinator is asked where actors are that are missed.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How often it is asked whether a pool that follows its load has become larger.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A host that is still named so long after its loss has lost only the way to it: the
/// coordinator has missed no heartbeat of it.
const TRUST_AFTER: Duration = Duration::from_secs(10);
/// Blocks of a task on their way to each actor, and to one that works on many at a time.
const BLOCKS_PER_ACTOR: usize = 2;
const BLOCKS_PER_ASYNC_ACTOR: usize = 16;

/// The actors of one call, as one task reaches them.
#[derive(Debug)]
pub(super) struct Ends {
    line: Arc<PoolLine>,
    call: Arc<UdfCall>,
    call_id: u64,
    /// The actor, or pool, that is called by its name; empty: the query's own.
    named: String,
    /// Whether there may be more or fewer while it runs.
    follows: bool,
    /// Tells it from others that ask for the same.
    asker: Asker,
    /// Where the task begins among them.
    first: usize,
    state: Mutex<State>,
    /// An end has room, or is new.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    ends: Vec<End>,
    /// Actors that there should be: as many as at first, or, of a pool that follows its load,
    /// as the coordinator has named last.
    expected: usize,
    /// Asks where actors are.
    asking: Option<OwnedTask<()>>,
    is_asking: bool,
    /// Blocks that wait for room at an end.
    waiting: u64,
    /// Whether all actors have had something to do since this was looked at.
    was_full: bool,
    /// Why the last one was lost.
    last_loss: String,
    /// Blocks that were sent again.
    resent: u64,
    /// The coordinator knows of no such actors any more.
    is_over: bool,
    /// Why there are none: they cannot be built.
    failure: Option<String>,
}

/// The right to one block on its way to an end.
pub(super) struct Turn {
    ends: Arc<Ends>,
    /// Its place.
    end: usize,
    pub(super) pool: Arc<dyn UdfPool>,
}

impl Turn {
    /// The end is not there any more. Whether it has refused its block: others took its place,
    /// and nothing of the block was begun.
    pub(super) fn lost(&self, error: &UdfError) -> bool {
        self.ends.lose(self.end, error)
    }

    /// What a block fails with that no actor takes, since none can be built.
    pub(super) fn failed(&self, error: &UdfError) -> Option<UdfError> {
        self.ends.failed(self.end, error)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.ends.state.lock();
        if let Some(end) = state.ends.get_mut(self.end) {
            end.in_flight -= 1;
            end.load.iter().for_each(|load| load.take());
            end.learn();
        }
        drop(state);
        self.ends.changed.notify_one();
    }
}

impl Ends {
    /// Those that `placed` names, for `call`.
    pub(super) fn new(line: &Arc<PoolLine>, call: Arc<UdfCall>, placed: &PlacedPool) -> Arc<Self> {
        let ends = Self {
            line: Arc::clone(line),
            call,
            call_id: placed.call_id,
            named: placed.actor.clone(),
            follows: placed.follows,
            asker: Asker {
                call_id: placed.call_id,
                number: uuid::Uuid::new_v4().as_u64_pair().0 | 1,
            },
            first: line.opened.fetch_add(1, Ordering::Relaxed),
            state: Mutex::new(State {
                expected: placed.actors(),
                ..State::default()
            }),
            changed: Notify::new(),
        };
        ends.add(&placed.hosts);
        Arc::new(ends)
    }

    pub(super) fn hosts_lost_max(&self) -> u32 {
        self.line.hosts_lost_max
    }

    pub(super) fn call(&self) -> &UdfCall {
        &self.call
    }

    /// As many as there should be, at least 1.
    pub(super) fn actors(&self) -> usize {
        self.state.lock().expected.max(1)
    }

    /// Blocks go out once more.
    pub(super) fn count_resent(&self) {
        self.state.lock().resent += 1;
    }

    /// As many small blocks as all of them take at a time.
    pub(super) fn train(&self) -> usize {
        let state = self.state.lock();
        let there = state.ends.iter().filter(|end| end.is_there());
        there.map(|end| end.pool.train()).min().unwrap_or(1)
    }

    /// Of all hosts, those that are lost included.
    pub(super) fn stats(&self) -> PoolStats {
        let state = self.state.lock();
        let all = state.ends.iter().map(|end| end.pool.stats());
        let mut sum = all.fold(PoolStats::default(), PoolStats::plus);
        sum.retries += state.resent;
        sum
    }

    /// Adds the hosts that are not known yet, and those that are named long after they
    /// were lost.
    fn add(&self, hosts: &[PoolHost]) {
        for host in hosts {
            let of_host = |end: &&End| end.is_of(host);
            let is_known = {
                let mut state = self.state.lock();
                state.ends.iter_mut().for_each(|end| end.try_again(host));
                state.ends.iter().filter(of_host).any(|end| {
                    let lost_for = end.lost_at.map(|at| at.elapsed());
                    lost_for.is_none_or(|time| end.is_down || time < TRUST_AFTER)
                })
            };
            if is_known {
                continue;
            }
            match self.end(host) {
                Ok(end) => self.state.lock().ends.push(end),
                Err(error) => {
                    let reason = error.to_string();
                    self.state.lock().last_loss = reason;
                }
            }
        }
        self.changed.notify_waiters();
    }

    fn end(&self, host: &PoolHost) -> Result<End, UdfError> {
        let is_local = host.executor_id == self.line.executor_id;
        let pool: Arc<dyn UdfPool> = match is_local {
            true => self.open_here(host)?,
            false => {
                let place = Place {
                    url: Url::parse(&host.url).map_err(|_| self.gone(host))?,
                    channels: self.line.channels.clone(),
                    traffic: Arc::clone(&self.line.traffic),
                };
                let way = Way {
                    pool: self.named.is_empty().then(|| self.pool_ref(host)),
                    member: match self.named.as_str() {
                        "" => String::new(),
                        name => member_key(name, host.part),
                    },
                    credits: self.credits(host),
                    lane: None,
                };
                let (call, keep_bytes) = (Arc::clone(&self.call), self.line.keep_bytes);
                Arc::new(RemoteActor::new(place, call, keep_bytes, way))
            }
        };
        Ok(End {
            host: host.clone(),
            credits: self.credits(host),
            pool,
            is_local,
            in_flight: 0,
            load: (self.is_named() && !is_local).then(|| {
                let member = member_key(&self.named, host.part);
                self.line.loads.of(&host.executor_id, member)
            }),
            told: None,
            mean_us: None,
            seen: (0, Duration::ZERO),
            lost_at: None,
            is_down: false,
            is_leaving: false,
        })
    }

    fn credits(&self, host: &PoolHost) -> usize {
        host.actors
            * match self.call.is_async() {
                true => BLOCKS_PER_ASYNC_ACTOR,
                false => BLOCKS_PER_ACTOR,
            }
    }

    fn pool_ref(&self, host: &PoolHost) -> PoolRef {
        PoolRef {
            query_id: self.call.query.clone(),
            call_id: self.call_id,
            part: host.part,
        }
    }

    fn open_here(&self, host: &PoolHost) -> Result<Arc<dyn UdfPool>, UdfError> {
        match self.named.as_str() {
            "" => {
                let pool = self.line.hosting.open(&self.pool_ref(host))?;
                pool.ok_or_else(|| self.gone(host))
            }
            name => {
                let key = member_key(name, host.part);
                let call = Arc::clone(&self.call);
                self.line.actors.open_member(&key, call)
            }
        }
    }

    fn is_named(&self) -> bool {
        !self.named.is_empty()
    }

    /// What the directory calls the actors.
    fn directory_key(&self) -> String {
        match self.named.as_str() {
            "" => self.call.query.clone(),
            name => directory_key(name),
        }
    }

    fn gone(&self, host: &PoolHost) -> UdfError {
        UdfError::PoolGone {
            function: self.call.spec.name.clone(),
            place: host.executor_id.clone(),
        }
    }

    fn lose(&self, at: usize, error: &UdfError) -> bool {
        let mut state = self.state.lock();
        state.last_loss = error.to_string();
        let Some(end) = state.ends.get_mut(at) else {
            return false;
        };
        let gone = self.gone(&end.host);
        let has_refused = match error {
            UdfError::PoolGone { .. } | UdfError::ActorDown { .. } => true,
            UdfError::Remote(told) => told.message == gone.to_string(),
            _ => false,
        };
        if end.lost_at.is_some() {
            return has_refused;
        }
        end.lost_at = Some(Instant::now());
        end.is_down = matches!(error, UdfError::ActorDown { .. });
        let (executor, function) = (&end.host.executor_id, &self.call.spec.name);
        match has_refused && (self.follows || end.is_down) {
            true => tracing::debug!(
                executor,
                function,
                "an actor has left; its blocks go to others"
            ),
            false => {
                tracing::warn!(executor, function, %error, "actors are lost; their blocks go to others");
            }
        }
        has_refused
    }

    /// What a block fails with that the end at `at` has refused so, and no other actor takes:
    /// none can be built.
    fn failed(&self, at: usize, error: &UdfError) -> Option<UdfError> {
        let UdfError::ActorDown {
            function,
            down: Down::Failed(reason),
        } = error
        else {
            return None;
        };
        let has_others = {
            let state = self.state.lock();
            // It may count as lost already, by another of its blocks.
            let mut all = state.ends.iter().enumerate();
            all.any(|(other, end)| other != at && end.is_there() && end.host.actors > 0)
        };
        (!has_others).then(|| UdfError::ActorFailed {
            function: function.clone(),
            actor: self.named.clone(),
            reason: reason.clone(),
        })
    }

    /// Waits for an end with room.
    pub(super) async fn turn(self: &Arc<Self>) -> Result<Turn, UdfError> {
        let deadline = tokio::time::sleep(self.line.patience);
        let mut deadline = std::pin::pin!(deadline);
        let mut waiting = None;
        self.ask_loads().await;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(turn) = self.take() {
                return Ok(turn);
            }
            if let Some(error) = self.refusal() {
                return Err(error);
            }
            waiting.get_or_insert_with(|| Waiting::of(self));
            self.ask();
            tokio::select! {
                () = changed => {}
                () = &mut deadline, if self.has_nobody() => return Err(self.nobody()),
            }
        }
    }

    fn take(self: &Arc<Self>) -> Option<Turn> {
        let mut state = self.state.lock();
        // From another one in each task: of those that are free, not always the same.
        let count = state.ends.len();
        let order = (0..count).map(|at| (self.first + at) % count);
        let views: Vec<_> = order.map(|at| state.ends[at].view()).collect();
        let at = (self.first + choose(&views)?) % count;
        let end = state.ends.get_mut(at)?;
        end.in_flight += 1;
        end.load.iter().for_each(|load| load.add());
        let turn = Turn {
            ends: Arc::clone(self),
            end: at,
            pool: Arc::clone(&end.pool),
        };
        let is_full = !state.ends.iter().any(End::is_free);
        state.was_full |= is_full;
        drop(state);
        if is_full {
            self.ask();
        }
        Some(turn)
    }

    fn has_nobody(&self) -> bool {
        !self.state.lock().ends.iter().any(End::is_there)
    }

    fn nobody(&self) -> UdfError {
        UdfError::NoActors {
            function: self.call.spec.name.clone(),
            reason: self.state.lock().last_loss.clone(),
            waited: self.line.patience,
        }
    }

    /// What a block is told that has nobody to wait for.
    fn refusal(&self) -> Option<UdfError> {
        let state = self.state.lock();
        if state.is_over {
            return Some(self.over());
        }
        state.failure.as_ref().map(|reason| UdfError::ActorFailed {
            function: self.call.spec.name.clone(),
            actor: self.named.clone(),
            reason: reason.clone(),
        })
    }

    fn over(&self) -> UdfError {
        let function = self.call.spec.name.clone();
        match self.named.as_str() {
            "" => UdfError::ShuttingDown { function },
            name => UdfError::ActorGone {
                function,
                actor: name.to_owned(),
            },
        }
    }

    fn misses_some(&self) -> bool {
        self.state.lock().misses_some()
    }

    /// Asks where the actors are, again and again as long as some are missed; of a pool that
    /// follows its load as long as all have something to do, if less often.
    fn ask(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.is_asking || !(self.follows || state.misses_some()) {
            return;
        }
        state.is_asking = true;
        state.asking = Some(spawn_named("pools-find", ask_on(Arc::downgrade(self))));
    }

    /// Whether there is nothing more to ask for; nobody asks then.
    fn is_settled(&self) -> bool {
        let mut state = self.state.lock();
        let is_short = std::mem::take(&mut state.was_full) || state.waiting > 0;
        let goes_on = state.misses_some() || (self.follows && is_short);
        state.is_asking &= goes_on;
        !state.is_asking
    }

    /// Takes in what the coordinator says.
    fn hear(&self, found: Found) {
        match found {
            Found::Pools(found) => {
                let mine = found
                    .into_iter()
                    .filter(|pool| pool.call_id == self.call_id);
                let hosts: Vec<_> = mine.flat_map(|pool| pool.hosts).collect();
                self.state.lock().failure = None;
                self.add(&hosts);
                if self.follows {
                    self.state.lock().are_all(&hosts);
                    self.changed.notify_waiters();
                }
            }
            Found::Nothing => {
                self.state.lock().is_over = true;
                self.changed.notify_waiters();
            }
            Found::Failed(reason) => {
                self.state.lock().failure = Some(reason);
                self.changed.notify_waiters();
            }
            Found::NoAnswer => {}
        }
    }
}

/// See [`Ends::ask`].
async fn ask_on(ends: Weak<Ends>) {
    loop {
        let Some(asked) = ends.upgrade().map(|ends| {
            let pause = (!ends.misses_some()).then_some(LOOK_EVERY);
            (
                Arc::clone(&ends.line),
                ends.directory_key(),
                ends.asker,
                pause,
            )
        }) else {
            return;
        };
        let (line, key, asker, pause) = asked;
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
            match ends.upgrade() {
                Some(ends) if !ends.is_settled() => {}
                _ => return,
            }
        }
        let waiting = ends.upgrade().map(|ends| ends.state.lock().waiting);
        let found = line.find(&key, asker, waiting.unwrap_or(0)).await;
        let Some(own) = ends.upgrade() else { return };
        own.hear(found);
        let is_over = own.state.lock().is_over;
        if is_over || (!own.follows && own.is_settled()) {
            return;
        }
        let misses_some = own.misses_some();
        drop(own);
        if misses_some {
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

impl State {
    fn misses_some(&self) -> bool {
        let there = self.ends.iter().filter(|end| end.is_there());
        there.map(|end| end.host.actors).sum::<usize>() < self.expected
    }

    /// These are all that there are now: others are on their way out.
    fn are_all(&mut self, hosts: &[PoolHost]) {
        self.expected = hosts.iter().map(|host| host.actors).sum();
        for end in &mut self.ends {
            end.is_leaving = !hosts.iter().any(|host| end.is_of(host));
        }
    }
}

/// A block that waits for room.
struct Waiting<'a> {
    ends: &'a Ends,
}

impl<'a> Waiting<'a> {
    fn of(ends: &'a Ends) -> Self {
        ends.state.lock().waiting += 1;
        Self { ends }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.ends.state.lock().waiting -= 1;
    }
}
