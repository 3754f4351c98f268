//! Files that a query names in place of a table: `FROM 'dir/*.parquet'`.
//!
//! Only what looks like a path: an unknown name is no table, also where a folder of that name
//! happens to be where the server runs.

use std::sync::Arc;

use datafusion::catalog::{DynamicFileCatalog, TableProvider, UrlTableFactory};
use datafusion::common::Result;
use datafusion::datasource::dynamic_file::DynamicListTableFactory;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionContext;

/// A context over `state` whose queries read files.
pub fn context(state: SessionState) -> SessionContext {
    let files = Arc::new(FilesByPath(
        DynamicListTableFactory::new(Default::default()),
    ));
    let tables = Arc::clone(state.catalog_list());
    let both = DynamicFileCatalog::new(tables, Arc::clone(&files) as Arc<dyn UrlTableFactory>);
    let session_id = state.session_id().to_owned();
    let state = SessionStateBuilder::new_from_existing(state)
        .with_session_id(session_id)
        .with_catalog_list(Arc::new(both))
        .build();
    let context = SessionContext::new_with_state(state);
    files.0.session_store().with_state(context.state_weak_ref());
    context
}

/// Whether `name` can be that of files.
pub fn is_path(name: &str) -> bool {
    name.contains(['/', '.', '*', '?', '\\'])
}

/// Finds what looks like a path.
#[derive(Debug)]
struct FilesByPath(DynamicListTableFactory);

#[tonic::async_trait]
impl UrlTableFactory for FilesByPath {
    async fn try_new(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        match is_path(name) {
            true => self.0.try_new(name).await,
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
