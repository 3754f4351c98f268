//! The coordinator's hands: has hosts start what was claimed, and what was lost anew.
//!
//! All actors of a query are started before its tasks, or none is. When a host is lost,
//! the actors that it had are started where there is room now, and the directory says
//! where; tasks that miss them ask for it. They end when the query's [`StartedPools`] is
//! dropped, and only then is what they had free for the next query.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use mobula_plan::operator::map_batches::DemandingCall;
use mobula_plan::{PlacedPool, PoolHost};
use mobula_proto::pool::{ACTION_POOLS_END, ACTION_POOLS_START, EndPools, StartPool, StartPools};
use mobula_udfs::{Capacity, UdfError};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Mutex as FairMutex;
use tonic::Code;
use url::Url;

use super::directory::Directory;
use super::hosting::Hosting;
use super::line::{ActorHostNow, ClusterClaim, ClusterLine, Held};
use super::named::NamedActors;
use crate::actor_calls::as_us;
use crate::coordinator::control::Control;
use crate::exchange::action::act;
use crate::exchange::channels::ChannelPool;
use crate::process::Process;
use crate::spawn::{OwnedTask, spawn_named};

/// A host that does not answer for so long has not started what it should: it may have
/// waited for workers to end, see `hosting`.
const START_TIMEOUT: Duration = Duration::from_secs(15);
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after a failure actors are started anew.
const AGAIN: Duration = Duration::from_millis(500);

/// This process as a host.
#[derive(Debug, Clone)]
pub struct OwnHost {
    pub executor_id: String,
    pub url: Url,
    pub capacity: Capacity,
}

/// Starts and ends the pools of queries.
pub struct Starter {
    pub line: Arc<ClusterLine>,
    pub control: Arc<Control>,
    pub channels: ChannelPool,
    pub directory: Arc<Directory>,
    /// Pools of this process.
    pub hosting: Arc<Hosting>,
    /// `None`: it runs no actors.
    pub own: Option<OwnHost>,
    running: Mutex<BTreeMap<String, Arc<Running>>>,
    endings: Mutex<Vec<OwnedTask<()>>>,
}

/// Why pools could not be started.
#[derive(Debug)]
pub enum NotStarted {
    /// A host was lost, or had less than it told: it is worth another try.
    NotNow(String),
    Never(String),
    Call(UdfError),
}

/// A query with pools.
struct Running {
    query_id: String,
    calls: Vec<DemandingCall>,
    /// Held while hosts are asked to start some.
    started: FairMutex<Started>,
}

#[derive(Default)]
struct Started {
    next_part: u64,
    /// One for each start of some actors of one call on one host.
    pools: Vec<StartedPool>,
}

/// Actors of a call, started together.
#[derive(Debug, Clone)]
struct StartedPool {
    /// The place of its call.
    call: usize,
    executor_id: String,
    epoch: u64,
    url: Url,
    actors: usize,
    part: u64,
    /// Which of the call's actors they are.
    slots: Vec<u64>,
}

/// Keeps a query's pools and what they have until dropped.
pub struct StartedPools {
    starter: Arc<Starter>,
    query_id: String,
    claim: Option<ClusterClaim>,
}

impl Starter {
    pub fn new(control: Arc<Control>, process: &Process, own: Option<OwnHost>) -> Arc<Self> {
        Arc::new(Self {
            line: Arc::default(),
            control,
            channels: process.channels().clone(),
            directory: Arc::clone(&process.pool_line().directory),
            hosting: Arc::clone(process.hosting()),
            own,
            running: Mutex::default(),
            endings: Mutex::default(),
        })
    }

    /// The processes that run actors now.
    pub fn hosts(&self) -> Vec<ActorHostNow> {
        let members = self.control.members().into_iter();
        let members = members.filter(|member| member.roles.actors);
        let members = members.map(|member| ActorHostNow {
            executor_id: member.executor_id,
            url: member.url,
            epoch: member.epoch,
            capacity: member.capacity,
        });
        let own = self.own.clone().map(|own| ActorHostNow {
            executor_id: own.executor_id,
            url: own.url,
            epoch: 0,
            capacity: own.capacity,
        });
        own.into_iter().chain(members).collect()
    }

