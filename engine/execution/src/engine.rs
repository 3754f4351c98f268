//! The engine a front end holds: it makes sessions and runs plans.
//!
//! Embedded, a plan runs in this process by DataFusion's own planner, with no
//! socket. As a coordinator, a plan is cut into stages over the executors alive
//! when it starts; with a single participant it runs here as if embedded.
//! Planning is repeated for each execution, because the set of executors may
//! have changed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
    MemorySchemaProvider, SchemaProvider,
};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use mobula_plan::operator::map_batches::demands;
use mobula_plan::{
    FunctionCatalog, MobulaOptions, MobulaPlanning, QueryId, SessionStateBuilderExt, TaskHostHandle,
};
use mobula_udfs::{ActorHost, DescribedMethod, FunctionSpec, ObjectKind, UdfError};
use url::Url;

use crate::admission::{Admission, Admitted, Places};
use crate::base::channel::PeerChannels;
use crate::base::planner::distributed_state;
use crate::base::worker::TaskSource;
use crate::coordinator::control::Control;
use crate::coordinator::membership::Membership;
use crate::coordinator::queries::Queries;
use crate::coordinator::query::{LossGuard, QueryRun, suspect_lost};
use crate::error::ExecutionError;
use crate::executor::listener::{self, Listener, advertised_url};
use crate::executor::task_output::TaskOutput;
use crate::executor::task_run::TaskRun;
use crate::explain;
use crate::functions::RustFunctions;
use crate::process::Process;
use crate::query_header::query_header;
use crate::resource_check::{Has, check};
use crate::spawn::OwnedTask;
use crate::stores::ObjectStores;
use crate::system_tables::{SYSTEM_SCHEMA, SystemSchema};
use crate::token::ClusterToken;

/// Catalog of names without one.
pub const DEFAULT_CATALOG: &str = "mobula";
/// Schema of names without one.
pub const DEFAULT_SCHEMA: &str = "public";
/// Id under which the coordinator's own tasks run.
pub const COORDINATOR_ID: &str = "coordinator";
/// Id of the tasks of an embedded engine.
pub const EMBEDDED_ID: &str = "embedded";

/// What an engine is made with.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Defaults of every session and the settings of the process.
    pub options: MobulaOptions,
    /// Python interpreter of this process's workers.
    pub python: PathBuf,
}

/// What makes an engine a coordinator.
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// The cluster listener; port 0 picks a free one.
    pub listen: SocketAddr,
    /// `HOST:PORT` at which executors reach it; `None`: as it listens.
    pub advertise: Option<String>,
    pub token: ClusterToken,
    /// Whether this process takes tasks like any executor.
    pub local_executor: bool,
}

/// Runs plans, here or over executors.
pub struct Engine {
    options: MobulaOptions,
    process: Arc<Process>,
    functions: Arc<FunctionCatalog>,
    admission: Admission,
    queries: Arc<Queries>,
    cluster: Option<Cluster>,
    started: Instant,
}

/// The coordinator's half of an engine.
pub(crate) struct Cluster {
    pub(crate) control: Arc<Control>,
    pub(crate) address: SocketAddr,
    pub(crate) url: Url,
    pub(crate) local: Option<TaskSource>,
    _listener: Listener,
    _sweep: OwnedTask<()>,
}

/// Who runs a query.
enum Participants {
    /// This process alone.
    Here,
    Executors(Vec<Url>),
}

impl Engine {
    /// An engine of this process alone. Opens no socket, starts no process.
    ///
    /// # Errors
    /// When DataFusion's runtime cannot be made.
    pub fn embedded(settings: EngineSettings) -> Result<Arc<Self>, ExecutionError> {
        Self::embedded_with(settings, RustFunctions::default())
    }

    /// As [`Engine::embedded`], with `functions` of the program itself.
    ///
    /// # Errors
    /// As [`Engine::embedded`], and a function whose name is taken.
    pub fn embedded_with(
        settings: EngineSettings,
        functions: RustFunctions,
    ) -> Result<Arc<Self>, ExecutionError> {
        // Nothing listens, so this token admits nobody.
        let token = ClusterToken::generate();
        let process = Process::try_new(
            settings.options.clone(),
            settings.python,
            EMBEDDED_ID,
            &token,
            functions,
        )?;
        Ok(Arc::new(Self::try_new(settings.options, process, None)?))
    }

    /// A coordinator: serves the cluster listener from now on.
    ///
    /// # Errors
    /// A port in use, or an address that others cannot reach.
    pub async fn coordinator(
        settings: EngineSettings,
        cluster: ClusterSettings,
    ) -> Result<Arc<Self>, ExecutionError> {
        Self::coordinator_with(settings, cluster, RustFunctions::default()).await
    }

