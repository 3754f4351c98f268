//! Calls of actors that live in another process: Arrow Flight `DoExchange`.
//!
//! A task's pool is a [`RemoteActor`](pool): it opens one exchange at its first block,
//! sends blocks (`link`) and hands answers to who asked (`reply`). The process with
//! the actor serves it (`serve`) by an ordinary pool of its own, which stands in the
//! actor's line. `wire` is what both write and read.
//!
//! The same way leads to the actors of a query (`pool/dispatch`): there are several, so
//! more blocks are on their way, and their answers come as they are there.
//!
//! A lane of a keyed call is had by one exchange at a time, whose opening brings the state
//! that its actor goes on from; states that it tells come back with answers (`snapshots`).
//!
//! Nothing piles up: at most [`CREDITS`] blocks of an exchange, or [`CREDITS_MAX`], are on their way, the
//! answers of a block wait at their reader up to a bound, and beyond it HTTP/2 stops
//! the sender.

mod call;
pub mod link;
pub mod pool;
mod reply;
pub mod serve;
mod snapshots;
mod wire;
mod words;

#[cfg(test)]
mod tests;

pub use wire::as_us;

/// Blocks of one exchange on their way to a named actor at a time: one at work, one in
/// line behind it.
const CREDITS: usize = 2;
/// The same to a pool, at most.
const CREDITS_MAX: usize = 1024;
