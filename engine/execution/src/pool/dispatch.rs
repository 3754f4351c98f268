//! A task's way to the actors of a query, wherever they are.
//!
//! Each block goes to the host that `choose` says, and is kept until it is answered. When
//! its host is lost before anything came of it, it goes to another one at once, ahead of
//! new ones: user code may run twice for it, and its rows come out once. A block that has
//! lost [`SENDS_MAX`] hosts is not given to one more. A task that misses actors asks the
//! coordinator where they are now; where there are none left it waits for that, up to
//! `udf_init_timeout`.
//!
//! Bounds: two blocks for each actor on their way from each task, sixteen where it is
//! async.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use mobula_plan::{PlacedPool, PoolHost};
use mobula_proto::pool::{ACTION_POOLS_FIND, FindPools, FoundPools, PoolRef};
use mobula_udfs::{
    ActorHost, Answer, AnswerStream, PoolStats, UdfCall, UdfError, UdfErrorClass, UdfPool,
    member_key,
};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;
use url::Url;

use super::choose::{EndView, choose};
use super::directory::{Directory, from_wire};
use super::hosting::Hosting;
use super::named::directory_key;
use super::starter::act;
use crate::actor_calls::link::Place;
use crate::actor_calls::pool::{RemoteActor, Way, answer_to_nothing};
use crate::exchange::channels::ChannelPool;
use crate::exchange::traffic::Traffic;
use crate::spawn::{OwnedTask, spawn_named};

/// How often a block is given to a host at most.
const SENDS_MAX: u32 = 3;
/// How often the coordinator is asked where actors are that are missed.
const ASK_EVERY: Duration = Duration::from_millis(200);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// A host that is still named so long after its loss has lost only the way to it: the
/// coordinator has missed no heartbeat of it.
const TRUST_AFTER: Duration = Duration::from_secs(10);
/// Blocks of a task on their way to each actor, and to one that works on many at a time.
const BLOCKS_PER_ACTOR: usize = 2;
const BLOCKS_PER_ASYNC_ACTOR: usize = 16;
/// How much the last block counts in what blocks take lately.
const LAST_COUNTS: f64 = 0.3;

/// What the tasks of this process need on their way to placed actors.
#[derive(Debug)]
pub struct PoolLine {
    pub executor_id: String,
    /// The actors of this process: those of queries, and named ones.
    pub hosting: Arc<Hosting>,
    pub actors: Arc<ActorHost>,
    pub channels: ChannelPool,
    pub traffic: Arc<Traffic>,
    /// Bytes of answers to one block that may wait for their reader.
    pub keep_bytes: usize,
    /// How long a task waits for actors where there are none.
    pub patience: Duration,
    /// Of the coordinator, in its process.
    pub directory: Arc<Directory>,
    /// Where it is, for others.
    pub coordinator: OnceLock<Url>,
}

impl PoolLine {
    /// From now on the coordinator is at `url`.
    pub fn lead_to(&self, url: Url) {
        // An executor has one coordinator for life.
        let _ = self.coordinator.set(url);
    }

    /// The way of `call` to the actors that `placed` names.
    ///
    /// # Errors
    /// An address that is none.
    pub fn open(
        self: &Arc<Self>,
        call: Arc<UdfCall>,
        placed: &PlacedPool,
    ) -> Result<Arc<dyn UdfPool>, UdfError> {
        let shared = Shared {
            line: Arc::clone(self),
            call,
            call_id: placed.call_id,
            named: placed.actor.clone(),
            actors: placed.actors(),
            state: Mutex::default(),
            changed: Notify::new(),
        };
        shared.add(&placed.hosts);
        Ok(Arc::new(DispatchPool {
            shared: Arc::new(shared),
        }))
    }

    /// Where the pools of `query` are now.
    async fn find(&self, query: &str) -> Found {
        let Some(url) = self.coordinator.get() else {
            let found = self.directory.find(query);
            return found.map_or(Found::Nothing, Found::Pools);
        };
        let request = FindPools {
            query_id: query.to_owned(),
        };
        let body = request.encode_to_vec();
        let answer = act(&self.channels, url, ACTION_POOLS_FIND, body, ASK_TIMEOUT).await;
        match answer {
            Ok(body) => match FoundPools::decode(body.as_slice()) {
                Ok(found) => Found::Pools(from_wire(found.pools)),
                Err(_) => Found::NoAnswer,
            },
            Err(status) if status.code() == tonic::Code::NotFound => Found::Nothing,
            Err(_) => Found::NoAnswer,
        }
    }
}

/// What the coordinator says.
enum Found {
    Pools(Vec<PlacedPool>),
    /// There are none: the query has ended, or the actor was dropped.
    Nothing,
    NoAnswer,
}

