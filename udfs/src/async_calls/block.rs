//! A block that somebody waits for, and the jobs that it is done in.
//!
//! One job, unless a worker is lost or a frame too small: then its rows go on in
//! others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::error::UdfError;
use crate::exchange::Part;
use crate::pool::Answer;

/// A block on its way to its reader.
#[derive(Debug)]
pub(super) struct Block {
    /// Which stream of blocks it is of, as far as that is known.
    stream: u128,
    /// Bounded by what comes of one block.
    reader: mpsc::UnboundedSender<Result<Part, UdfError>>,
    abandoned: Arc<AtomicBool>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Rows that are not answered.
    owed: usize,
    /// Where order is kept: answers by the first row that they are for.
    kept: BTreeMap<usize, Vec<Answer>>,
}

impl Block {
    pub(super) fn new(
        stream: u128,
        rows: usize,
        reader: mpsc::UnboundedSender<Result<Part, UdfError>>,
        abandoned: Arc<AtomicBool>,
    ) -> Arc<Self> {
        let state = State {
            owed: rows,
            kept: BTreeMap::new(),
        };
        Arc::new(Self {
            stream,
            reader,
            abandoned,
            state: Mutex::new(state),
        })
    }

    pub(super) fn stream(&self) -> u128 {
        self.stream
    }

    /// Whether nobody reads it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// So many rows are answered; who reads is told at once.
    pub(super) fn pass(&self, answers: Vec<Answer>, rows: usize) {
        {
            let mut state = self.state.lock();
            state.owed = state.owed.saturating_sub(rows);
        }
        self.tell(answers);
    }

    /// A worker has said its last word about some of the rows: who reads is told of the
    /// end if that was the last.
    pub(super) fn settle(&self) {
        if self.state.lock().owed == 0 {
            let _ = self.reader.send(Ok(Part::End));
        }
    }

    /// So many rows from `first` on are answered; who reads is told when all are.
    pub(super) fn keep(&self, first: usize, answers: Vec<Answer>, rows: usize) {
        let whole = {
            let mut state = self.state.lock();
            state.owed = state.owed.saturating_sub(rows);
            state.kept.insert(first, answers);
            match state.owed {
                0 => std::mem::take(&mut state.kept),
                _ => return,
            }
        };
        self.tell(whole.into_values().flatten().collect());
        self.settle();
    }

    pub(super) fn fail(&self, error: UdfError) {
        // Who is gone wants to know nothing.
        let _ = self.reader.send(Err(error));
    }

    fn tell(&self, answers: Vec<Answer>) {
        for answer in answers {
            let _ = self.reader.send(Ok(Part::Answer(answer)));
        }
    }
}

/// Rows of a block for a worker.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) block: Arc<Block>,
    pub(super) rows: RecordBatch,
    /// Which of the block's they are, in their order.
    pub(super) places: Vec<usize>,
    /// Whether they were with a worker that was lost.
    pub(super) is_suspect: bool,
}

impl Job {
    /// The first rows and the others.
    pub(super) fn cut(self, at: usize) -> [Self; 2] {
        let (first, second) = self.places.split_at(at);
        let part = |start: usize, places: &[usize]| Self {
            block: Arc::clone(&self.block),
            rows: self.rows.slice(start, places.len()),
            places: places.to_vec(),
            is_suspect: self.is_suspect,
        };
        [part(0, first), part(at, second)]
    }
}
