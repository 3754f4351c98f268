//! One client's session: its settings, and statements in two steps.
//!
//! [`Session::prepare`] parses and plans without side effect;
//! [`Session::execute`] runs, once a call. Queries stream; DDL and DML are
//! applied when `execute` returns. Tables, views, functions and actors belong to the
//! database and are seen by all sessions, settings (`SET`) to the session alone.

mod actors;
mod alter_pool;
mod ddl;
mod files;
mod functions;
mod prepared;
mod settings;
mod show_functions;
mod stored;
#[cfg(test)]
mod tests;
mod writes;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::common::{DataFusionError, TableReference};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use futures::{FutureExt, StreamExt};
use mobula_execution::QueryRun;
use mobula_plan::{MobulaStatement, nearest, parse_statements, unknown_method};

use prepared::Work;
pub use prepared::{Prepared, StatementKind};

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
}

impl Session {
    pub(crate) fn new(database: Arc<Database>) -> Self {
        let id = uuid::Uuid::new_v4().to_string();
        let engine = database.engine();
        let state = engine.session_state(
            &id,
            Arc::clone(database.catalogs()),
            engine.options().clone(),
        );
        let context = SessionContext::new_with_state(state).enable_url_table();
        Self {
            id,
            database,
            context,
        }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// A copy of the state as it is now, with the functions of all sessions.
    pub fn state(&self) -> SessionState {
        self.sync();
        self.context.state()
    }

    pub(crate) fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// Takes over functions that other sessions created or dropped.
    fn sync(&self) {
        let state = self.context.state_ref();
        self.database.engine().sync_functions(&mut state.write());
    }

    /// Parses and plans one statement.
    ///
    /// # Errors
    /// A wrong statement, several at once, or one with parameters.
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
        let mut statements = parse_statements(sql)?;
        let statement = match (statements.pop(), statements.len()) {
            (Some(only), 0) => only,
            (None, _) => return Err(ServerError::Empty),
            (Some(_), before) => return Err(ServerError::ManyStatements { n: before + 1 }),
        };
        let work = self.plan(statement).await?;
        Ok(Arc::new(Prepared::new(sql.to_owned(), work)))
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
            MobulaStatement::DataFusion(statement) => {
                let plan = self.logical_plan(*statement).await?;
                settings::refuse_unsupported(&plan)?;
                if !plan.get_parameter_names()?.is_empty() {
                    return Err(ServerError::Parameters);
                }
                Work::Plan(Box::new(plan))
            }
        })
    }

    async fn logical_plan(&self, statement: Statement) -> Result<LogicalPlan, ServerError> {
        let state = self.state();
        let names = state.resolve_table_references(&statement)?;
        files::register_stores(&self.database, &names, &statement)?;
        let full_names: Vec<_> = names.iter().map(|name| self.qualified(name)).collect();
        let unusable = self.database.revive(&full_names).await;
        let shown = show_functions::pattern(&statement);
        let functions = self.database.engine().functions();
        let no_method = unknown_method(&statement, functions);
        let planning = async {
            let plan = state.statement_to_plan(statement).await?;
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

    /// Runs what was prepared; DDL and DML exactly once a call.
    ///
    /// # Errors
    /// What the statement fails with; a query's later errors come from its
    /// stream.
    pub async fn execute(&self, prepared: &Prepared) -> Result<Outcome, ServerError> {
        self.execute_for(prepared, std::future::pending()).await
    }

    /// As [`Session::execute`], for a client that has gone when `left` ends: what it alone
    /// was waited for is let go then, as an actor that is still being built.
    ///
    /// # Errors
    /// As [`Session::execute`]; [`ServerError::Cancelled`] of what was let go.
    pub async fn execute_for(
        &self,
        prepared: &Prepared,
        left: impl Future<Output = ()>,
    ) -> Result<Outcome, ServerError> {
        caught(self.perform(prepared, left)).await
    }

    async fn perform(
        &self,
        prepared: &Prepared,
        left: impl Future<Output = ()>,
    ) -> Result<Outcome, ServerError> {
        match &prepared.work {
            Work::CreateFunction(create) => self.create_function(create).await,
            Work::DropFunction { name, if_exists } => self.drop_function(name, *if_exists).await,
            Work::CreateActor(create) => self.create_actor(create, &prepared.sql, left).await,
            Work::DropActor(drop) => self.drop_actor(drop).await,
            Work::AlterPool(alter) => self.alter_pool(alter).await,
            Work::Plan(plan) => match plan.as_ref() {
                LogicalPlan::Ddl(ddl) => self.define(ddl, &prepared.sql).await,
                LogicalPlan::Statement(statement) => self.change_setting(statement),
                _ if prepared.kind == StatementKind::Dml => self.write(plan, &prepared.sql).await,
                _ => self.run(plan, &prepared.sql).await.map(Outcome::Rows),
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

    async fn run(&self, plan: &LogicalPlan, sql: &str) -> Result<QueryRun, ServerError> {
        files::check_present(plan)?;
        let state = self.state();
        let engine = self.database.engine();
        let running = engine.run_statement(&state, plan.clone(), sql).await;
        let mut run = running.map_err(|error| files::while_reading(plan, error))?;
        let rows = AssertUnwindSafe(run.stream).catch_unwind();
        let plan = plan.clone();
        let rows = rows.map(move |polled| match polled {
            Ok(block) => block.map_err(|error| files::while_reading(&plan, error)),
            Err(panic) => Err(DataFusionError::Internal(text_of(&*panic))),
        });
        run.stream = Box::pin(RecordBatchStreamAdapter::new(run.plan.schema(), rows));
        Ok(run)
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
    if hint.is_empty() {
        hint.push_str(". SHOW TABLES lists those that do");
    }
    Some(ServerError::NoTable {
        name: missing.to_string(),
        hint,
    })
}
