//! What every process that runs tasks has exactly once.
//!
//! Executors and coordinators differ in what they listen to, not in what runs
//! tasks: a DataFusion runtime with its memory limit, worker processes, object
//! stores, connections to peers, and the counters of all traffic.

use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use datafusion::execution::cache::cache_manager::CacheManagerConfig;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use mobula_plan::{MobulaOptions, TaskHost};
use mobula_proto::cluster::ExecutorLoad;
use mobula_udfs::{ActorHost, KeptStates, Ledger, StartMethod, WorkerManager, WorkerSettings};
use object_store::local::LocalFileSystem;

use crate::actor_calls::pool::ActorLine;
use crate::base::worker::{TaskSessions, TaskSource};
use crate::error::ExecutionError;
use crate::exchange::channels::{ChannelPool, TransportLimits};
use crate::exchange::traffic::Traffic;
use crate::executor::failed_rows::FailedRowsLine;
use crate::executor::operators::OperatorRuns;
use crate::executor::report::Reporter;
use crate::executor::resources::{Roles, capacity, free_to_wire};
use crate::executor::task_host::ProcessTaskHost;
use crate::executor::tasks::TaskRuns;
use crate::functions::RustFunctions;
use crate::kept::store::KeptStore;
use crate::kept::{KeptLine, hosted_name, table_hosted};
use crate::pool::dispatch::PoolLine;
use crate::pool::hosting::Hosting;
use crate::pool::loads::Loads;
use crate::pool::named_lanes::NamedLanes;
use crate::pool::placed_actor::directory_key;
use crate::row_errors::RowErrors;
use crate::stores::ObjectStores;
use crate::token::ClusterToken;
use crate::visible_files::VisibleFiles;

/// The shared parts of a process.
pub struct Process {
    executor_id: String,
    options: MobulaOptions,
    runtime: Arc<RuntimeEnv>,
    /// What it shares out.
    ledger: Arc<Ledger>,
    workers: Arc<WorkerManager>,
    actors: Arc<ActorHost>,
    actor_line: Arc<ActorLine>,
    hosting: Arc<Hosting>,
    pool_line: Arc<PoolLine>,
    kept: Arc<KeptStore>,
    host: Arc<dyn TaskHost>,
    row_errors: Arc<RowErrors>,
    failed_rows: Arc<FailedRowsLine>,
    operators: Arc<OperatorRuns>,
    tasks: Arc<TaskRuns>,
    functions: RustFunctions,
    stores: Arc<ObjectStores>,
    channels: ChannelPool,
    traffic: Arc<Traffic>,
}

impl Process {
    /// Makes the parts; starts nothing yet.
    ///
    /// # Errors
    /// When DataFusion's runtime cannot be made.
    pub fn try_new(
        options: MobulaOptions,
        python: PathBuf,
        executor_id: &str,
        token: &ClusterToken,
        functions: RustFunctions,
    ) -> Result<Arc<Self>, ExecutionError> {
        let limits = TransportLimits {
            stream_window_bytes: u32::try_from(options.exchange_stream_window())
                .unwrap_or(u32::MAX),
            message_bytes: options.exchange_message_bytes(),
            threads: options.exchange_threads(),
        };
        let runtime = runtime(&options)?;
        let ledger = Ledger::new(capacity(&options));
        let settings = worker_settings(&options, python, executor_id, &ledger);
        let workers = WorkerManager::new(settings);
        let channels = ChannelPool::try_new(token, limits)?;
        let row_errors = Arc::new(RowErrors::new(options.udf_errors_max_bytes()));
        let failed_rows = Arc::new(FailedRowsLine::new(
            executor_id,
            Arc::clone(&row_errors),
            channels.clone(),
        ));
        let operators = Arc::new(OperatorRuns::new(options.operators_kept()));
        let states = KeptStates::new(options.actor_states_max_bytes());
        let actors = ActorHost::new(Arc::clone(&workers), executor_id, options.actors_max());
        let actors = Arc::new(actors.with_states(Arc::clone(&states)));
        let traffic = Arc::new(Traffic::default());
        let actor_line = Arc::new(ActorLine::new(
            channels.clone(),
            Arc::clone(&traffic),
            options.udf_max_frame_bytes(),
        ));
        let hosting = Arc::new(Hosting::new(
            Arc::clone(&workers),
            Arc::clone(&ledger),
            functions.native().clone(),
            executor_id,
        ));
        let pool_line = Arc::new(PoolLine {
            executor_id: executor_id.to_owned(),
            hosting: Arc::clone(&hosting),
            actors: Arc::clone(&actors),
            channels: channels.clone(),
            traffic: Arc::clone(&traffic),
            keep_bytes: options.udf_max_frame_bytes(),
            patience: options.udf_init_timeout(),
            hosts_lost_max: u32::try_from(options.udf_hosts_lost_max()).unwrap_or(u32::MAX),
            directory: Arc::default(),
            coordinator: OnceLock::new(),
            loads: Loads::default(),
            opened: AtomicUsize::new(0),
            named: Arc::new(NamedLanes::new(states)),
        });
        let kept = KeptStore::new(executor_id, &runtime, kept_memory_max(&options));
        let kept_line = KeptLine {
            store: Arc::clone(&kept),
            channels: channels.clone(),
            traffic: Arc::clone(&traffic),
        };
        let host = ProcessTaskHost {
            kept: Arc::new(kept_line),
            pool_line: Arc::clone(&pool_line),
            workers: Arc::clone(&workers),
            actors: Arc::clone(&actors),
            actor_line: Arc::clone(&actor_line),
            failed_rows: Arc::clone(&failed_rows),
            operators: Arc::clone(&operators),
            native: functions.native().clone(),
            ledger: Arc::clone(&ledger),
            executor_id: executor_id.to_owned(),
        };
        Ok(Arc::new(Self {
            executor_id: executor_id.to_owned(),
            host: Arc::new(host),
            row_errors,
            failed_rows,
            operators,
            tasks: TaskRuns::new(options.tasks_kept()),
            functions,
            stores: Arc::new(ObjectStores::new(Arc::clone(&runtime))),
            channels,
            traffic,
            options,
            runtime,
            ledger,
            workers,
            actors,
            actor_line,
            hosting,
            pool_line,
            kept,
        }))
    }

