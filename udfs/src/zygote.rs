//! The zygote: a Python that has imported what every worker needs, and forks.
//!
//! A Python with numpy, pyarrow and perhaps pandas takes a fifth to a half of a
//! second of processor to start; a fork of one takes milliseconds. The zygote
//! never runs user code. It is the parent of its workers: it reaps them, tells
//! how they ended, and when this process goes it ends them and all that they
//! left behind. Its control socket is owned by the launcher's thread.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::oneshot;

use crate::channel::{Channel, ChannelError};
use crate::descriptors::send_with;
use crate::launch::{
    ANSWER_LIMIT, End, Ends, Program, Reply, Started, WorkerEnv, socket_pair, spawn,
};
use crate::log::{LogTail, drain};
use crate::protocol::{self, Exited, Failure, Fork, ForkedPid, Header, Hello, Kind, Warm};
use crate::python::{self, Role};
use crate::signal;
use crate::spawn::{OwnedTask, spawn_named};

/// How long it may take to import what it imports.
const WARM_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to end its workers when we end it.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Its messages are a line long.
const MAX_FRAME_BYTES: usize = 64 << 10;

/// A running zygote; dropped, it ends with its workers.
pub(crate) struct Zygote {
    child: Child,
    channel: Channel,
    seq: u64,
    /// Forks asked for, by `seq`.
    asked: HashMap<u64, Asked>,
    /// Workers that have not ended, by pid.
    running: HashMap<u32, oneshot::Sender<ExitStatus>>,
    _logs: [OwnedTask; 2],
}

struct Asked {
    reply: Reply,
    since: Instant,
}

/// Why there is no zygote.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// A forked child of a process with threads may hang.
    Threads(usize),
    /// Python or its packages do not fit, or it did not come up.
    Start(String),
}

impl Unfit {
    /// Whether the next try would fail as well.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(self, Self::Threads(_))
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Threads(n) => write!(f, "this Python runs {n} threads from the start"),
            Self::Start(problem) => f.write_str(problem),
        }
    }
}

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Self {
        Self::Start(error.to_string())
    }
}

impl From<ChannelError> for Unfit {
    fn from(error: ChannelError) -> Self {
        Self::Start(format!("it did not come up: {error:?}"))
    }
}

impl Zygote {
    /// Starts one and waits until it can fork.
    pub(crate) async fn start(program: &Program) -> Result<Self, Unfit> {
        let since = Instant::now();
        let (socket, theirs) = socket_pair()?;
        let (stdout, their_stdout) = std::io::pipe()?;
        let (stderr, their_stderr) = std::io::pipe()?;
        let ends = Ends {
            socket: theirs,
            stdout: their_stdout.into(),
            stderr: their_stderr.into(),
        };
        let (pid, child) = spawn(program, Role::Zygote, &WorkerEnv::default(), ends)?;
        let mut zygote = Self {
            child,
            channel: Channel::new(UnixStream::from_std(socket)?, MAX_FRAME_BYTES),
            seq: 0,
            asked: HashMap::new(),
            running: HashMap::new(),
            _logs: [
                log(pipe::Receiver::from_owned_fd(stdout.into())?, pid, "stdout"),
                log(pipe::Receiver::from_owned_fd(stderr.into())?, pid, "stderr"),
            ],
        };
        let warmed = tokio::time::timeout(WARM_LIMIT, zygote.warmed()).await;
        warmed.map_err(|_| Unfit::Start(format!("it was not up within {WARM_LIMIT:?}")))??;
        tracing::debug!(pid, took = ?since.elapsed(), "zygote started");
        Ok(zygote)
    }

    async fn warmed(&mut self) -> Result<(), Unfit> {
        let hello = self.channel.receive().await?;
        let hello: Hello = hello.body().map_err(Unfit::Start)?;
        if hello.protocol != protocol::VERSION || !hello.python_ok || !hello.missing.is_empty() {
            return Err(Unfit::Start("this Python does not fit".into()));
        }
        self.channel.send_raw(&python::modules()).await?;
        let warm = self.channel.receive().await?;
        let warm: Warm = warm.body().map_err(Unfit::Start)?;
        match warm.threads {
            0 | 1 => Ok(()),
            threads => {
                tracing::warn!(
                    threads,
                    "this Python starts threads by itself: its workers are started one by one, not forked"
                );
                Err(Unfit::Threads(threads))
            }
        }
    }

