//! Starting worker processes: forked from the zygote, or each from nothing.
//!
//! Workers must not outlive this process, even if it is killed and they spin in
//! C. So each asks the kernel to be killed with its parent, which on Linux means
//! with the *thread* that started it: one thread that lives as long as the
//! manager starts them all, the [`zygote`](crate::zygote) included. Each leads a
//! process group, so that what user code starts ends with it.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::python::{self, Role};
use crate::resources::Reservation;
use crate::signal;
use crate::zygote::{Forked, Zygote};

/// Libraries that start threads by themselves read these; one thread unless the
/// environment says otherwise, for workers are what runs in parallel, and a
/// process with threads cannot fork.
const THREADS: [(&str, &str); 7] = [
    ("OMP_NUM_THREADS", ONE_THREAD),
    ("OPENBLAS_NUM_THREADS", ONE_THREAD),
    ("MKL_NUM_THREADS", ONE_THREAD),
    ("NUMEXPR_NUM_THREADS", ONE_THREAD),
    ("POLARS_MAX_THREADS", ONE_THREAD),
    ("RAYON_NUM_THREADS", ONE_THREAD),
    // pyarrow brings an allocator that starts one with the import.
    ("JE_ARROW_MALLOC_CONF", "background_thread:false"),
];
const ONE_THREAD: &str = "1";
/// Starts that may wait for the thread.
const QUEUE: usize = 64;
/// Wanted size of the socket's buffers in bytes; the kernel may give less.
const SOCKET_BYTES: usize = 1 << 20;
/// How often the zygote is woken, in case user code has stopped it.
const WAKE_INTERVAL: Duration = Duration::from_secs(1);
/// How long whoever starts a process may keep its customer waiting.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// What is started, the same for every worker of a manager.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) python: PathBuf,
    pub(crate) executor_id: String,
    /// Whether workers are forked from a zygote.
    pub(crate) fork: bool,
}

/// What one process is started with, over what all are: no other may be forked from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WorkerEnv(Vec<(&'static str, String)>);

/// The one variable that no library reads: user code alone, when it runs.
const NUM_CPUS: &str = "MOBULA_NUM_CPUS";

impl WorkerEnv {
    /// For a worker that has `reserved`. What it asked for none of is as for all.
    pub(crate) fn of(reserved: &Reservation) -> Self {
        let mut variables = vec![];
        if let Some(cores) = reserved.cores() {
            let threads = THREADS.iter().filter(|(_, value)| *value == ONE_THREAD);
            variables.extend(threads.map(|(name, _)| (*name, cores.to_string())));
        }
        let demand = reserved.demand();
        if let Some(cpus) = demand.and_then(|demand| demand.cpus) {
            variables.push((NUM_CPUS, cpus.to_string()));
        }
        if demand.is_some_and(|demand| demand.gpus.is_some()) {
            let ids = reserved.gpu_ids().join(",");
            variables.push(("CUDA_VISIBLE_DEVICES", ids.clone()));
            variables.push(("MOBULA_GPU_IDS", ids));
        }
        Self(variables)
    }

    /// What a fork of the zygote would still lack; `None`: libraries that the zygote has loaded
    /// were told otherwise, or a device has to be known before any is.
    fn lacking_in_fork(&self) -> Option<HashMap<&str, &str>> {
        let mut lacking = HashMap::new();
        for (name, value) in &self.0 {
            let of_zygote = THREADS.iter().find(|(known, _)| known == name);
            let of_zygote =
                of_zygote.map(|(_, usual)| std::env::var(name).unwrap_or((*usual).into()));
            match of_zygote {
                Some(known) if known == *value => {}
                None if *name == NUM_CPUS => {
                    lacking.insert(*name, value.as_str());
                }
                _ => return None,
            }
        }
        Some(lacking)
    }
}

/// A started process, with our ends of its socket and its pipes.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) pid: u32,
    pub(crate) end: End,
    pub(crate) socket: UnixStream,
    pub(crate) stdout: pipe::Receiver,
    pub(crate) stderr: pipe::Receiver,
    /// Whether its zygote has said hello for it.
    pub(crate) greeted: bool,
}

