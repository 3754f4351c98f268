//! Who may start: queries whose calls keep workers wait until those fit.
//!
//! A call of a class or of a table function keeps at least one worker of each
//! process it runs in until its query ends, and calls of one query wait for each
//! other. So a query gets the places for all its calls before it starts, or
//! waits in line for them: queries never hold some and wait for the rest. What its
//! workers ask for is claimed in the same way, before the places: who has places has
//! claimed all it needs, and ends.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use datafusion::physical_plan::ExecutionPlan;
use futures::{Stream, StreamExt};
use mobula_plan::PlacedPool;
use mobula_plan::operator::map_batches::{CallDemand, demands};
use mobula_plan::operator::workers_kept;
use mobula_udfs::resources::Refusal;
use mobula_udfs::{Claim, Ledger};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::coordinator::queries::{Listed, Wait};
use crate::error::ExecutionError;
use crate::holders::kept_by;
use crate::pool::line::{ClusterClaim, ClusterLine, TimedOut};
use crate::pool::placement::Group;
use crate::pool::starter::StartedPools;
use crate::resource_check::{all_workers, asked, groups};

/// How much later a query asks for its actors anew that could not be started.
const AGAIN: Duration = Duration::from_millis(100);

/// The line of queries that want workers.
#[derive(Debug)]
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    max_workers: u32,
    ledger: Arc<Ledger>,
    patience: Duration,
}

/// What a query has on its way to its start.
pub(crate) struct Places {
    /// `None` once it has started.
    listed: Option<Listed>,
    /// `None`: it has not asked.
    granted: Option<Granted>,
    /// The actors that were claimed with it.
    groups: Vec<Group>,
    /// Its actors on other executors.
    pools: Option<StartedPools>,
    /// When they could not be started for the first time.
    refused: Option<Instant>,
}

/// What a query keeps until it ends: nothing, if it keeps no workers.
#[derive(Debug)]
struct Granted {
    _places: Option<OwnedSemaphorePermit>,
    _claim: Option<Claim>,
    /// What its actors are to get over the cluster, until they are started.
    cluster: Option<ClusterClaim>,
}

impl Places {
    /// None yet; the query is `listed`.
    pub(crate) fn new(listed: Listed) -> Self {
        Self {
            listed: Some(listed),
            granted: None,
            groups: vec![],
            pools: None,
            refused: None,
        }
    }

    /// The named `actors` that it calls are told to those who look at queries.
    pub(crate) fn calls(&self, actors: Vec<String>) {
        if let Some(listed) = &self.listed {
            listed.calls(actors);
        }
    }

    /// What its actors are to get.
    pub(crate) fn take_claim(&mut self) -> Option<ClusterClaim> {
        self.granted.as_mut()?.cluster.take()
    }

    /// They are there.
    pub(crate) fn keep(&mut self, pools: StartedPools) -> Vec<PlacedPool> {
        let placed = pools.placed();
        self.pools = Some(pools);
        placed
    }

    /// They could not be started: it asks for all anew, a little later.
    ///
    /// # Errors
    /// When that has gone on for longer than it is patient.
    pub(crate) async fn ask_again(&mut self, reason: String, patience: Duration) -> Result<()> {
        self.granted = None;
        let since = *self.refused.get_or_insert_with(Instant::now);
        if since.elapsed() > patience {
            return Err(external(ExecutionError::ActorsNotStarted {
                reason,
                waited: patience,
            }));
        }
        tracing::warn!(reason, "actors of a query are placed anew");
        self.while_waiting(Wait::Resources("actors".into()), tokio::time::sleep(AGAIN))
            .await;
        Ok(())
    }

    /// `asking`, told to those who look at queries.
    async fn while_waiting<T>(&self, wait: Wait, asking: impl Future<Output = T>) -> T {
        if let Some(listed) = &self.listed {
            listed.wait(wait);
        }
        let answer = asking.await;
        if let Some(listed) = &self.listed {
            listed.go_on();
        }
        answer
    }
}

impl Admission {
    /// Queries keep at most `max_workers` together, with what they claim of `ledger`;
    /// one waits at most `patience` for either.
    pub(crate) fn new(max_workers: usize, ledger: Arc<Ledger>, patience: Duration) -> Self {
        let max_workers = u32::try_from(max_workers).unwrap_or(u32::MAX);
        Self {
            places: Arc::new(Semaphore::new(max_workers as usize)),
            max_workers,
            ledger,
            patience,
        }
    }

