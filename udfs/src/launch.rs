//! Starting and signalling worker processes: the only platform code here.
//!
//! Workers must not outlive this process, even if it is killed and they spin in
//! C. So each asks the kernel to be killed with its parent, which on Linux means
//! with the *thread* that started it: one thread that lives as long as the
//! manager starts them all. Each leads a process group, so that what user code
//! starts ends with it. The socket is the worker's standard input, which needs
//! no unsafe code and no inherited numbers.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// Libraries that start threads by themselves read these; one thread unless the
/// environment says otherwise, for workers are what runs in parallel.
const THREAD_COUNTS: [&str; 6] = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
];
/// Starts that may wait for the thread.
const QUEUE: usize = 64;
/// Wanted size of the socket's buffers in bytes; the kernel may give less.
const SOCKET_BYTES: usize = 1 << 20;

/// What to start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launch<'a> {
    pub(crate) python: &'a Path,
    /// Given to `python -c`.
    pub(crate) bootstrap: &'a str,
    pub(crate) executor_id: &'a str,
}

/// A started process, with our end of its socket.
#[derive(Debug)]
pub(crate) struct Launched {
    /// Its standard output and error are pipes.
    pub(crate) child: Child,
    pub(crate) pid: u32,
    pub(crate) socket: UnixStream,
}

/// The thread that starts processes; made with the first of them.
#[derive(Debug, Default)]
pub(crate) struct Launcher {
    orders: Mutex<Option<mpsc::Sender<Order>>>,
}

#[derive(Debug)]
struct Order {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

impl Launcher {
    /// Starts a process on the current Tokio runtime.
    pub(crate) async fn launch(&self, launch: Launch<'_>) -> io::Result<Launched> {
        let (ours, theirs) = socket_pair()?;
        let command = command(launch, theirs);
        let (reply, started) = oneshot::channel();
        let order = Order {
            command,
            runtime: Handle::current(),
            reply,
        };
        let orders = self.orders()?;
        orders.send(order).await.map_err(|_| thread_gone())?;
        let child = started.await.map_err(|_| thread_gone())??;
        let pid = child
            .id()
            .ok_or_else(|| io::Error::other("the process has no id"))?;
        Ok(Launched {
            child,
            pid,
            socket: UnixStream::from_std(ours)?,
        })
    }

    fn orders(&self) -> io::Result<mpsc::Sender<Order>> {
        let mut orders = self.orders.lock();
        if let Some(orders) = orders.as_ref() {
            return Ok(orders.clone());
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("mobula-launcher".into())
            .spawn(move || start_all(receiver))?;
        *orders = Some(sender.clone());
        Ok(sender)
    }
}

/// The thread's whole life; it ends when the last [`Launcher`] is gone, and the
/// kernel then ends what it started.
fn start_all(mut orders: mpsc::Receiver<Order>) {
    while let Some(Order {
        mut command,
        runtime,
        reply,
    }) = orders.blocking_recv()
    {
        let _guard = runtime.enter();
        // Whoever asked may have gone: the child then ends with its last owner.
        let _ = reply.send(command.spawn());
    }
}

fn thread_gone() -> io::Error {
    io::Error::other("the thread that starts processes is gone")
}

fn socket_pair() -> io::Result<(std::os::unix::net::UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    for end in [&ours, &theirs] {
        // A smaller buffer only costs speed.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(end, SOCKET_BYTES);
    }
    Ok((ours, theirs.into()))
}

fn command(launch: Launch<'_>, socket: OwnedFd) -> Command {
    let mut command = Command::new(launch.python);
    command
        .args(["-u", "-X", "faulthandler", "-c", launch.bootstrap])
        .arg(std::process::id().to_string())
        .env("MOBULA_EXECUTOR_ID", launch.executor_id)
        .stdin(Stdio::from(socket))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    for name in THREAD_COUNTS
        .into_iter()
        .filter(|name| std::env::var_os(name).is_none())
    {
        command.env(name, "1");
    }
    command
}

/// Ends the process and all it started, at once.
pub(crate) fn kill(pid: u32) {
    signal_group(pid, Signal::KILL);
}

/// Asks the process and all it started to end.
pub(crate) fn terminate(pid: u32) {
    signal_group(pid, Signal::TERM);
}

/// Asks the process to write where its threads are to its standard error.
pub(crate) fn ask_for_stack(pid: u32) {
    if let Some(pid) = raw(pid) {
        // Gone already: whoever waits for it will see that.
        let _ = kill_process(pid, Signal::USR1);
    }
}

fn signal_group(pid: u32, signal: Signal) {
    if let Some(pid) = raw(pid) {
        // An empty group is what we want.
        let _ = kill_process_group(pid, signal);
    }
}

fn raw(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// How a process ended, in words: `killed by SIGSEGV`, `exit code 3`.
pub(crate) fn describe_exit(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by {}", signal_name(signal)),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => status.to_string(),
    }
}

fn signal_name(signal: i32) -> String {
    const NAMES: [(Signal, &str); 14] = [
        (Signal::ABORT, "SIGABRT"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::HUP, "SIGHUP"),
        (Signal::ILL, "SIGILL"),
        (Signal::INT, "SIGINT"),
        (Signal::KILL, "SIGKILL"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::SYS, "SIGSYS"),
        (Signal::TERM, "SIGTERM"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::USR1, "SIGUSR1"),
    ];
    NAMES
        .iter()
        .find(|(known, _)| known.as_raw() == signal)
        .map_or_else(
            || format!("signal {signal}"),
            |(_, name)| (*name).to_owned(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_have_names() {
        assert_eq!(describe_exit(ExitStatus::from_raw(9)), "killed by SIGKILL");
        assert_eq!(describe_exit(ExitStatus::from_raw(11)), "killed by SIGSEGV");
        assert_eq!(
            describe_exit(ExitStatus::from_raw(60)),
            "killed by signal 60"
        );
        assert_eq!(describe_exit(ExitStatus::from_raw(3 << 8)), "exit code 3");
    }
}
