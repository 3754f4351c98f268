//! The functions users made, by name: those that all sessions of an engine share, and the
//! temporary ones of each session on top of them.
//!
//! Front ends insert and remove; planning reads. Names are as SQL normalises
//! them: lower case unless quoted. Holding the lock across an await is
//! impossible: no method returns a guard.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use mobula_udfs::{ActorSpec, FunctionSpec, Language, PoolBounds};

use crate::error::PlanError;
use crate::nearest;

/// Methods that an error lists.
const LISTED_MAX: usize = 20;

/// Functions by name.
#[derive(Debug, Default)]
pub struct FunctionCatalog {
    /// Those of all sessions; names that are here too mean what is here.
    shared: Option<Arc<FunctionCatalog>>,
    functions: RwLock<BTreeMap<String, Arc<FunctionSpec>>>,
    /// How many actors named pools have.
    pools: RwLock<BTreeMap<String, PoolBounds>>,
    version: AtomicU64,
}

impl FunctionCatalog {
    /// What one session sees: `shared`, and its own functions, which it sees before them.
    pub fn of_session(shared: Arc<FunctionCatalog>) -> Self {
        Self {
            shared: Some(shared),
            ..Self::default()
        }
    }

    /// A number that rises with every change: what was planned when it was lower may call
    /// functions that are others now. Read it before planning.
    pub fn version(&self) -> u64 {
        let shared = self.shared.as_ref().map_or(0, |shared| shared.version());
        shared + self.version.load(Ordering::Acquire)
    }

    /// The function named `name` that is in this catalog itself, not in the one below.
    pub fn own(&self, name: &str) -> Option<Arc<FunctionSpec>> {
        let functions = self
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        functions.get(name).cloned()
    }

    /// Changes what `change` says, and then the version.
    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Arc<FunctionSpec>>) -> T) -> T {
        let mut functions = self
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut functions);
        self.version.fetch_add(1, Ordering::Release);
        changed
    }

    /// Adds `spec` under its name; gives back the function it replaces.
    pub fn insert(&self, spec: Arc<FunctionSpec>) -> Option<Arc<FunctionSpec>> {
        self.change(|functions| functions.insert(spec.name.clone(), spec))
    }

    /// Adds the methods of an actor, instead of those it had.
    pub fn insert_actor(&self, actor: &ActorSpec) {
        self.change(|functions| {
            functions.retain(|_, spec| !is_of(spec, &actor.name));
            for method in &actor.methods {
                functions.insert(method.name.clone(), Arc::new(method.clone()));
            }
        });
        self.set_pool(&actor.name, actor.pool);
    }

    /// How many actors `actor` has from now on; `None`: it is one, or none.
    pub fn set_pool(&self, actor: &str, bounds: Option<PoolBounds>) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        match bounds {
            Some(bounds) => pools.insert(actor.to_owned(), bounds),
            None => pools.remove(actor),
        };
        self.version.fetch_add(1, Ordering::Release);
    }

    /// How many actors the pool called `actor` has; `None`: it is no pool.
    pub fn pool(&self, actor: &str) -> Option<PoolBounds> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        let own = pools.get(actor).copied();
        own.or_else(|| self.shared.as_ref()?.pool(actor))
    }

    /// How many actors the pool has that `spec` is a method of; `None`: it is of none.
    pub fn pool_of(&self, spec: &FunctionSpec) -> Option<PoolBounds> {
        let method = spec.actor.as_ref()?;
        self.pool(&method.actor)
    }

    /// Takes the methods of an actor out; whether there were any.
    pub fn remove_actor(&self, actor: &str) -> bool {
        let had_some = self.change(|functions| {
            let before = functions.len();
            functions.retain(|_, spec| !is_of(spec, actor));
            functions.len() < before
        });
        self.set_pool(actor, None);
        had_some
    }

    /// Whether `name` is that of an actor.
    pub fn is_actor(&self, name: &str) -> bool {
        self.get(name).is_some_and(|spec| is_of(&spec, name))
    }

    /// Takes the function named `name` out of this catalog itself.
    pub fn remove(&self, name: &str) -> Option<Arc<FunctionSpec>> {
        self.change(|functions| functions.remove(name))
    }

    /// The function named `name`.
    pub fn get(&self, name: &str) -> Option<Arc<FunctionSpec>> {
        self.own(name).or_else(|| self.shared.as_ref()?.get(name))
    }

    /// All functions, by name.
    pub fn list(&self) -> Vec<Arc<FunctionSpec>> {
        let mut all = self.shared.as_ref().map_or_else(Vec::new, |s| s.list());
        let own = self
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if !own.is_empty() {
            all.retain(|spec| !own.contains_key(&spec.name));
            all.extend(own.values().cloned());
            all.sort_by(|a, b| a.name.cmp(&b.name));
        }
        all
    }

    /// Whether the function named `name` is native: SQL cannot replace or drop it.
    pub fn is_native(&self, name: &str) -> bool {
        let found = self.get(name);
        found.is_some_and(|spec| spec.language == Language::Native)
    }

    /// The function named `name`.
    ///
    /// # Errors
    /// [`PlanError::UnknownFunction`] with the nearest names, or [`PlanError::NoMethod`]
    /// with those that the actor has.
    pub fn find(&self, name: &str) -> Result<Arc<FunctionSpec>, PlanError> {
        self.get(name).ok_or_else(|| {
            let all = self.list();
            if let Some((actor, method)) = name.split_once('.').filter(|(a, _)| self.is_actor(a)) {
                let own = all
                    .iter()
                    .filter(|spec| is_of(spec, actor) && spec.name != actor);
                let mut own: Vec<_> = own.map(|spec| spec.column_name()).collect();
                if own.len() > LISTED_MAX {
                    own.truncate(LISTED_MAX);
                    own.push("…");
                }
                let has = match own.is_empty() {
                    true => format!("It has none: {actor}(…) calls the actor itself"),
                    false => format!("Its methods are: {}", own.join(", ")),
                };
                return PlanError::NoMethod {
                    actor: actor.to_owned(),
                    method: method.to_owned(),
                    has,
                };
            }
            PlanError::UnknownFunction {
                function: name.to_owned(),
                hint: nearest::hint(name, all.iter().map(|spec| spec.name.as_str())),
            }
        })
    }
}

fn is_of(spec: &FunctionSpec, actor: &str) -> bool {
    let method = spec.actor.as_ref();
    method.is_some_and(|method| method.actor == actor)
}
