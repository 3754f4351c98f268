//! An actor, or a pool of them, on hosts: claimed, built, published, mended, ended.
//!
//! How many a pool has, `scaling` sees to, and `building` to how each comes.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use datafusion::common::{DataFusionError, Result, exec_err};
use futures::future::join_all;
use mobula_plan::operator::map_batches::CallDemand;
use mobula_plan::{PlacedPool, PoolHost};
use mobula_proto::pool::{ACTION_ACTOR_END, EndActor};
use mobula_udfs::{ActorHost, ActorSpec, member_key};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;
use url::Url;

use super::absent::{Absence, Absent};
use super::directory::Directory;
use super::line::{ActorHostNow, ClusterClaim, TimedOut};
use super::named::fixed;
use super::named_lanes::NamedLanes;
use super::scaling::{Following, Scaling};
use super::starter::Starter;
use crate::coordinator::queries::{Listed, Queries, Wait};
use crate::error::ExecutionError;
use crate::exchange::action::act;
use crate::holders::actor_claim;
use crate::resource_check::{Has, asked, check_actors, groups};
use crate::spawn::{OwnedTask, spawn_named};

/// How long a host is told that an actor ends.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// What the named actors of an engine share: where they may live, and how they get there.
pub(super) struct Hosts {
    /// Those of this process.
    pub(super) actors: Arc<ActorHost>,
    pub(super) executor_id: String,
    pub(super) url: String,
    pub(super) directory: Arc<Directory>,
    /// What is kept of those that are called by key.
    pub(super) keyed: Arc<NamedLanes>,
    /// `None`: this process is all there is.
    pub(super) starter: Option<Arc<Starter>>,
    pub(super) init_timeout: Duration,
    pub(super) kill_grace: Duration,
    pub(super) scaling: Scaling,
    /// Looks at the load of pools, once there has been one.
    pub(super) looker: Mutex<Option<OwnedTask<()>>>,
    /// A pool is to be looked at now.
    pub(super) poke: Arc<Notify>,
    pub(super) placed: Mutex<BTreeMap<String, Arc<PlacedActor>>>,
    pub(super) next_member: AtomicU64,
    pub(super) tasks: Mutex<Vec<OwnedTask<()>>>,
    pub(super) queries: Arc<Queries>,
}
/// An actor, or a pool of them, on hosts.
pub struct PlacedActor {
    pub(super) spec: Arc<ActorSpec>,
    shared: std::sync::Weak<Hosts>,
    pub(super) members: Mutex<Members>,
    /// Its members have been taken out, or it is not the one of its name any more.
    pub(super) ended: Notify,
    /// Why it is not there.
    pub(super) absence: Mutex<Option<Absence>>,
    claim: Mutex<Option<ClusterClaim>>,
    /// What its claim is called; another one for whoever replaces it.
    pub(super) claim_name: String,
    /// Of a pool.
    pub(super) following: Mutex<Option<Following>>,
    /// The one that had to end before this one could be built, until this one is put in its
    /// place.
    pub(super) instead_of: Mutex<Option<Arc<PlacedActor>>>,
}

/// The actors of one name.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// Those that take calls.
    pub(super) there: Vec<Member>,
    /// Those that are being built: one that is taken out is not wanted any more.
    pub(super) starting: Vec<Member>,
    /// Those that end when they are through with what they are at.
    pub(super) leaving: Vec<Member>,
    /// Whether they were all there once, and have not been ended.
    pub(super) is_filled: bool,
}

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) number: u64,
    pub(super) executor_id: String,
    pub(super) epoch: u64,
    pub(super) url: Url,
}

/// What the directory calls the named actor `name`.
pub fn directory_key(name: &str) -> String {
    format!("actor {name}")
}

impl Hosts {
    pub(super) fn new_placed(self: &Arc<Self>, spec: Arc<ActorSpec>) -> Arc<PlacedActor> {
        let number = self.next_member.fetch_add(1, Ordering::Relaxed);
        Arc::new(PlacedActor {
            claim_name: {
                let claim = actor_claim(&spec.name, spec.pool.is_some());
                format!("{claim} ({number})")
            },
            following: Mutex::new(spec.pool.map(Following::new)),
            spec,
            shared: Arc::downgrade(self),
            members: Mutex::default(),
            ended: Notify::new(),
            absence: Mutex::default(),
            claim: Mutex::default(),
            instead_of: Mutex::default(),
        })
    }

