//! Everything that can go wrong with user code, and whose fault it is.
//!
//! Messages are one line that names the function, the process or the setting,
//! with the way out as a second sentence; tracebacks and log tails are kept
//! apart. `mobula-execution` turns the class into what clients see.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mobula_block::BlockError;

use crate::call::UdfCall;
use crate::spec::FunctionSpec;
use crate::user_line::user_line;

/// The setting that bounds how long a worker takes to get ready, and a call's option.
pub(crate) const INIT_TIMEOUT: &str = "udf_init_timeout";
pub(crate) const INIT_TIMEOUT_OPTION: &str = "init_timeout";

/// What user code did wrong, as its worker saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserFailure {
    pub function: String,
    /// One line: type and text of the exception, and the user's own line.
    pub message: String,
    /// Without the worker's own frames; `None` where nothing was raised.
    pub traceback: Option<String>,
}

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdfErrorClass {
    /// The author of the function.
    User,
    /// Whoever set up the machine or its settings.
    Setup,
    /// Nobody: a process is gone; trying again may help.
    Lost,
    /// Whoever takes all there is; trying again may help.
    Exhausted,
    /// A time limit ran out.
    Timeout,
    /// Us.
    Bug,
}

/// What says how many rows may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorBound {
    /// The call's or the function's own option.
    Option(u64),
    /// The room of the list.
    Setting(u64),
    /// One of the two.
    Unknown,
}

impl fmt::Display for ErrorBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(rows) => write!(f, "max_errors => {rows}"),
            Self::Setting(rows) => write!(f, "the setting udf_errors_max_rows = {rows}"),
            Self::Unknown => f.write_str("max_errors, or the setting udf_errors_max_rows,"),
        }
    }
}

/// What went wrong with a call in another process, as that one tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFailure {
    pub class: UdfErrorClass,
    /// One line.
    pub message: String,
    /// Where it happened.
    pub place: String,
    pub traceback: Option<String>,
}

/// What an actor of a pool that is not there says to a block that others may take.
#[derive(Debug, thiserror::Error)]
pub enum Down {
    /// It was begun, and the actor ended.
    #[error("{0}")]
    Begun(Box<UdfError>),
    #[error("its blocks go to others")]
    NotBegun,
    /// It was not begun, and the actor could not be built lately.
    #[error("{0}")]
    Failed(String),
}

