//! Definitions: applied to the shared tables and stored, as one step.
//!
//! DataFusion applies what it knows; afterwards the statement's own text goes
//! into the catalog, so that a restart replays what the user wrote. When either
//! fails, the table that had the name before has it again.

use std::sync::Arc;

use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::common::{DataFusionError, TableReference};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{
    CreateExternalTable, CreateMemoryTable, CreateView, DdlStatement, DropCatalogSchema,
    LogicalPlan,
};
use mobula_execution::{DEFAULT_CATALOG, DEFAULT_SCHEMA, SYSTEM_SCHEMA, reads_split};

use super::kept::reads_kept;
use super::temporary::TEMPORARY_SCHEMA;
use super::{Outcome, Session, caught, files, while_awaited};
use crate::ServerError;
use crate::catalog::{Definition, ObjectKind};

const DONE: Outcome = Outcome::Affected(None);

impl Session {
    /// Applies DDL. A table of a query's rows is given up when `left` ends.
    pub(super) async fn define(
        &self,
        ddl: &DdlStatement,
        sql: &str,
        left: impl Future<Output = ()>,
    ) -> Result<Outcome, ServerError> {
        if let DdlStatement::CreateMemoryTable(table) = ddl
            && (table.temporary || self.database().engine().is_cluster())
        {
            // Apart: it is large, and part of what every statement may have to do.
            return Box::pin(self.create_from_query(table, sql, left)).await;
        }
        let _one_at_a_time = self.database().change().await;
        if let DdlStatement::DropTable(drop) = ddl
            && let Some(done) = self.drop_temporary(&drop.name, drop.if_exists)
        {
            return done;
        }
        refuse_system(ddl)?;
        let done = match ddl {
            DdlStatement::CreateMemoryTable(table) => {
                self.create_memory_table(ddl, table, left).await?
            }
            ddl => self.define_alone(ddl, sql).await?,
        };
        self.database().let_go_of_loaded()?;
        Ok(done)
    }

    /// Drops a temporary table, if `name` means one.
    fn drop_temporary(
        &self,
        name: &TableReference,
        if_exists: bool,
    ) -> Option<Result<Outcome, ServerError>> {
        if self.temporary.remove(name) || (name.schema() == Some(TEMPORARY_SCHEMA) && if_exists) {
            return Some(Ok(DONE));
        }
        (name.schema() == Some(TEMPORARY_SCHEMA)).then(|| {
            Err(ServerError::Missing {
                kind: "table",
                name: name.to_string(),
            })
        })
    }

    /// As [`Self::define`], for who has the right to change names.
    pub(super) async fn define_alone(
        &self,
        ddl: &DdlStatement,
        sql: &str,
    ) -> Result<Outcome, ServerError> {
        let done = self.apply_and_store(ddl, sql).await?;
        let changed = match ddl {
            DdlStatement::CreateExternalTable(create) => self.qualified(&create.name),
            DdlStatement::CreateView(view) => self.qualified(&view.name),
            DdlStatement::DropTable(drop) => self.qualified(&drop.name),
            DdlStatement::DropView(drop) => self.qualified(&drop.name),
            DdlStatement::DropCatalogSchema(drop) => format!("{}.", drop.name.schema_name()),
            _ => return Ok(done),
        };
        self.database().replan_readers(&changed).await?;
        Ok(done)
    }

    async fn apply_and_store(&self, ddl: &DdlStatement, sql: &str) -> Result<Outcome, ServerError> {
        match ddl {
            DdlStatement::CreateExternalTable(create) => {
                self.create_table(create.as_ref().clone(), sql).await
            }
            DdlStatement::CreateView(view) => self.create_view(view, sql).await,
            DdlStatement::CreateCatalogSchema(schema) => {
                self.apply(ddl).await?;
                let name = last_part(&schema.schema_name).to_owned();
                self.store(ObjectKind::Schema, name, sql, None).await
            }
            DdlStatement::DropTable(drop) => {
                self.drop(ddl, &drop.name, drop.if_exists, ObjectKind::Table)
                    .await
            }
            DdlStatement::DropView(drop) => {
                self.drop(ddl, &drop.name, drop.if_exists, ObjectKind::View)
                    .await
            }
            DdlStatement::DropCatalogSchema(drop) => self.drop_schema(drop),
            other => {
                self.apply(other).await?;
                Ok(DONE)
            }
        }
    }

