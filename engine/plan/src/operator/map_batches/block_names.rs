//! How the blocks of one exec are named.
//!
//! By what no other block has in common with it: the query, the operator, the task, the
//! partition, and how often that was run before, as within a recursive query.

use std::sync::{Mutex, PoisonError};

use datafusion::common::Result;
use datafusion::execution::TaskContext;
use mobula_udfs::{BlockId, Language, UdfCall};

use crate::task_host::{QueryId, TaskHostHandle};

/// How often each partition of an exec was run.
#[derive(Debug, Default)]
pub(super) struct Runs(Mutex<Vec<u64>>);

impl Runs {
    /// The name of the first block of `partition`, which is run now. `None` where nobody
    /// asks for it: `call` is of a native function, or belongs to no query.
    ///
    /// # Errors
    /// When `context` has no host.
    pub(super) fn begin(
        &self,
        context: &TaskContext,
        call: &UdfCall,
        [call_id, partition]: [u64; 2],
    ) -> Result<Option<BlockId>> {
        let query = QueryId::of(context);
        if query.is_empty() || call.spec.language == Language::Native {
            return Ok(None);
        }
        let task_idx = TaskHostHandle::of(context)?.task_idx(context) as u64;
        let run = self.count(partition as usize);
        let place = [call_id, task_idx, partition, run];
        Ok(Some(BlockId::first_of(&query, place)))
    }

    /// How often `partition` was run before this time.
    fn count(&self, partition: usize) -> u64 {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if runs.len() <= partition {
            runs.resize(partition + 1, 0);
        }
        let before = runs[partition];
        runs[partition] += 1;
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_each_partition_are_counted() {
        let runs = Runs::default();
        let counted = [2, 0, 2, 2, 0].map(|partition| runs.count(partition));
        assert_eq!(counted, [0, 0, 1, 2, 1]);
    }
}
