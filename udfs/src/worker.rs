//! A worker: one process we may talk to, from its start to its end.
//!
//! Whoever owns a [`Worker`] is the only one to talk to it. Letting go of it
//! ends its process at once, so a call that is dropped half-way leaves nothing
//! behind; to keep it, give it back to the roster or to a pool's shelf.

mod frames;
mod state;
mod watched;

use std::collections::VecDeque;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::buffer::Buffer;
use mobula_block::ipc::BlockEncoder;
use tokio::time::Instant;

use crate::activity::WorkerState;
use crate::actor::ActorSpec;
use crate::board::Board;
use crate::channel::{Channel, ChannelError};
use crate::error::{ErrorBound, UdfError, UserFailure};
use crate::order::{CallOrder, arguments, source};
use crate::process::Process;
use crate::protocol::{
    self, Build, Describe, Failure, FailureReason, Frame, Hello, Init, Kind, Ready,
};
use crate::python;
use crate::resources::Reservation;
use crate::roster::Slot;
use crate::sender::{Encoded, SentBlock};
use crate::slots::INLINE_BYTES;
use crate::spawn::spawn_detached;
use crate::spec::FunctionSpec;

use watched::{passed, watched, watched_until};

/// How long an ended process's last frames may take, and how long a process
/// that closed its socket may take to end.
const LINGER: Duration = Duration::from_secs(1);
/// How long a killed process may keep what it has of the machine.
const END_LIMIT: Duration = Duration::from_secs(30);

/// How long something may take, and what to say when it takes longer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    /// `None`: for ever.
    pub(crate) at: Option<Instant>,
    pub(crate) limit: Duration,
    pub(crate) setting: &'static str,
    /// Between asking a process to end and ending it.
    pub(crate) kill_grace: Duration,
}

/// What a worker may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Beyond what it starts with; 0: as much as there is.
    pub(crate) memory_bytes: usize,
    /// The setting or option that says so.
    pub(crate) memory_by: &'static str,
    /// Of pyarrow's own.
    pub(crate) threads: usize,
}

/// A running worker that nobody else talks to.
#[derive(Debug)]
pub(crate) struct Worker {
    process: Arc<Process>,
    pub(crate) channel: Channel,
    slot: Option<Slot>,
    /// Blocks it has been given.
    blocks: u64,
    /// Where it notes what it is at; `None`: it answers one block at a time.
    board: Option<Board>,
    /// What it was at when it was lost: a call that is asked where it is may return.
    lost_at: Option<u64>,
    /// Whether the class that it has loaded can tell its state.
    pub(crate) keeps_state: bool,
    /// As whose owner it speaks of a state, since it was given that; 0: of none.
    pub(crate) restored: u64,
    /// The same, since it has caught up (`keyed`).
    pub(crate) generation: u64,
}

impl Worker {
    pub(crate) fn new(process: Arc<Process>, channel: Channel, slot: Slot) -> Self {
        Self {
            process,
            channel,
            slot: Some(slot),
            blocks: 0,
            board: None,
            lost_at: None,
            keeps_state: false,
            restored: 0,
            generation: 0,
        }
    }

    /// It has one more block.
    pub(crate) fn count_block(&mut self) {
        self.blocks += 1;
    }

    /// Whether it has had `most` blocks; 0: no number is too many.
    pub(crate) fn is_worn_out(&self, most: u64) -> bool {
        most > 0 && self.blocks >= most
    }

    /// Hears what a process is that was started from nothing, and gives it the
    /// worker's modules. A zygote has done that for those it forks.
    ///
    /// # Errors
    /// When the interpreter does not fit, or is not ready by `deadline`.
    pub(crate) async fn greet(
        &mut self,
        python: &Path,
        function: &str,
        deadline: Deadline,
    ) -> Result<(), UdfError> {
        let hello = watched(&self.process, deadline.at, self.channel.receive()).await;
        let hello = match hello {
            Ok(hello) => hello,
            Err(Stop::Channel(ChannelError::Closed)) => return Err(self.no_hello(python).await),
            Err(stop) => return Err(self.explain(stop, function, deadline).await),
        };
        check_hello(python, &self.read(&hello, function)?)?;
        let modules = python::modules();
        let send = self.channel.send_raw(&modules);
        match watched(&self.process, deadline.at, send).await {
            Ok(()) => Ok(()),
            Err(stop) => Err(self.explain(stop, function, deadline).await),
        }
    }

