//! `mobula serve --embedded DIR`: a server for the one program that started it.
//!
//! That program made DIR, which only it can read, with a secret in DIR/token, and keeps what
//! it hands over by file there. It holds the other end of our standard input: when that
//! closes, it is gone, killed perhaps, and the server ends and takes DIR with it.

use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt;

use crate::ServerError;
use crate::service::Entry;

/// Shortest secret, in bytes.
const SECRET_BYTES_MIN: usize = 32;

/// The directory of the program that started this one. Dropping it removes the directory.
pub struct Embedded {
    dir: PathBuf,
    secret: String,
}

impl Embedded {
    /// Reads the secret of `dir`, which is ours to remove from then on.
    ///
    /// # Errors
    /// There is none, or it is too short.
    pub fn take(dir: &Path) -> Result<Self, ServerError> {
        let path = dir.join("token");
        let refused = |message: String| ServerError::Setting {
            source_name: "--embedded".to_owned(),
            message,
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|error| refused(format!("cannot read {}: {error}", path.display())))?;
        let secret = text.trim().to_owned();
        if secret.len() < SECRET_BYTES_MIN {
            let path = path.display();
            let problem = format!("{path} has fewer than {SECRET_BYTES_MIN} characters");
            return Err(refused(problem));
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            secret,
        })
    }

    /// Who may call.
    pub fn entry(&self) -> Entry {
        Entry::guarded(&self.secret)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %self.dir.display(), %error, "cannot remove it");
        }
    }
}

/// Completes when standard input closes: whoever started us is gone.
pub async fn parent_gone() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0; 64];
    while matches!(stdin.read(&mut buffer).await, Ok(n) if n > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_goes_with_the_server() {
        let dir = tempfile::tempdir().unwrap().keep();
        assert!(Embedded::take(&dir).is_err());
        std::fs::write(dir.join("token"), "short").unwrap();
        assert!(Embedded::take(&dir).is_err());
        std::fs::write(dir.join("token"), "x".repeat(SECRET_BYTES_MIN)).unwrap();
        let embedded = Embedded::take(&dir).unwrap();
        assert!(dir.exists());
        drop(embedded);
        assert!(!dir.exists());
    }
}
