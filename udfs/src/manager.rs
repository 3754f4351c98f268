//! All worker processes of one Mobula process.
//!
//! An executor, a coordinator and an embedded engine each have one manager. It
//! starts processes, lends the stateless ones, knows what each is doing and ends
//! them all when it goes. A worker lives on the Tokio runtime that started it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::activity::WorkerInfo;
use crate::actor::DescribedMethod;
use crate::async_calls::AsyncPool;
use crate::call::UdfCall;
use crate::channel::Channel;
use crate::error::{INIT_TIMEOUT, INIT_TIMEOUT_OPTION, UdfError};
use crate::keyed::KeyedPool;
use crate::launch::{Launched, Launcher, Program, WorkerEnv};
use crate::order::CallOrder;
use crate::pool::UdfPool;
use crate::process::Processes;
use crate::process_pool::ProcessPool;
use crate::protocol::Ready;
use crate::resources::{Capacity, Ledger, Reservation, Share};
use crate::roster::{Bounds, Grant, Rank, Refusal, Roster, Slot, Want};
use crate::slots::Slots;
use crate::spawn::{OwnedTask, spawn_named};
use crate::spec::{FunctionSpec, ObjectKind};
use crate::worker::{Deadline, Limits, Worker};

/// How workers are started, bounded and ended.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// The interpreter: a path, or a name to look up.
    pub python: PathBuf,
    /// How worker processes come to be.
    pub start_method: StartMethod,
    /// What user code reads as `MOBULA_EXECUTOR_ID`.
    pub executor_id: String,
    /// What workers with a demand get theirs from.
    pub ledger: Arc<Ledger>,
    /// Worker processes past which a call starts no more than its first; at
    /// least 1.
    pub max_workers: usize,
    /// For starting a process, compiling a body, building a class; and for
    /// waiting for one of `max_workers`.
    pub init_timeout: Duration,
    /// For one block, waiting for its reader left out; `None`: for ever.
    pub call_timeout: Option<Duration>,
    /// Between asking a process to end and ending it.
    pub kill_grace: Duration,
    /// How long a stateless worker waits for more.
    pub idle_ttl: Duration,
    /// The same of a worker that its pool has beyond its first ones.
    pub actor_idle_ttl: Duration,
    /// Blocks after which a stateless worker makes way for a new one, so that what
    /// user code leaks is bounded. 0: never.
    pub worker_max_blocks: u64,
    /// What a worker may take beyond what it starts with; past that user code gets a
    /// MemoryError. Linux only. 0: as much as there is.
    pub worker_memory_bytes: usize,
    /// While calls wait for an actor behind interactive ones, they get at least one of so
    /// many turns; at least 2.
    pub batch_every: u32,
    /// How long an actor that has answered an interactive call waits for the next one, at
    /// most, before it goes on with batch calls. 0: not at all.
    pub actor_linger: Duration,
    /// Longest message to or from a worker; 64 KiB to 4 GiB.
    pub max_frame_bytes: usize,
    /// Whether large blocks cross in memory that a worker and this process share;
    /// up to `max_frame_bytes` each way and worker. Linux only; else, as where
    /// the system refuses, they go through the socket.
    pub shared_memory: bool,
    /// How much of each output stream is kept for errors.
    pub log_tail_bytes: usize,
}

/// How worker processes come to be; the names are those of Python's
/// `multiprocessing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartMethod {
    /// Forked from a process that has imported numpy and pyarrow: milliseconds.
    /// Where that cannot be, as [`StartMethod::Spawn`].
    ForkServer,
    /// Each a Python of its own from the start.
    Spawn,
}

impl Default for StartMethod {
    fn default() -> Self {
        // Elsewhere forked workers could not be tied to their parent.
        match cfg!(target_os = "linux") {
            true => Self::ForkServer,
            false => Self::Spawn,
        }
    }
}

impl Default for WorkerSettings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            python: PathBuf::from("python3"),
            start_method: StartMethod::default(),
            executor_id: "embedded".to_owned(),
            ledger: Ledger::new(Capacity::found()),
            max_workers: 4 * cores,
            init_timeout: Duration::from_secs(600),
            call_timeout: None,
            kill_grace: Duration::from_secs(2),
            idle_ttl: Duration::from_secs(60),
            actor_idle_ttl: Duration::from_secs(30),
            worker_max_blocks: 10_000,
            worker_memory_bytes: 0,
            batch_every: 8,
            actor_linger: Duration::from_millis(5),
            max_frame_bytes: 256 << 20,
            shared_memory: true,
            log_tail_bytes: 64 << 10,
        }
    }
}

/// How long something may take that is still to begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLimit {
    limit: Duration,
    setting: &'static str,
    kill_grace: Duration,
}

