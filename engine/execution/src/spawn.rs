//! The one place that spawns Tokio tasks: each has a name and an owner.
//!
//! The owner is the returned [`OwnedTask`]: dropping it aborts the task, so a
//! cancelled query or a stopped engine leaves nothing running.

use std::future::Future;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tracing::Instrument;

/// A running task that ends when its owner is dropped.
#[derive(Debug)]
pub struct OwnedTask<T>(JoinHandle<T>);

impl<T> OwnedTask<T> {
    /// Waits for the task. `None` when it panicked or was aborted.
    pub async fn join(mut self) -> Option<T> {
        (&mut self.0).await.ok()
    }

    /// True once the task has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Drop for OwnedTask<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Spawns `future` under a span called `name`, on the runtime of `handle`.
pub fn spawn_on<F>(handle: &Handle, name: &'static str, future: F) -> OwnedTask<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let span = tracing::debug_span!("task", name);
    OwnedTask(handle.spawn(future.instrument(span)))
}

/// Spawns `future` under a span called `name`.
pub fn spawn_named<F>(name: &'static str, future: F) -> OwnedTask<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let span = tracing::debug_span!("task", name);
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that may: it returns an owner"
    )]
    let handle = tokio::spawn(future.instrument(span));
    OwnedTask(handle)
}
