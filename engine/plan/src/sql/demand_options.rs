//! The options of a call that say what each of its workers asks for.
//!
//! ```text
//! num_gpus => 0.5, num_cpus => 2, memory => '2GiB', resources => 'fpga=1',
//! label_selector => 'zone=a, disk!=hdd | zone=b', placement => 'pack'
//! ```
//!
//! A part of [`CallOptions`](super::call_options::CallOptions). What a call does not say,
//! its function does; NULL asks for nothing, whatever the function says.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{Expr, UnaryOperator, Value};
use mobula_udfs::resources::amounts_of;
use mobula_udfs::{Amount, Demand, LabelSelector, Literal, Placement};

use super::call_options::literal;
use crate::config::bytes;

/// The options, for lists and hints.
pub(super) const NAMES: [&str; 6] = [
    "num_cpus",
    "num_gpus",
    "memory",
    "resources",
    "label_selector",
    "placement",
];

/// Most cores or GPUs of one worker.
const MAX: usize = 1024;
const CPUS: &str = "a number from 0 to 1024 with at most three decimals, or NULL";
const GPUS: &str =
    "a share below 1 with at most three decimals, a whole number up to 1024, or NULL";
const MEMORY: &str = "bytes above 0, as in '2GiB', or NULL";
const RESOURCES: &str = "names with amounts above 0, as in 'fpga=1, slot=0.5', or NULL";
const PLACEMENT: &str = "'spread' or 'pack', or NULL";
const LABELS: &str = "labels, as in 'zone=a, disk!=hdd | zone=b', or NULL";

/// As given; `Some` of nothing where NULL was.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DemandOptions {
    pub(crate) cpus: Option<Option<Amount>>,
    pub(crate) gpus: Option<Option<Amount>>,
    pub(crate) memory_bytes: Option<Option<u64>>,
    pub(crate) custom: Option<BTreeMap<String, Amount>>,
    pub(crate) labels: Option<LabelSelector>,
    pub(crate) placement: Option<Placement>,
}

impl DemandOptions {
    /// Sets the option named `name`; whether it had been set before. `None`: it is none
    /// of these.
    ///
    /// # Errors
    /// What the value should be.
    pub(super) fn set(&mut self, name: &str, value: &Expr) -> Option<Result<bool, &'static str>> {
        let is_null = literal(value) == Some(Literal::Null);
        Some(match name {
            "num_cpus" => replace(&mut self.cpus, is_null, cpus(value), CPUS),
            "num_gpus" => replace(&mut self.gpus, is_null, gpus(value), GPUS),
            "memory" => replace(&mut self.memory_bytes, is_null, memory(value), MEMORY),
            "resources" => {
                let given = text(value).and_then(|text| amounts_of(&text));
                let given = given.filter(|custom| !custom.is_empty());
                put(&mut self.custom, is_null, given, RESOURCES)
            }
            "label_selector" => {
                let given = text(value).and_then(|text| text.parse().ok());
                put(&mut self.labels, is_null, given, LABELS)
            }
            "placement" => {
                let given = text(value).and_then(|text| text.parse().ok());
                put(&mut self.placement, is_null, given, PLACEMENT)
            }
            _ => return None,
        })
    }

    /// What a worker asks for, if its function asks for `defaults`.
    pub fn over(&self, defaults: &Demand) -> Demand {
        let (custom, labels) = (self.custom.as_ref(), self.labels.as_ref());
        Demand {
            cpus: self.cpus.unwrap_or(defaults.cpus),
            gpus: self.gpus.unwrap_or(defaults.gpus),
            memory_bytes: self.memory_bytes.unwrap_or(defaults.memory_bytes),
            custom: custom.unwrap_or(&defaults.custom).clone(),
            labels: labels.unwrap_or(&defaults.labels).clone(),
            placement: self.placement.unwrap_or(defaults.placement),
        }
    }
}

fn replace<T>(
    place: &mut Option<Option<T>>,
    is_null: bool,
    given: Option<T>,
    expected: &'static str,
) -> Result<bool, &'static str> {
    match is_null || given.is_some() {
        true => Ok(place.replace(given).is_some()),
        false => Err(expected),
    }
}

