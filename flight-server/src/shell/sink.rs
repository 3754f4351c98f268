//! Where results go: the terminal, a pager, or a file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use indicatif::ProgressBar;

use super::unwritable;
use crate::ServerError;

/// What long results are read with where `$PAGER` says nothing: leaves by itself if all
/// fits, does not cut lines, and leaves them on the screen.
const PAGER: [&str; 2] = ["less", "-FRSX"];

/// A file that results are written to, one after the other.
pub struct Target {
    path: PathBuf,
    file: File,
}

impl Target {
    /// Begins the file anew.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(path: &Path) -> Result<Self, ServerError> {
        let file = File::create(path).map_err(unwritable(path))?;
        let path = path.to_path_buf();
        Ok(Self { path, file })
    }
}

/// Where one result goes. Not locked: it lives across awaits.
pub enum Sink {
    Terminal {
        out: BufWriter<io::Stdout>,
        /// The line that makes way for what is written.
        progress: Option<ProgressBar>,
    },
    File(BufWriter<File>),
    Pager {
        child: Child,
        input: Option<BufWriter<ChildStdin>>,
        progress: Option<ProgressBar>,
    },
}

impl Sink {
    /// # Errors
    /// The file is gone, or the pager cannot be started.
    pub fn new(
        target: Option<&Target>,
        pages: bool,
        progress: Option<ProgressBar>,
    ) -> Result<Self, ServerError> {
        if let Some(target) = target {
            let file = target.file.try_clone().map_err(unwritable(&target.path))?;
            return Ok(Self::File(BufWriter::new(file)));
        }
        if !pages {
            let out = BufWriter::new(io::stdout());
            return Ok(Self::Terminal { out, progress });
        }
        let mut child = pager().stdin(Stdio::piped()).spawn().map_err(|error| {
            let why = format!("the pager cannot be started ({error}). Set PAGER, or \\pager off");
            ServerError::Output(io::Error::other(why))
        })?;
        let input = child.stdin.take().map(BufWriter::new);
        Ok(Self::Pager {
            child,
            input,
            progress,
        })
    }

    /// Waits until a pager has been left; what went wrong unless its user had enough.
    ///
    /// # Errors
    /// What `written` was.
    pub fn end<T>(mut self, written: Result<T, ServerError>) -> Result<Option<T>, ServerError> {
        let is_pager = matches!(self, Self::Pager { .. });
        self.leave();
        match written {
            Err(ServerError::Output(e)) if is_pager && e.kind() == io::ErrorKind::BrokenPipe => {
                Ok(None)
            }
            written => written.map(Some),
        }
    }

    /// Waits for a pager, which sees the end of its text.
    fn leave(&mut self) {
        if let Self::Pager { child, input, .. } = self {
            drop(input.take());
            let _ = child.wait();
        }
    }
}

impl Drop for Sink {
    /// Of a statement that was cancelled too: two programs cannot read one terminal.
    fn drop(&mut self) {
        self.leave();
    }
}

/// The user's, run by a shell as others do, or ours.
fn pager() -> Command {
    let own = std::env::var("PAGER")
        .ok()
        .filter(|pager| !pager.trim().is_empty());
    match own {
        Some(pager) => {
            let mut command = Command::new("sh");
            command.args(["-c", &pager]);
            command
        }
        None => {
            let mut command = Command::new(PAGER[0]);
            command.arg(PAGER[1]);
            command
        }
    }
}

impl Write for Sink {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match self {
            Self::Terminal { out, progress } => {
                hide(progress);
                out.write(text)
            }
            Self::File(file) => file.write(text),
            Self::Pager {
                input, progress, ..
            } => {
                hide(progress);
                match input {
                    Some(input) => input.write(text),
                    None => Err(io::ErrorKind::BrokenPipe.into()),
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Terminal { out, .. } => out.flush(),
            Self::File(file) => file.flush(),
            Self::Pager { input, .. } => input.as_mut().map_or(Ok(()), Write::flush),
        }
    }
}

fn hide(progress: &mut Option<ProgressBar>) {
    if let Some(bar) = progress.take() {
        bar.finish_and_clear();
    }
}
