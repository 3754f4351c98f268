//! Loads: rows of a client become a table, or more rows of one, all or none.
//!
//! [`Session::begin_load`] looks whether the table may be what the client wants and makes a
//! folder, [`Load::write`] writes blocks, [`Session::finish_load`] looks again, now that
//! nobody else can change names, and gives the folder its table. A load that is dropped before
//! that leaves nothing. Rows for a table that was loaded go into its folder as one file; for
//! others they are inserted, as INSERT does.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::datasource::TableType;
use datafusion::datasource::listing::ListingTable;
use datafusion::execution::cache::TableScopedPath;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use mobula_execution::{DEFAULT_CATALOG, SYSTEM_SCHEMA};
use mobula_plan::{MobulaStatement, parse_statements, quoted};

use super::prepared::Work;
use super::temporary::TEMPORARY_SCHEMA;
use super::{Outcome, Session, caught};
use crate::loaded::{Folder, LoadedTables, RowsWriter};
use crate::wire_schema::{wire_block, wire_schema};
use crate::{Database, ServerError};

/// What a client wants when the table is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfThere {
    Fail,
    Append,
    Replace,
}

/// Where rows go.
#[derive(Debug, Clone)]
pub struct LoadTarget {
    pub table: TableReference,
    /// It goes with the session.
    pub is_temporary: bool,
    pub if_there: IfThere,
    /// Whether it is made if it is not there.
    pub is_made: bool,
}

/// What becomes of rows.
enum Way {
    /// A table of their own.
    Make,
    /// More rows of a table that was loaded, which has this folder.
    Extend(Arc<Folder>),
    /// INSERT.
    Insert,
}

/// Rows on their way.
pub struct Load {
    target: LoadTarget,
    /// Of the blocks that are given.
    given: SchemaRef,
    /// Of what is written.
    schema: SchemaRef,
    file: RowsWriter,
}

impl Load {
    /// Writes `block`, on a thread that may wait for the disk.
    ///
    /// # Errors
    /// Values that the table's columns do not take, or the disk is full.
    pub(crate) async fn with(
        mut self,
        block: RecordBatch,
        database: &Arc<Database>,
    ) -> Result<Self, ServerError> {
        let database = Arc::clone(database);
        apart(move || {
            self.write(block, database.loaded())?;
            Ok(self)
        })
        .await
    }

    fn write(&mut self, block: RecordBatch, loaded: &LoadedTables) -> Result<(), ServerError> {
        let block = wire_block(&self.given, block).map_err(|e| self.wrong(e.to_string()))?;
        let columns = self.schema.fields().iter();
        let columns = columns.map(|field| self.column(&block, field));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(block.num_rows()));
        let block = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options);
        let block = block.map_err(|e| self.wrong(e.to_string()))?;
        self.file.write(&block, loaded)
    }

    /// The column of `block` that becomes `field`.
    fn column(&self, block: &RecordBatch, field: &Field) -> Result<ArrayRef, ServerError> {
        let Some(column) = block.column_by_name(field.name()) else {
            return Ok(new_null_array(field.data_type(), block.num_rows()));
        };
        if column.data_type() == field.data_type() {
            return Ok(Arc::clone(column));
        }
        let options = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        cast_with_options(column, field.data_type(), &options)
            .map_err(|error| self.wrong(format!("column \"{}\": {error}", field.name())))
    }

    fn wrong(&self, reason: String) -> ServerError {
        wrong_rows(&self.target.table, reason)
    }
}

impl Session {
    /// Prepares for rows of `given`.
    ///
    /// # Errors
    /// The table is, or is not, there against the client's wish, or takes no such columns.
    pub(crate) async fn begin_load(
        &self,
        target: LoadTarget,
        given: &Schema,
    ) -> Result<Load, ServerError> {
        let target = self.full_target(target)?;
        check_columns(&target.table, given)?;
        let given = wire_schema(given);
        let schema = match self.way_of(&target).await? {
            (Way::Extend(_), Some(table)) => {
                let schema = stored_schema(&wire_schema(&table.schema()));
                known_columns(&target.table, &given, &schema)?;
                schema
            }
            _ => stored_schema(&given),
        };
        let folder = self.database().loaded().new_folder()?;
        let file = RowsWriter::create(&folder, &schema)?;
        Ok(Load {
            target,
            given,
            schema,
            file,
        })
    }

    /// Makes the rows seen, and gives their number.
    ///
    /// # Errors
    /// As [`Session::begin_load`]; the table was changed meanwhile.
    pub(crate) async fn finish_load(&self, load: Load) -> Result<Option<u64>, ServerError> {
        caught(Box::pin(self.finish(load))).await
    }

