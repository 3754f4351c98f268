//! How many tasks a stage gets, where the base cannot know.
//!
//! The base sizes file scans itself. A `map_batches` with a fixed number of
//! workers caps its stage, because `concurrency` counts workers over the whole
//! cluster and every task needs at least one. A named actor is one, but lives elsewhere
//! and is reached by any number of tasks, and so are actors that are placed. A `repartition` has planned its streams
//! for a number of tasks. Scans of a table without files
//! keep the base's answer: one task. One of kept blocks has a task where each has some, and more
//! where these are many bytes.
//!
//! What needs all rows in one stream has them from an exchange, or from a scan that has one
//! stream anyway. The base would cut that scan over the tasks that others in the stage
//! ask for: a LIMIT would let its rows through once in each.

use std::sync::Arc;

use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode,
};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::{Distribution, ExecutionPlan, ExecutionPlanProperties};
use datafusion_distributed::{DesiredTaskCountEvent, DesiredTaskCountEventResponse};
use mobula_plan::{KeptScanExec, MobulaOptions, SpreadExec, map_batches_exec};

use super::cut_kept::wanted_tasks;

/// Caps the tasks of a stage at the workers its `map_batches` asks for, and at one where
/// rows come in one stream that somebody needs; sets them to those of its `repartition`.
pub fn operator_task_count(
    event: DesiredTaskCountEvent<'_>,
) -> Option<datafusion::common::Result<DesiredTaskCountEventResponse>> {
    if needs_one_stream(event.plan) {
        return Some(Ok(DesiredTaskCountEventResponse::maximum(1)));
    }
    if let Some(scan) = event.plan.downcast_ref::<KeptScanExec>() {
        let options = event
            .session_config
            .options()
            .extensions
            .get::<MobulaOptions>();
        let bytes = options.map_or(u64::MAX, |options| options.scan_bytes_per_task() as u64);
        let tasks = wanted_tasks(scan.parts(), bytes);
        return Some(Ok(DesiredTaskCountEventResponse::desired(tasks)));
    }
    let tasks = match event.plan.downcast_ref::<SpreadExec>() {
        Some(exec) => exec.spread().tasks,
        None => match map_batches_exec(event.plan.as_ref())? {
            exec if exec.call().spec.is_method() || exec.demand().is_some() => return None,
            exec => exec.concurrency()?,
        },
    };
    Some(Ok(DesiredTaskCountEventResponse::maximum(tasks.max(1))))
}

/// Whether `plan` is right only as long as rows come in one stream over all tasks.
fn needs_one_stream(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let is_one = |plan: &Arc<dyn ExecutionPlan>| plan.output_partitioning().partition_count() == 1;
    // Also a scan: of one stream, a limit may be its alone.
    let limits =
        plan.fetch().is_some() || plan.is::<GlobalLimitExec>() || plan.is::<LocalLimitExec>();
    if limits && is_one(plan) {
        return true;
    }
    let wanted = plan.input_distribution_requirements().into_per_child();
    let inputs = plan.children().into_iter().zip(wanted);
    // The base sees to the side of a join that is collected.
    let mut inputs = inputs.skip(usize::from(collects_left(plan.as_ref())));
    inputs.any(|(input, wanted)| {
        !matches!(wanted, Distribution::UnspecifiedDistribution) && is_one(input)
    })
}

fn collects_left(plan: &dyn ExecutionPlan) -> bool {
    let join = plan.downcast_ref::<HashJoinExec>();
    join.is_some_and(|join| *join.partition_mode() == PartitionMode::CollectLeft)
        || plan.is::<NestedLoopJoinExec>()
        || plan.is::<CrossJoinExec>()
}
