//! A lane whose actor lives here and whose task may be elsewhere.
//!
//! Each time that the task comes anew, the lane begins anew, from the state that it
//! brings: what the actor saw of blocks that nobody heard the answers of is undone.

use std::sync::Arc;

use arrow::buffer::Buffer;
use parking_lot::Mutex;

use super::Keeper;
use crate::call::UdfCall;
use crate::error::UdfError;
use crate::manager::WorkerManager;
use crate::order::CallOrder;
use crate::pool::UdfPool;
use crate::process_pool::{CallOn, ProcessPool};

/// One lane, and who has it now.
#[derive(Debug)]
pub(crate) struct HostedLane {
    manager: Arc<WorkerManager>,
    call: Arc<UdfCall>,
    now: Mutex<Tenure>,
}

#[derive(Debug, Default)]
struct Tenure {
    /// 0: nobody has had it.
    generation: u64,
    call: Option<Arc<CallOn>>,
    is_closed: bool,
}

impl HostedLane {
    pub(crate) fn new(manager: &Arc<WorkerManager>, call: &Arc<UdfCall>) -> Self {
        Self {
            manager: Arc::clone(manager),
            call: Arc::clone(call),
            now: Mutex::default(),
        }
    }

    /// The way to its actor, which goes on from `snapshot`; `None` to who is too late.
    ///
    /// # Errors
    /// When a type of the call's schemas cannot cross to a worker.
    pub(crate) fn open(
        &self,
        generation: u64,
        snapshot: Option<Buffer>,
    ) -> Result<Option<Arc<dyn UdfPool>>, UdfError> {
        let order = CallOrder::try_new(Arc::clone(&self.call))?;
        let mut now = self.now.lock();
        if now.is_closed || generation <= now.generation {
            return Ok(None);
        }
        let keyed = self.call.handling.keyed;
        let keeper = keyed.map(|_| Arc::new(Keeper::from_elsewhere(snapshot)));
        let crew = ProcessPool::crew(Arc::clone(&self.manager), &self.call, [1, 1], 1);
        let call = CallOn::with_keeper(crew, order, keeper);
        now.generation = generation;
        let before = now.call.replace(Arc::clone(&call));
        drop(now);
        before.iter().for_each(end);
        Ok(Some(Arc::new(ProcessPool::of(call))))
    }

    /// Nobody has it from here on; its actor ends when it is through.
    pub(crate) fn close(&self) {
        let mut now = self.now.lock();
        now.is_closed = true;
        let call = now.call.take();
        drop(now);
        call.iter().for_each(|call| call.crew.dismiss());
    }
}

/// Ends the actor at once, whatever it is at work on and whether it listens.
fn end(call: &Arc<CallOn>) {
    call.crew.dismiss();
    if let Some(keeper) = &call.keeper {
        keeper.revoke();
    }
}