    async fn create_table(
        &self,
        mut create: CreateExternalTable,
        sql: &str,
    ) -> Result<Outcome, ServerError> {
        let name = self.qualified(&create.name);
        let before = self.registered(&create.name).await;
        if before.is_some() {
            if create.if_not_exists {
                return Ok(DONE);
            }
            if !create.or_replace {
                return Err(ServerError::Exists {
                    kind: "table",
                    name,
                    hint: "Use CREATE OR REPLACE EXTERNAL TABLE, or DROP TABLE first",
                });
            }
        }
        let state = self.state();
        known_format(&state, &create)?;
        let stores = files::StoresBefore::of(self.database(), &create);
        let table = create.name.clone();
        let result = async {
            files::prepare_locations(self.database(), &state, &mut create).await?;
            let locations = create.locations.join("\n");
            self.apply_table(create).await?;
            self.store(ObjectKind::Table, name, sql, Some(locations))
                .await
        };
        let result = result.await;
        if result.is_err() {
            stores.put_back(self.database());
        }
        self.kept_or_undone(&table, before, result)
    }

    async fn create_view(&self, view: &CreateView, sql: &str) -> Result<Outcome, ServerError> {
        let name = self.qualified(&view.name);
        let read = self.database().loaded().read_by(&view.input)?;
        if self.temporary.has_one_of(&read) || reads_kept(&view.input)? {
            return Err(ServerError::Unsupported {
                what: "a view cannot read a temporary table, which others do not see. Load a table that is not temporary",
            });
        }
        self.refuse_temporary_functions("a view", &view.input)?;
        if reads_split(&view.input)? {
            return Err(ServerError::Unsupported {
                what: "a view cannot read a split, which ends with its session. Have each query read it",
            });
        }
        let before = self.registered(&view.name).await;
        if before.is_some() && !view.or_replace {
            return Err(ServerError::Exists {
                kind: "view",
                name,
                hint: "Use CREATE OR REPLACE VIEW",
            });
        }
        let result = match self.apply(&DdlStatement::CreateView(view.clone())).await {
            Ok(()) => self.store(ObjectKind::View, name, sql, None).await,
            Err(error) => Err(error),
        };
        self.kept_or_undone(&view.name, before, result)
    }

    /// A table in memory takes its name from whatever had it, and ends with the
    /// process.
    async fn create_memory_table(
        &self,
        ddl: &DdlStatement,
        table: &CreateMemoryTable,
        left: impl Future<Output = ()>,
    ) -> Result<Outcome, ServerError> {
        let name = &table.name;
        let before = self.registered(name).await;
        if before.is_some() && table.if_not_exists {
            return Ok(DONE);
        }
        let result = while_awaited(self.apply(ddl), left).await.map(|()| DONE);
        self.kept_or_undone(name, before, result)?;
        let name = self.qualified(name);
        for kind in [ObjectKind::Table, ObjectKind::View] {
            self.database().catalog().remove(kind, &name)?;
        }
        if self.database().data_dir().is_some() {
            tracing::warn!("table \"{name}\" is in memory: it is gone when this process ends");
        }
        self.database().replan_readers(&name).await?;
        Ok(DONE)
    }

    async fn drop(
        &self,
        ddl: &DdlStatement,
        name: &TableReference,
        if_exists: bool,
        kind: ObjectKind,
    ) -> Result<Outcome, ServerError> {
        let full_name = self.qualified(name);
        // A definition whose files are gone is stored but not applied.
        let applied = self.registered(name).await.is_some();
        if applied {
            self.apply(ddl).await?;
        }
        let stored = self.database().catalog().remove(kind, &full_name)?;
        self.database().forget_unusable(kind, &full_name).await;
        match applied || stored || if_exists {
            true => Ok(DONE),
            false => Err(ServerError::Missing {
                kind: kind.name(),
                name: name.to_string(),
            }),
        }
    }

    fn drop_schema(&self, drop: &DropCatalogSchema) -> Result<Outcome, ServerError> {
        let name = drop.name.schema_name();
        // Not through DataFusion: the catalog that resolves file names cannot.
        let catalog = self.database().catalogs().catalog(DEFAULT_CATALOG);
        let dropped = match catalog {
            Some(catalog) => catalog.deregister_schema(name, drop.cascade)?,
            None => None,
        };
        if dropped.is_none() && !drop.if_exists {
            return Err(ServerError::Missing {
                kind: "schema",
                name: name.to_owned(),
            });
        }
        self.database().catalog().remove_schema(name)?;
        Ok(DONE)
    }

    pub(super) async fn apply_table(&self, create: CreateExternalTable) -> Result<(), ServerError> {
        let (table, location) = (create.name.to_string(), create.locations.join(", "));
        refuse_unsupported(&create, self.database().engine().is_cluster())?;
        let ddl = DdlStatement::CreateExternalTable(Box::new(create));
        self.apply(&ddl).await.map_err(|error| match error {
            ServerError::Query(e) => ServerError::TableFiles {
                table,
                location,
                reason: mobula_execution::classify(&e).message,
            },
            ServerError::Panic { text } => ServerError::TableFiles {
                table,
                location,
                reason: text,
            },
            other => other,
        })
    }

    pub(super) async fn apply(&self, ddl: &DdlStatement) -> Result<(), ServerError> {
        let plan = LogicalPlan::Ddl(ddl.clone());
        caught(async {
            self.context.execute_logical_plan(plan).await?;
            Ok(())
        })
        .await
    }