/// How to learn that a process has ended. Dropped before that, it ends it.
#[derive(Debug)]
pub(crate) enum End {
    Spawned(Child),
    Forked(Forked),
}

impl End {
    /// Waits for the end of the process and of what it left in its group.
    pub(crate) async fn wait(&mut self, pid: u32) -> io::Result<ExitStatus> {
        match self {
            Self::Spawned(child) => {
                let status = child.wait().await;
                signal::kill(pid);
                status
            }
            Self::Forked(forked) => forked.wait().await,
        }
    }
}

/// The process's ends of what connects it with us.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) socket: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// What the thread answers to an order.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: u32,
    pub(crate) end: End,
}

/// Where an order's answer goes.
pub(crate) type Reply = oneshot::Sender<io::Result<Started>>;

/// The thread that starts processes; made with the first of them.
#[derive(Debug)]
pub(crate) struct Launcher {
    program: Arc<Program>,
    orders: Mutex<Option<mpsc::Sender<Order>>>,
}

#[derive(Debug)]
enum Order {
    /// Have a zygote ready.
    Warm,
    Start {
        env: WorkerEnv,
        ends: Ends,
        /// Where a spawned child is waited for.
        runtime: Handle,
        reply: Reply,
    },
}

impl Launcher {
    pub(crate) fn new(program: Program) -> Self {
        Self {
            program: Arc::new(program),
            orders: Mutex::default(),
        }
    }

    /// Makes the next start a fast one; does not wait for that.
    pub(crate) fn warm(&self) -> io::Result<()> {
        // A full queue means that it is being made ready anyway.
        let _ = self.orders()?.try_send(Order::Warm);
        Ok(())
    }

    /// Starts a process on the current Tokio runtime.
    /// `env`: what it alone is started with.
    pub(crate) async fn launch(&self, env: WorkerEnv) -> io::Result<Launched> {
        match self.try_launch(env.clone()).await {
            // The zygote went with the order in its hands: the next has a new one.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                self.try_launch(env).await
            }
            launched => launched,
        }
    }

    async fn try_launch(&self, env: WorkerEnv) -> io::Result<Launched> {
        let (socket, theirs) = socket_pair()?;
        let (stdout, their_stdout) = std::io::pipe()?;
        let (stderr, their_stderr) = std::io::pipe()?;
        let (reply, started) = oneshot::channel();
        let order = Order::Start {
            env,
            ends: Ends {
                socket: theirs,
                stdout: their_stdout.into(),
                stderr: their_stderr.into(),
            },
            runtime: Handle::current(),
            reply,
        };
        let orders = self.orders()?;
        let answer = async {
            orders.send(order).await.map_err(|_| thread_gone())?;
            started.await.map_err(|_| thread_gone())?
        };
        let answer = tokio::time::timeout(ANSWER_LIMIT, answer).await;
        let Started { pid, end } = answer.map_err(|_| no_answer())??;
        Ok(Launched {
            pid,
            greeted: matches!(end, End::Forked(_)),
            end,
            socket: UnixStream::from_std(socket)?,
            stdout: pipe::Receiver::from_owned_fd(stdout.into())?,
            stderr: pipe::Receiver::from_owned_fd(stderr.into())?,
        })
    }

    fn orders(&self) -> io::Result<mpsc::Sender<Order>> {
        let mut orders = self.orders.lock();
        if let Some(orders) = orders.as_ref() {
            return Ok(orders.clone());
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        // Its own runtime: the zygote must not end with a user's.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let starter = Starter {
            program: Arc::clone(&self.program),
            zygote: None,
            unfit: !self.program.fork,
        };
        std::thread::Builder::new()
            .name("mobula-launcher".into())
            .spawn(move || runtime.block_on(starter.run(receiver)))?;
        *orders = Some(sender.clone());
        Ok(sender)
    }
}

