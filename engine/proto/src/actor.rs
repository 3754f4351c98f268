//! What a task and the process of actors say over a Flight `DoExchange`.
//!
//! The first message has the command [`ActorCall`] and the schema of the blocks; the
//! first answer has that of the answers. A block, and what comes of it, are record
//! batches of Flight with a [`BlockTag`] and an [`AnswerTag`] as their metadata. One
//! that is too long for a message goes in several, the last of which says so; several
//! small ones go as one that says where they end. Answers of a named actor come by blocks
//! in the order that these were sent, those of a pool as they are there. Of actors that are
//! built yet when the exchange opens it is told once that one is ready.

/// Opens an exchange: one call of a method in one task.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ActorCall {
    /// The encoded call.
    #[prost(bytes = "vec", tag = "1")]
    pub udf_call: Vec<u8>,
    /// Longest time that one block may take, as the query's session is set.
    #[prost(uint64, optional, tag = "2")]
    pub timeout_us: Option<u64>,
    /// Rows of one block that may fail before the call does.
    #[prost(uint64, optional, tag = "3")]
    pub max_errors: Option<u64>,
    /// The pool of a query that is called; absent: a named actor.
    #[prost(message, optional, tag = "4")]
    pub pool: Option<crate::pool::PoolRef>,
    /// Blocks that may be on their way at a time; 0: as to a named actor.
    #[prost(uint32, tag = "5")]
    pub credits: u32,
    /// What its host calls the named actor; empty: as the call says.
    #[prost(string, tag = "6")]
    pub member: String,
    /// The query that makes the call: those of an actor's line take turns.
    #[prost(string, tag = "7")]
    pub query_id: String,
    /// Whether it goes before calls that are not interactive.
    #[prost(bool, tag = "8")]
    pub is_interactive: bool,
    /// Whether the query's session has said which of both it is.
    #[prost(bool, tag = "9")]
    pub is_priority_said: bool,
    /// Of a keyed call: whose lane it has. Then messages with the state follow, if there is
    /// one, before any block.
    #[prost(message, optional, tag = "10")]
    pub lane: Option<LaneCall>,
}

/// Who has a lane of a keyed call from now on.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LaneCall {
    /// Its place among those of the pool on this host.
    #[prost(uint64, tag = "1")]
    pub lane: u64,
    /// Rises each time that the lane is had anew; smaller ones are refused.
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    /// Of the state that its actor goes on from; absent: as the constructor makes it.
    #[prost(uint64, optional, tag = "3")]
    pub snapshot_bytes: Option<u64>,
}

/// Metadata of a message to an actor.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct BlockTag {
    /// Rises with each block of an exchange.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// Rows of the whole block.
    #[prost(uint64, tag = "2")]
    pub rows: u64,
    /// More of this block follows.
    #[prost(bool, tag = "3")]
    pub more: bool,
    /// Nobody reads what comes of this block any more; the message has no rows.
    #[prost(bool, tag = "4")]
    pub cancelled: bool,
    /// It is several blocks, of so many rows each but for the last; 0: it is one.
    #[prost(uint64, tag = "5")]
    pub block_rows: u64,
    /// What it is called, or the first of several, which follow one another: its stream in
    /// two halves, and its number there. 0, 0: it has no name.
    #[prost(fixed64, tag = "6")]
    pub stream_high: u64,
    #[prost(fixed64, tag = "7")]
    pub stream_low: u64,
    #[prost(uint64, tag = "8")]
    pub number: u64,
}

/// Metadata of a message of an actor.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AnswerTag {
    /// The block that it answers.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// Rows in the message.
    #[prost(uint64, tag = "2")]
    pub rows: u64,
    /// Rows of the block that failed.
    #[prost(message, repeated, tag = "3")]
    pub failed: Vec<FailedRow>,
    /// The block is answered whole, this message included.
    #[prost(message, optional, tag = "4")]
    pub done: Option<BlockDone>,
    /// The message has no rows but a part of the actor's state after the block.
    #[prost(message, optional, tag = "5")]
    pub snapshot: Option<SnapshotPart>,
    /// The message is no answer: an actor has been built, and blocks may be begun from now on.
    #[prost(bool, tag = "6")]
    pub is_ready: bool,
}

/// What a message has of a state.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SnapshotPart {
    /// Whether others follow.
    #[prost(bool, tag = "1")]
    pub more: bool,
}

/// A row that user code failed on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FailedRow {
    /// Its place in the block, from 0.
    #[prost(uint64, tag = "1")]
    pub row: u64,
    #[prost(message, optional, tag = "2")]
    pub reason: Option<FailedReason>,
}

/// Why a row failed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FailedReason {
    #[prost(string, tag = "1")]
    pub error_type: String,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(string, tag = "3")]
    pub traceback: String,
}

/// The end of a block.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BlockDone {
    /// Inside user code.
    #[prost(uint64, tag = "1")]
    pub user_us: u64,
    /// In the actor's line.
    #[prost(uint64, tag = "2")]
    pub waited_us: u64,
    /// Calls of user code that were made again, and blocks that were sent again.
    #[prost(uint64, tag = "3")]
    pub retries: u64,
    /// Processes that were started for it.
    #[prost(uint64, tag = "4")]
    pub workers_started: u64,
    /// Why the block failed; the call is over then.
    #[prost(message, optional, tag = "5")]
    pub error: Option<crate::cluster::WireError>,
    /// How many small blocks may come as one from now on.
    #[prost(uint64, tag = "6")]
    pub train: u64,
    /// States that its actor has told, and blocks that it saw again.
    #[prost(uint64, tag = "7")]
    pub snapshots: u64,
    #[prost(uint64, tag = "8")]
    pub replayed: u64,
    /// Whether its actor can tell its state.
    #[prost(bool, tag = "9")]
    pub keeps_state: bool,
    /// About how long a block that comes now would wait for its actor, as its host knows.
    #[prost(uint64, tag = "10")]
    pub wait_us: u64,
    /// Where the error is that the actor has ended, and others of its pool may take the block.
    #[prost(enumeration = "Down", tag = "11")]
    pub down: i32,
}

/// What an actor that is not there says to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Down {
    /// It is there.
    No = 0,
    /// The block was begun, and the actor ended.
    Begun = 1,
    /// It was not begun.
    NotBegun = 2,
    /// It was not begun, and the actor could not be built.
    Failed = 3,
}
