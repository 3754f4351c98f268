//! The workers of one exec in one task, shared by its partitions.
//!
//! The exec knows it weakly, the streams hold it: workers end when the last
//! stream has ended, even if the plan is kept for a while after the query. The
//! pool itself is opened at the first block, and told to the host. Its figures
//! become metrics whenever rows come out, and when it closes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, Time};
use mobula_udfs::{PoolStats, UdfCall, UdfError, UdfPool};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::block_memory::{BlockMemory, BlockSize, Room};
use super::block_queue::Block;
use super::exec::ExecShape;
use super::failures::Failures;
use super::pace::Pace;
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
    /// Workers that `extra` has permits for, so many each.
    permitted: AtomicUsize,
    open: usize,
    failures: Failures,
    /// Where blocks on their way are counted.
    memory: Option<Arc<BlockMemory>>,
    /// How large blocks should be, where others wait for the same actor.
    pace: Option<Mutex<Pace>>,
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
            memory: None,
            pace: None,
            opened: Mutex::new(None),
            // One is a partition's own.
            extra: Arc::new(Semaphore::new(workers.saturating_mul(open.max(1)) - 1)),
            permitted: AtomicUsize::new(workers),
            open: open.max(1),
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

    /// With blocks that are counted in `memory`, if there is a limit.
    pub fn with_memory(mut self, memory: Option<Arc<BlockMemory>>) -> Self {
        self.memory = memory;
        self
    }

    /// With blocks that take about `aim`, if given.
    pub fn with_pace(mut self, aim: Option<Duration>) -> Self {
        self.pace = aim.map(|aim| Mutex::new(Pace::new(aim)));
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

    /// Whether blocks on their way are counted.
    pub fn counts_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// How large `blocks` are, as far as it matters.
    pub fn size_of(&self, blocks: &[Block], shape: &ExecShape) -> BlockSize {
        match &self.memory {
            Some(_) => BlockSize::of(blocks, shape),
            None => BlockSize::default(),
        }
    }

    /// Room for blocks of `size`; `None`: they have to wait for others, unless they `must` go.
    pub fn room(&self, size: BlockSize, must: bool) -> Option<Room> {
        match &self.memory {
            Some(memory) => memory.room(size, must),
            None => Some(Room::default()),
        }
    }

    /// How many small blocks should go together now; at least 1.
    pub fn train(&self) -> usize {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.as_ref().map_or(1, |opened| opened.pool.train())
    }

    /// Most rows that the next block should have, where that depends on what they take.
    pub fn block_rows(&self) -> Option<usize> {
        let pace = self.pace.as_ref()?;
        Some(pace.lock().unwrap_or_else(PoisonError::into_inner).rows())
    }

    /// A call with so many rows is through.
    pub fn note_rows(&self, rows: usize) {
        let Some(pace) = &self.pace else {
            return;
        };
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let time = opened.as_ref().map(|opened| opened.pool.stats().user_time);
        drop(opened);
        let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.note(rows, time.unwrap_or_default());
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

    /// The right to one more call in flight, if there is one, which its partitions share. A
    /// partition's first call needs none, so that no partition can starve another.
    pub fn extra_permit(&self) -> Option<OwnedSemaphorePermit> {
        if self.placed.is_some() {
            self.permit_more();
        }
        Arc::clone(&self.extra).try_acquire_owned().ok()
    }

    /// Of a keyed call, where each partition has its actor: its own right to one more.
    pub fn own_extra(&self) -> Option<Arc<Semaphore>> {
        let keyed = self.call.handling.keyed.as_ref();
        keyed.map(|_| Arc::new(Semaphore::new(1)))
    }

    /// The actors of a named pool may have become more. Permits of those that go stay: the
    /// pool itself lets blocks wait.
    fn permit_more(&self) {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(workers) = opened.as_ref().map(|opened| opened.pool.concurrency()) else {
            return;
        };
        let before = self.permitted.fetch_max(workers, Ordering::Relaxed);
        if let Some(more) = workers.checked_sub(before) {
            self.extra.add_permits(more.saturating_mul(self.open));
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
