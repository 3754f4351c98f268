//! The coordinator's hands: has hosts start what was claimed, and what was lost anew.
//!
//! All actors of a query are started before its tasks, or none is. When a host is lost,
//! the actors that it had are started where there is room now, and the directory says
//! where; tasks that miss them ask for it. Those of a call that may have more follow its load
//! (`query_scaling`). They end when the query's [`StartedPools`] is dropped, and only then is
//! what they had free for the next query.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use mobula_plan::operator::map_batches::DemandingCall;
use mobula_plan::{MobulaOptions, PlacedPool};
use mobula_proto::pool::{ACTION_POOLS_END, ACTION_POOLS_START, EndPools, StartPool, StartPools};
use mobula_udfs::{Capacity, PoolBounds, UdfError};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Mutex as FairMutex;
use tonic::{Code, Status};
use url::Url;

use super::directory::Directory;
use super::hosting::Hosting;
use super::line::{ActorHostNow, ClusterClaim, ClusterLine};
use super::named::NamedActors;
use super::scaling::{Following, MANY, Scaling};
use super::started::{Started, StartedPool};
use crate::actor_calls::as_us;
use crate::coordinator::control::Control;
use crate::exchange::action::act;
use crate::exchange::channels::ChannelPool;
use crate::process::Process;
use crate::spawn::{OwnedTask, spawn_named};

/// A host that does not answer for so long has not started what it should: it may have
/// waited for workers to end, see `hosting`.
const START_TIMEOUT: Duration = Duration::from_secs(15);
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after a failure actors are started, or ended, anew.
pub(super) const AGAIN: Duration = Duration::from_millis(500);

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
    pub(super) running: Mutex<BTreeMap<String, Arc<Running>>>,
    pub(super) scaling: Scaling,
    /// Looks at the load of pools, once there has been one that follows it.
    pub(super) looker: Mutex<Option<OwnedTask<()>>>,
    /// How long an actor may take to be built.
    init_timeout: Duration,
    /// Starts of queries until now.
    starts: AtomicU64,
    tasks: Mutex<Vec<OwnedTask<()>>>,
}

/// Why pools could not be started.
#[derive(Debug)]
pub enum NotStarted {
    /// A host was lost, or had less than it told: it is worth another try.
    NotNow(String),
    Never(String),
    Call(UdfError),
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNow(reason) | Self::Never(reason) => f.write_str(reason),
            Self::Call(error) => write!(f, "{error}"),
        }
    }
}

/// A query with pools.
pub(super) struct Running {
    pub(super) query_id: String,
    pub(super) calls: Vec<DemandingCall>,
    /// Held while hosts are asked to start some.
    pub(super) started: FairMutex<Started>,
    /// How each of its calls does that follows its load; the others have none.
    pub(super) following: Vec<Mutex<Option<Following>>>,
    /// Whether all that it began with has been started.
    pub(super) has_begun: AtomicBool,
}

impl Running {
    /// Of the `start`-th one of all queries.
    fn new(query_id: &str, calls: Vec<DemandingCall>, start: u64) -> Self {
        let following = calls.iter().map(|DemandingCall { demand, .. }| {
            let bounds = PoolBounds {
                min: demand.workers,
                max: demand.most.unwrap_or(MANY),
                idle_ttl: None,
            };
            Mutex::new(demand.follows.then(|| Following::new(bounds)))
        });
        Self {
            query_id: query_id.to_owned(),
            following: following.collect(),
            calls,
            started: FairMutex::new(Started::of(start)),
            has_begun: AtomicBool::new(false),
        }
    }
}

/// Keeps a query's pools and what they have until dropped.
pub struct StartedPools {
    starter: Arc<Starter>,
    query_id: String,
    claim: Option<ClusterClaim>,
}

