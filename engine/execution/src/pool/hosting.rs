//! The pools of queries that live in this process.
//!
//! The coordinator starts and ends them, and looks at what they do. A host that has lost its
//! coordinator, or has to register with it again, ends them all: nobody knows of them any more.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mobula_proto::pool::{PoolLoad, PoolRef, StartPool, StartPools};
use mobula_udfs::resources::Refusal;
use mobula_udfs::{
    ActorPool, Claim, Demand, Language, Ledger, NativeFunctions, UdfCall, UdfError, UdfPool,
    WorkerManager,
};
use parking_lot::Mutex;
use tonic::Status;

use crate::actor_calls::as_us;
use crate::actor_calls::pool::LaneWay;

/// How long resources are waited for that are free by the coordinator's book: workers of
/// a query that is gone may not have ended yet.
const ENDING: Duration = Duration::from_secs(10);
/// Queries that may have pools here.
const QUERIES_MAX: usize = 4096;
/// How often it is looked whether a part that ends is through with its blocks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Holds pools for queries.
#[derive(Debug)]
pub struct Hosting {
    manager: Arc<WorkerManager>,
    ledger: Arc<Ledger>,
    native: NativeFunctions,
    executor_id: String,
    queries: Mutex<HashMap<String, Parts>>,
}

/// The pools of one query.
#[derive(Debug, Default)]
struct Parts {
    /// Those that were started together, by number.
    there: HashMap<u64, Arc<Hosted>>,
    /// Parts that were to end before they had come.
    ended: BTreeSet<u64>,
}

/// Some pools of one query.
#[derive(Debug)]
struct Hosted {
    pools: HashMap<u64, ActorPool>,
    /// What their workers ask for.
    _claim: Option<Claim>,
}

impl Hosting {
    /// Without pools; `native` are the functions of this program, which is executor
    /// `executor_id`.
    pub fn new(
        manager: Arc<WorkerManager>,
        ledger: Arc<Ledger>,
        native: NativeFunctions,
        executor_id: &str,
    ) -> Self {
        Self {
            manager,
            ledger,
            native,
            executor_id: executor_id.to_owned(),
            queries: Mutex::default(),
        }
    }

    /// Starts pools of a query, all or none.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when others have what they ask for, INVALID_ARGUMENT for what
    /// is no pool, CANCELLED when they were to end meanwhile, and why an actor cannot be
    /// built that is to be ready by then.
    pub async fn start(&self, request: StartPools) -> Result<(), Status> {
        let StartPools {
            query_id,
            pools,
            part,
            is_built,
        } = request;
        // Each part has a claim of its own.
        let claimed = format!("{query_id}/{part}");
        let pools = pools.into_iter().map(|pool| opened(pool, &claimed));
        let pools = pools.collect::<Result<Vec<_>, _>>()?;
        let demands = pools.iter().flat_map(Asked::demands);
        let demands: Vec<_> = demands.filter(Demand::takes_resources).collect();
        let claim = match demands.is_empty() {
            true => None,
            false => Some(self.claim(&claimed, demands).await?),
        };
        let started = pools.into_iter().map(|pool| {
            let call_id = pool.call_id;
            self.opened(pool).map(|started| (call_id, started))
        });
        let started = started.collect::<Result<_, UdfError>>();
        let hosted = Arc::new(Hosted {
            pools: started.map_err(|e| Status::failed_precondition(e.to_string()))?,
            _claim: claim,
        });
        self.add(&query_id, part, &hosted)?;
        if is_built && let Err(error) = hosted.prepare().await {
            self.take(&query_id, part);
            return Err(Status::failed_precondition(error.to_string()));
        }
        Ok(())
    }

