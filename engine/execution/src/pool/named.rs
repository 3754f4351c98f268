//! Named actors and named pools: where they live, and that they go on living.
//!
//! One that asks for nothing lives with whoever queries are sent to. One that asks for
//! resources, and each of a pool, is placed: its pool claims what all ask for, waits in
//! line for it as queries do, and has hosts build the actors. The directory says where
//! they are. One whose host is lost is built where there is room, without what it kept.
//! In an engine without a cluster the one host is this process.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use datafusion::common::{Result, exec_datafusion_err};
use mobula_plan::{PlacedPool, PoolHost};
use mobula_udfs::{ActorInfo, ActorSpec, BuiltActor};
use parking_lot::Mutex;
use tokio::sync::oneshot;

pub use super::placed_actor::PlacedActor;
use super::placed_actor::{Hosts, directory_key, external};
use super::starter::Starter;
use crate::coordinator::queries::Queries;
use crate::process::Process;
use crate::spawn::spawn_named;

/// Between tries to build actors of a database that was opened.
const AGAIN: Duration = Duration::from_secs(1);

/// The named actors of an engine.
pub struct NamedActors {
    shared: Arc<Hosts>,
}
/// One that has been built and that nobody can name yet, or any more. Dropped by all who
/// have it, it ends.
#[derive(Clone)]
pub enum NamedActor {
    /// With whoever queries are sent to.
    Here(Arc<BuiltActor>),
    Placed(Arc<PlacedActor>),
}

/// A named pool, as `system.actor_pools` shows it.
#[derive(Debug, Clone)]
pub struct PoolInfo {
    pub spec: Arc<ActorSpec>,
    /// Where its actors are, in the order of their members.
    pub hosts: Vec<PoolHost>,
}

impl NamedActors {
    /// Without actors; `starter`: of a coordinator.
    pub fn new(
        process: &Process,
        queries: Arc<Queries>,
        starter: Option<Arc<Starter>>,
        url: &str,
        init_timeout: Duration,
        kill_grace: Duration,
    ) -> Self {
        Self {
            shared: Arc::new(Hosts {
                actors: Arc::clone(process.actors()),
                executor_id: process.executor_id().to_owned(),
                url: url.to_owned(),
                directory: Arc::clone(&process.pool_line().directory),
                starter,
                init_timeout,
                kill_grace,
                placed: Mutex::default(),
                next_member: AtomicU64::new(1),
                queries,
                tasks: Mutex::default(),
            }),
        }
    }

    /// Builds an actor, or the actors of a pool, that nobody can name yet, for the
    /// statement `sql`, which `system.queries` shows meanwhile.
    ///
    /// # Errors
    /// What it asks for and nobody has, what it waited for in vain, and what its
    /// constructor raised.
    pub async fn build(&self, spec: Arc<ActorSpec>, sql: &str) -> Result<NamedActor> {
        self.check_room(&spec.name)?;
        if !is_placed(&spec) {
            let listed = self.shared.queries.list(&directory_key(&spec.name), sql);
            listed.run();
            let built = self.shared.actors.build(spec).await;
            return Ok(NamedActor::Here(built.map_err(external)?));
        }
        self.build_placed(spec, sql).await
    }

    /// In a task of its own, so that who does not want it any more may drop this at any
    /// time: it leaves the line then, and what is being built by then ends when it is there.
    async fn build_placed(&self, spec: Arc<ActorSpec>, sql: &str) -> Result<NamedActor> {
        let placed = self.shared.new_placed(spec);
        let listed = self.shared.queries.list(&placed.claim_name, sql);
        let (mut tell, told) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        self.shared.own(spawn_named("actor-build", async move {
            let filled = shared.fill(&placed, &listed, tell.closed()).await;
            drop(listed);
            // Unheard, it is dropped, and ends.
            let _ = tell.send(filled.map(|()| NamedActor::Placed(placed)));
        }));
        let stopped = || exec_datafusion_err!("the engine stops");
        told.await.map_err(|_| stopped())?
    }

    /// Whether there may be one named `name`, beside the others or instead of one.
    ///
    /// # Errors
    /// [`UdfError::ActorsMax`].
    pub fn check_room(&self, name: &str) -> Result<()> {
        let room = self.shared.actors.check_room(name);
        room.map_err(external)
    }