    /// As [`Engine::coordinator`], with `functions` of the program itself. Its
    /// executors need them too: [`crate::Executor::start_with`].
    ///
    /// # Errors
    /// As [`Engine::coordinator`], and a function whose name is taken.
    pub async fn coordinator_with(
        settings: EngineSettings,
        cluster: ClusterSettings,
        functions: RustFunctions,
    ) -> Result<Arc<Self>, ExecutionError> {
        let process = Process::try_new(
            settings.options.clone(),
            settings.python,
            COORDINATOR_ID,
            &cluster.token,
            functions,
        )?;
        let cluster = Cluster::start(&settings.options, &process, cluster).await?;
        let engine = Self::try_new(settings.options, process, Some(cluster))?;
        engine.process.prestart();
        Ok(Arc::new(engine))
    }

    fn try_new(
        options: MobulaOptions,
        process: Arc<Process>,
        cluster: Option<Cluster>,
    ) -> Result<Self, ExecutionError> {
        let ledger = Arc::clone(process.ledger());
        let patience = options.udf_init_timeout();
        let admission = Admission::new(options.udf_max_workers(), ledger, patience);
        let functions = process.functions().catalog();
        Ok(Self {
            options,
            admission,
            queries: Arc::default(),
            functions: Arc::new(functions.map_err(ExecutionError::Function)?),
            process,
            cluster,
            started: Instant::now(),
        })
    }

    /// Where executors connect to; `None` when embedded.
    pub fn cluster_address(&self) -> Option<SocketAddr> {
        self.cluster.as_ref().map(|cluster| cluster.address)
    }

    /// The cluster listener as executors name it; `None` when embedded.
    pub fn cluster_url(&self) -> Option<&Url> {
        self.cluster.as_ref().map(|cluster| &cluster.url)
    }

    /// True for a coordinator.
    pub fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    pub fn runtime_env(&self) -> &Arc<datafusion::execution::runtime_env::RuntimeEnv> {
        self.process.runtime()
    }

    /// The functions that all sessions share.
    pub fn functions(&self) -> &Arc<FunctionCatalog> {
        &self.functions
    }

    /// Defaults of new sessions.
    pub fn options(&self) -> &MobulaOptions {
        &self.options
    }

    /// How long this engine has been up.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// The queries that run or wait.
    pub(crate) fn queries(&self) -> &Queries {
        &self.queries
    }

    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// The state of a new session: our planner, rules and functions over
    /// `catalogs`.
    pub fn session_state(
        &self,
        session_id: &str,
        catalogs: Arc<dyn CatalogProviderList>,
        options: MobulaOptions,
    ) -> SessionState {
        let config = SessionConfig::new()
            .with_information_schema(true)
            .with_create_default_catalog_and_schema(false)
            .with_default_catalog_and_schema(DEFAULT_CATALOG, DEFAULT_SCHEMA)
            .with_extension(Arc::new(TaskHostHandle(Arc::clone(self.process.host()))));
        let mut builder = SessionStateBuilder::new()
            .with_session_id(session_id.to_owned())
            .with_default_features()
            .with_config(config)
            .with_runtime_env(Arc::clone(self.process.runtime()))
            .with_catalog_list(catalogs);
        self.process.functions().register(&mut builder);
        let mut state = builder
            .with_mobula(MobulaPlanning {
                functions: Arc::clone(&self.functions),
                options,
            })
            .build();
        self.sync_functions(&mut state);
        state
    }

    /// New catalogs for sessions: an empty schema for names without one, and
    /// `system`. Sessions that share them share their tables.
    ///
    /// # Errors
    /// None that DataFusion's catalogs in memory have.
    pub fn new_catalogs(self: &Arc<Self>) -> Result<Arc<dyn CatalogProviderList>> {
        let catalog = MemoryCatalogProvider::new();
        catalog.register_schema(DEFAULT_SCHEMA, Arc::new(MemorySchemaProvider::new()))?;
        catalog.register_schema(SYSTEM_SCHEMA, self.system_schema())?;
        let catalogs = MemoryCatalogProviderList::new();
        catalogs.register_catalog(DEFAULT_CATALOG.to_owned(), Arc::new(catalog));
        Ok(Arc::new(catalogs))
    }

    /// Makes the scalar functions of `state` those of the shared catalog, so
    /// that one session's CREATE or DROP FUNCTION is seen by all.
    pub fn sync_functions(&self, state: &mut SessionState) {
        mobula_plan::udf::sync_functions(state, &self.functions);
    }

    /// Starts `plan` under the settings of `state`. EXPLAIN shows what would
    /// run, distributed or not.
    ///
    /// # Errors
    /// What planning fails with, and UNAVAILABLE when the plan needs an
    /// executor and there is none.
    pub async fn run(&self, state: &SessionState, plan: LogicalPlan) -> Result<QueryRun> {
        self.run_statement(state, plan, "").await
    }

