//! Who gets which rows of one run of a split's query.
//!
//! Nobody runs ahead of the readers: whoever wants a block and finds none waits for the query's
//! next one, and has it ([`Dealing::AsTheyCome`]), or deals out its rows ([`Dealing::Equal`]).
//! Where rows are dealt out, up to [`WAITING_MAX`] pieces wait for each reader; then the others
//! wait for it. What a reader would have had that has left is dropped.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use datafusion::common::{DataFusionError, Result};
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Mutex as FairMutex, Notify};

use super::Open;
use crate::exchange::compact::compact_block;

/// Pieces that may wait for a reader.
const WAITING_MAX: usize = 4;

/// How rows are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dealing {
    /// A block for whoever asks next: a slow reader holds up nobody, and gets fewer.
    AsTheyCome,
    /// As many rows for each; fewer than there are readers are left out at the end.
    Equal,
}

/// One run of the query, and its readers.
pub struct Epoch {
    dealing: Dealing,
    run: FairMutex<Run>,
    state: Mutex<State>,
    /// There is something for somebody, or room for more.
    changed: Notify,
}

impl std::fmt::Debug for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Epoch").finish_non_exhaustive()
    }
}

enum Run {
    New,
    Open(SendableRecordBatchStream),
    Through,
}

#[derive(Debug, Default)]
struct State {
    /// What was dealt out, by reader.
    waiting: Vec<VecDeque<RecordBatch>>,
    has_left: Vec<bool>,
    /// Rows that are too few for all.
    rest: Option<RecordBatch>,
    end: Option<Result<(), Arc<DataFusionError>>>,
}

impl Epoch {
    pub fn new(dealing: Dealing, readers: usize) -> Self {
        Self {
            dealing,
            run: FairMutex::new(Run::New),
            state: Mutex::new(State {
                waiting: vec![VecDeque::new(); readers],
                has_left: vec![false; readers],
                ..State::default()
            }),
            changed: Notify::new(),
        }
    }

    /// The next rows of `reader`; `None` when there are no more. May be dropped at any time.
    pub async fn next(&self, reader: usize, open: &Open) -> Option<Result<RecordBatch>> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(told) = self.told(reader) {
                return told;
            }
            if !self.has_room() {
                changed.await;
                continue;
            }
            let mut run = self.run.lock().await;
            // Whoever had it before may have left something.
            if let Some(told) = self.told(reader) {
                return told;
            }
            if !self.has_room() {
                continue;
            }
            let next = tokio::select! {
                next = run.next(open) => next,
                () = self.is_over() => {
                    *run = Run::Through;
                    continue;
                }
            };
            match next {
                Some(Ok(block)) if self.dealing == Dealing::AsTheyCome => return Some(Ok(block)),
                Some(Ok(block)) => {
                    let dealt = self.state.lock().deal(block);
                    if let Err(error) = dealt {
                        *run = Run::Through;
                        self.finish(Err(error));
                    }
                }
                Some(Err(error)) => self.finish(Err(error)),
                None => self.finish(Ok(())),
            }
            self.changed.notify_waiters();
        }
    }

    /// What is there for `reader`, which may be the end.
    fn told(&self, reader: usize) -> Option<Option<Result<RecordBatch>>> {
        let mut state = self.state.lock();
        if let Some(block) = state.waiting[reader].pop_front() {
            drop(state);
            self.changed.notify_waiters();
            return Some(Some(Ok(block)));
        }
        state.end.as_ref().map(|end| match end {
            Ok(()) => None,
            Err(error) => Some(Err(DataFusionError::Shared(Arc::clone(error)))),
        })
    }

    /// Ready once there are no more rows for anybody.
    async fn is_over(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.state.lock().end.is_some() {
                return;
            }
            changed.await;
        }
    }

    fn has_room(&self) -> bool {
        let state = self.state.lock();
        state.waiting.iter().all(|mine| mine.len() < WAITING_MAX)
    }

    fn finish(&self, end: Result<()>) {
        let mut state = self.state.lock();
        state.end.get_or_insert(end.map_err(Arc::new));
        state.rest = None;
    }

    /// `reader` takes no more.
    pub fn leave(&self, reader: usize) {
        let mut state = self.state.lock();
        state.has_left[reader] = true;
        state.waiting[reader].clear();
        drop(state);
        self.changed.notify_waiters();
    }

    /// Nobody gets any more, and the run ends.
    pub fn end(&self) {
        let gone = "the split was dropped, or its session has ended".to_owned();
        self.finish(Err(DataFusionError::Execution(gone)));
        self.changed.notify_waiters();
        // Whoever has it ends it.
        if let Ok(mut run) = self.run.try_lock() {
            *run = Run::Through;
        }
    }

    /// Whether its rows have been read, or will not come.
    pub fn is_through(&self) -> bool {
        self.state.lock().end.is_some()
    }
}

impl Run {
    async fn next(&mut self, open: &Open) -> Option<Result<RecordBatch>> {
        if matches!(self, Self::New) {
            match open().await {
                Ok(stream) => *self = Self::Open(stream),
                Err(error) => {
                    *self = Self::Through;
                    return Some(Err(error));
                }
            }
        }
        let Self::Open(stream) = self else {
            return None;
        };
        let next = stream.next().await;
        if !matches!(next, Some(Ok(_))) {
            // What the query holds is free at once.
            *self = Self::Through;
        }
        next
    }
}

impl State {
    /// As many rows of `block` for each reader as there are for all.
    fn deal(&mut self, block: RecordBatch) -> Result<()> {
        let block = match self.rest.take() {
            Some(rest) => concat_batches(&block.schema(), [&rest, &block])?,
            None => block,
        };
        let readers = self.waiting.len();
        let each = block.num_rows() / readers;
        for (reader, waiting) in self.waiting.iter_mut().enumerate() {
            if each > 0 && !self.has_left[reader] {
                waiting.push_back(block.slice(reader * each, each));
            }
        }
        let dealt = readers * each;
        if dealt < block.num_rows() {
            // Without the blocks that they come from.
            self.rest = Some(compact_block(block.slice(dealt, block.num_rows() - dealt))?);
        }
        Ok(())
    }
}
