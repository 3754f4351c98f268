//! One client's session: its settings, and statements in two steps.
//!
//! [`Session::prepare`] parses and plans without side effect;
//! [`Session::execute`] runs, once a call. A statement with parameters is bound to
//! their values in between ([`Session::bind`]). Queries stream; DDL and DML are
//! applied when `execute` returns. Tables, views, functions and actors belong to the
//! database and are seen by all sessions; settings (`SET`) and what is temporary to the
//! session alone.

mod actors;
mod alter_pool;
mod bound;
mod create_from_query;
mod ddl;
mod file_calls;
mod file_options;
mod file_tables;
mod files;
mod functions;
mod keep;
mod kept;
mod load;
mod prepared;
mod settings;
mod show_functions;
mod splits;
mod stored;
mod temporary;
#[cfg(test)]
mod tests;
mod writes;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use datafusion::common::{DataFusionError, TableReference};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use futures::{FutureExt, StreamExt};
use mobula_execution::{QueryRun, Split};
use mobula_plan::parameters::infer;
use mobula_plan::udf::sync_functions;
use mobula_plan::{
    FunctionCatalog, MobulaStatement, misplaced_words, nearest, parse, unknown_method,
};
use parking_lot::Mutex;

pub use bound::Bound;
pub use load::{IfThere, Load, LoadTarget};
use prepared::{NewSplit, Ready, Work};
pub use prepared::{Parameter, Prepared, StatementKind};
pub(crate) use temporary::TEMPORARY_SCHEMA;
use temporary::{SessionCatalogs, TemporaryTables};

use crate::plan_cache::Version;
use crate::{Database, ServerError};

/// What a statement gives.
pub enum Outcome {
    /// A running query.
    Rows(QueryRun),
    /// Rows written; `None` for statements that count nothing.
    Affected(Option<u64>),
}

/// A session; cheap enough for one a connection.
pub struct Session {
    id: String,
    database: Arc<Database>,
    /// Holds the state that `SET` changes and resolves `FROM 'file'`.
    context: SessionContext,
    /// Rises with every SET.
    settings: AtomicU64,
    /// Those of all sessions, and its own, which end with it.
    functions: Arc<FunctionCatalog>,
    /// Of the functions that the state has, the version.
    synced: AtomicU64,
    temporary: Arc<TemporaryTables>,
    /// Those that end with it.
    splits: Mutex<Vec<Weak<Split>>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.database.plans().forget(&self.id);
        self.end_splits();
    }
}