    /// Makes one known by its name; those that it replaces, for [`Self::end`].
    pub fn put(&self, actor: NamedActor) -> Vec<NamedActor> {
        let shared = &self.shared;
        match actor {
            NamedActor::Here(built) => {
                let name = built.name().to_owned();
                let replaced = shared.actors.put(built).map(NamedActor::Here);
                let placed = shared.placed.lock().remove(&name);
                if placed.is_some() {
                    shared.directory.remove(&directory_key(&name));
                }
                replaced
                    .into_iter()
                    .chain(placed.map(NamedActor::Placed))
                    .collect()
            }
            NamedActor::Placed(placed) => {
                let name = placed.spec.name.clone();
                let here = shared.actors.take(&name).map(NamedActor::Here);
                let replaced = shared.placed.lock().insert(name, Arc::clone(&placed));
                shared.tell(&placed);
                here.into_iter()
                    .chain(replaced.map(NamedActor::Placed))
                    .collect()
            }
        }
    }

    /// Takes those called `name` out; no call finds them any more.
    pub fn take(&self, name: &str) -> Vec<NamedActor> {
        let here = self.shared.actors.take(name).map(NamedActor::Here);
        let placed = self.shared.placed.lock().remove(name);
        if placed.is_some() {
            self.shared.directory.remove(&directory_key(name));
        }
        here.into_iter()
            .chain(placed.map(NamedActor::Placed))
            .collect()
    }

    /// Ends one that was taken out: the call at work may finish within `udf_kill_grace`,
    /// those in line fail.
    pub async fn end(&self, actor: NamedActor) {
        match actor {
            NamedActor::Here(built) => self.shared.actors.end(built).await,
            NamedActor::Placed(placed) => self.shared.end(&placed).await,
        }
    }

    /// One of a database that is opened: it is known at once, and built in the
    /// background as soon as there is room.
    ///
    /// # Errors
    /// [`UdfError::ActorsMax`].
    pub fn start_later(&self, spec: Arc<ActorSpec>) -> Result<()> {
        if !is_placed(&spec) {
            let started = self.shared.actors.start_later(spec);
            return started.map_err(external);
        }
        self.check_room(&spec.name)?;
        let placed = self.shared.new_placed(spec);
        drop(self.put(NamedActor::Placed(Arc::clone(&placed))));
        let (shared, actor) = (Arc::downgrade(&self.shared), Arc::downgrade(&placed));
        let retry = async move {
            // An executor that it needs may come after an hour: that is said once.
            let mut told = String::new();
            while let (Some(shared), Some(placed)) = (shared.upgrade(), actor.upgrade()) {
                let name = &placed.spec.name;
                let sql = format!("-- \"{name}\" of the database that was opened");
                let listed = shared.queries.list(&placed.claim_name, &sql);
                let Err(error) = shared.fill(&placed, &listed, pending()).await else {
                    return;
                };
                let text = error.to_string();
                if text != told {
                    let actor = name;
                    tracing::warn!(%error, actor, "a named actor is not there; it is tried again");
                    told = text;
                }
                drop((listed, shared, placed));
                tokio::time::sleep(AGAIN).await;
            }
        };
        self.shared.own(spawn_named("actor-later", retry));
        Ok(())
    }

    /// Whether the one called `name` is a pool; `None`: there is none.
    pub fn is_pool(&self, name: &str) -> Option<bool> {
        let placed = self.shared.placed.lock().get(name).cloned();
        match placed {
            Some(placed) => Some(placed.spec.pool.is_some()),
            None => self.shared.actors.has(name).then_some(false),
        }
    }

    /// Where the actors are that are called by one of `names`, as far as they are placed.
    pub fn placed(&self, names: impl IntoIterator<Item = String>) -> Vec<PlacedPool> {
        let found = names.into_iter().filter_map(|name| {
            let placed = self.shared.placed.lock().contains_key(&name);
            placed.then(|| self.shared.directory.find(&directory_key(&name)))?
        });
        found.flatten().collect()
    }

    /// Builds anew what those called by one of `claims` have lost.
    pub async fn mend(&self, claims: &[String]) {
        self.shared.mend(claims).await;
    }

    /// The actors of this process.
    pub fn here(&self) -> Vec<ActorInfo> {
        self.shared.actors.list()
    }

    /// The placed pools, by name.
    pub fn pools(&self) -> Vec<PoolInfo> {
        let placed: Vec<_> = self.shared.placed.lock().values().cloned().collect();
        let pools = placed.into_iter().filter(|p| p.spec.pool.is_some());
        let infos = pools.map(|placed| {
            let found = self
                .shared
                .directory
                .find(&directory_key(&placed.spec.name));
            let mut hosts: Vec<_> = found
                .unwrap_or_default()
                .into_iter()
                .flat_map(|pool| pool.hosts)
                .collect();
            hosts.sort_by_key(|host| host.part);
            PoolInfo {
                spec: Arc::clone(&placed.spec),
                hosts,
            }
        });
        infos.collect()
    }
}

/// Whether hosts are chosen for it.
fn is_placed(spec: &ActorSpec) -> bool {
    spec.pool.is_some() || !spec.demand.is_none()
}
