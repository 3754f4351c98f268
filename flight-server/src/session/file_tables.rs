//! Files that a query names in place of a table: `FROM 'dir/*.parquet'`.
//!
//! Only what looks like a path: an unknown name is no table, also where a folder of that name
//! happens to be where the server runs.

use std::sync::{Arc, Weak};

use datafusion::catalog::{DynamicFileCatalog, TableProvider, UrlTableFactory};
use datafusion::common::{Result, plan_datafusion_err};
use datafusion::datasource::dynamic_file::DynamicListTableFactory;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionContext;

use super::file_calls::call_of;
use crate::Database;

/// A context over `state` whose queries read files.
pub fn context(state: SessionState, database: &Arc<Database>) -> SessionContext {
    let files = Arc::new(FilesByPath {
        plain: DynamicListTableFactory::new(Default::default()),
        database: Arc::downgrade(database),
    });
    let tables = Arc::clone(state.catalog_list());
    let both = DynamicFileCatalog::new(tables, Arc::clone(&files) as Arc<dyn UrlTableFactory>);
    let session_id = state.session_id().to_owned();
    let state = SessionStateBuilder::new_from_existing(state)
        .with_session_id(session_id)
        .with_catalog_list(Arc::new(both))
        .build();
    let context = SessionContext::new_with_state(state);
    files
        .plain
        .session_store()
        .with_state(context.state_weak_ref());
    context
}

/// Whether `name` can be that of files.
pub fn is_path(name: &str) -> bool {
    name.contains(['/', '.', '*', '?', '\\'])
}

/// Finds what looks like a path, and what a call of a reader was named.
#[derive(Debug)]
struct FilesByPath {
    plain: DynamicListTableFactory,
    database: Weak<Database>,
}

impl FilesByPath {
    fn state(&self) -> Option<SessionState> {
        let session = self.plain.session_store().get_session().upgrade()?;
        let session = session.read();
        session.as_any().downcast_ref::<SessionState>().cloned()
    }
}

#[tonic::async_trait]
impl UrlTableFactory for FilesByPath {
    async fn try_new(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if let Some(call) = call_of(name) {
            let (state, database) = (self.state(), self.database.upgrade());
            let (Some(state), Some(database)) = (state, database) else {
                return Err(plan_datafusion_err!("the session is over"));
            };
            return call.table(&database, &state).await.map(Some);
        }
        match is_path(name) {
            true => self.plain.try_new(name).await,
            false => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths() {
        for name in ["data", "Data Of 2024", "a-b"] {
            assert!(!is_path(name), "{name}");
        }
        for path in ["data/", "./data", "..", "x.csv", "/x", "*", "s3://bucket/x"] {
            assert!(is_path(path), "{path}");
        }
    }
}
