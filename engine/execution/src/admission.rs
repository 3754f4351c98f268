//! Who may start: queries whose calls keep workers wait until those fit.
//!
//! A call of a class or of a table function keeps at least one worker of each
//! process it runs in until its query ends, and calls of one query wait for each
//! other. So a query gets the places for all its calls before it starts, or
//! waits in line for them: queries never hold some and wait for the rest.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use datafusion::physical_plan::ExecutionPlan;
use futures::{Stream, StreamExt};
use mobula_plan::operator::workers_kept;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ExecutionError;

/// The line of queries that want workers.
#[derive(Debug)]
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    max_workers: u32,
    patience: Duration,
}

/// A query's places; `None` for one that keeps no workers.
pub(crate) type Places = Option<OwnedSemaphorePermit>;

impl Admission {
    /// Queries keep at most `max_workers` together; one waits at most `patience`.
    pub(crate) fn new(max_workers: usize, patience: Duration) -> Self {
        let max_workers = u32::try_from(max_workers).unwrap_or(u32::MAX);
        Self {
            places: Arc::new(Semaphore::new(max_workers as usize)),
            max_workers,
            patience,
        }
    }

    /// Waits, in order of arrival, for the workers that `plan` keeps.
    ///
    /// # Errors
    /// When they will never fit, or did not in time.
    pub(crate) async fn admit(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<Places> {
        let wanted = workers_kept(plan)?;
        if wanted == 0 {
            return Ok(None);
        }
        let max_workers = self.max_workers;
        let external = |error| DataFusionError::External(Box::new(error));
        let many = match u32::try_from(wanted) {
            Ok(many) if many <= max_workers => many,
            _ => {
                return Err(external(ExecutionError::TooManyCalls {
                    wanted,
                    max_workers,
                }));
            }
        };
        let places = Arc::clone(&self.places).acquire_many_owned(many);
        match tokio::time::timeout(self.patience, places).await {
            // The semaphore is never closed.
            Ok(places) => Ok(places.ok()),
            Err(_) => Err(external(ExecutionError::NoPlaces {
                wanted,
                max_workers,
                waited: self.patience,
            })),
        }
    }
}

/// A query's stream that gives its places back when it ends.
pub(crate) struct Admitted {
    /// `None` once it has ended.
    inner: Option<(SendableRecordBatchStream, OwnedSemaphorePermit)>,
    schema: SchemaRef,
}

impl Admitted {
    pub(crate) fn wrap(
        stream: SendableRecordBatchStream,
        places: Places,
    ) -> SendableRecordBatchStream {
        match places {
            None => stream,
            Some(places) => Box::pin(Self {
                schema: stream.schema(),
                inner: Some((stream, places)),
            }),
        }
    }
}

impl Stream for Admitted {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some((stream, _)) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let polled = stream.poll_next_unpin(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.inner = None;
        }
        polled
    }
}

impl RecordBatchStream for Admitted {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
