//! The workers of one exec in one task, shared by its partitions.
//!
//! The exec knows it weakly, the streams hold it: workers end when the last
//! stream has ended, even if the plan is kept for a while after the query. The
//! pool itself is opened at the first block, and told to the host. Its figures
//! become metrics whenever rows come out, and when it closes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, Time};
use mobula_udfs::{PoolStats, UdfCall, UdfError, UdfPool};
use tokio::sync::Semaphore;

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
    snapshots: Count,
    replayed: Count,
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
    /// What `metrics` have of the pool.
    told: Mutex<PoolStats>,
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
                snapshots: global("snapshots"),
                replayed: global("replayed"),
                workers_at_once: global("workers_at_once"),
            },
            told: Mutex::default(),
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

    /// Adds to the metrics what the pool has done since the last time. A stream does so
    /// with the rows it gives: under a LIMIT the pool's last owner may be a task that
    /// is cut off only after the metrics were read.
    pub fn tell(&self) {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = opened.as_ref() {
            self.tell_of(&opened.pool.stats());
        }
    }

    fn tell_of(&self, stats: &PoolStats) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = &self.metrics;
        let add = |to: &Count, of: fn(&PoolStats) -> u64| {
            to.add(of(stats).saturating_sub(of(&told)) as usize);
        };
        let add_time = |to: &Time, of: fn(&PoolStats) -> Duration| {
            let more = of(stats).saturating_sub(of(&told));
            // Nothing would be added as a nanosecond.
            if !more.is_zero() {
                to.add_duration(more);
            }
        };
        add_time(&metrics.user_time, |stats| stats.user_time);
        add_time(&metrics.transport_time, |stats| stats.transport_time);
        add(&metrics.workers_started, |stats| stats.workers_started);
        add(&metrics.bytes_to_workers, |stats| stats.bytes_in);
        add(&metrics.bytes_from_workers, |stats| stats.bytes_out);
        add(&metrics.bytes_shared, |stats| stats.bytes_shared);
        add(&metrics.slots_created, |stats| stats.slots_created);
        add(&metrics.blocks_ahead, |stats| stats.blocks_ahead);
        add(&metrics.retries, |stats| stats.retries);
        add(&metrics.snapshots, |stats| stats.snapshots);
        add(&metrics.replayed, |stats| stats.replayed);
        add(&metrics.workers_at_once, |stats| stats.workers_at_once);
        *told = *stats;
    }

    /// The rights to more calls in flight, which its partitions share. A partition's first
    /// call needs none, so that no partition can starve another; where each has its actor,
    /// it has a right of its own to one more.
    pub fn extra(&self) -> Arc<Semaphore> {
        match self.call.handling.keyed {
            Some(_) => Arc::new(Semaphore::new(1)),
            None => Arc::clone(&self.extra),
        }
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
            self.tell_of(&pool.stats());
        }
    }
}
