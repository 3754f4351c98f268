//! A task's way to the actors of a query, wherever they are.
//!
//! Each block goes to the host that `choose` says, and is kept until it is answered. When
//! its host is lost before anything came of it, it goes to another one at once, ahead of
//! new ones: user code may run twice for it, and its rows come out once. A block that has
//! lost `udf_hosts_lost_max` hosts is not given to one more (`losses`), and one that has ended two actors fails.
//! A member of a named pool that is being built anew takes no blocks meanwhile. A task that misses actors asks the
//! coordinator where they are now; where there are none left it waits for that, up to
//! `udf_init_timeout`. The actors of a pool that follows its load may become more or fewer
//! meanwhile: a task that has given each of them something to do asks, too.
//!
//! Rows of a keyed call have their actor by key: `keyed` and `lane` are its way, and
//! `named_lanes` that of named actors.
//!
//! Bounds: two blocks for each actor on their way from each task, sixteen where it is
//! async.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use mobula_plan::PlacedPool;
use mobula_proto::pool::{ACTION_POOLS_FIND, FindPools, FoundPools};
use mobula_udfs::{
    ActorHost, Answer, AnswerStream, Down, PoolStats, UdfCall, UdfError, UdfErrorClass, UdfPool,
};
use prost::Message;
use url::Url;

use super::directory::{Asker, Directory, from_wire};
use super::ends::{Ends, Turn};
use super::hosting::Hosting;
use super::keyed::KeyedDispatch;
use super::loads::Loads;
use super::losses::Losses;
use super::named_lanes::NamedLanes;
use crate::actor_calls::pool::answer_to_nothing;
use crate::exchange::action::act;
use crate::exchange::channels::ChannelPool;
use crate::exchange::traffic::Traffic;

/// A block that has ended so many actors of a pool is to blame.
const ENDED_MAX: u32 = 2;
/// The coordinator is asked for so long where actors are.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// What the tasks of this process need on their way to placed actors.
#[derive(Debug)]
pub struct PoolLine {
    pub executor_id: String,
    /// The actors of this process: those of queries, and named ones.
    pub hosting: Arc<Hosting>,
    pub actors: Arc<ActorHost>,
    pub channels: ChannelPool,
    pub traffic: Arc<Traffic>,
    /// Bytes of answers to one block that may wait for their reader.
    pub keep_bytes: usize,
    /// How long a task waits for actors where there are none.
    pub patience: Duration,
    /// How many hosts may be lost with one block on its way.
    pub hosts_lost_max: u32,
    /// Of the coordinator, in its process.
    pub directory: Arc<Directory>,
    /// Where it is, for others.
    pub coordinator: OnceLock<Url>,
    /// Blocks of its tasks on their way to named actors.
    pub loads: Loads,
    /// Ways to actors that were opened so far.
    pub opened: AtomicUsize,
    /// Of the coordinator, in its process: the states of named actors.
    pub named: Arc<NamedLanes>,
}

impl PoolLine {
    /// From now on the coordinator is at `url`.
    pub fn lead_to(&self, url: Url) {
        // An executor has one coordinator for life.
        let _ = self.coordinator.set(url);
    }

    /// The way of `call` to the actors that `placed` names.
    ///
    /// # Errors
    /// An address that is none.
    pub fn open(
        self: &Arc<Self>,
        call: Arc<UdfCall>,
        placed: &PlacedPool,
    ) -> Result<Arc<dyn UdfPool>, UdfError> {
        if call.handling.keyed.is_some() && !placed.actor.is_empty() {
            return self.open_named(&call);
        }
        if call.handling.keyed.is_some() {
            return Ok(Arc::new(KeyedDispatch::new(self, call, placed)));
        }
        let ends = Ends::new(self, call, placed);
        Ok(Arc::new(DispatchPool { ends }))
    }

    /// Where the pools of `query` are now; `asker` has so many blocks `waiting` for them.
    pub(super) async fn find(&self, query: &str, asker: Asker, waiting: u64) -> Found {
        let Some(url) = self.coordinator.get() else {
            let found = self.directory.find_for(query, asker, waiting);
            let failure = self.directory.failure(query);
            return found.map_or(Found::Nothing, |pools| Found::of(pools, failure));
        };
        let request = FindPools {
            query_id: query.to_owned(),
            asker: asker.number,
            waiting,
            call_id: asker.call_id,
        };
        let body = request.encode_to_vec();
        let answer = act(&self.channels, url, ACTION_POOLS_FIND, body, ASK_TIMEOUT).await;
        match answer {
            Ok(body) => match FoundPools::decode(body.as_slice()) {
                Ok(found) => Found::of(from_wire(found.pools), found.failure),
                Err(_) => Found::NoAnswer,
            },
            Err(status) if status.code() == tonic::Code::NotFound => Found::Nothing,
            Err(_) => Found::NoAnswer,
        }
    }
}

