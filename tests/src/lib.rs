//! What whole-system tests share: the binary as a child process, and Python.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A server has so long to say that it is ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The `mobula` binary: `MOBULA_BIN`, or the one built beside the tests.
pub fn mobula() -> PathBuf {
    if let Some(path) = std::env::var_os("MOBULA_BIN") {
        return PathBuf::from(path);
    }
    let exe = std::env::current_exe().unwrap_or_default();
    let beside = exe.ancestors().nth(2).map(|dir| dir.join("mobula"));
    beside.unwrap_or_else(|| PathBuf::from("mobula"))
}

/// The interpreter of workers in tests.
pub fn python() -> PathBuf {
    std::env::var_os("MOBULA_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from)
}

/// A `mobula serve` process; ended when dropped.
pub struct ServerProcess {
    child: Child,
    /// Where clients connect: `grpc://HOST:PORT`.
    pub clients: String,
}

impl ServerProcess {
    /// Starts `mobula serve` on free ports with `args` and waits until it is
    /// ready.
    ///
    /// # Errors
    /// A line that says what to build, or what the server printed.
    pub fn start(args: &[&str]) -> Result<Self, String> {
        Self::start_program(&mobula(), args)
    }

    /// As [`Self::start`], of a program that is `mobula` and more.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_program(binary: &Path, args: &[&str]) -> Result<Self, String> {
        let mut child = Command::new(binary)
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--cluster-listen",
                "127.0.0.1:0",
            ])
            .args(args)
            .arg("--python")
            .arg(python())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| {
                format!(
                    "cannot start {}: {e}. Build it: cargo build --release --bins",
                    binary.display()
                )
            })?;
        let Some(stdout) = child.stdout.take() else {
            return Err("the server has no output".into());
        };
        match ready(stdout) {
            Ok(clients) => Ok(Self { child, clients }),
            Err(reason) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(reason)
            }
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        // Ask first: the server ends its own children.
        let _ = Command::new("kill").arg(&pid).status();
        for _ in 0..500 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the output until `mobula: ready`.
fn ready(stdout: ChildStdout) -> Result<String, String> {
    let (lines, read) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    let mut clients = None;
    loop {
        let line = read
            .recv_timeout(START_TIMEOUT)
            .map_err(|_| "the server did not get ready".to_owned())?;
        if let Some(url) = line.strip_prefix("mobula: clients on ") {
            clients = Some(url.to_owned());
        }
        if line == "mobula: ready" {
            return clients.ok_or_else(|| "the server names no client port".to_owned());
        }
    }
}