    /// Claims what `placed` asks for, a pool for its `min`, and has all these actors built, or
    /// none. When `unwanted` ends it leaves the line, and what is being built then is for who
    /// ends `placed`.
    pub(super) async fn fill(
        &self,
        placed: &PlacedActor,
        listed: &Listed,
        unwanted: impl Future<Output = ()>,
    ) -> Result<()> {
        let mut unwanted = pin!(unwanted);
        let nobody_waits = || {
            let name = &placed.spec.name;
            exec_err!("nobody waits for \"{name}\" any more")
        };
        let calls = [placed.demand(placed.least())];
        let what = placed.what();
        let [call] = &calls;
        check_actors(&what, call, &self.hosts()).map_err(|error| {
            self.is_absent(placed, Absent::Nowhere, &error);
            external(error)
        })?;
        placed.has_room();
        let sized = self.check_size(placed, placed.least());
        sized.map_err(|error| {
            self.is_absent(placed, Absent::InLine, &error);
            external(error)
        })?;
        if let Some(starter) = &self.starter {
            let patience = placed.spec.init_timeout.unwrap_or(self.init_timeout);
            let wanted = groups(&calls);
            let claim = starter.line.claim(&placed.claim_name, wanted, patience);
            listed.wait(Wait::Resources(asked(&calls)));
            let claim = tokio::select! {
                biased;
                claim = claim => claim,
                () = &mut unwanted => return nobody_waits(),
                () = self.take_over(placed) => return exec_err!("\"{}\" is not to be had", placed.spec.name),
            };
            let (claim, _) = claim.map_err(|TimedOut { holders }| {
                let error = ExecutionError::ActorsWaited {
                    what,
                    asked: asked(&calls),
                    holders: holders.join(", "),
                    waited: patience,
                };
                self.is_absent(placed, Absent::InLine, &error);
                external(error)
            })?;
            *placed.claim.lock() = Some(claim);
        } else {
            tokio::select! {
                () = self.take_over_here(placed) => {}
                () = &mut unwanted => return nobody_waits(),
            }
        }
        self.end_old_first(placed).await;
        listed.run();
        let filled = tokio::select! {
            filled = self.build_missing(placed) => filled,
            () = &mut unwanted => return nobody_waits(),
        };
        match &filled {
            Ok(()) => {
                placed.members.lock().is_filled = true;
                self.is_present(placed);
            }
            Err(error) => {
                self.end(placed).await;
                self.is_absent(placed, Absent::Failed, error);
            }
        }
        filled.map_err(external)
    }

    /// The processes that run actors, for checks of what is asked for.
    pub(super) fn hosts(&self) -> Vec<Has> {
        let Some(starter) = &self.starter else {
            return vec![Has {
                id: self.executor_id.clone(),
                capacity: self.actors.capacity().clone(),
            }];
        };
        let hosts = starter.hosts().into_iter();
        let hosts = hosts.map(
            |ActorHostNow {
                 executor_id,
                 capacity,
                 ..
             }| Has {
                id: executor_id,
                capacity,
            },
        );
        hosts.collect()
    }

    /// The seats that `placed` has: a host each.
    pub(super) fn seats(&self, placed: &PlacedActor) -> Vec<Member> {
        let Some(starter) = &self.starter else {
            let url = Url::parse(&self.url).ok();
            let here = url.map(|url| Member {
                number: 0,
                executor_id: self.executor_id.clone(),
                epoch: 0,
                url,
            });
            let many = placed.size_here();
            return here
                .into_iter()
                .flat_map(|m| std::iter::repeat_n(m, many))
                .collect();
        };
        let seats = starter.line.seats(&placed.claim_name).into_iter().flatten();
        let seats = seats.map(|held| Member {
            number: 0,
            executor_id: held.executor_id,
            epoch: held.epoch,
            url: held.url,
        });
        seats.collect()
    }

