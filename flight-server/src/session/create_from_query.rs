//! `CREATE TABLE` where a table in memory will not do: in a cluster, and temporary ones.
//!
//! The query runs as any other. Rows of a temporary table stay where they are made (`kept`);
//! others are loaded as those of a client are (see `load`): files that executors read, and a table
//! once all rows are there.

use datafusion::logical_expr::{CreateMemoryTable, DdlStatement, LogicalPlan};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use futures::TryStreamExt;

use super::load::{IfThere, LoadTarget};
use super::{Outcome, Session, while_awaited};
use crate::ServerError;

impl Session {
    /// Makes a loaded table of the rows of a query, or of none; gives up if `left` ends before
    /// all rows are there.
    pub(super) async fn create_from_query(
        &self,
        create: &CreateMemoryTable,
        sql: &str,
        left: impl Future<Output = ()>,
    ) -> Result<Outcome, ServerError> {
        refuse_promises(create)?;
        let target = LoadTarget {
            table: create.name.clone(),
            is_temporary: create.temporary,
            if_there: match create.or_replace {
                true => IfThere::Replace,
                false => IfThere::Fail,
            },
            is_made: true,
        };
        // Before the query, which may take long; it looks again when the rows are there.
        if let Err(error) = self.check_target(&target).await {
            return match error.already_exists() && create.if_not_exists {
                true => Ok(Outcome::Affected(None)),
                false => Err(error),
            };
        }
        if create.temporary && !is_declared(create) {
            return self.create_kept(create, target, sql, left).await;
        }
        let database = self.database();
        let _permit = database.loaded().permit()?;
        let loading = async {
            let mut run = self.run(&create.input, false, sql).await?;
            let mut load = self.begin_load(target, &run.stream.schema()).await?;
            while let Some(block) = run.stream.try_next().await? {
                load = load.with(block, database).await?;
            }
            Ok::<_, ServerError>(load)
        };
        let load = while_awaited(loading, left).await?;
        match self.finish_load(load).await {
            Err(error) if error.already_exists() && create.if_not_exists => {}
            done => drop(done?),
        }
        Ok(Outcome::Affected(None))
    }
}

/// Whether `statement` says TEMP of a table; from then on it does not: DataFusion's planner
/// refuses the word.
pub(super) fn take_temporary(statement: &mut Statement) -> bool {
    match statement {
        Statement::Statement(statement) => match statement.as_mut() {
            ast::Statement::CreateTable(create) => std::mem::take(&mut create.temporary),
            _ => false,
        },
        _ => false,
    }
}

/// `plan`, with the word put back.
pub(super) fn with_temporary(plan: LogicalPlan, is_temporary: bool) -> LogicalPlan {
    match plan {
        LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(create)) => {
            LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(CreateMemoryTable {
                temporary: is_temporary,
                ..create
            }))
        }
        plan => plan,
    }
}

/// Whether there are columns, and no query.
fn is_declared(create: &CreateMemoryTable) -> bool {
    matches!(create.input.as_ref(), LogicalPlan::EmptyRelation(_))
}

/// What would be promised of later rows and not kept.
fn refuse_promises(create: &CreateMemoryTable) -> Result<(), ServerError> {
    let mut fields = create.input.schema().fields().iter();
    let what = if create.constraints.iter().next().is_some() {
        "keys and other constraints are not kept by tables in files. Leave them out"
    } else if !create.column_defaults.is_empty() {
        "DEFAULT of a column is not kept by tables in files. Leave it out"
    } else if is_declared(create) && fields.any(|field| !field.is_nullable()) {
        "NOT NULL is not kept by tables in files. Leave it out"
    } else {
        return Ok(());
    };
    Err(ServerError::Unsupported { what })
}
