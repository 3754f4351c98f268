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
use datafusion::common::Result;
use datafusion::datasource::file_format::FileFormatFactory;
use datafusion::datasource::file_format::json::JsonFormatFactory;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use mobula_plan::{
    FunctionCatalog, MobulaOptions, MobulaPlanning, SessionStateBuilderExt, TaskHostHandle,
};
use mobula_udfs::resources::Waiting;
use mobula_udfs::{DescribedMethod, FunctionSpec, ObjectKind, UdfError};
use url::Url;

use crate::admission::Admission;
use crate::base::worker::TaskSource;
use crate::coordinator::control::Control;
use crate::coordinator::membership::Membership;
use crate::coordinator::queries::Queries;
use crate::csv_format::WholeRowsFactory;
use crate::error::ExecutionError;
use crate::executor::listener::{self, Listener, advertised_url};
use crate::functions::RustFunctions;
use crate::kept::store::HeldTable;
use crate::kept::table::KeptTables;
use crate::parquet_format::AlikeParquetFactory;
use crate::pool::line::Lost;
use crate::pool::named::NamedActors;
use crate::pool::query_scaling::QueryPool;
use crate::pool::scaling::Short;
use crate::pool::starter::{OwnHost, Starter};
use crate::process::Process;
use crate::spawn::OwnedTask;
use crate::split::{ReadSplit, Splits};
use crate::stores::ObjectStores;
use crate::system_tables::{SYSTEM_SCHEMA, SystemSchema};
use crate::text_format::ExactTextFactory;
use crate::token::ClusterToken;

/// Catalog of names without one.
pub const DEFAULT_CATALOG: &str = "mobula";
/// Schema of names without one.
pub const DEFAULT_SCHEMA: &str = "public";
/// Id under which the coordinator's own tasks run.
pub const COORDINATOR_ID: &str = "coordinator";
/// Where nobody reaches an embedded engine.
const EMBEDDED_URL: &str = "embedded://here";
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
    named: Arc<NamedActors>,
    queries: Arc<Queries>,
    splits: Arc<Splits>,
    csv: Arc<WholeRowsFactory>,
    kept_tables: KeptTables,
    cluster: Option<Cluster>,
    started: Instant,
    _follow: Option<OwnedTask<()>>,
}

