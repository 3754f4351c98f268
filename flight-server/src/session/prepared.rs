//! A statement that is parsed and planned but not run.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use mobula_plan::parameters::Ahead;
use mobula_plan::{AlterPool, CreateActor, CreateFunction, DropActor, DropSplit, result_schema};
use parking_lot::Mutex;

use super::Session;
use crate::ServerError;
use crate::plan_cache::Version;

/// How a statement answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementKind {
    /// Rows, streamed.
    Query,
    /// A count of rows written (COPY, INSERT).
    Dml,
    /// Nothing: definitions and settings.
    Ddl,
}

/// A parameter of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// `$1`, or `$name` as it was written.
    pub name: String,
    /// What its values should be; `None` where nothing says it.
    pub data_type: Option<DataType>,
}

/// A planned statement.
pub struct Prepared {
    pub sql: String,
    pub kind: StatementKind,
    /// Of the rows; empty for all but queries.
    pub schema: SchemaRef,
    /// What it is given when it runs, in order.
    pub parameters: Vec<Parameter>,
    pub(super) work: Work,
    /// What it was planned under.
    pub(crate) version: Version,
    /// See [`Self::is_lasting`].
    is_lasting: bool,
    ahead: Mutex<Optimised>,
}

/// What is known of the types of values, run after run.
#[derive(Default)]
enum Optimised {
    /// It has not run.
    #[default]
    Unused,
    /// It ran once with values of these types.
    Once(Vec<DataType>),
    /// It runs again and again with such values.
    Ahead(Arc<Ahead>),
    /// Its plan has to wait for the values.
    Never,
}

/// A plan to run.
pub(crate) struct Ready {
    pub plan: LogicalPlan,
    /// The rules have been over it.
    pub is_optimised: bool,
    /// Of its rows, as they are announced.
    pub schema: SchemaRef,
}

/// What running it means.
pub(super) enum Work {
    Plan(Box<LogicalPlan>),
    CreateFunction(Box<CreateFunction>),
    DropFunction { name: String, if_exists: bool },
    CreateActor(Box<CreateActor>),
    DropActor(DropActor),
    AlterPool(AlterPool),
    CreateSplit(NewSplit),
    DropSplit(DropSplit),
}

/// A split that is to be made.
pub(super) struct NewSplit {
    pub name: String,
    pub readers: usize,
    pub is_equal: bool,
    /// Its query.
    pub plan: LogicalPlan,
}

impl Prepared {
    pub(super) fn new(
        sql: String,
        work: Work,
        parameters: Vec<Parameter>,
        version: Version,
        is_lasting: bool,
    ) -> Self {
        let kind = work.kind();
        let schema = match (&work, kind) {
            (Work::Plan(plan), StatementKind::Query) => result_schema(plan),
            _ => Arc::new(Schema::empty()),
        };
        Self {
            sql,
            kind,
            schema,
            parameters,
            work,
            version,
            is_lasting,
            ahead: Mutex::default(),
        }
    }

    /// Whether it may run again as it is planned, while its version holds.
    pub fn is_lasting(&self) -> bool {
        self.is_lasting
    }

    /// The optimised plan for `values`, from the second run with values of their types on.
    pub(super) fn optimised(
        &self,
        session: &Session,
        values: &[ScalarValue],
    ) -> Result<Option<Ready>, ServerError> {
        let Work::Plan(plan) = &self.work else {
            return Ok(None);
        };
        let types: Vec<DataType> = values.iter().map(ScalarValue::data_type).collect();
        let Some(ahead) = self.ahead(session, plan, types) else {
            return Ok(None);
        };
        let options = {
            let state = session.context.state_ref();
            let state = state.read();
            Arc::clone(state.config_options())
        };
        Ok(Some(Ready {
            plan: ahead.bind(&options, values)?,
            is_optimised: true,
            schema: Arc::clone(ahead.schema()),
        }))
    }

    fn ahead(
        &self,
        session: &Session,
        plan: &LogicalPlan,
        types: Vec<DataType>,
    ) -> Option<Arc<Ahead>> {
        if !self.is_lasting || self.kind != StatementKind::Query {
            return None;
        }
        {
            let mut seen = self.ahead.lock();
            match &*seen {
                Optimised::Never => return None,
                Optimised::Ahead(ahead) if ahead.types() == types => {
                    return Some(Arc::clone(ahead));
                }
                Optimised::Once(before) if *before == types => {}
                _ => {
                    *seen = Optimised::Once(types);
                    return None;
                }
            }
        }
        // Not under the lock: it takes as long as planning does.
        let made = Ahead::of(&state_for_all(session), plan, types);
        let mut seen = self.ahead.lock();
        match made {
            Ok(Some(made)) => {
                let made = Arc::new(made);
                *seen = Optimised::Ahead(Arc::clone(&made));
                Some(made)
            }
            Ok(None) => {
                *seen = Optimised::Never;
                None
            }
            // Its run with the values tells what is wrong; others may be right.
            Err(_) => {
                *seen = Optimised::Unused;
                None
            }
        }
    }
}

/// The session's state for a plan that this process or executors may run: these join a
/// subquery for one value, which this process alone would compute before the rest.
fn state_for_all(session: &Session) -> SessionState {
    let mut state = session.state();
    if session.database().engine().is_cluster() {
        let optimizer = &mut state.config_mut().options_mut().optimizer;
        optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    }
    state
}

impl Work {
    fn kind(&self) -> StatementKind {
        match self {
            Self::Plan(plan) => match plan.as_ref() {
                LogicalPlan::Dml(_) | LogicalPlan::Copy(_) => StatementKind::Dml,
                LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) => StatementKind::Ddl,
                _ => StatementKind::Query,
            },
            Self::CreateFunction(_)
            | Self::DropFunction { .. }
            | Self::CreateActor(_)
            | Self::DropActor(_)
            | Self::AlterPool(_)
            | Self::CreateSplit(_)
            | Self::DropSplit(_) => StatementKind::Ddl,
        }
    }
}
