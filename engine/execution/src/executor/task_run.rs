//! One task of this process, from its plan's arrival until nobody reads its output any
//! more: when, how much went out, and how much came in from where.
//!
//! A task has an output for each partition that a reader asks for; it is over when all of
//! them are, or, if not all were asked for, when the query has ended. Readers are tasks
//! again, or the client. Counters are bumped without the lock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use arrow::record_batch::RecordBatch;
use datafusion::execution::TaskContext;
use mobula_plan::TaskEnd;
use mobula_proto::report::{TaskInputReport, TaskReport};
use parking_lot::Mutex;
use url::Url;

use super::tasks::TaskRuns;

/// Names a task among those of all queries.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskId {
    /// Of one attempt of a query.
    pub attempt_id: Vec<u8>,
    /// 0: the stage whose output the client reads.
    pub stage_id: u64,
    pub task_idx: u64,
}

impl TaskId {
    /// The one task of the last stage of query `query_id`.
    pub fn last_stage(query_id: &str) -> Self {
        Self {
            attempt_id: query_id.as_bytes().to_vec(),
            stage_id: 0,
            task_idx: 0,
        }
    }
}

/// What is known of a task when its plan arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskStart {
    pub id: TaskId,
    pub query_id: String,
    /// Of its stage.
    pub n_tasks: u64,
}

/// A task at work.
#[derive(Debug)]
pub struct TaskRun {
    start: TaskStart,
    plan_arrived_ms: i64,
    /// 0: not yet.
    first_input_ms: AtomicI64,
    rows_out: AtomicU64,
    bytes_out: AtomicU64,
    progress: Mutex<Progress>,
    /// Tells those at work for it.
    end: Arc<TaskEnd>,
    inputs: Mutex<BTreeMap<InputKey, Arc<AtomicU64>>>,
    runs: Weak<TaskRuns>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct InputKey {
    stage_id: u64,
    url: String,
    is_local: bool,
}

/// How an output ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputEnd {
    /// Read to its end.
    Read,
    Failed,
    /// Its reader went away before.
    Dropped,
}

#[derive(Debug, Default)]
struct Progress {
    started_ms: Option<i64>,
    finished_ms: Option<i64>,
    /// What all readers open together; `None` until one says so.
    n_outputs: Option<u64>,
    n_opened: u64,
    n_open: u64,
    has_failed: bool,
    was_dropped: bool,
    /// The query has ended.
    is_closed: bool,
}

impl Progress {
    fn open(&mut self, n_outputs: u64, now_ms: i64) {
        self.started_ms.get_or_insert(now_ms);
        if n_outputs > 0 {
            self.n_outputs = Some(n_outputs);
        }
        self.n_opened += 1;
        self.n_open += 1;
    }

    fn end(&mut self, how: OutputEnd) {
        self.n_open = self.n_open.saturating_sub(1);
        match how {
            OutputEnd::Read => {}
            // Of a query that has ended, what fails is told nobody.
            OutputEnd::Failed if !self.is_closed => self.has_failed = true,
            OutputEnd::Failed | OutputEnd::Dropped => self.was_dropped = true,
        }
    }

    /// Whether all that was asked for has been.
    fn is_complete(&self) -> bool {
        self.n_outputs.is_some_and(|n| self.n_opened >= n)
    }

    /// True once: when it is over and was not before.
    fn finish(&mut self, now_ms: i64) -> bool {
        let is_over = self.n_open == 0 && (self.is_closed || self.is_complete());
        let is_new = is_over && self.finished_ms.is_none();
        if is_new {
            self.finished_ms = Some(now_ms);
        }
        is_new
    }

    fn state(&self) -> &'static str {
        match self.finished_ms {
            None => "running",
            Some(_) if self.has_failed => "failed",
            Some(_) if self.was_dropped || !self.is_complete() => "dropped",
            Some(_) => "finished",
        }
    }
}

impl TaskRun {
    pub(super) fn new(start: TaskStart, runs: Weak<TaskRuns>) -> Self {
        Self {
            start,
            plan_arrived_ms: now_ms(),
            first_input_ms: AtomicI64::new(0),
            rows_out: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            progress: Mutex::default(),
            end: Arc::default(),
            inputs: Mutex::default(),
            runs,
        }
    }

    /// The task that `context` belongs to, if it is listed.
    pub fn of(context: &TaskContext) -> Option<Arc<Self>> {
        context.session_config().get_extension::<Self>()
    }

    pub fn id(&self) -> &TaskId {
        &self.start.id
    }

    /// What its operators look at.
    pub fn end(&self) -> Arc<TaskEnd> {
        Arc::clone(&self.end)
    }

    /// One of `n_outputs` (0: unknown) was asked for.
    pub(super) fn output_opened(&self, n_outputs: u64) {
        self.progress.lock().open(n_outputs, now_ms());
    }

    pub(super) fn output_ended(&self, how: OutputEnd) {
        self.advance(|progress| progress.end(how));
    }

