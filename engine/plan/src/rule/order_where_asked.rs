//! Has calls give out their rows as they finish, unless their order is asked for.
//!
//! ```text
//! AggregateExec: aggr=[sum(net)]         AggregateExec: aggr=[sum(net)]
//!   MapBatchesExec: udf=net        →       MapBatchesExec: udf=net, preserve_order=false
//!     DataSourceExec                         DataSourceExec
//!
//! MapBatchesExec: udf=account, partition_by=[k]     MapBatchesExec: udf=account, partition_by=[k]
//!   SpreadExec: by=[k]                                SpreadExec: by=[k]
//!     FilterExec                               →        FilterExec
//!       RepartitionExec: RoundRobinBatch(2)               DataSourceExec
//!         DataSourceExec
//! ```
//!
//! A block that waits for an earlier one keeps its actor waiting too: one slow actor then
//! takes all others with it. Order is asked for
//!
//! - by whoever says `preserve_order`, in a call or as a setting, and by keyed actors, which get
//!   rows of a key in the order of the stream that these come from: calls below keep all rows in
//!   their order, and what only uses more cores, DataFusion's round robin, is taken away;
//! - by an order that is known of the rows (of a sorted file, an ORDER BY, a series) and that
//!   the answer shows or something above needs. What loses it needs none: an aggregate,
//!   a sort, the build side of a join.
//!
//! After DataFusion's rules, which use known orders in place of sorts: what they rely on is
//! seen here. Before calls are fused, which what was taken away would hinder.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::config::ConfigOptions;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::partial_sort::PartialSortExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, InputOrderMode};

use super::{has_call, round_robin_input};
use crate::config::MobulaOptions;
use crate::operator::map_batches::{MapBatchesExec, map_batches_exec};
use crate::operator::repartition::SpreadExec;

/// The rule; see the head of this file.
#[derive(Debug, Default)]
pub struct OrderWhereAsked;

/// Which order of the rows that an operator gives out somebody above asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Nothing,
    /// That which is known of them, if one is.
    Known,
    /// That of each stream, known or not.
    Rows,
}

impl PhysicalOptimizerRule for OrderWhereAsked {
    fn name(&self) -> &str {
        "order_where_asked"
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = config.extensions.get::<MobulaOptions>();
        let by_default = options.is_some_and(MobulaOptions::udf_preserve_order);
        match has_call(&plan)? {
            true => ordered(plan, Asked::Known, by_default),
            false => Ok(plan),
        }
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// `plan`, whose reader asks for this order; calls that say nothing keep it `by_default`.
fn ordered(
    plan: Arc<dyn ExecutionPlan>,
    asked: Asked,
    by_default: bool,
) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(input) = round_robin_input(&plan).filter(|_| asked == Asked::Rows) {
        return ordered(Arc::clone(input), asked, by_default);
    }
    let mut changed = false;
    let mut children = vec![];
    for (place, child) in plan.children().into_iter().enumerate() {
        let below = asked_below(&plan, place, asked, by_default);
        let new = ordered(Arc::clone(child), below, by_default)?;
        changed |= !Arc::ptr_eq(&new, child);
        children.push(new);
    }
    let plan = match changed {
        true => {
            let recompute = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            plan.replace_children(children, recompute)?
        }
        false => plan,
    };
    decided(plan, asked, by_default)
}

/// What `plan`, asked for this order, asks its input at `place` for.
fn asked_below(
    plan: &Arc<dyn ExecutionPlan>,
    place: usize,
    asked: Asked,
    by_default: bool,
) -> Asked {
    let needs = |is_needed| match is_needed {
        true => Asked::Known,
        false => Asked::Nothing,
    };
    let required = needs(plan.required_input_ordering()[place].is_some());
    if let Some(call) = map_batches_exec(plan.as_ref()) {
        return match call.call().handling.preserve_order {
            _ if call.is_keyed() => Asked::Rows,
            Some(true) => Asked::Rows,
            None if by_default => Asked::Rows,
            None if !call.is_table() => required.max(asked),
            None if asked == Asked::Rows => Asked::Rows,
            None | Some(false) => required,
        };
    }
    if plan.is::<SortExec>() {
        return Asked::Nothing;
    }
    let keeps = match plan.maintains_input_order()[place] {
        true => asked,
        // They move rows of one stream to others, in their order.
        false if asked == Asked::Rows && spreads(plan.as_ref()) => asked,
        false => Asked::Nothing,
    };
    required.max(keeps).max(needs(relies(plan.as_ref())))
}

/// Whether it keeps rows of an input stream in their order, though not among others.
fn spreads(plan: &dyn ExecutionPlan) -> bool {
    plan.is::<RepartitionExec>()
        || plan.is::<SpreadExec>()
        || plan.is::<CoalescePartitionsExec>()
        || plan.is::<UnionExec>()
}

/// Whether a known order is used without being required: which rows a limit lets
/// through may be those of an ORDER BY that a sorted input has replaced,
/// `first_value(x ORDER BY y)` takes the first of a sorted input, and `row_number() OVER ()`
/// numbers the rows of an ordered subquery.
fn relies(plan: &dyn ExecutionPlan) -> bool {
    let uses = |aggregate: &AggregateExec| {
        let is_ordered = |call: &Arc<AggregateFunctionExpr>| !call.order_bys().is_empty();
        *aggregate.input_order_mode() != InputOrderMode::Linear
            || aggregate.aggr_expr().iter().any(is_ordered)
    };
    plan.fetch().is_some()
        || plan.is::<GlobalLimitExec>()
        || plan.is::<LocalLimitExec>()
        || plan.is::<PartialSortExec>()
        || plan.is::<BoundedWindowAggExec>()
        || plan.is::<WindowAggExec>()
        || plan.downcast_ref::<AggregateExec>().is_some_and(uses)
}

/// `plan`, which says whether it keeps order if it is a call that has not been told.
fn decided(
    plan: Arc<dyn ExecutionPlan>,
    asked: Asked,
    by_default: bool,
) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(call) = map_batches_exec(plan.as_ref()).filter(|call| is_open(call)) else {
        return Ok(plan);
    };
    let keeps = match asked {
        _ if by_default => true,
        Asked::Rows => true,
        // Nobody knows of an order that tables give their rows.
        Asked::Known => !call.is_table() && is_ordered(call.input()),
        Asked::Nothing => false,
    };
    match keeps == call.keeps_order() {
        true => Ok(plan),
        false => Ok(Arc::new(call.keeping_order(keeps)?)),
    }
}

