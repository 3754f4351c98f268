//! Rows that user code fails on: what is to become of them, and what is told.
//!
//! The policy stands in a [`crate::UdfCall`]; the worker finds the rows; the
//! operator drops them, leaves their NULL, or hands them on to be listed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What becomes of a row that user code fails on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The query fails.
    #[default]
    Raise,
    /// It stays, with NULL for what the function gives.
    Null,
    /// It is left out.
    Drop,
    /// It is left out, and listed in `system.errors`.
    DeadLetter,
}

/// A policy with its bounds; `None`: no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ErrorPolicy {
    pub on_error: OnError,
    /// Rows that may fail in a query before it fails.
    pub max_errors: Option<u64>,
    /// Share of the rows that may fail, from 0 to 1.
    pub max_error_ratio: Option<f64>,
}

/// A row of a block that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedRow {
    /// Its place in the block, from 0.
    pub row: usize,
    /// Why; told of each row that is to be listed, else of a block's first.
    pub reason: Option<RowFailure>,
}

/// Why a row failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RowFailure {
    /// `ValueError`; `Refused` for a value that does not fit its declaration.
    #[serde(rename = "type")]
    pub error_type: String,
    /// As in [`crate::UserFailure`].
    pub message: String,
    /// Empty where nothing was raised.
    pub traceback: String,
}

impl OnError {
    /// All, as they are written.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Raise, "raise"),
        (Self::Null, "null"),
        (Self::Drop, "drop"),
        (Self::DeadLetter, "dead_letter"),
    ];

    /// Whether rows that fail are left out.
    pub fn drops_rows(self) -> bool {
        matches!(self, Self::Drop | Self::DeadLetter)
    }
}

impl FromStr for OnError {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut known = Self::ALL.iter();
        let found = known.find(|(_, name)| name.eq_ignore_ascii_case(text));
        found.map(|(policy, _)| *policy).ok_or(())
    }
}

impl fmt::Display for OnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut known = Self::ALL.iter().filter(|(policy, _)| policy == self);
        f.write_str(known.next().map_or("", |(_, name)| name))
    }
}
