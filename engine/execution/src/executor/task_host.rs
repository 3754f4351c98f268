//! What operators see of the process they run in.

use std::sync::Arc;

use datafusion::execution::TaskContext;
use mobula_plan::TaskHost;
use mobula_udfs::{UdfCall, UdfError, UdfPool, WorkerManager};

use crate::base::worker::task_share;

/// Lends worker processes of one [`WorkerManager`] to tasks.
#[derive(Debug)]
pub struct ProcessTaskHost {
    workers: Arc<WorkerManager>,
}

impl ProcessTaskHost {
    pub fn new(workers: Arc<WorkerManager>) -> Self {
        Self { workers }
    }
}

impl TaskHost for ProcessTaskHost {
    fn open_pool(
        &self,
        call: Arc<UdfCall>,
        concurrency: usize,
    ) -> Result<Arc<dyn UdfPool>, UdfError> {
        self.workers.open_pool(call, concurrency)
    }

    fn task_share(&self, context: &TaskContext, total: usize) -> usize {
        task_share(context, total)
    }
}
