//! Sorts what table calls give instead of merging it.
//!
//! ```text
//! SortPreservingMergeExec: [g]        SortExec: [g]
//!   UnionExec                    →      CoalescePartitionsExec
//!     … MapBatchesExec: kind=table        UnionExec
//!                                           … MapBatchesExec: kind=table
//! ```
//!
//! A merge leaves a partition unread until all others have given something. The
//! partitions of a table call share workers, and a worker waits until its answers
//! are read: with fewer workers than partitions, the others would wait for ever.
//! Such merges stand only where the order comes from a constant, as in
//! `SELECT 1 AS g, … UNION ALL SELECT 2 AS g, … ORDER BY g`.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;

use crate::operator::map_batches::{ExecShape, map_batches_exec};

/// The rule; see the head of this file. Runs once, after DataFusion's own.
#[derive(Debug, Default)]
pub struct SortNotMerge;

impl PhysicalOptimizerRule for SortNotMerge {
    fn name(&self) -> &str {
        "sort_not_merge"
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let sorted = match node.downcast_ref::<SortPreservingMergeExec>() {
                Some(merge) if streams_table_calls(merge.input()) => sorted(merge),
                _ => return Ok(Transformed::no(node)),
            };
            Ok(Transformed::yes(sorted))
        })
        .data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn sorted(merge: &SortPreservingMergeExec) -> Arc<dyn ExecutionPlan> {
    let rows = CoalescePartitionsExec::new(Arc::clone(merge.input()));
    let sort = SortExec::new(merge.expr().clone(), Arc::new(rows));
    Arc::new(sort.with_fetch(merge.fetch()))
}

/// Whether an unread partition of `node` may keep a table call's worker waiting:
/// there is one below, with nothing in between that reads its input whatever
/// happens above.
fn streams_table_calls(node: &Arc<dyn ExecutionPlan>) -> bool {
    if map_batches_exec(node.as_ref())
        .is_some_and(|exec| matches!(exec.shape(), ExecShape::Table { .. }))
    {
        return true;
    }
    let reads_on = node.is::<SortExec>()
        || node.is::<CoalescePartitionsExec>()
        || node
            .downcast_ref::<RepartitionExec>()
            .is_some_and(|r| !r.preserve_order());
    !reads_on && node.children().into_iter().any(streams_table_calls)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::test_session::check_plan;

    #[tokio::test]
    async fn a_merge_right_above_table_calls_becomes_a_sort() {
        check_plan(
            "SELECT 1 AS g, x FROM map_batches(TABLE(t), twice) UNION ALL SELECT 2, a FROM t ORDER BY g LIMIT 9",
            expect![[r#"
                SortExec: TopK(fetch=9), expr=[g@0 ASC NULLS LAST], preserve_partitioning=[false]
                  CoalescePartitionsExec
                    UnionExec
                      ProjectionExec: expr=[1 as g, x@0 as x]
                        MapBatchesExec: udf=twice, kind=table, batch_size=block, batch_format=numpy, concurrency=cores
                          DataSourceExec: partitions=2, partition_sizes=[1, 1]
                      ProjectionExec: expr=[2 as g, CAST(a@0 AS Int64) as x]
                        DataSourceExec: partitions=2, partition_sizes=[1, 1], fetch=9
            "#]],
        )
        .await;
    }

    #[tokio::test]
    async fn other_merges_stay() {
        check_plan(
            "SELECT 1 AS g, inc(a) FROM t UNION ALL SELECT 2, a FROM t ORDER BY g",
            expect![[r#"
                SortPreservingMergeExec: [g@0 ASC NULLS LAST]
                  UnionExec
                    ProjectionExec: expr=[1 as g, inc(t.a)@1 as inc(t.a)]
                      MapBatchesExec: udf=inc, kind=scalar, volatility=immutable, batch_size=block, batch_format=numpy, concurrency=cores, preserve_order=false
                        DataSourceExec: partitions=2, partition_sizes=[1, 1]
                    ProjectionExec: expr=[2 as g, CAST(a@0 AS Int64) as inc(t.a)]
                      DataSourceExec: partitions=2, partition_sizes=[1, 1]
            "#]],
        )
        .await;
        check_plan(
            "SELECT x FROM map_batches(TABLE(t), twice) ORDER BY x",
            expect![[r#"
                SortPreservingMergeExec: [x@0 ASC NULLS LAST]
                  SortExec: expr=[x@0 ASC NULLS LAST], preserve_partitioning=[true]
                    ProjectionExec: expr=[x@0 as x]
                      MapBatchesExec: udf=twice, kind=table, batch_size=block, batch_format=numpy, concurrency=cores
                        DataSourceExec: partitions=2, partition_sizes=[1, 1]
            "#]],
        )
        .await;
    }
}
