//! A task's way to the keyed actors of a query: each lane to the actor of its number.
//!
//! Which lanes a task has is decided by how rows were spread; no two tasks have the same
//! one. So it is the task that keeps beside each lane what its actor has told of its state,
//! and the blocks since (`lane`). Where the actors are it knows from the query's header, and
//! asks the coordinator when one is lost.
//!
//! Bounds: two blocks of each stream on their way.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use async_trait::async_trait;
use mobula_block::BlockError;
use mobula_plan::{PlacedPool, PoolHost};
use mobula_proto::pool::PoolRef;
use mobula_udfs::{AnswerStream, PoolStats, UdfCall, UdfError, UdfPool};
use parking_lot::Mutex;
use url::Url;

use super::directory::Asker;
use super::dispatch::{Found, PoolLine};
use super::lane::Lane;
use crate::actor_calls::link::Place;
use crate::actor_calls::pool::{LaneWay, RemoteActor, Way, answer_to_nothing};

/// Blocks of a lane on their way: one at work, one behind it.
const CREDITS: usize = 2;

/// The keyed actors of one call, as one task reaches them.
#[derive(Debug)]
pub(super) struct KeyedDispatch {
    route: Arc<Route>,
    actors: usize,
    /// By number, from their first block on.
    lanes: Mutex<HashMap<usize, Arc<Lane>>>,
}

/// What all lanes need on their way.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) line: Arc<PoolLine>,
    pub(super) call: Arc<UdfCall>,
    call_id: u64,
    hosts: Mutex<Vec<PoolHost>>,
    figures: Mutex<Figures>,
}

#[derive(Debug, Default)]
struct Figures {
    /// Of ways that are lost.
    past: PoolStats,
    /// By number.
    now: HashMap<usize, Arc<dyn UdfPool>>,
}

impl KeyedDispatch {
    pub(super) fn new(line: &Arc<PoolLine>, call: Arc<UdfCall>, placed: &PlacedPool) -> Self {
        Self {
            actors: placed.actors(),
            route: Arc::new(Route {
                line: Arc::clone(line),
                call,
                call_id: placed.call_id,
                hosts: Mutex::new(placed.hosts.clone()),
                figures: Mutex::default(),
            }),
            lanes: Mutex::default(),
        }
    }

    fn lane(&self, number: usize) -> Arc<Lane> {
        let mut lanes = self.lanes.lock();
        let lane = lanes
            .entry(number)
            .or_insert_with(|| Arc::new(Lane::new(&self.route, number)));
        Arc::clone(lane)
    }
}

#[async_trait]
impl UdfPool for KeyedDispatch {
    async fn call(&self, block: RecordBatch) -> Result<AnswerStream, UdfError> {
        self.call_lane(0, vec![block]).await
    }

    async fn call_each(&self, blocks: Vec<RecordBatch>) -> Result<AnswerStream, UdfError> {
        self.call_lane(0, blocks).await
    }

    /// It asks for no trains, so there is one block.
    async fn call_lane(
        &self,
        lane: usize,
        blocks: Vec<RecordBatch>,
    ) -> Result<AnswerStream, UdfError> {
        let call = &self.route.call;
        let Some(first) = blocks.first() else {
            return Ok(answer_to_nothing(call));
        };
        let block = concat_batches(&first.schema(), &blocks);
        let block = block.map_err(|source| UdfError::Block {
            function: call.spec.name.clone(),
            source: BlockError::Assemble(source),
        })?;
        match block.num_rows() {
            0 => Ok(answer_to_nothing(call)),
            _ => Ok(self.lane(lane).send(block)),
        }
    }

    fn concurrency(&self) -> usize {
        self.actors
    }

    fn stats(&self) -> PoolStats {
        let figures = self.route.figures.lock();
        let now = figures.now.values().map(|pool| pool.stats());
        now.fold(figures.past, PoolStats::plus)
    }
}

impl Route {
    /// Where the actor `number` is, as far as is known: the last place that it was given.
    pub(super) fn host_of(&self, number: usize) -> Option<PoolHost> {
        let hosts = self.hosts.lock();
        let of_lane = hosts.iter().filter(|host| place_of(host, number).is_some());
        of_lane.max_by_key(|host| host.part).cloned()
    }

    /// Asks the coordinator where the actors are now.
    ///
    /// # Errors
    /// When the query has ended.
    pub(super) async fn ask(&self) -> Result<(), UdfError> {
        let nobody = Asker {
            call_id: self.call_id,
            number: 0,
        };
        match self.line.find(&self.call.query, nobody, 0).await {
            Found::Pools(pools) => {
                let mine = pools.into_iter().find(|pool| pool.call_id == self.call_id);
                *self.hosts.lock() = mine.map(|pool| pool.hosts).unwrap_or_default();
                Ok(())
            }
            Found::Nothing => Err(UdfError::ShuttingDown {
                function: self.function(),
            }),
            Found::Failed(_) | Found::NoAnswer => Ok(()),
        }
    }

    /// The way to the actor `number` at `host`, which it has as `generation` from here on.
    ///
    /// # Errors
    /// When it is not there.
    pub(super) fn open(
        &self,
        host: &PoolHost,
        number: usize,
        way: LaneWay,
    ) -> Result<Arc<dyn UdfPool>, UdfError> {
        let gone = || UdfError::PoolGone {
            function: self.function(),
            place: host.executor_id.clone(),
        };
        let lane = place_of(host, number).ok_or_else(gone)? as u64;
        let way = LaneWay { lane, ..way };
        let pool = PoolRef {
            query_id: self.call.query.clone(),
            call_id: self.call_id,
            part: host.part,
        };
        let opened = match host.executor_id == self.line.executor_id {
            true => {
                let opened = self.line.hosting.open_lane(&pool, way)?;
                opened.ok_or_else(gone)?
            }
            false => self.open_elsewhere(host, pool, way)?,
        };
        let mut figures = self.figures.lock();
        let before = figures.now.insert(number, Arc::clone(&opened));
        if let Some(before) = before {
            figures.past = figures.past.plus(before.stats());
        }
        Ok(opened)
    }

    fn open_elsewhere(
        &self,
        host: &PoolHost,
        pool: PoolRef,
        lane: LaneWay,
    ) -> Result<Arc<dyn UdfPool>, UdfError> {
        let place = Place {
            url: Url::parse(&host.url).map_err(|_| UdfError::PoolGone {
                function: self.function(),
                place: host.executor_id.clone(),
            })?,
            channels: self.line.channels.clone(),
            traffic: Arc::clone(&self.line.traffic),
        };
        let way = Way {
            pool: Some(pool),
            member: String::new(),
            credits: CREDITS,
            lane: Some(lane),
        };
        let (call, keep_bytes) = (Arc::clone(&self.call), self.line.keep_bytes);
        Ok(Arc::new(RemoteActor::new(place, call, keep_bytes, way)))
    }

    /// Blocks go out once more, `resent` because nobody has answered them, `replayed` for
    /// the state of an actor.
    pub(super) fn count(&self, resent: u64, replayed: u64) {
        let past = &mut self.figures.lock().past;
        past.retries += resent;
        past.replayed += replayed;
    }

    pub(super) fn function(&self) -> String {
        self.call.spec.name.clone()
    }
}

/// The place of actor `number` among those of `host`.
fn place_of(host: &PoolHost, number: usize) -> Option<usize> {
    let mut slots = host.slots.iter();
    slots.position(|slot| *slot == number as u64)
}
