//! The named actors of one process, by name.
//!
//! Whoever creates one has it built first and puts it in its place after, so that a
//! name never stands for an actor that could not be built; after a restart the actors
//! are there at once and built in the background.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::buffer::Buffer;
use parking_lot::Mutex;

use crate::actor::{ActorInfo, ActorSpec, ActorState};
use crate::apart::{Apart, Listed};
use crate::call::{Priority, UdfCall};
use crate::crew::Crew;
use crate::error::UdfError;
use crate::hosted::{Hosted, HostedPool, end, keep, kill, prepare, retire, wait_expected};
use crate::keyed::KeptStates;
use crate::manager::WorkerManager;
use crate::order::CallOrder;
use crate::pool::UdfPool;
use crate::resources::{Capacity, Claim, Demand, Free, Share};
use crate::roster::Want;
use crate::spawn::{OwnedTask, spawn_named};
use crate::spec::FunctionSpec;
use crate::turns::Turn;

/// The named actors of one process, those of pools among them.
#[derive(Debug)]
pub struct ActorHost {
    manager: Arc<WorkerManager>,
    /// What errors call this process.
    place: String,
    actors_max: usize,
    /// What is kept of their states.
    states: Arc<KeptStates>,
    actors: Mutex<BTreeMap<String, Arc<BuiltActor>>>,
    /// Those that no call finds: not yet, or not any more.
    apart: Apart,
}

/// An actor that has a process. Dropped by all who have it, it ends.
#[derive(Debug)]
pub struct BuiltActor {
    spec: Arc<ActorSpec>,
    crew: Arc<Crew>,
    _keeper: OwnedTask,
    /// What its process has of what this one shares out.
    _claim: Option<Claim>,
}

impl BuiltActor {
    /// As SQL knows it.
    pub fn name(&self) -> &str {
        &self.spec.name
    }
}

impl Drop for BuiltActor {
    fn drop(&mut self) {
        self.crew.close();
        // Nobody waits any longer for a call that may never end.
        if self.crew.is_at_work() {
            kill(&self.crew);
        }
    }
}

impl ActorHost {
    /// Without actors; `place` is the process's name in errors.
    pub fn new(manager: Arc<WorkerManager>, place: &str, actors_max: usize) -> Self {
        Self {
            manager,
            place: place.to_owned(),
            actors_max,
            states: KeptStates::new(usize::MAX),
            actors: Mutex::default(),
            apart: Apart::default(),
        }
    }

    /// With what is kept of their states counted in `states`.
    pub fn with_states(self, states: Arc<KeptStates>) -> Self {
        Self { states, ..self }
    }

    /// Builds an actor that nobody can name yet. What it asks for it waits for, as long
    /// as it may take to be built.
    ///
    /// # Errors
    /// [`UdfError::ActorsMax`], [`UdfError::NoResources`], what its constructor raised, and
    /// [`UdfError::ActorGone`] where it is [ended](Self::end_by_key) before it is there.
    pub async fn build(&self, spec: Arc<ActorSpec>) -> Result<Arc<BuiltActor>, UdfError> {
        let crew = self.crew(&spec);
        let mut listed = self.enter(&spec, &crew)?;
        let made = async {
            let claim = self.claim(&spec).await?;
            if let Some(hosted) = &crew.hosted {
                prepare(&crew, hosted).await?;
            }
            Ok(claim)
        };
        let claim = tokio::select! {
            made = made => made?,
            () = listed.is_to_end() => {
                return Err(UdfError::ActorGone {
                    function: spec.name.clone(),
                    actor: spec.name.clone(),
                });
            }
        };
        Ok(kept(spec, crew, claim))
    }

    /// Lists one that is to be built, if there may be one more.
    fn enter(&self, spec: &ActorSpec, crew: &Arc<Crew>) -> Result<Listed, UdfError> {
        // Held until it is listed, so that of those that come at once none is missed.
        let actors = self.actors.lock();
        let starting = self.apart.starting();
        let all: BTreeSet<_> = actors.keys().chain(&starting).collect();
        match all.len() >= self.actors_max && !actors.contains_key(&spec.key()) {
            true => Err(UdfError::ActorsMax {
                actor: spec.name.clone(),
                actors: all.len(),
            }),
            false => Ok(self.apart.enter(crew, ActorState::Starting)),
        }
    }