/// Asks what is known now: a series that says its order late has another answer ready.
fn is_ordered(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.equivalence_properties().output_ordering().is_some()
}

/// Whether it is to be decided. One worker that has one block after the other gains nothing.
fn is_open(call: &MapBatchesExec) -> bool {
    let undecided = call.call().handling.preserve_order.is_none();
    undecided && !call.is_keyed() && !call.keeps_order_for_nothing()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::test_session::check_plan;

    const SERIES: &str = "SELECT value AS a, value % 7 AS s FROM generate_series(1, 9)";

    #[tokio::test]
    async fn rows_without_a_known_order_come_as_they_finish() {
        check_plan("SELECT dice(a) FROM t", expect![[r#"
            ProjectionExec: expr=[dice(t.a)@1 as dice(t.a)]
              MapBatchesExec: udf=dice, kind=scalar, batch_size=block, batch_format=numpy, concurrency=cores, preserve_order=false
                DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]]).await;
        check_plan("SELECT * FROM filter(TABLE(t), good)", expect![[r#"
            UdfFilterExec: udf=good, kind=scalar, volatility=immutable, concurrency=cores, preserve_order=false
              DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]]).await;
        check_plan(
            "SELECT dice FROM map(TABLE(t), dice, concurrency => 1)",
            expect![[r#"
            ProjectionExec: expr=[dice@1 as dice]
              MapExec: udf=dice, kind=scalar, concurrency=1
                DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
        )
        .await;
        check_plan(
            "SELECT dice FROM map(TABLE(t), dice, preserve_order => true)",
            expect![[r#"
            ProjectionExec: expr=[dice@1 as dice]
              MapExec: udf=dice, kind=scalar, concurrency=cores, preserve_order=true
                DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
        )
        .await;
    }

    #[tokio::test]
    async fn a_known_order_is_kept_where_it_shows() {
        check_plan(
            "SELECT value, dice(value) FROM generate_series(1, 9) ORDER BY value",
            expect![[r#"
                MapBatchesExec: udf=dice, kind=scalar, batch_size=block, batch_format=numpy, concurrency=cores
                  LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=9, batch_size=8192]
            "#]],
        )
        .await;
        check_plan(&format!("SELECT a, dice(a) FROM ({SERIES})"), expect![[r#"
            MapBatchesExec: udf=dice, kind=scalar, batch_size=block, batch_format=numpy, concurrency=cores
              ProjectionExec: expr=[value@0 as a]
                LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=9, batch_size=8192]
        "#]]).await;
        check_plan(&format!("SELECT * FROM (SELECT a, dice(a) FROM ({SERIES}) ORDER BY a LIMIT 3)"), expect![[r#"
            MapBatchesExec: udf=dice, kind=scalar, batch_size=block, batch_format=numpy, concurrency=cores
              ProjectionExec: expr=[value@0 as a]
                GlobalLimitExec: skip=0, fetch=3
                  LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=9, batch_size=8192]
        "#]]).await;
        check_plan(&format!("SELECT sum(d) FROM (SELECT dice(a) AS d FROM ({SERIES}) ORDER BY a LIMIT 3)"), expect![[r#"
            AggregateExec: mode=Final, gby=[], aggr=[sum(d)]
              CoalescePartitionsExec
                AggregateExec: mode=Partial, gby=[], aggr=[sum(d)]
                  RepartitionExec: partitioning=RoundRobinBatch(2), input_partitions=1
                    ProjectionExec: expr=[dice(a)@1 as d]
                      MapBatchesExec: udf=dice, kind=scalar, batch_size=block, batch_format=numpy, concurrency=cores, preserve_order=false
                        ProjectionExec: expr=[value@0 as a]
                          GlobalLimitExec: skip=0, fetch=3
                            LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=9, batch_size=8192]
        "#]]).await;
        check_plan(
            &format!("SELECT last_value(dice(a) ORDER BY a) FROM ({SERIES})"),
            expect![[r#"
                AggregateExec: mode=Final, gby=[], aggr=[last_value(dice(a)) ORDER BY [a ASC NULLS LAST]]
                  CoalescePartitionsExec
                    AggregateExec: mode=Partial, gby=[], aggr=[last_value(dice(a)) ORDER BY [a ASC NULLS LAST]]
                      RepartitionExec: partitioning=RoundRobinBatch(2), input_partitions=1, maintains_sort_order=true
                        MapBatchesExec: udf=dice, kind=scalar, batch_size=block, batch_format=numpy, concurrency=cores
                          ProjectionExec: expr=[value@0 as a]
                            LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=9, batch_size=8192]
            "#]],
        )
        .await;
        check_plan(&format!("SELECT a, count(dice(a)) FROM ({SERIES}) GROUP BY a"), expect![[r#"
            AggregateExec: mode=FinalPartitioned, gby=[a@0 as a], aggr=[count(dice(a))], ordering_mode=Sorted
              RepartitionExec: partitioning=Hash([a@0], 2), input_partitions=2, preserve_order=true, sort_exprs=a@0 ASC NULLS LAST
                AggregateExec: mode=Partial, gby=[a@0 as a], aggr=[count(dice(a))], ordering_mode=Sorted
                  RepartitionExec: partitioning=RoundRobinBatch(2), input_partitions=1, maintains_sort_order=true
                    MapBatchesExec: udf=dice, kind=scalar, batch_size=block, batch_format=numpy, concurrency=cores
                      ProjectionExec: expr=[value@0 as a]
                        LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=9, batch_size=8192]
        "#]]).await;
    }

    #[tokio::test]
    async fn windows_without_an_order_follow_that_of_a_subquery() {
        check_plan(&format!("SELECT d, row_number() OVER () FROM (SELECT dice(a) AS d, a FROM ({SERIES}) ORDER BY a)"), expect![[r#"
            BoundedWindowAggExec: wdw=[row_number() ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING: Field { "row_number() ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING": UInt64 }, frame: ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING], mode=[Sorted]
              ProjectionExec: expr=[dice(a)@1 as d]
                MapBatchesExec: udf=dice, kind=scalar, batch_size=block, batch_format=numpy, concurrency=cores
                  ProjectionExec: expr=[value@0 as a]
                    LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=9, batch_size=8192]
        "#]]).await;
    }

    #[tokio::test]
    async fn what_loses_an_order_needs_none() {
        check_plan(&format!("SELECT sum(dice(a)) FROM ({SERIES})"), expect![[r#"
            AggregateExec: mode=Final, gby=[], aggr=[sum(dice(a))]
              CoalescePartitionsExec
                AggregateExec: mode=Partial, gby=[], aggr=[sum(dice(a))]
                  RepartitionExec: partitioning=RoundRobinBatch(2), input_partitions=1
                    ProjectionExec: expr=[dice(a)@1 as dice(a)]
                      MapBatchesExec: udf=dice, kind=scalar, batch_size=block, batch_format=numpy, concurrency=cores, preserve_order=false
                        ProjectionExec: expr=[value@0 as a]
                          LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=9, batch_size=8192]
        "#]]).await;
        check_plan(&format!("SELECT s, count(dice(a)) FROM ({SERIES}) GROUP BY s"), expect![[r#"
            AggregateExec: mode=FinalPartitioned, gby=[s@0 as s], aggr=[count(dice(a))]
              RepartitionExec: partitioning=Hash([s@0], 2), input_partitions=2
                AggregateExec: mode=Partial, gby=[s@0 as s], aggr=[count(dice(a))]
                  ProjectionExec: expr=[s@1 as s, dice(a)@2 as dice(a)]
                    MapBatchesExec: udf=dice, kind=scalar, batch_size=block, batch_format=numpy, concurrency=cores, preserve_order=false
                      ProjectionExec: expr=[value@0 as a, value@0 % 7 as s]
                        RepartitionExec: partitioning=RoundRobinBatch(2), input_partitions=1
                          LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=9, batch_size=8192]
        "#]]).await;
        check_plan(&format!("SELECT a FROM (SELECT a, dice(a) AS d FROM ({SERIES})) ORDER BY d"), expect![[r#"
            ProjectionExec: expr=[a@0 as a]
              SortExec: expr=[dice(a)@1 ASC NULLS LAST], preserve_partitioning=[false]
                MapBatchesExec: udf=dice, kind=scalar, batch_size=block, batch_format=numpy, concurrency=cores, preserve_order=false
                  ProjectionExec: expr=[value@0 as a]
                    LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=9, batch_size=8192]
        "#]]).await;
    }

    #[tokio::test]
    async fn who_asks_for_order_gets_that_of_the_stream_below() {
        let filtered = format!("SELECT a + dice(a) AS a, s FROM ({SERIES}) WHERE a > 3");
        check_plan(&format!("SELECT \"Embed\" FROM map(TABLE(SELECT s::VARCHAR AS s, a FROM ({filtered})), \"Embed\", partition_by => a, concurrency => 3)"), expect![[r#"
            ProjectionExec: expr=[Embed@2 as Embed]
              MapExec: udf=Embed, kind=scalar, partition_by=[a], batch_size=8, concurrency=3
                SpreadExec: partitions=3, by=[a]
                  RepartitionExec: partitioning=Hash([a@1], 3), input_partitions=1
                    ProjectionExec: expr=[CAST(s@1 AS Utf8View) as s, a@0 + dice(a)@2 as a]
                      MapBatchesExec: udf=dice, kind=scalar, batch_size=block, batch_format=numpy, concurrency=cores
                        ProjectionExec: expr=[value@0 as a, value@0 % 7 as s]
                          FilterExec: value@0 > 3
                            LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=9, batch_size=8192]
        "#]]).await;
        check_plan(&format!("SELECT dice FROM map(TABLE({filtered}), dice, preserve_order => true)"), expect![[r#"
            ProjectionExec: expr=[dice@1 as dice]
              MapExec: udf=dice, kind=scalar, concurrency=cores, preserve_order=true
                ProjectionExec: expr=[a@0 + dice(a)@1 as a]
                  MapBatchesExec: udf=dice, kind=scalar, batch_size=block, batch_format=numpy, concurrency=cores
                    ProjectionExec: expr=[value@0 as a]
                      FilterExec: value@0 > 3
                        LazyMemoryExec: partitions=1, batch_generators=[generate_series: start=1, end=9, batch_size=8192]
        "#]]).await;
        let table = "SELECT x AS a FROM map_batches(TABLE(SELECT a FROM t), twice)";
        check_plan(&format!("SELECT dice FROM map(TABLE({table}), dice, preserve_order => true)"), expect![[r#"
            ProjectionExec: expr=[dice@1 as dice]
              ProjectionExec: expr=[x@0 as a, dice@2 as dice]
                MapBatchesExec: udf=twice, then=[map dice], kind=table, batch_size=block, batch_format=numpy, concurrency=cores, preserve_order=true
                  DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]]).await;
    }
}
