//! The operators of this process that call user code: those at work, and the last
//! ones that have ended.
//!
//! Those at work are known weakly, through [`OperatorRun`]; each holds its workers
//! until [`OperatorRuns::ended`] returns, so a look at them never has the last hold
//! of a worker. They are as many as tasks hold open; those that ended are bounded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mobula_plan::{OperatorFigures, OperatorRun};
use mobula_proto::report::OperatorReport;
use parking_lot::Mutex;

/// What `system.operators` knows of this process.
#[derive(Debug)]
pub struct OperatorRuns {
    kept: usize,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    running: Vec<Running>,
    /// The oldest first.
    ended: VecDeque<OperatorReport>,
}

#[derive(Debug)]
struct Running {
    run: Arc<OperatorRun>,
    started: SystemTime,
    since: Instant,
}

impl OperatorRuns {
    /// Keeps the last `kept` that ended.
    pub fn new(kept: usize) -> Self {
        Self {
            kept,
            list: Mutex::default(),
        }
    }

    /// Lists `run` as running.
    pub fn started(&self, run: &Arc<OperatorRun>) {
        self.list.lock().running.push(Running {
            run: Arc::clone(run),
            started: SystemTime::now(),
            since: Instant::now(),
        });
    }

    /// Lists `run` as ended, with its last figures.
    pub fn ended(&self, run: &Arc<OperatorRun>) {
        let mut list = self.list.lock();
        let at = list.running.iter().position(|r| Arc::ptr_eq(&r.run, run));
        let Some(running) = at.map(|at| list.running.remove(at)) else {
            return;
        };
        list.ended.extend(running.report(false));
        let too_many = list.ended.len().saturating_sub(self.kept);
        list.ended.drain(..too_many);
    }

    /// All of them: each once, those that ended first.
    pub fn list(&self) -> Vec<OperatorReport> {
        let list = self.list.lock();
        let running = list.running.iter().filter_map(|r| r.report(true));
        list.ended.iter().cloned().chain(running).collect()
    }
}

impl Running {
    /// `None` when its workers are gone.
    fn report(&self, is_running: bool) -> Option<OperatorReport> {
        let OperatorFigures { pool, streams } = self.run.figures()?;
        let id = &self.run.id;
        let started = self.started.duration_since(SystemTime::UNIX_EPOCH);
        Some(OperatorReport {
            query_id: id.query_id.clone(),
            operator: id.operator.to_owned(),
            function: id.function.clone(),
            is_running,
            started_ms: started.map_or(0, |since| since.as_millis() as i64),
            elapsed_ms: ms(self.since.elapsed()),
            concurrency: self.run.concurrency as u64,
            workers_at_once: pool.workers_at_once,
            workers_started: pool.workers_started,
            calls: pool.calls,
            rows_in: pool.rows_in,
            rows_out: pool.rows_out,
            failed_rows: streams.failed_rows,
            bytes_in: pool.bytes_in,
            bytes_out: pool.bytes_out,
            bytes_shared: pool.bytes_shared,
            user_ms: ms(pool.user_time),
            transport_ms: ms(pool.transport_time),
            wait_input_ms: ms(streams.wait_input),
            wait_workers_ms: ms(streams.wait_workers),
            wait_downstream_ms: ms(streams.wait_downstream),
            retries: pool.retries,
        })
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::RecordBatch;
    use async_trait::async_trait;
    use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder};
    use mobula_plan::{OperatorId, RunMetrics};
    use mobula_udfs::{AnswerStream, PoolStats, UdfError, UdfPool};

    #[derive(Debug)]
    struct FakePool {
        calls: u64,
    }

    #[async_trait]
    impl UdfPool for FakePool {
        async fn call(&self, _block: RecordBatch) -> Result<AnswerStream, UdfError> {
            unreachable!("nobody calls it")
        }

        fn concurrency(&self) -> usize {
            3
        }

        fn stats(&self) -> PoolStats {
            PoolStats {
                calls: self.calls,
                user_time: Duration::from_millis(7),
                ..PoolStats::default()
            }
        }
    }

    fn pool(calls: u64) -> Arc<dyn UdfPool> {
        Arc::new(FakePool { calls })
    }

    fn run(pool: &Arc<dyn UdfPool>, metrics: &ExecutionPlanMetricsSet) -> Arc<OperatorRun> {
        let id = OperatorId {
            query_id: "q".into(),
            operator: "map",
            function: "f".into(),
        };
        Arc::new(OperatorRun::new(id, pool, RunMetrics::from_now(metrics)))
    }

    fn calls_and_states(runs: &OperatorRuns) -> Vec<(u64, bool)> {
        let list = runs.list().into_iter();
        list.map(|report| (report.calls, report.is_running))
            .collect()
    }

    #[test]
    fn one_at_work_is_listed_until_it_ends_and_then_with_its_last_figures() {
        let (runs, metrics) = (OperatorRuns::new(10), ExecutionPlanMetricsSet::new());
        let wait = MetricBuilder::new(&metrics).subset_time("wait_input", 0);
        // Of an earlier run of the same exec.
        wait.add_duration(Duration::from_millis(100));
        let pool = pool(5);
        let run = run(&pool, &metrics);
        runs.started(&run);
        wait.add_duration(Duration::from_millis(11));
        let failed = MetricBuilder::new(&metrics).global_counter("rows_failed");
        failed.add(2);
        assert_eq!(calls_and_states(&runs), [(5, true)]);
        runs.ended(&run);
        drop(pool);
        assert_eq!(calls_and_states(&runs), [(5, false)]);
        let report = runs.list().remove(0);
        assert_eq!((report.user_ms, report.wait_input_ms), (7, 11));
        assert_eq!((report.failed_rows, report.concurrency), (2, 3));
        // Once is enough.
        runs.ended(&run);
        assert_eq!(runs.list().len(), 1);
    }

    #[test]
    fn no_pool_lives_on_for_being_listed() {
        let (runs, metrics) = (OperatorRuns::new(10), ExecutionPlanMetricsSet::new());
        let pool = pool(1);
        runs.started(&run(&pool, &metrics));
        assert_eq!(Arc::strong_count(&pool), 1);
        drop(pool);
        assert_eq!(calls_and_states(&runs), []);
    }

    #[test]
    fn of_those_that_ended_the_last_are_kept() {
        let metrics = ExecutionPlanMetricsSet::new();
        for kept in [0, 2] {
            let runs = OperatorRuns::new(kept);
            let at_work = pool(9);
            runs.started(&run(&at_work, &metrics));
            for calls in 1..=5 {
                let pool = pool(calls);
                let run = run(&pool, &metrics);
                runs.started(&run);
                runs.ended(&run);
            }
            let expected: &[(u64, bool)] = match kept {
                0 => &[(9, true)],
                _ => &[(4, false), (5, false), (9, true)],
            };
            assert_eq!(calls_and_states(&runs), expected);
        }
    }
}
