//! An actor, or a pool of them, on hosts: claimed, built, published, mended, ended.
//!
//! How many a pool has, `scaling` sees to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use datafusion::common::{DataFusionError, Result, exec_err};
use futures::future::join_all;
use mobula_plan::operator::map_batches::CallDemand;
use mobula_plan::{PlacedPool, PoolHost};
use mobula_proto::pool::{ACTION_ACTOR_END, ACTION_ACTOR_START, EndActor, StartActor};
use mobula_udfs::{ActorHost, ActorSpec, UdfError, member_key};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;
use tonic::Status;
use url::Url;

use super::directory::Directory;
use super::line::{ActorHostNow, ClusterClaim, TimedOut};
use super::scaling::{Following, Scaling};
use super::starter::Starter;
use crate::actor_calls::link::remote_failure;
use crate::coordinator::queries::{Listed, Queries, Wait};
use crate::error::ExecutionError;
use crate::exchange::action::act;
use crate::resource_check::{Has, asked, check, groups};
use crate::spawn::{OwnedTask, spawn_named};
use crate::wire_error;

/// How long a host is told that an actor ends.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// What a host may take beyond the time for building an actor.
const START_SLACK: Duration = Duration::from_secs(15);

/// What the named actors of an engine share: where they may live, and how they get there.
pub(super) struct Hosts {
    /// Those of this process.
    pub(super) actors: Arc<ActorHost>,
    pub(super) executor_id: String,
    pub(super) url: String,
    pub(super) directory: Arc<Directory>,
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
    /// Those that are being built.
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
            claim_name: format!("actor {} ({number})", spec.name),
            following: Mutex::new(spec.pool.map(Following::new)),
            spec,
            shared: Arc::downgrade(self),
            members: Mutex::default(),
            claim: Mutex::default(),
            instead_of: Mutex::default(),
        })
    }

    /// Claims what `placed` asks for, a pool for its `min`, and has all these actors built, or
    /// none; it leaves the line when `unwanted` ends.
    pub(super) async fn fill(
        &self,
        placed: &PlacedActor,
        listed: &Listed,
        unwanted: impl Future<Output = ()>,
    ) -> Result<()> {
        let calls = [placed.demand(placed.least())];
        check(&calls, &self.hosts()).map_err(external)?;
        if let Some(starter) = &self.starter {
            let patience = placed.spec.init_timeout.unwrap_or(self.init_timeout);
            let wanted = groups(&calls);
            let claim = starter.line.claim(&placed.claim_name, wanted, patience);
            listed.wait(Wait::Resources(asked(&calls)));
            let claim = tokio::select! {
                biased;
                claim = claim => claim,
                () = unwanted => return exec_err!("nobody waits for \"{}\" any more", placed.spec.name),
                () = self.take_over(placed) => return exec_err!("\"{}\" is not to be had", placed.spec.name),
            };
            let (claim, _) = claim.map_err(|TimedOut { holders }| {
                external(ExecutionError::NoResources {
                    asked: asked(&calls),
                    holders: holders.join(", "),
                    waited: patience,
                })
            })?;
            *placed.claim.lock() = Some(claim);
        } else {
            tokio::select! {
                () = self.take_over_here(placed) => {}
                () = unwanted => return exec_err!("nobody waits for \"{}\" any more", placed.spec.name),
            }
        }
        self.end_old_first(placed).await;
        listed.run();
        let filled = self.build_missing(placed).await;
        match filled {
            Ok(()) => placed.members.lock().is_filled = true,
            Err(_) => self.end(placed).await,
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

    /// Forgets members whose host is lost, and builds those that are missing.
    async fn build_missing(&self, placed: &PlacedActor) -> Result<(), UdfError> {
        let failed = self.build_each_missing(placed).await.into_iter().next();
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// The same; those that could not be built.
    pub(super) async fn build_each_missing(&self, placed: &PlacedActor) -> Vec<(Member, UdfError)> {
        let name = &placed.spec.name;
        let new: Vec<_> = {
            let mut members = placed.members.lock();
            let mut seats = self.seats(placed);
            for lost in members.drop_lost(&mut seats) {
                self.directory.remove(&lost.listed(name));
            }
            let new = seats.into_iter().map(|seat| Member {
                number: self.next_member.fetch_add(1, Ordering::Relaxed),
                ..seat
            });
            let new: Vec<_> = new.collect();
            for member in &new {
                // Before it is there, so that nobody ends it as unknown.
                self.directory.set(&member.listed(name), vec![]);
            }
            members.starting.extend(new.iter().cloned());
            self.publish(placed, &members.there);
            new
        };
        let built = new.into_iter().map(|member| self.build_one(placed, member));
        join_all(built).await.into_iter().flatten().collect()
    }

    /// Builds `member`, which takes calls from then on; it, if it cannot be built.
    async fn build_one(&self, placed: &PlacedActor, member: Member) -> Option<(Member, UdfError)> {
        let built = self.build_on(&member, &placed.spec).await;
        let is_wanted = {
            let mut members = placed.members.lock();
            let was_starting = remove(&mut members.starting, &member);
            if was_starting && built.is_ok() {
                members.there.push(member.clone());
                self.publish(placed, &members.there);
            }
            was_starting
        };
        match built {
            Ok(()) if is_wanted => None,
            Ok(()) => {
                self.end_on(&member, &placed.spec.name).await;
                None
            }
            Err(error) => {
                self.directory.remove(&member.listed(&placed.spec.name));
                Some((member, error))
            }
        }
    }

    async fn build_on(&self, member: &Member, spec: &ActorSpec) -> Result<(), UdfError> {
        let spec = spec.as_member(member.number);
        if member.executor_id == self.executor_id {
            let built = self.actors.build(Arc::new(spec)).await?;
            drop(self.actors.put(built));
            return Ok(());
        }
        let Some(starter) = &self.starter else {
            return Ok(());
        };
        let request = StartActor {
            spec: spec.encode()?,
        };
        let limit = spec.init_timeout.unwrap_or(self.init_timeout) + START_SLACK;
        let body = request.encode_to_vec();
        let told = act(
            &starter.channels,
            &member.url,
            ACTION_ACTOR_START,
            body,
            limit,
        )
        .await;
        told.map(drop)
            .map_err(|status| failed(&status, &spec.name, &member.url))
    }

    /// Tells the directory where the members of `placed` are, if it is the one of its
    /// name.
    pub(super) fn publish(&self, placed: &PlacedActor, members: &[Member]) {
        let known = self.placed.lock().get(&placed.spec.name).cloned();
        if !known.is_some_and(|known| std::ptr::eq(known.as_ref(), placed)) {
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
        };
        self.directory
            .set(&directory_key(&placed.spec.name), vec![pool]);
    }

    /// As [`Self::publish`], of one that has just become the one of its name.
    pub(super) fn tell(&self, placed: &PlacedActor) {
        self.publish(placed, &placed.members.lock().there);
    }

    /// Ends the members of `placed`, then gives back what they had.
    pub(super) async fn end(&self, placed: &PlacedActor) {
        // Those that are being built end when they are.
        let members = std::mem::take(&mut *placed.members.lock());
        for starting in &members.starting {
            self.directory.remove(&starting.listed(&placed.spec.name));
        }
        let ended = members
            .there
            .iter()
            .map(|member| self.end_on(member, &placed.spec.name));
        join_all(ended).await;
        *placed.claim.lock() = None;
    }

    /// Ends `member`, which is leaving, when it is through with what it is at, and gives back
    /// what it had.
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
        self.give_back(placed, member);
        remove(&mut placed.members.lock().leaving, member);
    }

    /// Gives back what `member` had, which is not there.
    pub(super) fn give_back(&self, placed: &PlacedActor, member: &Member) {
        match &self.starter {
            Some(starter) => {
                let (id, epoch) = (&member.executor_id, member.epoch);
                starter.line.shrink(&placed.claim_name, id, epoch);
            }
            None => placed.resize_here(|size| size.saturating_sub(1)),
        }
    }

    async fn end_on(&self, member: &Member, name: &str) {
        let key = member_key(name, member.number);
        self.directory.remove(&member.listed(name));
        if member.executor_id == self.executor_id {
            if let Some(actor) = self.actors.take(&key) {
                self.actors.end(actor).await;
            }
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
                continue;
            };
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

    /// The same, if it is a pool.
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

    /// What `workers` of it ask for.
    pub(super) fn demand(&self, workers: usize) -> CallDemand {
        CallDemand {
            function: self.spec.name.clone(),
            demand: self.spec.demand.clone(),
            workers,
            most: Some(workers),
            call_id: 0,
        }
    }
}

impl Members {
    /// Keeps those that have one of `seats`, which are taken out; the others.
    fn drop_lost(&mut self, seats: &mut Vec<Member>) -> Vec<Member> {
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
fn remove(members: &mut Vec<Member>, member: &Member) -> bool {
    let at = members.iter().position(|m| m.number == member.number);
    at.map(|at| members.remove(at)).is_some()
}

impl Member {
    fn is_with(&self, other: &Self) -> bool {
        (&self.executor_id, self.epoch) == (&other.executor_id, other.epoch)
    }

    /// What the directory calls it, for hosts that ask whether it is known.
    fn listed(&self, name: &str) -> String {
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

/// Why an actor could not be built at `url`.
fn failed(status: &Status, actor: &str, url: &Url) -> UdfError {
    match wire_error::told(status, url.as_str()) {
        Some(error) => UdfError::Remote(Box::new(remote_failure(error))),
        None => UdfError::ActorUnreachable {
            function: actor.to_owned(),
            actor: actor.to_owned(),
            place: url.to_string(),
            reason: status.message().to_owned(),
        },
    }
}