    /// Makes an actor known by its [key](ActorSpec::key); the one it replaces. Who drops
    /// that ends it.
    pub fn put(&self, actor: Arc<BuiltActor>) -> Option<Arc<BuiltActor>> {
        self.actors.lock().insert(actor.spec.key(), actor)
    }

    /// An actor that is known at once and built in the background.
    ///
    /// # Errors
    /// [`UdfError::ActorsMax`].
    pub fn start_later(&self, spec: Arc<ActorSpec>) -> Result<(), UdfError> {
        self.check_room(&spec.key())?;
        let crew = self.crew(&spec);
        drop(self.put(kept(spec, crew, None)));
        Ok(())
    }

    /// Takes an actor out; no call finds it any more.
    pub fn take(&self, name: &str) -> Option<Arc<BuiltActor>> {
        self.actors.lock().remove(name)
    }

    /// Ends an actor that was taken out: the call at work may finish within
    /// `udf_kill_grace`, those in line fail.
    pub async fn end(&self, actor: Arc<BuiltActor>) {
        let _listed = self.apart.enter(&actor.crew, ActorState::Retiring);
        end(&actor.crew, self.manager.kill_grace()).await;
    }

    /// Ends an actor of a pool that was taken out: the call at work may finish within `limit`,
    /// or, should it be [ended](Self::end_by_key) meanwhile, within `udf_kill_grace` from then;
    /// those in line, and those to come, are for others of its pool ([`UdfError::PoolGone`]).
    pub async fn retire(&self, actor: Arc<BuiltActor>, limit: Duration) {
        let mut listed = self.apart.enter(&actor.crew, ActorState::Retiring);
        tokio::select! {
            () = retire(&actor.crew, limit) => {}
            () = listed.is_to_end() => end(&actor.crew, self.manager.kill_grace()).await,
        }
    }

    /// Ends the actor called `key`, whether calls find it, it is being built or it is on its
    /// way out.
    pub async fn end_by_key(&self, key: &str) {
        if let Some(actor) = self.take(key) {
            self.end(actor).await;
        }
        self.apart.end(key).await;
    }

    /// The same, without waiting for it: the call at work is cut off.
    pub fn drop_by_key(&self, key: &str) {
        drop(self.take(key));
        self.apart.tell(key);
    }

    /// Opens the way of one call to the actor that it names.
    ///
    /// # Errors
    /// When there is no such actor here, or it has no such method.
    pub fn open_pool(&self, call: Arc<UdfCall>) -> Result<Arc<dyn UdfPool>, UdfError> {
        let named = call.spec.actor.as_ref().map(|method| method.actor.clone());
        self.open_member(&named.unwrap_or_default(), call)
    }

    /// As [`Self::open_pool`], to the actor called `actor`, which may be one of a pool.
    ///
    /// # Errors
    /// As [`Self::open_pool`].
    pub fn open_member(
        &self,
        actor: &str,
        call: Arc<UdfCall>,
    ) -> Result<Arc<dyn UdfPool>, UdfError> {
        let found = self.find(actor, &call)?;
        let order = CallOrder::try_new(call)?;
        Ok(Arc::new(HostedPool::new(Arc::clone(&found.crew), order)))
    }

    /// As [`Self::open_member`], for who calls it by key as `generation`, from `snapshot` on,
    /// and hears of later states: it has the actor's state from here on. `None` to who is too
    /// late.
    ///
    /// # Errors
    /// As [`Self::open_pool`].
    pub fn open_keyed(
        &self,
        actor: &str,
        call: Arc<UdfCall>,
        (generation, snapshot): (u64, Option<Buffer>),
    ) -> Result<Option<Arc<dyn UdfPool>>, UdfError> {
        let crew = Arc::clone(&self.find(actor, &call)?.crew);
        let order = CallOrder::try_new(call)?;
        let hosted = crew.hosted.as_ref();
        let keeper = hosted.and_then(|hosted| hosted.begin(&crew, generation, snapshot));
        Ok(keeper
            .map(|keeper| -> Arc<dyn UdfPool> { Arc::new(HostedPool::keyed(crew, order, keeper)) }))
    }

    /// The actor called `actor`, if `call` is of one of its methods.
    fn find(&self, actor: &str, call: &UdfCall) -> Result<Arc<BuiltActor>, UdfError> {
        let (function, actor) = (call.spec.name.clone(), actor.to_owned());
        let found = self.actors.lock().get(&actor).cloned();
        let Some(found) = found else {
            let place = self.place.clone();
            return Err(UdfError::ActorElsewhere {
                function,
                actor,
                place,
            });
        };
        let same = |method: &FunctionSpec| {
            let call = &call.spec;
            (&method.name, &method.params, &method.actor) == (&call.name, &call.params, &call.actor)
                && method.is_table() == call.is_table()
        };
        if !found.spec.methods.iter().any(same) {
            return Err(UdfError::ActorChanged { function, actor });
        }
        Ok(found)
    }

