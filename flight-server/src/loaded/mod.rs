//! Rows that clients sent, in files that the server owns: a folder of Parquet for each table.
//!
//! They lie below one directory, `loaded_dir`, which executors read at the same path. The name
//! of a folder says what becomes of it: `table-…` is of a table of the catalog, all else ends
//! with the process at the latest; what a killed one left goes when the next one opens the
//! directory. A catalog in memory has a directory of its own, which goes with it.
//!
//! Invariants: a folder is read only once all its rows are there; it is removed when nothing
//! names it any more and the last query over it has ended. `session/load.rs` fills it,
//! `session/temporary.rs` holds those of sessions.

mod folder;
mod writer;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::ListingTable;
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::LogicalPlan;
use mobula_plan::MobulaOptions;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) use folder::Folder;
pub(crate) use writer::RowsWriter;

use crate::ServerError;
use crate::catalog::DataDir;

/// Begins the names of folders of tables that the catalog has.
const OF_CATALOG: &str = "table-";
/// Begins the names of all others.
const PASSING: &str = "passing-";

/// Where the directory is.
enum Place {
    /// It is kept. Held, so that no other process takes its folders for leftovers.
    Kept { dir: PathBuf, _held: DataDir },
    /// It is made, below the path if there is one, when the first rows come.
    Passing {
        within: Option<PathBuf>,
        made: Mutex<Option<TempDir>>,
    },
}

/// The folders of a database.
pub(crate) struct LoadedTables {
    place: Place,
    bytes_max: u64,
    loads: Arc<Semaphore>,
    loads_max: usize,
    /// All that are there, by path.
    folders: Mutex<HashMap<PathBuf, Weak<Folder>>>,
    /// Those of the catalog's tables.
    kept: Mutex<Vec<Arc<Folder>>>,
}

impl LoadedTables {
    /// Takes the directory; folders that nobody has any more go. `locations` are those of the
    /// catalog's tables.
    ///
    /// # Errors
    /// It cannot be made, or another process has it.
    pub fn open(
        options: &MobulaOptions,
        data_dir: Option<&Path>,
        locations: &[String],
    ) -> Result<Self, ServerError> {
        let chosen = options.loaded_dir().map(Path::to_path_buf);
        let place = match data_dir {
            Some(data_dir) => {
                let dir = chosen.clone().unwrap_or_else(|| data_dir.join("loaded"));
                let held = DataDir::take(&dir)?;
                let dir = held.path().to_path_buf();
                Place::Kept { dir, _held: held }
            }
            None => Place::Passing {
                within: chosen.clone(),
                made: Mutex::new(None),
            },
        };
        let loads_max = options.loads_max();
        let opened = Self {
            place,
            bytes_max: options.loaded_bytes_max() as u64,
            loads: Arc::new(Semaphore::new(loads_max)),
            loads_max,
            folders: Mutex::default(),
            kept: Mutex::default(),
        };
        if let Place::Kept { dir, .. } = &opened.place {
            opened.take_over(dir, locations, chosen.is_none())?;
        }
        Ok(opened)
    }

