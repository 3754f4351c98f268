//! The actors of one call of a query, for all its tasks: a crew that many ways lead to.
//!
//! A task's own pool ends its workers with the task. This one is held by who started it,
//! and each task, in whatever process, opens a way to it with a count of its own. Blocks
//! of all of them stand in one line, so that whichever actor comes free takes the next.
//!
//! Those of a keyed call have lanes instead: each is one task's at a time, which brings
//! the state that its actor goes on from (`keyed`).

use std::sync::Arc;
use std::time::Duration;

use arrow::buffer::Buffer;

use crate::async_calls::AsyncPool;
use crate::call::UdfCall;
use crate::crew::Crew;
use crate::error::UdfError;
use crate::keyed::HostedLane;
use crate::manager::WorkerManager;
use crate::native::NativeThreads;
use crate::order::CallOrder;
use crate::pool::UdfPool;
use crate::process_pool::{CallOn, ProcessPool};
use crate::spawn::{OwnedTask, spawn_named};
use crate::work::ActorLoad;

/// How often actors with nothing to do are looked at: one that has died is built anew.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The actors of one call. Dropped, it ends them, those at work when they are through;
/// blocks in line are refused, with [`UdfError::PoolGone`].
#[derive(Debug)]
pub struct ActorPool {
    actors: Actors,
    call: Arc<UdfCall>,
    most: usize,
    /// What errors call this process.
    place: String,
    _keeper: Option<OwnedTask>,
}

#[derive(Debug)]
enum Actors {
    Crew(Arc<Crew>),
    /// Of an async function: its workers share one queue.
    Async(Arc<AsyncPool>),
    Lanes(Vec<HostedLane>),
    Native(NativeThreads),
}

impl ActorPool {
    /// At first `least` actors, at least 1, and up to `actors`; what these ask for is
    /// claimed by the call's query. They start when blocks come.
    ///
    /// # Errors
    /// When the call makes no sense, or asks for more than there is.
    pub fn try_new(
        manager: &Arc<WorkerManager>,
        call: Arc<UdfCall>,
        [least, actors]: [usize; 2],
    ) -> Result<Self, UdfError> {
        manager.check_call(&call)?;
        let most = actors.max(1);
        let bounds = [least.clamp(1, most), most];
        let manager = Arc::clone(manager);
        let place = manager.settings.executor_id.clone();
        let actors = match call.is_async() {
            _ if call.handling.keyed.is_some() => {
                let lane = |_| HostedLane::new(&manager, &call);
                Actors::Lanes((0..most).map(lane).collect())
            }
            true => {
                let order = CallOrder::try_new(Arc::clone(&call))?;
                Actors::Async(Arc::new(AsyncPool::new(manager, order, most)))
            }
            false => Actors::Crew(ProcessPool::crew(manager, &call, bounds, most)),
        };
        let keeper = match &actors {
            Actors::Crew(crew) => {
                let order = CallOrder::try_new(Arc::clone(&call))?;
                let own = CallOn::new(Arc::clone(crew), order);
                Some(spawn_named("actors-keeper", keep(own)))
            }
            Actors::Async(_) | Actors::Lanes(_) | Actors::Native(_) => None,
        };
        Ok(Self {
            actors,
            call,
            most,
            place,
            _keeper: keeper,
        })
    }

    /// The same of a native function; errors call this process `place`.
    pub fn native(
        threads: NativeThreads,
        call: Arc<UdfCall>,
        actors: usize,
        place: String,
    ) -> Self {
        Self {
            actors: Actors::Native(threads),
            call,
            most: actors.max(1),
            place,
            _keeper: None,
        }
    }

    /// A way to them, for one task.
    ///
    /// # Errors
    /// When a type of the call's schemas cannot cross to a worker.
    pub fn open(&self) -> Result<Arc<dyn UdfPool>, UdfError> {
        let crew = match &self.actors {
            Actors::Async(pool) => return Ok(Arc::clone(pool) as Arc<dyn UdfPool>),
            Actors::Native(threads) => return Ok(threads.open()),
            Actors::Crew(crew) => Arc::clone(crew),
            // Each is one task's.
            Actors::Lanes(_) => return Err(self.gone()),
        };
        let order = CallOrder::try_new(Arc::clone(&self.call))?;
        Ok(Arc::new(ProcessPool::on(crew, order, self.most)))
    }

    /// The way to the actor of `lane` for the task that has it now: it goes on from
    /// `snapshot`, or as its constructor makes it. Who had it before, by a smaller
    /// `generation`, has it no more, and its actor ends.
    ///
    /// # Errors
    /// [`UdfError::PoolGone`] to who comes too late, and for a lane that is not there.
    pub fn open_lane(
        &self,
        lane: usize,
        generation: u64,
        snapshot: Option<Buffer>,
    ) -> Result<Arc<dyn UdfPool>, UdfError> {
        let Actors::Lanes(lanes) = &self.actors else {
            return Err(self.gone());
        };
        let lane = lanes.get(lane).ok_or_else(|| self.gone())?;
        let opened = lane.open(generation, snapshot)?;
        opened.ok_or_else(|| self.gone())
    }

    /// Has one of them ready before a block comes, unless it is of an async function.
    ///
    /// # Errors
    /// Why it cannot be built.
    pub async fn prepare(&self) -> Result<(), UdfError> {
        let Actors::Crew(crew) = &self.actors else {
            return Ok(());
        };
        let order = CallOrder::try_new(Arc::clone(&self.call))?;
        let own = CallOn::new(Arc::clone(crew), order);
        crew.newcomer(&own.claim()).await
    }

    /// What they do, and have done; nothing is known of lanes and of native functions.
    pub fn load(&self) -> ActorLoad {
        match &self.actors {
            Actors::Crew(crew) => crew.load(),
            Actors::Async(pool) => pool.load(),
            Actors::Lanes(_) | Actors::Native(_) => ActorLoad::default(),
        }
    }

    /// Has them end when they are through with the blocks that they are at; others are
    /// refused with [`UdfError::PoolGone`].
    pub fn retire(&self) {
        match &self.actors {
            Actors::Crew(crew) => crew.dismiss(),
            Actors::Async(pool) => pool.close(),
            Actors::Lanes(lanes) => lanes.iter().for_each(HostedLane::close),
            // They end with their last reader.
            Actors::Native(_) => {}
        }
    }

    fn gone(&self) -> UdfError {
        UdfError::PoolGone {
            function: self.call.spec.name.clone(),
            place: self.place.clone(),
        }
    }

    /// The call that they are built for.
    pub fn call(&self) -> &UdfCall {
        &self.call
    }
}

/// Builds anew those that die with nothing to do, so that no block finds them dead.
async fn keep(call: Arc<CallOn>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        for _ in 0..call.crew.drop_dead() {
            if let Err(error) = call.crew.newcomer(&call.claim()).await {
                let function = call.order.function();
                tracing::warn!(%error, function, "an actor that died is built by the next block");
            }
        }
    }
}

impl Drop for ActorPool {
    fn drop(&mut self) {
        // Those of an async function end with their last reader.
        if !matches!(self.actors, Actors::Async(_)) {
            self.retire();
        }
    }
}