/// The actors of one call, as one task reaches them.
#[derive(Debug)]
struct DispatchPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    line: Arc<PoolLine>,
    call: Arc<UdfCall>,
    call_id: u64,
    /// The actor, or pool, that is called by its name; empty: the query's own.
    named: String,
    /// As many as there were at first.
    actors: usize,
    state: Mutex<State>,
    /// An end has room, or is new.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    ends: Vec<End>,
    /// Asks where actors are that are missed.
    asking: Option<OwnedTask<()>>,
    /// Why the last one was lost.
    last_loss: String,
    /// Blocks that were sent again.
    resent: u64,
    /// The coordinator knows of no such actors any more.
    is_over: bool,
}

/// Some actors, in one process.
#[derive(Debug)]
struct End {
    host: PoolHost,
    /// Blocks that may be on their way to it.
    credits: usize,
    pool: Arc<dyn UdfPool>,
    is_local: bool,
    in_flight: usize,
    mean_us: Option<f64>,
    /// What the mean was made from.
    seen: (u64, Duration),
    lost_at: Option<Instant>,
}

impl End {
    fn view(&self) -> EndView {
        EndView {
            actors: self.host.actors,
            in_flight: self.in_flight,
            credits: self.credits,
            mean_us: self.mean_us,
            is_local: self.is_local,
            is_there: !self.is_lost(),
        }
    }

    fn is_lost(&self) -> bool {
        self.lost_at.is_some()
    }

    fn is_of(&self, host: &PoolHost) -> bool {
        (&self.host.executor_id, self.host.part) == (&host.executor_id, host.part)
    }

    /// Takes what its actors have done meanwhile into account.
    fn learn(&mut self) {
        let stats = self.pool.stats();
        let (calls, time) = self.seen;
        let new = stats.calls.saturating_sub(calls);
        if new > 0 {
            let lately = stats.user_time.saturating_sub(time).as_micros() as f64 / new as f64;
            let before = self.mean_us.unwrap_or(lately);
            self.mean_us = Some(before + LAST_COUNTS * (lately - before));
            self.seen = (stats.calls, stats.user_time);
        }
    }
}

/// The right to one block on its way to an end.
struct Turn {
    shared: Arc<Shared>,
    /// Its place.
    end: usize,
    pool: Arc<dyn UdfPool>,
}

impl Turn {
    /// The end is not there any more.
    fn lost(&self, error: &UdfError) {
        self.shared.lose(self.end, error);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if let Some(end) = state.ends.get_mut(self.end) {
            end.in_flight -= 1;
            end.learn();
        }
        drop(state);
        self.shared.changed.notify_one();
    }
}

