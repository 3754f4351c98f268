//! Errors of running plans, and the classes they fall into.
//!
//! [`ErrorClass`] is what callers decide by: who has to act, and whether trying
//! again can help. It crosses executors as a number in `WireError` (see
//! `wire_error`), so the numbers below never change their meaning.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use datafusion::common::DataFusionError;

/// Who has to act on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ErrorClass {
    /// The statement or the user's code is wrong.
    User = 1,
    /// The surroundings are wrong: a file, a package, a setting.
    Setup = 2,
    /// An executor or a service is gone; trying again may help.
    Unavailable = 3,
    /// A limit was reached.
    ResourceExhausted = 4,
    /// Someone cancelled.
    Cancelled = 5,
    /// A deadline passed.
    Timeout = 6,
    /// A bug of ours.
    Internal = 7,
}

impl ErrorClass {
    /// The class of a number from the wire; unknown numbers are bugs.
    pub fn from_number(number: u32) -> Self {
        match number {
            1 => Self::User,
            2 => Self::Setup,
            3 => Self::Unavailable,
            4 => Self::ResourceExhausted,
            5 => Self::Cancelled,
            6 => Self::Timeout,
            _ => Self::Internal,
        }
    }
}

/// An error that happened on another executor, as it arrived here.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message} (on executor {executor})")]
pub struct RemoteError {
    pub class: ErrorClass,
    /// One line.
    pub message: String,
    /// URL of the executor where it happened first.
    pub executor: String,
    /// A traceback, if there is one.
    pub detail: Option<String>,
}

/// An error about the bytes of files, and which tables they may belong to: the
/// readers know neither file nor table.
#[derive(Debug, thiserror::Error)]
#[error("{source} (while reading {tables})")]
pub struct WhileReading {
    /// Names with their locations.
    pub tables: String,
    pub source: DataFusionError,
}

/// Why an actor, or pool, that was to replace another could not be built, where the other one
/// had to end for it.
#[derive(Debug, thiserror::Error)]
#[error("{source} ({})", Self::note(actor))]
pub struct NotReplaced {
    pub actor: String,
    pub source: DataFusionError,
}

impl NotReplaced {
    /// What has become of `actor`.
    pub fn note(actor: &str) -> String {
        format!(
            "there was no room for both, so the \"{actor}\" before it had ended first. It is being built again, without what it kept"
        )
    }
}

