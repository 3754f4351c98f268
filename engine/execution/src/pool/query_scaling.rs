//! Pools of queries follow their load: as `scaling` does for named ones.
//!
//! A call that may have more actors than it needs begins with those that it needs. A look asks
//! the hosts of all such pools what each actor does, and the directory how many blocks their
//! tasks could not send; `autoscale` decides. Actors that come are claimed in the coordinator's
//! book, so that who waits in line goes first, and built before any task hears of them. Those
//! that go are not named any more, finish what they are at, and only then is what they had
//! free. A host that does not say whether it has started or ended some is told that they end
//! until it has heard it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use mobula_proto::pool::{
    ACTION_POOLS_END, ACTION_POOLS_LOADS, AskPoolLoads, EndPools, PoolLoad, PoolLoads,
};
use mobula_udfs::Demand;
use prost::Message;
use tonic::Status;
use url::Url;

use super::autoscale::Change;
use super::scaling::{Around, MANY, Short};
use super::started::{StartedPool, take};
use super::starter::{AGAIN, END_TIMEOUT, NotStarted, Running, Starter};
use super::watch::Figures;
use crate::exchange::action::act;
use crate::spawn::spawn_named;

/// A host that has not answered for so long is looked at without.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// The pool of a running query that follows its load, as `system.actor_pools` shows it.
#[derive(Debug, Clone)]
pub struct QueryPool {
    pub query_id: String,
    pub function: String,
    pub demand: Demand,
    pub min: usize,
    pub max: usize,
    pub idle_ttl: Duration,
    /// The executor of each actor that takes calls.
    pub executors: Vec<String>,
    /// Actors that are being built, and blocks that waited, when it was last looked at.
    pub starting: usize,
    pub queue: usize,
    /// What it last did, when and why.
    pub last_change: Option<(SystemTime, String)>,
}

/// The actors of one query at a look.
struct Now {
    running: Arc<Running>,
    pools: Vec<StartedPool>,
    starting: Vec<StartedPool>,
}

/// What actors do, by their query and part.
type Loads = HashMap<(String, u64), PoolLoad>;

impl Starter {
    /// Looks at all pools that follow their load from now on, again and again.
    pub(super) fn follow_load(self: &Arc<Self>) {
        let mut looker = self.looker.lock();
        if looker.is_some() {
            return;
        }
        let (starter, interval) = (Arc::downgrade(self), self.scaling.interval);
        *looker = Some(spawn_named("query-pools-look", async move {
            loop {
                tokio::time::sleep(interval).await;
                let Some(starter) = starter.upgrade() else {
                    return;
                };
                starter.look().await;
            }
        }));
    }

    async fn look(self: &Arc<Self>) {
        let all: Vec<_> = self.running.lock().values().cloned().collect();
        let all: Vec<_> = all.into_iter().filter_map(Now::of).collect();
        if all.is_empty() {
            return;
        }
        let loads = self.loads(&all).await;
        for now in &all {
            for call in 0..now.running.calls.len() {
                self.look_at(now, call, &loads);
            }
        }
    }

    /// What the actors of `all` do, as far as their hosts answer.
    async fn loads(&self, all: &[Now]) -> Loads {
        let mut hosts: BTreeMap<(&str, &Url), Vec<String>> = BTreeMap::new();
        for now in all {
            for pool in &now.pools {
                let ids = hosts.entry((&pool.executor_id, &pool.url)).or_default();
                if ids.last() != Some(&now.running.query_id) {
                    ids.push(now.running.query_id.clone());
                }
            }
        }
        let asked = hosts
            .into_iter()
            .map(|((executor_id, url), query_ids)| async move {
                if self.is_here(executor_id) {
                    return self.hosting.loads(&query_ids);
                }
                let body = AskPoolLoads { query_ids }.encode_to_vec();
                let told = act(&self.channels, url, ACTION_POOLS_LOADS, body, ASK_TIMEOUT).await;
                let told = told
                    .ok()
                    .and_then(|body| PoolLoads::decode(body.as_slice()).ok());
                told.map(|told| told.loads).unwrap_or_default()
            });
        let told = join_all(asked).await.into_iter().flatten();
        let by_part = told.map(|load| ((load.query_id.clone(), load.part), load));
        by_part.collect()
    }

