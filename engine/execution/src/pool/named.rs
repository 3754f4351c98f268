//! Named actors and named pools: where they live, and that they go on living.
//!
//! One that asks for nothing lives with whoever queries are sent to. One that asks for
//! resources, and each of a pool, is placed: its pool claims what all ask for, waits in
//! line for it as queries do, and has hosts build the actors. The directory says where
//! they are. One whose host is lost is built where there is room, without what it kept.
//! In an engine without a cluster the one host is this process.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use datafusion::common::{Result, exec_datafusion_err};
use mobula_plan::{MobulaOptions, PlacedPool};
use mobula_udfs::{ActorInfo, ActorSpec, BuiltActor, PoolBounds};
use parking_lot::Mutex;
use tokio::sync::oneshot;

pub use super::placed_actor::PlacedActor;
use super::placed_actor::{Hosts, directory_key, external};
use super::replace::said;
use super::scaling::{Scaling, Short};
use super::starter::Starter;
use crate::coordinator::queries::Queries;
use crate::error::ExecutionError;
use crate::process::Process;
use crate::spawn::spawn_named;

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
    pub bounds: PoolBounds,
    pub idle_ttl: Duration,
    /// The executor of each actor that takes calls, in the order of their members.
    pub executors: Vec<String>,
    /// Actors that are being built.
    pub starting: usize,
    /// Of those that are there, how many had failed when it was last looked at.
    pub failed: usize,
    /// Blocks that waited when it was last looked at.
    pub queue: usize,
    /// What it last did, when and why.
    pub last_change: Option<(SystemTime, String)>,
}

