//! A partition of a task's output, counted on its way to whoever reads it.
//!
//! A reader in the same process is counted here too: nothing else sees those blocks.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use futures::{Stream, StreamExt};
use mobula_block::size::block_bytes;

use super::task_run::{InputMeter, OutputEnd, TaskId, TaskRun};
use super::tasks::TaskRuns;

/// Counts the blocks of `inner`.
pub struct TaskOutput {
    inner: SendableRecordBatchStream,
    run: Arc<TaskRun>,
    reader: Option<InputMeter>,
    is_over: bool,
}

impl TaskOutput {
    /// `blocks`, counted as one of the `n_outputs` (0: unknown) of `run`, and as input of
    /// a task of this process that reads it.
    pub fn wrap(
        blocks: SendableRecordBatchStream,
        run: Arc<TaskRun>,
        n_outputs: u64,
        reader: Option<InputMeter>,
    ) -> SendableRecordBatchStream {
        run.output_opened(n_outputs);
        Box::pin(Self {
            inner: blocks,
            run,
            reader,
            is_over: false,
        })
    }

    /// `blocks`, which a client reads, counted as the output of the last stage of query
    /// `query_id`, if it is listed: EXPLAIN has none.
    pub fn of_last_stage(
        blocks: SendableRecordBatchStream,
        runs: &TaskRuns,
        query_id: &str,
    ) -> SendableRecordBatchStream {
        match runs.running(&TaskId::last_stage(query_id)) {
            Some(run) => Self::wrap(blocks, run, 1, None),
            None => blocks,
        }
    }

    fn passed(&self, block: &RecordBatch) {
        let bytes = block_bytes(block) as u64;
        self.run.block_left(block, bytes);
        if let Some(reader) = &self.reader {
            reader.bytes_came(bytes);
            reader.block_came();
        }
    }

    fn end(&mut self, how: OutputEnd) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.run.output_ended(how);
        }
    }
}

impl Stream for TaskOutput {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.inner.poll_next_unpin(cx);
        match &polled {
            Poll::Ready(Some(Ok(block))) => self.passed(block),
            Poll::Ready(Some(Err(_))) => self.end(OutputEnd::Failed),
            Poll::Ready(None) => self.end(OutputEnd::Read),
            Poll::Pending => {}
        }
        polled
    }
}

impl RecordBatchStream for TaskOutput {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }
}

impl Drop for TaskOutput {
    fn drop(&mut self) {
        self.end(OutputEnd::Dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};
    use datafusion::common::DataFusionError;
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use mobula_proto::report::TaskReport;

    fn block() -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        RecordBatch::try_from_iter([("k", column)]).unwrap()
    }

    /// What is listed after `read` blocks of `blocks` were asked for.
    async fn after(blocks: Vec<Result<RecordBatch>>, read: usize) -> TaskReport {
        let runs = TaskRuns::new(1);
        let inner = futures::stream::iter(blocks);
        let inner = RecordBatchStreamAdapter::new(block().schema(), inner);
        runs.last_stage("q");
        let mut output = TaskOutput::of_last_stage(Box::pin(inner), &runs, "q");
        for _ in 0..read {
            let _ = output.next().await;
        }
        drop(output);
        runs.list().remove(0)
    }

    #[tokio::test]
    async fn the_state_says_how_far_it_was_read() {
        let two = || vec![Ok(block()), Ok(block())];
        let whole = after(two(), 3).await;
        assert_eq!((whole.state.as_str(), whole.rows_out), ("finished", 6));
        assert_eq!(whole.bytes_out, 2 * 24);
        let part = after(two(), 1).await;
        assert_eq!((part.state.as_str(), part.rows_out), ("dropped", 3));
        let error = Err(DataFusionError::Execution("no".into()));
        let failed = after(vec![Ok(block()), error], 2).await;
        assert_eq!((failed.state.as_str(), failed.rows_out), ("failed", 3));
    }
}
