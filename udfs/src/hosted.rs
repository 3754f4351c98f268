//! A named actor in this process: a crew of one worker that outlives its calls.
//!
//! Calls of all queries and sessions stand in one line and reach the actor one at a
//! time: in the order they came, or, where it is one of a pool, in turns (`turns`). A reader that goes takes the actor from nobody: a block
//! that has been given to it runs to its end, within the call's time limit. When its
//! process ends, it is built anew at once by its keeper, or by the call that lost it;
//! what it kept is gone, unless it is called by key and can tell it (`keyed`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::actor::{ActorInfo, ActorSpec, ActorState};
use crate::block_run::{Place, run};
use crate::call::UdfCall;
use crate::crew::{Claim, Crew, Vacancy};
use crate::error::{Down, UdfError};
use crate::exchange::Counters;
use crate::keyed::{Keeper, KeptStates, KeyedState};
use crate::line::Ticket;
use crate::manager::TimeLimit;
use crate::order::CallOrder;
use crate::pool::{AnswerStream, PoolStats, UdfPool};
use crate::process::Process;
use crate::process_pool::{CallOn, PARTS_WAITING, stream_of};
use crate::signal;
use crate::spawn::{OwnedTask, spawn_named};
use crate::train::Mean;
use crate::turns::Turn;
use crate::worker::Worker;

/// For how long a failure to build the actor answers for the next ones.
const FAILED_FOR: Duration = Duration::from_secs(1);
/// How long the keeper waits before it tries again; it doubles up to the next.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// An actor that has lived so long is built anew without waiting.
const LONG_LIFE: Duration = Duration::from_secs(10);
/// What is expected of an actor that is to be built: others are asked first.
const BUILD_TIME: Duration = Duration::from_secs(600);
/// How often the end of the call at work is looked for when an actor is dropped.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a crew knows of the named actor that it is.
#[derive(Debug)]
pub(crate) struct Hosted {
    pub(crate) spec: Arc<ActorSpec>,
    counters: Counters,
    /// Calls in line.
    queue: AtomicUsize,
    life: Mutex<Life>,
    /// What a block takes lately, of whatever call.
    mean: Mean,
    /// Calls at work: they end by themselves, whoever reads them.
    at_work: Mutex<Vec<OwnedTask>>,
    /// Whether others of its pool take what is sent to it.
    is_retired: AtomicBool,
    /// Its process has ended.
    ended: Notify,
    /// What is kept of it beside it, where it is called by key.
    state: KeyedState,
}

#[derive(Debug)]
struct Life {
    since: Instant,
    builds: u64,
    process: Option<Arc<Process>>,
    /// The one that the class is built in now.
    building: Option<Arc<Process>>,
    calls: u64,
    busy: Duration,
    busy_since: Option<Instant>,
    /// What the block at work is expected to take.
    expected: Option<Duration>,
    /// When it last could not be built, and why.
    failed: Option<(Instant, String)>,
    last_error: String,
}

impl Hosted {
    pub(crate) fn new(spec: Arc<ActorSpec>, states: Arc<KeptStates>) -> Self {
        Self {
            state: KeyedState::new(states),
            spec,
            counters: Counters::default(),
            queue: AtomicUsize::new(0),
            life: Mutex::new(Life {
                since: Instant::now(),
                builds: 0,
                process: None,
                building: None,
                calls: 0,
                busy: Duration::ZERO,
                busy_since: None,
                expected: None,
                failed: None,
                last_error: String::new(),
            }),
            mean: Mean::default(),
            at_work: Mutex::default(),
            is_retired: AtomicBool::new(false),
            ended: Notify::new(),
        }
    }

    /// Builds the instance in a worker that has none.
    pub(crate) async fn build(
        &self,
        worker: &mut Worker,
        limit: TimeLimit,
    ) -> Result<(), UdfError> {
        let process = Arc::clone(worker.process());
        self.life.lock().building = Some(Arc::clone(&process));
        let built = worker.build(&self.spec, limit.deadline()).await;
        let mut life = self.life.lock();
        life.building = None;
        built.map_err(|error| error.at_line_of(self.spec.methods.iter()))?;
        life.process = Some(process);
        life.builds += 1;
        life.failed = None;
        Ok(())
    }

    /// It could not be built, for all that was tried.
    pub(crate) fn failed_to_build(&self, error: &UdfError) {
        self.note(error);
        let mut life = self.life.lock();
        if !life.is_running() {
            life.failed = Some((Instant::now(), error.to_string()));
        }
    }

