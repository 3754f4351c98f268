//! Memory of one call's blocks in one task, from when they leave until all that came of
//! them is passed on.
//!
//! Where the process has a `memory_limit`, a block is counted in its pool before it goes:
//! its rows, which wait beside it, what is sent of them, which is copied on the way, and
//! what is likely to come of it, so that there is room for answers before there are any. A
//! block that finds no room waits for one of its own stream to come back. The one that a
//! stream may have on its way in any case waits for nothing, and is counted where there is
//! room: calls above and below each other never wait for one another.
//!
//! Operators that cannot wait, as joins and sorts, fail where memory is short, so blocks
//! leave them a part of it: they take none when the pool is fuller than
//! `udf_memory_percent`. Bytes are a block's share of those of its rows (`block_bytes`), so
//! that blocks cut from one batch count it once together, though each keeps all of it alive.
//! They are taken from the pool in steps, since its lock is everybody's. Used by `stream`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use mobula_block::size::block_bytes;
use mobula_udfs::UdfCall;

use super::block_queue::Block;
use super::exec::ExecShape;

/// What is taken from the pool at a time at least, and kept for the next block.
const STEP_BYTES: usize = 64 << 10;
/// How much the last call counts in what comes of a byte.
const LAST_COUNTS: f64 = 0.3;

/// The memory of one call's blocks.
#[derive(Debug)]
pub(super) struct BlockMemory {
    pool: Arc<dyn MemoryPool>,
    /// Bytes that may be taken of the pool, by whomever, for a block to be sent.
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    reserved: MemoryReservation,
    /// Of `reserved`, what blocks on their way have.
    used: usize,
    /// Bytes that come of each byte sent; `None`: nobody knows, as many.
    ratio: Option<f64>,
}

/// Bytes of blocks that are to go together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BlockSize {
    /// Of their rows that wait beside them.
    beside: usize,
    sent: usize,
}

impl BlockSize {
    /// That of `blocks`, of a call that meets its input in `shape`.
    pub(super) fn of(blocks: &[Block], shape: &ExecShape) -> Self {
        let beside = match shape {
            ExecShape::Column { .. } | ExecShape::Filter { .. } => {
                blocks.iter().map(|block| block.bytes_beside).sum()
            }
            // Nothing waits: all of it is sent.
            ExecShape::Table { .. } => 0,
        };
        let sent = blocks.iter().map(|block| block.bytes).sum();
        Self { beside, sent }
    }
}

impl BlockMemory {
    /// That of `call` in the task of `context`, which may fill `percent` of the memory that
    /// there is; `None`: there is no limit.
    pub(super) fn of(context: &TaskContext, call: &UdfCall, percent: usize) -> Option<Arc<Self>> {
        let pool = context.memory_pool();
        let MemoryLimit::Finite(limit) = pool.memory_limit() else {
            return None;
        };
        let consumer = MemoryConsumer::new(format!("blocks of {}", call.function_names()));
        Some(Arc::new(Self {
            most: (limit as u128 * percent as u128 / 100) as usize,
            state: Mutex::new(State {
                reserved: consumer.register(pool),
                used: 0,
                ratio: None,
            }),
            pool: Arc::clone(pool),
        }))
    }

    /// Room for blocks of `size`; `None`: they have to wait. One that `must` go has some,
    /// counted or not.
    pub(super) fn room(self: &Arc<Self>, size: BlockSize, must: bool) -> Option<Room> {
        let mut state = self.state();
        let made = state.ratio.unwrap_or(1.0) * size.sent as f64;
        let bytes = size.beside + size.sent + made as usize;
        let is_counted = self.take(&mut state, bytes);
        (is_counted || must).then(|| Room {
            memory: Some(Arc::clone(self)),
            bytes: if is_counted { bytes } else { 0 },
            sent: size.sent,
        })
    }

    /// Of `sent` bytes came so many, as far as they waited at a time.
    fn learn(&self, sent: usize, made: usize) {
        if sent == 0 {
            return;
        }
        let lately = made as f64 / sent as f64;
        let mut state = self.state();
        let before = state.ratio.unwrap_or(lately);
        state.ratio = Some(before + LAST_COUNTS * (lately - before));
    }

    fn take(&self, state: &mut State, bytes: usize) -> bool {
        let wanted = state.used.saturating_add(bytes);
        if let Some(missing) = wanted.checked_sub(state.reserved.size()) {
            let has_room = |more: usize| {
                self.pool.reserved().saturating_add(more) <= self.most
                    && state.reserved.try_grow(more).is_ok()
            };
            // Near the limit as much as is needed.
            let step = missing.next_multiple_of(STEP_BYTES);
            if missing > 0 && !(has_room(step) || has_room(missing)) {
                return false;
            }
        }
        state.used = wanted;
        true
    }

    fn give_back(&self, bytes: usize) {
        let mut state = self.state();
        state.used -= bytes;
        let spare = state.reserved.size() - state.used;
        if spare > 2 * STEP_BYTES {
            state.reserved.shrink(spare - STEP_BYTES);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What blocks on their way have of it, if there is a limit.
#[derive(Debug, Default)]
pub(super) struct Room {
    memory: Option<Arc<BlockMemory>>,
    /// Counted of them.
    bytes: usize,
    sent: usize,
}

impl Room {
    /// Counts what comes of them, of a call in `shape`; of a table no more than `unread`
    /// answers wait.
    pub(super) fn made(&self, unread: usize, shape: &ExecShape) -> Option<Made> {
        let memory = self.memory.as_ref()?;
        let is_table = matches!(shape, ExecShape::Table { .. });
        Some(Made {
            memory: Arc::clone(memory),
            sent: self.sent,
            unread: is_table.then_some(unread),
            bytes: 0,
            longest: 0,
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(memory) = &self.memory {
            memory.give_back(self.bytes);
        }
    }
}

/// What comes of blocks.
pub(super) struct Made {
    memory: Arc<BlockMemory>,
    sent: usize,
    /// Answers that may wait; `None`: all of them.
    unread: Option<usize>,
    bytes: usize,
    longest: usize,
}

impl Made {
    /// Counts an answer.
    pub(super) fn add(&mut self, rows: &RecordBatch) {
        let bytes = block_bytes(rows);
        self.bytes += bytes;
        self.longest = self.longest.max(bytes);
    }

    /// There is no more: the next ones are expected to give as much.
    pub(super) fn tell(self) {
        let most = self
            .unread
            .map_or(usize::MAX, |unread| self.longest.saturating_mul(unread));
        self.memory.learn(self.sent, self.bytes.min(most));
    }
}
