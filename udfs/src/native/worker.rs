//! One thread that runs user code.
//!
//! It gets blocks that are few, or many that are small (`train`): waking a thread, and
//! the task that waits for it, takes longer than many a function does.
//!
//! It opens its instance at the first block and keeps it. After a panic the
//! instance is given up, because nobody knows its state; the next block opens
//! another. A worker is back on the shelf before the reader learns of the end, so
//! that the reader's next call finds it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::batches::{Stop, Work};
use super::pool::{Counters, Shared, add};
use super::{NativeInstance, NativePlace, told};
use crate::error::{UdfError, UserFailure};
use crate::pool::Answer;
use crate::resources::Reservation;

/// Stack of a worker, as a program's first thread has it.
const STACK_BYTES: usize = 8 << 20;

/// What goes to the reader of a call while it is at work.
#[derive(Debug)]
pub(super) enum Part {
    /// The instance is there: from now on time counts.
    Opened,
    Rows(RecordBatch),
}

/// What both sides of a job see of it.
#[derive(Debug)]
pub(super) struct Progress {
    /// Nobody waits for it any more.
    pub(super) cancelled: AtomicBool,
    since: Instant,
    /// When the block at work was begun, in µs after `since`.
    begun_us: AtomicU64,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            cancelled: AtomicBool::new(false),
            since: Instant::now(),
            begun_us: AtomicU64::new(0),
        }
    }

    fn begin_block(&self) {
        self.begun_us.store(self.now_us(), Ordering::Relaxed);
    }

    /// How long the block at work has been.
    pub(super) fn age(&self) -> Duration {
        let begun = self.begun_us.load(Ordering::Relaxed);
        Duration::from_micros(self.now_us().saturating_sub(begun))
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// Blocks to answer, one after the other.
pub(super) struct Job {
    /// Of who sent them.
    pub(super) counters: Arc<Counters>,
    pub(super) blocks: Vec<RecordBatch>,
    pub(super) parts: mpsc::Sender<Part>,
    /// Gets the outputs that were not passed on as parts.
    pub(super) end: oneshot::Sender<Result<Vec<Answer>, UdfError>>,
    pub(super) progress: Arc<Progress>,
    pub(super) permit: OwnedSemaphorePermit,
}

/// The way to a thread; dropped, the thread ends when it has nothing to do.
pub(super) struct Worker {
    jobs: SyncSender<(Job, Worker)>,
}

impl Worker {
    /// Starts a thread for the call of `shared`, which has `seat` to its end.
    pub(super) fn start(shared: Arc<Shared>, seat: Option<Reservation>) -> Result<Self, UdfError> {
        // One job at a time: it is given back before it gets another.
        let (jobs, received) = sync_channel(1);
        let function = shared.function().to_owned();
        let thread = std::thread::Builder::new()
            .name(format!("native {function}"))
            .stack_size(STACK_BYTES);
        match thread.spawn(move || work(&shared, &received, seat)) {
            Ok(_) => Ok(Self { jobs }),
            Err(source) => Err(UdfError::NativeThread { function, source }),
        }
    }

    pub(super) fn send(self, job: Job) {
        let jobs = self.jobs.clone();
        // The thread lives while there is a sender; if it should not, the job's
        // reader sees that there is no end.
        let _ = jobs.try_send((job, self));
    }
}

fn work(shared: &Shared, jobs: &Receiver<(Job, Worker)>, seat: Option<Reservation>) {
    let place = NativePlace::of(seat.as_ref());
    let mut instance = None;
    while let Ok((job, worker)) = jobs.recv() {
        let Job {
            counters,
            blocks,
            parts,
            end,
            progress,
            permit,
        } = job;
        let count = blocks.len() as u64;
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let instance = opened(shared, &place, &mut instance)?;
            progress.begin_block();
            // Gone is the reader; `run` will notice.
            let _ = parts.blocking_send(Part::Opened);
            answered(shared, instance, blocks, (&counters, &parts, &progress))
        }));
        let outcome = ran.unwrap_or_else(|panic| {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(instance.take())));
            let message = format!("panicked: {}", said(panic.as_ref()));
            Err(Stop::Failed(raised(shared.function(), message)))
        });
        add(&counters.calls, count);
        shared.give_back(worker);
        drop((permit, parts));
        // Who is gone wants no end.
        let _ = match outcome {
            Ok(held) => end.send(Ok(held)),
            Err(Stop::Failed(error)) => end.send(Err(error)),
            Err(Stop::Abandoned) => continue,
        };
    }
    let _ = catch_unwind(AssertUnwindSafe(|| drop(instance)));
    // Not before: the instance is what uses it.
    drop(seat);
}

/// What `instance` makes of `blocks`, but for what was passed on.
fn answered(
    shared: &Shared,
    instance: &mut dyn NativeInstance,
    blocks: Vec<RecordBatch>,
    (counters, parts, progress): (&Counters, &mpsc::Sender<Part>, &Progress),
) -> Result<Vec<Answer>, Stop> {
    let (since, count) = (Instant::now(), blocks.len() as u32);
    let (mut held, mut before) = (Vec::with_capacity(blocks.len()), 0);
    for block in blocks {
        let rows = block.num_rows();
        progress.begin_block();
        let work = Work {
            call: &shared.call,
            counters,
            cancelled: &progress.cancelled,
            parts,
            user_time: Duration::ZERO,
            failed: vec![],
            places: None,
        };
        let answers = work.run(instance, block)?;
        held.extend(answers.into_iter().map(|answer| answer.after(before)));
        before += rows;
    }
    counters.mean.add(since.elapsed() / count.max(1));
    Ok(held)
}

fn opened<'a>(
    shared: &Shared,
    place: &NativePlace,
    instance: &'a mut Option<Box<dyn NativeInstance>>,
) -> Result<&'a mut dyn NativeInstance, Stop> {
    let found = match instance.take() {
        Some(found) => found,
        None => shared
            .code
            .open_at(&shared.call.args, place)
            .map_err(|error| {
                let message = format!("cannot be opened: {}", told(error.as_ref()));
                Stop::Failed(refused(shared.function(), message))
            })?,
    };
    Ok(instance.insert(found).as_mut())
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "without a message",
    }
}

/// The code failed.
pub(super) fn raised(function: &str, message: String) -> UdfError {
    UdfError::Raised(Box::new(failure(function, message)))
}

/// The code did not keep to its declaration.
pub(super) fn refused(function: &str, message: String) -> UdfError {
    UdfError::Refused(Box::new(failure(function, message)))
}

fn failure(function: &str, message: String) -> UserFailure {
    UserFailure {
        function: function.to_owned(),
        message,
        traceback: None,
    }
}
