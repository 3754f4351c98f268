//! The native functions of one program.
//!
//! Filled before an engine or an executor starts, and fixed from then on. A plan
//! carries the whole declaration; an executor opens the function only if its own
//! program declares it alike, so that programs of two builds are told apart.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::NativeFunction;
use super::pool::{NativePool, Threads};
use crate::call::UdfCall;
use crate::error::UdfError;
use crate::pool::UdfPool;
use crate::resources::Ledger;
use crate::spec::{FunctionSpec, Language, ParamKind};

/// Native functions by name.
#[derive(Clone, Default)]
pub struct NativeFunctions {
    functions: BTreeMap<String, Registered>,
}

#[derive(Clone)]
struct Registered {
    spec: Arc<FunctionSpec>,
    code: Arc<dyn NativeFunction>,
}

impl NativeFunctions {
    /// Adds `function`. SQL finds it under its name as it stands: one with capital
    /// letters must be quoted there.
    ///
    /// # Errors
    /// [`UdfError::NativeDeclaration`] for a name that is taken and for a
    /// declaration that makes no sense.
    pub fn insert(&mut self, function: impl NativeFunction) -> Result<(), UdfError> {
        let spec = function.spec();
        let refused = |problem: String| UdfError::NativeDeclaration {
            function: spec.name.clone(),
            problem,
        };
        if let Some(problem) = problem_of(&spec) {
            return Err(refused(problem));
        }
        if self.functions.contains_key(&spec.name) {
            return Err(refused("there is one of this name already".into()));
        }
        spec.encode()?;
        let name = spec.name.clone();
        let registered = Registered {
            spec: Arc::new(spec),
            code: Arc::new(function),
        };
        self.functions.insert(name, registered);
        Ok(())
    }

    /// The declarations, by name.
    pub fn specs(&self) -> impl Iterator<Item = &Arc<FunctionSpec>> {
        self.functions.values().map(|registered| &registered.spec)
    }

    /// The workers of one call, at most `concurrency` (at least 1) threads, which start
    /// when blocks come and get what they ask for of `ledger`. `executor` is this process,
    /// for errors.
    ///
    /// # Errors
    /// When this program lacks the function, or declares it otherwise.
    pub fn threads(
        &self,
        call: Arc<UdfCall>,
        concurrency: usize,
        executor: &str,
        ledger: &Arc<Ledger>,
    ) -> Result<NativeThreads, UdfError> {
        let (function, executor) = (call.spec.name.clone(), executor.to_owned());
        let Some(registered) = self.functions.get(&function) else {
            return Err(UdfError::NativeMissing { function, executor });
        };
        // What a call may say otherwise is the call's.
        let declared = FunctionSpec {
            volatility: call.spec.volatility,
            strict: call.spec.strict,
            ..registered.spec.as_ref().clone()
        };
        if declared != *call.spec {
            return Err(UdfError::NativeDiffers { function, executor });
        }
        if !call.spec.object.is_class() && !call.args.is_empty() {
            return Err(UdfError::ConstructorArguments { function });
        }
        let code = Arc::clone(&registered.code);
        let threads = Threads::new(call, code, concurrency, ledger);
        Ok(NativeThreads(Arc::new(threads)))
    }
}

/// The threads of one call; they end when this and all ways to them are gone.
pub struct NativeThreads(Arc<Threads>);

impl NativeThreads {
    /// A way to them, with a count of its own.
    pub fn open(&self) -> Arc<dyn UdfPool> {
        Arc::new(NativePool::to(&self.0))
    }
}

impl fmt::Debug for NativeThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NativeThreads").field(&self.open()).finish()
    }
}

impl fmt::Debug for NativeFunctions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.functions.keys()).finish()
    }
}

/// What is wrong with a declaration, as CREATE FUNCTION would say of a Python one.
fn problem_of(spec: &FunctionSpec) -> Option<String> {
    let tables = spec.params.iter().filter(|p| p.kind == ParamKind::Table);
    let tables = tables.count();
    let mut seen = HashSet::new();
    let twice = spec.params.iter().find(|p| !seen.insert(&p.name));
    if spec.language != Language::Native {
        return Some("its language is not native".into());
    }
    if spec.name.is_empty() {
        return Some("it has no name".into());
    }
    if let Some(param) = twice {
        return Some(format!("it has two parameters \"{}\"", param.name));
    }
    if tables > 0 && spec.params.len() > 1 {
        return Some("a TABLE parameter must be the only one".into());
    }
    if spec.is_table() && tables == 0 {
        return Some("it returns a table, so its parameter must be a TABLE".into());
    }
    if spec.strict && spec.is_table() {
        return Some("STRICT has no meaning for a TABLE parameter".into());
    }
    let counts = [spec.defaults.batch_size, spec.defaults.concurrency];
    if counts.contains(&Some(0)) {
        return Some("batch_size and concurrency must be at least 1".into());
    }
    if spec.defaults.demand.memory_bytes.is_some() {
        return Some("it asks for memory, but its threads share that of their process".into());
    }
    spec.defaults.batch_format.map(|format| {
        format!("it has batch_format '{format}', but native functions get Arrow arrays")
    })
}
