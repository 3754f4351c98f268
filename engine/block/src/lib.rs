//! Blocks: the record batches the engine moves, seen as bytes.
//!
//! How large a block is, how it crosses a process boundary as Arrow IPC, and
//! which plain form it takes where foreign code reads it. Arrow only: no
//! DataFusion, no network, no process.

pub mod error;
pub mod ipc;
pub mod plain;
pub mod size;

pub use error::BlockError;
