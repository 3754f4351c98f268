//! Makes joins of everything with everything give way.
//!
//! ```text
//! NestedLoopJoinExec: …      CooperativeExec
//!   …                   →      NestedLoopJoinExec: …
//! ```
//!
//! DataFusion makes only the leaves of a plan give way to other tasks. These two
//! joins read a leaf once for a great many blocks, and until it is read again
//! the task notices no cancellation and holds its thread. Wrapped, they give
//! way every so many blocks that they put out. A join that puts out nothing is
//! not helped: it still runs through one block of its input at a time.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::{CrossJoinExec, NestedLoopJoinExec};

/// The rule; see the head of this file. Runs once, after DataFusion's own.
#[derive(Debug, Default)]
pub struct YieldInJoin;

impl PhysicalOptimizerRule for YieldInJoin {
    fn name(&self) -> &str {
        "yield_in_join"
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wrap = |node: Arc<dyn ExecutionPlan>| {
            if joins_all_with_all(node.as_ref()) {
                return Ok(Transformed::yes(Arc::new(CooperativeExec::new(node)) as _));
            }
            // One that was wrapped before is now wrapped twice.
            let twice = node.children().first().map(|child| Arc::clone(child));
            Ok(match twice.filter(|child| child.is::<CooperativeExec>()) {
                Some(child) if node.is::<CooperativeExec>() => Transformed::yes(child),
                _ => Transformed::no(node),
            })
        };
        plan.transform_up(wrap).data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn joins_all_with_all(node: &dyn ExecutionPlan) -> bool {
    node.is::<NestedLoopJoinExec>() || node.is::<CrossJoinExec>()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use datafusion::physical_plan::collect;
    use expect_test::expect;

    use super::*;
    use crate::test_session::{FakeHost, check_plan, plan, session};

    #[tokio::test]
    async fn joins_of_all_with_all_are_wrapped_and_others_are_not() {
        check_plan(
            "SELECT x.a FROM t x CROSS JOIN t y",
            expect![[r#"
            CooperativeExec
              CrossJoinExec
                CoalescePartitionsExec
                  DataSourceExec: partitions=2, partition_sizes=[1, 1]
                DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
        )
        .await;
        check_plan(
            "SELECT x.a FROM t x JOIN t y ON x.a < y.a",
            expect![[r#"
            CooperativeExec
              NestedLoopJoinExec: join_type=Inner, filter=a@0 < a@1, projection=[a@0]
                CoalescePartitionsExec
                  DataSourceExec: partitions=2, partition_sizes=[1, 1]
                DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
        )
        .await;
        check_plan(
            "SELECT x.a FROM t x JOIN t y ON x.a = y.a",
            expect![[r#"
            HashJoinExec: mode=CollectLeft, join_type=Inner, on=[(a@0, a@0)], projection=[a@0]
              CoalescePartitionsExec
                DataSourceExec: partitions=2, partition_sizes=[1, 1]
              DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
        )
        .await;
    }

    /// On one thread: a query that does not give way would end before the clock
    /// is looked at.
    #[tokio::test]
    async fn a_long_join_is_cancelled() {
        for on in ["", "WHERE x.value < y.value"] {
            let sql = format!(
                "SELECT sum(x.value % 7 + y.value) \
                 FROM generate_series(1, 40000) x CROSS JOIN generate_series(1, 40000) y {on}"
            );
            let state = session(Arc::new(FakeHost::default()));
            let plan = plan(&state, &sql).await.unwrap();
            let plan = state.create_physical_plan(&plan).await.unwrap();
            let run = collect(plan, state.task_ctx());
            let ended = tokio::time::timeout(Duration::from_millis(20), run).await;
            assert!(ended.is_err(), "{sql}");
        }
    }
}
