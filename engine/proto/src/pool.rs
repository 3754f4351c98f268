//! What coordinator and hosts of actors say about the pools of a query.
//!
//! The coordinator starts pools by [`ACTION_POOLS_START`] and ends them by
//! [`ACTION_POOLS_END`]; a query's header tells its tasks where they are. Pools that follow
//! their load it looks at by [`ACTION_POOLS_LOADS`].

/// Starts pools of a query, all or none: the body is a [`StartPools`].
pub const ACTION_POOLS_START: &str = "mobula.pools.start";
/// Ends pools of a query: the body is an [`EndPools`].
pub const ACTION_POOLS_END: &str = "mobula.pools.end";
/// Asks the coordinator where a query's pools are now: the body is a [`FindPools`], the
/// answer a [`FoundPools`].
pub const ACTION_POOLS_FIND: &str = "mobula.pools.find";

/// Asks a host what pools of queries do: the body is an [`AskPoolLoads`], the answer a
/// [`PoolLoads`].
pub const ACTION_POOLS_LOADS: &str = "mobula.pools.loads";

/// Builds an actor: the body is a [`StartActor`].
pub const ACTION_ACTOR_START: &str = "mobula.actor.start";
/// Ends an actor: the body is an [`EndActor`].
pub const ACTION_ACTOR_END: &str = "mobula.actor.end";
/// Asks a host how busy named actors of it are: the body is an [`AskLoads`], the answer a
/// [`ToldLoads`].
pub const ACTION_ACTORS_LOAD: &str = "mobula.actors.load";

/// A named actor, or one of a named pool, to be built.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StartActor {
    /// An encoded `mobula_udfs::ActorSpec`.
    #[prost(bytes = "vec", tag = "1")]
    pub spec: Vec<u8>,
}

/// One to be ended.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EndActor {
    /// What its host calls it.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Set: the call at work may take so long, and others of its pool take what is in line.
    #[prost(uint64, optional, tag = "2")]
    pub retire_ms: Option<u64>,
}

/// What a block that is to be sent wants to know.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AskLoads {
    /// What their host calls the actors.
    #[prost(string, repeated, tag = "1")]
    pub members: Vec<String>,
    /// The query that makes the call: those of an actor's line take turns.
    #[prost(string, tag = "2")]
    pub query_id: String,
    /// As `ActorCall` says.
    #[prost(bool, tag = "3")]
    pub is_interactive: bool,
    #[prost(bool, tag = "4")]
    pub is_priority_said: bool,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ToldLoads {
    /// About how long it would wait for each, in microseconds; the largest number: that is not
    /// there.
    #[prost(uint64, repeated, tag = "1")]
    pub waits_us: Vec<u64>,
}

/// Pools of one query on one host.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StartPools {
    #[prost(string, tag = "1")]
    pub query_id: String,
    #[prost(message, repeated, tag = "2")]
    pub pools: Vec<StartPool>,
    /// Those of each start have another one, see [`PoolHost`].
    #[prost(uint64, tag = "3")]
    pub part: u64,
    /// Whether one of the actors of each is to be ready when this is answered; else they are
    /// built when blocks come.
    #[prost(bool, tag = "4")]
    pub is_built: bool,
}

/// One of them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StartPool {
    /// Of the operator, see `MapBatchesExecNode`.
    #[prost(uint64, tag = "1")]
    pub call_id: u64,
    /// The encoded call.
    #[prost(bytes = "vec", tag = "2")]
    pub udf_call: Vec<u8>,
    /// Actors that the pool may have here, at least 1.
    #[prost(uint64, tag = "3")]
    pub actors: u64,
    /// Of them, those that it has from the first blocks on.
    #[prost(uint64, tag = "6")]
    pub least: u64,
    /// Longest time that one block may take, as the query's session is set.
    #[prost(uint64, optional, tag = "4")]
    pub timeout_us: Option<u64>,
    /// Rows of one block that may fail before the call does.
    #[prost(uint64, optional, tag = "5")]
    pub max_errors: Option<u64>,
}

/// Whose pools end.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EndPools {
    #[prost(string, tag = "1")]
    pub query_id: String,
    /// Only those of one start, which may still be on its way; none: all of them.
    #[prost(uint64, optional, tag = "2")]
    pub part: Option<u64>,
    /// Of a part: how long the blocks at work may take; others are refused.
    #[prost(uint64, tag = "3")]
    pub retire_ms: u64,
}

/// The queries whose pools are looked at.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AskPoolLoads {
    #[prost(string, repeated, tag = "1")]
    pub query_ids: Vec<String>,
}

/// What they do.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PoolLoads {
    #[prost(message, repeated, tag = "1")]
    pub loads: Vec<PoolLoad>,
}

/// What one does, and has done; times in µs.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PoolLoad {
    #[prost(string, tag = "1")]
    pub query_id: String,
    #[prost(uint64, tag = "2")]
    pub call_id: u64,
    #[prost(uint64, tag = "3")]
    pub part: u64,
    /// Blocks in its line.
    #[prost(uint64, tag = "4")]
    pub queue: u64,
    #[prost(bool, tag = "5")]
    pub is_at_work: bool,
    /// Whether an actor has ever been ready for a block.
    #[prost(bool, tag = "6")]
    pub is_ready: bool,
    /// Blocks that it is through with.
    #[prost(uint64, tag = "7")]
    pub calls: u64,
    /// At work.
    #[prost(uint64, tag = "8")]
    pub busy_us: u64,
}

/// Whose pools are looked for.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FindPools {
    #[prost(string, tag = "1")]
    pub query_id: String,
    /// Tells who asks from others who do; 0: nobody who waits.
    #[prost(uint64, tag = "2")]
    pub asker: u64,
    /// Blocks that it cannot send, since all actors have as many as they may.
    #[prost(uint64, tag = "3")]
    pub waiting: u64,
    /// Of the operator that these are of; 0: of a named pool.
    #[prost(uint64, tag = "4")]
    pub call_id: u64,
}

/// Where they are.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FoundPools {
    #[prost(message, repeated, tag = "1")]
    pub pools: Vec<PlacedPool>,
    /// Why there is no actor, if they cannot be built.
    #[prost(string, optional, tag = "2")]
    pub failure: Option<String>,
}

/// Where the actors of one pool are.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PlacedPool {
    #[prost(uint64, tag = "1")]
    pub call_id: u64,
    #[prost(message, repeated, tag = "2")]
    pub hosts: Vec<PoolHost>,
    /// The named actor, or named pool, that it is; empty: a query's.
    #[prost(string, tag = "3")]
    pub actor: String,
    /// Whether there may be more or fewer of them while the query runs.
    #[prost(bool, tag = "4")]
    pub follows: bool,
}

/// Some of them, in one process.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PoolHost {
    #[prost(string, tag = "1")]
    pub executor_id: String,
    #[prost(string, tag = "2")]
    pub url: String,
    #[prost(uint64, tag = "3")]
    pub actors: u64,
    /// Which of the query's pools there: some may have come later, instead of lost ones. Of
    /// named actors, which member.
    #[prost(uint64, tag = "4")]
    pub part: u64,
    /// Of a query's pool: which of its actors they are, counted over all hosts.
    #[prost(uint64, repeated, tag = "5")]
    pub slots: Vec<u64>,
}

/// Names a pool to its host.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PoolRef {
    #[prost(string, tag = "1")]
    pub query_id: String,
    #[prost(uint64, tag = "2")]
    pub call_id: u64,
    /// See [`PoolHost`].
    #[prost(uint64, tag = "3")]
    pub part: u64,
}
