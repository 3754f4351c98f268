//! What operators see of the process they run in.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::execution::TaskContext;
use mobula_plan::{FailedRows, KeptBlocks, OperatorRun, PlacedPool, QueryId, TaskHost};
use mobula_udfs::{
    ActorHost, Language, Ledger, NativeFunctions, UdfCall, UdfError, UdfPool, WorkerManager,
};

use crate::actor_calls::pool::ActorLine;
use crate::base::worker::{task_idx, task_lanes, task_share};
use crate::executor::failed_rows::FailedRowsLine;
use crate::executor::operators::OperatorRuns;
use crate::kept::KeptLine;
use crate::pool::dispatch::PoolLine;

/// Lends worker processes of one [`WorkerManager`] to tasks, threads for the native
/// functions of this program, and the way to named actors.
#[derive(Debug)]
pub struct ProcessTaskHost {
    pub workers: Arc<WorkerManager>,
    pub actors: Arc<ActorHost>,
    /// To those that live elsewhere.
    pub actor_line: Arc<ActorLine>,
    /// To the actors of queries.
    pub pool_line: Arc<PoolLine>,
    pub kept: Arc<KeptLine>,
    pub failed_rows: Arc<FailedRowsLine>,
    pub operators: Arc<OperatorRuns>,
    pub native: NativeFunctions,
    pub ledger: Arc<Ledger>,
    pub executor_id: String,
}

impl ProcessTaskHost {
    /// The way to a named actor where these live: in this process.
    fn open_here(&self, call: Arc<UdfCall>) -> Result<Arc<dyn UdfPool>, UdfError> {
        self.actors.open_pool(call).map_err(|error| match error {
            // It was here when the query was planned.
            UdfError::ActorElsewhere {
                function, actor, ..
            } => UdfError::ActorGone { function, actor },
            other => other,
        })
    }
}

#[async_trait]
impl TaskHost for ProcessTaskHost {
    fn open_pool(
        &self,
        call: Arc<UdfCall>,
        concurrency: usize,
    ) -> Result<Arc<dyn UdfPool>, UdfError> {
        if call.spec.is_method() {
            let elsewhere = self.actor_line.open_pool(&call);
            return elsewhere.map_or_else(|| self.open_here(call), Ok);
        }
        match call.spec.language {
            Language::Python => self.workers.open_pool(call, concurrency),
            Language::Native => {
                let (id, ledger) = (&self.executor_id, &self.ledger);
                // So many are claimed; more would wait for what may never be free.
                let takes = call.handling.demand.takes_resources();
                let claimed = call.handling.min_workers.filter(|_| takes);
                let threads = claimed.unwrap_or(concurrency);
                let threads = self.native.threads(call, threads, id, ledger)?;
                Ok(threads.open())
            }
        }
    }

    fn open_placed_pool(
        &self,
        call: Arc<UdfCall>,
        placed: &Arc<PlacedPool>,
    ) -> Result<Arc<dyn UdfPool>, UdfError> {
        self.pool_line.open(call, placed)
    }

    fn kept(&self) -> Option<Arc<dyn KeptBlocks>> {
        Some(Arc::clone(&self.kept) as _)
    }

    fn task_share(&self, context: &TaskContext, total: usize) -> usize {
        task_share(context, total)
    }

    fn task_idx(&self, context: &TaskContext) -> usize {
        task_idx(context)
    }

    fn task_lanes(&self, context: &TaskContext, total: usize) -> (usize, usize) {
        task_lanes(context, total)
    }

    fn operator_started(&self, run: &Arc<OperatorRun>) {
        self.operators.started(run);
    }

    fn operator_ended(&self, run: &Arc<OperatorRun>) {
        self.operators.ended(run);
    }

    async fn report_failed_rows(
        &self,
        context: &TaskContext,
        failed: FailedRows,
    ) -> Result<u64, UdfError> {
        self.failed_rows.report(QueryId::of(context), failed).await
    }
}