    async fn finish(&self, load: Load) -> Result<Option<u64>, ServerError> {
        let Load { target, schema, .. } = load;
        let folder = Arc::clone(load.file.folder());
        let database = Arc::clone(self.database());
        let file = load.file;
        let (path, n_rows) = apart(move || file.finish(database.loaded())).await?;
        let change = self.database().change().await;
        let (way, table) = self.way_of(&target).await?;
        match way {
            Way::Make if target.is_temporary => self.make_temporary(&target, folder).await?,
            Way::Make => self.make_loaded(&target, &folder).await?,
            Way::Extend(into) => {
                let now = table.as_ref().map(|table| table.schema());
                let now = now.map(|now| stored_schema(&wire_schema(&now)));
                if now.is_some_and(|now| now != schema) {
                    let table = target.table.to_string();
                    return Err(ServerError::LoadOvertaken { table });
                }
                into.take(&path)?;
                self.forget_listing(table.as_deref());
            }
            Way::Insert => {
                // As any INSERT, it may take long: names may change meanwhile.
                drop(change);
                return self.insert_file(&target.table, &schema, path).await;
            }
        }
        Ok(Some(n_rows))
    }

    /// Fails as [`Session::begin_load`] would for the table.
    pub(super) async fn check_target(&self, target: &LoadTarget) -> Result<(), ServerError> {
        let target = self.full_target(target.clone())?;
        self.way_of(&target).await.map(drop)
    }

    /// `target` with the schema that it is in.
    fn full_target(&self, target: LoadTarget) -> Result<LoadTarget, ServerError> {
        let table = &target.table;
        let refused = |reason: &str| wrong_rows(table, reason.to_owned());
        if table.table().is_empty() {
            return Err(refused("it has no name"));
        }
        if table.catalog().is_some_and(|c| c != DEFAULT_CATALOG) {
            return Err(refused("there is one catalog, \"mobula\""));
        }
        let schema = match table.schema() {
            None if target.is_temporary => TEMPORARY_SCHEMA.to_owned(),
            None => self.default_schema(),
            Some(SYSTEM_SCHEMA | "information_schema") => {
                return Err(refused("its schema is read-only. Choose another one"));
            }
            Some(TEMPORARY_SCHEMA) if !target.is_temporary => {
                return Err(refused("schema \"temp\" has temporary tables alone"));
            }
            Some(schema) if target.is_temporary && schema != TEMPORARY_SCHEMA => {
                return Err(refused("temporary tables are in no schema but \"temp\""));
            }
            Some(schema) => schema.to_owned(),
        };
        let table = TableReference::partial(schema.as_str(), table.table());
        if !target.is_temporary && self.schema_of(&table).is_none() {
            let kind = "schema";
            return Err(ServerError::Missing { kind, name: schema });
        }
        Ok(LoadTarget { table, ..target })
    }

    /// What is to be done with rows for `target`, and the table that has its name now.
    async fn way_of(
        &self,
        target: &LoadTarget,
    ) -> Result<(Way, Option<Arc<dyn TableProvider>>), ServerError> {
        let name = &target.table;
        let table = match target.is_temporary {
            true => self.temporary.named(name),
            false => self.registered(name).await,
        };
        let text = name.to_string();
        let Some(found) = &table else {
            let kind = "table";
            return match target.is_made {
                true => Ok((Way::Make, None)),
                false => Err(ServerError::Missing { kind, name: text }),
            };
        };
        if found.table_type() == TableType::View {
            return Err(ServerError::OtherKind {
                kind: "table",
                name: text,
                hint: "It is a view, which has no rows of its own. Choose another name",
            });
        }
        let way = match target.if_there {
            IfThere::Fail => {
                return Err(ServerError::Exists {
                    kind: "table",
                    name: text,
                    hint: "Append to it, replace it, or choose another name",
                });
            }
            IfThere::Replace => Way::Make,
            IfThere::Append => match self.database().loaded().of(found.as_ref()) {
                Some(folder) => Way::Extend(folder),
                None => Way::Insert,
            },
        };
        Ok((way, table))
    }

