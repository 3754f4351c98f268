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

/// What a query has on its way to its start.
#[derive(Debug, Default)]
pub(crate) enum Places {
    #[default]
    NotAsked,
    /// `None` for a query that keeps no workers.
    Granted(Option<OwnedSemaphorePermit>),
}

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

    /// Gets the places for the workers that `plan` keeps, unless `places` has
    /// them already. True when there was a line to wait in, in order of arrival:
    /// what the plan was made from may have changed.
    ///
    /// # Errors
    /// When they will never fit, or did not in time.
    pub(crate) async fn admit(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        places: &mut Places,
    ) -> Result<bool> {
        if matches!(places, Places::Granted(_)) {
            return Ok(false);
        }
        let wanted = workers_kept(plan)?;
        if wanted == 0 {
            *places = Places::Granted(None);
            return Ok(false);
        }
        let max_workers = self.max_workers;
        let many = u32::try_from(wanted).ok().filter(|n| *n <= max_workers);
        let Some(many) = many else {
            return Err(external(ExecutionError::TooManyCalls {
                wanted,
                max_workers,
            }));
        };
        if let Ok(granted) = Arc::clone(&self.places).try_acquire_many_owned(many) {
            *places = Places::Granted(Some(granted));
            return Ok(false);
        }
        let granted = Arc::clone(&self.places).acquire_many_owned(many);
        let Ok(granted) = tokio::time::timeout(self.patience, granted).await else {
            return Err(external(ExecutionError::NoPlaces {
                max_workers,
                waited: self.patience,
            }));
        };
        // The semaphore is never closed.
        *places = Places::Granted(granted.ok());
        Ok(true)
    }
}

fn external(error: ExecutionError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
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
            Places::NotAsked | Places::Granted(None) => stream,
            Places::Granted(Some(places)) => Box::pin(Self {
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
