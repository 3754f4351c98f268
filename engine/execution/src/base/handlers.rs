//! How many tasks a stage gets, where the base cannot know.
//!
//! The base sizes file scans itself. A `map_batches` with a fixed number of
//! workers caps its stage, because `concurrency` counts workers over the whole
//! cluster and every task needs at least one. Scans of a table without files
//! keep the base's answer: one task.

use datafusion_distributed::{DesiredTaskCountEvent, DesiredTaskCountEventResponse};
use mobula_plan::operator::map_batches::map_batches_exec;

/// Caps the tasks of a stage at the workers its `map_batches` asks for.
pub fn map_batches_task_count(
    event: DesiredTaskCountEvent<'_>,
) -> Option<datafusion::common::Result<DesiredTaskCountEventResponse>> {
    let workers = map_batches_exec(event.plan.as_ref())?.concurrency()?;
    Some(Ok(DesiredTaskCountEventResponse::maximum(workers.max(1))))
}
