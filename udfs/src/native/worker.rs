//! One thread that runs user code.
//!
//! It opens its instance at the first block and keeps it. After a panic the
//! instance is given up, because nobody knows its state; the next block opens
//! another. A worker is back on the shelf before the reader learns of the end, so
//! that the reader's next call finds it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use arrow::array::RecordBatch;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::batches::{Stop, Work};
use super::pool::{Shared, add};
use super::{NativeInstance, told};
use crate::error::{UdfError, UserFailure};
use crate::pool::Answer;

/// Stack of a worker, as a program's first thread has it.
const STACK_BYTES: usize = 8 << 20;

/// What goes to the reader of a call while it is at work.
#[derive(Debug)]
pub(super) enum Part {
    /// The instance is there: from now on time counts.
    Opened,
    Rows(RecordBatch),
}

/// One block to answer.
pub(super) struct Job {
    pub(super) block: RecordBatch,
    pub(super) parts: mpsc::Sender<Part>,
    /// Gets the outputs that were not passed on as parts.
    pub(super) end: oneshot::Sender<Result<Vec<Answer>, UdfError>>,
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) permit: OwnedSemaphorePermit,
}

/// The way to a thread; dropped, the thread ends when it has nothing to do.
pub(super) struct Worker {
    jobs: SyncSender<(Job, Worker)>,
}

impl Worker {
    /// Starts a thread for the call of `shared`.
    pub(super) fn start(shared: Arc<Shared>) -> Result<Self, UdfError> {
        // One job at a time: it is given back before it gets another.
        let (jobs, received) = sync_channel(1);
        let function = shared.function().to_owned();
        let thread = std::thread::Builder::new()
            .name(format!("native {function}"))
            .stack_size(STACK_BYTES);
        match thread.spawn(move || work(&shared, &received)) {
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

fn work(shared: &Shared, jobs: &Receiver<(Job, Worker)>) {
    let mut instance = None;
    while let Ok((job, worker)) = jobs.recv() {
        let Job {
            block,
            parts,
            end,
            cancelled,
            permit,
        } = job;
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let instance = opened(shared, &mut instance)?;
            // Gone is the reader; `run` will notice.
            let _ = parts.blocking_send(Part::Opened);
            Work {
                call: &shared.call,
                counters: &shared.counters,
                cancelled: &cancelled,
                parts: &parts,
                user_time: std::time::Duration::ZERO,
                failed: vec![],
                places: None,
            }
            .run(instance, block)
        }));
        let outcome = ran.unwrap_or_else(|panic| {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(instance.take())));
            let message = format!("panicked: {}", said(panic.as_ref()));
            Err(Stop::Failed(raised(shared.function(), message)))
        });
        add(&shared.counters.calls, 1);
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
}

fn opened<'a>(
    shared: &Shared,
    instance: &'a mut Option<Box<dyn NativeInstance>>,
) -> Result<&'a mut dyn NativeInstance, Stop> {
    let found = match instance.take() {
        Some(found) => found,
        None => shared.code.open(&shared.call.args).map_err(|error| {
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
