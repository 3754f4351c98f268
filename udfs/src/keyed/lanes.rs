//! The actors of a keyed call in one task: each has a lane, and a line of its own.

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;

use crate::call::UdfCall;
use crate::error::UdfError;
use crate::manager::WorkerManager;
use crate::order::CallOrder;
use crate::pool::{AnswerStream, PoolStats, UdfPool};
use crate::process_pool::ProcessPool;

/// Lanes, each with one actor. All of them are needed, so each counts as a first worker
/// (see `roster`).
#[derive(Debug)]
pub(crate) struct KeyedPool {
    /// Never empty.
    lanes: Vec<ProcessPool>,
}

impl KeyedPool {
    /// With `lanes`, at least 1.
    ///
    /// # Errors
    /// When a type of the schemas cannot cross to a worker.
    pub(crate) fn try_new(
        manager: &Arc<WorkerManager>,
        call: &Arc<UdfCall>,
        lanes: usize,
    ) -> Result<Self, UdfError> {
        let lane = |_| {
            let order = CallOrder::try_new(Arc::clone(call))?;
            Ok(ProcessPool::new(Arc::clone(manager), order, 1))
        };
        let lanes = (0..lanes.max(1)).map(lane).collect::<Result<_, _>>()?;
        Ok(Self { lanes })
    }

    fn lane(&self, lane: usize) -> &ProcessPool {
        &self.lanes[lane % self.lanes.len()]
    }
}

#[async_trait]
impl UdfPool for KeyedPool {
    async fn call(&self, block: RecordBatch) -> Result<AnswerStream, UdfError> {
        self.lane(0).call(block).await
    }

    async fn call_each(&self, blocks: Vec<RecordBatch>) -> Result<AnswerStream, UdfError> {
        self.lane(0).call_each(blocks).await
    }

    async fn call_lane(
        &self,
        lane: usize,
        blocks: Vec<RecordBatch>,
    ) -> Result<AnswerStream, UdfError> {
        self.lane(lane).call_each(blocks).await
    }

    fn train(&self) -> usize {
        let trains = self.lanes.iter().map(UdfPool::train);
        trains.min().unwrap_or(1)
    }

    fn concurrency(&self) -> usize {
        self.lanes.len()
    }

    fn stats(&self) -> PoolStats {
        let all = self.lanes.iter().map(UdfPool::stats);
        all.fold(PoolStats::default(), PoolStats::plus)
    }
}
