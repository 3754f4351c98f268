//! Module heads, file sizes and names that say nothing.

use std::path::Path;

use crate::Finding;

/// Lines of code a file may have; tests at its end and comments do not count.
const MAX_CODE_LINES: usize = 500;
/// Names of files, directories and modules that would gather anything.
const GRAB_BAGS: [&str; 8] = [
    "common", "util", "utils", "helper", "helpers", "misc", "core", "stuff",
];

/// Checks every tracked Rust and Python file.
pub fn check(root: &Path, files: &[String]) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    for file in files {
        findings.extend(bad_name(file));
        if file.ends_with(".rs") || file.ends_with(".py") {
            let text = std::fs::read_to_string(root.join(file))
                .map_err(|e| format!("cannot read {file}: {e}"))?;
            findings.extend(check_text(file, &text));
        }
    }
    Ok(findings)
}

fn bad_name(file: &str) -> Option<Finding> {
    file.split('/').find_map(|part| {
        let stem = part.split('.').next().unwrap_or(part);
        let versioned = stem
            .rsplit_once("_v")
            .is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        let bad = GRAB_BAGS.contains(&stem) || stem.starts_with("new_") || versioned;
        bad.then(|| Finding::new(file, format!("\"{stem}\" names nothing: name the noun")))
    })
}

fn check_text(file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let head = match file.ends_with(".rs") {
        true => text.starts_with("//!"),
        false => {
            text.trim_start_matches('#')
                .trim_start()
                .starts_with("\"\"\"")
                || text
                    .lines()
                    .find(|l| !l.starts_with('#'))
                    .is_some_and(|l| l.starts_with("\"\"\""))
        }
    };
    if !head && !text.trim().is_empty() {
        findings.push(Finding::new(
            file,
            "has no head: say what it is, why it exists and who calls it",
        ));
    }
    let lines = code_lines(text);
    if lines > MAX_CODE_LINES {
        findings.push(Finding::new(
            file,
            format!("has {lines} lines of code, {MAX_CODE_LINES} is the most: split it"),
        ));
    }
    findings
}

fn code_lines(text: &str) -> usize {
    text.lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("//") && !line.starts_with('#'))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grab_bags_and_versions_are_refused() {
        for bad in [
            "a/common/x.rs",
            "a/utils.rs",
            "b/misc.py",
            "c/new_plan.rs",
            "d/codec_v2.rs",
        ] {
            assert!(bad_name(bad).is_some(), "{bad}");
        }
        for good in [
            "engine/plan/src/codec.rs",
            "a/score.rs",
            "docs/operators/map_batches.md",
        ] {
            assert!(bad_name(good).is_none(), "{good}");
        }
    }

    #[test]
    fn a_head_is_asked_for() {
        assert_eq!(check_text("a.rs", "use x;\n").len(), 1);
        assert!(check_text("a.rs", "//! What.\n").is_empty());
        assert_eq!(check_text("a.py", "import os\n").len(), 1);
        assert!(check_text("a.py", "#!/usr/bin/env python3\n\"\"\"What.\"\"\"\n").is_empty());
    }

    #[test]
    fn comments_and_tests_do_not_count() {
        let code = "let x = 1;\n".repeat(MAX_CODE_LINES);
        let fits = format!("//! Head.\n// note\n\n{code}#[cfg(test)]\nmod tests {{ {code} }}");
        assert!(check_text("a.rs", &fits).is_empty());
        assert_eq!(
            check_text("a.rs", &format!("//! Head.\n{code}fn y() {{}}\n")).len(),
            1
        );
    }
}