/// A call of user code that failed.
#[derive(Debug, thiserror::Error)]
pub enum UdfError {
    #[error("function \"{}\" failed: {}", .0.function, .0.message)]
    Raised(Box<UserFailure>),
    #[error("function \"{}\" {}", .0.function, .0.message)]
    Refused(Box<UserFailure>),
    #[error(
        "function \"{}\" failed for more rows than {bound} lets it. Raise that, or mend the last error: {}",
        last.function, last.message
    )]
    TooManyErrors {
        last: Box<UserFailure>,
        bound: ErrorBound,
    },
    #[error(
        "function \"{}\" failed for {failed} of {rows} rows, more than `max_error_ratio` => {ratio} lets it. Raise that, or mend the last error: {}",
        last.function,
        last.message
    )]
    ErrorRatio {
        last: Box<UserFailure>,
        failed: u64,
        rows: u64,
        ratio: f64,
    },
    #[error("the failed rows of function \"{function}\" cannot be listed: {problem}")]
    DeadLetter { function: String, problem: String },
    #[error(
        "function \"{function}\" is a def and takes no constructor arguments. Define a class to keep state"
    )]
    ConstructorArguments { function: String },
    #[error(
        "function \"{function}\" is STRICT, which has no meaning for a TABLE parameter. Leave STRICT out"
    )]
    StrictTable { function: String },

    #[error("python \"{}\" cannot be started. Set `python` to an interpreter, or run `mobula python setup`", python.display())]
    Start {
        python: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("python \"{}\" has version {found}, but 3.10 or later is needed. Set `python` to a later one, or run `mobula python setup`", python.display())]
    PythonVersion { python: PathBuf, found: String },
    #[error("python \"{}\" lacks {packages}. Run `mobula python setup`, or install them there", python.display())]
    Packages { python: PathBuf, packages: String },
    #[error("python \"{}\" ended before it was ready: {exit}. Check it, or run `mobula python setup`", python.display())]
    Handshake {
        python: PathBuf,
        exit: String,
        log: String,
    },
    #[error("the worker speaks protocol {found}, but this program speaks {wanted}")]
    ProtocolVersion { found: u32, wanted: u32 },
    #[error(
        "function \"{function}\" waited {waited:?} for a worker: all {max_workers} of this process are at work for other calls. Try again, bound those with `udf_call_timeout`, or start with a higher `udf_max_workers` or `udf_init_timeout`"
    )]
    NoFreeWorker {
        function: String,
        max_workers: usize,
        waited: Duration,
    },
    #[error(
        "function \"{function}\" asks for {asked}, and this process has {has}. Ask for less, or start with {flag}"
    )]
    LacksResources {
        function: String,
        asked: String,
        has: String,
        flag: String,
    },
    #[error(
        "function \"{function}\" waited {waited:?} for {demand}: other calls of this process have it. Try again, or start with a higher `udf_init_timeout`"
    )]
    NoResources {
        function: String,
        demand: String,
        waited: Duration,
    },
    #[error(
        "function \"{function}\" needs {bytes} bytes for one row, but a message to a worker may have {limit}. Raise `udf_max_frame_bytes`"
    )]
    RowTooLarge {
        function: String,
        bytes: usize,
        limit: usize,
    },

    #[error(
        "function \"{function}\" gets a group of {bytes} bytes or more, but a message to a worker may have {limit}. Select fewer columns, partition_by more, or raise `udf_max_frame_bytes`"
    )]
    GroupTooLarge {
        function: String,
        bytes: usize,
        limit: usize,
    },

    #[error("function \"{function}\" lost its worker (pid {pid}): {exit}{line}")]
    WorkerLost {
        function: String,
        pid: u32,
        exit: String,
        /// The user's line that ran, in parentheses; empty if unknown.
        line: Box<str>,
        log: String,
    },
    #[error("\"{function}\" is called no more: its query has ended, or its coordinator was lost")]
    TaskEnded { function: String },
    #[error("function \"{function}\" cannot be called: the workers are shutting down")]
    ShuttingDown { function: String },
    #[error(
        "actor \"{actor}\" was dropped or replaced while \"{function}\" was called. system.actors lists those there are"
    )]
    ActorGone { function: String, actor: String },
    #[error(
        "actor \"{actor}\" is not in process \"{place}\", so \"{function}\" cannot be called there. Actors live in the process that queries are sent to; system.actors lists them"
    )]
    ActorElsewhere {
        function: String,
        actor: String,
        place: String,
    },
    #[error(
        "actor \"{actor}\" has other methods, or is another number of actors, since \"{function}\" was planned. Prepare the statement again"
    )]
    ActorChanged { function: String, actor: String },
    #[error(
        "actor \"{actor}\" is gone and could not be built anew, so \"{function}\" cannot be called: {reason}. It is tried again"
    )]
    ActorFailed {
        function: String,
        actor: String,
        reason: String,
    },
    #[error("{}", .0.message)]
    Remote(Box<RemoteFailure>),
    #[error(
        "actor \"{actor}\" at {place} cannot be reached, so \"{function}\" cannot be called: {reason}. Run the query again"
    )]
    ActorUnreachable {
        function: String,
        actor: String,
        place: String,
        reason: String,
    },
    #[error("the actors of \"{function}\" at {place} cannot be reached: {reason}")]
    PoolUnreachable {
        function: String,
        place: String,
        reason: String,
        /// Whether one of them had been built, so that a block may have been begun.
        was_ready: bool,
    },
    #[error(
        "\"{function}\" has lost {lost} hosts of its actors with the same block on its way, {building} of them while actors were built, and gets no other (`udf_hosts_lost_max`): {last}. The logs of these executors may say what ended them; run the query again"
    )]
    HostsLost {
        function: String,
        lost: u32,
        building: u32,
        last: Box<UdfError>,
    },
    #[error(
        "the actors of \"{function}\" are not at {place} any more: it was lost, or it has lost its coordinator. Run the query again"
    )]
    PoolGone { function: String, place: String },
    #[error(
        "\"{function}\" gets no more rows by key: the states that are kept of named actors take {used} bytes, more than `actor_states_max_bytes`, {limit}. Drop an actor, keep less in its state, or start with a higher limit"
    )]
    StatesMax {
        function: String,
        used: usize,
        limit: usize,
    },
    #[error("an actor of \"{function}\" has ended and is built anew: {down}")]
    ActorDown { function: String, down: Down },
    #[error(
        "\"{function}\" had no actors for {waited:?}, since those that it had are lost ({reason}) and no executor has room for others. Start one, or run the query again"
    )]
    NoActors {
        function: String,
        reason: String,
        waited: Duration,
    },
    #[error(
        "actor \"{actor}\" cannot be created: there are {actors} already. Drop one, or start with a higher `actors_max`"
    )]
    ActorsMax { actor: String, actors: usize },

    #[error(
        "function \"{function}\" did not {} within {limit:?}{line} and its worker (pid {pid}) was ended. Raise `{setting}` if that is too short",
        deed(setting)
    )]
    TimedOut {
        function: String,
        limit: Duration,
        /// The user's line that ran, in parentheses; empty if unknown.
        line: Box<str>,
        pid: u32,
        setting: &'static str,
        /// Where every Python thread was.
        stack: String,
    },

    #[error("function \"{function}\" cannot exchange blocks with its worker")]
    Block {
        function: String,
        #[source]
        source: BlockError,
    },
    #[error("the worker (pid {pid}) of function \"{function}\" broke the protocol: {problem}")]
    Protocol {
        function: String,
        pid: u32,
        problem: String,
    },
    #[error("the worker (pid {pid}) of function \"{function}\" cannot be reached")]
    Socket {
        function: String,
        pid: u32,
        #[source]
        source: std::io::Error,
    },
    #[error("native function \"{function}\" cannot be registered: {problem}")]
    NativeDeclaration { function: String, problem: String },
    #[error(
        "function \"{function}\" is native, and the program of executor \"{executor}\" does not have it. Start executors from the program that registers it"
    )]
    NativeMissing { function: String, executor: String },
    #[error(
        "function \"{function}\" is native, and the program of executor \"{executor}\" declares it otherwise. Start all executors from one build"
    )]
    NativeDiffers { function: String, executor: String },
    #[error(
        "function \"{function}\" did not answer within {limit:?}. It is native, so its thread goes on until it returns. Raise `udf_call_timeout` if that is too short"
    )]
    NativeTimedOut { function: String, limit: Duration },
    #[error("cannot start a thread for function \"{function}\"")]
    NativeThread {
        function: String,
        #[source]
        source: std::io::Error,
    },

    #[error("a function's declaration cannot be encoded")]
    EncodeSpec(#[source] rmp_serde::encode::Error),
    #[error("bytes are not a function's declaration")]
    DecodeSpec(#[source] rmp_serde::decode::Error),
}

/// What a worker did not do in the time of `setting`.
fn deed(setting: &str) -> &'static str {
    match setting {
        INIT_TIMEOUT | INIT_TIMEOUT_OPTION => "start",
        _ => "answer",
    }
}

