//! Messages that cross process borders, as prost structs written by hand.
//!
//! Why by hand: a dozen small messages do not earn a code generator, and no
//! build script means no protoc. Field numbers are the contract: never reuse
//! one. Nothing here depends on another crate of ours.

pub mod actor;
pub mod cluster;
pub mod plan;
pub mod pool;
pub mod report;
