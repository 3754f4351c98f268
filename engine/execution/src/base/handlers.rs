//! How many tasks a stage gets, where the base cannot know.
//!
//! The base sizes file scans itself. A `map_batches` with a fixed number of
//! workers caps its stage, because `concurrency` counts workers over the whole
//! cluster and every task needs at least one. A named actor is one, but lives elsewhere
//! and is reached by any number of tasks, and so are actors that are placed. A `repartition` has planned its streams
//! for a number of tasks. Scans of a table without files
//! keep the base's answer: one task.

use datafusion_distributed::{DesiredTaskCountEvent, DesiredTaskCountEventResponse};
use mobula_plan::{SpreadExec, map_batches_exec};

/// Caps the tasks of a stage at the workers its `map_batches` asks for, and sets them
/// to those of its `repartition`.
pub fn operator_task_count(
    event: DesiredTaskCountEvent<'_>,
) -> Option<datafusion::common::Result<DesiredTaskCountEventResponse>> {
    let tasks = match event.plan.downcast_ref::<SpreadExec>() {
        Some(exec) => exec.spread().tasks,
        None => match map_batches_exec(event.plan.as_ref())? {
            exec if exec.call().spec.is_method() || exec.demand().is_some() => return None,
            exec => exec.concurrency()?,
        },
    };
    Some(Ok(DesiredTaskCountEventResponse::maximum(tasks.max(1))))
}
