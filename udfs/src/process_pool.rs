//! A [`UdfPool`] of worker processes.
//!
//! A `def` borrows any worker of the manager for each call. A `class`, and whatever asks
//! for resources, keeps its workers, the actors, on a shelf until the pool is dropped;
//! with one actor, blocks reach it in the order of the calls. A call that finds all actors at work
//! takes the first to come free, or one more if the manager has a place before
//! that. Where all that the pool may have are at work, on blocks that take them so
//! short a time that the way counts, the next block goes ahead to one of them, and
//! its call gets that worker when it comes free. What is at work when the pool goes finishes for whoever still reads it,
//! and then ends too.

use std::pin::pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use mobula_block::plain::{block_as, plain_block};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use crate::block_run::{Place, run};
use crate::error::UdfError;
use crate::exchange::{Counters, Part};
use crate::line::{Line, Offer, Permit};
use crate::manager::{WorkerManager, leaves_worker_usable};
use crate::order::CallOrder;
use crate::pool::{Answer, AnswerStream, PoolStats, UdfPool};
use crate::resources::Share;
use crate::roster::{Grant, Rank, Slot, Want};
use crate::spawn::{OwnedTask, spawn_named};
use crate::spec::ObjectKind;
use crate::worker::Worker;

/// Outputs that may wait for their reader.
const PARTS_WAITING: usize = 2;
/// How often in a row a worker is made ready before the query fails with what went
/// wrong: once is chance, and who fails three times does not come right by waiting.
const BUILD_TRIES: u32 = 3;

/// The workers of one call in one task.
#[derive(Debug)]
pub(crate) struct ProcessPool {
    shared: Arc<Shared>,
    concurrency: usize,
}

/// What calls at work need after the pool itself is gone.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) manager: Arc<WorkerManager>,
    pub(crate) order: CallOrder,
    /// What the workers may have of what the query has claimed.
    share: Share,
    pub(crate) counters: Counters,
    pub(crate) line: Arc<Line<Lease>>,
    shelf: Mutex<Shelf>,
    /// An actor came free, or the last worker went.
    shelf_changed: Notify,
    /// Makes one more worker ready.
    grower: Mutex<Option<OwnedTask>>,
}

/// A pool's workers.
#[derive(Debug, Default)]
struct Shelf {
    /// Actors with nothing to do.
    free: Vec<Worker>,
    /// Turns in existence.
    at_work: usize,
    closed: bool,
}

impl ProcessPool {
    pub(crate) fn new(manager: Arc<WorkerManager>, order: CallOrder, concurrency: usize) -> Self {
        let concurrency = concurrency.max(1);
        let least = order.call.handling.min_workers.unwrap_or(concurrency);
        let least = least.clamp(1, concurrency);
        let call = &order.call;
        let shared = Shared {
            manager,
            share: Share::new(&call.query, &call.handling.demand, least),
            order,
            counters: Counters::default(),
            line: Line::new(least, concurrency - least),
            shelf: Mutex::default(),
            shelf_changed: Notify::new(),
            grower: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            concurrency,
        }
    }
}

#[async_trait]
impl UdfPool for ProcessPool {
    async fn call(&self, block: RecordBatch) -> Result<AnswerStream, UdfError> {
        if block.num_rows() == 0 {
            return Ok(self.shared.answer_to_nothing());
        }
        let block = plain_block(block)
            .and_then(|block| block_as(block, &self.shared.order.input))
            .map_err(|source| UdfError::Block {
                function: self.shared.function(),
                source,
            })?;
        let place = Place::wait(&self.shared, &block, false).await?;
        let (parts, reader) = mpsc::channel(PARTS_WAITING);
        let task = spawn_named(
            "udf-call",
            run(Arc::clone(&self.shared), place, block, parts),
        );
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
        drop(self.shared.grower.lock().take());
        free.into_iter()
            .for_each(|actor| self.shared.manager.end(actor));
    }
}

impl Shared {
    fn function(&self) -> String {
        self.order.function().to_owned()
    }

    pub(crate) fn is_actor(&self) -> bool {
        self.order.call.spec.object == ObjectKind::Class
    }

    /// Whether workers stay with the pool: they have state, or resources.
    fn keeps_workers(&self) -> bool {
        self.is_actor() || self.share.demand().takes_resources()
    }

