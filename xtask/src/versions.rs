//! One version each of what crosses crate borders.

use std::path::Path;

use crate::Finding;

/// Crates of which the lock file may hold exactly one version, of this major.
const SINGLE: [(&str, &str); 6] = [
    ("arrow", "59."),
    ("arrow-flight", "59."),
    ("datafusion", "55."),
    ("parquet", "59."),
    ("prost", "0.14."),
    ("tonic", "0.14."),
];

/// Checks the lock file.
pub fn check(root: &Path) -> Result<Vec<Finding>, String> {
    let text = std::fs::read_to_string(root.join("Cargo.lock"))
        .map_err(|e| format!("cannot read Cargo.lock: {e}"))?;
    check_lock(&text)
}

fn check_lock(text: &str) -> Result<Vec<Finding>, String> {
    let lock: toml::Table = text.parse().map_err(|e| format!("Cargo.lock: {e}"))?;
    let packages = lock
        .get("package")
        .and_then(toml::Value::as_array)
        .ok_or("Cargo.lock holds no packages")?;
    let field = |package: &toml::Value, name: &str| {
        package
            .get(name)
            .and_then(toml::Value::as_str)
            .map(str::to_owned)
    };
    let mut findings = Vec::new();
    for (name, major) in SINGLE {
        let versions: Vec<String> = packages
            .iter()
            .filter(|package| field(package, "name").as_deref() == Some(name))
            .filter_map(|package| field(package, "version"))
            .collect();
        let fits = versions.len() == 1 && versions.iter().all(|v| v.starts_with(major));
        if !fits {
            findings.push(Finding::new(
                "Cargo.lock",
                format!("wants one version {major}x of {name}, has {versions:?}"),
            ));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(versions: &[(&str, &str)]) -> String {
        versions
            .iter()
            .map(|(name, version)| {
                format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n")
            })
            .collect()
    }

    #[test]
    fn two_versions_or_another_major_are_found() {
        let mut good: Vec<(&str, &str)> = vec![
            ("arrow", "59.3.2"),
            ("arrow-flight", "59.3.2"),
            ("datafusion", "55.2.0"),
            ("parquet", "59.3.2"),
            ("prost", "0.14.6"),
            ("tonic", "0.14.9"),
        ];
        assert!(check_lock(&lock(&good)).unwrap().is_empty());
        good.push(("arrow", "60.0.0"));
        assert_eq!(check_lock(&lock(&good)).unwrap().len(), 1);
        assert_eq!(
            check_lock(&lock(&[("arrow", "60.0.0")])).unwrap().len(),
            SINGLE.len()
        );
    }
}
