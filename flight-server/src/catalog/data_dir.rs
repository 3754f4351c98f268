//! The directory that belongs to one process at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::ServerError;

/// A data directory held by this process; released when dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: File,
    /// The process that took it.
    taken_by: u32,
}

impl DataDir {
    /// Makes `path` if absent and takes it.
    ///
    /// # Errors
    /// [`ServerError::DataDirInUse`] naming the process that has it.
    pub fn take(path: &Path) -> Result<Self, ServerError> {
        let file_error = |deed| {
            move |source| ServerError::File {
                deed,
                path: path.to_path_buf(),
                source,
            }
        };
        if path.exists() && !path.is_dir() {
            return Err(ServerError::DataDirIsFile { path: path.into() });
        }
        fs::create_dir_all(path).map_err(file_error("make the data directory"))?;
        let path = path
            .canonicalize()
            .map_err(file_error("find the data directory"))?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(file_error("lock the data directory"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            let _ = lock.read_to_string(&mut pid);
            return Err(ServerError::DataDirInUse {
                path,
                pid: pid.trim().to_owned(),
            });
        }
        let taken_by = std::process::id();
        let noted = lock
            .set_len(0)
            .and_then(|()| lock.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(lock, "{taken_by}"));
        noted.map_err(file_error("lock the data directory"))?;
        Ok(Self {
            path,
            lock,
            taken_by,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DataDir {
    /// Closing the file is not enough: a process that is being started has it, too, until it runs
    /// its program, and would hold the directory meanwhile. A copy of this process that drops what
    /// it was born with does not free what its parent holds.
    fn drop(&mut self) {
        if std::process::id() == self.taken_by {
            let _ = flock(&self.lock, FlockOperation::Unlock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_no_data_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = DataDir::take(file.path()).unwrap_err().to_string();
        assert!(text.contains("is a file"), "{text}");
    }

    #[test]
    fn a_second_taker_is_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::take(&dir.path().join("d")).unwrap();
        let text = DataDir::take(held.path()).unwrap_err().to_string();
        assert!(text.contains(&std::process::id().to_string()), "{text}");
        let path = held.path().to_path_buf();
        drop(held);
        DataDir::take(&path).unwrap();
    }

    #[test]
    fn who_inherited_the_file_does_not_hold_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::take(&dir.path().join("d")).unwrap();
        let (path, inherited) = (held.path().to_path_buf(), held.lock.try_clone().unwrap());
        drop(held);
        DataDir::take(&path).unwrap();
        drop(inherited);
    }
}
