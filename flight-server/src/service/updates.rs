//! Runs statements without rows in tasks of their own, each exactly once.
//!
//! A client that goes away while its `CREATE TABLE` or `INSERT` runs must not
//! leave it half done, so the call that started it only waits for the task: when
//! the call is dropped, the task still runs to its end, except that what is not there at
//! all before it is done is made for nobody any more: an actor, a table of a query's rows, a
//! file. The tasks belong to
//! [`Updates`], which bounds their number and, when the server stops, waits for
//! them before it lets go.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::DataFusionError;
use mobula_execution::{OwnedTask, spawn_named};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::{Code, Status};

use super::sessions::Lease;
use crate::status::{refuse, status};
use crate::{Bound, Outcome, ServerError, Session};

/// Applies `bound` for each row of its values, in order, and sums what they touched. One
/// that fails ends it.
async fn all_runs(
    session: &Session,
    bound: &Bound,
    left: impl Future<Output = ()>,
) -> Result<Option<u64>, ServerError> {
    let mut left = pin!(left);
    let mut touched = (bound.runs() == 0).then_some(0);
    for run in 0..bound.runs() {
        let outcome = session.execute_run(bound, run, left.as_mut()).await;
        let outcome = outcome.map_err(|error| match bound.runs() {
            1 => error,
            _ => ServerError::ParameterRow {
                row: run + 1,
                source: Box::new(error),
            },
        });
        match outcome? {
            Outcome::Affected(Some(rows)) => touched = Some(touched.unwrap_or(0) + rows),
            Outcome::Affected(None) => {}
            Outcome::Rows(_) => {
                let text = "a statement without rows returned some".to_owned();
                return Err(DataFusionError::Internal(text).into());
            }
        }
    }
    Ok(touched)
}

/// Statements that are being applied.
#[derive(Default)]
struct Applying {
    next: u64,
    tasks: HashMap<u64, OwnedTask<()>>,
}

/// Owner of all running updates.
pub struct Updates {
    applying: Arc<Mutex<Applying>>,
    max: usize,
}

impl Updates {
    /// At most `max` run at a time.
    pub fn new(max: usize) -> Self {
        Self {
            applying: Arc::default(),
            max,
        }
    }

    /// Applies `bound`, once for each row of its values, and gives the rows it touched, `None`
    /// where the statement has no such number. Dropping the future does not stop it.
    ///
    /// # Errors
    /// What the statement fails with, or too many updates.
    pub async fn apply(&self, lease: Lease, bound: Arc<Bound>) -> Result<Option<u64>, Status> {
        let what = bound.prepared().sql.clone();
        let running = self.run(lease, what, |session, left| async move {
            let left = async move {
                let _ = left.await;
            };
            all_runs(&session, &bound, left).await
        });
        running.await
    }

    /// Does `work`, whose second value ends when nobody waits any more. Dropping the future
    /// does not stop it. `what` is for the log.
    ///
    /// # Errors
    /// What it fails with, or too many updates.
    pub async fn run<W>(
        &self,
        lease: Lease,
        what: String,
        work: impl FnOnce(Arc<Session>, oneshot::Receiver<()>) -> W,
    ) -> Result<Option<u64>, Status>
    where
        W: Future<Output = Result<Option<u64>, ServerError>> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let (_waits, left) = oneshot::channel();
        let work = work(Arc::clone(&lease.session), left);
        self.start(lease, what, work, tell)?;
        match told.await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => Err(status(&error)),
            Err(_) => Err(refuse(
                Code::Unavailable,
                "the server stopped before the statement was done. Check what it did before running it again",
            )),
        }
    }

    fn start(
        &self,
        lease: Lease,
        what: String,
        work: impl Future<Output = Result<Option<u64>, ServerError>> + Send + 'static,
        tell: oneshot::Sender<Result<Option<u64>, ServerError>>,
    ) -> Result<(), Status> {
        let mut applying = self.applying.lock();
        if applying.tasks.len() >= self.max {
            return Err(refuse(
                Code::ResourceExhausted,
                format!(
                    "{} statements are being applied already. Try again later",
                    self.max
                ),
            ));
        }
        applying.next += 1;
        let number = applying.next;
        let owner = Arc::clone(&self.applying);
        // The lock is held until the task is listed: it cannot end unlisted.
        let task = spawn_named("update", async move {
            let outcome = work.await;
            drop(lease);
            if let Err(outcome) = tell.send(outcome) {
                let done = outcome.is_ok();
                tracing::info!(done, sql = %what, "the client of a statement has left");
            }
            owner.lock().tasks.remove(&number);
        });
        applying.tasks.insert(number, task);
        Ok(())
    }

    /// How many are being applied.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.applying.lock().tasks.len()
    }

    /// Waits until all are done, at most `limit`, then aborts the rest.
    pub async fn finish(&self, limit: Duration) {
        let tasks: Vec<_> = {
            let mut applying = self.applying.lock();
            applying.tasks.drain().map(|(_, task)| task).collect()
        };
        let all = futures::future::join_all(tasks.into_iter().map(OwnedTask::join));
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("stopped before every statement was applied");
        }
    }
}
