//! What an operator sees of the process it runs in.
//!
//! Execs find the host in the session's extensions and ask it for worker
//! processes; they know neither processes nor executors. The engine implements
//! it, tests use one made of closures.

use std::fmt::Debug;
use std::sync::Arc;

use datafusion::common::{Result, internal_datafusion_err};
use datafusion::execution::TaskContext;
use mobula_udfs::{UdfCall, UdfError, UdfPool};

/// The process around a task.
pub trait TaskHost: Send + Sync + Debug {
    /// Opens the workers of one call in this task, at most `concurrency`.
    /// Starts none yet.
    ///
    /// # Errors
    /// What the worker manager refuses.
    fn open_pool(
        &self,
        call: Arc<UdfCall>,
        concurrency: usize,
    ) -> Result<Arc<dyn UdfPool>, UdfError>;

    /// How many of `total` workers, wanted over the whole cluster, this task
    /// gets; at least 1. In one process: all of them.
    fn task_share(&self, context: &TaskContext, total: usize) -> usize;
}

/// A [`TaskHost`] as an extension of DataFusion's session configuration.
#[derive(Debug, Clone)]
pub struct TaskHostHandle(pub Arc<dyn TaskHost>);

impl TaskHostHandle {
    /// The host of the task that `context` belongs to.
    ///
    /// # Errors
    /// An internal error when the session was built without one.
    pub fn of(context: &TaskContext) -> Result<Arc<dyn TaskHost>> {
        let handle = context.session_config().get_extension::<Self>();
        handle.map(|handle| Arc::clone(&handle.0)).ok_or_else(|| {
            internal_datafusion_err!(
                "this session has no TaskHost: build its SessionConfig with_extension(Arc::new(TaskHostHandle(..)))"
            )
        })
    }
}
