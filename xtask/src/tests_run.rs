//! `cargo xt test`: one command that installs what the tests need and runs all
//! of them, on the optimised build that users run. `cargo xt wheel` and `cargo xt dist` pack
//! what it has built, and what is shipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::pytest::{Found, Suite};
use crate::{prerequisites, wheel};

/// Packages of the Python tests.
const REQUIREMENTS: &str = "tests/clients/requirements.txt";

/// The Python tests, in one environment.
const PYTHON: [Suite; 2] = [
    Suite {
        name: "Python clients",
        folder: "tests/clients",
        package: None,
        limit: Duration::from_secs(30 * 60),
    },
    Suite {
        name: "Python package",
        folder: "python/tests",
        package: Some("python"),
        limit: Duration::from_secs(5 * 60),
    },
];

/// Runs the Rust tests, the SQL files, the Python clients and the package, and tries its
/// wheel. Filters choose among the Rust tests and, with `-k`, among the Python ones; each
/// part may have none of them, all together not.
///
/// # Errors
/// What is missing on this machine, or which part failed.
pub fn run(root: &Path, filters: &[String]) -> Result<(), String> {
    let Built {
        target,
        python,
        binary,
    } = Built::of(root, "release")?;
    lint_containers(root, &python)?;
    check_types(root, &python)?;
    let mut rust = cargo();
    rust.args(["test", "--release", "--workspace", "--"])
        .args(filters)
        .env("MOBULA_PYTHON", &python)
        .env("MOBULA_BIN", &binary);
    step("Rust tests", &mut rust, root)?;
    let mut found = Vec::new();
    for suite in PYTHON {
        let mut command = Command::new(&python);
        command
            .env("MOBULA_PYTHON", &python)
            .env("MOBULA_BIN", &binary);
        found.push(suite.run(command, root, filters)?);
    }
    if filters.is_empty() {
        let wheel = wheel::make(root, &target, &python, &binary)?;
        return wheel::check(root, &target, &wheel);
    }
    match found.contains(&Found::Tests) || any_in_rust(root, filters)? {
        true => Ok(()),
        false => Err(format!("no test has {} in its name", filters.join(" or "))),
    }
}

/// Builds the wheel of the Python package, and tries it.
///
/// # Errors
/// What is missing on this machine, or which part failed.
pub fn make_wheel(root: &Path) -> Result<(), String> {
    packed(root, &Built::of(root, "release")?)
}

/// Builds what is shipped, the binary without symbols and the wheel with it, tries the wheel,
/// and says how large they are.
///
/// # Errors
/// What is missing on this machine, which part failed, or what is too large.
pub fn make_dist(root: &Path) -> Result<(), String> {
    let built = Built::of(root, "dist")?;
    packed(root, &built)?;
    wheel::sized(&built.binary)
}

fn packed(root: &Path, built: &Built) -> Result<(), String> {
    let wheel = wheel::make(root, &built.target, &built.python, &built.binary)?;
    wheel::check(root, &built.target, &wheel)
}

/// An optimised build, and a Python with the packages of the tests.
struct Built {
    target: PathBuf,
    python: PathBuf,
    binary: PathBuf,
}

impl Built {
    fn of(root: &Path, profile: &str) -> Result<Self, String> {
        prerequisites::check()?;
        let target = target_dir(root);
        let python = environment(root, &target)?;
        let binary = target.join(profile).join("mobula");
        // The whole workspace in one go: a part alone would pick other features and
        // build everything anew.
        let mut build = cargo();
        build.args(["build", "--profile", profile, "--workspace"]);
        match profile {
            "dist" => build.args(["--bin", "mobula"]).env("RUSTFLAGS", smaller()),
            _ => build.arg("--bins"),
        };
        step("build", &mut build, root)?;
        Ok(Self {
            target,
            python,
            binary,
        })
    }
}

/// Flags for what is shipped, besides those of who builds: functions that came out alike are
/// one. The linker that Rust brings on this platform can do that, others need not.
fn smaller() -> String {
    let own = std::env::var("RUSTFLAGS").unwrap_or_default();
    match cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        true => format!("{own} -Clink-arg=-Wl,--icf=all"),
        false => own,
    }
}

/// Whether the Python package says its types, and keeps to them.
fn check_types(root: &Path, python: &Path) -> Result<(), String> {
    let mut pyright = Command::new(python);
    pyright
        .args(["-m", "pyright", "--pythonpath"])
        .arg(python)
        .args(["--project", "python"]);
    step("Python types", &mut pyright, root)
}

/// Reads the container file, where the linter is for this platform.
fn lint_containers(root: &Path, python: &Path) -> Result<(), String> {
    let linter = python.with_file_name("hadolint");
    match linter.exists() {
        true => step(
            "container file",
            Command::new(linter).arg("deploy/Containerfile"),
            root,
        ),
        false => Ok(()),
    }
}

/// Whether a Rust test has one of `filters` in its name.
fn any_in_rust(root: &Path, filters: &[String]) -> Result<bool, String> {
    let mut list = cargo();
    list.args(["test", "--release", "--workspace", "--quiet", "--"])
        .args(filters)
        .arg("--list");
    let listed = list.current_dir(root).output();
    let listed = listed.map_err(|e| format!("cargo test --list: cannot start: {e}"))?;
    let text = String::from_utf8_lossy(&listed.stdout);
    Ok(text.lines().any(|line| line.ends_with(": test")))
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
    let named = std::env::var_os("CARGO_TARGET_DIR");
    // What is started elsewhere finds it too.
    root.join(named.map_or_else(|| PathBuf::from("target"), PathBuf::from))
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