impl TimeLimit {
    /// From now.
    pub(crate) fn deadline(self) -> Deadline {
        let Self {
            limit,
            setting,
            kill_grace,
        } = self;
        Deadline {
            at: Instant::now().checked_add(limit),
            limit,
            setting,
            kill_grace,
        }
    }
}

/// The owner of worker processes. Dropping it ends them all.
#[derive(Debug)]
pub struct WorkerManager {
    pub(crate) settings: WorkerSettings,
    launcher: Launcher,
    processes: Arc<Processes>,
    roster: Arc<Roster>,
    /// Workers that were asked to end and have not yet.
    endings: Mutex<Vec<OwnedTask>>,
}

impl WorkerManager {
    /// Starts nothing yet.
    pub fn new(mut settings: WorkerSettings) -> Arc<Self> {
        settings.max_frame_bytes = settings.max_frame_bytes.clamp(64 << 10, u32::MAX as usize);
        let program = Program {
            python: settings.python.clone(),
            executor_id: settings.executor_id.clone(),
            fork: settings.start_method == StartMethod::ForkServer,
        };
        Arc::new(Self {
            launcher: Launcher::new(program),
            roster: Roster::new(Bounds {
                max_workers: settings.max_workers,
                idle_ttl: settings.idle_ttl,
                max_blocks: settings.worker_max_blocks,
            }),
            settings,
            processes: Arc::default(),
            endings: Mutex::default(),
        })
    }

    /// Compiles a body in a worker, finds the object it defines and checks its
    /// signature against the declared parameters. A class is not built.
    ///
    /// # Errors
    /// What is wrong with the body, or why there is no worker.
    pub async fn describe(&self, spec: &FunctionSpec) -> Result<ObjectKind, UdfError> {
        refuse_strict_table(spec)?;
        Ok(self.looked_into(spec, false).await?.object.into())
    }

    /// The public methods of a class and their types, as its hints say. It is not
    /// built.
    ///
    /// # Errors
    /// As [`Self::describe`].
    pub async fn describe_methods(
        &self,
        class: &FunctionSpec,
    ) -> Result<Vec<DescribedMethod>, UdfError> {
        Ok(self.looked_into(class, true).await?.methods)
    }

    async fn looked_into(&self, spec: &FunctionSpec, methods: bool) -> Result<Ready, UdfError> {
        let grant = self
            .place(&spec.name, Want::ScalarCall, Rank::First)
            .await?;
        let limit = self.init_limit_of(spec.defaults.init_timeout);
        let started = AtomicU64::new(0);
        let mut worker = self.employ(grant, &spec.name, limit, &started).await?;
        let found = worker.describe(spec, methods, limit.deadline()).await;
        if found.as_ref().map_or_else(leaves_worker_usable, |_| true) {
            self.release(worker);
        }
        found.map_err(|error| error.at_line_of(std::iter::once(spec)))
    }

    /// Opens the workers of one call, at most `concurrency` (at least 1). They
    /// start when blocks come. What they ask for they get from what the call's query has
    /// claimed of the ledger, or as it comes free.
    ///
    /// # Errors
    /// When the call makes no sense, or asks for more than there is.
    pub fn open_pool(
        self: &Arc<Self>,
        call: Arc<UdfCall>,
        concurrency: usize,
    ) -> Result<Arc<dyn UdfPool>, UdfError> {
        self.check_call(&call)?;
        if call.handling.keyed.is_some() {
            return Ok(Arc::new(KeyedPool::try_new(self, &call, concurrency)?));
        }
        let order = CallOrder::try_new(call)?;
        let manager = Arc::clone(self);
        Ok(match order.call.is_async() {
            true => Arc::new(AsyncPool::new(manager, order, concurrency)),
            false => Arc::new(ProcessPool::new(manager, order, concurrency)),
        })
    }

    /// Refuses a call that makes no sense, or asks for more than there is.
    pub(crate) fn check_call(&self, call: &UdfCall) -> Result<(), UdfError> {
        refuse_strict_table(&call.spec)?;
        self.refuse_what_is_not_there(call)?;
        match !call.spec.object.is_class() && !call.args.is_empty() {
            true => Err(UdfError::ConstructorArguments {
                function: call.spec.name.clone(),
            }),
            false => Ok(()),
        }
    }

    fn refuse_what_is_not_there(&self, call: &UdfCall) -> Result<(), UdfError> {
        let (capacity, demand) = (self.settings.ledger.capacity(), &call.handling.demand);
        match capacity.lacks(demand) {
            None => Ok(()),
            Some(lack) => Err(UdfError::LacksResources {
                function: call.spec.name.clone(),
                asked: lack.option(demand),
                has: capacity.has(&lack),
                flag: lack.flag(demand),
            }),
        }
    }

