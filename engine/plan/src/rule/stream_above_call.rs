//! Takes away what keeps the rows of a call from whoever reads them one by one.
//!
//! ```text
//! FilterExec: y > 3                     FilterExec: y > 3
//!   RepartitionExec: RoundRobin(2)  →     MapExec: udf=y
//!     MapExec: udf=y
//! ```
//!
//! DataFusion spreads the rows of one stream over all cores, and gathers 8,192 for each
//! before it gives out any. Above a call that takes a second a row, the first row comes after
//! hours then, a LIMIT of 10 has the call made for thousands, and a call above stands still.
//! So where nothing above has to see all rows before it gives out some, the operators between
//! are run on the call's own stream: they are cheap beside it. An aggregate, a sort or a join
//! keeps the cores that it gets.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;

use super::{has_call, round_robin_input};
use crate::operator::map_batches::map_batches_exec;
use crate::operator::repartition::BlocksExec;

/// The rule; see the head of this file.
#[derive(Debug, Default)]
pub struct StreamAboveCall;

impl PhysicalOptimizerRule for StreamAboveCall {
    fn name(&self) -> &str {
        "stream_above_call"
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match has_call(&plan)? {
            true => streamed(plan, true),
            false => Ok(plan),
        }
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// `plan`, whose reader takes rows as they come if `streams`.
fn streamed(plan: Arc<dyn ExecutionPlan>, streams: bool) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(input) = round_robin_input(&plan).filter(|input| streams && gives_a_call(input)) {
        return streamed(Arc::clone(input), streams);
    }
    let is_call = map_batches_exec(plan.as_ref()).is_some();
    let streams = is_call || (streams && passes_on(plan.as_ref()));
    let changed = plan.map_children(|child| {
        let new = streamed(Arc::clone(&child), streams)?;
        Ok(match Arc::ptr_eq(&new, &child) {
            true => Transformed::no(child),
            false => Transformed::yes(new),
        })
    })?;
    Ok(changed.data)
}

/// Whether rows of `plan` come right out of a call.
fn gives_a_call(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if map_batches_exec(plan.as_ref()).is_some() {
        return true;
    }
    let passes = passes_on(plan.as_ref()) || round_robin_input(plan).is_some();
    match plan.children().as_slice() {
        [child] => passes && gives_a_call(child),
        _ => false,
    }
}

/// Whether it gives rows out as they come.
fn passes_on(plan: &dyn ExecutionPlan) -> bool {
    plan.is::<ProjectionExec>()
        || plan.is::<FilterExec>()
        || plan.is::<CoalescePartitionsExec>()
        || plan.is::<GlobalLimitExec>()
        || plan.is::<LocalLimitExec>()
        || plan.is::<CooperativeExec>()
        || plan.is::<UnionExec>()
        || plan.is::<BlocksExec>()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::test_session::check_plan;

    const ONE_STREAM: &str = "TABLE(SELECT value AS a FROM generate_series(1, 9))";

    #[tokio::test]
    async fn what_passes_rows_on_is_run_on_the_stream_of_the_call() {
        let sql = format!("SELECT dice + 1 FROM map({ONE_STREAM}, dice) WHERE dice > 3 LIMIT 10");
        check_plan(&sql, expect![[r#"
            ProjectionExec: expr=[dice@0 + 1 as dice + Int64(1)]
              CoalescePartitionsExec: fetch=10
                FilterExec: dice@0 > 3, fetch=10
                  ProjectionExec: expr=[dice@1 as dice]
                    MapExec: udf=dice, kind=scalar, concurrency=cores
                      ProjectionExec: expr=[value@0 as a]
                        LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=9, batch_size=8192]
        "#]]).await;
    }

    #[tokio::test]
    async fn a_call_above_another_is_not_kept_waiting() {
        let inner = format!("SELECT dice * 2 AS a FROM map({ONE_STREAM}, dice)");
        let sql = format!("SELECT sum(inc) FROM map_batches(TABLE({inner}), inc)");
        check_plan(&sql, expect![[r#"
            AggregateExec: mode=Final, gby=[], aggr=[sum(inc)]
              CoalescePartitionsExec
                AggregateExec: mode=Partial, gby=[], aggr=[sum(inc)]
                  ProjectionExec: expr=[inc@1 as inc]
                    MapBatchesExec: udf=inc, kind=scalar, volatility=immutable, batch_size=block, batch_format=numpy, concurrency=cores, preserve_order=false
                      ProjectionExec: expr=[dice@1 * 2 as a]
                        MapExec: udf=dice, kind=scalar, concurrency=cores, preserve_order=false
                          ProjectionExec: expr=[value@0 as a]
                            LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=9, batch_size=8192]
        "#]]).await;
    }

    #[tokio::test]
    async fn an_aggregate_keeps_its_cores() {
        let sql = format!("SELECT avg(dice * a) FROM map({ONE_STREAM}, dice)");
        check_plan(&sql, expect![[r#"
            AggregateExec: mode=Final, gby=[], aggr=[avg(dice * a)]
              CoalescePartitionsExec
                AggregateExec: mode=Partial, gby=[], aggr=[avg(dice * a)]
                  RepartitionExec: partitioning=RoundRobinBatch(2), input_partitions=1
                    MapExec: udf=dice, kind=scalar, concurrency=cores, preserve_order=false
                      ProjectionExec: expr=[value@0 as a]
                        LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=9, batch_size=8192]
        "#]]).await;
    }
}
