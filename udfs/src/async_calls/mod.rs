//! Calls of async functions: many blocks at a time in one worker.
//!
//! ```text
//! pool: call(block) → queue → hand (a task for each worker) → PROCESS
//!                        ↑      FAILED, OUTPUT, PART, DONE → block → its reader
//!                        └── what a lost worker has not answered
//! ```
//!
//! A hand takes blocks while its worker has fewer rows than twice those in flight, so
//! that who is quick takes more, and a row that takes long keeps nobody but its own place.
//! What is answered is told by rows: when a worker is lost, only the rows that it has
//! not answered go again, once with nothing beside them. A worker stays with its pool.
//!
//! How much waits in all is for the caller to bound: a reader that does not read keeps no
//! other from its answers, so these wait unread, no more than come of its blocks.

mod at_work;
mod block;
mod hand;
mod pool;
mod queue;

pub(crate) use pool::AsyncPool;
