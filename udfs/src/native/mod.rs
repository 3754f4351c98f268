//! Functions written in Rust, inside the program that embeds the engine.
//!
//! ```text
//! NativeFunction   what is registered: a declaration, and how an instance is opened
//! NativeInstance   what a worker holds: batches in, batches out
//! Native           both, made of closures
//! ```
//!
//! Plans treat them as any function: the same operators, options and limits. The
//! difference is the worker: a thread of this process, which gets the block itself.
//! Nothing is copied, and nothing protects the process from code that overflows its
//! stack or never returns. A panic is caught where panics unwind.
//!
//! A worker's way: `registry` opens a `pool`, which hands blocks to its `worker`
//! threads; `batches` cuts a block as the call asks and checks what comes back.

mod batches;
mod closures;
#[cfg(test)]
mod place_tests;
mod pool;
mod registry;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod train_tests;
mod worker;

use std::error::Error;

use arrow::array::RecordBatch;

use crate::call::Literal;
use crate::resources::Reservation;
use crate::spec::FunctionSpec;

pub use closures::Native;
pub use registry::{NativeFunctions, NativeThreads};

/// What native code fails with: any error, or a text by `"…".into()`.
pub type NativeError = Box<dyn Error + Send + Sync>;

/// What an instance makes of a batch, one part at a time. The next part is asked
/// for when there is room for it, so a long answer need not lie in memory.
pub type NativeBatches<'a> = Box<dyn Iterator<Item = Result<RecordBatch, NativeError>> + 'a>;

/// A function in Rust. [`Native`] makes one of a closure; implement it for code
/// that keeps state or takes constructor arguments.
pub trait NativeFunction: Send + Sync + 'static {
    /// What SQL knows of it; [`FunctionSpec::native_scalar`] and its siblings make
    /// one. Asked once, when the function is registered.
    fn spec(&self) -> FunctionSpec;

    /// One worker's instance, made on the worker's thread before its first batch.
    /// `args` are those of `map_batches(…, name(key => literal))`; a function whose
    /// spec is no [`crate::ObjectKind::Class`] gets none.
    ///
    /// # Errors
    /// What is wrong with `args`, or keeps the instance from being made: the query
    /// fails with it.
    fn open(&self, args: &[(String, Literal)]) -> Result<Box<dyn NativeInstance>, NativeError>;

    /// As [`Self::open`], for one that has to know what its worker has of what the call
    /// asks for, such as which GPU.
    ///
    /// # Errors
    /// As [`Self::open`].
    fn open_at(
        &self,
        args: &[(String, Literal)],
        place: &NativePlace,
    ) -> Result<Box<dyn NativeInstance>, NativeError> {
        let _ = place;
        self.open(args)
    }
}

/// What a worker has of its process, as the call asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NativePlace {
    /// Its GPUs, whole or a share of each, by the ids that CUDA_VISIBLE_DEVICES takes. Set
    /// for nobody: threads share their process's environment.
    pub gpu_ids: Vec<String>,
    /// Whole cores, at least one; `None`: not asked for.
    pub cores: Option<usize>,
}

impl NativePlace {
    fn of(seat: Option<&Reservation>) -> Self {
        seat.map_or_else(Self::default, |seat| Self {
            gpu_ids: seat.gpu_ids().to_vec(),
            cores: seat.cores(),
        })
    }
}

/// What a worker holds. It stays on one thread, and need not be `Send`.
pub trait NativeInstance {
    /// Answers one batch, never empty. Of a function of values: its columns are the
    /// parameters, and the parts have one column with a value for each row. Of a
    /// function of a TABLE: all columns in, the declared columns out, in any order
    /// and with any number of rows; where it decides which rows stay, one column of
    /// BOOLEAN. Texts come with offsets and dictionaries as their values, whatever
    /// the table has.
    ///
    /// # Errors
    /// Anything: the query fails with it, and the function's name.
    fn call(&mut self, batch: RecordBatch) -> Result<NativeBatches<'_>, NativeError>;
}

/// An error with its causes in one line.
fn told(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
