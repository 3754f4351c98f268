//! A [`UdfPool`] of worker processes.
//!
//! A `def` borrows any worker of the manager for each call. A `class` keeps its
//! workers, the actors, on a shelf until the pool is dropped; with one actor,
//! blocks reach it in the order of the calls. What is at work when the pool goes
//! finishes for whoever still reads it, and then ends too.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use mobula_block::plain::{block_as, plain_block};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::error::UdfError;
use crate::exchange::{Counters, Exchange, Interruption, Part, Parts};
use crate::manager::{WorkerManager, leaves_worker_usable};
use crate::order::CallOrder;
use crate::pool::{BlockStream, PoolStats, UdfPool};
use crate::roster::Want;
use crate::spawn::{OwnedTask, spawn_named};
use crate::spec::ObjectKind;
use crate::worker::Worker;

/// Outputs that may wait for their reader.
const PARTS_WAITING: usize = 2;

/// The workers of one call in one task.
#[derive(Debug)]
pub(crate) struct ProcessPool {
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
    concurrency: usize,
}

/// What calls at work need after the pool itself is gone.
#[derive(Debug)]
struct Shared {
    manager: Arc<WorkerManager>,
    order: CallOrder,
    counters: Counters,
    shelf: Mutex<Shelf>,
}

/// A pool's actors.
#[derive(Debug, Default)]
struct Shelf {
    free: Vec<Worker>,
    /// Calls that have a worker or wait for one.
    held: usize,
    closed: bool,
}

impl ProcessPool {
    pub(crate) fn new(manager: Arc<WorkerManager>, order: CallOrder, concurrency: usize) -> Self {
        let concurrency = concurrency.clamp(1, Semaphore::MAX_PERMITS);
        let shared = Shared {
            manager,
            order,
            counters: Counters::default(),
            shelf: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            permits: Arc::new(Semaphore::new(concurrency)),
            concurrency,
        }
    }
}

#[async_trait]
impl UdfPool for ProcessPool {
    async fn call(&self, block: RecordBatch) -> Result<BlockStream, UdfError> {
        if block.num_rows() == 0 {
            return Ok(self.shared.answer_to_nothing());
        }
        let block = plain_block(block)
            .and_then(|block| block_as(block, &self.shared.order.input))
            .map_err(|source| UdfError::Block {
                function: self.shared.function(),
                source,
            })?;
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| UdfError::ShuttingDown {
                function: self.shared.function(),
            })?;
        let lease = Shared::lease(&self.shared).await?;
        let (parts, reader) = mpsc::channel(PARTS_WAITING);
        let task = spawn_named("udf-call", run(lease, permit, block, parts));
        Ok(stream_of(reader, task, self.shared.function()))
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }

    fn stats(&self) -> PoolStats {
        self.shared.counters.stats()
    }
}

impl Drop for ProcessPool {
    fn drop(&mut self) {
        let free = {
            let mut shelf = self.shared.shelf.lock();
            shelf.closed = true;
            std::mem::take(&mut shelf.free)
        };
        free.into_iter()
            .for_each(|actor| self.shared.manager.end(actor));
    }
}

impl Shared {
    fn function(&self) -> String {
        self.order.function().to_owned()
    }

    fn is_actor(&self) -> bool {
        self.order.call.spec.object == ObjectKind::Class
    }

    /// A scalar function of no rows has no values, a table function no rows.
    fn answer_to_nothing(&self) -> BlockStream {
        let output = &self.order.call.output;
        match self.order.call.spec.is_table() {
            true => stream::empty().boxed(),
            false => {
                let empty = RecordBatch::new_empty(Arc::clone(output));
                stream::once(async { Ok(empty) }).boxed()
            }
        }
    }

