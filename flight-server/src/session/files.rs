//! Where tables lie: local paths made absolute and checked, stores registered.
//!
//! Paths are resolved once, where the server runs, so that executors are told
//! the same absolute path; one that cannot read it says so by name.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, TableReference};
use datafusion::datasource::listing::{ListingTable, ListingTableUrl};
use datafusion::datasource::source_as_provider;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{CreateExternalTable, LogicalPlan};
use datafusion::sql::parser::Statement;
use futures::StreamExt;
use mobula_execution::{StoreSpec, WhileReading, classify, hidden_by_name};
use url::Url;

use super::file_calls::call_of;
use super::file_tables::is_path;
use crate::{Database, ServerError};

/// Prefix of the options that say how a store is reached.
const STORE_OPTIONS: &str = "aws.";

/// Object stores as they were before a statement that may change them.
pub struct StoresBefore(Vec<(String, Option<StoreSpec>)>);

impl StoresBefore {
    /// Notes those that `create` reads.
    pub fn of(database: &Database, create: &CreateExternalTable) -> Self {
        let stores = database.engine().object_stores();
        let urls = create.locations.iter().filter_map(|at| remote(at));
        let urls = urls.map(|url| store_url(&url));
        Self(urls.map(|url| (url.clone(), stores.known(&url))).collect())
    }

    /// Undoes what a failed statement did to them.
    pub fn put_back(self, database: &Database) {
        for (url, before) in self.0 {
            if let Err(error) = database.engine().object_stores().put_back(&url, before) {
                tracing::warn!(%error, "a store is not as it was");
            }
        }
    }
}

/// Makes the locations of `create` absolute, checks that they match files, and
/// takes the store's options out of the table's.
pub async fn prepare_locations(
    database: &Arc<Database>,
    state: &SessionState,
    create: &mut CreateExternalTable,
) -> Result<(), ServerError> {
    let (store, rest): (HashMap<_, _>, HashMap<_, _>) = std::mem::take(&mut create.options)
        .into_iter()
        .partition(|(key, _)| {
            let key = key.strip_prefix("format.").unwrap_or(key);
            key.starts_with(STORE_OPTIONS)
        });
    create.options = rest;
    let mut options: Vec<(String, String)> = store
        .into_iter()
        .map(|(key, value)| match key.strip_prefix("format.") {
            Some(short) => (short.to_owned(), value),
            None => (key, value),
        })
        .collect();
    options.sort();
    let scans = &state.config_options().execution;
    let ignore_subdirectory = scans.listing_table_ignore_subdirectory;
    // What columns a folder's files have is known without one.
    let may_be_empty = !create.schema.fields().is_empty();
    for location in std::mem::take(&mut create.locations) {
        if let Some(url) = remote(&location) {
            register(database, &url, options.clone())?;
            create.locations.push(location);
            continue;
        }
        let path = absolute(location.trim_start_matches("file://"))?;
        if may_be_empty && Path::new(&path).is_dir() {
            create.locations.push(path);
            continue;
        }
        if path.contains(['*', '?', '[']) && Path::new(&path).is_file() {
            // A file of that name, and no pattern: URLs are none.
            let url = Url::from_file_path(&path).map(String::from);
            create.locations.push(url.unwrap_or(path));
            continue;
        }
        let url = ListingTableUrl::parse(&path)?;
        let hidden = hidden_by_name(&url, ignore_subdirectory).await;
        match hidden.map_err(DataFusionError::from)? {
            Some(files) if !files.is_empty() => create.locations.extend(files),
            _ => {
                check_matches(state, &path).await?;
                create.locations.push(path);
            }
        }
    }
    Ok(())
}

/// Registers the stores of tables that a query names by URL.
pub fn register_stores(
    database: &Arc<Database>,
    names: &[TableReference],
    statement: &Statement,
) -> Result<(), ServerError> {
    for name in names {
        if let Some(url) = remote(name.table()) {
            register(database, &url, vec![])?;
        }
    }
    if let Statement::CopyTo(copy) = statement
        && let Some(url) = remote(&copy.target)
    {
        register(database, &url, vec![])?;
    }
    Ok(())
}