    /// The worker of the base that runs this process's tasks.
    pub fn task_source(&self) -> TaskSource {
        let sessions = TaskSessions {
            options: self.options.clone(),
            host: Arc::clone(&self.host),
            functions: self.functions.clone(),
            stores: Arc::clone(&self.stores),
            channels: self.channels.clone(),
            traffic: Arc::clone(&self.traffic),
            tasks: Arc::clone(&self.tasks),
        };
        TaskSource::new(sessions, Arc::clone(&self.runtime))
    }

    /// The id under which its tasks run.
    pub fn executor_id(&self) -> &str {
        &self.executor_id
    }

    pub fn runtime(&self) -> &Arc<RuntimeEnv> {
        &self.runtime
    }

    /// What it shares out, and who has it.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// What it takes.
    pub fn roles(&self) -> Roles {
        Roles::of(&self.options)
    }

    pub fn workers(&self) -> &Arc<WorkerManager> {
        &self.workers
    }

    /// The named actors that live in this process.
    pub fn actors(&self) -> &Arc<ActorHost> {
        &self.actors
    }

    /// Where its tasks find named actors.
    pub fn actor_line(&self) -> &ActorLine {
        &self.actor_line
    }

    /// The actors of queries that live in this process.
    pub fn hosting(&self) -> &Arc<Hosting> {
        &self.hosting
    }

    /// Where its tasks find those.
    pub fn pool_line(&self) -> &Arc<PoolLine> {
        &self.pool_line
    }

    /// The blocks of temporary tables that it has.
    pub fn kept(&self) -> &Arc<KeptStore> {
        &self.kept
    }

    pub fn host(&self) -> &Arc<dyn TaskHost> {
        &self.host
    }

    pub fn functions(&self) -> &RustFunctions {
        &self.functions
    }

    /// The failed rows of the queries that this process runs.
    pub fn row_errors(&self) -> &Arc<RowErrors> {
        &self.row_errors
    }

    /// Where its tasks tell of failed rows.
    pub fn failed_rows(&self) -> &FailedRowsLine {
        &self.failed_rows
    }

    /// The tasks that it runs and has run.
    pub fn tasks(&self) -> &Arc<TaskRuns> {
        &self.tasks
    }

    /// What it tells of its operators, workers and tasks.
    pub fn reporter(&self) -> Reporter {
        Reporter {
            operators: Arc::clone(&self.operators),
            tasks: Arc::clone(&self.tasks),
            workers: Arc::clone(&self.workers),
            actors: Arc::clone(&self.actors),
        }
    }

    pub fn stores(&self) -> &Arc<ObjectStores> {
        &self.stores
    }

    pub fn channels(&self) -> &ChannelPool {
        &self.channels
    }

    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// After how long without a word coordinator and executor count each other as lost.
    pub fn heartbeat_timeout(&self) -> Duration {
        self.options.heartbeat_timeout()
    }