impl UdfError {
    /// The same, saying which bound of `call` was hit.
    pub fn of_call(mut self, call: &UdfCall) -> Self {
        if let (Self::TooManyErrors { bound, .. }, Some(most)) = (&mut self, call.max_errors) {
            *bound = match call.errors.max_errors {
                Some(own) if own == most => ErrorBound::Option(own),
                _ => ErrorBound::Setting(most),
            };
        }
        self
    }

    /// The same, saying at which line of which function of `call` a worker was lost.
    pub(crate) fn at_line(self, call: &UdfCall) -> Self {
        let mut error = self.at_line_of(call.specs());
        if let Self::WorkerLost { function, .. } | Self::TimedOut { function, .. } = &mut error
            && !call.steps.is_empty()
            && *function == call.function_names()
        {
            function.insert_str(0, "one of ");
        }
        error
    }

    /// The same, for any of `specs`.
    pub(crate) fn at_line_of<'a>(mut self, specs: impl Iterator<Item = &'a FunctionSpec>) -> Self {
        if let Self::WorkerLost {
            function,
            line,
            log: text,
            ..
        }
        | Self::TimedOut {
            function,
            line,
            stack: text,
            ..
        } = &mut self
            && let Some((spec, found)) = user_line(text, specs)
        {
            function.clone_from(&spec.name);
            *line = found.into();
        }
        self
    }

    /// The same, saying how often in a row a worker failed to get ready.
    pub(crate) fn after_tries(mut self, tries: u32) -> Self {
        let said = format!(". It was tried {tries} times in a row");
        match &mut self {
            Self::Raised(failure) => failure.message.push_str(&said),
            Self::WorkerLost { line, .. } => *line = format!("{line}{said}").into(),
            _ => {}
        }
        self
    }

    /// Whose turn it is.
    pub fn class(&self) -> UdfErrorClass {
        match self {
            Self::Remote(failure) => failure.class,
            Self::Raised(_)
            | Self::Refused(_)
            | Self::TooManyErrors { .. }
            | Self::ErrorRatio { .. }
            | Self::ConstructorArguments { .. }
            | Self::LacksResources { .. }
            | Self::StrictTable { .. }
            | Self::ActorChanged { .. } => UdfErrorClass::User,
            Self::Start { .. }
            | Self::PythonVersion { .. }
            | Self::Packages { .. }
            | Self::Handshake { .. }
            | Self::RowTooLarge { .. }
            | Self::GroupTooLarge { .. }
            | Self::NativeDeclaration { .. }
            | Self::NativeMissing { .. }
            | Self::NativeDiffers { .. }
            | Self::NativeThread { .. }
            | Self::ActorElsewhere { .. } => UdfErrorClass::Setup,
            Self::WorkerLost { .. }
            | Self::ShuttingDown { .. }
            | Self::TaskEnded { .. }
            | Self::Socket { .. }
            | Self::ActorGone { .. }
            | Self::ActorFailed { .. }
            | Self::ActorUnreachable { .. }
            | Self::PoolUnreachable { .. }
            | Self::HostsLost { .. }
            | Self::PoolGone { .. }
            | Self::ActorDown { .. }
            | Self::NoActors { .. } => UdfErrorClass::Lost,
            Self::NoFreeWorker { .. }
            | Self::NoResources { .. }
            | Self::DeadLetter { .. }
            | Self::ActorsMax { .. }
            | Self::StatesMax { .. } => UdfErrorClass::Exhausted,
            Self::TimedOut { .. } | Self::NativeTimedOut { .. } => UdfErrorClass::Timeout,
            Self::ProtocolVersion { .. }
            | Self::Block { .. }
            | Self::Protocol { .. }
            | Self::EncodeSpec(_)
            | Self::DecodeSpec(_) => UdfErrorClass::Bug,
        }
    }

    /// More to read than one line: a Python traceback, a stack, or what the lost
    /// worker said last.
    pub fn traceback(&self) -> Option<&str> {
        let text = match self {
            Self::Raised(failure)
            | Self::Refused(failure)
            | Self::TooManyErrors { last: failure, .. }
            | Self::ErrorRatio { last: failure, .. } => failure.traceback.as_deref()?,
            Self::WorkerLost { log, .. } | Self::Handshake { log, .. } => log,
            Self::TimedOut { stack, .. } => stack,
            Self::Remote(failure) => failure.traceback.as_deref()?,
            _ => return None,
        };
        (!text.is_empty()).then_some(text)
    }
}