    /// Decides about the pool of one call, and does that.
    fn look_at(self: &Arc<Self>, now: &Now, at: usize, loads: &Loads) {
        let running = &now.running;
        let (Some(following), Some(call)) = (running.following.get(at), running.calls.get(at))
        else {
            return;
        };
        let (query, demand) = (&running.query_id, &call.demand);
        let mut around = Around {
            starting: now.starting.iter().filter(|pool| pool.call == at).count(),
            waiting: self.directory.waiting(query, demand.call_id),
            room: self.line.room_of(query, at, MANY),
            is_wanted: self.line.is_waited_for(query, at),
        };
        let mut actors = vec![];
        for pool in now.pools.iter().filter(|pool| pool.call == at) {
            match loads.get(&(query.clone(), pool.part)) {
                // The first ones are built by their first blocks.
                Some(load) if !load.is_ready && (load.queue > 0 || load.is_at_work) => {
                    around.starting += 1;
                    around.waiting += figures(load).queue;
                }
                load => actors.push((pool.part, load.map(figures))),
            }
        }
        let (change, seen) = {
            let mut following = following.lock();
            let Some(following) = following.as_mut() else {
                return;
            };
            // Those beyond its min come again where they have something to do.
            around.starting += self.line.forget_lost(query, at, demand.workers);
            let limits = self.scaling.limits(&following.bounds);
            following.look(&actors, around, &limits)
        };
        match change {
            Change::Stay => return,
            Change::Grow { by, .. } => self.grow(running, at, by),
            Change::Shrink { by, .. } => {
                self.shrink(running, at, by, seen.idle.into_iter().collect());
            }
        }
        let function = &demand.function;
        tracing::info!(query, function, %change, "a pool of a query follows its load");
    }

    fn grow(self: &Arc<Self>, running: &Arc<Running>, at: usize, by: usize) {
        // As many as there is still room for.
        if self.line.grow(&running.query_id, at, by) == 0 {
            return;
        }
        let (starter, running) = (Arc::clone(self), Arc::clone(running));
        self.own(spawn_named("query-pool-grow", async move {
            let new = {
                let mut started = running.started.lock().await;
                if !starter.is_running(&running) {
                    return;
                }
                let seats = starter.line.seats(&running.query_id);
                started.forget_lost(&seats);
                let mut new = started.missing(&seats, &running.calls);
                new.retain(|pool| pool.call == at);
                started.starting.extend(new.iter().cloned());
                new
            };
            let built = new.into_iter().map(|pool| starter.build(&running, pool));
            join_all(built).await;
        }));
    }