    /// Gets what the workers ask for that `plan` keeps, and the places for them, unless
    /// `places` has both already. True when there was a line to wait in, in order of arrival:
    /// what the plan was made from may have changed.
    ///
    /// # Errors
    /// When they will never fit, or did not in time.
    pub(crate) async fn admit(
        &self,
        query_id: &str,
        plan: &Arc<dyn ExecutionPlan>,
        places: &mut Places,
        cluster: Option<&Arc<ClusterLine>>,
    ) -> Result<bool> {
        let calls = demands(plan)?;
        if places.granted.is_some() && places.groups == groups(&calls) {
            return Ok(false);
        }
        // Planned otherwise than before, it asks anew.
        places.granted = None;
        places.groups = groups(&calls);
        let (claim, over_cluster, has_waited) = match cluster {
            None => {
                let (claim, has_waited) = self.claim(query_id, &calls, places).await?;
                (claim, None, has_waited)
            }
            Some(line) => {
                let (claim, has_waited) = self.claim_over(line, query_id, &calls, places).await?;
                (None, claim, has_waited)
            }
        };
        let wanted = workers_kept(plan, cluster.is_some())?;
        let (permit, has_stood) = self.places(wanted, places).await?;
        places.granted = Some(Granted {
            _places: permit,
            _claim: claim,
            cluster: over_cluster,
        });
        Ok(has_waited || has_stood)
    }

    /// As [`Self::claim`], over all hosts of a cluster.
    async fn claim_over(
        &self,
        line: &Arc<ClusterLine>,
        query_id: &str,
        calls: &[CallDemand],
        places: &Places,
    ) -> Result<(Option<ClusterClaim>, bool)> {
        if calls.is_empty() {
            return Ok((None, false));
        }
        let claimed = line.claim(query_id, places.groups.clone(), self.patience);
        let wait = Wait::Resources(asked(calls));
        let claimed = places.while_waiting(wait, claimed).await;
        let (claim, has_waited) = claimed
            .map_err(|TimedOut { holders }| external(self.no_resources(asked(calls), &holders)))?;
        Ok((Some(claim), has_waited))
    }

    fn no_resources(&self, asked: String, holders: &[String]) -> ExecutionError {
        let (holders, way_out) = kept_by(holders);
        ExecutionError::NoResources {
            asked,
            holders,
            way_out,
            waited: self.patience,
        }
    }

    /// How long a query waits.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// What `calls` ask for, and whether it was waited for.
    async fn claim(
        &self,
        query_id: &str,
        calls: &[CallDemand],
        places: &Places,
    ) -> Result<(Option<Claim>, bool)> {
        let demands = all_workers(calls);
        if demands.is_empty() {
            return Ok((None, false));
        }
        let claimed = self.ledger.claim(query_id, demands, self.patience);
        let wait = Wait::Resources(asked(calls));
        let claimed = places.while_waiting(wait, claimed).await;
        let (claim, has_waited) = claimed.map_err(|refusal| {
            let asked = asked(calls);
            external(match refusal {
                Refusal::TimedOut { holders } => self.no_resources(asked, &holders),
                // The plan was checked: this is for whoever has not.
                Refusal::Never => ExecutionError::DemandOfAll {
                    asked,
                    has: "this process has less".to_owned(),
                },
            })
        })?;
        Ok((Some(claim), has_waited))
    }

    /// Places for `wanted` workers, and whether they were waited for.
    async fn places(
        &self,
        wanted: usize,
        places: &Places,
    ) -> Result<(Option<OwnedSemaphorePermit>, bool)> {
        if wanted == 0 {
            return Ok((None, false));
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
            return Ok((Some(granted), false));
        }
        let granted = Arc::clone(&self.places).acquire_many_owned(many);
        let granted = tokio::time::timeout(self.patience, granted);
        let Ok(granted) = places.while_waiting(Wait::Places(wanted), granted).await else {
            return Err(external(ExecutionError::NoPlaces {
                max_workers,
                waited: self.patience,
            }));
        };
        // The semaphore is never closed.
        Ok((granted.ok(), true))
    }
}

fn external(error: ExecutionError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// A query's stream that gives its places back when it ends, and is listed until then.
pub(crate) struct Admitted {
    /// `None` once it has ended.
    inner: Option<Running>,
    schema: SchemaRef,
}

/// The stream goes first, and with it the workers.
struct Running {
    stream: SendableRecordBatchStream,
    _pools: Option<StartedPools>,
    _granted: Option<Granted>,
    _listed: Option<Listed>,
}

impl Admitted {
    pub(crate) fn wrap(
        stream: SendableRecordBatchStream,
        places: &mut Places,
    ) -> SendableRecordBatchStream {
        let listed = places.listed.take();
        if let Some(listed) = &listed {
            listed.run();
        }
        Box::pin(Self {
            schema: stream.schema(),
            inner: Some(Running {
                stream,
                _pools: places.pools.take(),
                _granted: places.granted.take(),
                _listed: listed,
            }),
        })
    }
}

impl Stream for Admitted {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(running) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let polled = running.stream.poll_next_unpin(cx);
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
