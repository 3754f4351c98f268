//! The threads that move bytes between processes, apart from those that run queries.
//!
//! A plan may hold a thread of the main runtime for seconds, and all of them at once. A
//! connection that waits for such a thread answers no ping and hears no answer to its own:
//! one of the two processes takes the other for dead. So connections, those made here and
//! those accepted, live on a small runtime of their own. Nothing is computed there: calls are
//! handed over to the main one (`hand_over`), but for the signs of life of executors.
//!
//! Started with the first connection: an embedded engine has none of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::ExecutionError;

/// See the head of this file; ends, with all connections, when dropped.
#[derive(Debug)]
pub struct ExchangeThreads {
    count: usize,
    runtime: Mutex<Option<Runtime>>,
}

/// Spawns what hyper has to do for a connection; the runtime owns it.
#[derive(Debug, Clone)]
pub struct Connections(Handle);

impl ExchangeThreads {
    /// `count` of them, at least one, not started yet.
    pub fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            count: count.max(1),
            runtime: Mutex::default(),
        })
    }

    /// Where to spawn what moves bytes.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn handle(&self) -> Result<Handle, ExecutionError> {
        let mut runtime = self.runtime.lock();
        if let Some(runtime) = &*runtime {
            return Ok(runtime.handle().clone());
        }
        let started = Builder::new_multi_thread()
            .worker_threads(self.count)
            .thread_name("mobula-exchange")
            .enable_all()
            .build()
            .map_err(|source| ExecutionError::Thread { source })?;
        let handle = started.handle().clone();
        *runtime = Some(started);
        Ok(handle)
    }

    /// The same for hyper.
    ///
    /// # Errors
    /// As of [`Self::handle`].
    pub fn connections(&self) -> Result<Connections, ExecutionError> {
        self.handle().map(Connections)
    }
}

impl Drop for ExchangeThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.lock().take() {
            // Whoever drops this may be a task, which must not wait for others.
            runtime.shutdown_background();
        }
    }
}

impl hyper::rt::Executor<Pin<Box<dyn Future<Output = ()> + Send>>> for Connections {
    fn execute(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(future);
    }
}
