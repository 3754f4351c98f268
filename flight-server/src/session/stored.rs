//! Definitions of the catalog, applied again.
//!
//! The text is planned under the schema that was current when it was written, so
//! that names mean what they meant. Called by `replay` alone.

use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::sql::parser::Statement;
use mobula_execution::DEFAULT_SCHEMA;
use mobula_plan::{MobulaStatement, parse_statements};

use super::ddl::full_name;
use super::{Session, caught, files, missing_table};
use crate::ServerError;
use crate::catalog::Definition;

/// The session option behind names without a schema.
const DEFAULT_SCHEMA_OPTION: &str = "datafusion.catalog.default_schema";

impl Session {
    /// Applies a stored definition again; stores nothing.
    pub(crate) async fn replay(&self, definition: &Definition) -> Result<(), ServerError> {
        if let Some(schema) = &definition.default_schema {
            self.set_option(DEFAULT_SCHEMA_OPTION, schema)?;
        }
        let statement = stored_statement(definition)?;
        let state = self.state();
        let names = state.resolve_table_references(&statement)?;
        let planning = async { Ok(state.statement_to_plan(statement).await?) };
        let plan = caught(planning).await;
        let plan = plan.map_err(|e| missing_table(&state, &names, &e).unwrap_or(e))?;
        match (plan, &definition.location) {
            (LogicalPlan::Ddl(DdlStatement::CreateExternalTable(mut create)), Some(location)) => {
                create.locations = location.lines().map(str::to_owned).collect();
                files::prepare_locations(self.database(), &self.state(), &mut create).await?;
                self.apply_table(*create).await
            }
            (LogicalPlan::Ddl(ddl), _) => self.apply(&ddl).await,
            _ => Err(ServerError::Empty),
        }
    }

    /// Names (`schema.name`) of the tables and views in a stored definition, its
    /// own included.
    pub(crate) fn names_read_by(
        &self,
        definition: &Definition,
    ) -> Result<Vec<String>, ServerError> {
        let statement = stored_statement(definition)?;
        let schema = definition.default_schema.as_deref();
        let names = self.state().resolve_table_references(&statement)?;
        Ok(names
            .iter()
            .map(|name| full_name(name, schema.unwrap_or(DEFAULT_SCHEMA)))
            .collect())
    }
}

fn stored_statement(definition: &Definition) -> Result<Statement, ServerError> {
    let sql = String::from_utf8_lossy(&definition.body);
    match parse_statements(&sql)?.pop() {
        Some(MobulaStatement::DataFusion(statement)) => Ok(*statement),
        _ => Err(ServerError::Empty),
    }
}