    /// Why it could not be built, if it is not there.
    pub(crate) fn failure(&self) -> Option<String> {
        let life = self.life.lock();
        let failed = life.failed.as_ref().filter(|_| !life.is_running());
        failed.map(|(_, reason)| reason.clone())
    }

    /// Keeps what went wrong, for who looks.
    pub(crate) fn note(&self, error: &UdfError) {
        self.life.lock().last_error = error.to_string();
    }

    /// Refuses a call of an actor that was dropped, or that could just now not be
    /// built.
    pub(crate) fn check_is_there(&self, crew: &Crew, function: &str) -> Result<(), UdfError> {
        if self.is_retired.load(Ordering::Acquire) {
            return Err(crew.gone(function));
        }
        let (function, actor) = (function.to_owned(), self.spec.name.clone());
        if crew.is_closed() {
            return Err(UdfError::ActorGone { function, actor });
        }
        match &self.life.lock().failed {
            Some((at, reason)) if at.elapsed() < FAILED_FOR => Err(UdfError::ActorFailed {
                function,
                actor,
                reason: reason.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Whether others of its pool take blocks of `call` while it is not there: they do not
    /// know the keys of this one.
    pub(crate) fn is_one_of_many(&self, call: &UdfCall) -> bool {
        self.spec.pool.is_some() && call.handling.keyed.is_none()
    }

    /// What is kept of it, for who has it now.
    pub(crate) fn keeper(&self) -> Arc<Keeper> {
        self.state.keeper()
    }

    /// Gives its state to who calls it by key as `generation`, and brings that; `None` to who
    /// is too late.
    pub(crate) fn begin(
        &self,
        crew: &Crew,
        generation: u64,
        snapshot: Option<Buffer>,
    ) -> Option<Arc<Keeper>> {
        let (keeper, ends) = self.state.begin(generation, snapshot)?;
        if ends && self.life.lock().calls > 0 {
            kill(crew);
        }
        Some(keeper)
    }

    /// `process` is gone, and the actor with it unless it lives in another one by now.
    pub(crate) fn has_ended(&self, process: &Arc<Process>) {
        let mut life = self.life.lock();
        life.process
            .take_if(|of_actor| Arc::ptr_eq(of_actor, process));
        drop(life);
        self.ended.notify_waiters();
    }

    /// Ready when it is not there: what it says to who does not have to wait for it.
    async fn down(&self) -> Down {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            // From here on it is not missed.
            ended.as_mut().enable();
            {
                let life = self.life.lock();
                match &life.failed {
                    _ if life.is_running() => {}
                    Some((_, reason)) => return Down::Failed(reason.clone()),
                    None => return Down::NotBegun,
                }
            }
            ended.await;
        }
    }

    /// It is at work until what is returned goes, which is `expected` to take so long.
    pub(crate) fn begin_block(&self, expected: Option<Duration>) -> Busy<'_> {
        let mut life = self.life.lock();
        life.busy_since = Some(Instant::now());
        life.expected = expected;
        drop(life);
        Busy { hosted: self }
    }

    /// About how long a block waits that comes now, `ahead` others being served before it.
    fn wait_expected(&self, ahead: usize) -> Duration {
        let now = {
            let life = self.life.lock();
            if !life.is_running() {
                return BUILD_TIME;
            }
            life.busy_since.map_or(Duration::ZERO, |since| {
                // What nothing is known of, or takes longer than the last ones, is as
                // likely to take as long again.
                let so_far = since.elapsed();
                let left = life.expected.and_then(|all| all.checked_sub(so_far));
                left.unwrap_or(so_far)
            })
        };
        let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
        now + self.mean.get().unwrap_or_default().saturating_mul(ahead)
    }

    /// Counts as one in line until what is returned goes.
    fn queued(&self) -> Queued<'_> {
        self.queue.fetch_add(1, Ordering::Relaxed);
        Queued { hosted: self }
    }

    fn adopt(&self, call: OwnedTask) {
        let mut at_work = self.at_work.lock();
        at_work.retain(|call| !call.is_finished());
        at_work.push(call);
    }

    /// The process that the class is being built in.
    pub(crate) fn building_pid(&self) -> Option<u32> {
        let life = self.life.lock();
        life.building.as_ref().map(|process| process.pid())
    }

    pub(crate) fn info(&self) -> ActorInfo {
        let life = self.life.lock();
        let running = life.process.as_ref().filter(|process| process.is_running());
        let age = life.since.elapsed();
        let busy = life.busy + life.busy_since.map(|at| at.elapsed()).unwrap_or_default();
        ActorInfo {
            name: self.spec.name.clone(),
            class: self.spec.class.name.clone(),
            state: match (running, &life.failed) {
                (None, Some(_)) => ActorState::Failed,
                (None, None) if life.builds == 0 => ActorState::Starting,
                (None, None) => ActorState::Restarting,
                (Some(_), _) if life.busy_since.is_some() => ActorState::Busy,
                (Some(_), _) => ActorState::Idle,
            },
            pid: running.map(|process| process.pid()),
            queue: self.queue.load(Ordering::Relaxed),
            calls: life.calls,
            busy_share: busy.as_secs_f64() / age.as_secs_f64().max(f64::MIN_POSITIVE),
            restarts: life.builds.saturating_sub(1),
            memory_bytes: running.map_or(0, |process| signal::resident_bytes(process.pid())),
            age,
            last_error: life.last_error.clone(),
            is_pooled: self.spec.pool.is_some(),
            member: self.spec.member,
        }
    }
}

impl Life {
    fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(|p| p.is_running())
    }
}

