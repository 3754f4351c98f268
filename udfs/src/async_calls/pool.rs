//! A [`UdfPool`] of workers that run an async function.
//!
//! Dropped, it ends its workers: politely, those that are at nothing that anybody
//! waits for.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::stream::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::block::{Block, Job};
use super::hand::Hand;
use super::queue::Queue;
use crate::block_id::BlockId;
use crate::crew::Crew;
use crate::error::UdfError;
use crate::exchange::Part;
use crate::manager::WorkerManager;
use crate::order::CallOrder;
use crate::pool::{Answer, AnswerStream, PoolStats, UdfPool};
use crate::process_pool::CallOn;
use crate::resources::Share;
use crate::roster::Want;
use crate::spawn::{OwnedTask, spawn_named};
use crate::work::{ActorLoad, Work};

/// The workers of one async call in one task.
#[derive(Debug)]
pub(crate) struct AsyncPool {
    call: Arc<CallOn>,
    queue: Arc<Queue>,
    hands: Mutex<Vec<OwnedTask>>,
    concurrency: usize,
    /// Of blocks that are open.
    work: Arc<Mutex<Work>>,
}

impl AsyncPool {
    pub(crate) fn new(manager: Arc<WorkerManager>, order: CallOrder, concurrency: usize) -> Self {
        let concurrency = concurrency.max(1);
        let handling = &order.call.handling;
        let least = handling.min_workers.unwrap_or(concurrency);
        let least = least.clamp(1, concurrency);
        let share = Share::new(&order.call.query, &handling.demand, least);
        // They stay: what is on an event loop is not another's.
        let crew = Crew::new(manager, Want::Actor, Some(share), None, [concurrency, 0]);
        Self {
            call: CallOn::new(crew, order),
            queue: Arc::new(Queue::new(least, concurrency)),
            hands: Mutex::default(),
            concurrency,
            work: Arc::default(),
        }
    }

    /// What its workers do, and have done.
    pub(crate) fn load(&self) -> ActorLoad {
        let (is_ready, waiting) = self.queue.load();
        let mut work = self.work.lock();
        if is_ready {
            work.ready();
        }
        work.load(waiting)
    }

    /// Takes no more blocks, and ends its workers when they are through with those that
    /// somebody waits for.
    pub(crate) fn close(&self) {
        self.call.crew.close();
        self.queue.close();
        let hands = std::mem::take(&mut *self.hands.lock());
        self.call.crew.manager.see_out(hands);
    }
}

#[async_trait]
impl UdfPool for AsyncPool {
    async fn call(&self, block: RecordBatch) -> Result<AnswerStream, UdfError> {
        if block.num_rows() == 0 {
            return Ok(self.call.answer_to_nothing());
        }
        if self.queue.is_closed() {
            return Err(self.call.crew.gone(self.call.order.function()));
        }
        let stream = BlockId::of(&block).map_or(0, BlockId::stream);
        let rows = self.call.one_as_sent(block)?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let abandoned = Arc::new(AtomicBool::new(false));
        let count = rows.num_rows();
        let reader = Reader {
            receiver,
            abandoned: Arc::clone(&abandoned),
            queue: Arc::clone(&self.queue),
            open: Some(Open::new(&self.work)),
            cut_off: Some(UdfError::ShuttingDown {
                function: self.call.function(),
            }),
        };
        let job = Job {
            block: Block::new(stream, count, sender, abandoned),
            rows,
            places: (0..count).collect(),
            is_suspect: false,
        };
        if self.queue.push(job) {
            let (call, queue) = (Arc::clone(&self.call), Arc::clone(&self.queue));
            let counts = true;
            let hand = Hand {
                call,
                queue,
                counts,
            };
            let mut hands = self.hands.lock();
            hands.retain(|hand| !hand.is_finished());
            hands.push(spawn_named("udf-hand", hand.run()));
        }
        Ok(reader.boxed())
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }

    fn was_ready(&self) -> bool {
        self.load().is_ready
    }

    fn stats(&self) -> PoolStats {
        self.call.counters.stats()
    }
}

impl Drop for AsyncPool {
    fn drop(&mut self) {
        self.close();
    }
}

/// A block that has no last answer yet.
#[derive(Debug)]
struct Open {
    work: Arc<Mutex<Work>>,
}

impl Open {
    fn new(work: &Arc<Mutex<Work>>) -> Self {
        work.lock().begin();
        Self {
            work: Arc::clone(work),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut work = self.work.lock();
        work.count(1);
        work.end();
    }
}

/// What a reader has of a block. Dropped, it tells that nobody waits for it.
#[derive(Debug)]
struct Reader {
    receiver: mpsc::UnboundedReceiver<Result<Part, UdfError>>,
    abandoned: Arc<AtomicBool>,
    queue: Arc<Queue>,
    open: Option<Open>,
    /// What it says if the hand is gone without a word; `None`: it is at its end.
    cut_off: Option<UdfError>,
}

impl Stream for Reader {
    type Item = Result<Answer, UdfError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.cut_off.is_none() {
            return Poll::Ready(None);
        }
        let part = std::task::ready!(self.receiver.poll_recv(cx));
        if !matches!(part, Some(Ok(Part::Answer(_)))) {
            self.open = None;
        }
        Poll::Ready(match part {
            Some(Ok(Part::Answer(answer))) => Some(Ok(answer)),
            Some(Ok(Part::End)) => {
                self.cut_off = None;
                None
            }
            Some(Err(error)) => {
                self.cut_off = None;
                Some(Err(error))
            }
            None => self.cut_off.take().map(Err),
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
        self.queue.changed.notify_waiters();
    }
}
