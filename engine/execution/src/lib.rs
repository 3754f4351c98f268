//! From plans to blocks, on one process or many.
//!
//! [`Engine`] is what a front end holds: it makes sessions and runs plans,
//! embedded or as the coordinator of a cluster. [`Executor`] is the other end.
//! Read `engine` first, then `base/planner` (where stages are cut), then
//! `exchange` (how blocks travel). What is deliberately absent: SQL text, the
//! persistent catalog and Flight SQL, which belong to the server.

mod actor_calls;
mod admission;
pub mod base;
mod classify;
pub mod coordinator;
mod csv_columns;
mod csv_format;
mod csv_header;
mod csv_rows;
mod engine;
mod error;
mod exchange;
pub mod executor;
mod explain;
mod functions;
mod holders;
mod json_rows;
pub mod kept;
mod local_executors;
mod parquet_format;
mod pool;
mod process;
mod query_header;
mod resource_check;
mod row_errors;
mod run;
mod scans;
mod spawn;
mod split;
mod stores;
mod system_tables;
mod text_format;
mod token;
mod visible_files;
mod wire_error;

pub use classify::{Classified, classify, classify_any};
pub use coordinator::query::QueryRun;
pub use engine::{ClusterSettings, DEFAULT_CATALOG, DEFAULT_SCHEMA, Engine, EngineSettings};
pub use error::{ErrorClass, ExecutionError, RemoteError, WhileReading};
pub use exchange::channels::parse_address;
pub use executor::contact::Contact;
pub use executor::resources::gpu_ids;
pub use executor::{Executor, ExecutorSettings};
pub use functions::RustFunctions;
pub use local_executors::LocalExecutors;
pub use pool::named::{NamedActor, NamedActors};
pub use spawn::{OwnedTask, spawn_named};
pub use split::{Dealing, Split, Splits, reads_split};
pub use stores::{ObjectStores, StoreSpec};
pub use system_tables::SYSTEM_SCHEMA;
pub use token::ClusterToken;
pub use visible_files::hidden_by_name;

/// The version that coordinator and executors must share.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