    /// Tells the process its limits, and gives it a board where there is shared memory.
    ///
    /// # Errors
    /// When it has ended, or does not listen by `deadline`.
    pub(crate) async fn init(
        &mut self,
        limits: Limits,
        function: &str,
        deadline: Deadline,
    ) -> Result<(), UdfError> {
        let init = Init {
            protocol: protocol::VERSION,
            max_frame_bytes: self.channel.max_frame_bytes(),
            inline_bytes: INLINE_BYTES,
            memory_bytes: limits.memory_bytes,
            memory_by: limits.memory_by,
            threads: limits.threads,
        };
        let board = Board::create(self.process.pid()).ok();
        let board = board.filter(|_| self.channel.shares_memory());
        let channel = &mut self.channel;
        let send = async {
            channel.request(Kind::Init, &init, &[]).await?;
            let Some((board, page)) = board else {
                return Ok(None);
            };
            channel.sender().lock().await.send_board(&page).await?;
            Ok(Some(board))
        };
        match watched(&self.process, deadline.at, send).await {
            Ok(board) => self.board = board,
            Err(stop) => return Err(self.explain(stop, function, deadline).await),
        }
        Ok(())
    }

    /// At which of `sent`, the oldest first, it says that it is.
    pub(crate) fn at_work_on(&self, sent: &VecDeque<SentBlock>) -> Option<usize> {
        let seq = self.at()?;
        sent.iter().position(|block| block.seq == seq)
    }

    /// Whether it says that it is through with `seq`, whose last answer is not here: it may
    /// send that when it has begun the next one.
    pub(crate) fn is_past(&self, seq: u64) -> bool {
        self.at().is_some_and(|at| at > seq)
    }

    fn at(&self) -> Option<u64> {
        self.lost_at.or_else(|| Some(self.board.as_ref()?.at()))
    }

    /// Whether it may be given the next block: it runs, and has said nothing since its
    /// last answer, as a thread of user code that found the socket may.
    pub(crate) fn is_fit(&self) -> bool {
        self.process.is_running() && self.channel.is_quiet()
    }