    /// What lives here for others: actors of queries, by their id, named actors, and tables
    /// whose blocks are kept.
    pub fn hosted(&self) -> Vec<String> {
        let named = self.actors.names().into_iter();
        let mut hosted: Vec<_> = named.map(|name| directory_key(&name)).collect();
        hosted.extend(self.hosting.queries());
        hosted.extend(self.kept.ids().iter().map(|id| hosted_name(id)));
        hosted
    }

    /// Ends one of [`Self::hosted`], which nobody knows of.
    pub fn end_hosted(&self, hosted: &str) {
        if let Some(id) = table_hosted(hosted) {
            return self.kept.free(id);
        }
        match hosted.strip_prefix(&directory_key("")) {
            Some(key) => self.actors.drop_by_key(key),
            None => self.hosting.end(hosted),
        }
    }

    /// Ends all of them: who had them built is lost, or does not know this process.
    pub fn end_all_hosted(&self) {
        let named = self.actors.names();
        named.iter().for_each(|key| self.actors.drop_by_key(key));
        let queries = self.hosting.clear();
        let tables = self.kept.free_all();
        if queries + named.len() + tables > 0 {
            let actors = named.len();
            tracing::warn!(
                queries,
                actors,
                tables,
                "actors end, and temporary tables: the coordinator knows of none"
            );
        }
    }

    /// Totals for heartbeats and `system.executors`.
    pub fn load(&self) -> ExecutorLoad {
        ExecutorLoad {
            free: Some(free_to_wire(&self.ledger.free())),
            ..self.traffic.load(self.workers.workers().len() as u64)
        }
    }

    /// Makes the first call of user code a fast one, unless settings say no.
    pub fn prestart(&self) {
        if self.options.udf_prestart() {
            self.workers.warm();
        }
    }

    /// Ends every worker process; bounded by their grace period.
    pub async fn shutdown(&self) {
        self.actors.shutdown();
        self.hosting.clear();
        self.workers.shutdown().await;
    }
}

/// Bytes of kept blocks in memory: operators can take none of them back, and have the other half
/// of `memory_limit`.
fn kept_memory_max(options: &MobulaOptions) -> usize {
    match options.memory_limit() {
        0 => options.kept_memory_max(),
        limit => options.kept_memory_max().min(limit / 2),
    }
}

fn runtime(options: &MobulaOptions) -> Result<Arc<RuntimeEnv>, ExecutionError> {
    let mut builder = RuntimeEnvBuilder::new().with_cache_manager(caches(options));
    let limit = options.memory_limit();
    if limit > 0 {
        builder = builder.with_memory_pool(Arc::new(FairSpillPool::new(limit)));
    }
    let runtime = builder.build_arc().map_err(ExecutionError::Runtime)?;
    let local = Arc::new(VisibleFiles(Arc::new(LocalFileSystem::new())));
    runtime.register_object_store(ObjectStoreUrl::local_filesystem().as_ref(), local);
    Ok(runtime)
}

/// DataFusion would list a folder once and for ever: files that come later would not be
/// seen, and those that went be read. What it keeps of a file it checks by its size and time.
fn caches(options: &MobulaOptions) -> CacheManagerConfig {
    let caches = CacheManagerConfig::default();
    match options.list_files_ttl() {
        Duration::ZERO => caches.with_list_files_cache_limit(0),
        ttl => caches.with_list_files_cache_ttl(Some(ttl)),
    }
}

fn worker_settings(
    options: &MobulaOptions,
    python: PathBuf,
    executor_id: &str,
    ledger: &Arc<Ledger>,
) -> WorkerSettings {
    WorkerSettings {
        python,
        ledger: Arc::clone(ledger),
        start_method: match options.udf_start_method() {
            "spawn" => StartMethod::Spawn,
            _ => StartMethod::ForkServer,
        },
        executor_id: executor_id.to_owned(),
        max_workers: options.udf_max_workers(),
        init_timeout: options.udf_init_timeout(),
        call_timeout: options.udf_call_timeout(),
        kill_grace: options.udf_kill_grace(),
        idle_ttl: options.udf_idle_ttl(),
        actor_idle_ttl: options.pool_idle_ttl(),
        worker_max_blocks: options.udf_worker_max_blocks() as u64,
        worker_memory_bytes: options.udf_worker_memory(),
        batch_every: u32::try_from(options.udf_batch_every()).unwrap_or(u32::MAX),
        actor_linger: options.actor_linger(),
        max_frame_bytes: options.udf_max_frame_bytes(),
        ..WorkerSettings::default()
    }
}
