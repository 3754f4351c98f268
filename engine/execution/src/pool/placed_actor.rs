//! An actor, or a pool of them, on hosts: claimed, built, published, mended, ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use datafusion::common::{DataFusionError, Result};
use futures::future::join_all;
use mobula_plan::operator::map_batches::CallDemand;
use mobula_plan::{PlacedPool, PoolHost};
use mobula_proto::pool::{ACTION_ACTOR_END, ACTION_ACTOR_START, EndActor, StartActor};
use mobula_udfs::{ActorHost, ActorSpec, PoolBounds, UdfError, member_key};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Mutex as FairMutex;
use tonic::Status;
use url::Url;

use super::directory::Directory;
use super::line::{ActorHostNow, ClusterClaim, TimedOut};
use super::starter::{Starter, act};
use crate::actor_calls::link::remote_failure;
use crate::error::ExecutionError;
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
    pub(super) placed: Mutex<BTreeMap<String, Arc<PlacedActor>>>,
    pub(super) next_member: AtomicU64,
    pub(super) tasks: Mutex<Vec<OwnedTask<()>>>,
}
/// An actor, or a pool of them, on hosts.
pub struct PlacedActor {
    pub(super) spec: Arc<ActorSpec>,
    shared: std::sync::Weak<Hosts>,
    members: FairMutex<Vec<Member>>,
    claim: Mutex<Option<ClusterClaim>>,
    /// What its claim is called; another one for whoever replaces it.
    claim_name: String,
}

#[derive(Debug, Clone)]
struct Member {
    number: u64,
    executor_id: String,
    epoch: u64,
    url: Url,
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
            spec,
            shared: Arc::downgrade(self),
            members: FairMutex::default(),
            claim: Mutex::default(),
        })
    }

    /// Claims what `placed` asks for, and has all its actors built, or none.
    pub(super) async fn fill(&self, placed: &PlacedActor) -> Result<()> {
        let calls = [demand_of(&placed.spec)];
        check(&calls, &self.hosts()).map_err(external)?;
        if let Some(starter) = &self.starter {
            let patience = placed.spec.init_timeout.unwrap_or(self.init_timeout);
            let wanted = groups(&calls);
            let claim = starter.line.claim(&placed.claim_name, wanted, patience);
            let (claim, _) = claim.await.map_err(|TimedOut { holders }| {
                external(ExecutionError::NoResources {
                    asked: asked(&calls),
                    holders: holders.join(", "),
                    waited: patience,
                })
            })?;
            *placed.claim.lock() = Some(claim);
        }
        let filled = self.build_missing(placed).await;
        if filled.is_err() {
            self.end(placed).await;
        }
        filled.map_err(external)
    }

    fn hosts(&self) -> Vec<Has> {
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
    fn seats(&self, placed: &PlacedActor) -> Vec<Member> {
        let Some(starter) = &self.starter else {
            let url = Url::parse(&self.url).ok();
            let here = url.map(|url| Member {
                number: 0,
                executor_id: self.executor_id.clone(),
                epoch: 0,
                url,
            });
            let many = self.fitting_here(&placed.spec);
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

    /// How many actors of `spec` this process has room for now, of those that it may have
    /// and at least those that it must.
    fn fitting_here(&self, spec: &ActorSpec) -> usize {
        let Some(PoolBounds { min, max }) = spec.pool else {
            return 1;
        };
        let mut free = self.actors.free();
        let fitting = (0..max).take_while(|_| free.try_take(&spec.demand).is_some());
        fitting.count().max(min)
    }

    /// Forgets members whose host is lost, and builds those that are missing.
    async fn build_missing(&self, placed: &PlacedActor) -> Result<(), UdfError> {
        let mut members = placed.members.lock().await;
        let mut seats = self.seats(placed);
        members.retain(|member| {
            let seat = seats.iter().position(|seat| seat.is_with(member));
            let lost = seat.is_none();
            seat.map(|at| seats.remove(at));
            if lost {
                self.directory.remove(&member.listed(&placed.spec.name));
            }
            !lost
        });
        self.publish(placed, &members);
        let built = seats.into_iter().map(|seat| async move {
            let number = self.next_member.fetch_add(1, Ordering::Relaxed);
            let member = Member { number, ..seat };
            // Before it is there, so that nobody ends it as unknown.
            let listed = member.listed(&placed.spec.name);
            self.directory.set(&listed, vec![]);
            let built = self.build_on(&member, &placed.spec).await;
            if built.is_err() {
                self.directory.remove(&listed);
            }
            built.map(|()| member)
        });
        let mut outcome = Ok(());
        for built in join_all(built).await {
            match built {
                Ok(member) => members.push(member),
                Err(error) => outcome = Err(error),
            }
        }
        self.publish(placed, &members);
        outcome
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
    fn publish(&self, placed: &PlacedActor, members: &[Member]) {
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

    /// As [`Self::publish`], of one whose members are there.
    pub(super) fn tell(&self, placed: &PlacedActor) {
        // Whoever builds some publishes them.
        if let Ok(members) = placed.members.try_lock() {
            self.publish(placed, &members);
        }
    }

    /// Ends the members of `placed`, then gives back what they had.
    pub(super) async fn end(&self, placed: &PlacedActor) {
        let members = std::mem::take(&mut *placed.members.lock().await);
        let ended = members
            .iter()
            .map(|member| self.end_on(member, &placed.spec.name));
        join_all(ended).await;
        *placed.claim.lock() = None;
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
        let Some(starter) = &self.starter else {
            return;
        };
        let body = EndActor { key }.encode_to_vec();
        let limit = END_TIMEOUT + self.kill_grace;
        let told = act(
            &starter.channels,
            &member.url,
            ACTION_ACTOR_END,
            body,
            limit,
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
        let members = std::mem::take(self.members.get_mut());
        let claim = self.claim.get_mut().take();
        let (Some(shared), Ok(_)) = (self.shared.upgrade(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        if members.is_empty() {
            return;
        }
        let (name, owner) = (self.spec.name.clone(), Arc::clone(&shared));
        owner.own(spawn_named("actor-end", async move {
            let ended = members.iter().map(|member| shared.end_on(member, &name));
            join_all(ended).await;
            drop(claim);
        }));
    }
}

pub(super) fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn demand_of(spec: &ActorSpec) -> CallDemand {
    CallDemand {
        function: spec.name.clone(),
        demand: spec.demand.clone(),
        workers: spec.pool.map_or(1, |pool| pool.min),
        most: Some(spec.pool.map_or(1, |pool| pool.max)),
        call_id: 0,
    }
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
