//! What a worker process is doing, for `system.workers` and for log lines.

use std::fmt;
use std::time::Instant;

/// One worker process, as others see it.
#[derive(Debug, Clone)]
pub struct WorkerInfo {
    pub pid: u32,
    /// The function it last served; empty before the first.
    pub function: String,
    pub state: WorkerState,
    /// When it entered that state.
    pub since: Instant,
    /// Of the GPUs that it asked for; empty where it asked for none.
    pub gpu_ids: Vec<String>,
}

/// Where a worker is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// Not yet ready to take a function.
    Starting,
    /// Compiling a body or building a class.
    Loading,
    /// Ready, without a block.
    Idle,
    /// Running user code.
    Busy,
    /// Told to end.
    Ending,
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Loading => "loading",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Ending => "ending",
        })
    }
}
