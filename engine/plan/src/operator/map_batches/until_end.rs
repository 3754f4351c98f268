//! Ends an operator's stream when nobody reads its task any more.
//!
//! A dropped stream ends by itself. But what reads it may be a task that somebody else holds:
//! a `RepartitionExec` has its inputs pulled as long as its plan is there, small batches go into
//! larger ones before it notices that its readers have gone, and the base keeps plans of ended
//! queries until it tidies up. Meanwhile user code would be called, and actors kept from others.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use mobula_udfs::UdfError;

use crate::task_host::TaskEnd;

/// `rows`, until the task of `context` has ended.
pub(super) fn until_end(
    function: &str,
    rows: impl RecordBatchStream + Send + 'static,
    context: &TaskContext,
) -> SendableRecordBatchStream {
    let rows: SendableRecordBatchStream = Box::pin(rows);
    match context.session_config().get_extension::<TaskEnd>() {
        // Who begins to read after the end reads: a recursive query does, again and again.
        Some(end) if !end.is_over() => Box::pin(UntilEnd {
            schema: rows.schema(),
            rows: Some(rows),
            ended: Arc::clone(&end).wait().boxed(),
            end,
            function: function.to_owned(),
        }),
        _ => rows,
    }
}

struct UntilEnd {
    schema: SchemaRef,
    /// `None` once it is over.
    rows: Option<SendableRecordBatchStream>,
    end: Arc<TaskEnd>,
    function: String,
    /// Wakes whoever waits for rows.
    ended: BoxFuture<'static, ()>,
}

impl Stream for UntilEnd {
    type Item = Result<RecordBatch>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some(rows) = &mut this.rows else {
            return Poll::Ready(None);
        };
        if !this.end.is_over() {
            let polled = rows.poll_next_unpin(cx);
            if polled.is_ready() || this.ended.poll_unpin(cx).is_pending() {
                return polled;
            }
        }
        // No end of rows: that would be a result.
        this.rows = None;
        let function = std::mem::take(&mut this.function);
        let error = UdfError::TaskEnded { function };
        Poll::Ready(Some(Err(DataFusionError::External(Box::new(error)))))
    }
}

impl RecordBatchStream for UntilEnd {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::datatypes::Schema;
    use datafusion::common::runtime::SpawnedTask;
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use datafusion::prelude::SessionConfig;
    use futures::stream;

    use super::*;

    /// A stream of one block, and then of nothing for ever, in a task with `end`.
    fn rows(end: &Arc<TaskEnd>) -> SendableRecordBatchStream {
        let schema = Arc::new(Schema::empty());
        let block = RecordBatch::new_empty(Arc::clone(&schema));
        let rows = stream::once(async { Ok(block) }).chain(stream::pending());
        let rows = RecordBatchStreamAdapter::new(schema, rows);
        let config = SessionConfig::new().with_extension(Arc::clone(end));
        let context = TaskContext::default().with_session_config(config);
        until_end("f", rows, &context)
    }

    #[tokio::test]
    async fn who_waits_is_told_of_the_end() {
        let end = Arc::new(TaskEnd::default());
        let mut rows = rows(&end);
        assert!(rows.next().await.unwrap().is_ok());
        let waiting = SpawnedTask::spawn(async move {
            let told = rows.next().await.unwrap().unwrap_err().to_string();
            (told, rows.next().await.is_none())
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        end.end();
        let (told, is_over) = waiting.join().await.unwrap();
        assert!(
            told.contains("\"f\" is called no more") && is_over,
            "{told}"
        );
    }

    #[tokio::test]
    async fn what_comes_after_the_end_is_not_read() {
        let end = Arc::new(TaskEnd::default());
        let mut before = rows(&end);
        end.end();
        assert!(before.next().await.unwrap().is_err());
        assert!(before.next().await.is_none());
        // But by who comes then.
        assert!(rows(&end).next().await.unwrap().is_ok());
    }
}