    /// Has a worker forked, with `env` over our environment; `reply` gets it. Gives ends and
    /// reply back if that cannot be asked for any more.
    pub(crate) async fn fork(
        &mut self,
        ends: Ends,
        reply: Reply,
        env: HashMap<&str, &str>,
    ) -> Result<(), (Ends, Reply)> {
        self.seq += 1;
        let body = serde_json::to_vec(&Fork { env }).unwrap_or_default();
        let sent = match Header::frame_start(Kind::Fork, self.seq, &body, 0) {
            Some(header) => {
                let ends = [&ends.socket, &ends.stdout, &ends.stderr].map(AsFd::as_fd);
                send_with(self.channel.socket(), &header, &ends).await
            }
            None => Err(io::Error::other("the header does not fit")),
        };
        if let Err(error) = sent {
            tracing::warn!(%error, "the zygote cannot be asked");
            return Err((ends, reply));
        }
        let since = Instant::now();
        self.asked.insert(self.seq, Asked { reply, since });
        Ok(())
    }

    /// Lets it go on, if a signal has stopped it; nothing else.
    pub(crate) fn wake(&self) {
        if let Some(pid) = self.child.id() {
            signal::resume(pid);
        }
    }

    /// Whether it has left somebody waiting for too long.
    pub(crate) fn is_stuck(&self) -> bool {
        let late = |asked: &Asked| asked.since.elapsed() > ANSWER_LIMIT;
        self.asked.values().any(late)
    }

    /// Deals with what it says until it is gone; for ever if there is none.
    /// May be dropped at any time.
    pub(crate) async fn lost(zygote: &mut Option<Self>) {
        let Some(zygote) = zygote else {
            return std::future::pending().await;
        };
        let problem = loop {
            // Only the waiting may be interrupted, not the reading.
            if let Err(error) = zygote.channel.readable().await {
                break ChannelError::Io(error);
            }
            if let Err(problem) = zygote.hear().await {
                break problem;
            }
        };
        for (_, asked) in zygote.asked.drain() {
            let gone = io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the process that forks workers ended",
            );
            // Whoever asked may have gone.
            let _ = asked.reply.send(Err(gone));
        }
        tracing::warn!(pid = ?zygote.child.id(), ?problem, "the zygote is gone, and its workers with it");
    }

    async fn hear(&mut self) -> Result<(), ChannelError> {
        let frame = self.channel.receive().await?;
        let malformed = ChannelError::Malformed;
        match frame.kind {
            Kind::Forked => {
                let ForkedPid { pid } = frame.body().map_err(malformed)?;
                self.forked(frame.seq, pid);
            }
            Kind::Exited => {
                let Exited { pid, status } = frame.body().map_err(malformed)?;
                if let Some(ended) = self.running.remove(&pid) {
                    // Nobody waits: then nobody minds.
                    let _ = ended.send(ExitStatus::from_raw(status));
                }
            }
            Kind::Error => {
                let failure: Failure = frame.body().map_err(malformed)?;
                if let Some(Asked { reply, .. }) = self.asked.remove(&frame.seq) {
                    let _ = reply.send(Err(io::Error::other(failure.message)));
                }
            }
            other => return Err(malformed(format!("{other:?} from the zygote"))),
        }
        Ok(())
    }

    fn forked(&mut self, seq: u64, pid: u32) {
        let (ended, status) = oneshot::channel();
        self.running.insert(pid, ended);
        let end = End::Forked(Forked {
            pid,
            status,
            ended: false,
        });
        if let Some(Asked { reply, .. }) = self.asked.remove(&seq) {
            // Whoever asked may have gone: the worker then ends with `end`.
            let _ = reply.send(Ok(Started { pid, end }));
        }
    }

    /// Lets it end its workers and itself.
    pub(crate) async fn end(self) {
        let Self {
            mut child, channel, ..
        } = self;
        drop(channel);
        // Dropped, it is killed.
        let _ = tokio::time::timeout(END_LIMIT, child.wait()).await;
    }
}

/// A worker whose end its zygote tells. Dropped before that, it ends it.
#[derive(Debug)]
pub(crate) struct Forked {
    pid: u32,
    status: oneshot::Receiver<ExitStatus>,
    ended: bool,
}

impl Forked {
    /// Waits for its end; an error if the zygote ended first.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = (&mut self.status).await;
        if status.is_err() {
            signal::kill(self.pid);
        }
        self.ended = true;
        status.map_err(|_| io::Error::other("the process that forked it has ended"))
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        if !self.ended && self.status.try_recv().is_err() {
            signal::kill(self.pid);
        }
    }
}

fn log(pipe: pipe::Receiver, pid: u32, stream: &'static str) -> OwnedTask {
    spawn_named("zygote-log", async move {
        let tail = Arc::new(LogTail::new(0));
        drain(pipe, &tail, |line| {
            tracing::info!(target: "mobula_udfs::worker_log", pid, stream, "{line}");
        })
        .await;
    })
}
