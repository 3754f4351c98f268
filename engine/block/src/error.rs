//! What can go wrong with a block; used by every module of this crate.

use arrow::datatypes::DataType;
use arrow::error::ArrowError;

/// A block that could not be encoded, decoded or converted.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    #[error("a block cannot be encoded as Arrow IPC")]
    Encode(#[source] ArrowError),
    #[error("bytes are not a block of the expected schema")]
    Decode(#[source] ArrowError),
    #[error("bytes hold no Arrow schema")]
    DecodeSchema(#[source] ArrowError),
    #[error("bytes are not one Arrow IPC message: {problem}")]
    Framing { problem: &'static str },
    #[error("column \"{column}\" cannot be made {wanted}")]
    Convert {
        column: String,
        wanted: Box<DataType>,
        #[source]
        source: ArrowError,
    },
    #[error("a block has {found} columns where {wanted} are expected")]
    Columns { wanted: usize, found: usize },
    #[error("a block cannot be put together")]
    Assemble(#[source] ArrowError),
}
