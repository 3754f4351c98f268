//! What all clients share: engine, tables, and the catalog that keeps them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::catalog::CatalogProviderList;
use mobula_execution::Engine;
use tokio::sync::MutexGuard;

use crate::ServerError;
use crate::catalog::{Catalog, DataDir};
use crate::loaded::LoadedTables;
use crate::plan_cache::PlanCache;
use crate::replay::Unusable;
use crate::session::Session;

/// An open database.
pub struct Database {
    engine: Arc<Engine>,
    catalogs: Arc<dyn CatalogProviderList>,
    catalog: Catalog,
    /// DDL is applied and stored as one step.
    ddl: tokio::sync::Mutex<()>,
    /// Rises with every change of what names mean.
    version: AtomicU64,
    plans: PlanCache,
    loaded: LoadedTables,
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
        let options = engine.options();
        let plans = PlanCache::new(options.plan_cache_max(), options.plan_cache_bytes());
        let dir = data_dir.as_ref().map(DataDir::path);
        let loaded = LoadedTables::open(options, dir, &catalog.locations()?)?;
        let database = Arc::new(Self {
            engine,
            catalogs,
            catalog,
            ddl: tokio::sync::Mutex::new(()),
            version: AtomicU64::new(0),
            plans,
            loaded,
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

    /// The right to change what names mean, of one statement at a time. What was planned
    /// before it is dropped is planned anew.
    pub(crate) async fn change(&self) -> Change<'_> {
        Change {
            version: &self.version,
            _one_at_a_time: self.ddl.lock().await,
        }
    }

    /// Read it before planning: what was planned when it was lower may be another plan now.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Names mean something else now.
    pub(crate) fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Statements that were planned.
    pub(crate) fn plans(&self) -> &PlanCache {
        &self.plans
    }

    /// Files of the rows that clients loaded.
    pub(crate) fn loaded(&self) -> &LoadedTables {
        &self.loaded
    }

    /// Removes loaded rows whose table the catalog has no more, once nobody reads them.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub(crate) fn let_go_of_loaded(&self) -> Result<(), ServerError> {
        if !self.loaded.is_empty() {
            self.loaded.retain(&self.catalog.locations()?);
        }
        Ok(())
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

/// See [`Database::change`]. A change that fails or is given up half way counts as one.
pub(crate) struct Change<'a> {
    version: &'a AtomicU64,
    _one_at_a_time: MutexGuard<'a, ()>,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.version.fetch_add(1, Ordering::Release);
    }
}