    async fn make_temporary(
        &self,
        target: &LoadTarget,
        folder: Arc<Folder>,
    ) -> Result<(), ServerError> {
        let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(create)) =
            self.logical_definition(target, &folder).await?
        else {
            return Err(ServerError::Empty);
        };
        let state = self.state();
        let factory = state.table_factories().get("PARQUET").map(Arc::clone);
        let factory = factory.ok_or(ServerError::Empty)?;
        let table = factory.create(&state, &create).await?;
        self.temporary
            .put(target.table.table(), table, Some(folder));
        Ok(())
    }

    /// Makes a table of the catalog. Whoever calls has the right to change names.
    async fn make_loaded(
        &self,
        target: &LoadTarget,
        folder: &Arc<Folder>,
    ) -> Result<(), ServerError> {
        let loaded = self.database().loaded();
        loaded.keep(folder)?;
        // One without temporary tables, which would have the name before all others.
        let definer = Self::new(Arc::clone(self.database()));
        let plan = definer.logical_definition(target, folder).await;
        let made = match &plan {
            Ok(LogicalPlan::Ddl(ddl)) => {
                let sql = definition(target, folder);
                definer.define_alone(ddl, &sql).await.map(drop)
            }
            Ok(_) => Err(ServerError::Empty),
            Err(_) => plan.map(drop),
        };
        // Of the rows that are replaced, or of these if they have no table.
        self.database().let_go_of_loaded()?;
        made
    }

    async fn logical_definition(
        &self,
        target: &LoadTarget,
        folder: &Folder,
    ) -> Result<LogicalPlan, ServerError> {
        let sql = definition(target, folder);
        match parse_statements(&sql)?.pop() {
            Some(MobulaStatement::DataFusion(statement)) => self.logical_plan(*statement).await,
            _ => Err(ServerError::Empty),
        }
    }

    async fn insert_file(
        &self,
        table: &TableReference,
        schema: &Schema,
        path: PathBuf,
    ) -> Result<Option<u64>, ServerError> {
        let columns = schema.fields().iter().map(|field| quoted(field.name()));
        let columns = columns.collect::<Vec<_>>().join(", ");
        let from = quoted(&path.to_string_lossy());
        let table = table.to_quoted_string();
        let sql = format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM {from}");
        // One without temporary tables, as this table is none.
        let session = Self::new(Arc::clone(self.database()));
        let prepared = session.prepare(&sql).await?;
        let Work::Plan(plan) = &prepared.work else {
            return Err(ServerError::Empty);
        };
        match session.write(plan, &sql, std::future::pending()).await? {
            Outcome::Affected(rows) => Ok(rows),
            Outcome::Rows(_) => Ok(None),
        }
    }

    /// Where folders are not listed for each statement, this one has to be listed again.
    fn forget_listing(&self, table: Option<&dyn TableProvider>) {
        let state = self.state();
        let Some(cache) = state.runtime_env().cache_manager.get_list_files_cache() else {
            return;
        };
        let listed = table.and_then(|table| table.downcast_ref::<ListingTable>());
        for url in listed.into_iter().flat_map(ListingTable::table_paths) {
            cache.remove(&TableScopedPath {
                table: url.get_table_ref().clone(),
                path: url.prefix().clone(),
            });
        }
    }
}

/// Does `work` on a thread that may wait for the disk.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServerError> + Send + 'static,
) -> Result<T, ServerError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(ServerError::Panic {
            text: error.to_string(),
        }),
    }
}

/// The statement that a restart replays.
fn definition(target: &LoadTarget, folder: &Folder) -> String {
    let or_replace = match target.if_there {
        IfThere::Replace => "OR REPLACE ",
        _ => "",
    };
    let table = target.table.to_quoted_string();
    let location = folder.location().replace('\'', "''");
    format!("CREATE {or_replace}EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{location}'")
}

/// What is written of `schema`. Long texts are read as others are, so that tables do not differ
/// by the library that their rows came from.
fn stored_schema(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let data_type = match field.data_type() {
            DataType::LargeUtf8 => DataType::Utf8,
            DataType::LargeBinary => DataType::Binary,
            other => other.clone(),
        };
        Field::new(field.name(), data_type, true)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A table has columns, each with a name of its own.
pub(super) fn check_columns(table: &TableReference, given: &Schema) -> Result<(), ServerError> {
    let mut seen = std::collections::HashSet::new();
    let mut names = given.fields().iter().map(|field| field.name());
    if let Some(twice) = names.find(|name| !seen.insert(*name)) {
        return Err(wrong_rows(table, format!("two columns are \"{twice}\"")));
    }
    match given.fields().is_empty() {
        true => Err(wrong_rows(table, "they have no columns".to_owned())),
        false => Ok(()),
    }
}

/// Fails when `given` has a column that the table has not.
fn known_columns(
    table: &TableReference,
    given: &Schema,
    schema: &Schema,
) -> Result<(), ServerError> {
    let mut given = given.fields().iter().map(|field| field.name());
    let Some(unknown) = given.find(|name| schema.field_with_name(name).is_err()) else {
        return Ok(());
    };
    let names: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let names = names.join(", ");
    let reason = format!("it has no column \"{unknown}\", but {names}");
    Err(wrong_rows(table, reason))
}

fn wrong_rows(table: &TableReference, reason: String) -> ServerError {
    let table = table.to_string();
    ServerError::Load { table, reason }
}