    pub(super) fn block_left(&self, block: &RecordBatch, bytes: u64) {
        let rows = block.num_rows() as u64;
        self.rows_out.fetch_add(rows, Ordering::Relaxed);
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    /// An output could not be opened.
    pub fn failed(&self) {
        self.advance(|progress| progress.has_failed = true);
    }

    /// There will be no output.
    pub fn failed_to_start(&self) {
        self.failed();
        self.close();
    }

    /// The query has ended: outputs that nobody has asked for will not be.
    pub fn close(&self) {
        self.advance(|progress| progress.is_closed = true);
        self.end.end();
    }

    fn advance(&self, change: impl FnOnce(&mut Progress)) {
        let is_over = {
            let mut progress = self.progress.lock();
            change(&mut progress);
            progress.finish(now_ms())
        };
        if !is_over {
            return;
        }
        self.end.end();
        // Not under the lock: the list looks at its tasks under its own.
        if let Some(runs) = self.runs.upgrade() {
            runs.ended(self);
        }
    }

    /// Counts what comes of stage `stage_id` from the process at `url`.
    pub fn input(self: &Arc<Self>, stage_id: u64, url: &Url, is_local: bool) -> InputMeter {
        let key = InputKey {
            stage_id,
            url: url.to_string(),
            is_local,
        };
        // Some plans read as soon as they are asked, before the answer.
        self.progress.lock().started_ms.get_or_insert(now_ms());
        InputMeter {
            bytes: Arc::clone(self.inputs.lock().entry(key).or_default()),
            run: Arc::clone(self),
        }
    }

    pub(super) fn report(&self) -> TaskReport {
        let progress = self.progress.lock();
        let first_input_ms = self.first_input_ms.load(Ordering::Relaxed);
        let inputs = self.inputs.lock();
        let inputs = inputs.iter().map(|(key, bytes)| TaskInputReport {
            stage_id: key.stage_id,
            url: key.url.clone(),
            is_local: key.is_local,
            bytes: bytes.load(Ordering::Relaxed),
        });
        TaskReport {
            query_id: self.start.query_id.clone(),
            stage_id: self.start.id.stage_id,
            task_idx: self.start.id.task_idx,
            n_tasks: self.start.n_tasks,
            state: progress.state().to_owned(),
            plan_arrived_ms: self.plan_arrived_ms,
            started_ms: progress.started_ms,
            first_input_ms: (first_input_ms != 0).then_some(first_input_ms),
            finished_ms: progress.finished_ms,
            rows_out: self.rows_out.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            inputs: inputs.collect(),
        }
    }
}

/// Counts what one task reads of one stage from one process.
#[derive(Debug, Clone)]
pub struct InputMeter {
    run: Arc<TaskRun>,
    bytes: Arc<AtomicU64>,
}

impl InputMeter {
    pub fn bytes_came(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn block_came(&self) {
        let first = &self.run.first_input_ms;
        if first.load(Ordering::Relaxed) == 0 {
            // Whoever is second leaves it as it is.
            let _ = first.compare_exchange(0, now_ms(), Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Milliseconds since 1970, UTC.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(n_outputs: u64, ends: &[OutputEnd]) -> Progress {
        let mut progress = Progress::default();
        for how in ends {
            progress.open(n_outputs, 1);
            progress.end(*how);
        }
        progress
    }

    #[test]
    fn it_is_over_when_all_outputs_are() {
        let mut progress = ended(2, &[OutputEnd::Read]);
        assert!(!progress.finish(5));
        assert_eq!(progress.state(), "running");
        progress.open(2, 6);
        assert!(!progress.finish(7));
        progress.end(OutputEnd::Read);
        assert!(progress.finish(8));
        assert_eq!(progress.state(), "finished");
        assert_eq!(
            (progress.started_ms, progress.finished_ms),
            (Some(1), Some(8))
        );
        // Once is enough.
        assert!(!progress.finish(9));
    }

    #[test]
    fn the_end_of_the_query_ends_what_nobody_asked_for() {
        let mut progress = ended(2, &[OutputEnd::Read]);
        progress.open(2, 3);
        progress.is_closed = true;
        // One is still read.
        assert!(!progress.finish(4));
        progress.end(OutputEnd::Read);
        assert!(progress.finish(5));
        assert_eq!(progress.state(), "finished");

        let mut never = Progress {
            is_closed: true,
            ..Progress::default()
        };
        assert!(never.finish(1));
        assert_eq!(never.state(), "dropped");
    }

    #[test]
    fn a_failure_counts_more_than_a_reader_that_went_away() {
        use OutputEnd::{Dropped, Failed, Read};
        for (ends, state) in [
            ([Read, Dropped], "dropped"),
            ([Failed, Read], "failed"),
            ([Dropped, Failed], "failed"),
        ] {
            let mut progress = ended(2, &ends);
            assert!(progress.finish(2));
            assert_eq!(progress.state(), state);
        }
        // How many there are is not known: only the query's end ends it.
        let mut unknown = ended(0, &[Read]);
        assert!(!unknown.finish(2));
    }
}
