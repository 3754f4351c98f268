//! Who may depend on whom among our crates.

use std::collections::BTreeMap;
use std::path::Path;

use crate::Finding;

/// Each crate with the ones of ours that its code may use. Benchmarks, tests and
/// examples may use all.
const ALLOWED: [(&str, &str, &[&str]); 7] = [
    ("mobula-block", "engine/block", &[]),
    ("mobula-proto", "engine/proto", &[]),
    ("mobula-udfs", "udfs", &["mobula-block"]),
    (
        "mobula-plan",
        "engine/plan",
        &["mobula-block", "mobula-proto", "mobula-udfs"],
    ),
    (
        "mobula-execution",
        "engine/execution",
        &["mobula-block", "mobula-proto", "mobula-udfs", "mobula-plan"],
    ),
    (
        "mobula-flight-server",
        "flight-server",
        &["mobula-execution", "mobula-plan", "mobula-udfs"],
    ),
    ("xtask", "xtask", &[]),
];
/// Crates that only one module of one crate may name.
const BASE_CRATE: &str = "datafusion_distributed";
const BASE_HOMES: [&str; 3] = [
    "engine/execution/src/base/",
    "engine/execution/src/exchange/channels.rs",
    "benchmarks/src/peers/",
];

/// Checks the manifests and where the base is named.
pub fn check(root: &Path) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    for (name, dir, allowed) in ALLOWED {
        let path = root.join(dir).join("Cargo.toml");
        let text = std::fs::read_to_string(&path)
            .map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        findings.extend(check_manifest(name, dir, allowed, &text)?);
    }
    findings.extend(check_base(root)?);
    Ok(findings)
}

fn check_manifest(
    name: &str,
    dir: &str,
    allowed: &[&str],
    text: &str,
) -> Result<Vec<Finding>, String> {
    let manifest: toml::Table = text.parse().map_err(|e| format!("{dir}/Cargo.toml: {e}"))?;
    let empty = toml::Table::new();
    let dependencies = manifest
        .get("dependencies")
        .and_then(toml::Value::as_table)
        .unwrap_or(&empty);
    let ours: BTreeMap<_, _> = ALLOWED.iter().map(|(n, ..)| (*n, ())).collect();
    Ok(dependencies
        .keys()
        .filter(|used| ours.contains_key(used.as_str()) && !allowed.contains(&used.as_str()))
        .map(|used| {
            Finding::new(
                format!("{dir}/Cargo.toml"),
                format!("{name} may not depend on {used}"),
            )
        })
        .collect())
}

fn check_base(root: &Path) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    for file in crate::tracked_files(root)? {
        let at_home = BASE_HOMES.iter().any(|home| file.starts_with(home));
        if !file.ends_with(".rs") || at_home || file.starts_with("xtask/") {
            continue;
        }
        let text = std::fs::read_to_string(root.join(&file))
            .map_err(|e| format!("cannot read {file}: {e}"))?;
        if text.contains(BASE_CRATE) {
            findings.push(Finding::new(
                &file,
                format!("names {BASE_CRATE}: only the base module may"),
            ));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_dependency_is_found() {
        let text = "[dependencies]\nmobula-execution = { workspace = true }\narrow = \"1\"\n";
        let found = check_manifest("mobula-plan", "engine/plan", &["mobula-udfs"], text).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].problem.contains("mobula-execution"));
        let fine = "[dependencies]\nmobula-udfs = { workspace = true }\n";
        assert!(
            check_manifest("p", "d", &["mobula-udfs"], fine)
                .unwrap()
                .is_empty()
        );
    }
}
