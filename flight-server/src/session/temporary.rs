//! Temporary tables: of one session, which sees them before all others, and gone with it.
//!
//! They are in schema `temp`, and names without a schema find them there first, so that a
//! statement means the same whether its table is temporary or not. The session's view of the
//! catalog is the shared one with these on top ([`SessionCatalogs`]); the shared one knows
//! nothing of them, and nothing that others see may read them.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::{Result, TableReference};
use mobula_execution::{DEFAULT_CATALOG, DEFAULT_SCHEMA};
use parking_lot::Mutex;
use tonic::async_trait;

use crate::loaded::Folder;

/// The schema of temporary tables.
pub(crate) const TEMPORARY_SCHEMA: &str = "temp";

/// A table, and its files if it has some, which go with it.
#[derive(Debug)]
struct Temporary {
    table: Arc<dyn TableProvider>,
    folder: Option<Arc<Folder>>,
}

/// Those of one session.
#[derive(Debug)]
pub(crate) struct TemporaryTables {
    tables: Mutex<HashMap<String, Temporary>>,
    /// The schema of names that have none.
    default_schema: Mutex<String>,
}

impl TemporaryTables {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            tables: Mutex::default(),
            default_schema: Mutex::new(DEFAULT_SCHEMA.to_owned()),
        })
    }

    /// The session takes names without a schema to be in `schema`.
    pub fn set_default_schema(&self, schema: &str) {
        schema.clone_into(&mut self.default_schema.lock());
    }

    /// The table that `name` means, if it is one of these.
    pub fn named(&self, name: &TableReference) -> Option<Arc<dyn TableProvider>> {
        let is_here = matches!(name.schema(), None | Some(TEMPORARY_SCHEMA));
        is_here.then(|| self.table(name.table())).flatten()
    }

    /// Adds a table, instead of one of its name.
    pub fn put(&self, name: &str, table: Arc<dyn TableProvider>, folder: Option<Arc<Folder>>) {
        let made = Temporary { table, folder };
        // What was there before is dropped outside of the lock: it may have files.
        let before = self.tables.lock().insert(name.to_owned(), made);
        drop(before);
    }

    /// Forgets a table. False if there is none.
    pub fn remove(&self, name: &TableReference) -> bool {
        let is_there = self.named(name).is_some();
        is_there && self.tables.lock().remove(name.table()).is_some()
    }

    /// Whether one of `folders` is of one of these.
    pub fn has_one_of(&self, folders: &[Arc<Folder>]) -> bool {
        let tables = self.tables.lock();
        let mut own = tables.values().filter_map(|t| t.folder.as_ref());
        own.any(|own| folders.iter().any(|folder| Arc::ptr_eq(own, folder)))
    }

    fn table(&self, name: &str) -> Option<Arc<dyn TableProvider>> {
        let tables = self.tables.lock();
        tables.get(name).map(|found| Arc::clone(&found.table))
    }

    fn is_empty(&self) -> bool {
        self.tables.lock().is_empty()
    }
}

/// What one session sees of all catalogs.
#[derive(Debug)]
pub(crate) struct SessionCatalogs {
    pub shared: Arc<dyn CatalogProviderList>,
    pub temporary: Arc<TemporaryTables>,
}

impl CatalogProviderList for SessionCatalogs {
    fn register_catalog(
        &self,
        name: String,
        catalog: Arc<dyn CatalogProvider>,
    ) -> Option<Arc<dyn CatalogProvider>> {
        self.shared.register_catalog(name, catalog)
    }

    fn catalog_names(&self) -> Vec<String> {
        self.shared.catalog_names()
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        let shared = self.shared.catalog(name)?;
        Some(match name {
            DEFAULT_CATALOG => Arc::new(SessionCatalog {
                shared,
                temporary: Arc::clone(&self.temporary),
            }),
            _ => shared,
        })
    }
}

#[derive(Debug)]
struct SessionCatalog {
    shared: Arc<dyn CatalogProvider>,
    temporary: Arc<TemporaryTables>,
}

impl CatalogProvider for SessionCatalog {
    fn schema_names(&self) -> Vec<String> {
        let mut names = self.shared.schema_names();
        if !self.temporary.is_empty() {
            names.push(TEMPORARY_SCHEMA.to_owned());
        }
        names
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let temporary = Arc::clone(&self.temporary);
        if name == TEMPORARY_SCHEMA {
            return Some(Arc::new(TemporarySchema(temporary)));
        }
        let shared = self.shared.schema(name)?;
        let is_shadowed = !temporary.is_empty() && *temporary.default_schema.lock() == name;
        Some(match is_shadowed {
            true => Arc::new(Shadowed { shared, temporary }),
            false => shared,
        })
    }

    fn register_schema(
        &self,
        name: &str,
        schema: Arc<dyn SchemaProvider>,
    ) -> Result<Option<Arc<dyn SchemaProvider>>> {
        self.shared.register_schema(name, schema)
    }

    fn deregister_schema(
        &self,
        name: &str,
        cascade: bool,
    ) -> Result<Option<Arc<dyn SchemaProvider>>> {
        self.shared.deregister_schema(name, cascade)
    }
}

/// Schema `temp`. DDL changes it nowhere but in [`TemporaryTables`].
#[derive(Debug)]
struct TemporarySchema(Arc<TemporaryTables>);

#[async_trait]
impl SchemaProvider for TemporarySchema {
    fn table_names(&self) -> Vec<String> {
        self.0.tables.lock().keys().cloned().collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(self.0.table(name))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.table(name).is_some()
    }
}

/// The default schema, whose names temporary tables take. It lists its own alone.
#[derive(Debug)]
struct Shadowed {
    shared: Arc<dyn SchemaProvider>,
    temporary: Arc<TemporaryTables>,
}

#[async_trait]
impl SchemaProvider for Shadowed {
    fn table_names(&self) -> Vec<String> {
        self.shared.table_names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        match self.temporary.table(name) {
            Some(table) => Ok(Some(table)),
            None => self.shared.table(name).await,
        }
    }

    fn register_table(
        &self,
        name: String,
        table: Arc<dyn TableProvider>,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        self.shared.register_table(name, table)
    }

    fn deregister_table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        self.shared.deregister_table(name)
    }

    fn table_exist(&self, name: &str) -> bool {
        self.temporary.table(name).is_some() || self.shared.table_exist(name)
    }
}
