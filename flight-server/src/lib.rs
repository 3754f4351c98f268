//! The server around the engine: sessions, catalog, Flight SQL, command line.
//!
//! [`Database`] is what all clients share, [`Session`] what one client has; the
//! Flight SQL service and the shell are two mouths of the same sessions, so
//! that a statement means the same wherever it is typed.

pub mod catalog;
pub mod cli;
pub mod database;
pub mod error;
pub mod http;
mod loaded;
mod plan_cache;
pub mod python_env;
mod replay;
pub mod service;
pub mod session;
pub mod shell;
pub mod status;
pub mod tpch_data;
pub mod wire_schema;

pub use database::Database;
pub use error::ServerError;
pub use session::{Bound, Outcome, Parameter, Prepared, Session, StatementKind};