fn put<T: Default>(
    place: &mut Option<T>,
    is_null: bool,
    given: Option<T>,
    expected: &'static str,
) -> Result<bool, &'static str> {
    match (given, is_null) {
        (Some(given), _) => Ok(place.replace(given).is_some()),
        (None, true) => Ok(place.replace(T::default()).is_some()),
        (None, false) => Err(expected),
    }
}

fn cpus(value: &Expr) -> Option<Amount> {
    number(value).filter(|amount| *amount <= Amount::whole(MAX))
}

fn gpus(value: &Expr) -> Option<Amount> {
    number(value).filter(|amount| {
        *amount < Amount::ONE || (amount.is_whole() && *amount <= Amount::whole(MAX))
    })
}

fn memory(value: &Expr) -> Option<u64> {
    let given = match literal(value)? {
        Literal::Int(n) => u64::try_from(n).ok(),
        Literal::Text(text) => bytes(&text),
        _ => None,
    };
    given.filter(|bytes| *bytes > 0)
}

/// A number as it is written: 0.1 is no binary fraction.
fn number(value: &Expr) -> Option<Amount> {
    match value {
        Expr::Value(value) => match &value.value {
            Value::Number(text, _) => text.to_string().parse().ok(),
            _ => None,
        },
        Expr::Nested(inner) => number(inner),
        Expr::UnaryOp {
            op: UnaryOperator::Plus,
            expr,
        } => number(expr),
        _ => None,
    }
}

fn text(value: &Expr) -> Option<String> {
    match literal(value) {
        Some(Literal::Text(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::call_options::CallOptions;
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    fn set(options: &mut CallOptions, name: &str, value: &str) -> Result<(), String> {
        let parser = Parser::new(&GenericDialect {}).try_with_sql(value);
        let value = parser.unwrap().parse_expr().unwrap();
        let set = options.set("f", name, &value);
        set.map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_read_or_refused() {
        for (name, good, bad) in [
            (
                "num_cpus",
                "0 1 0.125 1024 (2)",
                "1025 0.0001 -1 'two' true 1e2",
            ),
            ("num_gpus", "0 0.5 1 8 2.0", "1.5 -1 1025 'all'"),
            ("memory", "'2GiB' 1000 '5'", "0 '' 'much' '1.5GiB' 2.5 -1"),
            (
                "resources",
                "'fpga=1' 'a=0.5,b=2'",
                "'' 'fpga' 'a=0' 'a=1,a=2' 1",
            ),
            (
                "label_selector",
                "'zone=a' 'a=b|a!=c'",
                "'' 'zone' '|' true",
            ),
            ("placement", "'pack' 'SPREAD'", "'' 'packed' 1 true"),
        ] {
            for value in good.split(' ').chain(["NULL"]) {
                let mut options = CallOptions::default();
                set(&mut options, name, value).unwrap_or_else(|e| panic!("{name} {value}: {e}"));
                let twice = set(&mut options, name, value).unwrap_err();
                assert!(twice.contains("is given twice"), "{twice}");
                let demand = options.demand.over(&Demand::default());
                let asks = value != "NULL" && name != "placement";
                assert_eq!(demand.is_none(), !asks, "{name} {value}");
            }
            for value in bad.split(' ') {
                let refused = set(&mut CallOptions::default(), name, value).unwrap_err();
                let start = format!("invalid value {value} for option \"{name}\" of f: expected ");
                assert!(refused.starts_with(&start), "{refused}");
            }
        }
    }

    #[test]
    fn a_call_beats_its_function_option_by_option() {
        let defaults = Demand {
            cpus: Some(Amount::ONE),
            gpus: Some(Amount::whole(2)),
            ..Demand::default()
        };
        let mut options = CallOptions::default();
        set(&mut options, "num_gpus", "NULL").unwrap();
        set(&mut options, "memory", "7").unwrap();
        let expected = Demand {
            cpus: Some(Amount::ONE),
            memory_bytes: Some(7),
            ..Demand::default()
        };
        assert_eq!(options.demand.over(&defaults), expected);
    }
}
