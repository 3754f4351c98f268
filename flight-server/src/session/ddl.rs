//! Definitions: applied to the shared tables and stored, as one step.
//!
//! DataFusion applies what it knows; afterwards the statement's own text goes
//! into the catalog, so that a restart replays what the user wrote. When storing
//! fails, what was applied is undone.

use std::sync::Arc;

use datafusion::common::TableReference;
use datafusion::logical_expr::{CreateExternalTable, DdlStatement, LogicalPlan, Statement};
use mobula_execution::{DEFAULT_SCHEMA, SYSTEM_SCHEMA};
use mobula_plan::udf::check_name_is_free;
use mobula_plan::{CreateFunction, MobulaStatement, parse_statements};

use super::files;
use super::{Outcome, Session};
use crate::ServerError;
use crate::catalog::{Definition, ObjectKind};

const DONE: Outcome = Outcome::Affected(None);

impl Session {
    /// Applies DDL, SET and RESET.
    pub(super) async fn define(
        &self,
        plan: &LogicalPlan,
        sql: &str,
    ) -> Result<Outcome, ServerError> {
        let LogicalPlan::Ddl(ddl) = plan else {
            return self.set(plan).await;
        };
        let _one_at_a_time = self.database().ddl.lock().await;
        refuse_system(ddl)?;
        match ddl {
            DdlStatement::CreateExternalTable(create) => {
                self.create_table(create.as_ref().clone(), sql).await
            }
            DdlStatement::CreateView(view) => {
                let name = qualified(&view.name);
                if !view.or_replace && self.context.table_exist(view.name.clone())? {
                    return Err(exists("view", name, "Use CREATE OR REPLACE VIEW"));
                }
                self.apply(plan.clone()).await?;
                self.store(ObjectKind::View, name, sql, None)
            }
            DdlStatement::CreateMemoryTable(_) if self.database().engine().is_cluster() => {
                Err(ServerError::MemoryTable)
            }
            DdlStatement::CreateCatalogSchema(schema) => {
                self.apply(plan.clone()).await?;
                self.store(ObjectKind::Schema, schema.schema_name.clone(), sql, None)
            }
            DdlStatement::DropTable(drop) => {
                self.drop(plan, &drop.name, drop.if_exists, ObjectKind::Table)
                    .await
            }
            DdlStatement::DropView(drop) => {
                self.drop(plan, &drop.name, drop.if_exists, ObjectKind::View)
                    .await
            }
            DdlStatement::DropCatalogSchema(drop) => {
                self.apply(plan.clone()).await?;
                self.database()
                    .catalog()
                    .remove(ObjectKind::Schema, drop.name.schema_name())?;
                Ok(DONE)
            }
            _ => {
                self.apply(plan.clone()).await?;
                Ok(DONE)
            }
        }
    }

    async fn set(&self, plan: &LogicalPlan) -> Result<Outcome, ServerError> {
        if let LogicalPlan::Statement(Statement::SetVariable(set)) = plan {
            self.set_option(&set.variable, &set.value)?;
        } else {
            self.apply(plan.clone()).await?;
        }
        Ok(DONE)
    }

    async fn create_table(
        &self,
        mut create: CreateExternalTable,
        sql: &str,
    ) -> Result<Outcome, ServerError> {
        let name = qualified(&create.name);
        if self.context.table_exist(create.name.clone())? {
            if create.if_not_exists {
                return Ok(DONE);
            }
            if !create.or_replace {
                return Err(exists(
                    "table",
                    name,
                    "Use CREATE OR REPLACE EXTERNAL TABLE, or DROP TABLE first",
                ));
            }
        }
        files::prepare_locations(self.database(), &mut create)?;
        let locations = create.locations.join("\n");
        self.apply_table(create).await?;
        self.store(ObjectKind::Table, name, sql, Some(locations))
    }

    async fn apply_table(&self, create: CreateExternalTable) -> Result<(), ServerError> {
        let (table, location) = (create.name.to_string(), create.locations.join(", "));
        let plan = LogicalPlan::Ddl(DdlStatement::CreateExternalTable(Box::new(create)));
        self.apply(plan).await.map_err(|error| match error {
            ServerError::Query(e) => ServerError::TableFiles {
                table,
                location,
                reason: mobula_execution::classify(&e).message,
            },
            other => other,
        })
    }

