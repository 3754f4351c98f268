//! What all clients share: engine, tables, and the catalog that keeps them.

use std::path::Path;
use std::sync::Arc;

use datafusion::catalog::CatalogProviderList;
use mobula_execution::Engine;

use crate::ServerError;
use crate::catalog::{Catalog, DataDir};
use crate::replay::Unusable;
use crate::session::Session;

/// An open database.
pub struct Database {
    engine: Arc<Engine>,
    catalogs: Arc<dyn CatalogProviderList>,
    catalog: Catalog,
    /// DDL is applied and stored as one step.
    pub(crate) ddl: tokio::sync::Mutex<()>,
    /// What of the catalog cannot be used now.
    pub(crate) unusable: tokio::sync::Mutex<Vec<Unusable>>,
    data_dir: Option<DataDir>,
}

impl Database {
    /// Opens the catalog of `data_dir` (or one in memory) over `engine` and
    /// replays its definitions. One whose files are gone stays in the catalog,
    /// see [`Database::unusable`].
    ///
    /// # Errors
    /// A data directory in use, or a catalog that cannot be read.
    pub async fn open(
        engine: Arc<Engine>,
        data_dir: Option<DataDir>,
    ) -> Result<Arc<Self>, ServerError> {
        let catalog = Catalog::open(data_dir.as_ref().map(DataDir::path))?;
        let catalogs = engine.new_catalogs()?;
        let database = Arc::new(Self {
            engine,
            catalogs,
            catalog,
            ddl: tokio::sync::Mutex::new(()),
            unusable: tokio::sync::Mutex::new(vec![]),
            data_dir,
        });
        database.replay().await?;
        Ok(database)
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub fn catalogs(&self) -> &Arc<dyn CatalogProviderList> {
        &self.catalogs
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Where data is kept; `None` in memory.
    pub fn data_dir(&self) -> Option<&Path> {
        self.data_dir.as_ref().map(DataDir::path)
    }

    /// A session with the engine's default settings.
    ///
    /// # Errors
    /// None today; a limit on sessions is the service's.
    pub fn new_session(self: &Arc<Self>) -> Result<Arc<Session>, ServerError> {
        Ok(Arc::new(Session::new(Arc::clone(self))))
    }
}