impl Shared {
    /// Adds the hosts that are not known yet, and those that are named long after they
    /// were lost.
    fn add(&self, hosts: &[PoolHost]) {
        for host in hosts {
            let of_host = |end: &&End| end.is_of(host);
            let is_known = self.state.lock().ends.iter().filter(of_host).any(|end| {
                let lost_for = end.lost_at.map(|at| at.elapsed());
                lost_for.is_none_or(|time| time < TRUST_AFTER)
            });
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
            mean_us: None,
            seen: (0, Duration::ZERO),
            lost_at: None,
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

    fn lose(&self, at: usize, error: &UdfError) {
        let mut state = self.state.lock();
        state.last_loss = error.to_string();
        if let Some(end) = state.ends.get_mut(at).filter(|end| !end.is_lost()) {
            end.lost_at = Some(Instant::now());
            let executor = &end.host.executor_id;
            let function = &self.call.spec.name;
            tracing::warn!(executor, function, %error, "actors are lost; their blocks go to others");
        }
    }

    /// Waits for an end with room.
    async fn turn(self: &Arc<Self>) -> Result<Turn, UdfError> {
        let deadline = tokio::time::sleep(self.line.patience);
        let mut deadline = std::pin::pin!(deadline);
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(turn) = self.take() {
                return Ok(turn);
            }
            if self.state.lock().is_over {
                return Err(self.over());
            }
            self.ask_if_any_is_missed();
            tokio::select! {
                () = changed => {}
                () = &mut deadline, if self.has_nobody() => return Err(self.nobody()),
            }
        }
    }

    fn take(self: &Arc<Self>) -> Option<Turn> {
        let mut state = self.state.lock();
        let views: Vec<_> = state.ends.iter().map(End::view).collect();
        let at = choose(&views)?;
        let end = state.ends.get_mut(at)?;
        end.in_flight += 1;
        Some(Turn {
            shared: Arc::clone(self),
            end: at,
            pool: Arc::clone(&end.pool),
        })
    }

    fn has_nobody(&self) -> bool {
        self.state.lock().ends.iter().all(End::is_lost)
    }

    fn nobody(&self) -> UdfError {
        UdfError::NoActors {
            function: self.call.spec.name.clone(),
            reason: self.state.lock().last_loss.clone(),
            waited: self.line.patience,
        }
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
        let state = self.state.lock();
        let there = state.ends.iter().filter(|end| !end.is_lost());
        there.map(|end| end.host.actors).sum::<usize>() < self.actors
    }

    /// Asks where the actors are, again and again as long as some are missed.
    fn ask_if_any_is_missed(self: &Arc<Self>) {
        if !self.misses_some() {
            return;
        }
        let mut state = self.state.lock();
        if state
            .asking
            .as_ref()
            .is_some_and(|task| !task.is_finished())
        {
            return;
        }
        let shared = Arc::downgrade(self);
        state.asking = Some(spawn_named("pools-find", async move {
            loop {
                let Some((line, key, call_id)) = shared.upgrade().map(|shared| {
                    let key = shared.directory_key();
                    (Arc::clone(&shared.line), key, shared.call_id)
                }) else {
                    return;
                };
                let found = line.find(&key).await;
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                match found {
                    Found::Pools(found) => {
                        let mine = found.iter().filter(|pool| pool.call_id == call_id);
                        mine.for_each(|pool| shared.add(&pool.hosts));
                    }
                    Found::Nothing => {
                        shared.state.lock().is_over = true;
                        shared.changed.notify_waiters();
                        return;
                    }
                    Found::NoAnswer => {}
                }
                if !shared.misses_some() {
                    return;
                }
                drop(shared);
                tokio::time::sleep(ASK_EVERY).await;
            }
        }));
    }
}

/// Whether `error` is of the way to actors, or of their host, and not of what they do.
fn is_loss(error: &UdfError) -> bool {
    match error {
        // The actor is there, and says why it cannot do it.
        UdfError::WorkerLost { .. } | UdfError::ActorFailed { .. } => false,
        error => error.class() == UdfErrorClass::Lost,
    }
}

/// A block on its way.
struct Sending {
    shared: Arc<Shared>,
    /// Several small ones travel together.
    blocks: Vec<RecordBatch>,
    turn: Turn,
    answers: AnswerStream,
    /// Whether the reader has had any of what came of it.
    passed_on: bool,
    sends: u32,
}

/// Gives `blocks` to an end, and to another one if that is lost.
async fn send(
    shared: &Arc<Shared>,
    blocks: &[RecordBatch],
    mut sends: u32,
) -> Result<(Turn, AnswerStream, u32), UdfError> {
    loop {
        let turn = shared.turn().await?;
        sends += 1;
        match turn.pool.call_each(blocks.to_vec()).await {
            Ok(answers) => return Ok((turn, answers, sends)),
            Err(error) if is_loss(&error) && sends < SENDS_MAX => {
                turn.lost(&error);
                shared.state.lock().resent += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn next(sending: Option<Sending>) -> Option<(Result<Answer, UdfError>, Option<Sending>)> {
    let mut sending = sending?;
    loop {
        let error = match sending.answers.next().await {
            Some(Ok(answer)) => {
                sending.passed_on = true;
                return Some((Ok(answer), Some(sending)));
            }
            None => return None,
            Some(Err(error)) => error,
        };
        if is_loss(&error) {
            sending.turn.lost(&error);
        }
        if !is_loss(&error) || sending.passed_on || sending.sends >= SENDS_MAX {
            return Some((Err(error), None));
        }
        let Sending {
            shared,
            blocks,
            turn,
            sends,
            ..
        } = sending;
        shared.state.lock().resent += 1;
        drop(turn);
        let (turn, answers, sends) = match send(&shared, &blocks, sends).await {
            Ok(sent) => sent,
            Err(error) => return Some((Err(error), None)),
        };
        sending = Sending {
            shared,
            blocks,
            turn,
            answers,
            passed_on: false,
            sends,
        };
    }
}

#[async_trait]
impl UdfPool for DispatchPool {
    async fn call(&self, block: RecordBatch) -> Result<AnswerStream, UdfError> {
        if block.num_rows() == 0 {
            return Ok(answer_to_nothing(&self.shared.call));
        }
        self.call_each(vec![block]).await
    }

    async fn call_each(&self, blocks: Vec<RecordBatch>) -> Result<AnswerStream, UdfError> {
        let (turn, answers, sends) = send(&self.shared, &blocks, 0).await?;
        let sending = Sending {
            shared: Arc::clone(&self.shared),
            blocks,
            turn,
            answers,
            passed_on: false,
            sends,
        };
        Ok(stream::unfold(Some(sending), next).boxed())
    }

    /// As many as all of them take.
    fn train(&self) -> usize {
        let state = self.shared.state.lock();
        let there = state.ends.iter().filter(|end| !end.is_lost());
        there.map(|end| end.pool.train()).min().unwrap_or(1)
    }

    fn concurrency(&self) -> usize {
        self.shared.actors
    }

    /// Of all hosts, those that are lost included.
    fn stats(&self) -> PoolStats {
        let state = self.shared.state.lock();
        let all = state.ends.iter().map(|end| end.pool.stats());
        let mut sum = all.fold(PoolStats::default(), PoolStats::plus);
        sum.retries += state.resent;
        sum
    }
}
