//! What operators see of the blocks that processes keep for later queries.
//!
//! A table of such blocks has parts; a part is with the process whose task made it
//! (`operator::keep`), and is read there, or over the network (`operator::kept_scan`).

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};

/// Some blocks of a table, in one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPart {
    /// Whose process it is.
    pub executor_id: String,
    /// Its number there.
    pub part: u64,
    pub rows: u64,
    /// Of its values, as they are in memory.
    pub bytes: u64,
    /// Of those, what lies on disk.
    pub spilled_bytes: u64,
}

/// A part, and where others reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedPart {
    pub kept: KeptPart,
    pub url: String,
}

/// The table that parts are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptName {
    /// Over all processes and times.
    pub id: String,
    /// Named in errors.
    pub name: String,
}

/// Holds a table's blocks until it is dropped; plans that read them have it.
pub type Hold = Arc<dyn Any + Send + Sync>;

/// Where a process keeps blocks.
pub trait KeptBlocks: Send + Sync + Debug {
    /// A new part of table `id`. Dropped before its end, it leaves nothing.
    ///
    /// # Errors
    /// None yet.
    fn begin(&self, id: &str, schema: &SchemaRef) -> Result<Box<dyn KeptWriter>>;

    /// The blocks of a part, wherever they are: of the table's `columns`, those at these places.
    ///
    /// # Errors
    /// They are gone, or their process is.
    fn read(
        &self,
        table: &KeptName,
        part: &PlacedPart,
        columns: (&SchemaRef, &[usize]),
        context: &Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream>;
}

/// Takes the blocks of one part.
pub trait KeptWriter: Send {
    /// Keeps `block`: in memory, or on disk where there is no room.
    ///
    /// # Errors
    /// The disk is full, or its share of it is.
    fn write(&mut self, block: RecordBatch) -> Result<()>;

    /// Gives the part to those who read it. `None`: it had no rows.
    ///
    /// # Errors
    /// As [`Self::write`].
    fn finish(self: Box<Self>) -> Result<Option<KeptPart>>;
}