    /// Follows who comes and goes until the returned task is dropped, for queries and for
    /// `named` actors.
    pub fn follow(self: &Arc<Self>, named: &Arc<NamedActors>) -> OwnedTask<()> {
        let (starter, named) = (Arc::downgrade(self), Arc::downgrade(named));
        let mut alive = self.control.watch_alive();
        spawn_named("actor-placement", async move {
            loop {
                {
                    let (Some(starter), Some(named)) = (starter.upgrade(), named.upgrade()) else {
                        return;
                    };
                    starter.line.set_hosts(starter.hosts());
                    let moved: Vec<_> = starter.line.moved().into_iter().collect();
                    if !moved.is_empty() {
                        tokio::join!(starter.mend(&moved), named.mend(&moved));
                    }
                }
                tokio::select! {
                    changed = alive.changed() => if changed.is_err() { return },
                    // What was lost may find room where another query has ended.
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        })
    }

    /// Starts anew what queries have lost.
    async fn mend(&self, moved: &[String]) {
        for query in moved {
            let running = self.running.lock().get(query).cloned();
            let Some(running) = running else { continue };
            if let Err(error) = self.start_missing(&running).await {
                tracing::warn!(
                    ?error,
                    query,
                    "actors of a query are not there yet; it is tried again"
                );
                self.line.again(query);
            }
        }
    }

    /// Starts the pools of `calls` where `claim` has them.
    ///
    /// # Errors
    /// Nothing is left of them then.
    pub async fn start(
        self: &Arc<Self>,
        claim: ClusterClaim,
        calls: Vec<DemandingCall>,
    ) -> Result<StartedPools, NotStarted> {
        let query_id = claim.query().to_owned();
        let running = Arc::new(Running {
            query_id: query_id.clone(),
            calls,
            started: FairMutex::default(),
        });
        self.directory.set(&query_id, vec![]);
        self.running
            .lock()
            .insert(query_id.clone(), Arc::clone(&running));
        // From here on, dropping it ends what has started.
        let pools = StartedPools {
            starter: Arc::clone(self),
            query_id,
            claim: Some(claim),
        };
        self.start_missing(&running).await?;
        Ok(pools)
    }

    /// Starts what a query has claimed and is not there, and forgets what is lost.
    async fn start_missing(&self, running: &Running) -> Result<(), NotStarted> {
        let mut started = running.started.lock().await;
        let seats = self.line.seats(&running.query_id);
        started.forget_lost(&seats);
        self.tell(running, &started);
        let part = started.next_part;
        started.next_part += 1;
        let missing = started.missing(&seats, &running.calls, part);
        let mut by_host: BTreeMap<&str, Vec<(&StartedPool, usize)>> = BTreeMap::new();
        for (pool, least) in &missing {
            let of_host = by_host.entry(&pool.executor_id).or_default();
            of_host.push((pool, *least));
        }
        let asked = by_host.into_values().map(|pools| async move {
            let outcome = self.start_on(running, &pools).await;
            outcome.map(|()| pools)
        });
        let mut outcome = Ok(());
        for answer in join_all(asked).await {
            match answer {
                Ok(pools) => started
                    .pools
                    .extend(pools.into_iter().map(|(pool, _)| pool.clone())),
                Err(error) => outcome = Err(error),
            }
        }
        self.tell(running, &started);
        outcome
    }

    async fn start_on(
        &self,
        running: &Running,
        pools: &[(&StartedPool, usize)],
    ) -> Result<(), NotStarted> {
        let Some((first, _)) = pools.first() else {
            return Ok(());
        };
        let wanted = pools.iter().filter_map(|(pool, least)| {
            let call = running.calls.get(pool.call)?;
            Some(call.call.encode().map(|udf_call| StartPool {
                call_id: call.demand.call_id,
                udf_call,
                actors: pool.actors as u64,
                least: *least as u64,
                timeout_us: call.call.timeout.map(as_us),
                max_errors: call.call.max_errors,
            }))
        });
        let request = StartPools {
            query_id: running.query_id.clone(),
            pools: wanted.collect::<Result<_, _>>().map_err(NotStarted::Call)?,
            part: first.part,
        };
        let outcome = match self.is_here(&first.executor_id) {
            true => self.hosting.start(request).await,
            false => {
                let body = request.encode_to_vec();
                act(
                    &self.channels,
                    &first.url,
                    ACTION_POOLS_START,
                    body,
                    START_TIMEOUT,
                )
                .await
                .map(drop)
            }
        };
        outcome.map_err(|status| {
            let text = format!("{}: {}", first.executor_id, status.message());
            match status.code() {
                Code::InvalidArgument | Code::FailedPrecondition | Code::Internal => {
                    NotStarted::Never(text)
                }
                _ => NotStarted::NotNow(text),
            }
        })
    }

    fn is_here(&self, executor_id: &str) -> bool {
        let own = self.own.as_ref();
        own.is_some_and(|own| own.executor_id == executor_id)
    }

    /// Tells the directory where the pools of `running` are.
    fn tell(&self, running: &Running, started: &Started) {
        // An ended query is not listed again.
        if self.running.lock().contains_key(&running.query_id) {
            self.directory
                .set(&running.query_id, started.placed(&running.calls));
        }
    }

    /// Ends the pools of a query, then gives back what they had.
    fn end(self: &Arc<Self>, query_id: &str, claim: Option<ClusterClaim>) {
        let running = self.running.lock().remove(query_id);
        self.directory.remove(query_id);
        self.hosting.end(query_id);
        let (Some(running), Ok(_)) = (running, tokio::runtime::Handle::try_current()) else {
            return;
        };
        let starter = Arc::downgrade(self);
        let ending = spawn_named("pools-end", async move {
            if let Some(starter) = starter.upgrade() {
                starter.end_on_hosts(&running).await;
            }
            drop(claim);
        });
        let mut endings = self.endings.lock();
        endings.retain(|ending| !ending.is_finished());
        endings.push(ending);
    }

    async fn end_on_hosts(&self, running: &Running) {
        let started = running.started.lock().await;
        // Some may have been started anew here since.
        self.hosting.end(&running.query_id);
        let mut urls: Vec<_> = started
            .pools
            .iter()
            .filter(|pool| !self.is_here(&pool.executor_id))
            .map(|pool| pool.url.clone())
            .collect();
        urls.sort();
        urls.dedup();
        let ended = urls.iter().map(|url| async move {
            let request = EndPools {
                query_id: running.query_id.clone(),
            };
            let body = request.encode_to_vec();
            let told = act(&self.channels, url, ACTION_POOLS_END, body, END_TIMEOUT).await;
            // Its next heartbeat is answered with the same.
            if let Err(status) = told {
                tracing::debug!(%url, error = status.message(), "a host was not told that a query has ended");
            }
        });
        join_all(ended).await;
    }
}

impl StartedPools {
    /// Where they are now.
    pub fn placed(&self) -> Vec<PlacedPool> {
        self.starter
            .directory
            .find(&self.query_id)
            .unwrap_or_default()
    }
}

impl Drop for StartedPools {
    fn drop(&mut self) {
        self.starter.end(&self.query_id, self.claim.take());
    }
}

impl Started {
    fn forget_lost(&mut self, seats: &[Vec<Held>]) {
        self.pools.retain(|pool| {
            let of_call = seats.get(pool.call);
            of_call.is_some_and(|held| held.iter().any(|held| pool.is_of(held)))
        });
    }

    /// What is claimed and not started, each with how many actors it begins with.
    fn missing(
        &self,
        seats: &[Vec<Held>],
        calls: &[DemandingCall],
        part: u64,
    ) -> Vec<(StartedPool, usize)> {
        let mut missing: Vec<(StartedPool, usize)> = vec![];
        for (call, held) in seats.iter().enumerate() {
            let least = calls.get(call).map_or(0, |call| call.demand.workers);
            let mut slots = self.free_slots(call);
            let mut there: Vec<_> = self
                .pools
                .iter()
                .filter(|p| p.call == call)
                .cloned()
                .collect();
            for (at, held) in held.iter().enumerate() {
                let has = there.iter_mut().find(|p| p.is_of(held) && p.actors > 0);
                if let Some(has) = has {
                    has.actors -= 1;
                    continue;
                }
                let begins = usize::from(at < least);
                let same =
                    |(pool, _): &&mut (StartedPool, usize)| pool.call == call && pool.is_of(held);
                let slot = slots.next().unwrap_or_default();
                match missing.iter_mut().find(same) {
                    Some((pool, first)) => {
                        pool.actors += 1;
                        pool.slots.push(slot);
                        *first += begins;
                    }
                    None => missing.push((
                        StartedPool {
                            call,
                            executor_id: held.executor_id.clone(),
                            epoch: held.epoch,
                            url: held.url.clone(),
                            actors: 1,
                            part,
                            slots: vec![slot],
                        },
                        begins,
                    )),
                }
            }
        }
        missing
    }

    /// The numbers of actors of a call that are not there, the smallest first: who comes
    /// instead of another has its number.
    fn free_slots(&self, call: usize) -> impl Iterator<Item = u64> {
        let of_call = self.pools.iter().filter(|pool| pool.call == call);
        let taken: BTreeSet<u64> = of_call.flat_map(|pool| pool.slots.clone()).collect();
        (0..).filter(move |slot| !taken.contains(slot))
    }

    fn placed(&self, calls: &[DemandingCall]) -> Vec<PlacedPool> {
        let calls = calls.iter().enumerate();
        let placed = calls.map(|(at, call)| PlacedPool {
            call_id: call.demand.call_id,
            actor: String::new(),
            hosts: self
                .pools
                .iter()
                .filter(|pool| pool.call == at)
                .map(|pool| PoolHost {
                    executor_id: pool.executor_id.clone(),
                    url: pool.url.to_string(),
                    actors: pool.actors,
                    part: pool.part,
                    slots: pool.slots.clone(),
                })
                .collect(),
        });
        placed.collect()
    }
}

impl StartedPool {
    fn is_of(&self, held: &Held) -> bool {
        (self.executor_id.as_str(), self.epoch) == (held.executor_id.as_str(), held.epoch)
    }
}
