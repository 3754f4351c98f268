//! The cluster token: the secret that coordinator and executors share.
//!
//! Whoever holds it may hand plans and functions to every process of the
//! cluster, so it lives in a file that only its owner may read, is compared in
//! constant time and never appears in a log, an error or a process list.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::ExecutionError;

/// Shortest token accepted from a file, in bytes.
const MIN_LEN: usize = 16;

/// A shared secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterToken(String);

impl fmt::Debug for ClusterToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterToken(…)")
    }
}

impl ClusterToken {
    /// A fresh random token (two version 4 UUIDs: 244 random bits).
    pub fn generate() -> Self {
        let (a, b) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        Self(format!("{}{}", a.simple(), b.simple()))
    }

    /// Reads the token of `path`.
    ///
    /// # Errors
    /// [`ExecutionError::TokenFile`] when the file cannot be read or holds no
    /// usable token.
    pub fn read(path: &Path) -> Result<Self, ExecutionError> {
        let text = fs::read_to_string(path).map_err(|source| ExecutionError::TokenFile {
            path: path.to_path_buf(),
            source,
        })?;
        let token = text.trim();
        let usable = token.len() >= MIN_LEN && token.bytes().all(|b| b.is_ascii_graphic());
        if !usable {
            return Err(ExecutionError::TokenFile {
                path: path.to_path_buf(),
                source: io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("a token is at least {MIN_LEN} printable ASCII characters"),
                ),
            });
        }
        Ok(Self(token.to_owned()))
    }

    /// Reads `path`, or makes it with a fresh token (mode 0600) if absent.
    ///
    /// # Errors
    /// As [`ClusterToken::read`], and when the file cannot be made.
    pub fn read_or_create(path: &Path) -> Result<Self, ExecutionError> {
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        match made {
            Ok(mut file) => {
                let token = Self::generate();
                writeln!(file, "{}", token.0).map_err(|source| ExecutionError::TokenFile {
                    path: path.to_path_buf(),
                    source,
                })?;
                Ok(token)
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Self::read(path),
            Err(source) => Err(ExecutionError::TokenFile {
                path: path.to_path_buf(),
                source,
            }),
        }
    }

    /// The value of the `authorization` header.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// True when `header` is this token's bearer value. Takes the same time
    /// wherever the first difference lies.
    pub(crate) fn admits(&self, header: &[u8]) -> bool {
        let expected = self.bearer();
        let expected = expected.as_bytes();
        let same_len = expected.len() == header.len();
        let diff = expected
            .iter()
            .zip(header.iter().chain(std::iter::repeat(&0)))
            .fold(0u8, |acc, (a, b)| acc | (a ^ b));
        same_len && diff == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn made_once_with_tight_mode_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster-token");
        let made = ClusterToken::read_or_create(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(ClusterToken::read_or_create(&path).unwrap(), made);
        assert_eq!(ClusterToken::read(&path).unwrap(), made);
    }

    #[test]
    fn admits_only_the_exact_bearer_value() {
        let token = ClusterToken::generate();
        assert!(token.admits(token.bearer().as_bytes()));
        for wrong in ["", "Bearer ", "Bearer x", &token.bearer()[7..]] {
            assert!(!token.admits(wrong.as_bytes()), "{wrong}");
        }
        let longer = format!("{}x", token.bearer());
        assert!(!token.admits(longer.as_bytes()));
        assert!(!token.admits(ClusterToken::generate().bearer().as_bytes()));
    }

    #[test]
    fn a_short_or_missing_token_is_refused_by_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        assert!(
            ClusterToken::read(&path)
                .unwrap_err()
                .to_string()
                .contains("/t")
        );
        fs::write(&path, "short").unwrap();
        assert!(ClusterToken::read(&path).is_err());
    }
}