/// What is wrong with a file that a query names like a table; asked only when
/// planning failed.
pub async fn why_no_table(state: &SessionState, names: &[TableReference]) -> Option<ServerError> {
    for name in names.iter().map(TableReference::table) {
        if call_of(name).is_some() {
            continue;
        }
        let extension = Path::new(name).extension().and_then(|e| e.to_str());
        let known = |e: &str| state.get_file_format_factory(e).is_some();
        let is_path = name.contains('/') || extension.is_some_and(known);
        if !is_path || remote(name).is_some() {
            continue;
        }
        let path = absolute(name.trim_start_matches("file://")).ok()?;
        if let Err(error) = check_matches(state, &path).await {
            return Some(error);
        }
        if Path::new(&path).is_file() && !extension.is_some_and(known) {
            return Some(ServerError::NoFormat { location: path });
        }
    }
    None
}

/// The file that a query names like a table, if `error` is about its bytes.
pub fn damaged(names: &[TableReference], error: &ServerError) -> Option<ServerError> {
    let reason = match error {
        ServerError::Panic { text } => text.clone(),
        ServerError::Query(e) => match e.find_root() {
            DataFusionError::ParquetError(_) | DataFusionError::ArrowError(..) => {
                classify(e).message
            }
            _ => return None,
        },
        _ => return None,
    };
    let mut paths = names.iter().map(TableReference::table);
    let location = paths.find(|name| name.contains('/') || Path::new(name).exists())?;
    let location = call_of(location).map_or_else(|| location.to_owned(), |call| call.shown());
    Some(ServerError::Unreadable { location, reason })
}

/// Fails when a local file or directory that `plan` reads is gone: DataFusion
/// would take it for one without rows.
pub fn check_present(plan: &LogicalPlan) -> Result<(), ServerError> {
    let mut gone = None;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && let Some(table) = provider.downcast_ref::<ListingTable>()
        {
            let local = table.table_paths().iter();
            let local = local.filter(|url| url.scheme() == "file" && url.get_glob().is_none());
            let mut paths = local.filter_map(|url| url.get_url().to_file_path().ok());
            gone = paths.find(|path| !path.exists());
        }
        Ok(match gone {
            Some(_) => TreeNodeRecursion::Stop,
            None => TreeNodeRecursion::Continue,
        })
    })?;
    match gone {
        Some(path) => Err(ServerError::NoFiles {
            location: path.to_string_lossy().into_owned(),
        }),
        None => Ok(()),
    }
}

/// `error`, with the tables of `plan` if it is about the bytes of their files.
pub fn while_reading(plan: &LogicalPlan, error: DataFusionError) -> DataFusionError {
    const ABOUT_BYTES: [&str; 4] = [
        "cannot read Parquet",
        "Csv error",
        "Json error",
        "Parser error: Error while parsing value",
    ];
    let message = classify(&error).message;
    if !ABOUT_BYTES.iter().any(|start| message.starts_with(start)) {
        return error;
    }
    let mut tables = vec![];
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && let Some(table) = provider.downcast_ref::<ListingTable>()
        {
            let at: Vec<_> = table.table_paths().iter().map(location_of).collect();
            let (name, at) = (scan.table_name.table(), at.join(", "));
            tables.push(match at == name || call_of(name).is_some() {
                true => format!("\"{at}\""),
                false => format!("table \"{name}\" at {at}"),
            });
        }
        Ok(TreeNodeRecursion::Continue)
    });
    tables.dedup();
    if visited.is_err() || tables.is_empty() {
        return error;
    }
    DataFusionError::External(Box::new(WhileReading {
        tables: tables.join(" or "),
        source: error,
    }))
}

/// A local path, or a URL.
fn location_of(url: &ListingTableUrl) -> String {
    match url.get_url().to_file_path() {
        Ok(path) => path.to_string_lossy().into_owned(),
        Err(()) => url.as_str().to_owned(),
    }
}

