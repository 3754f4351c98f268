//! A [`UdfPool`] of threads.
//!
//! A call takes a permit, then an idle worker or a new one. The permit lies with
//! the worker until it has answered, so no more than `concurrency` threads compute
//! for a call, those that nobody waits for any more included. Threads are our own
//! and not of Tokio's blocking pool: one that waits for a slow reader would keep
//! there what reads files. They end with the pool, once they have returned.
//!
//! Where a call asks for resources, a thread has some of what its query has claimed, from
//! its start to its end, and its instance is told which devices. A pool that several tasks
//! share has a way for each, which counts for itself.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use mobula_block::plain::block_as;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::NativeFunction;
use super::worker::{Job, Part, Progress, Worker};
use crate::call::UdfCall;
use crate::error::UdfError;
use crate::pool::{Answer, AnswerStream, PoolStats, UdfPool};
use crate::resources::{Ledger, Reservation, Share};
use crate::train::Mean;

/// Outputs that may wait for their reader.
const PARTS_WAITING: usize = 2;

/// A way to the threads of one call.
pub(super) struct NativePool {
    threads: Arc<Threads>,
    counters: Arc<Counters>,
}

/// The threads of one call; they end when all ways to them are gone.
pub(super) struct Threads {
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
    concurrency: usize,
    /// What each of them has; `None`: nothing is asked for.
    seats: Option<(Arc<Ledger>, Share)>,
}

/// What workers need after the pool itself is gone.
pub(super) struct Shared {
    pub(super) call: Arc<UdfCall>,
    pub(super) code: Arc<dyn NativeFunction>,
    /// Workers with nothing to do; `None` once the pool is gone.
    idle: Mutex<Option<Vec<Worker>>>,
}

/// What a pool counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) calls: AtomicU64,
    pub(super) rows_in: AtomicU64,
    pub(super) rows_out: AtomicU64,
    pub(super) user_us: AtomicU64,
    /// Around user code: cutting, checking, joining.
    pub(super) other_us: AtomicU64,
    workers_started: AtomicU64,
    /// What a block takes lately.
    pub(super) mean: Mean,
}

impl Threads {
    /// At most `concurrency`, which start when blocks come, and have what they ask for of
    /// `ledger`.
    pub(super) fn new(
        call: Arc<UdfCall>,
        code: Arc<dyn NativeFunction>,
        concurrency: usize,
        ledger: &Arc<Ledger>,
    ) -> Self {
        let demand = &call.handling.demand;
        let concurrency = concurrency.clamp(1, Semaphore::MAX_PERMITS);
        let share = || Share::new(&call.query, demand, concurrency);
        let takes = demand.takes_resources();
        Self {
            seats: takes.then(|| (Arc::clone(ledger), share())),
            shared: Arc::new(Shared {
                call,
                code,
                idle: Mutex::new(Some(vec![])),
            }),
            permits: Arc::new(Semaphore::new(concurrency)),
            concurrency,
        }
    }

    /// What one more thread is to have.
    async fn seat(&self) -> Option<Reservation> {
        let (ledger, share) = self.seats.as_ref()?;
        Some(ledger.obtain(share).await)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // A worker ends when nobody can send to it any more.
        drop(self.shared.idle.lock().take());
    }
}

impl NativePool {
    pub(super) fn to(threads: &Arc<Threads>) -> Self {
        Self {
            threads: Arc::clone(threads),
            counters: Arc::default(),
        }
    }
}

impl fmt::Debug for NativePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativePool")
            .field("function", &self.threads.shared.function())
            .field("concurrency", &self.threads.concurrency)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl UdfPool for NativePool {
    async fn call(&self, block: RecordBatch) -> Result<AnswerStream, UdfError> {
        self.call_each(vec![block]).await
    }

    async fn call_each(&self, blocks: Vec<RecordBatch>) -> Result<AnswerStream, UdfError> {
        let shared = &self.threads.shared;
        let blocks = shared.as_given(blocks)?;
        if blocks.is_empty() {
            return Ok(shared.answer_to_nothing());
        }
        let permit = Arc::clone(&self.threads.permits).acquire_owned().await;
        let permit = permit.map_err(|_| shared.shutting_down())?;
        let worker = match shared.idle_worker() {
            Some(worker) => worker,
            None => {
                let seat = self.threads.seat().await;
                add(&self.counters.workers_started, 1);
                Worker::start(Arc::clone(shared), seat)?
            }
        };
        let (parts, reader) = mpsc::channel(PARTS_WAITING * blocks.len());
        let (end, ended) = oneshot::channel();
        let progress = Arc::new(Progress::new());
        let answer = Reading {
            shared: Arc::clone(shared),
            parts: reader,
            end: Some(ended),
            held: VecDeque::new(),
            left: None,
            progress: Cancel(Arc::clone(&progress)),
        };
        worker.send(Job {
            counters: Arc::clone(&self.counters),
            blocks,
            parts,
            end,
            progress,
            permit,
        });
        Ok(stream::unfold(Some(answer), next).boxed())
    }

    fn train(&self) -> usize {
        self.counters.mean.train()
    }

    fn concurrency(&self) -> usize {
        self.threads.concurrency
    }

    /// No bytes: the worker gets the block itself.
    fn stats(&self) -> PoolStats {
        let counters = &self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PoolStats {
            calls: read(&counters.calls),
            rows_in: read(&counters.rows_in),
            rows_out: read(&counters.rows_out),
            user_time: Duration::from_micros(read(&counters.user_us)),
            transport_time: Duration::from_micros(read(&counters.other_us)),
            workers_started: read(&counters.workers_started),
            ..PoolStats::default()
        }
    }
}

