//! An operator that calls user code, in one task, as its host may look at it.
//!
//! Made when the operator opens its workers. It knows them weakly: whoever keeps an
//! [`OperatorRun`] keeps no worker alive. Counts come from the pool, waits and failed
//! rows from the metrics of the exec; both are read when somebody asks.

use std::sync::{Arc, Weak};
use std::time::Duration;

use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricValue};
use mobula_udfs::{PoolStats, UdfCall, UdfPool};

use crate::operator::Operator;
use crate::task_host::QueryId;

/// Which operator of which query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorId {
    /// Empty where nobody has named the query.
    pub query_id: String,
    /// As in SQL.
    pub operator: &'static str,
    /// The function it calls, or several: `f, g`.
    pub function: String,
}

impl OperatorId {
    /// The operator that makes `call` in the task of `context`.
    pub fn of(context: &TaskContext, call: &UdfCall) -> Self {
        Self {
            query_id: QueryId::of(context),
            operator: Operator::of(call.mode).sql,
            function: call.function_names(),
        }
    }
}

/// What an operator has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OperatorFigures {
    pub pool: PoolStats,
    pub streams: StreamFigures,
}

/// What its streams have counted, summed over partitions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamFigures {
    pub failed_rows: u64,
    pub wait_input: Duration,
    pub wait_workers: Duration,
    pub wait_downstream: Duration,
}

/// The metrics of an exec, of which what was there before does not count: an exec
/// may be run more than once.
#[derive(Debug, Clone)]
pub struct RunMetrics {
    metrics: ExecutionPlanMetricsSet,
    before: StreamFigures,
}

impl RunMetrics {
    /// What `metrics` will count from now on.
    pub fn from_now(metrics: &ExecutionPlanMetricsSet) -> Self {
        Self {
            metrics: metrics.clone(),
            before: StreamFigures::of(metrics),
        }
    }

    fn figures(&self) -> StreamFigures {
        StreamFigures::of(&self.metrics).less(&self.before)
    }
}

impl StreamFigures {
    /// The names are those that `shared_pool`, `failures` and `stream` of
    /// `map_batches` give.
    fn of(metrics: &ExecutionPlanMetricsSet) -> Self {
        let mut figures = Self::default();
        for metric in metrics.clone_inner().iter() {
            match metric.value() {
                MetricValue::Count { name, count } if name == "rows_failed" => {
                    figures.failed_rows += count.value() as u64;
                }
                MetricValue::Time { name, time } => {
                    let total = match name.as_ref() {
                        "wait_input" => &mut figures.wait_input,
                        "wait_workers" => &mut figures.wait_workers,
                        "wait_downstream" => &mut figures.wait_downstream,
                        _ => continue,
                    };
                    *total += Duration::from_nanos(time.value() as u64);
                }
                _ => {}
            }
        }
        figures
    }

    fn less(self, before: &Self) -> Self {
        Self {
            failed_rows: self.failed_rows.saturating_sub(before.failed_rows),
            wait_input: self.wait_input.saturating_sub(before.wait_input),
            wait_workers: self.wait_workers.saturating_sub(before.wait_workers),
            wait_downstream: self.wait_downstream.saturating_sub(before.wait_downstream),
        }
    }
}

/// An operator at work in one task.
#[derive(Debug)]
pub struct OperatorRun {
    pub id: OperatorId,
    /// Most workers it may use.
    pub concurrency: usize,
    pool: Weak<dyn UdfPool>,
    metrics: RunMetrics,
}

impl OperatorRun {
    /// The operator `id` that has opened `pool`.
    pub fn new(id: OperatorId, pool: &Arc<dyn UdfPool>, metrics: RunMetrics) -> Self {
        Self {
            id,
            concurrency: pool.concurrency(),
            pool: Arc::downgrade(pool),
            metrics,
        }
    }

    /// What it has done so far; `None` once its workers are gone.
    pub fn figures(&self) -> Option<OperatorFigures> {
        let pool = self.pool.upgrade()?.stats();
        Some(OperatorFigures {
            pool,
            streams: self.metrics.figures(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::map_batches::map_batches_exec;
    use crate::test_session::{FakeHost, plan, session};
    use datafusion::physical_plan::collect;

    #[tokio::test]
    async fn an_operator_is_told_when_its_workers_open_and_when_it_ends() {
        let host = FakeHost::default().with("same", |block| Ok(vec![block]));
        let host = Arc::new(host);
        let state = session(Arc::clone(&host));
        let sql = "SELECT * FROM map_batches(TABLE(SELECT a AS x, s FROM t), same)";
        let logical = plan(&state, sql).await.unwrap();
        let exec = state.create_physical_plan(&logical).await.unwrap();
        let context = state.task_ctx();
        for runs in 1..=2 {
            collect(Arc::clone(&exec), Arc::clone(&context))
                .await
                .unwrap();
            let told = host.runs.lock().unwrap();
            assert_eq!(told.len(), runs);
            let (run, has_ended) = &told[runs - 1];
            assert!(*has_ended);
            assert_eq!(
                (run.id.operator, run.id.function.as_str()),
                ("map_batches", "same")
            );
            // Whoever keeps it keeps no worker.
            assert_eq!((run.figures(), host.alive()), (None, 0));
        }
    }

    #[tokio::test]
    async fn the_metrics_that_are_read_are_those_of_the_exec() {
        let host = FakeHost::default().with("same", |block| Ok(vec![block]));
        let state = session(Arc::new(host));
        let sql = "SELECT * FROM map_batches(TABLE(SELECT a AS x, s FROM t), same)";
        let logical = plan(&state, sql).await.unwrap();
        let mut exec = state.create_physical_plan(&logical).await.unwrap();
        collect(Arc::clone(&exec), state.task_ctx()).await.unwrap();
        while map_batches_exec(exec.as_ref()).is_none() {
            let below = Arc::clone(exec.children()[0]);
            exec = below;
        }
        let metrics = exec.metrics().unwrap();
        for name in [
            "rows_failed",
            "wait_input",
            "wait_workers",
            "wait_downstream",
        ] {
            assert!(metrics.sum_by_name(name).is_some(), "{name}");
        }
    }
}
