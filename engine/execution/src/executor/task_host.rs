//! What operators see of the process they run in.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::execution::TaskContext;
use mobula_plan::{FailedRows, QueryId, TaskHost};
use mobula_udfs::{UdfCall, UdfError, UdfPool, WorkerManager};

use crate::base::worker::task_share;
use crate::executor::failed_rows::FailedRowsLine;

/// Lends worker processes of one [`WorkerManager`] to tasks.
#[derive(Debug)]
pub struct ProcessTaskHost {
    workers: Arc<WorkerManager>,
    failed_rows: Arc<FailedRowsLine>,
}

impl ProcessTaskHost {
    pub fn new(workers: Arc<WorkerManager>, failed_rows: Arc<FailedRowsLine>) -> Self {
        Self {
            workers,
            failed_rows,
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
        self.workers.open_pool(call, concurrency)
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