impl Session {
    pub(crate) fn new(database: Arc<Database>) -> Self {
        let id = uuid::Uuid::new_v4().to_string();
        let engine = database.engine();
        let temporary = TemporaryTables::new();
        let catalogs = Arc::new(SessionCatalogs {
            shared: Arc::clone(database.catalogs()),
            temporary: Arc::clone(&temporary),
        });
        let functions = FunctionCatalog::of_session(Arc::clone(engine.functions()));
        let functions = Arc::new(functions);
        let state = engine.session_state(&id, catalogs, &functions, engine.options().clone());
        let context = file_tables::context(state, &database);
        Self {
            id,
            database,
            context,
            settings: AtomicU64::new(0),
            functions,
            synced: AtomicU64::new(u64::MAX),
            temporary,
            splits: Mutex::default(),
        }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// A copy of the state as it is now, with the functions of all sessions and its own.
    pub fn state(&self) -> SessionState {
        self.sync();
        self.context.state()
    }

    pub(crate) fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// Takes over functions that it or other sessions created or dropped.
    fn sync(&self) {
        let version = self.functions.version();
        if self.synced.load(Ordering::Acquire) == version {
            return;
        }
        let state = self.context.state_ref();
        sync_functions(&mut state.write(), &self.functions);
        self.synced.store(version, Ordering::Release);
    }

    /// What a statement that is planned now is planned under. Ask before planning it.
    fn version(&self) -> Version {
        Version {
            database: self.database.version(),
            functions: self.functions.version(),
            settings: self.settings.load(Ordering::Acquire),
        }
    }

    /// Whether `prepared` would be planned today as it was.
    pub fn is_current(&self, prepared: &Prepared) -> bool {
        prepared.version == self.version()
    }

    /// Parses and plans one statement, unless this session has it planned and all that it
    /// depends on is as it was.
    ///
    /// # Errors
    /// A wrong statement, or several at once.
    pub async fn prepare(&self, sql: &str) -> Result<Arc<Prepared>, ServerError> {
        caught(self.parse_and_plan(sql)).await
    }

    async fn parse_and_plan(&self, sql: &str) -> Result<Arc<Prepared>, ServerError> {
        let limit = self.database.engine().options().sql_max_bytes();
        if sql.len() > limit {
            return Err(ServerError::LongStatement {
                bytes: sql.len(),
                limit,
            });
        }
        let version = self.version();
        if let Some(known) = self.database.plans().get(&self.id, sql, version) {
            return Ok(known);
        }
        let parsed = parse(sql)?;
        let mut statements = parsed.statements;
        let statement = match (statements.pop(), statements.len()) {
            (Some(only), 0) => only,
            (None, _) => return Err(ServerError::Empty),
            (Some(_), before) => return Err(ServerError::ManyStatements { n: before + 1 }),
        };
        let planned = self.plan(statement).await;
        let work = planned.map_err(|error| of_open_type(error, &parsed.parameters))?;
        let (work, parameters) = with_parameters(work, parsed.parameters)?;
        let kept_bytes = keep::bytes_if_lasting(self, &work)?;
        let is_lasting = kept_bytes.is_some();
        let prepared = Prepared::new(sql.to_owned(), work, parameters, version, is_lasting);
        let prepared = Arc::new(prepared);
        if let Some(bytes) = kept_bytes {
            self.database.plans().put(&self.id, &prepared, bytes);
        }
        Ok(prepared)
    }

    async fn plan(&self, statement: MobulaStatement) -> Result<Work, ServerError> {
        Ok(match statement {
            MobulaStatement::CreateFunction(create) => Work::CreateFunction(create),
            MobulaStatement::DropFunction { name, if_exists } => {
                Work::DropFunction { name, if_exists }
            }
            MobulaStatement::CreateActor(create) => Work::CreateActor(create),
            MobulaStatement::DropActor(drop) => Work::DropActor(drop),
            MobulaStatement::AlterPool(alter) => Work::AlterPool(alter),
            MobulaStatement::CreateSplit(create) => {
                let plan = self.logical_plan(*create.query).await?;
                splits::check_query(&create.name, &plan)?;
                Work::CreateSplit(NewSplit {
                    name: create.name,
                    readers: create.readers,
                    is_equal: create.is_equal,
                    plan,
                })
            }
            MobulaStatement::DropSplit(drop) => Work::DropSplit(drop),
            MobulaStatement::DataFusion(statement) => {
                let plan = self.logical_plan(*statement).await?;
                settings::refuse_unsupported(&plan)?;
                Work::Plan(Box::new(plan))
            }
        })
    }

    async fn logical_plan(&self, mut statement: Statement) -> Result<LogicalPlan, ServerError> {
        let is_temporary = create_from_query::take_temporary(&mut statement);
        file_calls::name_calls(&mut statement)?;
        let state = self.state();
        let names = state.resolve_table_references(&statement)?;
        files::register_stores(&self.database, &names, &statement)?;
        let full_names: Vec<_> = names.iter().map(|name| self.qualified(name)).collect();
        let unusable = self.database.revive(&full_names).await;
        let shown = show_functions::pattern(&statement);
        let functions = &self.functions;
        let no_method = unknown_method(&statement, functions);
        if let Some(error) = misplaced_words(&statement, functions) {
            return Err(error.into());
        }
        let planning = async {
            let plan = state.statement_to_plan(statement).await?;
            let plan = create_from_query::with_temporary(plan, is_temporary);
            Ok(match shown {
                Some(pattern) => show_functions::with_ours(plan, pattern, functions)?,
                None => plan,
            })
        };
        match (caught(planning).await, unusable) {
            (Ok(plan), _) => Ok(plan),
            (Err(_), Some(cause)) => Err(cause),
            (Err(error), None) => Err(match files::why_no_table(&state, &names).await {
                Some(cause) => cause,
                None => missing_table(&state, &names, &error)
                    .or_else(|| no_method.map(ServerError::from))
                    .or_else(|| files::damaged(&names, &error))
                    .unwrap_or(error),
            }),
        }
    }

    /// Runs what was prepared and has no parameters; DDL and DML exactly once a call.
    ///
    /// # Errors
    /// What the statement fails with; a query's later errors come from its
    /// stream.
    pub async fn execute(&self, prepared: &Prepared) -> Result<Outcome, ServerError> {
        if !prepared.parameters.is_empty() {
            return Err(ServerError::no_values(&prepared.parameters));
        }
        caught(self.perform(prepared, None, std::future::pending())).await
    }

    /// Makes run `run` of `bound`, for a client that has gone when `left` ends: what is not there
    /// before it is done is let go then, as an actor that is still being built, the rows of a
    /// COPY and of a CREATE TABLE AS. An INSERT goes on: some of its rows may be there.
    ///
    /// # Errors
    /// As [`Session::execute`]; [`ServerError::Cancelled`] of what was let go.
    pub async fn execute_run(
        &self,
        bound: &Bound,
        run: usize,
        left: impl Future<Output = ()>,
    ) -> Result<Outcome, ServerError> {
        let ready = self.ready(bound, run)?;
        caught(self.perform(bound.prepared(), ready.as_deref(), left)).await
    }

    /// Runs `prepared`, by the plan `ready` if there is one.
    async fn perform(
        &self,
        prepared: &Prepared,
        ready: Option<&Ready>,
        left: impl Future<Output = ()>,
    ) -> Result<Outcome, ServerError> {
        let sql = &prepared.sql;
        match &prepared.work {
            Work::CreateFunction(create) => self.create_function(create).await,
            Work::DropFunction { name, if_exists } => self.drop_function(name, *if_exists).await,
            Work::CreateActor(create) => self.create_actor(create, sql, left).await,
            Work::DropActor(drop) => self.drop_actor(drop).await,
            Work::AlterPool(alter) => self.alter_pool(alter).await,
            Work::CreateSplit(create) => self.create_split(create, sql),
            Work::DropSplit(drop) => self.drop_split(drop),
            Work::Plan(plan) => match ready.map_or(plan.as_ref(), |ready| &ready.plan) {
                LogicalPlan::Ddl(ddl) => self.define(ddl, sql, left).await,
                LogicalPlan::Statement(statement) => self.change_setting(statement),
                plan if prepared.kind == StatementKind::Dml => self.write(plan, sql, left).await,
                plan => {
                    let is_optimised = ready.is_some_and(|ready| ready.is_optimised);
                    let run = self.run(plan, is_optimised, sql).await?;
                    Ok(Outcome::Rows(run))
                }
            },
        }
    }

    /// Prepares and executes in one go.
    ///
    /// # Errors
    /// As [`Session::prepare`] and [`Session::execute`].
    pub async fn sql(&self, sql: &str) -> Result<Outcome, ServerError> {
        let prepared = self.prepare(sql).await?;
        self.execute(&prepared).await
    }

    async fn run(
        &self,
        plan: &LogicalPlan,
        is_optimised: bool,
        sql: &str,
    ) -> Result<QueryRun, ServerError> {
        run_plan(&self.database, &self.state(), plan, is_optimised, sql).await
    }
}

/// Runs `plan`, which a session of `database` with that state has made of `sql`.
async fn run_plan(
    database: &Database,
    state: &SessionState,
    plan: &LogicalPlan,
    is_optimised: bool,
    sql: &str,
) -> Result<QueryRun, ServerError> {
    // Loaded rows stay from now on: the query may wait before it looks for them.
    let read = database.loaded().read_by(plan)?;
    files::check_present(plan)?;
    let engine = database.engine();
    let running = match is_optimised {
        true => engine.run_optimised(state, plan.clone(), sql).await,
        false => engine.run_statement(state, plan.clone(), sql).await,
    };
    let mut run = running.map_err(|error| files::while_reading(plan, error))?;
    let rows = AssertUnwindSafe(run.stream).catch_unwind();
    let plan = plan.clone();
    let rows = rows.map(move |polled| {
        let _held = &read;
        match polled {
            Ok(block) => block.map_err(|error| files::while_reading(&plan, error)),
            Err(panic) => Err(DataFusionError::Internal(text_of(&*panic))),
        }
    });
    run.stream = Box::pin(RecordBatchStreamAdapter::new(run.plan.schema(), rows));
    Ok(run)
}

/// A parameter whose type nothing says has that of NULL while it is planned; some functions
/// and operators then find no type for their result.
fn of_open_type(error: ServerError, parameters: &[String]) -> ServerError {
    match parameters.first() {
        Some(name) if error.to_string().contains("Null") => ServerError::OpenType {
            name: name.clone(),
            source: Box::new(error),
        },
        _ => error,
    }
}

/// `work` with what is known of its parameters, which are written as `names`.
fn with_parameters(work: Work, names: Vec<String>) -> Result<(Work, Vec<Parameter>), ServerError> {
    let Work::Plan(plan) = work else {
        return match names.is_empty() {
            true => Ok((work, vec![])),
            false => Err(ServerError::Parameters),
        };
    };
    let takes_none = match plan.as_ref() {
        // Its text would be stored without them.
        LogicalPlan::Ddl(ddl) => !matches!(ddl, DdlStatement::CreateMemoryTable(_)),
        LogicalPlan::Statement(_) => true,
        _ => false,
    };
    if takes_none && !names.is_empty() {
        return Err(ServerError::Parameters);
    }
    let (plan, types) = match names.is_empty() && plan.get_parameter_names()?.is_empty() {
        true => (*plan, vec![]),
        false => infer(*plan, names.len())?,
    };
    let parameters = names.into_iter().zip(types);
    let parameters = parameters.map(|(name, data_type)| Parameter { name, data_type });
    Ok((Work::Plan(Box::new(plan)), parameters.collect()))
}

/// `work`, unless `left` ends before it: nobody waits for it any more.
async fn while_awaited<T>(
    work: impl Future<Output = Result<T, ServerError>>,
    left: impl Future<Output = ()>,
) -> Result<T, ServerError> {
    tokio::select! {
        biased;
        done = work => done,
        () = left => Err(ServerError::Cancelled),
    }
}

/// A library's panic, at a damaged file above all, is the error of one statement
/// and no more.
async fn caught<T>(work: impl Future<Output = Result<T, ServerError>>) -> Result<T, ServerError> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => Err(ServerError::Panic {
            text: text_of(&*panic),
        }),
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a bug was met: {}", text.unwrap_or("no more is known"))
}

/// The table that planning did not find; DataFusion says so in words alone.
fn missing_table(
    state: &SessionState,
    names: &[TableReference],
    error: &ServerError,
) -> Option<ServerError> {
    let text = error.to_string();
    let defaults = &state.config_options().catalog;
    let missing = names.iter().find(|name| {
        let full = TableReference::clone(name)
            .resolve(&defaults.default_catalog, &defaults.default_schema);
        text.contains(&format!("table '{full}' not found"))
    })?;
    if files::is_remote(missing) {
        return Some(ServerError::RemoteFile {
            location: missing.table().to_owned(),
        });
    }
    let known = state
        .schema_for_ref(missing.clone())
        .map(|schema| schema.table_names())
        .unwrap_or_default();
    let mut hint = nearest::hint(missing.table(), known.iter().map(String::as_str));
    if files::is_folder(missing.table()) {
        hint.push_str(&format!(
            ". The folder of this name is read as '{}/'",
            missing.table()
        ));
    } else if hint.is_empty() {
        hint.push_str(". SHOW TABLES lists those that do");
    }
    Some(ServerError::NoTable {
        name: missing.to_string(),
        hint,
    })
}
