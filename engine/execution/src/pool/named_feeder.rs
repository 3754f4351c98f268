//! Feeds one lane of a named actor: blocks of all queries, one after the other.
//!
//! It is the sender whose blocks an actor's state is made of, and so it keeps what an actor in
//! place of another goes on from: the last state that was told, and the blocks since with the
//! calls that they came by (ADR 23, 26). Where an actor is lost with its host, or the way to it
//! breaks, the next one is given that as another generation, then the block that was not
//! answered. What another one than the last says has nobody that hears it.
//!
//! An actor that cannot tell its state begins anew, as its constructor makes it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use futures::stream::StreamExt;
use mobula_block::size::block_bytes;
use mobula_plan::PoolHost;
use mobula_udfs::{Answer, KeptShare, UdfCall, UdfError, UdfPool, member_key};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use url::Url;

use super::dispatch::PoolLine;
use super::lane::{ASK_EVERY, Part, Stop, answered, stop};
use super::losses::Losses;
use super::named_lanes::{Figures, Members};
use super::placed_actor::directory_key;
use crate::actor_calls::link::Place;
use crate::actor_calls::pool::{LaneWay, RemoteActor, Way};

/// Ways to an actor that are kept open, each for one call.
const WAYS_KEPT: usize = 8;
/// Blocks of a lane on their way.
const CREDITS: usize = 2;

/// A block, and who wants to know what comes of it.
pub(super) struct Given {
    pub(super) line: Arc<PoolLine>,
    pub(super) call: Arc<UdfCall>,
    pub(super) block: RecordBatch,
    pub(super) reader: mpsc::Sender<Part>,
    pub(super) figures: Arc<Mutex<Figures>>,
}

/// Feeds a lane.
pub(super) struct Feeder {
    members: Arc<Members>,
    lane: usize,
    generations: Arc<AtomicU64>,
    /// The actor that has the lane; `None`: it is looked for.
    at: Option<Tenure>,
    /// The one that was lost last, before it had caught up.
    lost: Option<Tenure>,
    /// What an actor has told last; `None`: it is as the constructor made it.
    snapshot: Option<Buffer>,
    /// Blocks answered after that, and by which call.
    since: Vec<(Arc<UdfCall>, RecordBatch)>,
    share: KeptShare,
}

/// What one actor has of a lane.
struct Tenure {
    host: PoolHost,
    generation: u64,
    /// The ways to it, each of a call: the last used last.
    ways: Vec<(Arc<UdfCall>, Arc<dyn UdfPool>)>,
    /// Whether it has been given the state.
    is_ready: bool,
}

impl Feeder {
    pub(super) fn new(
        members: &Arc<Members>,
        lane: usize,
        generations: Arc<AtomicU64>,
        share: KeptShare,
    ) -> Self {
        Self {
            members: Arc::clone(members),
            lane,
            generations,
            at: None,
            lost: None,
            snapshot: None,
            since: vec![],
            share,
        }
    }

    pub(super) async fn run(mut self, mut blocks: mpsc::UnboundedReceiver<Given>) {
        while let Some(given) = blocks.recv().await {
            // What nobody reads any more has not been begun.
            if given.reader.is_closed() {
                continue;
            }
            if let Err(error) = self.answer(&given).await {
                let _ = given.reader.send(Err(error)).await;
            }
        }
    }