/// What this crate can fail at.
#[derive(Debug, thiserror::Error)]
pub enum ExecutionError {
    #[error(
        "no executor is registered, and this statement reads tables or calls functions. Start one with `mobula executor --coordinator {coordinator}`"
    )]
    NoExecutors { coordinator: String },

    #[error(
        "no executor takes tasks: those registered take actors only, or have just been lost. Start one with `mobula executor --coordinator {coordinator} --roles tasks`"
    )]
    NoTaskTakers { coordinator: String },

    #[error("split \"{split}\" exists already. Give another name, or DROP SPLIT first")]
    SplitExists { split: String },

    #[error(
        "there are {most} splits already (`splits_max`). Drop one, or start with a higher limit"
    )]
    SplitsMax { most: usize },

    #[error("split \"{split}\" was dropped, or the session that made it has ended")]
    SplitGone { split: String },

    #[error(
        "reader {reader} of split \"{split}\" cannot begin an epoch: there are {epochs} already that {what}. Have all readers read, or make a split for fewer"
    )]
    SplitReaderAhead {
        split: String,
        reader: usize,
        epochs: usize,
        what: &'static str,
    },

    #[error(
        "temporary table \"{table}\" has lost the rows that executor {executor} kept, which has ended. Create it again"
    )]
    KeptLost { table: String, executor: String },

    #[error(
        "executor {executor} was lost while it ran this query. Run the query again: the others go on"
    )]
    ExecutorLost { executor: String },

    #[error(
        "this query calls {wanted} classes and table functions at once, or as many workers of theirs that ask for resources, and `udf_max_workers` is {max_workers}. Start with a higher one, or split the query"
    )]
    TooManyCalls { wanted: usize, max_workers: u32 },

    #[error(
        "this query waited {waited:?} for others to end: their calls of classes and table functions keep all the workers that `udf_max_workers` ({max_workers}) allows, also while nobody reads their results. Close cursors that are no longer read, or start with a higher `udf_max_workers` or `udf_init_timeout`"
    )]
    NoPlaces { max_workers: u32, waited: Duration },

    #[error(
        "function \"{function}\" asks for {asked} for each worker, and no process has as much: {has}. Ask for less, or start one with {flag}"
    )]
    DemandNeverMet {
        function: String,
        asked: String,
        /// Who has how much.
        has: String,
        flag: String,
    },

    #[error(
        "function \"{function}\" asks for {workers} workers with {demand} each, and there is room for {room}: {has}. Ask for concurrency => {room} or '1..{workers}', or start with more"
    )]
    DemandTooMany {
        function: String,
        workers: usize,
        demand: String,
        room: usize,
        has: String,
    },

    #[error(
        "the calls of this query ask for more than there is at once ({asked}): {has}. Ask for less, or split the query"
    )]
    DemandOfAll { asked: String, has: String },

    #[error(
        "this query waited {waited:?} for resources ({asked}) that {holders} kept. To have them, {way_out}; or start with a higher `udf_init_timeout`"
    )]
    NoResources {
        asked: String,
        /// Queries, actors and pools.
        holders: String,
        way_out: String,
        waited: Duration,
    },
    #[error(
        "{what} waited {waited:?} for resources ({asked}) that {holders} kept. Drop an actor that has them, wait for queries to end, or say a longer `init_timeout`"
    )]
    ActorsWaited {
        /// `actor pool "p"`.
        what: String,
        asked: String,
        /// Queries, actors and pools.
        holders: String,
        waited: Duration,
    },
    #[error(
        "{what} asks for {asked} for each actor, and no process has as much: {has}. Ask for less, or start one with {flag}"
    )]
    ActorNeverHad {
        /// `actor pool "p"`.
        what: String,
        asked: String,
        /// Who has how much.
        has: String,
        flag: String,
    },
    #[error(
        "actor pool \"{pool}\" asks for {min} actors, its min, with {demand} each, and there is room for {room}: {has}. Say min = {room}, or start with more"
    )]
    PoolNeverHad {
        pool: String,
        min: usize,
        demand: String,
        room: usize,
        has: String,
    },
    #[error(
        "actor pool \"{pool}\" cannot have {min} actors, its min: there may be {actors_max} (`actors_max`) in each process that runs actors, of which there are {hosts}, and others have {others}. Lower min, drop an actor, or start with a higher `actors_max`"
    )]
    PoolTooLarge {
        pool: String,
        min: usize,
        actors_max: usize,
        hosts: usize,
        others: usize,
    },
    #[error(
        "{what} has been called by key, and a key stays with one of its {actors} actors, so its min and its max stay {actors}. CREATE OR REPLACE ACTOR POOL begins anew, without what it has kept"
    )]
    KeyedPool { what: String, actors: usize },

    #[error(
        "the actors of this query could not be started for {waited:?}: {reason}. Run the query again"
    )]
    ActorsNotStarted { reason: String, waited: Duration },

    #[error("the actors of this query cannot be started: {reason}")]
    ActorsRefused { reason: String },

    #[error("cannot read the cluster token \"{}\": {source}. Give the coordinator's file with --cluster-token-file", path.display())]
    TokenFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error(
        "cannot listen on {address}: {source}. Choose another address, or port 0 for any free one"
    )]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },

    #[error(
        "the cluster listener {address} has no address that others can reach, as this machine has no network. Give one with --advertise HOST:PORT"
    )]
    Advertise { address: SocketAddr },

    #[error("--advertise \"{text}\" is not an address. Write HOST:PORT, as others reach it")]
    BadAdvertise { text: String },

    #[error("\"{url}\" is not an address like grpc://HOST:PORT")]
    BadAddress { url: String },

    #[error("the coordinator at {coordinator} refused this executor: {message}")]
    Refused {
        coordinator: String,
        message: String,
    },

    #[error(
        "only {found} of {wanted} executors registered within {waited_s} s. See their log output for the reason"
    )]
    ExecutorsMissing {
        wanted: usize,
        found: usize,
        waited_s: u64,
    },

    #[error("cannot start an executor process from \"{}\": {source}", program.display())]
    StartExecutor {
        program: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("cannot use the object store \"{url}\": {reason}")]
    ObjectStore { url: String, reason: String },

    #[error("cannot register a function: {0}")]
    Function(#[source] mobula_plan::PlanError),

    #[error("cannot set up the runtime: {0}")]
    Runtime(#[source] datafusion::error::DataFusionError),

    #[error("cannot start a thread: {source}")]
    Thread {
        #[source]
        source: io::Error,
    },

    #[error("the cluster listener broke: {reason}")]
    ListenerBroken { reason: String },

    #[error("malformed {what} in a message of another process")]
    Malformed { what: &'static str },
}

impl ExecutionError {
    /// Who has to act.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NoExecutors { .. }
            | Self::NoTaskTakers { .. }
            | Self::ExecutorLost { .. }
            | Self::KeptLost { .. }
            | Self::ExecutorsMissing { .. } => ErrorClass::Unavailable,
            Self::TokenFile { .. }
            | Self::Listen { .. }
            | Self::Advertise { .. }
            | Self::Refused { .. }
            | Self::StartExecutor { .. }
            | Self::Function(_)
            | Self::Runtime(_)
            | Self::ListenerBroken { .. }
            | Self::Thread { .. }
            | Self::ObjectStore { .. } => ErrorClass::Setup,
            Self::TooManyCalls { .. }
            | Self::NoPlaces { .. }
            | Self::NoResources { .. }
            | Self::ActorsWaited { .. }
            | Self::SplitsMax { .. }
            | Self::PoolTooLarge { .. } => ErrorClass::ResourceExhausted,
            Self::ActorsNotStarted { .. } => ErrorClass::Unavailable,
            Self::ActorsRefused { .. } => ErrorClass::Setup,
            Self::BadAddress { .. }
            | Self::BadAdvertise { .. }
            | Self::DemandNeverMet { .. }
            | Self::DemandTooMany { .. }
            | Self::DemandOfAll { .. }
            | Self::ActorNeverHad { .. }
            | Self::PoolNeverHad { .. }
            | Self::SplitExists { .. }
            | Self::SplitGone { .. }
            | Self::SplitReaderAhead { .. }
            | Self::KeyedPool { .. } => ErrorClass::User,
            Self::Malformed { .. } => ErrorClass::Internal,
        }
    }
}
