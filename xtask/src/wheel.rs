//! The wheel of the Python package, with the engine's binary in it: `cargo xt wheel` makes
//! it, and runs the example of the package's README from it in an environment of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The most of what people download.
const BYTES_MAX: u64 = 120_000_000;
const README: &str = "python/README.md";
/// What the example of the README prints first.
const ANSWER: &str = "{'word': 'fish', 'n': 2}";
/// Fixes the versions of what the wheel depends on.
const VERSIONS: &str = "python/requirements.txt";

/// Packs `binary` and the package into a file below `target`. `python` has pip.
///
/// # Errors
/// Packing failed, or the file is too large.
pub fn make(root: &Path, target: &Path, python: &Path, binary: &Path) -> Result<PathBuf, String> {
    eprintln!("== wheel");
    let out = target.join("wheels");
    if out.exists() {
        fs::remove_dir_all(&out).map_err(|e| format!("cannot empty {}: {e}", out.display()))?;
    }
    let mut pip = Command::new(python);
    pip.args([
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--disable-pip-version-check",
    ])
    .args(["--no-deps", "--wheel-dir"])
    .args([&out, &root.join("python")])
    .env("MOBULA_BIN", binary);
    done("pip wheel", &mut pip)?;
    let wheel = only_file(&out)?;
    sized(&wheel)?;
    Ok(wheel)
}

/// Says how large `file` is.
///
/// # Errors
/// It is larger than what people are to download.
pub fn sized(file: &Path) -> Result<(), String> {
    let bytes = fs::metadata(file).map_or(0, |found| found.len());
    let name = file.display();
    eprintln!("{name}: {:.1} MB", bytes as f64 / 1e6);
    match bytes <= BYTES_MAX {
        true => Ok(()),
        false => Err(format!(
            "{name} has {bytes} bytes, {BYTES_MAX} are the most"
        )),
    }
}

/// Installs `wheel` into a new environment, which has nothing else, and runs the README's
/// example there.
///
/// # Errors
/// It does not install, or the example does not answer.
pub fn check(root: &Path, target: &Path, wheel: &Path) -> Result<(), String> {
    eprintln!("== wheel in an environment of its own");
    let dir = target.join("wheel-python");
    let mut venv = Command::new("python3");
    done("venv", venv.args(["-m", "venv", "--clear"]).arg(&dir))?;
    let python = dir.join("bin/python");
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--no-compile",
        "--quiet",
        "--disable-pip-version-check",
    ])
    .arg("--constraint")
    .arg(root.join(VERSIONS))
    .arg(wheel);
    done("pip install (is there a network?)", &mut pip)?;
    let readme = root.join(README);
    let text = fs::read_to_string(&readme).map_err(|e| format!("cannot read {README}: {e}"))?;
    let example = example(&text).ok_or_else(|| format!("{README} has no example in Python"))?;
    // A file, and not `-c`: code of functions is sent with its lines.
    let file = dir.join("readme.py");
    fs::write(&file, example).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    let mut run = Command::new(&python);
    run.arg(&file)
        .current_dir(&dir)
        .env_remove("MOBULA_BIN")
        .env_remove("PYTHONPATH");
    let answer = run.output().map_err(|e| format!("{README}: {e}"))?;
    let said = String::from_utf8_lossy(&answer.stdout);
    match answer.status.success() && said.starts_with(ANSWER) {
        true => Ok(()),
        false => {
            let errors = String::from_utf8_lossy(&answer.stderr);
            Err(format!(
                "the example of {README} said {said:?} and not {ANSWER}: {errors}"
            ))
        }
    }
}

/// The first block in Python of a page.
fn example(page: &str) -> Option<&str> {
    let (_, rest) = page.split_once("```python\n")?;
    rest.split_once("```").map(|(code, _)| code)
}

fn only_file(dir: &Path) -> Result<PathBuf, String> {
    let mut files = fs::read_dir(dir).into_iter().flatten().flatten();
    match (files.next(), files.next()) {
        (Some(file), None) => Ok(file.path()),
        _ => Err(format!("{} does not have one wheel", dir.display())),
    }
}

fn done(name: &str, command: &mut Command) -> Result<(), String> {
    let status = command.status();
    match status
        .map_err(|e| format!("{name}: cannot start: {e}"))?
        .success()
    {
        true => Ok(()),
        false => Err(format!("{name} failed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_the_first_block_in_python() {
        let page = "a\n```sh\nx\n```\n```python\nimport a\na.b()\n```\n```python\nc\n```\n";
        assert_eq!(example(page), Some("import a\na.b()\n"));
        assert_eq!(example("nothing"), None);
    }
}
