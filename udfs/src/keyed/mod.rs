//! Keyed actors: rows of a key reach one actor, in order, and its state outlives it.
//!
//! A call whose rows are routed by key has lanes, each with one actor (`lanes`). An actor
//! whose class has `snapshot()` and `restore(state)` tells its state now and then, before
//! its last word about a block. What is kept of a lane (`keeper`) is the last of those and
//! the blocks that were answered since. A worker that takes the lane over is given both
//! (`resume`): what it answers to blocks that were answered before nobody hears, so that
//! rows come out once though user code ran twice for them.
//!
//! Each worker that takes a lane over is another generation. What an older one says, of
//! blocks or of its state, counts no more.
//!
//! An actor may live elsewhere than the task whose lane it has (`hosted_lane`). Then the task
//! keeps the same beside it: the host's loss is to the task what a worker's is to the host.
//!
//! A named actor has all its state beside itself (`hosted`), whoever calls it by key: it
//! outlives them. A worker that is built in its place is given it at once, by the calls that
//! there have been; what is kept counts together (`kept_states`).

mod answered;
mod hosted_lane;
mod keeper;
mod kept_states;
mod lanes;
mod resume;
mod tenure;

use serde::{Deserialize, Serialize};

pub(crate) use answered::{Answered, SnapshotParts};
pub(crate) use hosted_lane::HostedLane;
pub(crate) use keeper::Keeper;
pub use kept_states::{KeptShare, KeptStates};
pub(crate) use lanes::KeyedPool;
pub(crate) use resume::{inherit, resume};
pub(crate) use tenure::KeyedState;

/// How the state of a call's actors is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyed {
    /// Blocks after which an actor is asked for a snapshot; 0: as the session is set.
    pub snapshot_every: u64,
    /// Bytes of blocks after which it is asked earlier: about as many are kept.
    pub replay_bytes: u64,
    /// Most bytes of a snapshot.
    pub snapshot_max_bytes: u64,
    /// How many actors the named actor or pool has that is called; 0: the call has its own.
    #[serde(default)]
    pub actors: u64,
}
