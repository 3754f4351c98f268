//! How the blocks of a call are handled, beyond what it is given at a time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::keyed::Keyed;
use crate::overlap::Overlap;
use crate::resources::Demand;

/// What a call asks for, or its function does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Handling {
    /// Exceptions on which user code is called again: names of classes, bare or with
    /// their module; subclasses as well. Empty: it is not.
    pub retry_exceptions: Vec<String>,
    /// Calls after the first that fails, of a row, a batch or a group.
    pub max_retries: u32,
    /// Whether batches are seen where they lie; else user code gets its own copy,
    /// to write to.
    pub zero_copy_batch: bool,
    /// Whether blocks come out in the order they went in; `None`: values do, unless
    /// a planner finds that nobody asks for it.
    pub preserve_order: Option<bool>,
    /// Workers at once to start with, over the cluster; more only while blocks wait
    /// long. `None`: as many as may be had.
    pub min_workers: Option<usize>,
    /// Longest time one block may take; `None`: as the session is set.
    pub timeout: Option<Duration>,
    /// Longest time a worker may take to start and get ready; `None`: as the process
    /// is set.
    pub init_timeout: Option<Duration>,
    /// What each worker asks for of its process.
    #[serde(skip_serializing_if = "Demand::is_none")]
    pub demand: Demand,
    /// Of an async function: how many of its calls run at a time, and how fast.
    #[serde(skip_serializing_if = "Overlap::is_default")]
    pub overlap: Overlap,
    /// How the state of its actors is kept, where a key always goes to the same one; `None`:
    /// blocks go to any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyed: Option<Keyed>,
}

impl Default for Handling {
    fn default() -> Self {
        Self {
            retry_exceptions: vec![],
            max_retries: 3,
            zero_copy_batch: true,
            preserve_order: None,
            min_workers: None,
            timeout: None,
            init_timeout: None,
            demand: Demand::default(),
            overlap: Overlap::default(),
            keyed: None,
        }
    }
}

impl Handling {
    /// The exceptions on which user code is called again, and how often at most.
    pub fn retry(&self) -> Option<(&[String], u32)> {
        let retries = !self.retry_exceptions.is_empty() && self.max_retries > 0;
        retries.then_some((&self.retry_exceptions, self.max_retries))
    }
}