/// The coordinator's half of an engine.
pub(crate) struct Cluster {
    pub(crate) control: Arc<Control>,
    pub(crate) address: SocketAddr,
    pub(crate) url: Url,
    pub(crate) local: Option<TaskSource>,
    pub(crate) starter: Arc<Starter>,
    _listener: Listener,
    _sweep: OwnedTask<()>,
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
        let starter = cluster.as_ref().map(|cluster| Arc::clone(&cluster.starter));
        let url = cluster.as_ref().map(|cluster| cluster.url.to_string());
        let queries = Arc::<Queries>::default();
        let named = Arc::new(NamedActors::new(
            &process,
            Arc::clone(&queries),
            starter.clone(),
            url.as_deref().unwrap_or(EMBEDDED_URL),
            &options,
        ));
        Ok(Self {
            _follow: starter.map(|starter| starter.follow(&named)),
            named,
            admission,
            queries,
            splits: Arc::new(Splits::new(options.splits_max())),
            csv: Arc::default(),
            kept_tables: KeptTables::default(),
            functions: Arc::new(functions.map_err(ExecutionError::Function)?),
            options,
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

    pub(crate) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The queries that wait for resources, in the order they came.
    pub(crate) fn waiting(&self) -> Vec<Waiting> {
        match &self.cluster {
            Some(cluster) => cluster.starter.line.waiting(),
            None => self.process.ledger().waiting(),
        }
    }

    /// What named pools, and those of queries, would have more if there were room.
    pub(crate) fn short(&self) -> Vec<Short> {
        let of_queries = self.cluster.as_ref().map(|cluster| cluster.starter.short());
        let mut short = self.named.short();
        short.extend(of_queries.unwrap_or_default());
        short
    }

    /// The pools of queries that follow their load.
    pub(crate) fn query_pools(&self) -> Vec<QueryPool> {
        let cluster = self.cluster.as_ref();
        cluster.map_or(vec![], |cluster| cluster.starter.query_pools())
    }

    /// Actors that have lost their executor, and that no other has room for.
    pub(crate) fn lost(&self) -> Vec<Lost> {
        let cluster = self.cluster.as_ref();
        cluster.map_or(vec![], |cluster| cluster.starter.line.lost())
    }

    /// The queries that run or wait.
    pub(crate) fn queries(&self) -> &Arc<Queries> {
        &self.queries
    }

    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// The state of a new session: our planner and rules over `catalogs` and `functions`,
    /// which may be [those of all](Self::functions), or of this session too.
    pub fn session_state(
        &self,
        session_id: &str,
        catalogs: Arc<dyn CatalogProviderList>,
        functions: &Arc<FunctionCatalog>,
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
        let formats = builder.file_formats().get_or_insert_default();
        let csv = Arc::clone(&self.csv) as _;
        let ours: [Arc<dyn FileFormatFactory>; 3] = [
            Arc::<AlikeParquetFactory>::default(),
            Arc::new(ExactTextFactory::new(csv)),
            Arc::new(ExactTextFactory::new(Arc::new(JsonFormatFactory::new()))),
        ];
        for ours in ours {
            formats.retain(|format| format.get_ext() != ours.get_ext());
            formats.push(ours);
        }
        let mut state = builder
            .with_mobula(MobulaPlanning {
                functions: Arc::clone(functions),
                options,
            })
            .build();
        mobula_plan::udf::sync_functions(&mut state, functions);
        let read = Arc::new(ReadSplit(Arc::clone(&self.splits)));
        state.register_udtf("read_split", read);
        state
    }

    /// Queries whose rows several readers share.
    pub fn splits(&self) -> &Arc<Splits> {
        &self.splits
    }

    /// A table of blocks that stay where they are made, as long as it is held.
    pub fn hold_table(&self) -> Arc<HeldTable> {
        self.process.kept().hold()
    }

    pub(crate) fn kept_tables(&self) -> &KeptTables {
        &self.kept_tables
    }

    /// Where others reach `executor_id` now; `None`: it is gone.
    pub(crate) fn url_of(&self, executor_id: &str) -> Option<String> {
        let Some(cluster) = &self.cluster else {
            return (executor_id == self.process.executor_id()).then(|| EMBEDDED_URL.to_owned());
        };
        if executor_id == self.process.executor_id() {
            return Some(cluster.url.to_string());
        }
        let mut members = cluster.control.members().into_iter();
        let member = members.find(|member| member.executor_id == executor_id);
        member.map(|member| member.url.to_string())
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

    /// The named actors and pools, wherever they live.
    pub fn actors(&self) -> &NamedActors {
        &self.named
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
            Arc::clone(&process.pool_line().directory),
            Arc::clone(process.kept()),
        ));
        let is_host = settings.local_executor && process.roles().actors;
        let starter = Starter::new(
            Arc::clone(&control),
            process,
            is_host.then(|| OwnHost {
                executor_id: process.executor_id().to_owned(),
                url: url.clone(),
                capacity: process.ledger().capacity().clone(),
            }),
            options,
        );
        let tasks = process.task_source();
        let listener = Listener::serve(
            bound,
            process,
            tasks.clone(),
            Some(Arc::clone(&control)),
            &url,
            settings.token,
        )?;
        Ok(Self {
            starter,
            _sweep: control.sweep(&process.channels().runtime()?),
            control,
            address,
            url,
            local: (settings.local_executor && process.roles().tasks).then_some(tasks),
            _listener: listener,
        })
    }
}
