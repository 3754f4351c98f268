//! Executor processes on this machine, started and ended by this process.
//!
//! The same binary and the same code path as a cluster. Each child holds the
//! reading end of a pipe as its standard input and ends when that closes, so
//! that none outlives us, even if we are killed.

use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::ExecutionError;

/// Children are waited for so long when they are asked to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Started executors; dropping ends them.
#[derive(Debug)]
pub struct LocalExecutors {
    children: Vec<(Child, Option<ChildStdin>)>,
}

impl LocalExecutors {
    /// Starts `program executor …` once for each of `args`, which are its own. Does not
    /// wait until they have registered (the coordinator knows that).
    ///
    /// # Errors
    /// [`ExecutionError::StartExecutor`]; those already started are ended.
    pub fn start(
        program: &Path,
        coordinator: &str,
        token_file: &Path,
        args: &[Vec<String>],
    ) -> Result<Self, ExecutionError> {
        let mut started = Self {
            children: Vec::with_capacity(args.len()),
        };
        for (idx, args) in args.iter().enumerate() {
            let child = Command::new(program)
                .arg("executor")
                .args(["--coordinator", coordinator])
                .arg("--cluster-token-file")
                .arg(token_file)
                .args(["--listen", "127.0.0.1:0"])
                .args(["--id", &format!("local-{idx}")])
                .arg("--exit-with-stdin")
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .map_err(|source| ExecutionError::StartExecutor {
                    program: program.to_path_buf(),
                    source,
                })?;
            started.push(child);
        }
        Ok(started)
    }

    fn push(&mut self, mut child: Child) {
        let stdin = child.stdin.take();
        self.children.push((child, stdin));
    }

    /// Process ids, in order of starting.
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(|(child, _)| child.id()).collect()
    }
}

impl Drop for LocalExecutors {
    fn drop(&mut self) {
        for (_, stdin) in &mut self.children {
            drop(stdin.take());
        }
        let deadline = Instant::now() + END_TIMEOUT;
        for (child, _) in &mut self.children {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            if matches!(child.try_wait(), Ok(None)) {
                tracing::warn!(pid = child.id(), "an executor did not end in time: killed");
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}
