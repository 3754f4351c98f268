//! The actors of one call of a query, for all its tasks: a crew that many ways lead to.
//!
//! A task's own pool ends its workers with the task. This one is held by who started it,
//! and each task, in whatever process, opens a way to it with a count of its own. Blocks
//! of all of them stand in one line, so that whichever actor comes free takes the next.

use std::sync::Arc;

use crate::call::UdfCall;
use crate::crew::Crew;
use crate::error::UdfError;
use crate::manager::WorkerManager;
use crate::order::CallOrder;
use crate::pool::UdfPool;
use crate::process_pool::ProcessPool;

/// The actors of one call. Dropped, it ends them, those at work when they are through;
/// blocks in line are refused, with [`UdfError::PoolGone`].
#[derive(Debug)]
pub struct ActorPool {
    crew: Arc<Crew>,
    call: Arc<UdfCall>,
    actors: usize,
}

impl ActorPool {
    /// At first `least` actors, at least 1, and up to `actors`; what these ask for is
    /// claimed by the call's query. They start when blocks come.
    ///
    /// # Errors
    /// When the call makes no sense, or asks for more than there is.
    pub fn try_new(
        manager: &Arc<WorkerManager>,
        call: Arc<UdfCall>,
        [least, actors]: [usize; 2],
    ) -> Result<Self, UdfError> {
        manager.check_call(&call)?;
        let actors = actors.max(1);
        let bounds = [least.clamp(1, actors), actors];
        Ok(Self {
            crew: ProcessPool::crew(Arc::clone(manager), &call, bounds, actors),
            call,
            actors,
        })
    }

    /// A way to them, for one task.
    ///
    /// # Errors
    /// When a type of the call's schemas cannot cross to a worker.
    pub fn open(&self) -> Result<Arc<dyn UdfPool>, UdfError> {
        let order = CallOrder::try_new(Arc::clone(&self.call))?;
        let crew = Arc::clone(&self.crew);
        Ok(Arc::new(ProcessPool::on(crew, order, self.actors)))
    }

    /// The call that they are built for.
    pub fn call(&self) -> &UdfCall {
        &self.call
    }
}

impl Drop for ActorPool {
    fn drop(&mut self) {
        self.crew.dismiss();
    }
}