    /// A scalar function of no rows has no values, a table function no rows.
    fn answer_to_nothing(&self) -> AnswerStream {
        let output = &self.order.call.output;
        match self.order.call.spec.is_table() {
            true => stream::empty().boxed(),
            false => {
                let empty = RecordBatch::new_empty(Arc::clone(output));
                stream::once(async { Ok(Answer::Rows(empty)) }).boxed()
            }
        }
    }

    fn want(&self) -> Want {
        match (self.keeps_workers(), self.order.call.spec.is_table()) {
            (true, _) => Want::Actor,
            (false, true) => Want::TableCall,
            (false, false) => Want::ScalarCall,
        }
    }

    /// A worker with the call loaded. One that fails to get ready makes way for
    /// another, a few times.
    pub(crate) async fn lease(shared: &Arc<Self>, vacancy: Vacancy) -> Result<Lease, UdfError> {
        let Vacancy { permit, mut kept } = vacancy;
        let mut tries = 0;
        loop {
            tries += 1;
            let (turn, source) = match kept.take() {
                Some((turn, slot)) => (turn, Source::Granted(Grant::Slot(slot))),
                None => Self::take_turn(shared).await?,
            };
            let error = match shared.ready(source).await {
                Ok(worker) => {
                    return Ok(Lease {
                        worker,
                        turn,
                        permit,
                        offer: None,
                    });
                }
                Err(error) => error.at_line(&shared.order.call),
            };
            match shared.may_try_again(&error) {
                false => return Err(error),
                true if tries == BUILD_TRIES => return Err(error.after_tries(tries)),
                true => tracing::warn!(%error, tries, "a worker is made ready once more"),
            }
        }
    }

    /// The worker of `source`, with the call loaded.
    async fn ready(&self, source: Source) -> Result<Worker, UdfError> {
        let manager = &self.manager;
        let limit = manager.init_limit(Some(&self.order.call));
        let mut worker = match source {
            Source::Own(actor) => actor,
            Source::Granted(grant) => {
                let started = &self.counters.workers_started;
                let function = self.order.function();
                manager.employ(grant, function, limit, started).await?
            }
        };
        let loaded = worker.load(&self.order, limit.deadline()).await;
        match loaded {
            Ok(()) => Ok(worker),
            Err(error) => {
                if leaves_worker_usable(&error) && !self.keeps_workers() {
                    manager.release(worker);
                }
                Err(error)
            }
        }
    }

    /// Whether what kept a worker from getting ready may have been chance: its death,
    /// or an exception while a class was built.
    fn may_try_again(&self, error: &UdfError) -> bool {
        match error {
            UdfError::WorkerLost { .. } => true,
            UdfError::Raised(_) => self.is_actor(),
            _ => false,
        }
    }

