//! A worker takes a lane over: it is given the state of who had it before.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;

use super::answered::SnapshotParts;
use super::keeper::{Inheritance, Keeper};
use crate::activity::WorkerState;
use crate::crew::Lease;
use crate::error::{UdfError, UdfErrorClass};
use crate::process_pool::CallOn;
use crate::protocol::Kind;
use crate::worker::Worker;

/// How many workers in a row may be lost before one has taken over.
const TRIES: u32 = 3;

/// Sees to it that the worker of `lease` owns what `keeper` keeps; another one in its place
/// does, if it is lost over that.
pub(crate) async fn resume(
    call: &CallOn,
    keeper: &Keeper,
    mut lease: Lease,
) -> Result<Lease, UdfError> {
    let mut tries = 0;
    while !keeper.is_owner(lease.worker.generation) {
        tries += 1;
        let Err(error) = take_over(call, keeper, &mut lease.worker).await else {
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

async fn take_over(call: &CallOn, keeper: &Keeper, worker: &mut Worker) -> Result<(), UdfError> {
    let Inheritance {
        generation,
        snapshot,
        blocks,
    } = keeper
        .pass_on(worker.keeps_state)
        .map_err(|_| call.crew.gone(call.order.function()))?;
    keeper.held_by(worker.process());
    if worker.keeps_state {
        let order = &call.order;
        let limit = call.init_limit();
        worker
            .restore(order.function(), generation, snapshot.as_ref(), limit)
            .await?;
        for (at, block) in blocks.iter().enumerate() {
            if let Some(snapshot) = replay(call, keeper, worker, block).await? {
                let kept = keeper.replayed(generation, at + 1, snapshot);
                kept.map_err(|_| worker.fenced(order.function()))?;
            }
        }
    }
    // From here on it is the owner.
    worker.generation = generation;
    Ok(())
}

/// Has `worker` see a block that was answered before; its state after it, if it tells.
async fn replay(
    call: &CallOn,
    keeper: &Keeper,
    worker: &mut Worker,
    block: &RecordBatch,
) -> Result<Option<Buffer>, UdfError> {
    let (order, function) = (&call.order, call.order.function());
    let deadline = call.crew.manager.call_deadline(&order.call);
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
            Kind::Snapshot => parts.take(worker, &frame, order, keeper.keyed)?,
            Kind::Done => break,
            other => {
                let problem = format!("it answers {other:?} instead of Output or Done");
                return Err(worker.broken(function, problem));
            }
        }
    }
    process.enter(WorkerState::Idle, None);
    call.counters.replayed.fetch_add(1, Ordering::Relaxed);
    let snapshot = parts.whole();
    if snapshot.is_some() {
        call.counters.snapshots.fetch_add(1, Ordering::Relaxed);
    }
    Ok(snapshot)
}