/// COPY writes into directories that do not exist yet. One that takes no files, as those of
/// `/proc`, is told here: what writes would try to make it again and again.
pub fn make_parent(plan: &LogicalPlan) -> Result<(), ServerError> {
    let LogicalPlan::Copy(copy) = plan else {
        return Ok(());
    };
    if remote(&copy.output_url).is_some() {
        return Ok(());
    }
    let path = PathBuf::from(copy.output_url.trim_start_matches("file://"));
    let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) else {
        return Ok(());
    };
    std::fs::create_dir_all(parent).map_err(|source| ServerError::File {
        deed: "make the directory",
        path: parent.to_path_buf(),
        source,
    })?;
    let directory = if path.is_dir() { &path } else { parent };
    tempfile::tempfile_in(directory)
        .map(drop)
        .map_err(|source| ServerError::File {
            deed: "write",
            path: path.clone(),
            source,
        })
}

/// True for a name that is no path, and still a folder's where the server runs.
pub fn is_folder(name: &str) -> bool {
    !is_path(name) && Path::new(name).is_dir()
}

/// True for a name that is the URL of a file elsewhere.
pub fn is_remote(name: &TableReference) -> bool {
    remote(name.table()).is_some()
}

/// The URL of a location that is not a local path.
fn remote(location: &str) -> Option<Url> {
    if !location.contains("://") {
        return None;
    }
    let url = Url::parse(location).ok()?;
    (url.scheme() != "file").then_some(url)
}

fn register(
    database: &Arc<Database>,
    url: &Url,
    options: Vec<(String, String)>,
) -> Result<(), ServerError> {
    // A question mark starts a query there.
    if url.path().contains(['*', '[']) {
        return Err(ServerError::RemotePattern {
            location: url.to_string(),
        });
    }
    let stores = database.engine().object_stores();
    let url = store_url(url);
    match options.is_empty() {
        true => stores.ensure(url)?,
        false => stores.register(StoreSpec { url, options })?,
    }
    Ok(())
}

/// The store that holds the file at `url`.
fn store_url(url: &Url) -> String {
    format!("{}://{}", url.scheme(), url.authority())
}

/// `location` from the root, without `.` and `..`; a trailing slash stays.
fn absolute(location: &str) -> Result<String, ServerError> {
    let joined = std::path::absolute(location).map_err(|source| ServerError::File {
        deed: "resolve",
        path: PathBuf::from(location),
        source,
    })?;
    let mut clean = PathBuf::new();
    for part in joined.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    let mut text = clean.to_string_lossy().into_owned();
    let wants_slash = location.ends_with('/') || Path::new(&text).is_dir();
    if wants_slash && !text.ends_with('/') {
        text.push('/');
    }
    Ok(text)
}

/// Fails when a local location matches no file.
async fn check_matches(state: &SessionState, path: &str) -> Result<(), ServerError> {
    let found = Path::new(path);
    let has_files = if found.is_dir() {
        std::fs::read_dir(found).is_ok_and(|mut entries| entries.next().is_some())
    } else {
        found.exists() || (path.contains(['*', '?', '[']) && matches_any(state, path).await?)
    };
    match has_files {
        true => Ok(()),
        false => Err(ServerError::NoFiles {
            location: path.to_owned(),
        }),
    }
}

async fn matches_any(state: &SessionState, pattern: &str) -> Result<bool, ServerError> {
    let url = ListingTableUrl::parse(pattern)?;
    let store = state.runtime_env().object_store(&url)?;
    let mut files = url.list_all_files(state, store.as_ref(), "").await?;
    // A directory that is not there has no files either.
    Ok(matches!(files.next().await, Some(Ok(_))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_become_absolute_and_keep_their_shape() {
        let here = std::env::current_dir().unwrap();
        let here = here.to_string_lossy();
        assert_eq!(
            absolute("a/../b.parquet").unwrap(),
            format!("{here}/b.parquet")
        );
        assert_eq!(absolute("/x/./y/").unwrap(), "/x/y/");
        assert_eq!(absolute("/x/*.parquet").unwrap(), "/x/*.parquet");
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().to_str().unwrap();
        assert_eq!(absolute(text).unwrap(), format!("{text}/"));
    }

    #[test]
    fn only_known_schemes_are_remote() {
        assert!(remote("s3://bucket/x").is_some());
        assert!(remote("https://host/x.csv").is_some());
        assert!(remote("/data/x").is_none());
        assert!(remote("c:/x").is_none());
    }
}