    /// Builds an actor, which takes calls from then on.
    async fn build(self: &Arc<Self>, running: &Arc<Running>, pool: StartedPool) {
        let outcome = self.start_on(running, &[&pool], true).await;
        let mut started = running.started.lock().await;
        let was_starting = take(&mut started.starting, pool.part).is_some();
        let is_running = self.is_running(running);
        if !is_running && self.is_here(&pool.executor_id) {
            // Other hosts learn that from their heartbeats.
            self.hosting.end(&running.query_id);
        }
        let is_wanted = was_starting && is_running;
        match outcome {
            Ok(()) if is_wanted => {
                started.pools.push(pool);
                self.tell(running, &started);
            }
            // Its host counts as another one since.
            Ok(()) if is_running => self.see_off(running, pool),
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, query = running.query_id, "a pool of a query could not grow");
                if is_wanted {
                    self.give_back(running, &pool);
                }
                running.could_not_grow(pool.call, &error);
            }
        }
    }

    /// Has those go that have had nothing to do for longest.
    fn shrink(
        self: &Arc<Self>,
        running: &Arc<Running>,
        at: usize,
        by: usize,
        idle: HashMap<u64, Duration>,
    ) {
        let (starter, running) = (Arc::clone(self), Arc::clone(running));
        self.own(spawn_named("query-pool-shrink", async move {
            let least = running.calls.get(at).map_or(0, |call| call.demand.workers);
            let going = {
                let mut started = running.started.lock().await;
                let going = started.retire(at, [by, least], &idle);
                // From here on no task is told of them.
                starter.tell(&running, &started);
                going
            };
            let gone = going.into_iter().map(|pool| starter.retire(&running, pool));
            join_all(gone).await;
        }));
    }

    /// Ends an actor, which is leaving, when it is through with what it is at, and gives back
    /// what it had.
    async fn retire(self: &Arc<Self>, running: &Arc<Running>, pool: StartedPool) {
        let ended = self.end_part(running, &pool, self.scaling.retire_limit);
        if let Err(status) = ended.await {
            let (url, error) = (&pool.url, status.message());
            tracing::debug!(%url, error, "a host was not told that an actor of a query ends");
            self.see_off(running, pool.clone());
        }
        let mut started = running.started.lock().await;
        let was_leaving = take(&mut started.leaving, pool.part).is_some();
        if was_leaving && self.is_running(running) {
            self.give_back(running, &pool);
        }
    }

    fn give_back(&self, running: &Running, pool: &StartedPool) {
        let (query, host) = (&running.query_id, (pool.executor_id.as_str(), pool.epoch));
        self.line.shrink(query, pool.call, host);
    }

    async fn end_part(
        &self,
        running: &Running,
        pool: &StartedPool,
        limit: Duration,
    ) -> Result<(), Status> {
        let query_id = running.query_id.clone();
        if self.is_here(&pool.executor_id) {
            self.hosting.retire(&query_id, pool.part, limit).await;
            return Ok(());
        }
        let request = EndPools {
            query_id,
            part: Some(pool.part),
            retire_ms: limit.as_millis() as u64,
        };
        let (channels, body) = (&self.channels, request.encode_to_vec());
        let limit = END_TIMEOUT + limit;
        let told = act(channels, &pool.url, ACTION_POOLS_END, body, limit).await;
        told.map(drop)
    }

    /// Sees to it that a part ends that may be there, or may still come: its host is told until
    /// it has heard it, or is lost, and the part with it.
    pub(super) fn see_off(self: &Arc<Self>, running: &Arc<Running>, pool: StartedPool) {
        let (starter, running) = (Arc::downgrade(self), Arc::clone(running));
        self.own(spawn_named("query-pool-end", async move {
            while let Some(starter) = starter.upgrade() {
                if !starter.is_host(&pool) {
                    return;
                }
                let told = starter.end_part(&running, &pool, Duration::ZERO).await;
                if told.is_ok() {
                    return;
                }
                drop(starter);
                tokio::time::sleep(AGAIN).await;
            }
        }));
    }

    fn is_host(&self, pool: &StartedPool) -> bool {
        let mut hosts = self.hosts().into_iter();
        hosts.any(|host| (&host.executor_id, host.epoch) == (&pool.executor_id, pool.epoch))
    }

    /// What pools of queries would have more if there were room.
    pub fn short(&self) -> Vec<Short> {
        let all: Vec<_> = self.running.lock().values().cloned().collect();
        let short = all.iter().flat_map(|running| {
            let calls = running.following.iter().zip(&running.calls);
            calls.filter_map(|(following, call)| {
                let following = following.lock();
                following
                    .as_ref()?
                    .short(&running.query_id, &call.demand.demand)
            })
        });
        short.collect()
    }

    /// The pools of queries that follow their load.
    pub fn query_pools(&self) -> Vec<QueryPool> {
        let all: Vec<_> = self.running.lock().values().cloned().collect();
        let pools = all.iter().flat_map(|running| {
            let placed = self.directory.find(&running.query_id).unwrap_or_default();
            let calls = running.following.iter().zip(&running.calls);
            calls.filter_map(move |(following, call)| {
                let following = following.lock();
                let pool = following.as_ref()?;
                let mine = placed.iter().filter(|p| p.call_id == call.demand.call_id);
                let hosts = mine.flat_map(|placed| &placed.hosts);
                Some(QueryPool {
                    query_id: running.query_id.clone(),
                    function: call.demand.function.clone(),
                    demand: call.demand.demand.clone(),
                    min: pool.bounds.min,
                    max: pool.bounds.max,
                    idle_ttl: self.scaling.idle_ttl,
                    executors: hosts.map(|host| host.executor_id.clone()).collect(),
                    starting: pool.starting,
                    queue: pool.waiting,
                    last_change: pool.last_change.clone(),
                })
            })
        });
        pools.collect()
    }
}

impl Running {
    fn could_not_grow(&self, call: usize, error: &NotStarted) {
        let Some(following) = self.following.get(call) else {
            return;
        };
        if let Some(pool) = following.lock().as_mut() {
            pool.failed(error);
        }
    }
}

impl Now {
    /// That of `running`, if one of its pools follows its load; `None` also while hosts start
    /// some.
    fn of(running: Arc<Running>) -> Option<Self> {
        let follows = running.calls.iter().any(|call| call.demand.follows);
        if !follows || !running.has_begun.load(Ordering::Acquire) {
            return None;
        }
        let (pools, starting) = {
            let started = running.started.try_lock().ok()?;
            (started.pools.clone(), started.starting.clone())
        };
        Some(Self {
            running,
            pools,
            starting,
        })
    }
}

fn figures(load: &PoolLoad) -> Figures {
    Figures {
        queue: usize::try_from(load.queue).unwrap_or(usize::MAX),
        calls: load.calls,
        busy: Duration::from_micros(load.busy_us),
        is_at_work: load.is_at_work,
        // Its calls build it anew, and fail where that fails.
        has_failed: false,
    }
}