/// A block at work.
pub(crate) struct Busy<'a> {
    hosted: &'a Hosted,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut life = self.hosted.life.lock();
        life.calls += 1;
        if let Some(since) = life.busy_since.take() {
            let took = since.elapsed();
            life.busy += took;
            self.hosted.mean.add(took);
        }
    }
}

/// A call in line.
struct Queued<'a> {
    hosted: &'a Hosted,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.hosted.queue.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits for its turn, and makes the actor of `crew` ready if it is not; its process.
///
/// # Errors
/// Why it cannot be built.
pub(crate) async fn prepare(crew: &Arc<Crew>, hosted: &Hosted) -> Result<Arc<Process>, UdfError> {
    let claim = Claim {
        function: &hosted.spec.name,
        order: None,
        limit: crew.manager.init_limit_of(hosted.spec.init_timeout),
        counters: &hosted.counters,
    };
    let lease = match crew.line.wait(&Turn::of_keeper(), false).await {
        Ticket::Permit(permit) => {
            let vacancy = Vacancy { permit, kept: None };
            crew.lease(vacancy, &claim).await?
        }
        // Nobody offers the place behind a block of a named actor.
        Ticket::Ahead(_) => return Err(gone(hosted, &hosted.spec.name)),
    };
    let process = Arc::clone(lease.worker.process());
    lease.end();
    Ok(process)
}

/// Sees to it that the actor is there, as long as nobody has dropped it.
pub(crate) async fn keep(crew: Arc<Crew>) {
    let Some(hosted) = &crew.hosted else {
        return;
    };
    let (actor, mut wait) = (&hosted.spec.name, Duration::ZERO);
    while !crew.is_closed() {
        let since = Instant::now();
        match prepare(&crew, hosted).await {
            Ok(process) => {
                let exit = process.ended().await;
                if crew.is_closed() {
                    return;
                }
                hosted.has_ended(&process);
                tracing::warn!(actor, exit, "a named actor is built anew");
                if since.elapsed() >= LONG_LIFE {
                    wait = Duration::ZERO;
                }
            }
            Err(_) if crew.is_closed() => return,
            Err(error) => {
                tracing::warn!(%error, actor, "a named actor is not there; it is tried again");
                wait = wait.max(FIRST_WAIT);
            }
        }
        tokio::time::sleep(wait).await;
        wait = longer(wait);
    }
}

/// After an actor that did not live long, or was not built: the first time at once.
fn longer(wait: Duration) -> Duration {
    (2 * wait).clamp(FIRST_WAIT, LONGEST_WAIT)
}

