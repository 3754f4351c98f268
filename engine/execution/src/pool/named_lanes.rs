//! The keyed actors among placed named ones: which actor has which keys, for all queries.
//!
//! Kept by the process that queries are sent to, which knows of its actors for as long as they
//! have a name. Each actor of a pool has a lane, by number: a key has the same one in all
//! queries. All rows that come for a lane, of whatever query, pass through its one feeder
//! (`named_feeder`), which has one block of them answered after the other, and keeps beside the
//! lane the state that outlives the actor, its host and the queries. Tasks of other processes
//! reach it by an exchange with this one.
//!
//! Bounds: two blocks of each stream on their way; of what is kept, `actor_states_max_bytes`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use mobula_plan::PoolHost;
use mobula_udfs::{AnswerStream, KeptStates, PoolStats, UdfCall, UdfError, UdfPool, one_by_one};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::dispatch::PoolLine;
use super::lane::{ANSWERS_WAITING, reading};
use super::named_feeder::{Feeder, Given};
use crate::actor_calls::link::Place;
use crate::actor_calls::pool::{LaneWay, RemoteActor, Way, answer_to_nothing};
use crate::spawn::{OwnedTask, spawn_named};

/// Blocks of a task on their way to a lane in another process.
const CREDITS: usize = 2;

/// The named actors that have been called by key.
#[derive(Debug)]
pub struct NamedLanes {
    names: Mutex<Names>,
    /// What is kept of all of them.
    states: Arc<KeptStates>,
    /// The last who has a lane: whoever takes over has a higher number, also of one that
    /// replaces another of its name.
    generations: Arc<AtomicU64>,
}

/// The placed named actors there are, and those of them that have lanes.
#[derive(Debug, Default)]
struct Names {
    /// By name, how many actors it has; `None`: a number that follows the load. A call may
    /// have been planned before that was altered: it is not what lanes begin with.
    sizes: HashMap<String, Option<usize>>,
    keyed: HashMap<String, Arc<KeyedActor>>,
}

/// One of them, or a pool.
#[derive(Debug)]
struct KeyedActor {
    lanes: Vec<NamedLane>,
    members: Arc<Members>,
}

/// A lane, and who feeds it.
#[derive(Debug)]
struct NamedLane {
    /// Bounded by who gives blocks: two of each stream at a time.
    blocks: mpsc::UnboundedSender<Given>,
    _feeder: OwnedTask<()>,
}

/// Which actor has which lane.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) name: String,
    /// By lane, the number of the member that has it.
    had: Mutex<Vec<Option<u64>>>,
    /// It was dropped or replaced.
    is_over: AtomicBool,
}

impl NamedLanes {
    /// Without any; what is kept is counted in `states`.
    pub fn new(states: Arc<KeptStates>) -> Self {
        Self {
            names: Mutex::default(),
            states,
            generations: Arc::default(),
        }
    }

    /// Those called `name` are others from now on, `size` of them, without states; `None`: as
    /// many as the load asks for.
    pub fn put(&self, name: &str, size: Option<usize>) {
        let mut names = self.names.lock();
        names.sizes.insert(name.to_owned(), size);
        names.forget(name);
    }

    /// There are none called `name` any more: calls of them fail.
    pub fn remove(&self, name: &str) {
        let mut names = self.names.lock();
        names.sizes.remove(name);
        names.forget(name);
    }

    /// Those called `name` are `size` from now on, unless as many others have keys: that
    /// number is given back then. Calls that were planned for another are refused.
    ///
    /// # Errors
    /// How many have keys.
    pub fn resize(&self, name: &str, size: Option<usize>) -> Result<(), usize> {
        let mut names = self.names.lock();
        let keyed = names.keyed.get(name).map(|actor| actor.lanes.len());
        if let Some(lanes) = keyed.filter(|lanes| size != Some(*lanes)) {
            return Err(lanes);
        }
        names.sizes.insert(name.to_owned(), size);
        Ok(())
    }

    /// The lanes of the actors called `name`, of which the call of `function` was planned for
    /// `count`.
    fn of(&self, name: &str, count: usize, function: &str) -> Result<Arc<KeyedActor>, UdfError> {
        let mut names = self.names.lock();
        match names.sizes.get(name) {
            Some(size) if *size == Some(count) => {}
            Some(_) => {
                return Err(UdfError::ActorChanged {
                    function: function.to_owned(),
                    actor: name.to_owned(),
                });
            }
            None => {
                return Err(UdfError::ActorGone {
                    function: function.to_owned(),
                    actor: name.to_owned(),
                });
            }
        }
        let keyed = names.keyed.entry(name.to_owned());
        let actor = keyed.or_insert_with(|| Arc::new(self.with_lanes(name.to_owned(), count)));
        Ok(Arc::clone(actor))
    }

