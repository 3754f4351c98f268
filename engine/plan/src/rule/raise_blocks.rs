//! Cuts blocks of `repartition` right below the call that gets them.
//!
//! ```text
//! MapBatchesExec: batch_size=block              MapBatchesExec: batch_size=block
//!   ProjectionExec                                BlocksExec: rows_per_block=10
//!     RepartitionExec: RoundRobinBatch     →        ProjectionExec
//!       BlocksExec: rows_per_block=10                 RepartitionExec: RoundRobinBatch
//! ```
//!
//! What DataFusion puts in between, for arguments and to use all cores, joins and cuts
//! batches as it likes. It changes no rows, so blocks may as well be cut above it.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_expr::Partitioning;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;

use crate::operator::map_batches::map_batches_exec;
use crate::operator::repartition::BlocksExec;

/// The rule; see the head of this file.
#[derive(Debug, Default)]
pub struct RaiseBlocks;

impl PhysicalOptimizerRule for RaiseBlocks {
    fn name(&self) -> &str {
        "raise_blocks"
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let Some(call) = map_batches_exec(node.as_ref()) else {
                return Ok(Transformed::no(node));
            };
            let Some((rows, below)) = without_blocks(call.input())? else {
                return Ok(Transformed::no(node));
            };
            let blocks = Arc::new(BlocksExec::new(below, rows));
            node.replace_children(vec![blocks], recompute())
                .map(Transformed::yes)
        })
        .data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The rows of a block and the plan without the BlocksExec, if one stands below `plan`.
fn without_blocks(
    plan: &Arc<dyn ExecutionPlan>,
) -> Result<Option<(usize, Arc<dyn ExecutionPlan>)>> {
    let passes = plan.is::<ProjectionExec>()
        || plan
            .downcast_ref::<RepartitionExec>()
            .is_some_and(|r| matches!(r.partitioning(), Partitioning::RoundRobinBatch(_)));
    let children = plan.children();
    let ([below], true) = (children.as_slice(), passes) else {
        return Ok(None);
    };
    let found = match below.downcast_ref::<BlocksExec>() {
        Some(blocks) => Some((blocks.rows_per_block(), Arc::clone(blocks.input()))),
        None => without_blocks(below)?,
    };
    let Some((rows, below)) = found else {
        return Ok(None);
    };
    let plan = Arc::clone(plan).replace_children(vec![below], recompute())?;
    Ok(Some((rows, plan)))
}

fn recompute() -> ReplaceChildrenOptions {
    ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::test_session::check_plan;

    #[tokio::test]
    async fn blocks_are_cut_where_they_are_wanted() {
        check_plan(
            "SELECT CASE WHEN a > 1 THEN inc(a) END FROM repartition(TABLE(SELECT a FROM t LIMIT 9), rows_per_block => 2)",
            expect![[r#"
                ProjectionExec: expr=[CASE WHEN a@0 > 1 THEN inc(a)@2 END as CASE WHEN a > Int64(1) THEN inc(a) END]
                  MapBatchesExec: udf=inc, kind=scalar, volatility=immutable, batch_size=block, batch_format=numpy, concurrency=cores, mask=__mask@1, preserve_order=false
                    BlocksExec: rows_per_block=2
                      ProjectionExec: expr=[a@0 as a, (a@0 > 1) IS NOT DISTINCT FROM true as __mask]
                        CoalescePartitionsExec: fetch=9
                          DataSourceExec: partitions=2, partition_sizes=[1, 1], fetch=9
            "#]],
        )
        .await;
    }

    #[tokio::test]
    async fn what_is_no_call_and_calls_right_above_leave_them() {
        check_plan(
            "SELECT a + 1 FROM repartition(TABLE(t), rows_per_block => 2)",
            expect![[r#"
                ProjectionExec: expr=[a@0 + 1 as a + Int64(1)]
                  BlocksExec: rows_per_block=2
                    DataSourceExec: partitions=2, partition_sizes=[1, 1]
            "#]],
        )
        .await;
        check_plan(
            "SELECT x FROM map_batches(TABLE(SELECT * FROM repartition(TABLE(t), rows_per_block => 2)), twice)",
            expect![[r#"
                ProjectionExec: expr=[x@0 as x]
                  MapBatchesExec: udf=twice, kind=table, batch_size=block, batch_format=numpy, concurrency=cores
                    BlocksExec: rows_per_block=2
                      DataSourceExec: partitions=2, partition_sizes=[1, 1]
            "#]],
        )
        .await;
    }
}
