//! `cargo xt`: the checks and test runs that cargo alone does not do.
//!
//!     cargo xt tidy            layout, names, layering, versions
//!     cargo xt test [FILTER]   installs what tests need and runs all of them
//!     cargo xt wheel           the Python package with the engine in it, built and tried
//!     cargo xt dist            the same as it is shipped: profile `dist`, no symbols, sizes told
//!
//! Depends on almost nothing, so that it starts in seconds on a fresh machine.

mod layering;
mod names;
mod prerequisites;
mod pytest;
mod tests_run;
mod versions;
mod wheel;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str =
    "usage: cargo xt tidy | cargo xt test [FILTER] | cargo xt wheel | cargo xt dist";

/// What a check found: a place and what is wrong there.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub place: String,
    pub problem: String,
}

impl Finding {
    fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            problem: problem.into(),
        }
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let result = match command.as_str() {
        "tidy" => tidy(),
        "test" => tests_run::run(&root(), &rest),
        "wheel" => tests_run::make_wheel(&root()),
        "dist" => tests_run::make_dist(&root()),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace that cargo runs us in: several may share a target directory,
/// and so this program.
fn root() -> PathBuf {
    let built_in = || env!("CARGO_MANIFEST_DIR").into();
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(built_in, PathBuf::from);
    here.parent().unwrap_or(&here).to_path_buf()
}

fn tidy() -> Result<(), String> {
    let root = root();
    let files = tracked_files(&root)?;
    let mut findings = names::check(&root, &files)?;
    findings.extend(layering::check(&root)?);
    findings.extend(versions::check(&root)?);
    for finding in &findings {
        eprintln!("{}: {}", finding.place, finding.problem);
    }
    match findings.len() {
        0 => Ok(()),
        n => Err(format!("tidy found {n} problems")),
    }
}

/// Files that git tracks, relative to `root`.
fn tracked_files(root: &Path) -> Result<Vec<String>, String> {
    let output = std::process::Command::new("git")
        .args(["ls-files"])
        .current_dir(root)
        .output()
        .map_err(|e| format!("cannot run git: {e}. Install git"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let exists = |file: &&str| root.join(file).exists();
    Ok(text.lines().filter(exists).map(str::to_owned).collect())
}