    /// As [`Self::run`], of the statement `sql`, which `system.queries` shows.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_statement(
        &self,
        state: &SessionState,
        plan: LogicalPlan,
        sql: &str,
    ) -> Result<QueryRun> {
        let query_id = uuid::Uuid::new_v4().simple().to_string();
        let mut places = Places::new(self.queries.list(&query_id, sql));
        loop {
            let query_id = query_id.clone();
            let places = &mut places;
            let participants = match places.is_alone {
                true => Participants::Here,
                false => self.participants(&plan)?,
            };
            let started = match participants {
                Participants::Here => self.run_here(query_id, state, &plan, places).await,
                Participants::Executors(urls) => {
                    self.run_on(query_id, state, &plan, urls, places).await
                }
            };
            if let Some(mut run) = started? {
                let tasks = self.process.tasks();
                run.stream = TaskOutput::of_last_stage(run.stream, tasks, &run.query_id);
                return Ok(run);
            }
        }
    }

    fn participants(&self, plan: &LogicalPlan) -> Result<Participants> {
        let Some(cluster) = &self.cluster else {
            return Ok(Participants::Here);
        };
        // A UNION would send each of its inputs to an executor of its own.
        if !needs_executor(plan)? {
            return Ok(Participants::Here);
        }
        let mut urls: Vec<Url> = cluster
            .control
            .members()
            .into_iter()
            .filter(|m| !m.is_suspect && m.roles.tasks)
            .map(|m| m.url)
            .collect();
        if cluster.local.is_some() {
            urls.push(cluster.url.clone());
        }
        match urls.len() {
            0 => Err(DataFusionError::External(Box::new(
                match cluster.control.members().is_empty() {
                    true => ExecutionError::NoExecutors {
                        coordinator: format!("grpc://{}", cluster.address),
                    },
                    false => ExecutionError::NoTaskTakers {
                        coordinator: format!("grpc://{}", cluster.address),
                    },
                },
            ))),
            1 => Ok(Participants::Here),
            _ => Ok(Participants::Executors(urls)),
        }
    }

    async fn run_on(
        &self,
        query_id: String,
        state: &SessionState,
        plan: &LogicalPlan,
        urls: Vec<Url>,
        places: &mut Places,
    ) -> Result<Option<QueryRun>> {
        let Some(cluster) = &self.cluster else {
            return self.run_here(query_id, state, plan, places).await;
        };
        let local = cluster
            .local
            .clone()
            .map(|tasks| (cluster.url.clone(), tasks));
        let channels = PeerChannels::of_query(
            self.process.channels().clone(),
            Arc::clone(self.process.traffic()),
            local,
        );
        let used = channels.used();
        let header = query_header(
            &query_id,
            state.config_options(),
            self.process.stores().wire(plan),
        );
        let alive = cluster.control.watch_alive();
        let state = distributed_state(state, urls, channels, &header)?;
        let started = self.run_here(query_id, &state, plan, places).await;
        let control = Arc::clone(&cluster.control);
        let started = started.inspect_err(|error| suspect_lost(&control, error))?;
        Ok(started.map(|mut run| {
            run.stream = Box::pin(LossGuard::new(run.stream, alive, used, control));
            run
        }))
    }

    /// Plans by the planner of `state` and starts. `None` when the query is to be
    /// planned again: it had to wait for its places, which it has now, and who takes
    /// part may have changed; or it must run in this process alone.
    async fn run_here(
        &self,
        query_id: String,
        state: &SessionState,
        plan: &LogicalPlan,
        places: &mut Places,
    ) -> Result<Option<QueryRun>> {
        if let Some(explain) = explain::explained(plan) {
            let check = |plan: &Arc<dyn ExecutionPlan>| self.may_run(plan, places);
            return explain::run(query_id, state, plan, explain, check).await;
        }
        let plan = state.create_physical_plan(plan).await?;
        if !self.may_run(&plan, places)? {
            return Ok(None);
        }
        if self.admission.admit(&query_id, &plan, places).await? {
            return Ok(None);
        }
        let last = self.process.tasks().last_stage(&query_id);
        let context = task_context(state, &query_id, Arc::clone(&last));
        let stream = execute_stream(Arc::clone(&plan), context);
        let stream = stream.inspect_err(|_| last.failed_to_start())?;
        Ok(Some(QueryRun {
            query_id,
            stream: Admitted::wrap(stream, places),
            plan,
        }))
    }

    /// Refuses a plan whose calls ask for what is not there. False where it has to be
    /// planned again for this process alone: that is where such calls run so far.
    fn may_run(&self, plan: &Arc<dyn ExecutionPlan>, places: &mut Places) -> Result<bool> {
        let asked = demands(plan)?;
        if asked.is_empty() {
            return Ok(true);
        }
        let here = Has {
            id: self.process.executor_id().to_owned(),
            capacity: self.process.ledger().capacity().clone(),
        };
        let members = self.cluster.as_ref().map(|c| c.control.members());
        let others = members.into_iter().flatten().filter(|m| m.roles.actors);
        let others = others.map(|member| Has {
            id: member.executor_id,
            capacity: member.capacity,
        });
        let others: Vec<_> = others.collect();
        check(&asked, &here, &others).map_err(|e| DataFusionError::External(Box::new(e)))?;
        let is_alone = std::mem::replace(&mut places.is_alone, true);
        Ok(is_alone || self.cluster.is_none())
    }

    /// Compiles a function's body in a worker and checks its signature.
    ///
    /// # Errors
    /// What is wrong with the body, or with Python here.
    pub async fn describe_function(&self, spec: &FunctionSpec) -> Result<ObjectKind, UdfError> {
        self.process.workers().describe(spec).await
    }

    /// The methods of a class and the types that its hints say.
    ///
    /// # Errors
    /// As [`Self::describe_function`].
    pub async fn describe_methods(
        &self,
        class: &FunctionSpec,
    ) -> Result<Vec<DescribedMethod>, UdfError> {
        self.process.workers().describe_methods(class).await
    }

    /// The named actors, which live in this process, whoever calls them.
    pub fn actors(&self) -> &Arc<ActorHost> {
        self.process.actors()
    }

    /// The tables of schema `system`.
    pub fn system_schema(self: &Arc<Self>) -> Arc<dyn SchemaProvider> {
        Arc::new(SystemSchema::new(Arc::downgrade(self)))
    }

    /// The object stores: known here and, with each query that reads them, on
    /// executors.
    pub fn object_stores(&self) -> &ObjectStores {
        self.process.stores()
    }

    /// Waits until `n` executors are registered (the local one not counted).
    ///
    /// # Errors
    /// [`ExecutionError::ExecutorsMissing`] after `limit`.
    pub async fn wait_for_executors(
        &self,
        n: usize,
        limit: Duration,
    ) -> Result<(), ExecutionError> {
        let Some(cluster) = &self.cluster else {
            return Ok(());
        };
        let mut alive = cluster.control.watch_alive();
        let enough = alive.wait_for(|urls| urls.len() >= n);
        match tokio::time::timeout(limit, enough).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ExecutionError::ExecutorsMissing {
                wanted: n,
                found: cluster.control.members().len(),
                waited_s: limit.as_secs(),
            }),
        }
    }

    /// Ends every worker process of this engine.
    pub async fn shutdown(&self) {
        self.process.shutdown().await;
    }
}

