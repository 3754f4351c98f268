//! Gives streams of `repartition` what spreads their rows.
//!
//! ```text
//! SpreadExec: partitions=8            SpreadExec: partitions=8
//!   DataSourceExec             →        RepartitionExec: Hash([__mobula_route], 8)
//!                                         RouteExec: partitions=8
//!                                           DataSourceExec
//! ```
//!
//! Last of all rules, because DataFusion's remove each RepartitionExec that nobody
//! requires; and before plans are cut over executors, which is done where one stands.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;

use crate::operator::repartition::SpreadExec;

/// The rule; see the head of this file.
#[derive(Debug, Default)]
pub struct LowerSpread;

impl PhysicalOptimizerRule for LowerSpread {
    fn name(&self) -> &str {
        "lower_spread"
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let Some(spread) = node.downcast_ref::<SpreadExec>() else {
                return Ok(Transformed::no(node));
            };
            let lowered: Option<Arc<dyn ExecutionPlan>> =
                spread.lowered()?.map(|exec| Arc::new(exec) as _);
            Ok(lowered.map_or_else(|| Transformed::no(node), Transformed::yes))
        })
        .data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::test_session::check_plan;

    #[tokio::test]
    async fn rows_go_in_turn_or_by_keys() {
        check_plan(
            "SELECT a FROM repartition(TABLE(t), 5)",
            expect![[r#"
            SpreadExec: partitions=5
              RepartitionExec: partitioning=Hash([__mobula_route@1], 5), input_partitions=2
                RouteExec: partitions=5
                  DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
        )
        .await;
        check_plan(
            "SELECT a FROM repartition(TABLE(t), 5, by => (s, a), rows_per_block => 7)",
            expect![[r#"
                ProjectionExec: expr=[a@0 as a]
                  BlocksExec: rows_per_block=7
                    SpreadExec: partitions=5, by=[s, a]
                      RepartitionExec: partitioning=Hash([s@1, a@0], 5), input_partitions=2
                        DataSourceExec: partitions=2, partition_sizes=[1, 1]
            "#]],
        )
        .await;
    }

    #[tokio::test]
    async fn only_blocks_spread_nothing() {
        check_plan(
            "SELECT a FROM repartition(TABLE(t), rows_per_block => 7)",
            expect![[r#"
                BlocksExec: rows_per_block=7
                  DataSourceExec: partitions=2, partition_sizes=[1, 1]
            "#]],
        )
        .await;
    }
}
