//! The functions users made, by name; shared by all sessions of an engine.
//!
//! Front ends insert and remove; planning reads. Names are as SQL normalises
//! them: lower case unless quoted. Holding the lock across an await is
//! impossible: no method returns a guard.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use mobula_udfs::{ActorSpec, FunctionSpec, Language};

use crate::error::PlanError;
use crate::nearest;

/// Methods that an error lists.
const LISTED_MAX: usize = 20;

/// Functions by name.
#[derive(Debug, Default)]
pub struct FunctionCatalog {
    functions: RwLock<BTreeMap<String, Arc<FunctionSpec>>>,
    version: AtomicU64,
}

impl FunctionCatalog {
    /// A number that rises with every change: what was planned when it was lower may call
    /// functions that are others now. Read it before planning.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
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
    }

    /// Takes the methods of an actor out; whether there were any.
    pub fn remove_actor(&self, actor: &str) -> bool {
        self.change(|functions| {
            let before = functions.len();
            functions.retain(|_, spec| !is_of(spec, actor));
            functions.len() < before
        })
    }

    /// Whether `name` is that of an actor.
    pub fn is_actor(&self, name: &str) -> bool {
        self.get(name).is_some_and(|spec| is_of(&spec, name))
    }

    /// Takes the function named `name` out.
    pub fn remove(&self, name: &str) -> Option<Arc<FunctionSpec>> {
        self.change(|functions| functions.remove(name))
    }

    /// The function named `name`.
    pub fn get(&self, name: &str) -> Option<Arc<FunctionSpec>> {
        let functions = self
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        functions.get(name).cloned()
    }

    /// All functions, by name.
    pub fn list(&self) -> Vec<Arc<FunctionSpec>> {
        let functions = self
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        functions.values().cloned().collect()
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
                return PlanError::NoMethod {
                    actor: actor.to_owned(),
                    method: method.to_owned(),
                    methods: own.join(", "),
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