    fn with_lanes(&self, name: String, count: usize) -> KeyedActor {
        let members = Arc::new(Members {
            name,
            had: Mutex::new(vec![None; count]),
            is_over: AtomicBool::new(false),
        });
        let lane = |lane| {
            let (blocks, given) = mpsc::unbounded_channel();
            let share = KeptStates::share(&self.states);
            let generations = Arc::clone(&self.generations);
            let feeder = Feeder::new(&members, lane, generations, share);
            NamedLane {
                blocks,
                _feeder: spawn_named("named-lane", feeder.run(given)),
            }
        };
        KeyedActor {
            lanes: (0..count).map(lane).collect(),
            members: Arc::clone(&members),
        }
    }
}

impl Names {
    /// Forgets the states of those called `name`.
    fn forget(&mut self, name: &str) {
        if let Some(gone) = self.keyed.remove(name) {
            gone.members.is_over.store(true, Ordering::Release);
        }
    }
}

/// The named actor that `call` is of, and how many there are.
fn called(call: &UdfCall) -> (String, usize) {
    let name = call.spec.actor.as_ref().map(|method| method.actor.clone());
    let actors = call.handling.keyed.map_or(1, |keyed| keyed.actors);
    let actors = usize::try_from(actors).unwrap_or(1).max(1);
    (name.unwrap_or_default(), actors)
}

impl Members {
    /// Which of `hosts` has `lane`: who has had it, or one that has none.
    ///
    /// # Errors
    /// When these are not the actors of their name any more.
    pub(super) fn host_of(
        &self,
        lane: usize,
        hosts: &[PoolHost],
        function: &str,
    ) -> Result<Option<PoolHost>, UdfError> {
        if self.is_over.load(Ordering::Acquire) {
            return Err(self.gone(function));
        }
        let mut had = self.had.lock();
        let has = |part: u64| hosts.iter().find(|host| host.part == part);
        if let Some(host) = had.get(lane).copied().flatten().and_then(has) {
            return Ok(Some(host.clone()));
        }
        let free = hosts.iter().find(|host| !had.contains(&Some(host.part)));
        if let (Some(host), Some(place)) = (free, had.get_mut(lane)) {
            *place = Some(host.part);
        }
        Ok(free.cloned())
    }

    pub(super) fn gone(&self, function: &str) -> UdfError {
        UdfError::ActorGone {
            function: function.to_owned(),
            actor: self.name.clone(),
        }
    }
}

/// What one call in one task has done on the lanes of its actor.
#[derive(Debug, Default)]
pub(super) struct Figures {
    past: PoolStats,
    /// The ways that are open, by lane.
    now: HashMap<usize, Arc<dyn UdfPool>>,
}

impl Figures {
    /// Its blocks go to `lane` by `way` from here on.
    pub(super) fn goes_by(&mut self, lane: usize, way: &Arc<dyn UdfPool>) {
        let before = self.now.insert(lane, Arc::clone(way));
        if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, way)) {
            self.past = self.past.plus(before.stats());
        }
    }

    /// Blocks went out once more: `resent` that nobody had answered, `replayed` for the state.
    pub(super) fn count(&mut self, resent: u64, replayed: u64) {
        self.past.retries += resent;
        self.past.replayed += replayed;
    }

    fn stats(&self) -> PoolStats {
        let now = self.now.values().map(|way| way.stats());
        now.fold(self.past, PoolStats::plus)
    }
}

/// One call in one task, on one lane that is kept here.
#[derive(Debug)]
struct LaneHere {
    /// Has the lanes.
    line: Weak<PoolLine>,
    actor: Arc<KeyedActor>,
    lane: usize,
    call: Arc<UdfCall>,
    figures: Arc<Mutex<Figures>>,
}

#[async_trait]
impl UdfPool for LaneHere {
    async fn call(&self, block: RecordBatch) -> Result<AnswerStream, UdfError> {
        if block.num_rows() == 0 {
            return Ok(answer_to_nothing(&self.call));
        }
        let function = self.call.spec.name.clone();
        let gone = || self.actor.members.gone(&function);
        let lane = self.actor.lanes.get(self.lane).ok_or_else(gone)?;
        let line = self.line.upgrade().ok_or_else(gone)?;
        let (reader, answers) = mpsc::channel(ANSWERS_WAITING);
        let given = Given {
            line,
            call: Arc::clone(&self.call),
            block,
            reader,
            figures: Arc::clone(&self.figures),
        };
        lane.blocks.send(given).map_err(|_| gone())?;
        Ok(reading(answers, function))
    }

    async fn call_each(&self, blocks: Vec<RecordBatch>) -> Result<AnswerStream, UdfError> {
        one_by_one(self, blocks).await
    }

    fn concurrency(&self) -> usize {
        1
    }

    fn stats(&self) -> PoolStats {
        self.figures.lock().stats()
    }
}

/// One call in one task, on all lanes of its named actor.
#[derive(Debug)]
struct AllLanes {
    /// Never empty.
    lanes: Vec<Arc<dyn UdfPool>>,
}

impl AllLanes {
    fn lane(&self, lane: usize) -> &Arc<dyn UdfPool> {
        &self.lanes[lane % self.lanes.len()]
    }
}

