//! A worker takes a lane over: it is given the state of who had it before.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;

use super::answered::SnapshotParts;
use super::keeper::{Inheritance, Keeper};
use crate::activity::WorkerState;
use crate::crew::{Claim, Crew, Lease};
use crate::error::{UdfError, UdfErrorClass};
use crate::exchange::Counters;
use crate::hosted::Hosted;
use crate::manager::TimeLimit;
use crate::order::CallOrder;
use crate::process_pool::CallOn;
use crate::protocol::Kind;
use crate::worker::Worker;

/// How many workers in a row may be lost before one has taken over.
const TRIES: u32 = 3;

/// By what a worker is given the state of another.
struct Heir<'a> {
    crew: &'a Crew,
    order: &'a Arc<CallOrder>,
    counters: &'a Counters,
    limit: TimeLimit,
}

/// Sees to it that the worker of `lease` owns what `keeper` keeps; another one in its place
/// does, if it is lost over that.
pub(crate) async fn resume(
    call: &CallOn,
    keeper: &Keeper,
    mut lease: Lease,
) -> Result<Lease, UdfError> {
    if call.crew.hosted.is_some() {
        keeper.called_by(&call.order);
    }
    let mut tries = 0;
    while !keeper.is_owner(lease.worker.generation) {
        tries += 1;
        let heir = Heir {
            crew: &call.crew,
            order: &call.order,
            counters: &call.counters,
            limit: call.init_limit(),
        };
        let Err(error) = take_over(&heir, keeper, &mut lease.worker).await else {
            break;
        };
        let error = error.at_line(&call.order.call);
        if error.class() != UdfErrorClass::Lost || tries >= TRIES {
            return Err(error);
        }
        tracing::warn!(%error, tries, "an actor was lost while it was given its state");
        lease = call.lease_any(lease.into_vacancy()).await?;
    }
    Ok(lease)
}

/// Gives the state of a named actor to `worker`, which has just been built in its place:
/// whoever calls it next, by key or not, finds it as it was.
pub(crate) async fn inherit(
    crew: &Crew,
    hosted: &Hosted,
    worker: &mut Worker,
    claim: &Claim<'_>,
) -> Result<(), UdfError> {
    loop {
        let keeper = hosted.keeper();
        // Nobody has called it by key here; who does first, brings what there is.
        let Some(order) = keeper.order() else {
            return Ok(());
        };
        let heir = Heir {
            crew,
            order: &order,
            counters: claim.counters,
            limit: claim.limit,
        };
        match take_over(&heir, &keeper, worker).await {
            // Another has it by now, and the worker has seen nothing.
            Err(UdfError::PoolGone { .. }) if !Arc::ptr_eq(&keeper, &hosted.keeper()) => {}
            taken => return taken,
        }
    }
}

async fn take_over(heir: &Heir<'_>, keeper: &Keeper, worker: &mut Worker) -> Result<(), UdfError> {
    let order = heir.order;
    worker.load(order, heir.limit.deadline()).await?;
    let Inheritance {
        generation,
        snapshot,
        blocks,
    } = keeper
        .pass_on(worker.keeps_state)
        .map_err(|_| heir.crew.gone(order.function()))?;
    keeper.held_by(worker.process());
    if worker.keeps_state {
        let limit = heir.limit;
        worker
            .restore(order.function(), generation, snapshot.as_ref(), limit)
            .await?;
        for (at, seen) in blocks.iter().enumerate() {
            let by = seen.order.as_ref().unwrap_or(order);
            if let Some(snapshot) = replay(heir, by, worker, &seen.block).await? {
                let kept = keeper.replayed(generation, at + 1, snapshot);
                kept.map_err(|_| worker.fenced(order.function()))?;
            }
        }
        worker.load(order, heir.limit.deadline()).await?;
    }
    // From here on it is the owner.
    worker.generation = generation;
    Ok(())
}

/// Has `worker` see a block that was answered before, by the call of `order`; its state
/// after it, if it tells.
async fn replay(
    heir: &Heir<'_>,
    order: &CallOrder,
    worker: &mut Worker,
    block: &RecordBatch,
) -> Result<Option<Buffer>, UdfError> {
    let function = order.function();
    worker.load(order, heir.limit.deadline()).await?;
    let deadline = heir.crew.manager.call_deadline(&order.call);
    let process = Arc::clone(worker.process());
    process.enter(WorkerState::Busy, Some(function));
    let encoded = worker.channel.sender().lock().await.encode(block);
    let encoded = match encoded {
        Some(Ok(encoded)) => encoded,
        Some(Err(source)) => {
            let function = function.to_owned();
            return Err(UdfError::Block { function, source });
        }
        None => return Err(worker.broken(function, "it has nothing loaded".into())),
    };
    let sent = worker.send_block(&encoded, order, deadline).await?;
    worker.count_block();
    let mut parts = SnapshotParts::default();
    loop {
        let frame = worker.answer(function, sent.seq, deadline).await?;
        match frame.kind {
            // They are out already.
            Kind::Output | Kind::Failed => {}
            Kind::Snapshot => parts.take(worker, &frame, order)?,
            Kind::Done => break,
            other => {
                let problem = format!("it answers {other:?} instead of Output or Done");
                return Err(worker.broken(function, problem));
            }
        }
    }
    process.enter(WorkerState::Idle, None);
    heir.counters.replayed.fetch_add(1, Ordering::Relaxed);
    let snapshot = parts.whole();
    if snapshot.is_some() {
        heir.counters.snapshots.fetch_add(1, Ordering::Relaxed);
    }
    Ok(snapshot)
}
