//! The Python half of a worker, carried inside this program.
//!
//! No file has to be installed or found: `python -c` gets the bootstrap, which
//! reads the modules from its socket. They use only the standard library, pyarrow and,
//! where there is one, numpy. Used by `worker`.

use serde_json::json;

/// Given to `python -c`; understood by every Python 3.
pub(crate) const BOOTSTRAP: &str = include_str!("worker/bootstrap.py");

/// The modules in the order they are loaded; each may import those before it.
const MODULES: [(&str, &str); 23] = [
    ("slots", include_str!("worker/slots.py")),
    ("limits", include_str!("worker/limits.py")),
    ("failure", include_str!("worker/failure.py")),
    ("protocol", include_str!("worker/protocol.py")),
    ("ahead", include_str!("worker/ahead.py")),
    ("source", include_str!("worker/source.py")),
    ("methods", include_str!("worker/methods.py")),
    ("optional", include_str!("worker/optional.py")),
    ("arguments", include_str!("worker/arguments.py")),
    ("exact", include_str!("worker/exact.py")),
    ("views", include_str!("worker/views.py")),
    ("leaves", include_str!("worker/leaves.py")),
    ("results", include_str!("worker/results.py")),
    ("retry", include_str!("worker/retry.py")),
    ("context", include_str!("worker/context.py")),
    ("given", include_str!("worker/given.py")),
    ("rows", include_str!("worker/rows.py")),
    ("isolation", include_str!("worker/isolation.py")),
    ("overlap", include_str!("worker/overlap.py")),
    ("chain", include_str!("worker/chain.py")),
    ("state", include_str!("worker/state.py")),
    ("serve", include_str!("worker/serve.py")),
    ("zygote", include_str!("worker/zygote.py")),
];

/// What a started Python is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    Worker,
    /// Forks workers.
    Zygote,
}

impl Role {
    /// The module that serves it.
    pub(crate) fn module(self) -> &'static str {
        match self {
            Self::Worker => "serve",
            Self::Zygote => "zygote",
        }
    }
}

/// What a worker reads first: a 4-byte length, then the modules as JSON.
pub(crate) fn modules() -> Vec<u8> {
    let modules: Vec<_> = MODULES
        .iter()
        .map(|(name, source)| json!([name, source]))
        .collect();
    let modules = json!(modules).to_string();
    let length = u32::try_from(modules.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(modules.as_bytes());
    bytes
}