    /// Tells the directory where the members of `placed` are, if it is the one of its
    /// name.
    pub(super) fn publish(&self, placed: &PlacedActor, members: &[Member]) {
        if !self.is_known(placed) {
            return;
        }
        let hosts = members.iter().map(|member| PoolHost {
            executor_id: member.executor_id.clone(),
            url: member.url.to_string(),
            actors: 1,
            part: member.number,
            slots: vec![],
        });
        let pool = PlacedPool {
            call_id: 0,
            actor: placed.spec.name.clone(),
            hosts: hosts.collect(),
            follows: true,
        };
        self.directory
            .set(&directory_key(&placed.spec.name), vec![pool]);
    }

    /// As [`Self::publish`], of one that has just become the one of its name.
    pub(super) fn tell(&self, placed: &PlacedActor) {
        self.publish(placed, &placed.members.lock().there);
    }

    /// Ends the members of `placed`, those that are being built and those that are leaving among
    /// them, then gives back what they had.
    pub(super) async fn end(&self, placed: &PlacedActor) {
        let members = std::mem::take(&mut *placed.members.lock());
        // Another one may claim for it meanwhile.
        let claim = placed.claim.lock().take();
        placed.ended.notify_waiters();
        let ended = members
            .all()
            .map(|member| self.end_on(member, &placed.spec.name));
        join_all(ended).await;
        drop(claim);
    }

    /// Ends `member`, which is leaving, when it is through with what it is at, and gives back
    /// what it had. Should the pool be ended meanwhile, its host ends it sooner.
    pub(super) async fn retire(&self, placed: &PlacedActor, member: &Member) {
        let limit = self.scaling.retire_limit;
        let key = member_key(&placed.spec.name, member.number);
        if member.executor_id == self.executor_id {
            if let Some(actor) = self.actors.take(&key) {
                self.actors.retire(actor, limit).await;
            }
        } else {
            let retire_ms = Some(limit.as_millis() as u64);
            self.tell_to_end(member, EndActor { key, retire_ms }, limit)
                .await;
        }
        // Not before: its host would be told that nobody knows it.
        self.directory.remove(&member.listed(&placed.spec.name));
        // Who has ended the pool has given it back.
        let was_leaving = {
            let mut members = placed.members.lock();
            remove(&mut members.leaving, member)
        };
        if was_leaving {
            self.give_back(placed, member);
        }
    }

    /// Gives back what `member` had, which is not there.
    pub(super) fn give_back(&self, placed: &PlacedActor, member: &Member) {
        match &self.starter {
            Some(starter) => {
                let (id, epoch) = (&member.executor_id, member.epoch);
                starter.line.shrink(&placed.claim_name, 0, (id, epoch));
            }
            None => placed.resize_here(|size| size.saturating_sub(1)),
        }
    }

    pub(super) async fn end_on(&self, member: &Member, name: &str) {
        let key = member_key(name, member.number);
        self.directory.remove(&member.listed(name));
        if member.executor_id == self.executor_id {
            self.actors.end_by_key(&key).await;
            return;
        }
        let request = EndActor {
            key,
            retire_ms: None,
        };
        self.tell_to_end(member, request, self.kill_grace).await;
    }

    /// Tells the host of `member` that it ends, which may take `limit`.
    async fn tell_to_end(&self, member: &Member, request: EndActor, limit: Duration) {
        let Some(starter) = &self.starter else {
            return;
        };
        let told = act(
            &starter.channels,
            &member.url,
            ACTION_ACTOR_END,
            request.encode_to_vec(),
            END_TIMEOUT + limit,
        )
        .await;
        // The answer to its next heartbeat says the same.
        if let Err(status) = told {
            let (url, error) = (&member.url, status.message());
            tracing::debug!(%url, error, "a host was not told that an actor ends");
        }
    }

    pub(super) async fn mend(&self, claims: &[String]) {
        let placed: Vec<_> = self.placed.lock().values().cloned().collect();
        let lost = placed
            .into_iter()
            .filter(|p| claims.contains(&p.claim_name));
        for placed in lost {
            let Err(error) = self.build_missing(&placed).await else {
                self.is_present(&placed);
                continue;
            };
            self.is_absent(&placed, Absent::Failed, &error);
            let actor = &placed.spec.name;
            tracing::warn!(%error, actor, "a named actor has lost its host and is not there yet; it is tried again");
            if let Some(starter) = &self.starter {
                starter.line.again(&placed.claim_name);
            }
        }
    }