    /// A worker with the call loaded.
    async fn lease(shared: &Arc<Self>) -> Result<Lease, UdfError> {
        let (free, has_none) = {
            let mut shelf = shared.shelf.lock();
            let free = std::iter::from_fn(|| shelf.free.pop());
            let alive = free.into_iter().find(|actor| actor.process().is_running());
            let has_none = shelf.held == 0;
            shelf.held += 1;
            (alive, has_none)
        };
        // Made first: if what follows fails, it is counted out again.
        let mut lease = Lease {
            worker: None,
            shared: Arc::clone(shared),
        };
        let manager = &shared.manager;
        let mut worker = match free {
            Some(actor) => actor,
            None => {
                let want = if shared.is_actor() {
                    Want::Actor
                } else {
                    Want::Stateless
                };
                let started = &shared.counters.workers_started;
                manager
                    .worker(shared.order.function(), want, has_none, started)
                    .await?
            }
        };
        match worker.load(&shared.order, manager.init_deadline()).await {
            Ok(()) => {
                lease.worker = Some(worker);
                Ok(lease)
            }
            Err(error) => {
                if leaves_worker_usable(&error) && !shared.is_actor() {
                    manager.release(worker);
                }
                Err(error)
            }
        }
    }

    /// Takes a worker back that is fit for more.
    fn give_back(&self, worker: Worker) {
        if !self.is_actor() {
            self.manager.release(worker);
            return;
        }
        let refused = {
            let mut shelf = self.shelf.lock();
            match shelf.closed {
                true => Some(worker),
                false => {
                    shelf.free.push(worker);
                    None
                }
            }
        };
        if let Some(worker) = refused {
            self.manager.end(worker);
        }
    }
}

/// A worker at work for this pool. Dropped while it still has it, it ends it.
struct Lease {
    worker: Option<Worker>,
    shared: Arc<Shared>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.shelf.lock().held -= 1;
    }
}

/// One call, from the block to the last output.
async fn run(mut lease: Lease, permit: OwnedSemaphorePermit, block: RecordBatch, parts: Parts) {
    let shared = Arc::clone(&lease.shared);
    let Some(mut worker) = lease.worker.take() else {
        return;
    };
    let mut exchange = Exchange {
        worker: &mut worker,
        order: &shared.order,
        parts: &parts,
        counters: &shared.counters,
        deadline: shared.manager.call_deadline(shared.order.call.timeout),
    };
    let outcome = exchange.run(block).await;
    shared.counters.calls.fetch_add(1, Ordering::Relaxed);
    let reusable = match &outcome {
        Ok(_) => true,
        Err(Interruption::Failed(error)) => leaves_worker_usable(error),
        Err(Interruption::Abandoned) => false,
    };
    // The worker is free before the reader sees the end, so that a reader's next
    // call finds it.
    match reusable {
        true => shared.give_back(worker),
        false => drop(worker),
    }
    drop((lease, permit));
    match outcome {
        Ok(held) => {
            for block in held {
                // Nobody reads any more: nothing is lost.
                let _ = parts.send(Ok(Part::Block(block))).await;
            }
            let _ = parts.send(Ok(Part::End)).await;
        }
        Err(Interruption::Failed(error)) => {
            let _ = parts.send(Err(error)).await;
        }
        Err(Interruption::Abandoned) => {}
    }
}

/// What the reader sees; it owns the call's task.
fn stream_of(
    reader: mpsc::Receiver<Result<Part, UdfError>>,
    task: OwnedTask,
    function: String,
) -> BlockStream {
    let state = Some((reader, task, function));
    stream::unfold(state, |state| async {
        let (mut reader, task, function) = state?;
        match reader.recv().await {
            Some(Ok(Part::Block(block))) => Some((Ok(block), Some((reader, task, function)))),
            Some(Ok(Part::End)) => None,
            Some(Err(error)) => Some((Err(error), None)),
            // Its Tokio runtime is going down, or it panicked.
            None => Some((Err(UdfError::ShuttingDown { function }), None)),
        }
    })
    .boxed()
}