    pub(crate) fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// What `spec`'s body defines, after checking that it fits.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub(crate) async fn describe(
        &mut self,
        spec: &FunctionSpec,
        methods: bool,
        deadline: Deadline,
    ) -> Result<Ready, UdfError> {
        self.process.enter(WorkerState::Loading, Some(&spec.name));
        let body = Describe {
            source: source(spec),
            methods,
        };
        let seq = self
            .request(&spec.name, Kind::Describe, &body, &[], deadline)
            .await?;
        let ready = self.answer(&spec.name, seq, deadline).await?;
        self.process.enter(WorkerState::Idle, None);
        self.ready(&ready, &spec.name)
    }

    /// Makes the instance of a named actor, which the process keeps from here on.
    ///
    /// # Errors
    /// What its constructor raised.
    pub(crate) async fn build(
        &mut self,
        actor: &ActorSpec,
        deadline: Deadline,
    ) -> Result<(), UdfError> {
        let name = &actor.name;
        self.process.enter(WorkerState::Loading, Some(name));
        let body = Build {
            actor: name,
            source: source(&actor.class),
            args: arguments(&actor.args),
        };
        let seq = self
            .request(name, Kind::Build, &body, &[], deadline)
            .await?;
        let ready = self.answer(name, seq, deadline).await?;
        self.process.enter(WorkerState::Idle, None);
        self.ready(&ready, name).map(|_| ())
    }

    /// Makes the process ready for blocks of `order`, if it is not yet.
    ///
    /// # Errors
    /// What is wrong with the body, or what its constructor raised.
    pub(crate) async fn load(
        &mut self,
        order: &CallOrder,
        deadline: Deadline,
    ) -> Result<(), UdfError> {
        let (id, forget) = {
            let mut sender = self.channel.sender().lock().await;
            if sender.choose(order.key) {
                return Ok(());
            }
            (sender.seq() + 1, sender.forget_oldest())
        };
        let function = order.function();
        self.process.enter(WorkerState::Loading, Some(function));
        let body = order.load(id, forget);
        let encoder = BlockEncoder::try_new(&order.input).map_err(|source| UdfError::Block {
            function: function.to_owned(),
            source,
        })?;
        let seq = self
            .request(function, Kind::Load, &body, order.schemas(), deadline)
            .await?;
        let ready = self.answer(function, seq, deadline).await?;
        // Of a named actor it is known by its keyed calls alone.
        self.keeps_state |= self.ready(&ready, function)?.keeps_state;
        let mut sender = self.channel.sender().lock().await;
        sender.add_loaded(order.key, id, encoder);
        Ok(())
    }

    /// Sends a block, which fits, to the call last loaded.
    pub(crate) async fn send_block(
        &mut self,
        block: &Encoded,
        order: &CallOrder,
        deadline: Deadline,
    ) -> Result<SentBlock, UdfError> {
        let sender = Arc::clone(self.channel.sender());
        let send = async move { sender.lock().await.send_block(block, order).await };
        match watched(&self.process, deadline.at, send).await {
            Ok(sent) => Ok(sent),
            Err(stop) => Err(self.explain(stop, order.function(), deadline).await),
        }
    }

    /// Waits until blocks are sent; `None` if they could not be.
    pub(crate) async fn sent<T>(
        &mut self,
        sending: impl Future<Output = Option<T>>,
        function: &str,
        deadline: Deadline,
    ) -> Result<Option<T>, UdfError> {
        let sent = async { Ok(sending.await) };
        match watched(&self.process, deadline.at, sent).await {
            Ok(sent) => Ok(sent),
            Err(stop) => Err(self.explain(stop, function, deadline).await),
        }
    }

    /// Sends one request; its `seq`.
    pub(crate) async fn request(
        &mut self,
        function: &str,
        kind: Kind,
        body: &impl serde::Serialize,
        payload: &[Buffer],
        deadline: Deadline,
    ) -> Result<u64, UdfError> {
        let send = self.channel.request(kind, body, payload);
        match watched(&self.process, deadline.at, send).await {
            Ok(seq) => Ok(seq),
            Err(stop) => Err(self.explain(stop, function, deadline).await),
        }
    }

    /// The next answer to request `seq`; the worker's ERROR is an error.
    pub(crate) async fn answer(
        &mut self,
        function: &str,
        seq: u64,
        deadline: Deadline,
    ) -> Result<Frame, UdfError> {
        let board = &self.board;
        let expired = async {
            passed(deadline.at).await;
            if board.as_ref().is_some_and(|board| board.at() > seq) {
                // It was through in time, and its answer waits for the next call to let it go.
                tokio::time::sleep(deadline.limit).await;
            }
        };
        let frame = match watched_until(&self.process, expired, self.channel.receive()).await {
            Ok(frame) => frame,
            Err(stop) => return Err(self.explain(stop, function, deadline).await),
        };
        if frame.seq < seq {
            let problem = format!("an answer to request {} after its end", frame.seq);
            return Err(self.lost_by_noise(function, &problem).await);
        }
        if frame.seq > seq {
            let problem = format!("it answers request {} instead of {seq}", frame.seq);
            return Err(self.broken(function, problem));
        }
        match frame.kind {
            Kind::Error => {
                let failure: Failure = self.read(&frame, function)?;
                Err(self.failed(function, failure))
            }
            _ => Ok(frame),
        }
    }

    /// A frame's body.
    pub(crate) fn read<'a, T: serde::Deserialize<'a>>(
        &self,
        frame: &'a Frame,
        function: &str,
    ) -> Result<T, UdfError> {
        frame
            .body()
            .map_err(|problem| self.broken(function, problem))
    }

    pub(crate) fn broken(&self, function: &str, problem: String) -> UdfError {
        UdfError::Protocol {
            function: function.to_owned(),
            pid: self.process.pid(),
            problem,
        }
    }

    /// Tells the process to end, and ends it after `grace`.
    pub(crate) async fn shut_down(mut self, grace: Duration) {
        self.process.enter(WorkerState::Ending, None);
        let polite = async {
            // If it cannot hear, it is ended all the same.
            let _ = self
                .channel
                .request(Kind::Shutdown, &serde_json::json!({}), &[])
                .await;
            self.process.ended().await
        };
        // Whether it went or not: letting go of `self` makes sure.
        let _ = tokio::time::timeout(grace, polite).await;
    }

    /// Whether it has resources of its own, and is nobody else's.
    pub(crate) fn has_resources(&self) -> bool {
        let slot = self.slot.as_ref();
        slot.is_some_and(|slot| slot.reserved().is_some())
    }

    /// Whether what it has is its query's when it ends, and not free for others.
    pub(crate) fn is_claimed(&self) -> bool {
        let reserved = self.slot.as_ref().and_then(Slot::reserved);
        reserved.is_some_and(Reservation::is_claimed)
    }

    /// Its place; `None` only while it is taken apart.
    pub(crate) fn slot(&mut self) -> Option<&mut Slot> {
        self.slot.as_mut()
    }

    /// Ends the process and frees its place for another.
    pub(crate) fn into_slot(mut self) -> Option<Slot> {
        self.slot.take()
    }

    fn ready(&self, frame: &Frame, function: &str) -> Result<Ready, UdfError> {
        match frame.kind {
            Kind::Ready => self.read(frame, function),
            other => Err(self.broken(function, format!("it answers {other:?} instead of Ready"))),
        }
    }

    fn failed(&self, function: &str, failure: Failure) -> UdfError {
        let Failure {
            reason,
            message,
            traceback,
            function: own,
            bytes,
        } = failure;
        let function = own.unwrap_or_else(|| function.to_owned());
        match reason {
            FailureReason::Raised => UdfError::Raised(Box::new(UserFailure {
                function,
                message,
                traceback,
            })),
            FailureReason::Refused => UdfError::Refused(Box::new(UserFailure {
                function,
                message,
                traceback,
            })),
            FailureReason::TooMany => UdfError::TooManyErrors {
                bound: ErrorBound::Unknown,
                last: Box::new(UserFailure {
                    function,
                    message,
                    traceback,
                }),
            },
            FailureReason::RowTooLarge => UdfError::RowTooLarge {
                function,
                bytes,
                limit: self.channel.max_frame_bytes(),
            },
            FailureReason::Internal => {
                let pid = self.process.pid();
                tracing::error!(function, pid, traceback, "the worker failed");
                UdfError::Protocol {
                    function,
                    pid,
                    problem: format!("it failed: {message}"),
                }
            }
        }
    }

    /// Turns an interruption into an error; the process is ended.
    async fn explain(&mut self, stop: Stop, function: &str, deadline: Deadline) -> UdfError {
        self.lost_at = self.at();
        let pid = self.process.pid();
        let function = function.to_owned();
        match stop {
            Stop::Channel(ChannelError::Closed) => {
                let exit = self.exit().await;
                let log = self.process.last_words().await;
                UdfError::WorkerLost {
                    function,
                    pid,
                    exit,
                    line: Box::default(),
                    log,
                }
            }
            Stop::Channel(ChannelError::Noise(problem)) => {
                self.lost_by_noise(&function, &problem).await
            }
            Stop::Channel(ChannelError::Malformed(problem)) => self.broken(&function, problem),
            Stop::Channel(ChannelError::Io(source)) => UdfError::Socket {
                function,
                pid,
                source,
            },
            Stop::TimedOut => {
                let stack = self.process.stack().await;
                self.process.end(deadline.kill_grace).await;
                let Deadline { limit, setting, .. } = deadline;
                UdfError::TimedOut {
                    function,
                    limit,
                    line: Box::default(),
                    pid,
                    setting,
                    stack,
                }
            }
        }
    }

    /// Ends a process that says what nobody asked for: a thread of user code, of a block
    /// that is over maybe, has found the socket.
    async fn lost_by_noise(&self, function: &str, problem: &str) -> UdfError {
        self.process.kill();
        self.process.ended().await;
        UdfError::WorkerLost {
            function: function.to_owned(),
            pid: self.process.pid(),
            exit: format!("it was ended, for its socket was written to by others: {problem}"),
            line: Box::default(),
            log: self.process.last_words().await,
        }
    }

    async fn no_hello(&self, python: &Path) -> UdfError {
        let exit = self.exit().await;
        let log = self.process.last_words().await;
        UdfError::Handshake {
            python: python.to_owned(),
            exit,
            log,
        }
    }

    /// How a process that closed its socket ended.
    async fn exit(&self) -> String {
        match tokio::time::timeout(LINGER, self.process.ended()).await {
            Ok(exit) => exit,
            Err(_) => {
                self.process.kill();
                "it closed its connection".to_owned()
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.process.kill();
        let reserved = self.slot.as_mut().and_then(Slot::take_reserved);
        let (Some(reserved), Ok(_)) = (reserved, tokio::runtime::Handle::try_current()) else {
            return;
        };
        // What it had is free when it is gone, not when it is told to go.
        let process = Arc::clone(&self.process);
        spawn_detached("udf-resources", async move {
            let _ = tokio::time::timeout(END_LIMIT, process.ended()).await;
            drop(reserved);
        });
    }
}

/// What interrupted an exchange.
enum Stop {
    Channel(ChannelError),
    TimedOut,
}

fn check_hello(python: &Path, hello: &Hello) -> Result<(), UdfError> {
    let python = python.to_owned();
    if hello.protocol != protocol::VERSION {
        return Err(UdfError::ProtocolVersion {
            found: hello.protocol,
            wanted: protocol::VERSION,
        });
    }
    if !hello.python_ok {
        return Err(UdfError::PythonVersion {
            python,
            found: hello.python.clone(),
        });
    }
    if !hello.missing.is_empty() {
        return Err(UdfError::Packages {
            python,
            packages: hello.missing.join(" and "),
        });
    }
    Ok(())
}