    pub(super) fn own(&self, task: OwnedTask<()>) {
        let mut tasks = self.tasks.lock();
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }
}

impl PlacedActor {
    /// How many there must be.
    pub(super) fn least(&self) -> usize {
        self.least_of_pool().unwrap_or(1)
    }

    /// How many there are, if that does not follow the load.
    pub(super) fn size(&self) -> Option<usize> {
        let following = self.following.lock();
        let bounds = following.as_ref().map(|pool| pool.bounds);
        bounds.map_or(Some(1), fixed)
    }

    /// The same as [`Self::least`], if it is a pool.
    pub(super) fn least_of_pool(&self) -> Option<usize> {
        let following = self.following.lock();
        following.as_ref().map(|pool| pool.bounds.min)
    }

    /// How many there are to be where this process is all there is.
    fn size_here(&self) -> usize {
        let following = self.following.lock();
        following.as_ref().map_or(1, |pool| pool.size_here)
    }

    /// From now on it is another number.
    pub(super) fn resize_here(&self, size: impl Fn(usize) -> usize) {
        if let Some(pool) = self.following.lock().as_mut() {
            pool.size_here = size(pool.size_here);
        }
    }

    /// As errors call it.
    pub(super) fn what(&self) -> String {
        let name = &self.spec.name;
        match self.spec.pool {
            Some(_) => format!("actor pool \"{name}\""),
            None => format!("actor \"{name}\""),
        }
    }

    /// What `workers` of it ask for.
    pub(super) fn demand(&self, workers: usize) -> CallDemand {
        CallDemand {
            function: self.spec.name.clone(),
            demand: self.spec.demand.clone(),
            workers,
            most: Some(workers),
            call_id: 0,
            follows: false,
        }
    }
}

impl Members {
    /// All that have a process, or are to get one.
    fn all(&self) -> impl Iterator<Item = &Member> {
        let before = self.there.iter().chain(&self.starting);
        before.chain(&self.leaving)
    }

    pub(super) fn count(&self) -> usize {
        self.all().count()
    }

    pub(super) fn is_starting(&self, member: &Member) -> bool {
        self.starting.iter().any(|m| m.number == member.number)
    }

    /// Keeps those that have one of `seats`, which are taken out; the others.
    pub(super) fn drop_lost(&mut self, seats: &mut Vec<Member>) -> Vec<Member> {
        let mut lost = vec![];
        for members in [&mut self.there, &mut self.starting, &mut self.leaving] {
            members.retain(|member| {
                let seat = seats.iter().position(|seat| seat.is_with(member));
                match seat {
                    Some(at) => drop(seats.swap_remove(at)),
                    None => lost.push(member.clone()),
                }
                seat.is_some()
            });
        }
        lost
    }
}

/// Takes `member` out; whether it was there.
pub(super) fn remove(members: &mut Vec<Member>, member: &Member) -> bool {
    let at = members.iter().position(|m| m.number == member.number);
    at.map(|at| members.remove(at)).is_some()
}

impl Member {
    fn is_with(&self, other: &Self) -> bool {
        (&self.executor_id, self.epoch) == (&other.executor_id, other.epoch)
    }

    /// What the directory calls it, for hosts that ask whether it is known.
    pub(super) fn listed(&self, name: &str) -> String {
        directory_key(&member_key(name, self.number))
    }
}

impl Drop for PlacedActor {
    /// One that was built and never put.
    fn drop(&mut self) {
        let Members {
            there: mut members,
            starting,
            ..
        } = std::mem::take(self.members.get_mut());
        members.extend(starting);
        let (claim, old) = (
            self.claim.get_mut().take(),
            self.instead_of.get_mut().take(),
        );
        let (Some(shared), Ok(_)) = (self.shared.upgrade(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        if members.is_empty() {
            drop(claim);
            shared.restore(old);
            return;
        }
        let (name, owner) = (self.spec.name.clone(), Arc::clone(&shared));
        owner.own(spawn_named("actor-end", async move {
            let ended = members.iter().map(|member| shared.end_on(member, &name));
            join_all(ended).await;
            drop(claim);
            shared.restore(old);
        }));
    }
}

pub(super) fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
