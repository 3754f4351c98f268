//! One query: from an executable plan to a stream of blocks.
//!
//! Dropping the stream drops the plan's streams and with them every remote one.
//! A distributed query listens to membership: when an executor it has sent
//! tasks to is lost, it fails at once with that executor's name, even if no
//! data was due from it.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use datafusion::physical_plan::ExecutionPlan;
use futures::{Stream, StreamExt};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use url::Url;

use super::control::Control;
use crate::base::channel::UsedExecutors;
use crate::wire_error;

/// A running query.
pub struct QueryRun {
    pub query_id: String,
    /// Dropping it cancels the query everywhere.
    pub stream: SendableRecordBatchStream,
    /// What runs; its metrics fill while the stream is read.
    pub plan: Arc<dyn ExecutionPlan>,
}

/// Ends a query whose executor is lost.
pub struct LossGuard {
    inner: SendableRecordBatchStream,
    alive: WatchStream<BTreeSet<Url>>,
    used: UsedExecutors,
    control: Arc<Control>,
    failed: bool,
}

impl LossGuard {
    pub fn new(
        inner: SendableRecordBatchStream,
        alive: watch::Receiver<BTreeSet<Url>>,
        used: UsedExecutors,
        control: Arc<Control>,
    ) -> Self {
        Self {
            inner,
            alive: WatchStream::new(alive),
            used,
            control,
            failed: false,
        }
    }

    fn lost(&mut self, cx: &mut Context<'_>) -> Option<Url> {
        while let Poll::Ready(Some(alive)) = self.alive.poll_next_unpin(cx) {
            let used = self.used.lock();
            if let Some(lost) = used.iter().find(|url| !alive.contains(*url)) {
                return Some(lost.clone());
            }
        }
        None
    }
}

impl Stream for LossGuard {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.failed {
            return Poll::Ready(None);
        }
        let item = self.inner.poll_next_unpin(cx);
        match &item {
            Poll::Ready(Some(Err(error))) => {
                self.failed = true;
                suspect_lost(&self.control, error);
            }
            Poll::Ready(_) => {}
            Poll::Pending => {
                if let Some(url) = self.lost(cx) {
                    self.failed = true;
                    return Poll::Ready(Some(Err(wire_error::executor_lost(url.as_str()))));
                }
            }
        }
        item
    }
}

/// Keeps new queries off the executor whose loss `error` tells of, if it does.
pub fn suspect_lost(control: &Control, error: &DataFusionError) {
    if let Some(url) = wire_error::lost_executor(error) {
        control.suspect(&url);
    }
}

impl RecordBatchStream for LossGuard {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::classify::classify;
    use crate::coordinator::membership::Membership;
    use crate::error::ErrorClass;
    use crate::exchange::channels::{ChannelPool, TransportLimits};
    use crate::kept::store::KeptStore;
    use crate::row_errors::RowErrors;
    use crate::token::ClusterToken;
    use arrow::datatypes::Schema;
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

    fn control() -> Arc<Control> {
        let limits = TransportLimits {
            stream_window_bytes: 1 << 20,
            message_bytes: 1 << 20,
            threads: 1,
        };
        let channels = ChannelPool::try_new(&ClusterToken::generate(), limits).unwrap();
        let membership = Membership::new(Duration::from_secs(3), "1");
        let row_errors = Arc::new(RowErrors::new(1 << 20));
        Arc::new(Control::new(
            membership,
            Duration::from_secs(1),
            channels,
            row_errors,
            Arc::default(),
            KeptStore::new("c", &Arc::default(), 0),
        ))
    }

    #[tokio::test]
    async fn the_loss_of_a_used_executor_ends_a_silent_query() {
        let (a, b): (Url, Url) = ("http://a:1".parse().unwrap(), "http://b:1".parse().unwrap());
        let (sender, alive) = watch::channel(BTreeSet::from([a.clone(), b.clone()]));
        let silent =
            RecordBatchStreamAdapter::new(Arc::new(Schema::empty()), futures::stream::pending());
        let used = UsedExecutors::default();
        used.lock().insert(a.clone());
        let mut guarded = LossGuard::new(Box::pin(silent), alive, used, control());
        assert!(futures::poll!(guarded.next()).is_pending());
        sender.send_replace(BTreeSet::from([a]));
        assert!(futures::poll!(guarded.next()).is_pending());
        sender.send_replace(BTreeSet::from([b]));
        let error = guarded.next().await.unwrap().unwrap_err();
        let found = classify(&error);
        assert_eq!(found.class, ErrorClass::Unavailable);
        assert!(found.message.contains("http://a:1"), "{}", found.message);
        assert!(guarded.next().await.is_none());
    }
}