impl NamedActors {
    /// Without actors; `starter`: of a coordinator.
    pub fn new(
        process: &Process,
        queries: Arc<Queries>,
        starter: Option<Arc<Starter>>,
        url: &str,
        options: &MobulaOptions,
    ) -> Self {
        Self {
            shared: Arc::new(Hosts {
                actors: Arc::clone(process.actors()),
                executor_id: process.executor_id().to_owned(),
                url: url.to_owned(),
                directory: Arc::clone(&process.pool_line().directory),
                keyed: Arc::clone(&process.pool_line().named),
                starter,
                init_timeout: options.udf_init_timeout(),
                kill_grace: options.udf_kill_grace(),
                scaling: Scaling::of(options),
                looker: Mutex::default(),
                poke: Arc::default(),
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
    /// time: it leaves the line then, and what is being built by then ends.
    async fn build_placed(&self, spec: Arc<ActorSpec>, sql: &str) -> Result<NamedActor> {
        let placed = self.shared.new_placed(spec);
        let listed = self.shared.queries.list(&placed.claim_name, sql);
        let (mut tell, told) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        self.shared.own(spawn_named("actor-build", async move {
            let filled = shared.fill(&placed, &listed, tell.closed()).await;
            let filled = said(&placed, filled);
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

    /// The same for one that has been built: those of a pool are counted by then.
    ///
    /// # Errors
    /// As of [`Self::check_room`].
    pub fn check_room_of(&self, actor: &NamedActor) -> Result<()> {
        match actor {
            NamedActor::Here(built) => self.check_room(built.name()),
            NamedActor::Placed(_) => Ok(()),
        }
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
                    shared.keyed.remove(&name);
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
                // What the one before kept goes with it.
                shared.keyed.put(&name, placed.size());
                let replaced = shared.placed.lock().insert(name, Arc::clone(&placed));
                *placed.instead_of.lock() = None;
                shared.tell(&placed);
                // Nor what somebody who came meanwhile has begun with that one.
                shared.keyed.put(&placed.spec.name, placed.size());
                if placed.spec.pool.is_some() {
                    shared.follow_load();
                }
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
        if let Some(placed) = &placed {
            self.shared.keyed.remove(name);
            self.shared.directory.remove(&directory_key(name));
            placed.ended.notify_waiters();
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
        self.shared.fill_later(&placed);
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

    /// Those of `names` of which nobody is there, as errors call them.
    pub fn missing(&self, names: &[String]) -> Vec<String> {
        let here = self.shared.actors.list();
        let missing = names.iter().filter_map(|name| {
            let placed = self.shared.placed.lock().get(name).cloned();
            if let Some(placed) = placed {
                let is_missing = placed.members.lock().there.is_empty();
                return is_missing.then(|| placed.what());
            }
            let mut single = here.iter().filter(|actor| actor.member == 0);
            let found = single.find(|actor| actor.name == *name)?;
            found.pid.is_none().then(|| format!("actor \"{name}\""))
        });
        missing.collect()
    }

    /// Builds anew what those called by one of `claims` have lost.
    pub async fn mend(&self, claims: &[String]) {
        self.shared.mend(claims).await;
    }

    /// The actors of this process.
    pub fn here(&self) -> Vec<ActorInfo> {
        self.shared.actors.list()
    }

    /// Those that are not there, and why.
    pub fn absent(&self) -> Vec<ActorInfo> {
        self.shared.absent()
    }

    /// The placed pools, by name.
    pub fn pools(&self) -> Vec<PoolInfo> {
        let placed: Vec<_> = self.shared.placed.lock().values().cloned().collect();
        let infos = placed.iter().filter_map(|placed| {
            let (there, starting) = {
                let members = placed.members.lock();
                (members.there.clone(), members.starting.len())
            };
            let following = placed.following.lock();
            let pool = following.as_ref()?;
            let own_ttl = pool.bounds.idle_ttl;
            Some(PoolInfo {
                spec: Arc::clone(&placed.spec),
                bounds: pool.bounds,
                idle_ttl: own_ttl.unwrap_or(self.shared.scaling.idle_ttl),
                executors: there.into_iter().map(|m| m.executor_id).collect(),
                starting,
                failed: pool.not_built,
                queue: pool.waiting,
                last_change: pool.last_change.clone(),
            })
        });
        infos.collect()
    }

    /// The bounds of the pool called `name`; `None`: there is no such pool.
    pub fn bounds(&self, name: &str) -> Option<PoolBounds> {
        let placed = self.shared.placed.lock().get(name).cloned()?;
        let following = placed.following.lock();
        following.as_ref().map(|pool| pool.bounds)
    }

    /// The pool called `name` as it is declared with other `bounds`, for
    /// [`Self::set_bounds`], with these or those of before; `None`: there is none. Keyed
    /// calls for another number of actors do not begin from here on.
    ///
    /// # Errors
    /// When a larger `min` than before can never be had, or keys have their actors.
    pub fn with_bounds(&self, name: &str, bounds: PoolBounds) -> Result<Option<ActorSpec>> {
        let placed = self.shared.placed.lock().get(name).cloned();
        let Some(placed) = placed.filter(|placed| placed.spec.pool.is_some()) else {
            return Ok(None);
        };
        if bounds.min > placed.least() {
            self.shared.check_more(&placed, bounds.min)?;
        }
        let resized = self.shared.keyed.resize(name, fixed(bounds));
        resized.map_err(|actors| {
            let what = placed.what();
            external(ExecutionError::KeyedPool { what, actors })
        })?;
        Ok(Some(ActorSpec {
            pool: Some(bounds),
            ..placed.spec.as_ref().clone()
        }))
    }

    /// Gives the pool called `name` other `bounds`, which it follows in the background.
    pub fn set_bounds(&self, name: &str, bounds: PoolBounds) {
        let placed = self.shared.placed.lock().get(name).cloned();
        if let Some(placed) = placed
            && let Some(pool) = placed.following.lock().as_mut()
        {
            pool.bounds = bounds;
            // As it has no keys, or as many actors for them.
            let _ = self.shared.keyed.resize(name, fixed(bounds));
        }
        self.shared.poke.notify_one();
    }

    /// What pools would have more if there were room.
    pub fn short(&self) -> Vec<Short> {
        let placed: Vec<_> = self.shared.placed.lock().values().cloned().collect();
        placed.iter().filter_map(|placed| placed.short()).collect()
    }
}

/// How many actors a pool has, if that does not follow its load.
pub(super) fn fixed(bounds: PoolBounds) -> Option<usize> {
    (bounds.min == bounds.max).then_some(bounds.min)
}

/// Whether hosts are chosen for it.
fn is_placed(spec: &ActorSpec) -> bool {
    spec.pool.is_some() || !spec.demand.is_none()
}
