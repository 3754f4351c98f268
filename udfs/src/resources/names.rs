//! `fpga=2,slot=0.5` and `zone=a,disk=ssd`: names with amounts or with words.
//!
//! Read where settings and options are, written for messages and system tables.

use std::collections::BTreeMap;

use super::amount::Amount;

/// Longest name of a resource, and longest key or value of a label.
const MAX_LEN: usize = 64;

/// Whether `text` names a resource, or a label or its value.
pub(super) fn is_name(text: &str) -> bool {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    (1..=MAX_LEN).contains(&text.len()) && text.chars().all(is_fine)
}

/// `text` as names with amounts above 0, each once; `None` if it is not.
pub fn amounts_of(text: &str) -> Option<BTreeMap<String, Amount>> {
    let above_zero = |amount: &Amount| !amount.is_zero();
    pairs(text, |amount| amount.parse().ok().filter(above_zero))
}

/// `text` as keys with values, each key once; `None` if it is not.
pub fn labels_of(text: &str) -> Option<BTreeMap<String, String>> {
    pairs(text, |value| is_name(value).then(|| value.to_owned()))
}

fn pairs<T>(text: &str, read: impl Fn(&str) -> Option<T>) -> Option<BTreeMap<String, T>> {
    let mut pairs = BTreeMap::new();
    if text.trim().is_empty() {
        return Some(pairs);
    }
    for pair in text.split(',') {
        let (name, value) = pair.split_once('=')?;
        let name = name.trim();
        let is_new = is_name(name) && pairs.insert(name.to_owned(), read(value.trim())?).is_none();
        if !is_new {
            return None;
        }
    }
    Some(pairs)
}

/// As [`amounts_of`] reads them.
pub fn amounts_text(amounts: &BTreeMap<String, Amount>) -> String {
    joined(
        amounts
            .iter()
            .map(|(name, amount)| format!("{name}={amount}")),
    )
}

/// As [`labels_of`] reads them.
pub fn labels_text(labels: &BTreeMap<String, String>) -> String {
    joined(labels.iter().map(|(key, value)| format!("{key}={value}")))
}

fn joined(pairs: impl Iterator<Item = String>) -> String {
    pairs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_read_and_write() {
        for (text, expected) in [
            ("", Some("")),
            ("fpga=2, slot = 0.5", Some("fpga=2,slot=0.5")),
            ("fpga", None),
            ("fpga=", None),
            ("fpga=0", None),
            ("fpga=-1", None),
            ("fpga=1,fpga=2", None),
            ("a b=1", None),
            ("=1", None),
        ] {
            let written = amounts_of(text).map(|amounts| amounts_text(&amounts));
            assert_eq!(written.as_deref(), expected, "{text}");
        }
        for (text, expected) in [
            ("zone=a,disk=ssd", Some("disk=ssd,zone=a")),
            ("zone=eu/1", Some("zone=eu/1")),
            ("zone=a=b", None),
            ("zone=", None),
        ] {
            let written = labels_of(text).map(|labels| labels_text(&labels));
            assert_eq!(written.as_deref(), expected, "{text}");
        }
        assert!(!is_name(&"x".repeat(MAX_LEN + 1)));
    }
}