/// Refuses calls from now on, lets the one at work finish for `grace`, and ends the
/// actor.
pub(crate) async fn end(crew: &Crew, grace: Duration) {
    crew.close();
    let done = async {
        while crew.is_at_work() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(grace, done).await.is_err() {
        kill(crew);
    }
}

/// Has the pool's other actors take what stands in line from now on and what comes, lets the
/// call at work finish within `limit`, and ends the actor.
pub(crate) async fn retire(crew: &Crew, limit: Duration) {
    if let Some(hosted) = &crew.hosted {
        hosted.is_retired.store(true, Ordering::Release);
    }
    end(crew, limit).await;
}

/// Ends the actor at once, whatever it is at work on.
pub(crate) fn kill(crew: &Crew) {
    if let Some(hosted) = &crew.hosted {
        let life = hosted.life.lock();
        let all = life.process.iter().chain(&life.building);
        all.for_each(|process| process.kill());
    }
}

/// About how long a block with that `turn` waits that comes now.
pub(crate) fn wait_expected(crew: &Crew, turn: &Turn) -> Duration {
    let ahead = crew.line.ahead(turn);
    let hosted = crew.hosted.as_ref();
    let before = hosted.map_or(Duration::ZERO, |hosted| hosted.wait_expected(ahead));
    before + crew.line.lingers(turn)
}

fn gone(hosted: &Hosted, function: &str) -> UdfError {
    UdfError::ActorGone {
        function: function.to_owned(),
        actor: hosted.spec.name.clone(),
    }
}

/// One call in one task, on a named actor.
#[derive(Debug)]
pub(crate) struct HostedPool {
    call: Arc<CallOn>,
}

impl HostedPool {
    pub(crate) fn new(crew: Arc<Crew>, order: CallOrder) -> Self {
        let hosted = crew.hosted.as_ref();
        let keyed = hosted.filter(|_| order.call.handling.keyed.is_some());
        let keeper = keyed.map(Hosted::keeper);
        Self {
            call: CallOn::with_keeper(crew, order, keeper),
        }
    }

    /// Of who calls it by key, and has its state as `keeper` keeps it.
    pub(crate) fn keyed(crew: Arc<Crew>, order: CallOrder, keeper: Arc<Keeper>) -> Self {
        Self {
            call: CallOn::with_keeper(crew, order, Some(keeper)),
        }
    }
}

#[async_trait]
impl UdfPool for HostedPool {
    async fn call(&self, block: RecordBatch) -> Result<AnswerStream, UdfError> {
        self.call_each(vec![block]).await
    }

    async fn call_each(&self, blocks: Vec<RecordBatch>) -> Result<AnswerStream, UdfError> {
        let blocks = self.call.as_sent(blocks)?;
        if blocks.is_empty() {
            return Ok(self.call.answer_to_nothing());
        }
        let crew = &self.call.crew;
        let Some(hosted) = &crew.hosted else {
            let function = self.call.function();
            return Err(UdfError::ShuttingDown { function });
        };
        let cut_off = gone(hosted, self.call.order.function());
        if self.call.keeper.is_some() {
            hosted.state.check_room(self.call.order.function())?;
        }
        let ticket = {
            let _queued = hosted.queued();
            let others_may = hosted.is_one_of_many(&self.call.order.call);
            tokio::select! {
                biased;
                down = hosted.down(), if others_may => {
                    let function = self.call.function();
                    return Err(UdfError::ActorDown { function, down });
                }
                ticket = crew.line.wait(&self.call.turn, false) => ticket,
            }
        };
        let Ticket::Permit(permit) = ticket else {
            return Err(cut_off);
        };
        // From here on not even who asked can stop it half-way: the actor is others'
        // as well.
        let place = Place::Vacancy(Vacancy { permit, kept: None });
        let (parts, reader) = mpsc::channel(PARTS_WAITING * blocks.len());
        let task = run(Arc::clone(&self.call), place, blocks, parts);
        hosted.adopt(spawn_named("actor-call", task));
        Ok(stream_of(reader, None, cut_off))
    }

    fn train(&self) -> usize {
        self.call.counters.mean.train()
    }

    fn wait_expected(&self) -> Duration {
        wait_expected(&self.call.crew, &self.call.turn)
    }

    fn keeps_state(&self) -> bool {
        self.call
            .keeper
            .as_ref()
            .is_some_and(|keeper| keeper.keeps_state())
    }

    fn concurrency(&self) -> usize {
        1
    }

    fn stats(&self) -> PoolStats {
        self.call.counters.stats()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_that_goes_on_dying_is_tried_ever_less() {
        let mut waits = vec![Duration::ZERO];
        for at in 0..7 {
            waits.push(longer(waits[at]));
        }
        let seconds: Vec<_> = waits.iter().map(Duration::as_secs).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 16, 30, 30]);
    }
}
