//! One worker process as this process sees it: its end, its logs, what it does.
//!
//! A [`Process`] is watched from start to end by a task that reaps it, ends what
//! it left behind and strikes it off the [`Processes`] table. The table owns the
//! watching, so that a process is reaped whoever lets go of it first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use crate::activity::{WorkerInfo, WorkerState};
use crate::launch::End;
use crate::log::{LogTail, drain};
use crate::signal;
use crate::spawn::{OwnedTask, spawn_named};

/// How long the pipes of an ended process may stay open.
const LOG_LINGER: Duration = Duration::from_millis(500);
/// How long the stack dump may pause before it counts as complete.
const DUMP_QUIET: Duration = Duration::from_millis(100);
/// How long the end of a killed process may take to be told.
const END_LIMIT: Duration = Duration::from_secs(5);
/// How long the stack dump may take.
const DUMP_LIMIT: Duration = Duration::from_secs(2);

/// A running or ended worker process.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    activity: Mutex<Activity>,
    /// How it ended, in words; `None` while it runs.
    exit: watch::Sender<Option<String>>,
    stdout: LogTail,
    stderr: LogTail,
}

#[derive(Debug)]
struct Activity {
    function: String,
    state: WorkerState,
    since: Instant,
    /// Of the GPUs that it alone has, or has a share of.
    gpu_ids: Vec<String>,
}

/// All processes of a manager that have not been reaped.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    by_pid: Mutex<HashMap<u32, Watched>>,
}

#[derive(Debug)]
struct Watched {
    process: Arc<Process>,
    _tasks: Vec<OwnedTask>,
}

impl Processes {
    /// Watches process `pid` until it has ended; `ended` is called then.
    pub(crate) fn watch(
        self: &Arc<Self>,
        pid: u32,
        end: End,
        [stdout, stderr]: [pipe::Receiver; 2],
        function: &str,
        log_tail_bytes: usize,
        ended: impl FnOnce(u32) + Send + 'static,
    ) -> Arc<Process> {
        let process = Arc::new(Process {
            pid,
            activity: Mutex::new(Activity {
                function: function.to_owned(),
                state: WorkerState::Starting,
                since: Instant::now(),
                gpu_ids: vec![],
            }),
            exit: watch::Sender::new(None),
            stdout: LogTail::new(log_tail_bytes),
            stderr: LogTail::new(log_tail_bytes),
        });
        let mut tasks = vec![
            process.drained(stdout, "stdout"),
            process.drained(stderr, "stderr"),
        ];
        let mut by_pid = self.by_pid.lock();
        tasks.push(spawn_named("worker-end", {
            // Strong: the table must outlive what it watches. Ends with it.
            let table = Arc::clone(self);
            let process = Arc::clone(&process);
            async move {
                process.reap(end).await;
                ended(pid);
                // The tasks below read the pipes to their end first.
                process.logs_closed().await;
                table.by_pid.lock().remove(&pid);
            }
        }));
        by_pid.insert(
            pid,
            Watched {
                process: Arc::clone(&process),
                _tasks: tasks,
            },
        );
        process
    }

    /// What all of them do, by pid.
    pub(crate) fn list(&self) -> Vec<WorkerInfo> {
        let running = self.all();
        let running = running.iter().filter(|process| process.is_running());
        let mut all: Vec<_> = running.map(|process| process.info()).collect();
        all.sort_by_key(|info| info.pid);
        all
    }

    /// Those whose end is not yet dealt with.
    pub(crate) fn all(&self) -> Vec<Arc<Process>> {
        self.by_pid
            .lock()
            .values()
            .map(|watched| Arc::clone(&watched.process))
            .collect()
    }

    /// Ends all of them at once.
    pub(crate) fn kill_all(&self) {
        self.all().iter().for_each(|process| process.kill());
    }
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Notes what it does now, and for which function.
    pub(crate) fn enter(&self, state: WorkerState, function: Option<&str>) {
        let mut activity = self.activity.lock();
        if let Some(function) = function.filter(|function| *function != activity.function) {
            function.clone_into(&mut activity.function);
        }
        activity.state = state;
        activity.since = Instant::now();
    }

    /// Notes which GPUs it has been given.
    pub(crate) fn has_gpus(&self, ids: &[String]) {
        self.activity.lock().gpu_ids = ids.to_vec();
    }

    pub(crate) fn is_running(&self) -> bool {
        self.exit.borrow().is_none()
    }

    /// Ends it and all it started, at once; nothing if it has ended.
    pub(crate) fn kill(&self) {
        if self.is_running() {
            signal::kill(self.pid);
        }
    }

    /// Waits for its end; how it ended, in words.
    pub(crate) async fn ended(&self) -> String {
        let mut exit = self.exit.subscribe();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or_default(),
            // The sender is in `self`, so this cannot be.
            Err(_) => String::new(),
        }
    }

    /// Ends it: politely, and after `grace` at once.
    pub(crate) async fn end(&self, grace: Duration) {
        self.enter(WorkerState::Ending, None);
        if self.is_running() {
            signal::terminate(self.pid);
        }
        if tokio::time::timeout(grace, self.ended()).await.is_err() {
            self.kill();
            // Who would tell us may hang, and a killed process does no more harm.
            let _ = tokio::time::timeout(END_LIMIT, self.ended()).await;
        }
    }

    /// Where its Python threads are, the worker's own frames left out.
    pub(crate) async fn stack(&self) -> String {
        let mark = self.stderr.total();
        if self.is_running() {
            signal::ask_for_stack(self.pid);
        }
        self.stderr.settled(mark, DUMP_QUIET, DUMP_LIMIT).await;
        let dump = self.stderr.since(mark);
        let ours = ["File \"<mobula", "File \"<string>\""];
        let lines = dump
            .lines()
            .filter(|line| !ours.iter().any(|our| line.contains(our)));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The last it wrote before it ended.
    pub(crate) async fn last_words(&self) -> String {
        self.logs_closed().await;
        let (stderr, stdout) = (self.stderr.since(0), self.stdout.since(0));
        match (stderr.is_empty(), stdout.is_empty()) {
            (_, true) => stderr,
            (true, false) => stdout,
            (false, false) => format!("{stderr}\nstandard output:\n{stdout}"),
        }
    }

    async fn logs_closed(&self) {
        self.stderr.closed(LOG_LINGER).await;
        self.stdout.closed(LOG_LINGER).await;
    }

    fn info(&self) -> WorkerInfo {
        let activity = self.activity.lock();
        WorkerInfo {
            pid: self.pid,
            function: activity.function.clone(),
            state: activity.state,
            since: activity.since,
            gpu_ids: activity.gpu_ids.clone(),
        }
    }

    fn log(&self, stream: &'static str, line: &str) {
        let function = self.activity.lock().function.clone();
        tracing::info!(target: "mobula_udfs::worker_log", function, pid = self.pid, stream, "{line}");
    }

    /// Reads one of its output streams to its end.
    fn drained(self: &Arc<Self>, pipe: pipe::Receiver, stream: &'static str) -> OwnedTask {
        let process = Arc::clone(self);
        spawn_named("worker-log", async move {
            let tail = match stream {
                "stdout" => &process.stdout,
                _ => &process.stderr,
            };
            drain(pipe, tail, |line| process.log(stream, line)).await;
        })
    }

    async fn reap(&self, mut end: End) {
        let exit = match end.wait(self.pid).await {
            Ok(status) => signal::describe_exit(status),
            Err(e) => format!("its end is unknown: {e}"),
        };
        self.exit.send_replace(Some(exit));
    }
}
