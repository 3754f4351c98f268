//! Leaves `generate_series` its column where nobody reads it.
//!
//! ```text
//! LazyMemoryExec (no columns)     →     ProjectionExec: expr=[]
//!                                         LazyMemoryExec
//! ```
//!
//! DataFusion's codec does not say that the column was left out: on another executor
//! the series would give one column more than it says, and fail.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::memory::LazyMemoryExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};

/// The rule; see the head of this file.
#[derive(Debug, Default)]
pub struct SeriesColumn;

impl PhysicalOptimizerRule for SeriesColumn {
    fn name(&self) -> &str {
        "series_column"
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let series = node.downcast_ref::<LazyMemoryExec>();
            match series.map(with_column).transpose()?.flatten() {
                Some(plan) => Ok(Transformed::yes(plan)),
                None => Ok(Transformed::no(node)),
            }
        })
        .data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn with_column(series: &LazyMemoryExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let [generator] = series.generators().as_slice() else {
        return Ok(None);
    };
    if !series.schema().fields().is_empty() {
        return Ok(None);
    }
    // Only its rows know the column; those of a copy, so that none is missing later.
    let copy = generator.read().reset_state();
    let Some(rows) = copy.write().generate_next_batch()? else {
        return Ok(None);
    };
    let series = LazyMemoryExec::try_new(rows.schema(), vec![Arc::clone(generator)])?;
    let none: Vec<ProjectionExpr> = vec![];
    let projection = ProjectionExec::try_new(none, Arc::new(series))?;
    Ok(Some(Arc::new(projection)))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::test_session::check_plan;

    #[tokio::test]
    async fn only_where_no_column_is_read() {
        check_plan(
            "SELECT count(*) FROM (SELECT * FROM generate_series(1, 10) LIMIT 7)",
            expect![[r#"
                ProjectionExec: expr=[count(Int64(1))@0 as count(*)]
                  AggregateExec: mode=Final, gby=[], aggr=[count(Int64(1))]
                    CoalescePartitionsExec
                      AggregateExec: mode=Partial, gby=[], aggr=[count(Int64(1))]
                        RepartitionExec: partitioning=RoundRobinBatch(2), input_partitions=1
                          GlobalLimitExec: skip=0, fetch=7
                            ProjectionExec: expr=[]
                              LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=10, batch_size=8192]
            "#]],
        )
        .await;
        check_plan("SELECT * FROM generate_series(1, 10)", expect![[r#"
            LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=10, batch_size=8192]
        "#]]).await;
        check_plan(
            "SELECT count(*) FROM generate_series(10, 1)",
            expect![[r#"
                ProjectionExec: expr=[count(Int64(1))@0 as count(*)]
                  AggregateExec: mode=Final, gby=[], aggr=[count(Int64(1))]
                    CoalescePartitionsExec
                      AggregateExec: mode=Partial, gby=[], aggr=[count(Int64(1))]
                        RepartitionExec: partitioning=RoundRobinBatch(2), input_partitions=1
                          LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=10, end=1, batch_size=8192]
            "#]],
        )
        .await;
    }
}
