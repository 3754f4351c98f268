//! Keeps orders of the rows of one stream from those of all streams.
//!
//! Streams that are merged by one order are in that order alone afterwards, though each
//! may be in several: in those of a UNION's inputs, or of a table WITH ORDER of two columns.
//! DataFusion 55 goes on with all of them, and drops an ORDER BY of another one above. Where its
//! plan has such a merge, this has it plan again with streams that are not known to have orders.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use super::around::{ENSURE, PhysicalRule, around};
use crate::operator::veil::VeilExec;

/// `rule` of DataFusion's, or what stands in for it.
pub fn in_place_of(rule: PhysicalRule) -> PhysicalRule {
    around(rule, &[ENSURE], optimize)
}

fn optimize(
    rule: &PhysicalRule,
    plan: Arc<dyn ExecutionPlan>,
    config: &ConfigOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    let ensured = rule.optimize(Arc::clone(&plan), config)?;
    if !merges_orders(&ensured)? {
        return Ok(ensured);
    }
    let veiled = plan.transform_up(|node| {
        Ok(
            match node.is::<UnionExec>() || has_orders(&node) && is_leaf(&node) {
                true => Transformed::yes(Arc::new(VeilExec::new(node)) as _),
                false => Transformed::no(node),
            },
        )
    });
    rule.optimize(veiled.data()?, config)
}

/// Whether streams are merged that are known to have several orders.
fn merges_orders(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let mut found = false;
    plan.apply(|node| {
        let repartition = node.downcast_ref::<RepartitionExec>();
        let merges = node.is::<SortPreservingMergeExec>()
            || repartition.is_some_and(RepartitionExec::preserve_order);
        found = merges && node.children().into_iter().any(has_orders);
        Ok(match found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

/// Whether `plan` gives several streams with several orders.
fn has_orders(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.output_partitioning().partition_count() > 1
        && plan.equivalence_properties().oeq_class().len() > 1
}

fn is_leaf(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.children().is_empty()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::test_session::check_plan;

    #[tokio::test]
    async fn a_union_is_sorted_by_what_is_asked() {
        let series = "(SELECT value AS a FROM generate_series(1, 5)) AS s";
        let windows = format!("SELECT a, row_number() OVER (ORDER BY a) AS n FROM {series}");
        check_plan(
            &format!("SELECT * FROM ({windows} UNION SELECT 9, 0) ORDER BY n"),
            expect![[r#"
                SortPreservingMergeExec: [n@1 ASC NULLS LAST]
                  SortExec: expr=[n@1 ASC NULLS LAST], preserve_partitioning=[true]
                    AggregateExec: mode=FinalPartitioned, gby=[a@0 as a, n@1 as n], aggr=[]
                      RepartitionExec: partitioning=Hash([a@0, n@1], 2), input_partitions=3
                        AggregateExec: mode=Partial, gby=[a@0 as a, n@1 as n], aggr=[]
                          VeilExec
                            UnionExec
                              ProjectionExec: expr=[a@0 as a, CAST(row_number() ORDER BY [s.a ASC NULLS LAST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW@1 AS Decimal128(20, 0)) as n]
                                RepartitionExec: partitioning=RoundRobinBatch(2), input_partitions=1, maintains_sort_order=true
                                  BoundedWindowAggExec: wdw=[row_number() ORDER BY [s.a ASC NULLS LAST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW: Field { "row_number() ORDER BY [s.a ASC NULLS LAST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW": UInt64 }, frame: RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW], mode=[Sorted]
                                    ProjectionExec: expr=[value@0 as a]
                                      LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=5, batch_size=8192]
                              ProjectionExec: expr=[9 as a, 0 as n]
                                PlaceholderRowExec
            "#]],
        )
        .await;
    }
}
