//! What operators see of the process they run in.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::execution::TaskContext;
use mobula_plan::{FailedRows, QueryId, TaskHost};
use mobula_udfs::{Language, NativeFunctions, UdfCall, UdfError, UdfPool, WorkerManager};

use crate::base::worker::task_share;
use crate::executor::failed_rows::FailedRowsLine;

/// Lends worker processes of one [`WorkerManager`] to tasks, and threads for the
/// native functions of this program.
#[derive(Debug)]
pub struct ProcessTaskHost {
    workers: Arc<WorkerManager>,
    failed_rows: Arc<FailedRowsLine>,
    native: NativeFunctions,
    executor_id: String,
}

impl ProcessTaskHost {
    pub fn new(
        workers: Arc<WorkerManager>,
        failed_rows: Arc<FailedRowsLine>,
        native: NativeFunctions,
        executor_id: &str,
    ) -> Self {
        Self {
            workers,
            failed_rows,
            native,
            executor_id: executor_id.to_owned(),
        }
    }
}

#[async_trait]
impl TaskHost for ProcessTaskHost {
    fn open_pool(
        &self,
        call: Arc<UdfCall>,
        concurrency: usize,
    ) -> Result<Arc<dyn UdfPool>, UdfError> {
        match call.spec.language {
            Language::Python => self.workers.open_pool(call, concurrency),
            Language::Native => self.native.open_pool(call, concurrency, &self.executor_id),
        }
    }

    fn task_share(&self, context: &TaskContext, total: usize) -> usize {
        task_share(context, total)
    }

    async fn report_failed_rows(
        &self,
        context: &TaskContext,
        failed: FailedRows,
    ) -> Result<u64, UdfError> {
        self.failed_rows.report(QueryId::of(context), failed).await
    }
}