impl Starter {
    pub fn new(
        control: Arc<Control>,
        process: &Process,
        own: Option<OwnHost>,
        options: &MobulaOptions,
    ) -> Arc<Self> {
        Arc::new(Self {
            scaling: Scaling::of(options),
            looker: Mutex::default(),
            init_timeout: options.udf_init_timeout(),
            starts: AtomicU64::new(0),
            line: Arc::default(),
            control,
            channels: process.channels().clone(),
            directory: Arc::clone(&process.pool_line().directory),
            hosting: Arc::clone(process.hosting()),
            own,
            running: Mutex::default(),
            tasks: Mutex::default(),
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
                        starter.mend(&moved);
                        starter.own(spawn_named("actors-mend", async move {
                            named.mend(&moved).await;
                        }));
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

    /// Starts anew what queries have lost, each by itself: a host that does not answer holds up
    /// nobody else.
    fn mend(self: &Arc<Self>, moved: &[String]) {
        for query in moved {
            let running = self.running.lock().get(query).cloned();
            let Some(running) = running else { continue };
            let starter = Arc::clone(self);
            self.own(spawn_named("pools-mend", async move {
                if let Err(error) = starter.start_missing(&running).await {
                    let query = &running.query_id;
                    tracing::warn!(
                        ?error,
                        query,
                        "actors of a query are not there yet; it is tried again"
                    );
                    starter.line.again(query);
                }
            }));
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
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        let running = Arc::new(Running::new(&query_id, calls, start));
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
        running.has_begun.store(true, Ordering::Release);
        if running.calls.iter().any(|call| call.demand.follows) {
            self.follow_load();
        }
        Ok(pools)
    }

    /// Starts what a query has claimed and is not there, and forgets what is lost.
    async fn start_missing(self: &Arc<Self>, running: &Arc<Running>) -> Result<(), NotStarted> {
        let mut started = running.started.lock().await;
        let seats = self.line.seats(&running.query_id);
        started.forget_lost(&seats);
        self.tell(running, &started);
        let missing = started.missing(&seats, &running.calls);
        let mut by_start: BTreeMap<(&str, u64), Vec<&StartedPool>> = BTreeMap::new();
        for pool in &missing {
            let start = (pool.executor_id.as_str(), pool.part);
            by_start.entry(start).or_default().push(pool);
        }
        let asked = by_start.into_values().map(|pools| async move {
            let outcome = self.start_on(running, &pools, false).await;
            outcome.map(|()| pools)
        });
        let mut outcome = Ok(());
        for answer in join_all(asked).await {
            match answer {
                Ok(pools) => started.pools.extend(pools.into_iter().cloned()),
                Err(error) => outcome = Err(error),
            }
        }
        self.tell(running, &started);
        outcome
    }

    /// Starts `pools`, a part of those of `running` on one host; `is_built`: their actors are
    /// ready then.
    pub(super) async fn start_on(
        self: &Arc<Self>,
        running: &Arc<Running>,
        pools: &[&StartedPool],
        is_built: bool,
    ) -> Result<(), NotStarted> {
        let Some(first) = pools.first().copied() else {
            return Ok(());
        };
        let wanted = pools.iter().filter_map(|pool| {
            let call = running.calls.get(pool.call)?;
            Some(call.call.encode().map(|udf_call| StartPool {
                call_id: call.demand.call_id,
                udf_call,
                actors: pool.actors as u64,
                least: pool.least as u64,
                timeout_us: call.call.timeout.map(as_us),
                max_errors: call.call.max_errors,
            }))
        });
        let request = StartPools {
            query_id: running.query_id.clone(),
            pools: wanted.collect::<Result<_, _>>().map_err(NotStarted::Call)?,
            part: first.part,
            is_built,
        };
        if self.is_here(&first.executor_id) {
            let outcome = self.hosting.start(request).await;
            return outcome.map_err(|status| not_started(first, &status));
        }
        let limit = match is_built {
            true => START_TIMEOUT + self.init_timeout_of(running, first),
            false => START_TIMEOUT,
        };
        let (channels, body) = (&self.channels, request.encode_to_vec());
        let outcome = act(channels, &first.url, ACTION_POOLS_START, body, limit).await;
        outcome.map(drop).map_err(|status| {
            if !is_refusal(&status) {
                // It may have started them, or still do so.
                self.see_off(running, first.clone());
            }
            not_started(first, &status)
        })
    }

    fn init_timeout_of(&self, running: &Running, pool: &StartedPool) -> Duration {
        let call = running.calls.get(pool.call);
        let own = call.and_then(|call| call.call.handling.init_timeout);
        own.unwrap_or(self.init_timeout)
    }

    pub(super) fn is_here(&self, executor_id: &str) -> bool {
        let own = self.own.as_ref();
        own.is_some_and(|own| own.executor_id == executor_id)
    }

    /// Whether it has not ended.
    pub(super) fn is_running(&self, running: &Arc<Running>) -> bool {
        let all = self.running.lock();
        let known = all.get(&running.query_id);
        known.is_some_and(|known| Arc::ptr_eq(known, running))
    }

    /// Tells the directory where the pools of `running` are.
    pub(super) fn tell(&self, running: &Arc<Running>, started: &Started) {
        // An ended query is not listed again.
        if self.is_running(running) {
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
        self.own(ending);
    }

    pub(super) fn own(&self, task: OwnedTask<()>) {
        let mut tasks = self.tasks.lock();
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    async fn end_on_hosts(&self, running: &Running) {
        let started = running.started.lock().await;
        // Some may have been started anew here since.
        self.hosting.end(&running.query_id);
        let mut urls: Vec<_> = started
            .all()
            .filter(|pool| !self.is_here(&pool.executor_id))
            .map(|pool| pool.url.clone())
            .collect();
        urls.sort();
        urls.dedup();
        let ended = urls.iter().map(|url| async move {
            let request = EndPools {
                query_id: running.query_id.clone(),
                part: None,
                retire_ms: 0,
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

/// Why `pool` was not started.
fn not_started(pool: &StartedPool, status: &Status) -> NotStarted {
    let text = format!("{}: {}", pool.executor_id, status.message());
    match status.code() {
        Code::InvalidArgument | Code::FailedPrecondition | Code::Internal => {
            NotStarted::Never(text)
        }
        _ => NotStarted::NotNow(text),
    }
}

/// Whether a host has said by `status` that it has not started what it should.
fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument | Code::FailedPrecondition | Code::ResourceExhausted
    )
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
