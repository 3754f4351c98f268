//! GetTables: walks catalogs, schemas and tables that match.
//!
//! Names are matched before any table is loaded, because loading one may read
//! files far away, and some tools send whole statements as a table's name. A
//! table that cannot be loaded is listed without columns instead of failing the
//! list. Type filters know no case and take BASE TABLE for TABLE; a row shows
//! the spelling it was asked by, since tools compare it.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow_flight::sql::CommandGetTables;
use arrow_flight::sql::metadata::GetTablesBuilder;
use datafusion::catalog::SchemaProvider;
use datafusion::datasource::TableType;
use datafusion::execution::SessionState;
use tonic::Status;

use super::metadata::unbuilt;
use super::name_pattern::NamePattern;
use crate::session::TEMPORARY_SCHEMA;
use crate::wire_schema::wire_schema;

/// What GetTableTypes lists.
pub const TABLE_TYPES: [&str; 3] = ["LOCAL TEMPORARY", "TABLE", "VIEW"];

/// The schemas that match, as (catalog, schema). No catalog means all of them.
pub fn schemas(
    state: &SessionState,
    catalog: Option<&str>,
    pattern: &NamePattern,
) -> Vec<(String, String)> {
    let list = state.catalog_list();
    let mut found = Vec::new();
    for name in list.catalog_names() {
        if catalog.is_some_and(|wanted| wanted != name) {
            continue;
        }
        let Some(provider) = list.catalog(&name) else {
            continue;
        };
        for schema in provider.schema_names() {
            if pattern.matches(&schema) {
                found.push((name.clone(), schema));
            }
        }
    }
    found
}

/// The answer to GetTables.
pub async fn block(state: &SessionState, asked: &CommandGetTables) -> Result<RecordBatch, Status> {
    let schema_pattern = NamePattern::new(asked.db_schema_filter_pattern.as_deref());
    let table_pattern = NamePattern::new(asked.table_name_filter_pattern.as_deref());
    let none = None::<String>;
    let mut answer = GetTablesBuilder::new(
        none.clone(),
        none.clone(),
        none,
        Vec::<String>::new(),
        asked.include_schema,
    );
    for (catalog, schema) in schemas(state, asked.catalog.as_deref(), &schema_pattern) {
        let provider = state
            .catalog_list()
            .catalog(&catalog)
            .and_then(|catalog| catalog.schema(&schema));
        let Some(provider) = provider else {
            continue;
        };
        for table in provider.table_names() {
            if !table_pattern.matches(&table) {
                continue;
            }
            let seen = look(provider.as_ref(), &table, asked.include_schema).await;
            let table_type = match schema == TEMPORARY_SCHEMA {
                true => TableType::Temporary,
                false => seen.table_type,
            };
            let Some(shown) = shown_type(table_type, &asked.table_types) else {
                continue;
            };
            answer
                .append(&catalog, &schema, &table, shown, &seen.schema)
                .map_err(unbuilt)?;
        }
    }
    answer.build().map_err(unbuilt)
}

struct Seen {
    table_type: TableType,
    schema: SchemaRef,
}

async fn look(provider: &dyn SchemaProvider, table: &str, with_schema: bool) -> Seen {
    let unknown = || Seen {
        table_type: TableType::Base,
        schema: Arc::new(Schema::empty()),
    };
    if !with_schema {
        return match provider.table_type(table).await {
            Ok(Some(table_type)) => Seen {
                table_type,
                ..unknown()
            },
            Ok(None) => unknown(),
            Err(error) => {
                tracing::warn!(table, %error, "a table's type cannot be found");
                unknown()
            }
        };
    }
    match provider.table(table).await {
        Ok(Some(loaded)) => Seen {
            table_type: loaded.table_type(),
            schema: wire_schema(&loaded.schema()),
        },
        Ok(None) => unknown(),
        Err(error) => {
            tracing::warn!(table, %error, "a table cannot be loaded");
            unknown()
        }
    }
}

/// How to spell `table_type` under `filters`; `None` when they leave it out.
fn shown_type(table_type: TableType, filters: &[String]) -> Option<String> {
    let (name, alias) = match table_type {
        TableType::Base => ("TABLE", "BASE TABLE"),
        TableType::View => ("VIEW", "VIEW"),
        TableType::Temporary => ("LOCAL TEMPORARY", "LOCAL TEMPORARY"),
    };
    if filters.is_empty() {
        return Some(name.to_owned());
    }
    filters
        .iter()
        .find(|asked| asked.eq_ignore_ascii_case(name) || asked.eq_ignore_ascii_case(alias))
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_shown_as_they_were_asked_for() {
        let filter = |types: &[&str]| types.iter().map(ToString::to_string).collect::<Vec<_>>();
        let shown = |kind, types: &[&str]| shown_type(kind, &filter(types));
        assert_eq!(shown(TableType::Base, &[]).as_deref(), Some("TABLE"));
        assert_eq!(
            shown(TableType::Base, &["BASE TABLE", "table"]).as_deref(),
            Some("BASE TABLE")
        );
        assert_eq!(shown(TableType::Base, &["table"]).as_deref(), Some("table"));
        assert_eq!(shown(TableType::View, &["view"]).as_deref(), Some("view"));
        assert_eq!(shown(TableType::View, &["table"]), None);
    }
}
