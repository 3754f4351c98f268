//! The one place of this crate that starts Tokio tasks: named, and owned or short.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::Instrument;

/// A running task that ends with its owner.
#[derive(Debug)]
pub(crate) struct OwnedTask(JoinHandle<()>);

impl OwnedTask {
    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `task`, which is short, to its end, whoever waits for it or not.
pub(crate) fn spawn_detached<T: Send + 'static>(
    name: &'static str,
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let task = task.instrument(tracing::debug_span!("task", name));
    #[expect(clippy::disallowed_methods, reason = "as below")]
    tokio::spawn(task)
}

/// Runs `task` on the current Tokio runtime until it ends or its owner drops it.
pub(crate) fn spawn_named(
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) -> OwnedTask {
    let task = task.instrument(tracing::debug_span!("task", name));
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    OwnedTask(tokio::spawn(task))
}