    /// Makes ready to start workers fast, without waiting for that. What keeps
    /// it from working is told by the first worker.
    pub fn warm(&self) {
        if let Err(error) = self.launcher.warm() {
            tracing::debug!(%error, "cannot make ready for workers");
        }
    }

    /// The running worker processes, by pid.
    pub fn workers(&self) -> Vec<WorkerInfo> {
        self.processes.list()
    }

    /// Refuses new work and ends every worker: politely, and after `kill_grace`
    /// at once. Calls at work fail.
    pub async fn shutdown(&self) {
        self.roster.close();
        let all = self.processes.all();
        join_all(
            all.iter()
                .map(|process| process.end(self.settings.kill_grace)),
        )
        .await;
    }

    /// What a worker of `function` asks for, from what is claimed; else the first
    /// one waits for it with a limit, and any more as long as it takes. `None`: it asks
    /// for nothing.
    pub(crate) async fn reserve(
        &self,
        function: &str,
        share: &Share,
        rank: Rank,
    ) -> Result<Option<Reservation>, UdfError> {
        let (ledger, demand) = (&self.settings.ledger, share.demand());
        if !demand.takes_resources() {
            return Ok(None);
        }
        let obtained = ledger.obtain(share);
        if rank == Rank::More {
            return Ok(Some(obtained.await));
        }
        let limit = self.settings.init_timeout;
        match tokio::time::timeout(limit, obtained).await {
            Ok(reserved) => Ok(Some(reserved)),
            Err(_) => Err(UdfError::NoResources {
                function: function.to_owned(),
                demand: demand.to_string(),
                waited: limit,
            }),
        }
    }

    /// As [`Self::reserve`], of what is claimed and not taken, at once.
    pub(crate) fn claimed(&self, share: &Share) -> Option<Reservation> {
        let takes = share.demand().takes_resources();
        takes.then(|| self.settings.ledger.take(share))?
    }

    /// A worker for `function`, or the right to start one. Who wants more than
    /// a first one waits as long as it takes.
    pub(crate) async fn place(
        &self,
        function: &str,
        want: Want,
        rank: Rank,
    ) -> Result<Grant, UdfError> {
        let limit = self.settings.init_timeout;
        let wait = (rank == Rank::First).then_some(limit);
        let granted = self.roster.acquire(want, rank, wait).await;
        granted.map_err(|refusal| match refusal {
            Refusal::Closed => UdfError::ShuttingDown {
                function: function.to_owned(),
            },
            Refusal::TimedOut => UdfError::NoFreeWorker {
                function: function.to_owned(),
                max_workers: self.roster.max_workers(),
                waited: limit,
            },
        })
    }

    /// Whether somebody waits for a worker to come free.
    pub(crate) fn has_waiting(&self) -> bool {
        self.roster.has_waiting()
    }

    /// The worker of `grant`, started if need be.
    pub(crate) async fn employ(
        &self,
        grant: Grant,
        function: &str,
        limit: TimeLimit,
        started: &AtomicU64,
    ) -> Result<Worker, UdfError> {
        let slot = match grant {
            Grant::Worker(worker) if worker.is_fit() => return Ok(*worker),
            Grant::Worker(worker) => {
                let pid = worker.process().pid();
                tracing::warn!(
                    pid,
                    "an idle worker that ended or spoke unasked is replaced"
                );
                worker.into_slot().ok_or_else(|| UdfError::ShuttingDown {
                    function: function.to_owned(),
                })?
            }
            Grant::Slot(slot) => slot,
        };
        started.fetch_add(1, Ordering::Relaxed);
        self.start(slot, function, limit).await
    }

    /// Whether a stateless worker has had all the blocks that it should.
    pub(crate) fn is_worn_out(&self, worker: &Worker) -> bool {
        worker.is_worn_out(self.settings.worker_max_blocks)
    }

    /// Takes a stateless worker back.
    pub(crate) fn release(&self, worker: Worker) {
        self.roster.release(worker);
    }

    /// Ends an actor without waiting for it; at once where others need its place, unless
    /// it has devices that it must let go of.
    pub(crate) fn end(&self, worker: Worker) {
        let may_hurry = !worker.has_resources();
        if (may_hurry && self.roster.is_overfull())
            || tokio::runtime::Handle::try_current().is_err()
        {
            // Dropped: ended at once.
            return;
        }
        let grace = self.settings.kill_grace;
        let ending = spawn_named("worker-shutdown", worker.shut_down(grace));
        let mut endings = self.endings.lock();
        endings.retain(|ending| !ending.is_finished());
        endings.push(ending);
    }