    /// Has a block answered by one actor after the other, until one does.
    async fn answer(&mut self, given: &Given) -> Result<(), UdfError> {
        let function = given.call.spec.name.as_str();
        self.share.states().check(function)?;
        let (mut lost, mut reason) = (BTreeSet::new(), String::new());
        let mut losses = Losses::of(function, given.line.hosts_lost_max);
        let (mut missed_since, patience) = (None, given.line.patience);
        loop {
            self.find(given, &reason).await?;
            let error = match self.once(given).await {
                Ok(()) => return Ok(()),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Lost(error)) => error,
            };
            given.figures.lock().count(1, 0);
            let since = *missed_since.get_or_insert_with(Instant::now);
            // A host that is lost is named until that is known.
            let member = self.at.take().or_else(|| self.lost.take());
            let host = member.map(|tenure| tenure.host);
            if since.elapsed() >= patience {
                return Err(error);
            }
            reason = error.to_string();
            if host.is_some_and(|host| lost.insert((host.executor_id, host.part))) {
                tracing::warn!(
                    function,
                    reason,
                    "a keyed actor is lost; another goes on from its state"
                );
                losses.add(error)?;
            }
        }
    }

    /// Sees to it that the lane has an actor; waits for one where there is none. `reason`: why
    /// the one before was lost.
    async fn find(&mut self, given: &Given, reason: &str) -> Result<(), UdfError> {
        if self.at.is_some() {
            return Ok(());
        }
        let (function, patience) = (&given.call.spec.name, given.line.patience);
        let (key, since) = (directory_key(&self.members.name), Instant::now());
        if !reason.is_empty() {
            // Whoever knows of the loss takes a moment to hear of it.
            tokio::time::sleep(ASK_EVERY).await;
        }
        loop {
            let directory = &given.line.directory;
            let pools = directory.find(&key);
            let pools = pools.ok_or_else(|| self.members.gone(function))?;
            let hosts: Vec<_> = pools.into_iter().flat_map(|pool| pool.hosts).collect();
            if let Some(host) = self.members.host_of(self.lane, &hosts, function)? {
                self.at = Some(Tenure {
                    host,
                    generation: self.generations.fetch_add(1, Ordering::Relaxed) + 1,
                    ways: vec![],
                    is_ready: false,
                });
                return Ok(());
            }
            let failure = directory.failure(&key);
            if let Some(reason) = failure {
                return Err(UdfError::ActorFailed {
                    function: function.clone(),
                    actor: self.members.name.clone(),
                    reason,
                });
            }
            if since.elapsed() >= patience {
                return Err(UdfError::NoActors {
                    function: function.clone(),
                    reason: reason.to_owned(),
                    waited: patience,
                });
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Has the actor that there is answer a block.
    async fn once(&mut self, given: &Given) -> Result<(), Stop> {
        if let Err(stop) = self.catch_up(given).await {
            // It has seen a part of it.
            self.lost = self.at.take();
            return Err(stop);
        }
        let way = self.way(&given.line, &given.call).map_err(stop)?;
        given.figures.lock().goes_by(self.lane, &way);
        let block = given.block.clone();
        let told = answered(&way, block, &given.reader, given.line.keep_bytes).await?;
        if let Some(tenure) = &mut self.at {
            tenure.is_ready = true;
        }
        match told {
            Some(state) => {
                self.snapshot = Some(state);
                self.since.clear();
            }
            None if way.keeps_state() => {
                let seen = (Arc::clone(&given.call), given.block.clone());
                self.since.push(seen);
            }
            None => {}
        }
        self.count();
        Ok(())
    }

    /// Has an actor that is new see what was answered after the state that it is given.
    async fn catch_up(&mut self, given: &Given) -> Result<(), Stop> {
        if self.at.as_ref().is_none_or(|tenure| tenure.is_ready) {
            return Ok(());
        }
        let mut seen = 0;
        while let Some((call, block)) = self.since.get(seen).cloned() {
            let way = self.way(&given.line, &call).map_err(stop)?;
            let answers = way.call(block).await.map_err(stop)?;
            let answers: Vec<Result<Answer, UdfError>> = answers.collect().await;
            given.figures.lock().count(0, 1);
            seen += 1;
            let mut told = None;
            for answer in answers {
                // All else is out already.
                if let Answer::Snapshot(state) = answer.map_err(stop)? {
                    told = Some(state);
                }
            }
            if let Some(tenure) = &mut self.at {
                tenure.is_ready = true;
            }
            if let Some(state) = told {
                self.snapshot = Some(state);
                self.since.drain(..seen);
                seen = 0;
                self.count();
            }
        }
        Ok(())
    }

    /// The way of `call` to the actor that has the lane.
    fn way(
        &mut self,
        line: &Arc<PoolLine>,
        call: &Arc<UdfCall>,
    ) -> Result<Arc<dyn UdfPool>, UdfError> {
        let gone = self.members.gone(&call.spec.name);
        let tenure = self.at.as_mut().ok_or(gone)?;
        let found = tenure.ways.iter().position(|(of, _)| Arc::ptr_eq(of, call));
        let way = match found {
            Some(at) => tenure.ways.remove(at).1,
            None => {
                // Once it has the state, it has had more than that.
                let snapshot = self.snapshot.clone().filter(|_| !tenure.is_ready);
                let lane = LaneWay {
                    lane: 0,
                    generation: tenure.generation,
                    snapshot,
                };
                open(line, &self.members.name, &tenure.host, call, lane)?
            }
        };
        if tenure.ways.len() >= WAYS_KEPT {
            tenure.ways.remove(0);
        }
        tenure.ways.push((Arc::clone(call), Arc::clone(&way)));
        Ok(way)
    }

    fn count(&mut self) {
        let since = self.since.iter().map(|(_, block)| block_bytes(block));
        let state = self.snapshot.as_ref().map_or(0, Buffer::len);
        self.share.set(state + since.sum::<usize>());
    }
}

/// The way of `call` to the member of the actors `name` at `host`, which it has as `lane` says.
fn open(
    line: &Arc<PoolLine>,
    name: &str,
    host: &PoolHost,
    call: &Arc<UdfCall>,
    lane: LaneWay,
) -> Result<Arc<dyn UdfPool>, UdfError> {
    let gone = || UdfError::PoolGone {
        function: call.spec.name.clone(),
        place: host.executor_id.clone(),
    };
    let member = member_key(name, host.part);
    if host.executor_id == line.executor_id {
        let state = (lane.generation, lane.snapshot);
        return match line.actors.open_keyed(&member, Arc::clone(call), state) {
            Ok(opened) => opened.ok_or_else(gone),
            Err(UdfError::ActorElsewhere { .. }) => Err(gone()),
            Err(error) => Err(error),
        };
    }
    let place = Place {
        url: Url::parse(&host.url).map_err(|_| gone())?,
        channels: line.channels.clone(),
        traffic: Arc::clone(&line.traffic),
    };
    let way = Way {
        pool: None,
        member,
        credits: CREDITS,
        lane: Some(lane),
    };
    let keep_bytes = line.keep_bytes;
    Ok(Arc::new(RemoteActor::new(
        place,
        Arc::clone(call),
        keep_bytes,
        way,
    )))
}
