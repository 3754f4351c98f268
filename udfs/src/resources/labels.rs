//! Which processes a call may run in, by what is true of them.
//!
//! ```text
//! zone=a, disk!=hdd | zone=b      in zone a but for old disks, else in zone b
//! ```
//!
//! Terms between commas hold all; alternatives between bars are tried in order. A
//! process without the label is none with that value, so `!=` holds there.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::names::is_name;

/// Alternatives in the order of preference, each with terms that all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LabelSelector(Vec<Vec<Term>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Term {
    key: String,
    /// False: any other value.
    is: bool,
    value: String,
}

/// What selects nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("labels, as in 'zone=a, disk!=hdd | zone=b'")]
pub struct BadLabels;

impl LabelSelector {
    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Which alternative a process with `labels` is; the first is the one wanted most.
    pub fn alternative(&self, labels: &BTreeMap<String, String>) -> Option<usize> {
        if self.is_empty() {
            return Some(0);
        }
        let holds = |term: &Term| (labels.get(&term.key) == Some(&term.value)) == term.is;
        self.0.iter().position(|terms| terms.iter().all(holds))
    }

    /// Whether a process with `labels` is any of the alternatives.
    pub fn accepts(&self, labels: &BTreeMap<String, String>) -> bool {
        self.alternative(labels).is_some()
    }
}

impl FromStr for LabelSelector {
    type Err = BadLabels;

    fn from_str(text: &str) -> Result<Self, BadLabels> {
        let term = |text: &str| {
            let (key, value) = text.split_once('=').ok_or(BadLabels)?;
            let (key, is) = match key.strip_suffix('!') {
                Some(key) => (key, false),
                None => (key, true),
            };
            let (key, value) = (key.trim(), value.trim());
            match is_name(key) && is_name(value) {
                true => Ok(Term {
                    key: key.to_owned(),
                    is,
                    value: value.to_owned(),
                }),
                false => Err(BadLabels),
            }
        };
        let alternatives = text
            .split('|')
            .map(|terms| terms.split(',').map(term).collect());
        alternatives.collect::<Result<_, _>>().map(Self)
    }
}

/// As it is read, with the fewest blanks.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alternatives = self.0.iter().map(|terms| {
            let terms = terms.iter().map(|Term { key, is, value }| {
                let sign = if *is { "=" } else { "!=" };
                format!("{key}{sign}{value}")
            });
            terms.collect::<Vec<_>>().join(",")
        });
        f.write_str(&alternatives.collect::<Vec<_>>().join("|"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::labels_of;
    use super::*;

    #[test]
    fn alternatives_are_tried_in_order() {
        let selector: LabelSelector = "zone=a, disk!=hdd | zone=b".parse().unwrap();
        assert_eq!(selector.to_string(), "zone=a,disk!=hdd|zone=b");
        for (labels, expected) in [
            ("zone=a,disk=ssd", Some(0)),
            ("zone=a", Some(0)),
            ("zone=a,disk=hdd", None),
            ("zone=b,disk=hdd", Some(1)),
            ("zone=c", None),
            ("", None),
        ] {
            let labels = labels_of(labels).unwrap();
            assert_eq!(selector.alternative(&labels), expected, "{labels:?}");
        }
        assert_eq!(
            LabelSelector::default().alternative(&BTreeMap::new()),
            Some(0)
        );
        for text in [
            "",
            "zone",
            "zone=",
            "=a",
            "zone=a |",
            "zone=a,,disk=b",
            "a b=c",
        ] {
            assert_eq!(text.parse::<LabelSelector>(), Err(BadLabels), "{text}");
        }
    }
}
