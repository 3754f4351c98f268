//! Runs of pytest, as steps of `cargo xt test`: each has an end, and says whether any test
//! ran.

use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// A run that is over its time has so long to end its servers.
const END: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);
/// What pytest returns when it found no test to run.
const NONE_COLLECTED: i32 = 5;

/// A folder of Python tests.
pub struct Suite<'a> {
    pub name: &'a str,
    pub folder: &'a str,
    /// Folder of the package that it tests, if that is not installed.
    pub package: Option<&'a str>,
    /// Above what a loaded machine needs: who reaches it stands still.
    pub limit: Duration,
}

/// What came out of a run without failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Tests,
    /// No test has any of the filters in its name.
    Nothing,
}

impl Suite<'_> {
    /// Runs those tests whose name contains one of `filters`, or all. `python` is ready to
    /// run pytest, with all that the tests look for in its environment.
    ///
    /// # Errors
    /// Tests failed or took too long, or there are none though nobody chose among them.
    pub fn run(
        &self,
        mut python: Command,
        root: &Path,
        filters: &[String],
    ) -> Result<Found, String> {
        eprintln!("== {}", self.name);
        python
            .args(["-m", "pytest", "-q", "-x", self.folder])
            .current_dir(root);
        if let Some(package) = self.package {
            python.env("PYTHONPATH", root.join(package));
        }
        if !filters.is_empty() {
            python.args(["-k", &filters.join(" or ")]);
        }
        let failed = |problem: String| format!("{} {problem}", self.name);
        let child = python
            .spawn()
            .map_err(|error| failed(format!("cannot start: {error}")))?;
        let Some(status) = ended(child, self.limit).map_err(failed)? else {
            let seconds = self.limit.as_secs();
            return Err(failed(format!("did not end within {seconds} s")));
        };
        match (status.code(), filters.is_empty()) {
            (Some(0), _) => Ok(Found::Tests),
            (Some(NONE_COLLECTED), false) => Ok(Found::Nothing),
            (Some(NONE_COLLECTED), true) => Err(failed(format!("has no tests in {}", self.folder))),
            _ => Err(failed("failed".to_owned())),
        }
    }
}

/// How `child` ended, if it did within `limit`. Else it is interrupted, so that its tests end
/// the servers that they started, and at last killed.
fn ended(mut child: Child, limit: Duration) -> Result<Option<ExitStatus>, String> {
    if let Some(status) = waited(&mut child, limit)? {
        return Ok(Some(status));
    }
    let pid = child.id().to_string();
    let asked = Command::new("kill").args(["-INT", &pid]).status();
    if !asked.is_ok_and(|status| status.success()) || waited(&mut child, END)?.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    Ok(None)
}

fn waited(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>, String> {
    let deadline = Instant::now() + limit;
    loop {
        let status = child.try_wait().map_err(|e| format!("is lost: {e}"))?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of a shell script in place of Python, which sees pytest's arguments.
    fn run(script: &str, limit: Duration, filters: &[&str]) -> Result<Found, String> {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        let suite = Suite {
            name: "Suite",
            folder: "folder",
            package: None,
            limit,
        };
        let filters: Vec<_> = filters.iter().map(|&text| text.to_owned()).collect();
        suite.run(shell, Path::new("."), &filters)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn an_empty_run_is_told_from_one_with_tests() {
        assert_eq!(run("exit 0", LONG, &[]), Ok(Found::Tests));
        assert_eq!(run("exit 5", LONG, &["joins"]), Ok(Found::Nothing));
        let empty = run("exit 5", LONG, &[]).unwrap_err();
        assert_eq!(empty, "Suite has no tests in folder");
        assert_eq!(run("exit 1", LONG, &["joins"]).unwrap_err(), "Suite failed");
    }

    #[test]
    fn all_filters_choose() {
        let chosen = "for word; do last=$word; done; test \"$last\" = 'a or b'";
        assert_eq!(run(chosen, LONG, &["a", "b"]), Ok(Found::Tests));
    }

    #[test]
    fn a_run_that_stands_still_is_ended() {
        let started = Instant::now();
        let over = run("exec sleep 100", Duration::from_millis(200), &[]).unwrap_err();
        assert_eq!(over, "Suite did not end within 0 s");
        // Where interrupts are ignored, as below some shells, it is killed after a while.
        assert!(started.elapsed() < END + Duration::from_secs(20));
    }
}
