//! Which Python runs functions, and how its environment is made.
//!
//! In order: the setting `python`, `DATA_DIR/python` (made by `mobula python
//! setup`), `python3` of the PATH. Nothing is started to find out: a missing
//! package shows when a function is created, with the way out.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mobula_plan::MobulaOptions;

use crate::ServerError;

/// What workers import, at versions that are tested together.
const PACKAGES: [&str; 2] = ["pyarrow>=18,<30", "numpy>=1.26,<3"];
/// Directory of the environment within the data directory.
const ENVIRONMENT: &str = "python";
/// Oldest interpreter that workers run on.
const MIN_VERSION: (u32, u32) = (3, 10);

/// The interpreter of this process's workers.
pub fn interpreter(options: &MobulaOptions) -> PathBuf {
    if let Some(python) = options.python() {
        return python.to_path_buf();
    }
    options
        .data_dir()
        .map(|dir| dir.join(ENVIRONMENT).join("bin/python"))
        .filter(|own| own.exists())
        .unwrap_or_else(|| PathBuf::from("python3"))
}

/// True when `python` has what workers import.
pub fn is_complete(python: &Path) -> bool {
    let probe = Command::new(python)
        .args(["-c", "import numpy, pyarrow"])
        .output();
    probe.is_ok_and(|output| output.status.success())
}

/// Makes `DATA_DIR/python`.
///
/// # Errors
/// [`ServerError::Python`]: one line that says what to install.
pub fn setup(options: &MobulaOptions) -> Result<(), ServerError> {
    let Some(data_dir) = options.data_dir() else {
        return Err(ServerError::Python {
            message: "say where the environment goes with --data-dir DIR: it becomes DIR/python"
                .into(),
        });
    };
    let base = options.python().unwrap_or(Path::new("python3"));
    let environment = data_dir.join(ENVIRONMENT);
    check_version(base)?;
    println!("mobula: making {}", environment.display());
    make(base, &environment)?;
    let python = environment.join("bin/python");
    println!("mobula: installing {}", PACKAGES.join(" "));
    if let Err(error) = install(&python) {
        // Half an environment would be taken for a whole one.
        let _ = std::fs::remove_dir_all(&environment);
        return Err(error);
    }
    if !is_complete(&python) {
        return Err(ServerError::Python {
            message: format!(
                "{} cannot import pyarrow and numpy after installing them. Run it with -c \"import pyarrow, numpy\" to see why",
                python.display()
            ),
        });
    }
    println!("mobula: Python is ready");
    Ok(())
}

fn check_version(python: &Path) -> Result<(), ServerError> {
    let script = "import sys; print(sys.version_info[0], sys.version_info[1])";
    let output = run(Command::new(python).args(["-c", script]), python)?;
    if !output.status.success() {
        return Err(ServerError::Python {
            message: format!(
                "\"{}\" does not run Python: {}. Name an interpreter with --python",
                python.display(),
                last_line(&all_output(&output))
            ),
        });
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = text
        .split_whitespace()
        .filter_map(|n| n.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < MIN_VERSION {
        return Err(ServerError::Python {
            message: format!(
                "{} is Python {}.{}, workers need {}.{} or newer. Install one and name it with --python",
                python.display(),
                found.0,
                found.1,
                MIN_VERSION.0,
                MIN_VERSION.1
            ),
        });
    }
    Ok(())
}

fn make(base: &Path, environment: &Path) -> Result<(), ServerError> {
    let output = run(
        Command::new(base)
            .args(["-m", "venv", "--clear"])
            .arg(environment),
        base,
    )?;
    if output.status.success() {
        return Ok(());
    }
    let text = all_output(&output);
    Err(ServerError::Python {
        message: match text.contains("ensurepip") || text.contains("No module named venv") {
            true => format!(
                "{} has no venv module. Install it (Debian, Ubuntu: apt install python3-venv)",
                base.display()
            ),
            false => format!(
                "cannot make \"{}\": {}",
                environment.display(),
                last_line(&text)
            ),
        },
    })
}

fn install(python: &Path) -> Result<(), ServerError> {
    let output = run(
        Command::new(python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(PACKAGES),
        python,
    )?;
    if output.status.success() {
        return Ok(());
    }
    Err(ServerError::Python {
        message: pip_failure(&all_output(&output)),
    })
}

/// One line from what pip said. It tells a missing network from missing wheels
/// only by the way.
fn pip_failure(text: &str) -> String {
    let has = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
    if has(&[
        "NewConnectionError",
        "Temporary failure",
        "Max retries",
        "ConnectionError",
        "Errno 111",
    ]) {
        "cannot reach the Python package index. Connect to the network, or set PIP_INDEX_URL to a mirror".into()
    } else if has(&["from versions: none", "No matching distribution"]) {
        "pip finds no pyarrow and numpy for this Python. Check the network, or name another Python with --python".into()
    } else {
        format!("pip failed: {}", last_line(text))
    }
}

fn run(command: &mut Command, python: &Path) -> Result<Output, ServerError> {
    command.output().map_err(|source| ServerError::Python {
        message: format!(
            "cannot run \"{}\": {source}. Install Python {}.{} or newer, or name it with --python",
            python.display(),
            MIN_VERSION.0,
            MIN_VERSION.1
        ),
    })
}

fn all_output(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    format!("{out}\n{}", String::from_utf8_lossy(&output.stderr))
}

fn last_line(text: &str) -> &str {
    text.trim().lines().last().unwrap_or("no output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interpreter_is_one_line_with_the_way_out() {
        let text = check_version(Path::new("/no/such/python"))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("/no/such/python") && text.contains("--python"),
            "{text}"
        );
        assert!(!text.contains('\n'));
    }

    #[test]
    fn a_program_that_is_no_python_is_named() {
        let text = check_version(Path::new("/bin/false"))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("\"/bin/false\" does not run Python"),
            "{text}"
        );
    }

    #[test]
    fn what_pip_says_becomes_one_line() {
        for (said, hint) in [
            (
                "WARNING: Retrying … NewConnectionError(…)\nERROR: No matching distribution",
                "index",
            ),
            (
                "ERROR: … (from versions: none)\nERROR: No matching distribution found",
                "--python",
            ),
            ("x\nERROR: No space left on device", "No space left"),
        ] {
            let text = pip_failure(said);
            assert!(text.contains(hint) && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn the_setting_beats_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("python/bin/python");
        std::fs::create_dir_all(own.parent().unwrap()).unwrap();
        std::fs::write(&own, "").unwrap();
        let mut options = MobulaOptions::default();
        assert_eq!(interpreter(&options), Path::new("python3"));
        options
            .set_value("data_dir", dir.path().to_str().unwrap())
            .unwrap();
        assert_eq!(interpreter(&options), own);
        options.set_value("python", "/x/python").unwrap();
        assert_eq!(interpreter(&options), Path::new("/x/python"));
    }
}
