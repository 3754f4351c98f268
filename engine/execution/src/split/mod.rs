//! Reads that several readers share: the rows of a query, each for one of them.
//!
//! A split has a query and so many readers. Each of them reads `read_split('name', reader)` from
//! whatever session, process or machine it likes, again and again: what all of them read the
//! first time is one run of the query together, an *epoch*, the second time is another, and so
//! on. An epoch begins with its first reader and ends with its last one; who is through early
//! goes on to the next. `epoch` says who gets which rows, `table` is what readers read.
//!
//! Bounds: `splits_max` splits, [`EPOCHS_MAX`] epochs that not all have read, [`OPEN_MAX`] that nobody
//! has read to the end, and as `epoch` says of blocks.

mod epoch;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::future::BoxFuture;
use parking_lot::Mutex;

pub use epoch::Dealing;
use epoch::Epoch;
pub use table::{ReadSplit, reads_split};

use crate::error::ExecutionError;

/// How far a reader may be ahead of another one.
const EPOCHS_MAX: usize = 1000;
/// Runs of the query at a time: epochs that nobody has read to their end.
const OPEN_MAX: usize = 4;

/// Starts the query once more.
pub type Open =
    Box<dyn Fn() -> BoxFuture<'static, Result<SendableRecordBatchStream>> + Send + Sync>;

/// All splits of an engine, by name.
#[derive(Debug)]
pub struct Splits {
    most: usize,
    named: Mutex<BTreeMap<String, Arc<Split>>>,
}

impl Splits {
    /// None yet, of at most `most`.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            named: Mutex::default(),
        }
    }

    /// Adds a split; what is returned ends it by [`Self::remove_own`].
    ///
    /// # Errors
    /// When its name is taken, or there are as many as there may be.
    pub fn add(&self, split: Split) -> Result<Weak<Split>, ExecutionError> {
        let mut named = self.named.lock();
        if named.contains_key(&split.name) {
            return Err(ExecutionError::SplitExists { split: split.name });
        }
        if named.len() >= self.most {
            return Err(ExecutionError::SplitsMax { most: self.most });
        }
        let split = Arc::new(split);
        named.insert(split.name.clone(), Arc::clone(&split));
        Ok(Arc::downgrade(&split))
    }

    /// Takes a split away, and ends what its readers read. False if there is none.
    pub fn remove(&self, name: &str) -> bool {
        let removed = self.named.lock().remove(name);
        removed.inspect(|split| split.end()).is_some()
    }

    /// The same of this one, and of no other that has its name since.
    pub fn remove_own(&self, split: &Arc<Split>) {
        let removed = {
            let mut named = self.named.lock();
            let is_there = named
                .get(&split.name)
                .is_some_and(|found| Arc::ptr_eq(found, split));
            is_there.then(|| named.remove(&split.name)).flatten()
        };
        removed.inspect(|split| split.end());
    }

    pub fn all(&self) -> Vec<Arc<Split>> {
        self.named.lock().values().cloned().collect()
    }

    fn get(&self, name: &str) -> Option<Arc<Split>> {
        self.named.lock().get(name).cloned()
    }
}

/// One split.
pub struct Split {
    pub name: String,
    /// Its query.
    pub sql: String,
    pub readers: usize,
    pub dealing: Dealing,
    schema: SchemaRef,
    open: Open,
    state: Mutex<State>,
}

impl fmt::Debug for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Split")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    /// When it was made, or read last.
    used: Instant,
    readers: Vec<ReaderFigures>,
    /// Those that not all have read.
    epochs: BTreeMap<u64, Begun>,
    is_over: bool,
}

#[derive(Debug)]
struct Begun {
    epoch: Arc<Epoch>,
    /// Who has read it, or left.
    left: BTreeSet<usize>,
}

/// What one reader does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReaderFigures {
    /// Epochs that it has begun.
    pub epochs: u64,
    /// Rows that it has had, of all of them.
    pub rows: u64,
    /// Streams that it reads now.
    pub reading: u64,
}

impl Split {
    /// Of the rows with `schema` that `open` gives each time, for `readers`, at least 1.
    pub fn new(
        name: String,
        sql: String,
        readers: usize,
        dealing: Dealing,
        schema: SchemaRef,
        open: Open,
    ) -> Self {
        let readers = readers.max(1);
        Self {
            name,
            sql,
            readers,
            dealing,
            schema,
            open,
            state: Mutex::new(State {
                used: Instant::now(),
                readers: vec![ReaderFigures::default(); readers],
                epochs: BTreeMap::new(),
                is_over: false,
            }),
        }
    }

    /// What each reader does, the first one first.
    pub fn figures(&self) -> Vec<ReaderFigures> {
        self.state.lock().readers.clone()
    }

    /// How long nobody has read it.
    pub fn idle_for(&self, now: Instant) -> Duration {
        let state = self.state.lock();
        match state.readers.iter().any(|figures| figures.reading > 0) {
            true => Duration::ZERO,
            false => now.saturating_duration_since(state.used),
        }
    }

    /// The rows of `reader` in its next epoch.
    fn enter(self: &Arc<Self>, reader: usize) -> Result<Reading, ExecutionError> {
        let mut state = self.state.lock();
        if state.is_over {
            return Err(self.over());
        }
        let number = state.readers[reader].epochs;
        if !state.epochs.contains_key(&number) {
            self.check_room(&state, reader)?;
        }
        state.used = Instant::now();
        state.readers[reader].epochs += 1;
        state.readers[reader].reading += 1;
        let begun = state.epochs.entry(number).or_insert_with(|| Begun {
            epoch: Arc::new(Epoch::new(self.dealing, self.readers)),
            left: BTreeSet::new(),
        });
        Ok(Reading {
            epoch: Arc::clone(&begun.epoch),
            split: Arc::clone(self),
            number,
            reader,
        })
    }

    /// Refuses one epoch more than there may be.
    fn check_room(&self, state: &State, reader: usize) -> Result<(), ExecutionError> {
        let begun = state.epochs.values();
        let open = begun.filter(|begun| !begun.epoch.is_through()).count();
        let (epochs, what) = match (state.epochs.len() >= EPOCHS_MAX, open >= OPEN_MAX) {
            (true, _) => (EPOCHS_MAX, "not all have read"),
            (_, true) => (
                OPEN_MAX,
                "nobody has read to their end, and not all have left",
            ),
            _ => return Ok(()),
        };
        Err(ExecutionError::SplitReaderAhead {
            split: self.name.clone(),
            reader,
            epochs,
            what,
        })
    }

    fn over(&self) -> ExecutionError {
        ExecutionError::SplitGone {
            split: self.name.clone(),
        }
    }

    fn end(&self) {
        let epochs = {
            let mut state = self.state.lock();
            state.is_over = true;
            std::mem::take(&mut state.epochs)
        };
        epochs.values().for_each(|begun| begun.epoch.end());
    }
}

/// A reader in an epoch. Dropped, it has left.
#[derive(Debug)]
struct Reading {
    split: Arc<Split>,
    epoch: Arc<Epoch>,
    number: u64,
    reader: usize,
}

impl Reading {
    /// It has had so many rows more.
    fn count(&self, rows: usize) {
        let mut state = self.split.state.lock();
        state.readers[self.reader].rows += rows as u64;
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.epoch.leave(self.reader);
        let mut state = self.split.state.lock();
        state.readers[self.reader].reading -= 1;
        state.used = Instant::now();
        let Some(begun) = state.epochs.get_mut(&self.number) else {
            return;
        };
        begun.left.insert(self.reader);
        if begun.left.len() == self.split.readers {
            state.epochs.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests;