    async fn store(
        &self,
        kind: ObjectKind,
        name: String,
        sql: &str,
        location: Option<String>,
    ) -> Result<Outcome, ServerError> {
        let definition = Definition {
            kind,
            name,
            body: sql.as_bytes().to_vec(),
            location,
            default_schema: Some(self.default_schema()),
        };
        self.database().catalog().put(&definition)?;
        let name = &definition.name;
        self.database().forget_unusable(kind, name).await;
        Ok(DONE)
    }

    /// Gives `name` back to what had it `before` if `result` is an error.
    fn kept_or_undone(
        &self,
        name: &TableReference,
        before: Option<Arc<dyn TableProvider>>,
        result: Result<Outcome, ServerError>,
    ) -> Result<Outcome, ServerError> {
        if result.is_err()
            && let Some(schema) = self.schema_of(name)
        {
            let _ = schema.deregister_table(name.table());
            if let Some(before) = before {
                let _ = schema.register_table(name.table().to_owned(), before);
            }
        }
        result
    }

    /// The table or view that has `name` now; files are none.
    pub(super) async fn registered(&self, name: &TableReference) -> Option<Arc<dyn TableProvider>> {
        let schema = self.schema_of(name)?;
        schema.table(name.table()).await.ok().flatten()
    }

    pub(super) fn schema_of(&self, name: &TableReference) -> Option<Arc<dyn SchemaProvider>> {
        let catalog = self.database().catalogs().catalog(DEFAULT_CATALOG)?;
        match name.schema() {
            Some(schema) => catalog.schema(schema),
            None => catalog.schema(&self.default_schema()),
        }
    }

    /// The name a definition is stored under.
    pub(super) fn qualified(&self, name: &TableReference) -> String {
        full_name(name, &self.default_schema())
    }

    pub(super) fn default_schema(&self) -> String {
        let state = self.context.state_ref();
        let state = state.read();
        state.config_options().catalog.default_schema.clone()
    }
}

pub(super) fn full_name(name: &TableReference, default_schema: &str) -> String {
    format!(
        "{}.{}",
        name.schema().unwrap_or(default_schema),
        name.table()
    )
}

fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn known_format(state: &SessionState, create: &CreateExternalTable) -> Result<(), ServerError> {
    let formats = state.table_factories();
    if formats.contains_key(&create.file_type.to_uppercase()) {
        return Ok(());
    }
    let mut known: Vec<_> = formats.keys().map(String::as_str).collect();
    known.sort_unstable();
    Err(ServerError::TableFiles {
        table: create.name.to_string(),
        location: create.locations.join(", "),
        reason: format!(
            "format \"{}\" is none of {}",
            create.file_type,
            known.join(", ")
        ),
    })
}

/// What a table can ask for and would not get.
fn refuse_unsupported(create: &CreateExternalTable, is_cluster: bool) -> Result<(), ServerError> {
    let what = if create.unbounded {
        "UNBOUNDED tables are not supported: a query reads the files that are there. Leave the word out"
    } else if is_cluster && !create.order_exprs.is_empty() {
        "WITH ORDER is not supported in a cluster: an order over files does not survive their spreading. Leave it out"
    } else {
        return Ok(());
    };
    Err(ServerError::Unsupported { what })
}

/// Schema `system` shows the engine; nothing can be made or dropped in it.
fn refuse_system(ddl: &DdlStatement) -> Result<(), ServerError> {
    let schema = match ddl {
        DdlStatement::CreateExternalTable(c) => c.name.schema(),
        DdlStatement::CreateMemoryTable(c) => c.name.schema(),
        DdlStatement::CreateView(c) => c.name.schema(),
        DdlStatement::DropTable(d) => d.name.schema(),
        DdlStatement::DropView(d) => d.name.schema(),
        DdlStatement::DropCatalogSchema(d) => return refuse_schema(d.name.schema_name()),
        DdlStatement::CreateCatalogSchema(c) => Some(last_part(&c.schema_name)),
        _ => None,
    };
    match schema {
        Some(schema @ (SYSTEM_SCHEMA | "information_schema" | TEMPORARY_SCHEMA)) => {
            refuse_schema(schema)
        }
        _ => Ok(()),
    }
}

fn refuse_schema(name: &str) -> Result<(), ServerError> {
    let reason = match name {
        SYSTEM_SCHEMA | "information_schema" => "is read-only. Choose another schema",
        TEMPORARY_SCHEMA => "has the temporary tables of each session. Choose another schema",
        DEFAULT_SCHEMA => "is where names without a schema live. It cannot be dropped",
        _ => return Ok(()),
    };
    let text = format!("schema \"{name}\" {reason}");
    Err(ServerError::Query(DataFusionError::Plan(text)))
}