    /// Most bytes of a frame to or from a worker.
    pub(crate) fn max_frame_bytes(&self) -> usize {
        self.settings.max_frame_bytes
    }

    /// Owns what still ends workers, until it has.
    pub(crate) fn see_out(&self, tasks: Vec<OwnedTask>) {
        let mut endings = self.endings.lock();
        endings.retain(|ending| !ending.is_finished());
        endings.extend(tasks);
    }

    /// For getting ready, within what `init_timeout` says, if it does.
    pub(crate) fn init_limit_of(&self, own: Option<Duration>) -> TimeLimit {
        TimeLimit {
            limit: own.unwrap_or(self.settings.init_timeout),
            setting: match own {
                Some(_) => INIT_TIMEOUT_OPTION,
                None => INIT_TIMEOUT,
            },
            kill_grace: self.settings.kill_grace,
        }
    }

    /// What workers with a demand get theirs from.
    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.settings.ledger
    }

    /// How long a worker may take to get ready.
    pub(crate) fn init_timeout(&self) -> Duration {
        self.settings.init_timeout
    }

    /// Between asking a process to end and ending it.
    pub(crate) fn kill_grace(&self) -> Duration {
        self.settings.kill_grace
    }

    /// From now, for one block of `call`.
    pub(crate) fn call_deadline(&self, call: &UdfCall) -> Deadline {
        let limit = call.timeout.or(self.settings.call_timeout);
        Deadline {
            at: limit.and_then(|limit| Instant::now().checked_add(limit)),
            limit: limit.unwrap_or(Duration::MAX),
            setting: match call.handling.timeout {
                Some(_) => "timeout",
                None => "udf_call_timeout",
            },
            kill_grace: self.settings.kill_grace,
        }
    }

    async fn start(
        &self,
        slot: Slot,
        function: &str,
        limit: TimeLimit,
    ) -> Result<Worker, UdfError> {
        let settings = &self.settings;
        let env = slot.reserved().map(WorkerEnv::of).unwrap_or_default();
        let limits = self.limits(slot.reserved());
        let launched = self.launcher.launch(env).await;
        let Launched {
            pid,
            end,
            socket,
            stdout,
            stderr,
            greeted,
        } = launched.map_err(|source| UdfError::Start {
            python: settings.python.clone(),
            source,
        })?;
        // Whatever had to be started before is not this worker's time.
        let deadline = limit.deadline();
        let ended = {
            let roster = Arc::downgrade(&self.roster);
            move |pid| {
                if let Some(roster) = roster.upgrade() {
                    roster.forget(pid);
                }
            }
        };
        let kept = settings.log_tail_bytes;
        let pipes = [stdout, stderr];
        let process = self.processes.watch(pid, end, pipes, function, kept, ended);
        let gpu_ids = slot.reserved().map(Reservation::gpu_ids);
        process.has_gpus(gpu_ids.unwrap_or_default());
        tracing::debug!(pid, function, greeted, "worker started");
        let mut channel = Channel::new(socket, settings.max_frame_bytes);
        if settings.shared_memory {
            let slots = Slots::new(pid, settings.max_frame_bytes);
            channel = channel.sharing(slots).await;
        }
        let mut worker = Worker::new(process, channel, slot);
        if !greeted {
            let python = &settings.python;
            worker.greet(python, function, deadline).await?;
        }
        worker.init(limits, function, deadline).await?;
        Ok(worker)
    }

    /// What a worker with `reserved` may take.
    fn limits(&self, reserved: Option<&Reservation>) -> Limits {
        let asked = reserved.and_then(|reserved| reserved.demand()?.memory_bytes);
        let (memory_bytes, memory_by) = match asked {
            Some(bytes) => (usize::try_from(bytes).unwrap_or(usize::MAX), "memory"),
            None => (self.settings.worker_memory_bytes, "udf_worker_memory"),
        };
        Limits {
            memory_bytes,
            memory_by,
            threads: reserved.and_then(Reservation::cores).unwrap_or(1),
        }
    }
}

impl Drop for WorkerManager {
    fn drop(&mut self) {
        self.roster.close();
        self.processes.kill_all();
    }
}

/// Whether a worker that gave this error can be asked again.
pub(crate) fn leaves_worker_usable(error: &UdfError) -> bool {
    matches!(
        error,
        UdfError::Raised(_)
            | UdfError::Refused(_)
            | UdfError::TooManyErrors { .. }
            | UdfError::RowTooLarge { .. }
            | UdfError::GroupTooLarge { .. }
    )
}

fn refuse_strict_table(spec: &FunctionSpec) -> Result<(), UdfError> {
    match spec.strict && spec.is_table() {
        true => Err(UdfError::StrictTable {
            function: spec.name.clone(),
        }),
        false => Ok(()),
    }
}
