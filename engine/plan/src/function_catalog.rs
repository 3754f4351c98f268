//! The functions users made, by name; shared by all sessions of an engine.
//!
//! Front ends insert and remove; planning reads. Names are as SQL normalises
//! them: lower case unless quoted. Holding the lock across an await is
//! impossible: no method returns a guard.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use mobula_udfs::{FunctionSpec, Language};

use crate::error::PlanError;
use crate::nearest;

/// Functions by name.
#[derive(Debug, Default)]
pub struct FunctionCatalog {
    functions: RwLock<BTreeMap<String, Arc<FunctionSpec>>>,
}

impl FunctionCatalog {
    /// Adds `spec` under its name; gives back the function it replaces.
    pub fn insert(&self, spec: Arc<FunctionSpec>) -> Option<Arc<FunctionSpec>> {
        let mut functions = self
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        functions.insert(spec.name.clone(), spec)
    }

    /// Takes the function named `name` out.
    pub fn remove(&self, name: &str) -> Option<Arc<FunctionSpec>> {
        let mut functions = self
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        functions.remove(name)
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
    /// [`PlanError::UnknownFunction`], with the nearest names.
    pub fn find(&self, name: &str) -> Result<Arc<FunctionSpec>, PlanError> {
        self.get(name).ok_or_else(|| {
            let all = self.list();
            PlanError::UnknownFunction {
                function: name.to_owned(),
                hint: nearest::hint(name, all.iter().map(|spec| spec.name.as_str())),
            }
        })
    }
}