    /// Waits for an actor of our own to come free or for one more worker,
    /// whichever is first.
    async fn take_turn(shared: &Arc<Self>) -> Result<(Turn, Source), UdfError> {
        loop {
            let mut changed = pin!(shared.shelf_changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let first = {
                let mut shelf = shared.shelf.lock();
                if let Some(actor) = shelf.free_actor() {
                    return Ok((Turn::begin(shared, &mut shelf), Source::Own(actor)));
                }
                (shelf.at_work == 0).then(|| Turn::begin(shared, &mut shelf))
            };
            if let Some(turn) = first {
                return Ok((turn, Source::Granted(shared.grant(Rank::First).await?)));
            }
            tokio::select! {
                biased;
                grant = shared.grant(Rank::More) => {
                    let turn = Turn::begin(shared, &mut shared.shelf.lock());
                    return Ok((turn, Source::Granted(grant?)));
                }
                () = changed => {}
            }
        }
    }

    /// A worker, or the right to start one with what it asks for. What was claimed for
    /// one is not waited for.
    async fn grant(&self, rank: Rank) -> Result<Grant, UdfError> {
        let (manager, function) = (&self.manager, self.order.function());
        let (reserved, rank) = match manager.claimed(&self.share) {
            Some(reserved) => (Some(reserved), Rank::First),
            None => (manager.reserve(function, &self.share, rank).await?, rank),
        };
        let grant = manager.place(function, self.want(), rank).await?;
        Ok(match grant {
            Grant::Slot(slot) => Grant::Slot(slot.with(reserved)),
            lent => lent,
        })
    }

    /// Makes one more worker ready; no block waits for it meanwhile.
    pub(crate) fn grow(shared: &Arc<Self>) {
        let pool = Arc::clone(shared);
        let task = spawn_named("udf-grow", async move {
            let made = pool.newcomer().await;
            if let Err(error) = &made {
                let function = pool.order.function();
                tracing::warn!(%error, function, "the workers there are go on without one more");
            }
            let is_ready = made.map(|worker| pool.give_back(worker)).is_ok();
            pool.line.grown(is_ready);
        });
        *shared.grower.lock() = Some(task);
    }

    /// A worker with the call loaded that has nothing to do.
    async fn newcomer(&self) -> Result<Worker, UdfError> {
        let grant = self.grant(Rank::More).await?;
        self.ready(Source::Granted(grant)).await
    }

    /// Takes a worker back that is fit for more.
    fn give_back(&self, worker: Worker) {
        if !self.keeps_workers() {
            self.manager.release(worker);
            return;
        }
        let refused = {
            let mut shelf = self.shelf.lock();
            match shelf.closed {
                true => Some(worker),
                false => {
                    shelf.free.push(worker);
                    self.shelf_changed.notify_one();
                    None
                }
            }
        };
        if let Some(worker) = refused {
            self.manager.end(worker);
        }
    }
}

impl Shelf {
    fn free_actor(&mut self) -> Option<Worker> {
        let free = std::iter::from_fn(|| self.free.pop());
        free.into_iter().find(Worker::is_fit)
    }
}

/// Where a pool's next worker comes from.
enum Source {
    Own(Worker),
    Granted(Grant),
}

/// The right to a worker.
#[derive(Debug)]
pub(crate) struct Vacancy {
    pub(crate) permit: Permit<Lease>,
    /// The place of a worker that is lost, for the one that takes up its block.
    pub(crate) kept: Option<(Turn, Slot)>,
}

/// Counts as one of the pool's workers at work.
#[derive(Debug)]
pub(crate) struct Turn {
    shared: Arc<Shared>,
}

impl Turn {
    fn begin(shared: &Arc<Shared>, shelf: &mut Shelf) -> Self {
        shelf.at_work += 1;
        shared.counters.at_work(shelf.at_work);
        Self {
            shared: Arc::clone(shared),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut shelf = self.shared.shelf.lock();
        shelf.at_work -= 1;
        if shelf.at_work == 0 {
            // Who waits for more has nothing else to wait for now.
            self.shared.shelf_changed.notify_one();
        }
    }
}

/// A worker at work for this pool. Dropped while it still has it, it ends it.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) worker: Worker,
    turn: Turn,
    permit: Permit<Lease>,
    /// Who may follow.
    offer: Option<Offer<Lease>>,
}

impl Lease {
    /// Lets the next block be sent while the worker is at work on one, the last of
    /// this call.
    pub(crate) fn offer(&mut self) {
        let shared = &self.turn.shared;
        // What is handed on is not given back, where worn out workers are replaced.
        let stays = shared.keeps_workers() || !shared.manager.is_worn_out(&self.worker);
        if stays && shared.counters.is_quick() && !shared.manager.has_waiting() {
            self.offer = Some(shared.line.offer(self.worker.channel.sender()));
        }
    }

    /// Hands the worker to who follows, or gives it back.
    pub(crate) fn end(mut self) {
        let back = match self.offer.take() {
            Some(offer) => offer.hand_over(self).err(),
            None => Some(self),
        };
        let Some(Self {
            worker,
            turn,
            permit,
            ..
        }) = back
        else {
            return;
        };
        turn.shared.give_back(worker);
        drop(permit);
    }

    /// The right to another worker, this one gone.
    pub(crate) fn into_vacancy(self) -> Vacancy {
        let Self {
            worker,
            turn,
            permit,
            ..
        } = self;
        let kept = worker.into_slot().map(|slot| (turn, slot));
        Vacancy { permit, kept }
    }
}

/// What the reader sees; it owns the call's task.
fn stream_of(
    reader: mpsc::Receiver<Result<Part, UdfError>>,
    task: OwnedTask,
    function: String,
) -> AnswerStream {
    let state = Some((reader, task, function));
    stream::unfold(state, |state| async {
        let (mut reader, task, function) = state?;
        match reader.recv().await {
            Some(Ok(Part::Answer(answer))) => Some((Ok(answer), Some((reader, task, function)))),
            Some(Ok(Part::End)) => None,
            Some(Err(error)) => Some((Err(error), None)),
            // Its Tokio runtime is going down, or it panicked.
            None => Some((Err(UdfError::ShuttingDown { function }), None)),
        }
    })
    .boxed()
}
