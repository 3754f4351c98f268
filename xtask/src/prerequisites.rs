//! What a machine must have, each missing thing as one line.

use std::process::Command;

const MIN_RUST: (u32, u32) = (1, 95);
const MIN_PYTHON: (u32, u32) = (3, 10);

/// Checks compiler, C compiler and Python.
///
/// # Errors
/// The first thing that is missing, with what to install.
pub fn check() -> Result<(), String> {
    let rust = first_line("rustc", &["--version"])
        .ok_or("rustc is missing. Install Rust from https://rustup.rs")?;
    let found = version(&rust);
    if found < MIN_RUST {
        return Err(format!(
            "rustc {}.{} is too old: {}.{} is needed. Run `rustup update`",
            found.0, found.1, MIN_RUST.0, MIN_RUST.1
        ));
    }
    if first_line("cc", &["--version"]).is_none() {
        return Err(
            "a C compiler is missing. Install one (Debian, Ubuntu: apt install gcc)".into(),
        );
    }
    let python = first_line("python3", &["--version"])
        .ok_or("python3 is missing. Install Python 3.10 or newer")?;
    let found = version(&python);
    if found < MIN_PYTHON {
        return Err(format!(
            "Python {}.{} is too old: {}.{} is needed",
            found.0, found.1, MIN_PYTHON.0, MIN_PYTHON.1
        ));
    }
    if first_line("python3", &["-c", "import venv, ensurepip; print(1)"]).is_none() {
        return Err("Python's venv module is missing. Install it (Debian, Ubuntu: apt install python3-venv)".into());
    }
    Ok(())
}

fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output.status.success().then(|| {
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().next().unwrap_or_default().to_owned()
    })
}

/// The first `major.minor` in a text.
fn version(text: &str) -> (u32, u32) {
    let number = text
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let mut parts = number
        .unwrap_or_default()
        .split('.')
        .map(|n| n.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_in_texts() {
        assert_eq!(version("rustc 1.95.0 (59807616e 2026-04-14)"), (1, 95));
        assert_eq!(version("Python 3.11.7"), (3, 11));
        assert_eq!(version("nothing"), (0, 0));
    }
}