impl Cluster {
    async fn start(
        options: &MobulaOptions,
        process: &Arc<Process>,
        settings: ClusterSettings,
    ) -> Result<Self, ExecutionError> {
        let bound = listener::bind(settings.listen).await?;
        let address = bound
            .local_addr()
            .map_err(|source| ExecutionError::Listen {
                address: settings.listen,
                source,
            })?;
        let url = advertised_url(address, settings.advertise.as_deref())?;
        let membership = Membership::new(options.heartbeat_timeout(), crate::VERSION);
        let control = Arc::new(Control::new(
            membership,
            options.heartbeat_interval(),
            process.channels().clone(),
            Arc::clone(process.row_errors()),
        ));
        let tasks = process.task_source();
        let listener = Listener::serve(
            bound,
            process,
            tasks.clone(),
            Some(Arc::clone(&control)),
            &url,
            settings.token,
        );
        Ok(Self {
            _sweep: control.sweep(),
            control,
            address,
            url,
            local: (settings.local_executor && process.roles().tasks).then_some(tasks),
            _listener: listener,
        })
    }
}

/// The context of `last`, the last stage of query `query_id`, in this process.
fn task_context(state: &SessionState, query_id: &str, last: Arc<TaskRun>) -> Arc<TaskContext> {
    let context = TaskContext::from(state);
    let config = context.session_config().clone();
    let config = config.with_extension(Arc::new(QueryId(query_id.to_owned())));
    let config = config.with_extension(last);
    Arc::new(context.with_session_config(config))
}

/// True when `plan` reads a table or calls user code: constants, DDL and the
/// schemas that live on the coordinator need no executor.
fn needs_executor(plan: &LogicalPlan) -> Result<bool> {
    let mut needs = false;
    plan.apply_with_subqueries(|node| {
        needs |= match node {
            LogicalPlan::TableScan(scan) => !scan
                .table_name
                .schema()
                .is_some_and(|s| s == SYSTEM_SCHEMA || s == "information_schema"),
            LogicalPlan::Extension(_) => true,
            _ => false,
        };
        Ok(match needs {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(needs)
}