    /// Finds the folders of an earlier process. `is_alone`: no other catalog can have some.
    fn take_over(
        &self,
        dir: &Path,
        locations: &[String],
        is_alone: bool,
    ) -> Result<(), ServerError> {
        let failed = |source| ServerError::File {
            deed: "read the directory",
            path: dir.to_path_buf(),
            source,
        };
        for entry in fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.unwrap_or_default();
            let is_named = names(locations, &path);
            let folder = || Arc::new(Folder::found(path.clone()));
            if name.starts_with(OF_CATALOG) && is_named {
                let folder = folder();
                self.list(&folder);
                self.kept.lock().push(folder);
            } else if name.starts_with(PASSING) || (name.starts_with(OF_CATALOG) && is_alone) {
                folder().doom();
            }
        }
        Ok(())
    }

    /// The right to one load, of `loads_max`.
    ///
    /// # Errors
    /// All are taken.
    pub fn permit(&self) -> Result<OwnedSemaphorePermit, ServerError> {
        let permit = Arc::clone(&self.loads).try_acquire_owned();
        permit.map_err(|_| ServerError::ManyLoads {
            most: self.loads_max,
        })
    }

    /// A folder that goes when it is dropped, until it is [kept](Self::keep).
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new_folder(&self) -> Result<Arc<Folder>, ServerError> {
        let name = format!("{PASSING}{}", uuid::Uuid::new_v4().simple());
        let folder = Arc::new(Folder::make(self.dir()?.join(name))?);
        self.list(&folder);
        Ok(folder)
    }

    /// Gives `folder` the name of one that a restart finds again.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn keep(&self, folder: &Arc<Folder>) -> Result<(), ServerError> {
        let before = folder.path();
        let name = before.file_name().and_then(|name| name.to_str());
        let name = name.unwrap_or_default().replacen(PASSING, OF_CATALOG, 1);
        folder.rename(before.with_file_name(name))?;
        self.folders.lock().remove(&before);
        self.list(folder);
        self.kept.lock().push(Arc::clone(folder));
        Ok(())
    }

    /// Lets go of folders that no table of the catalog has any more: `locations` are those of
    /// its tables.
    pub fn retain(&self, locations: &[String]) {
        let gone: Vec<_> = {
            let mut kept = self.kept.lock();
            let (stays, gone) = kept.drain(..).partition(|f| names(locations, &f.path()));
            *kept = stays;
            gone
        };
        for folder in gone {
            folder.doom();
        }
    }

    /// True when no table of the catalog has a folder here.
    pub fn is_empty(&self) -> bool {
        self.kept.lock().is_empty()
    }

    /// The folder that `table` reads, if it is one of ours.
    pub fn of(&self, table: &dyn TableProvider) -> Option<Arc<Folder>> {
        let table = table.downcast_ref::<ListingTable>()?;
        let url = table.table_paths().first()?.get_url();
        let path = url.to_file_path().ok()?;
        self.folders.lock().get(&path).and_then(Weak::upgrade)
    }

    /// The folders that `plan` reads: whoever has them keeps their files.
    ///
    /// # Errors
    /// The plan cannot be walked.
    pub fn read_by(&self, plan: &LogicalPlan) -> Result<Vec<Arc<Folder>>, ServerError> {
        let mut found = vec![];
        if self.folders.lock().is_empty() {
            return Ok(found);
        }
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node
                && let Ok(provider) = source_as_provider(&scan.source)
            {
                found.extend(self.of(provider.as_ref()));
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(found)
    }

    /// Fails when the files are more than `loaded_bytes_max`. It looks at what lies there, so
    /// that what INSERT wrote counts too.
    ///
    /// # Errors
    /// [`ServerError::LoadedBytes`].
    pub fn check_room(&self) -> Result<(), ServerError> {
        match bytes_below(&self.dir()?) > self.bytes_max {
            true => Err(ServerError::LoadedBytes {
                most: self.bytes_max,
            }),
            false => Ok(()),
        }
    }

    /// Removes the directory of a catalog in memory: the process ends, and whoever still has a
    /// folder may not come to its end.
    pub fn close(&self) {
        if let Place::Passing { made, .. } = &self.place
            && let Some(dir) = made.lock().take()
            && let Err(error) = dir.close()
        {
            tracing::warn!(%error, "cannot remove loaded rows");
        }
    }

    fn list(&self, folder: &Arc<Folder>) {
        let mut folders = self.folders.lock();
        folders.retain(|_, folder| folder.strong_count() > 0);
        folders.insert(folder.path(), Arc::downgrade(folder));
    }

    fn dir(&self) -> Result<PathBuf, ServerError> {
        let (within, made) = match &self.place {
            Place::Kept { dir, .. } => return Ok(dir.clone()),
            Place::Passing { within, made } => (within, made),
        };
        let mut made = made.lock();
        if let Some(dir) = made.as_ref() {
            return Ok(dir.path().to_path_buf());
        }
        let within = within.clone().unwrap_or_else(std::env::temp_dir);
        let new = std::path::absolute(&within).and_then(|within| {
            fs::create_dir_all(&within)?;
            let within = within.canonicalize()?;
            tempfile::Builder::new()
                .prefix("mobula-loaded-")
                .tempdir_in(within)
        });
        let new = new.map_err(|source| ServerError::File {
            deed: "make a directory in",
            path: within,
            source,
        })?;
        Ok(made.insert(new).path().to_path_buf())
    }
}

/// Whether one of `locations` is `folder`.
fn names(locations: &[String], folder: &Path) -> bool {
    let mut locations = locations.iter();
    locations.any(|location| Path::new(location.trim_end_matches('/')) == folder)
}

/// Of the files below `dir`; what goes meanwhile does not count.
fn bytes_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_below(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_go_and_tables_stay() {
        let dir = tempfile::tempdir().unwrap();
        let options = MobulaOptions::default();
        let open = |locations: &[String]| {
            LoadedTables::open(&options, Some(dir.path()), locations).unwrap()
        };
        let loaded = open(&[]);
        let (kept, lost) = (loaded.new_folder().unwrap(), loaded.new_folder().unwrap());
        loaded.keep(&kept).unwrap();
        loaded.keep(&lost).unwrap();
        let passing = loaded.new_folder().unwrap();
        let (kept, lost, passing) = (kept.path(), lost.path(), passing.leave());
        drop(loaded);
        assert!(kept.exists() && lost.exists() && passing.exists());
        let location = format!("{}/", kept.display());
        let again = open(std::slice::from_ref(&location));
        assert!(kept.exists() && !lost.exists() && !passing.exists());
        again.retain(&[location]);
        assert!(kept.exists() && !again.is_empty());
        again.retain(&[]);
        assert!(!kept.exists() && again.is_empty());
    }

    #[test]
    fn a_directory_without_catalog_goes_with_the_process() {
        let within = tempfile::tempdir().unwrap();
        let mut options = MobulaOptions::default();
        let text = within.path().to_str().unwrap();
        options.set_value("loaded_dir", text).unwrap();
        let loaded = LoadedTables::open(&options, None, &[]).unwrap();
        let folder = loaded.new_folder().unwrap();
        assert!(folder.path().starts_with(within.path()) && folder.path().is_dir());
        drop((folder, loaded));
        assert_eq!(fs::read_dir(within.path()).unwrap().count(), 0);
    }

    #[test]
    fn loads_at_a_time_have_a_limit() {
        let mut options = MobulaOptions::default();
        options.set_value("loads_max", "1").unwrap();
        let loaded = LoadedTables::open(&options, None, &[]).unwrap();
        let first = loaded.permit().unwrap();
        let text = loaded.permit().unwrap_err().to_string();
        assert!(text.contains("mobula.loads_max"), "{text}");
        drop(first);
        drop(loaded.permit().unwrap());
    }
}