/// What the thread does all its life; it ends when the last [`Launcher`] is
/// gone, and what it started ends with it.
struct Starter {
    program: Arc<Program>,
    zygote: Option<Zygote>,
    /// Whether this Python has been found not to bear forking.
    unfit: bool,
}

impl Starter {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut round = tokio::time::interval(WAKE_INTERVAL);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    None => break,
                    Some(Order::Warm) => self.warm().await,
                    Some(Order::Start { env, ends, runtime, reply }) => {
                        self.start(&env, ends, &runtime, reply).await;
                    }
                },
                () = Zygote::lost(&mut self.zygote) => self.zygote = None,
                _ = round.tick() => {
                    if let Some(zygote) = &self.zygote {
                        zygote.wake();
                    }
                }
            }
        }
        if let Some(zygote) = self.zygote.take() {
            zygote.end().await;
        }
    }

    async fn warm(&mut self) {
        if self.zygote.as_ref().is_some_and(Zygote::is_stuck) {
            self.zygote = None;
        }
        if self.zygote.is_some() || self.unfit {
            return;
        }
        match Zygote::start(&self.program).await {
            Ok(zygote) => self.zygote = Some(zygote),
            Err(problem) => {
                self.unfit = problem.is_lasting();
                let python = self.program.python.display().to_string();
                tracing::debug!(python, %problem, "no zygote: workers start one by one");
            }
        }
    }

    async fn start(&mut self, env: &WorkerEnv, ends: Ends, runtime: &Handle, reply: Reply) {
        let lacking = env.lacking_in_fork();
        if lacking.is_some() {
            self.warm().await;
        }
        let (ends, reply) = match self.zygote.as_mut().zip(lacking) {
            None => (ends, reply),
            Some((zygote, lacking)) => match zygote.fork(ends, reply, lacking).await {
                Ok(()) => return,
                Err(back) => {
                    self.zygote = None;
                    back
                }
            },
        };
        // Whatever kept the zygote from starting is told by the worker itself.
        self.spawn(env, ends, runtime, reply);
    }

    fn spawn(&self, env: &WorkerEnv, ends: Ends, runtime: &Handle, reply: Reply) {
        let _guard = runtime.enter();
        let started = spawn(&self.program, Role::Worker, env, ends);
        // Whoever asked may have gone: the child then ends with its last owner.
        let _ = reply.send(started.map(|(pid, child)| Started {
            pid,
            end: End::Spawned(child),
        }));
    }
}

/// Starts a Python on the current Tokio runtime; its socket is its standard
/// input, which needs no unsafe code and no inherited numbers.
pub(crate) fn spawn(
    program: &Program,
    role: Role,
    env: &WorkerEnv,
    ends: Ends,
) -> io::Result<(u32, Child)> {
    let mut command = Command::new(&program.python);
    command
        .args(["-u", "-X", "faulthandler", "-c", python::BOOTSTRAP])
        .arg(std::process::id().to_string())
        .arg(role.module())
        .env("MOBULA_EXECUTOR_ID", &program.executor_id)
        .stdin(Stdio::from(ends.socket))
        .stdout(Stdio::from(ends.stdout))
        .stderr(Stdio::from(ends.stderr))
        .process_group(0)
        .kill_on_drop(true);
    for (name, value) in THREADS {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    let WorkerEnv(own) = env;
    command.envs(own.iter().map(|(name, value)| (*name, value)));
    let child = command.spawn()?;
    let pid = child
        .id()
        .ok_or_else(|| io::Error::other("the process has no id"))?;
    Ok((pid, child))
}

/// Our end, ready for Tokio, and the other.
pub(crate) fn socket_pair() -> io::Result<(std::os::unix::net::UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    for end in [&ours, &theirs] {
        // A smaller buffer only costs speed.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(end, SOCKET_BYTES);
    }
    Ok((ours, theirs.into()))
}

fn thread_gone() -> io::Error {
    io::Error::other("the thread that starts processes is gone")
}

fn no_answer() -> io::Error {
    let text = format!("no worker was started within {ANSWER_LIMIT:?}");
    io::Error::new(io::ErrorKind::TimedOut, text)
}
