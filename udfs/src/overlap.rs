//! What an async function is called with: how many calls at a time, and how fast.
//!
//! Declared by CREATE FUNCTION or said by a call; carried by
//! [`Handling`](crate::Handling); `async_calls` hands blocks to workers by it, and the
//! worker's `overlap.py` begins calls by it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::call::{CallMode, UdfCall};

/// Calls in flight in one worker, unless said otherwise.
pub const DEFAULT_IN_FLIGHT: usize = 16;
/// Name of the last column of what an async function of values answers where rows do
/// not keep their order: which rows of the block the values are for.
pub const ROW_PLACES: &str = "__row_places";

/// How often a worker says that its event loop turns, at most and at least; between
/// them, a quarter of the time that a call may take.
const ALIVE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

/// How many calls of an async function run at a time, and how fast they begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overlap {
    /// Calls at a time in one worker: of rows, batches or groups.
    pub max_in_flight: Option<usize>,
    /// Rows that begin in a second, over all workers; `None`: as fast as they come.
    pub rate_limit: Option<f64>,
}

impl Overlap {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Calls at a time in one worker; at least 1.
    pub fn in_flight(&self) -> usize {
        self.max_in_flight.unwrap_or(DEFAULT_IN_FLIGHT).max(1)
    }
}

impl UdfCall {
    /// Whether a worker runs many calls of it at a time.
    pub fn is_async(&self) -> bool {
        self.spec.object.is_async() && !self.spec.is_method()
    }

    /// Whether blocks come out in the order they went in, and rows in that of their
    /// block: values do unless told otherwise, tables only if.
    pub fn keeps_order(&self) -> bool {
        let by_default = !self.spec.is_table();
        self.handling.preserve_order.unwrap_or(by_default)
    }

    /// Whether user code is called for each row.
    pub(crate) fn is_by_row(&self) -> bool {
        !matches!(self.mode, CallMode::Batches | CallMode::Groups)
    }

    /// Whether values come with the rows that they are for, in any order.
    pub fn scatters(&self) -> bool {
        self.is_async() && !self.spec.is_table() && !self.keeps_order()
    }
}

/// In LOAD.
#[derive(Debug, Serialize)]
pub(crate) struct LoadOverlap {
    max_in_flight: usize,
    rate_limit: Option<f64>,
    /// What one call may take.
    timeout_s: Option<f64>,
    /// How often the worker says that its event loop turns.
    alive_s: Option<f64>,
    /// Whether a block is answered as a whole.
    ordered: bool,
}

impl LoadOverlap {
    /// Of an async call whose calls may take `timeout` each.
    pub(crate) fn of(call: &UdfCall, timeout: Option<Duration>) -> Option<Self> {
        call.is_async().then(|| Self {
            max_in_flight: call.handling.overlap.in_flight(),
            rate_limit: call.handling.overlap.rate_limit,
            timeout_s: timeout.map(|timeout| timeout.as_secs_f64()),
            alive_s: timeout.map(|timeout| alive_every(timeout).as_secs_f64()),
            ordered: call.keeps_order(),
        })
    }
}

/// How often a worker says that it lives, if a call may take so long.
pub(crate) fn alive_every(timeout: Duration) -> Duration {
    let [least, most] = ALIVE;
    (timeout / 4).clamp(least, most)
}
