//! What describes the database: catalogs, schemas, tables, types, keys, facts.
//!
//! Each command has a fixed schema, prescribed by Flight SQL and compared by
//! drivers bit for bit, and one block of rows. GetFlightInfo and GetSchema use
//! [`Described::schema`], which loads nothing; DoGet uses [`Described::block`].

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{GetCatalogsBuilder, GetDbSchemasBuilder, SqlInfoDataBuilder};
use arrow_flight::sql::{
    Command, CommandGetDbSchemas, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
    CommandGetXdbcTypeInfo,
};
use datafusion::execution::SessionState;
use tonic::Status;

use super::name_pattern::NamePattern;
use super::{ServiceSettings, keys, sql_info, tables, xdbc_types};
use crate::status::internal;

enum Asked {
    Catalogs,
    DbSchemas(CommandGetDbSchemas),
    Tables(CommandGetTables),
    TableTypes,
    SqlInfo(CommandGetSqlInfo),
    XdbcTypeInfo(CommandGetXdbcTypeInfo),
    /// A key command: always empty.
    Keys(SchemaRef),
}

/// One such command and the session that asks.
pub struct Described {
    state: SessionState,
    settings: ServiceSettings,
    asked: Asked,
}

/// `None` when `command` describes nothing.
pub fn describe(
    state: SessionState,
    settings: &ServiceSettings,
    command: Command,
) -> Option<Described> {
    let asked = match command {
        Command::CommandGetCatalogs(_) => Asked::Catalogs,
        Command::CommandGetDbSchemas(asked) => Asked::DbSchemas(asked),
        Command::CommandGetTables(asked) => Asked::Tables(asked),
        Command::CommandGetTableTypes(_) => Asked::TableTypes,
        Command::CommandGetSqlInfo(asked) => Asked::SqlInfo(asked),
        Command::CommandGetXdbcTypeInfo(asked) => Asked::XdbcTypeInfo(asked),
        Command::CommandGetPrimaryKeys(_) => Asked::Keys(keys::primary_keys_schema()),
        Command::CommandGetExportedKeys(_)
        | Command::CommandGetImportedKeys(_)
        | Command::CommandGetCrossReference(_) => Asked::Keys(keys::foreign_keys_schema()),
        _ => return None,
    };
    Some(Described {
        state,
        settings: settings.clone(),
        asked,
    })
}

impl Described {
    /// The columns of the answer.
    pub fn schema(&self) -> SchemaRef {
        match &self.asked {
            Asked::Catalogs => GetCatalogsBuilder::new().schema(),
            Asked::DbSchemas(asked) => asked.clone().into_builder().schema(),
            Asked::Tables(asked) => asked.clone().into_builder().schema(),
            Asked::TableTypes => CommandGetTableTypes {}.into_builder().schema(),
            Asked::SqlInfo(_) => Arc::new(SqlInfoDataBuilder::schema().clone()),
            Asked::XdbcTypeInfo(_) => xdbc_types::schema(),
            Asked::Keys(schema) => Arc::clone(schema),
        }
    }

    /// The rows of the answer.
    ///
    /// # Errors
    /// A schema cannot be listed, or an answer cannot be built.
    pub async fn block(self) -> Result<RecordBatch, Status> {
        match self.asked {
            Asked::Catalogs => {
                let mut answer = GetCatalogsBuilder::new();
                for name in self.state.catalog_list().catalog_names() {
                    answer.append(name);
                }
                answer.build().map_err(unbuilt)
            }
            Asked::DbSchemas(asked) => db_schemas(&self.state, &asked),
            Asked::Tables(asked) => tables::block(&self.state, &asked).await,
            Asked::TableTypes => {
                let mut answer = CommandGetTableTypes {}.into_builder();
                for name in tables::TABLE_TYPES {
                    answer.append(name);
                }
                answer.build().map_err(unbuilt)
            }
            Asked::SqlInfo(asked) => sql_info::block(&self.state, &self.settings, asked),
            Asked::XdbcTypeInfo(asked) => xdbc_types::block(asked),
            Asked::Keys(schema) => Ok(RecordBatch::new_empty(schema)),
        }
    }
}

fn db_schemas(state: &SessionState, asked: &CommandGetDbSchemas) -> Result<RecordBatch, Status> {
    let pattern = NamePattern::new(asked.db_schema_filter_pattern.as_deref());
    // Rows are chosen here, not by the builder, whose patterns know no escape.
    let mut answer = GetDbSchemasBuilder::new(None::<String>, None::<String>);
    for (catalog, schema) in tables::schemas(state, asked.catalog.as_deref(), &pattern) {
        answer.append(catalog, schema);
    }
    answer.build().map_err(unbuilt)
}

/// An answer that cannot be built is a bug of ours.
pub(super) fn unbuilt(error: FlightError) -> Status {
    internal(format!("cannot build a metadata answer: {error}"))
}
