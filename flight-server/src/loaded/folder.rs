//! One folder of Parquet files, removed when nobody has it any more, unless it is kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::ServerError;

/// A folder. Whoever reads its files has it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: Mutex<PathBuf>,
    is_doomed: AtomicBool,
}

impl Folder {
    /// Makes it; it goes when it is dropped, until it is renamed.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn make(path: PathBuf) -> Result<Self, ServerError> {
        fs::create_dir(&path).map_err(|source| failed("make the directory", &path, source))?;
        Ok(Self {
            path: Mutex::new(path),
            is_doomed: AtomicBool::new(true),
        })
    }

    /// One of an earlier process, which stays.
    pub(super) fn found(path: PathBuf) -> Self {
        Self {
            path: Mutex::new(path),
            is_doomed: AtomicBool::new(false),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.path.lock().clone()
    }

    /// As `CREATE EXTERNAL TABLE` names it.
    pub fn location(&self) -> String {
        format!("{}/", self.path.lock().display())
    }

    /// From now on it is `path`, and stays.
    pub(super) fn rename(&self, path: PathBuf) -> Result<(), ServerError> {
        let mut before = self.path.lock();
        fs::rename(&*before, &path).map_err(|source| failed("rename", &before, source))?;
        *before = path;
        self.is_doomed.store(false, Ordering::Release);
        Ok(())
    }

    /// It goes when nobody has it any more.
    pub fn doom(&self) {
        self.is_doomed.store(true, Ordering::Release);
    }

    /// Moves `file` in, as a whole.
    ///
    /// # Errors
    /// It cannot be moved.
    pub fn take(&self, file: &Path) -> Result<(), ServerError> {
        let name = format!("{}.parquet", uuid::Uuid::new_v4().simple());
        let target = self.path.lock().join(name);
        fs::rename(file, &target).map_err(|source| failed("write", &target, source))
    }

    /// As after a kill: it lies there, and nobody knows.
    #[cfg(test)]
    pub fn leave(&self) -> PathBuf {
        self.is_doomed.store(false, Ordering::Release);
        self.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !*self.is_doomed.get_mut() {
            return;
        }
        let path = self.path.get_mut();
        if let Err(error) = fs::remove_dir_all(&*path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove loaded rows");
        }
    }
}

fn failed(deed: &'static str, path: &Path, source: io::Error) -> ServerError {
    ServerError::File {
        deed,
        path: path.to_path_buf(),
        source,
    }
}
