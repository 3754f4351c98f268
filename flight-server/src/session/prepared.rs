//! A statement that is parsed and planned but not run.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::logical_expr::LogicalPlan;
use mobula_plan::{AlterPool, CreateActor, CreateFunction, DropActor};

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

/// A planned statement.
pub struct Prepared {
    pub sql: String,
    pub kind: StatementKind,
    /// Of the rows; empty for all but queries.
    pub schema: SchemaRef,
    pub(super) work: Work,
}

/// What running it means.
pub(super) enum Work {
    Plan(Box<LogicalPlan>),
    CreateFunction(Box<CreateFunction>),
    DropFunction { name: String, if_exists: bool },
    CreateActor(Box<CreateActor>),
    DropActor(DropActor),
    AlterPool(AlterPool),
}

impl Prepared {
    pub(super) fn new(sql: String, work: Work) -> Self {
        let kind = work.kind();
        let schema = match (&work, kind) {
            (Work::Plan(plan), StatementKind::Query) => Arc::new(plan.schema().as_arrow().clone()),
            _ => Arc::new(Schema::empty()),
        };
        Self {
            sql,
            kind,
            schema,
            work,
        }
    }
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
            | Self::AlterPool(_) => StatementKind::Ddl,
        }
    }
}