impl Shared {
    pub(super) fn function(&self) -> &str {
        &self.call.spec.name
    }

    /// `blocks` as instances get them, but for those without rows.
    fn as_given(&self, blocks: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, UdfError> {
        let some = blocks.into_iter().filter(|block| block.num_rows() > 0);
        let given = some.map(|block| {
            block_as(block, &self.call.input).map_err(|source| UdfError::Block {
                function: self.function().to_owned(),
                source,
            })
        });
        given.collect()
    }

    fn idle_worker(&self) -> Option<Worker> {
        self.idle.lock().as_mut().and_then(Vec::pop)
    }

    /// Takes a worker back; one whose pool is gone ends.
    pub(super) fn give_back(&self, worker: Worker) {
        if let Some(idle) = self.idle.lock().as_mut() {
            idle.push(worker);
        }
    }

    fn shutting_down(&self) -> UdfError {
        UdfError::ShuttingDown {
            function: self.function().to_owned(),
        }
    }

    /// A scalar function of no rows has no values, a table function no rows.
    fn answer_to_nothing(&self) -> AnswerStream {
        let output = &self.call.output;
        match self.call.spec.is_table() {
            true => stream::empty().boxed(),
            false => {
                let empty = RecordBatch::new_empty(Arc::clone(output));
                stream::once(async { Ok(Answer::Rows(empty)) }).boxed()
            }
        }
    }
}

/// The reader's side of a call.
struct Reading {
    shared: Arc<Shared>,
    parts: mpsc::Receiver<Part>,
    /// How the call ended, with what it still holds; taken once.
    end: Option<oneshot::Receiver<Result<Vec<Answer>, UdfError>>>,
    held: VecDeque<Answer>,
    /// Time the code may still take; `None` before it starts, or without limit.
    left: Option<Duration>,
    progress: Cancel,
}

/// Tells the worker, when dropped, that nobody waits for it.
struct Cancel(Arc<Progress>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
}

async fn next(reading: Option<Reading>) -> Option<(Result<Answer, UdfError>, Option<Reading>)> {
    let mut reading = reading?;
    match reading.next().await {
        Ok(Some(answer)) => Some((Ok(answer), Some(reading))),
        Ok(None) => None,
        Err(error) => Some((Err(error), None)),
    }
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Answer>, UdfError> {
        while self.end.is_some() {
            let since = Instant::now();
            let limit = self.left;
            let received = self.parts.recv();
            let part = match limit {
                None => received.await,
                Some(left) => match tokio::time::timeout(left, received).await {
                    Ok(part) => part,
                    Err(_) => match self.left_of_block() {
                        None => return Err(self.timed_out()),
                        left => {
                            self.left = left;
                            continue;
                        }
                    },
                },
            };
            self.left = limit.map(|left| left.saturating_sub(since.elapsed()));
            match part {
                Some(Part::Opened) => self.left = self.shared.call.timeout,
                Some(Part::Rows(rows)) => return Ok(Some(Answer::Rows(rows))),
                None => self.finish().await?,
            }
        }
        Ok(self.held.pop_front())
    }

    /// All parts are read: how did it end?
    async fn finish(&mut self) -> Result<(), UdfError> {
        let Some(end) = self.end.take() else {
            return Ok(());
        };
        match end.await {
            Ok(outcome) => self.held = outcome?.into(),
            Err(_) => return Err(self.shared.shutting_down()),
        }
        Ok(())
    }

    /// What the block at work has left of its time, if another has used the rest of it.
    fn left_of_block(&self) -> Option<Duration> {
        let left = self
            .shared
            .call
            .timeout?
            .checked_sub(self.progress.0.age())?;
        (!left.is_zero()).then_some(left)
    }

    fn timed_out(&self) -> UdfError {
        UdfError::NativeTimedOut {
            function: self.shared.function().to_owned(),
            limit: self.shared.call.timeout.unwrap_or_default(),
        }
    }
}

pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