    async fn drop(
        &self,
        plan: &LogicalPlan,
        name: &TableReference,
        if_exists: bool,
        kind: ObjectKind,
    ) -> Result<Outcome, ServerError> {
        let stored = self.database().catalog().remove(kind, &qualified(name))?;
        // A definition whose files are gone is stored but not applied.
        if self.context.table_exist(name.clone())? {
            self.apply(plan.clone()).await?;
        } else if !stored && !if_exists {
            return Err(ServerError::Missing {
                kind: if kind == ObjectKind::View {
                    "view"
                } else {
                    "table"
                },
                name: name.to_string(),
            });
        }
        Ok(DONE)
    }

    async fn apply(&self, plan: LogicalPlan) -> Result<(), ServerError> {
        self.context.execute_logical_plan(plan).await?;
        Ok(())
    }

    fn store(
        &self,
        kind: ObjectKind,
        name: String,
        sql: &str,
        location: Option<String>,
    ) -> Result<Outcome, ServerError> {
        let definition = Definition {
            kind,
            name: name.clone(),
            body: sql.as_bytes().to_vec(),
            location,
        };
        if let Err(error) = self.database().catalog().put(&definition) {
            if matches!(kind, ObjectKind::Table | ObjectKind::View) {
                let _ = self.context.deregister_table(name.as_str());
            }
            return Err(error);
        }
        Ok(DONE)
    }

    /// Applies a stored definition again; stores nothing.
    pub(crate) async fn replay(
        &self,
        sql: &str,
        location: Option<&str>,
    ) -> Result<(), ServerError> {
        let Some(MobulaStatement::DataFusion(statement)) = parse_statements(sql)?.pop() else {
            return Err(ServerError::Empty);
        };
        let plan = self.state().statement_to_plan(*statement).await?;
        match (plan, location) {
            (LogicalPlan::Ddl(DdlStatement::CreateExternalTable(mut create)), Some(location)) => {
                create.locations = location.lines().map(str::to_owned).collect();
                files::prepare_locations(self.database(), &mut create)?;
                self.apply_table(*create).await
            }
            (plan, _) => self.apply(plan).await,
        }
    }

    pub(super) async fn create_function(
        &self,
        create: &CreateFunction,
    ) -> Result<Outcome, ServerError> {
        let name = &create.spec.name;
        let functions = self.database().engine().functions();
        if functions.get(name).is_some() && !create.or_replace {
            if create.if_not_exists {
                return Ok(DONE);
            }
            return Err(exists(
                "function",
                name.clone(),
                "Use CREATE OR REPLACE FUNCTION",
            ));
        }
        check_name_is_free(&self.state(), name)?;
        let mut spec = create.spec.clone();
        // Slow (a worker compiles the body), so not under the lock.
        spec.object = self.database().engine().describe_function(&spec).await?;
        let _one_at_a_time = self.database().ddl.lock().await;
        let definition = Definition {
            kind: ObjectKind::Function,
            name: name.clone(),
            body: spec.encode()?,
            location: None,
        };
        self.database().catalog().put(&definition)?;
        functions.insert(Arc::new(spec));
        Ok(DONE)
    }

    pub(super) async fn drop_function(
        &self,
        name: &str,
        if_exists: bool,
    ) -> Result<Outcome, ServerError> {
        let _one_at_a_time = self.database().ddl.lock().await;
        let known = self.database().engine().functions().remove(name).is_some();
        let stored = self
            .database()
            .catalog()
            .remove(ObjectKind::Function, name)?;
        match known || stored || if_exists {
            true => Ok(DONE),
            false => Err(ServerError::Missing {
                kind: "function",
                name: name.to_owned(),
            }),
        }
    }
}

fn exists(kind: &'static str, name: String, hint: &'static str) -> ServerError {
    ServerError::Exists { kind, name, hint }
}

/// The name a definition is stored under.
fn qualified(name: &TableReference) -> String {
    format!(
        "{}.{}",
        name.schema().unwrap_or(DEFAULT_SCHEMA),
        name.table()
    )
}

/// Schema `system` shows the engine; nothing can be made or dropped in it.
fn refuse_system(ddl: &DdlStatement) -> Result<(), ServerError> {
    let schema = match ddl {
        DdlStatement::CreateExternalTable(c) => c.name.schema(),
        DdlStatement::CreateMemoryTable(c) => c.name.schema(),
        DdlStatement::CreateView(c) => c.name.schema(),
        DdlStatement::DropTable(d) => d.name.schema(),
        DdlStatement::DropView(d) => d.name.schema(),
        DdlStatement::DropCatalogSchema(d) => Some(d.name.schema_name()),
        _ => None,
    };
    match schema {
        Some(schema @ (SYSTEM_SCHEMA | "information_schema")) => Err(ServerError::Query(
            datafusion::common::DataFusionError::Plan(format!(
                "schema \"{schema}\" is read-only. Choose another schema"
            )),
        )),
        _ => Ok(()),
    }
}
