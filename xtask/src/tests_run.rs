//! `cargo xt test`: one command that installs what the tests need and runs all
//! of them, on the optimised build that users run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::prerequisites;

/// Packages of the Python tests.
const REQUIREMENTS: &str = "tests/clients/requirements.txt";

/// Runs the Rust tests, the SQL files and the Python clients. Filters choose
/// among the Rust tests and, with `-k`, among the Python ones.
///
/// # Errors
/// What is missing on this machine, or which part failed.
pub fn run(root: &Path, filters: &[String]) -> Result<(), String> {
    prerequisites::check()?;
    let target = target_dir(root);
    let python = environment(root, &target)?;
    let binary = target.join("release/mobula");
    // The whole workspace in one go: a part alone would pick other features and
    // build everything anew.
    step(
        "build",
        cargo().args(["build", "--release", "--workspace", "--bins"]),
        root,
    )?;
    let mut rust = cargo();
    rust.args(["test", "--release", "--workspace", "--"])
        .args(filters)
        .env("MOBULA_PYTHON", &python)
        .env("MOBULA_BIN", &binary);
    step("Rust tests", &mut rust, root)?;
    let mut clients = Command::new(&python);
    clients
        .args(["-m", "pytest", "-q", "-x", "tests/clients"])
        .env("MOBULA_PYTHON", &python)
        .env("MOBULA_BIN", &binary);
    if let Some(filter) = filters.first() {
        clients.args(["-k", filter]);
    }
    step("Python clients", &mut clients, root)?;
    let mut package = Command::new(&python);
    package
        .args(["-m", "pytest", "-q", "-x", "python/tests"])
        .env("PYTHONPATH", root.join("python"))
        .env("MOBULA_BIN", &binary);
    if let Some(filter) = filters.first() {
        package.args(["-k", filter]);
    }
    step("Python package", &mut package, root)
}

/// Cargo, as if called by hand. What `cargo run` tells us about this package
/// would reach build scripts that watch those variables, and everything above
/// them, DataFusion included, would be built anew.
fn cargo() -> Command {
    let mut command = Command::new("cargo");
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_CRATE_",
            "CARGO_BIN_",
        ];
        if ours.iter().any(|start| text.starts_with(start)) || text == "OUT_DIR" {
            command.env_remove(&name);
        }
    }
    command
}

fn step(name: &str, command: &mut Command, root: &Path) -> Result<(), String> {
    eprintln!("== {name}");
    let status = command
        .current_dir(root)
        .status()
        .map_err(|e| format!("{name}: cannot start: {e}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{name} failed")),
    }
}

fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// The Python of an environment with the packages of [`REQUIREMENTS`]; made
/// again when those change.
fn environment(root: &Path, target: &Path) -> Result<PathBuf, String> {
    let wanted = fs::read_to_string(root.join(REQUIREMENTS))
        .map_err(|e| format!("cannot read {REQUIREMENTS}: {e}"))?;
    let dir = target.join("test-python");
    let (python, stamp) = (dir.join("bin/python"), dir.join("requirements.installed"));
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    eprintln!("== Python environment in {}", dir.display());
    let mut venv = Command::new("python3");
    step("venv", venv.args(["-m", "venv", "--clear"]).arg(&dir), root)?;
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-r",
        REQUIREMENTS,
    ]);
    step("pip (is there a network?)", &mut pip, root)?;
    fs::write(&stamp, wanted).map_err(|e| format!("cannot write {}: {e}", stamp.display()))?;
    Ok(python)
}