/// What the coordinator says.
pub(super) enum Found {
    Pools(Vec<PlacedPool>),
    /// There are none, nor soon will be: they cannot be built, for this reason.
    Failed(String),
    /// There are none: the query has ended, or the actor was dropped.
    Nothing,
    NoAnswer,
}

impl Found {
    fn of(pools: Vec<PlacedPool>, failure: Option<String>) -> Self {
        failure.map_or(Self::Pools(pools), Self::Failed)
    }
}

/// The actors of one call, as one task reaches them.
#[derive(Debug)]
struct DispatchPool {
    ends: Arc<Ends>,
}

/// Whether `error` is of the way to actors, or of their host, and not of what they do.
pub(super) fn is_loss(error: &UdfError) -> bool {
    match error {
        // The actor is there, and says why it cannot do it.
        UdfError::WorkerLost { .. } | UdfError::ActorFailed { .. } => false,
        error => error.class() == UdfErrorClass::Lost,
    }
}

/// A block on its way.
struct Sending {
    ends: Arc<Ends>,
    /// Several small ones travel together.
    blocks: Vec<RecordBatch>,
    turn: Turn,
    answers: AnswerStream,
    /// Whether the reader has had any of what came of it.
    passed_on: bool,
    losses: Losses,
    /// Actors of a pool that it has ended.
    ended: u32,
}

/// Gives `blocks` to an end, and to another one if that is lost.
async fn send(
    ends: &Arc<Ends>,
    blocks: &[RecordBatch],
    losses: &mut Losses,
) -> Result<(Turn, AnswerStream), UdfError> {
    loop {
        let turn = ends.turn().await?;
        match turn.pool.call_each(blocks.to_vec()).await {
            Ok(answers) => return Ok((turn, answers)),
            Err(error) if is_loss(&error) => {
                if let Some(error) = turn.failed(&error) {
                    return Err(error);
                }
                // Who refuses it has not lost it.
                if !turn.lost(&error) {
                    losses.add(error)?;
                    ends.count_resent();
                }
            }
            Err(error) => return Err(error),
        }
    }
}

async fn next(sending: Option<Sending>) -> Option<(Result<Answer, UdfError>, Option<Sending>)> {
    let mut sending = sending?;
    loop {
        let error = match sending.answers.next().await {
            Some(Ok(answer)) => {
                sending.passed_on = true;
                return Some((Ok(answer), Some(sending)));
            }
            None => return None,
            Some(Err(error)) => error,
        };
        if let Some(error) = sending.turn.failed(&error) {
            return Some((Err(error), None));
        }
        let is_refused = is_loss(&error) && sending.turn.lost(&error);
        // To find an actor that is being built is no retry.
        let mut was_begun = !is_refused;
        let error = match error {
            UdfError::ActorDown {
                down: Down::Begun(cause),
                function,
            } => {
                sending.ended += 1;
                was_begun = true;
                if sending.ended == ENDED_MAX {
                    return Some((Err(*cause), None));
                }
                let down = Down::Begun(cause);
                UdfError::ActorDown { function, down }
            }
            error => error,
        };
        if !is_loss(&error) || sending.passed_on {
            return Some((Err(error), None));
        }
        if !is_refused && let Err(error) = sending.losses.add(error) {
            return Some((Err(error), None));
        }
        let Sending {
            ends,
            blocks,
            turn,
            mut losses,
            ended,
            ..
        } = sending;
        if was_begun {
            ends.count_resent();
        }
        drop(turn);
        let (turn, answers) = match send(&ends, &blocks, &mut losses).await {
            Ok(sent) => sent,
            Err(error) => return Some((Err(error), None)),
        };
        sending = Sending {
            ends,
            blocks,
            turn,
            answers,
            passed_on: false,
            losses,
            ended,
        };
    }
}

#[async_trait]
impl UdfPool for DispatchPool {
    async fn call(&self, block: RecordBatch) -> Result<AnswerStream, UdfError> {
        if block.num_rows() == 0 {
            return Ok(answer_to_nothing(self.ends.call()));
        }
        self.call_each(vec![block]).await
    }

    async fn call_each(&self, blocks: Vec<RecordBatch>) -> Result<AnswerStream, UdfError> {
        let mut losses = Losses::of(&self.ends.call().spec.name, self.ends.hosts_lost_max());
        let (turn, answers) = send(&self.ends, &blocks, &mut losses).await?;
        let sending = Sending {
            ends: Arc::clone(&self.ends),
            blocks,
            turn,
            answers,
            passed_on: false,
            losses,
            ended: 0,
        };
        Ok(stream::unfold(Some(sending), next).boxed())
    }

    fn train(&self) -> usize {
        self.ends.train()
    }

    fn concurrency(&self) -> usize {
        self.ends.actors()
    }

    fn stats(&self) -> PoolStats {
        self.ends.stats()
    }
}