    fn add(&self, query_id: &str, part: u64, hosted: &Arc<Hosted>) -> Result<(), Status> {
        let mut queries = self.queries.lock();
        if queries.len() >= QUERIES_MAX && !queries.contains_key(query_id) {
            let full = format!("{QUERIES_MAX} queries have actors here already");
            return Err(Status::resource_exhausted(full));
        }
        let parts = queries.entry(query_id.to_owned()).or_default();
        if parts.ended.remove(&part) {
            return Err(Status::cancelled("they were to end before they had come"));
        }
        parts.there.insert(part, Arc::clone(hosted));
        Ok(())
    }

    /// Takes a part out; no task finds it any more.
    fn take(&self, query_id: &str, part: u64) -> Option<Arc<Hosted>> {
        let mut queries = self.queries.lock();
        queries.get_mut(query_id)?.there.remove(&part)
    }

    /// Ends one part of the pools of a query, or sees to it that it does not come: blocks at
    /// work may take `limit`, others are refused, for other parts.
    pub async fn retire(&self, query_id: &str, part: u64, limit: Duration) {
        let Some(hosted) = self.take(query_id, part) else {
            let mut queries = self.queries.lock();
            // Known until the query ends.
            let parts = queries.entry(query_id.to_owned()).or_default();
            parts.ended.insert(part);
            return;
        };
        hosted.pools.values().for_each(ActorPool::retire);
        let began = Instant::now();
        while hosted.is_at_work() && began.elapsed() < limit {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What the pools of these queries do.
    pub fn loads(&self, query_ids: &[String]) -> Vec<PoolLoad> {
        let queries = self.queries.lock();
        let found = query_ids
            .iter()
            .filter_map(|id| Some((id, queries.get(id)?)));
        let parts = found.flat_map(|(id, parts)| {
            let there = parts.there.iter();
            there.map(move |(part, hosted)| (id, *part, hosted))
        });
        let loads = parts.flat_map(|(id, part, hosted)| {
            let pools = hosted.pools.iter();
            pools.map(move |(call_id, pool)| {
                let load = pool.load();
                PoolLoad {
                    query_id: id.clone(),
                    call_id: *call_id,
                    part,
                    queue: load.queue as u64,
                    is_at_work: load.is_at_work,
                    is_ready: load.is_ready,
                    calls: load.calls,
                    busy_us: as_us(load.busy),
                }
            })
        });
        loads.collect()
    }

    fn opened(&self, pool: Asked) -> Result<ActorPool, UdfError> {
        let (call, actors) = (Arc::new(pool.call), pool.actors);
        match call.spec.language {
            Language::Python => ActorPool::try_new(&self.manager, call, [pool.least, actors]),
            Language::Native => {
                let open = Arc::clone(&call);
                let (id, ledger) = (&self.executor_id, &self.ledger);
                let threads = self.native.threads(open, actors, id, ledger)?;
                let place = self.executor_id.clone();
                Ok(ActorPool::native(threads, call, actors, place))
            }
        }
    }

    async fn claim(&self, name: &str, demands: Vec<Demand>) -> Result<Claim, Status> {
        let claimed = self.ledger.claim(name, demands, ENDING).await;
        let (claim, _) = claimed.map_err(|refusal| {
            Status::resource_exhausted(match refusal {
                Refusal::Never => "there is not as much here".to_owned(),
                Refusal::TimedOut { holders } => format!("kept by {}", holders.join(", ")),
            })
        })?;
        Ok(claim)
    }

    /// Ends the pools of a query.
    pub fn end(&self, query_id: &str) {
        drop(self.queries.lock().remove(query_id));
    }

    /// The queries with pools here.
    pub fn queries(&self) -> Vec<String> {
        self.queries.lock().keys().cloned().collect()
    }

    /// Ends all; tells of how many queries.
    pub fn clear(&self) -> usize {
        let all = std::mem::take(&mut *self.queries.lock());
        all.len()
    }

    /// A way to a pool, with what its query calls; `None`: it is not here.
    ///
    /// # Errors
    /// What keeps it from being opened.
    pub fn open(&self, pool: &PoolRef) -> Result<Option<Arc<dyn UdfPool>>, UdfError> {
        self.find(pool, ActorPool::open)
    }

    /// The way to the actor of a lane of a keyed call, see [`ActorPool::open_lane`].
    ///
    /// # Errors
    /// As of [`Self::open`], and to who comes too late.
    pub fn open_lane(
        &self,
        pool: &PoolRef,
        LaneWay {
            lane,
            generation,
            snapshot,
        }: LaneWay,
    ) -> Result<Option<Arc<dyn UdfPool>>, UdfError> {
        let lane = usize::try_from(lane).unwrap_or(usize::MAX);
        self.find(pool, |pool| pool.open_lane(lane, generation, snapshot))
    }

    fn find(
        &self,
        pool: &PoolRef,
        open: impl FnOnce(&ActorPool) -> Result<Arc<dyn UdfPool>, UdfError>,
    ) -> Result<Option<Arc<dyn UdfPool>>, UdfError> {
        let queries = self.queries.lock();
        let parts = queries.get(&pool.query_id);
        let hosted = parts.and_then(|parts| parts.there.get(&pool.part));
        let found = hosted.and_then(|hosted| hosted.pools.get(&pool.call_id));
        found.map(open).transpose()
    }
}

impl Hosted {
    /// Has one actor of each ready.
    async fn prepare(&self) -> Result<(), UdfError> {
        for pool in self.pools.values() {
            pool.prepare().await?;
        }
        Ok(())
    }

    fn is_at_work(&self) -> bool {
        let mut pools = self.pools.values();
        pools.any(|pool| pool.load().is_at_work)
    }
}

/// A pool that is asked for.
struct Asked {
    call_id: u64,
    call: UdfCall,
    least: usize,
    actors: usize,
}

impl Asked {
    fn demands(&self) -> impl Iterator<Item = Demand> {
        std::iter::repeat_n(self.call.handling.demand.clone(), self.actors)
    }
}

fn opened(pool: StartPool, claimed: &str) -> Result<Asked, Status> {
    let malformed =
        |problem: String| Status::invalid_argument(format!("this is no pool: {problem}"));
    let mut call = UdfCall::decode(&pool.udf_call).map_err(|e| malformed(e.to_string()))?;
    call.timeout = pool.timeout_us.map(Duration::from_micros);
    call.max_errors = pool.max_errors;
    claimed.clone_into(&mut call.query);
    let number = |n: u64| usize::try_from(n).map_err(|e| malformed(e.to_string()));
    Ok(Asked {
        call_id: pool.call_id,
        call,
        least: number(pool.least)?,
        actors: number(pool.actors)?.max(1),
    })
}

#[cfg(test)]
mod tests {
    use mobula_udfs::{Capacity, WorkerSettings};

    use super::*;

    fn hosting() -> Hosting {
        let manager = WorkerManager::new(WorkerSettings::default());
        let ledger = Ledger::new(Capacity::default());
        Hosting::new(manager, ledger, NativeFunctions::default(), "host")
    }

    fn start(part: u64) -> StartPools {
        StartPools {
            query_id: "q".to_owned(),
            part,
            ..StartPools::default()
        }
    }

    #[tokio::test]
    async fn what_is_told_to_end_before_it_has_come_does_not_come() {
        let hosting = hosting();
        hosting.start(start(1)).await.unwrap();
        hosting.retire("q", 2, Duration::ZERO).await;
        let told = hosting.start(start(2)).await.unwrap_err();
        assert_eq!(told.code(), tonic::Code::Cancelled);
        hosting.start(start(3)).await.unwrap();
        assert!(hosting.take("q", 2).is_none());
        hosting.retire("q", 1, Duration::ZERO).await;
        assert!(hosting.take("q", 1).is_none());
        // Of a query that has nothing here yet, too: it is known until its end.
        hosting.retire("r", 7, Duration::ZERO).await;
        assert_eq!(hosting.queries().len(), 2);
        hosting.end("r");
        hosting.end("q");
        assert!(hosting.queries().is_empty());
        assert_eq!(hosting.loads(&["q".to_owned()]), []);
    }
}