    /// About how long a block of `query` would wait that comes now to the actor called
    /// `actor`; `None`: it is not here.
    pub fn wait_expected(&self, actor: &str, query: &str, priority: Priority) -> Option<Duration> {
        let found = self.actors.lock().get(actor).cloned()?;
        let turn = Turn::new(query, priority, found.spec.pool.is_some());
        Some(wait_expected(&found.crew, &turn))
    }

    /// The actors, by name, then those of pools and placed ones that no call finds: not yet,
    /// or not any more.
    pub fn list(&self) -> Vec<ActorInfo> {
        let actors: Vec<_> = self.actors.lock().values().cloned().collect();
        let hosted = actors.iter().filter_map(|actor| actor.crew.hosted.as_ref());
        hosted.map(Hosted::info).chain(self.apart.list()).collect()
    }

    /// How many there may be.
    pub fn actors_max(&self) -> usize {
        self.actors_max
    }

    /// Whether there is an actor called `key`.
    pub fn has(&self, key: &str) -> bool {
        self.actors.lock().contains_key(key)
    }

    /// What this process shares out.
    pub fn capacity(&self) -> &Capacity {
        self.manager.ledger().capacity()
    }

    /// What nobody has of it.
    pub fn free(&self) -> Free {
        self.manager.ledger().free()
    }

    /// Whether somebody waits for some of what one with `demand` takes of this process.
    pub fn is_waited_for(&self, demand: &Demand) -> bool {
        self.manager.ledger().is_wanted(demand)
    }

    /// The keys of all that have a process, or are to get one.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.actors.lock().keys().cloned().collect();
        names.extend(self.apart.names());
        names
    }

    /// Builds none of them again; who ends the workers ends those at work.
    pub fn shutdown(&self) {
        let all = std::mem::take(&mut *self.actors.lock());
        all.values().for_each(|actor| actor.crew.close());
        self.apart.close();
    }

    /// Whether there may be an actor named `name`, beside the others or instead of one.
    ///
    /// # Errors
    /// [`UdfError::ActorsMax`].
    pub fn check_room(&self, name: &str) -> Result<(), UdfError> {
        let actors = self.actors.lock();
        match actors.len() >= self.actors_max && !actors.contains_key(name) {
            true => Err(UdfError::ActorsMax {
                actor: name.to_owned(),
                actors: actors.len(),
            }),
            false => Ok(()),
        }
    }

    async fn claim(&self, spec: &ActorSpec) -> Result<Option<Claim>, UdfError> {
        if !spec.demand.takes_resources() {
            return Ok(None);
        }
        let manager = &self.manager;
        let limit = spec.init_timeout.unwrap_or(manager.init_timeout());
        let demands = vec![spec.demand.clone()];
        let claimed = manager.ledger().claim(&holder(spec), demands, limit).await;
        let (claim, _) = claimed.map_err(|_| UdfError::NoResources {
            function: spec.name.clone(),
            demand: spec.demand.to_string(),
            waited: limit,
        })?;
        Ok(Some(claim))
    }

    fn crew(&self, spec: &Arc<ActorSpec>) -> Arc<Crew> {
        let hosted = Hosted::new(Arc::clone(spec), Arc::clone(&self.states));
        let manager = Arc::clone(&self.manager);
        let takes = spec.demand.takes_resources();
        let share = takes.then(|| Share::new(&holder(spec), &spec.demand, 1));
        Crew::new(manager, Want::Named, share, Some(hosted), [1, 0])
    }
}

/// What lists of who has resources call it.
fn holder(spec: &ActorSpec) -> String {
    match spec.pool {
        Some(_) => format!("actor pool {}", spec.key()),
        None => format!("actor {}", spec.key()),
    }
}

fn kept(spec: Arc<ActorSpec>, crew: Arc<Crew>, claim: Option<Claim>) -> Arc<BuiltActor> {
    let keeper = spawn_named("actor-keeper", keep(Arc::clone(&crew)));
    Arc::new(BuiltActor {
        spec,
        crew,
        _keeper: keeper,
        _claim: claim,
    })
}