#[async_trait]
impl UdfPool for AllLanes {
    async fn call(&self, block: RecordBatch) -> Result<AnswerStream, UdfError> {
        self.lane(0).call(block).await
    }

    async fn call_each(&self, blocks: Vec<RecordBatch>) -> Result<AnswerStream, UdfError> {
        self.lane(0).call_each(blocks).await
    }

    async fn call_lane(
        &self,
        lane: usize,
        blocks: Vec<RecordBatch>,
    ) -> Result<AnswerStream, UdfError> {
        self.lane(lane).call_each(blocks).await
    }

    fn concurrency(&self) -> usize {
        self.lanes.len()
    }

    fn stats(&self) -> PoolStats {
        let all = self.lanes.iter().map(|lane| lane.stats());
        all.fold(PoolStats::default(), PoolStats::plus)
    }
}

impl PoolLine {
    /// The way of the keyed `call` to the named actors that have its keys.
    ///
    /// # Errors
    /// When there are as many no more.
    pub(super) fn open_named(
        self: &Arc<Self>,
        call: &Arc<UdfCall>,
    ) -> Result<Arc<dyn UdfPool>, UdfError> {
        let lane = |lane| -> Result<Arc<dyn UdfPool>, UdfError> {
            let Some(url) = self.coordinator.get() else {
                return self.open_named_lane(call, lane);
            };
            let place = Place {
                url: url.clone(),
                channels: self.channels.clone(),
                traffic: Arc::clone(&self.traffic),
            };
            let way = Way {
                pool: None,
                member: String::new(),
                credits: CREDITS,
                lane: Some(LaneWay {
                    lane: lane as u64,
                    generation: 0,
                    snapshot: None,
                }),
            };
            let call = Arc::clone(call);
            Ok(Arc::new(RemoteActor::new(
                place,
                call,
                self.keep_bytes,
                way,
            )))
        };
        let (_, count) = called(call);
        let lanes = (0..count).map(lane).collect::<Result<_, _>>()?;
        Ok(Arc::new(AllLanes { lanes }))
    }

    /// The same to one lane, which is kept in this process.
    ///
    /// # Errors
    /// When there are as many no more.
    pub fn open_named_lane(
        self: &Arc<Self>,
        call: &Arc<UdfCall>,
        lane: usize,
    ) -> Result<Arc<dyn UdfPool>, UdfError> {
        let (name, count) = called(call);
        Ok(Arc::new(LaneHere {
            line: Arc::downgrade(self),
            actor: self.named.of(&name, count, &call.spec.name)?,
            lane,
            call: Arc::clone(call),
            figures: Arc::default(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(part: u64) -> PoolHost {
        PoolHost {
            executor_id: format!("e{part}"),
            url: "http://e:1/".to_owned(),
            actors: 1,
            part,
            slots: vec![],
        }
    }

    #[test]
    fn a_lane_stays_with_its_member_and_moves_to_one_that_has_none() {
        let members = Members {
            name: "p".into(),
            had: Mutex::new(vec![None; 2]),
            is_over: AtomicBool::new(false),
        };
        let part = |lane, hosts: &[PoolHost]| {
            let found = members.host_of(lane, hosts, "p").unwrap();
            found.map(|host| host.part)
        };
        let both = [host(1), host(2)];
        assert_eq!((part(1, &both), part(0, &both)), (Some(1), Some(2)));
        // One is lost: its lane waits for who comes instead, and takes no other's.
        assert_eq!(part(1, &both[1..]), None);
        assert_eq!(part(1, &[host(2), host(3)]), Some(3));
        assert_eq!(part(0, &[host(2), host(3)]), Some(2));
        members.is_over.store(true, Ordering::Release);
        assert!(members.host_of(0, &both, "p").is_err());
    }

    #[tokio::test]
    async fn lanes_begin_with_as_many_as_there_are_and_keep_that_number() {
        let named = NamedLanes::new(KeptStates::new(1 << 20));
        let changed = |found: Result<Arc<KeyedActor>, UdfError>| {
            matches!(found.unwrap_err(), UdfError::ActorChanged { .. })
        };
        named.put("p", Some(2));
        // Altered after a call was planned and before it runs: that call is refused, the
        // next ones are not.
        assert_eq!(named.resize("p", Some(3)), Ok(()));
        assert!(changed(named.of("p", 2, "p")));
        assert_eq!(named.of("p", 3, "p").unwrap().lanes.len(), 3);
        // Keys have their actors now.
        assert_eq!(named.resize("p", Some(4)), Err(3));
        assert_eq!(named.resize("p", None), Err(3));
        assert_eq!(named.resize("p", Some(3)), Ok(()));
        assert_eq!(named.of("p", 3, "p").unwrap().lanes.len(), 3);
        // Others of the name begin anew, and none have no lanes.
        named.put("p", None);
        assert!(changed(named.of("p", 3, "p")));
        named.remove("p");
        let gone = named.of("p", 3, "p").unwrap_err();
        assert!(matches!(gone, UdfError::ActorGone { .. }), "{gone}");
    }
}
