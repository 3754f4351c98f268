//! The workers of one exec in one task, shared by its partitions.
//!
//! The exec knows it weakly, the streams hold it: workers end when the last
//! stream has ended, even if the plan is kept for a while after the query. The
//! pool itself is opened at the first block, and told to the host. Its figures
//! become metrics when it closes.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, Time};
use mobula_udfs::{UdfCall, UdfError, UdfPool};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::failures::Failures;
use crate::operator_run::{OperatorId, OperatorRun, RunMetrics};
use crate::task_host::{PlacedPool, TaskHost};

/// Metrics of the pool as a whole.
#[derive(Debug)]
struct PoolMetrics {
    user_time: Time,
    transport_time: Time,
    workers_started: Count,
    bytes_to_workers: Count,
    bytes_from_workers: Count,
    bytes_shared: Count,
    slots_created: Count,
    blocks_ahead: Count,
    retries: Count,
    workers_at_once: Count,
}

/// A pool that opens when first needed.
#[derive(Debug)]
pub(super) struct SharedPool {
    host: Arc<dyn TaskHost>,
    call: Arc<UdfCall>,
    workers: usize,
    /// Where its actors are, if they are not this task's.
    placed: Option<Arc<PlacedPool>>,
    opened: Mutex<Option<Opened>>,
    /// Calls that partitions may have in flight beyond their first.
    extra: Arc<Semaphore>,
    failures: Failures,
    metrics: PoolMetrics,
    id: OperatorId,
    run_metrics: RunMetrics,
}

#[derive(Debug)]
struct Opened {
    pool: Arc<dyn UdfPool>,
    /// What the host knows of it.
    run: Arc<OperatorRun>,
}

impl SharedPool {
    /// A pool of at most `workers` (at least 1), each with up to `open` blocks.
    pub fn new(
        host: Arc<dyn TaskHost>,
        context: Arc<TaskContext>,
        call: Arc<UdfCall>,
        workers: usize,
        open: usize,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Self {
        let workers = workers.max(1);
        let global = |name: &'static str| MetricBuilder::new(metrics).global_counter(name);
        let time = |name: &'static str| MetricBuilder::new(metrics).subset_time(name, 0);
        let (id, run_metrics) = (
            OperatorId::of(&context, &call),
            RunMetrics::from_now(metrics),
        );
        let failures = Failures::new(Arc::clone(&host), context, Arc::clone(&call), metrics);
        Self {
            failures,
            host,
            call,
            workers,
            placed: None,
            opened: Mutex::new(None),
            // One is a partition's own.
            extra: Arc::new(Semaphore::new(workers.saturating_mul(open.max(1)) - 1)),
            metrics: PoolMetrics {
                user_time: time("user_time"),
                transport_time: time("transport_time"),
                workers_started: global("workers_started"),
                bytes_to_workers: global("bytes_to_workers"),
                bytes_from_workers: global("bytes_from_workers"),
                bytes_shared: global("bytes_shared"),
                slots_created: global("slots_created"),
                blocks_ahead: global("blocks_ahead"),
                retries: global("retries"),
                workers_at_once: global("workers_at_once"),
            },
            id,
            run_metrics,
        }
    }

    /// On actors that are placed already.
    pub fn with_placed(mut self, placed: Option<Arc<PlacedPool>>) -> Self {
        self.placed = placed;
        self
    }

    /// The pool, opened now if it was not.
    ///
    /// # Errors
    /// What the host refuses.
    pub fn pool(&self) -> Result<Arc<dyn UdfPool>, UdfError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = opened.as_ref() {
            return Ok(Arc::clone(&opened.pool));
        }
        let call = Arc::clone(&self.call);
        let pool = match &self.placed {
            Some(placed) => self.host.open_placed_pool(call, placed)?,
            None => self.host.open_pool(call, self.workers)?,
        };
        let run = OperatorRun::new(self.id.clone(), &pool, self.run_metrics.clone());
        let run = Arc::new(run);
        self.host.operator_started(&run);
        *opened = Some(Opened {
            pool: Arc::clone(&pool),
            run,
        });
        Ok(pool)
    }

    /// How many small blocks should go together now; at least 1.
    pub fn train(&self) -> usize {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.as_ref().map_or(1, |opened| opened.pool.train())
    }

    /// The call, as this task makes it.
    pub fn call(&self) -> &UdfCall {
        &self.call
    }

    /// Where failed rows go.
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    /// The right to one more call in flight, if there is one. A partition's
    /// first call needs none, so that no partition can starve another.
    pub fn extra_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.extra).try_acquire_owned().ok()
    }
}

impl Drop for SharedPool {
    fn drop(&mut self) {
        let opened = self
            .opened
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(Opened { pool, run }) = opened.take() {
            self.host.operator_ended(&run);
            let stats = pool.stats();
            self.metrics.user_time.add_duration(stats.user_time);
            self.metrics
                .transport_time
                .add_duration(stats.transport_time);
            self.metrics
                .workers_started
                .add(stats.workers_started as usize);
            self.metrics.bytes_to_workers.add(stats.bytes_in as usize);
            self.metrics
                .bytes_from_workers
                .add(stats.bytes_out as usize);
            self.metrics.bytes_shared.add(stats.bytes_shared as usize);
            self.metrics.slots_created.add(stats.slots_created as usize);
            self.metrics.blocks_ahead.add(stats.blocks_ahead as usize);
            self.metrics.retries.add(stats.retries as usize);
            self.metrics
                .workers_at_once
                .add(stats.workers_at_once as usize);
        }
    }
}
