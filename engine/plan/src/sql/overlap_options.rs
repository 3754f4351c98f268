//! The options of async functions: how many calls at a time, and how fast they begin.
//!
//! ```text
//! max_in_flight => 64, rate_limit => 50
//! ```
//!
//! A part of [`CallOptions`](super::call_options::CallOptions). What a call does not say,
//! its function does; NULL is the default, whatever the function says.

use datafusion::sql::sqlparser::ast::Expr;
use mobula_udfs::{FunctionSpec, Literal, Overlap};

use super::call_options::literal;
use crate::error::PlanError;

/// The options, for lists and hints.
pub(super) const NAMES: [&str; 2] = ["max_in_flight", "rate_limit"];

/// Most calls at a time in one worker.
pub const MAX_IN_FLIGHT: usize = 4096;
const IN_FLIGHT: &str = "a count of calls from 1 to 4096, or NULL";
const RATE: &str = "rows a second, from 0.001 to 1000000, or NULL";

/// As given; `Some(None)` where NULL was.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OverlapOptions {
    pub(crate) max_in_flight: Option<Option<usize>>,
    pub(crate) rate_limit: Option<Option<f64>>,
}

impl OverlapOptions {
    /// Sets the option named `name`; whether it had been set before. `None`: it is none
    /// of these.
    ///
    /// # Errors
    /// What the value should be.
    pub(super) fn set(&mut self, name: &str, value: &Expr) -> Option<Result<bool, &'static str>> {
        let given = literal(value);
        let is_null = given == Some(Literal::Null);
        Some(match name {
            "max_in_flight" => {
                let count = given.and_then(in_flight);
                match is_null || count.is_some() {
                    true => Ok(self.max_in_flight.replace(count).is_some()),
                    false => Err(IN_FLIGHT),
                }
            }
            "rate_limit" => {
                let rate = given.and_then(rate);
                match is_null || rate.is_some() {
                    true => Ok(self.rate_limit.replace(rate).is_some()),
                    false => Err(RATE),
                }
            }
            _ => return None,
        })
    }

    /// What holds for a call of a function whose own is `defaults`.
    pub(super) fn over(&self, defaults: &Overlap) -> Overlap {
        Overlap {
            max_in_flight: self.max_in_flight.unwrap_or(defaults.max_in_flight),
            rate_limit: self.rate_limit.unwrap_or(defaults.rate_limit),
        }
    }

    /// Refuses what says nothing of a call of `spec`, or of a call with so many workers.
    ///
    /// # Errors
    /// [`PlanError::AsyncOption`] and [`PlanError::RateOfAnyWorkers`].
    pub(super) fn check(
        &self,
        spec: &FunctionSpec,
        concurrency: Option<usize>,
    ) -> Result<(), PlanError> {
        let overlap = self.over(&spec.defaults.overlap);
        let given = [
            ("max_in_flight", overlap.max_in_flight.is_some()),
            ("rate_limit", overlap.rate_limit.is_some()),
        ];
        let function = spec.name.clone();
        match given.into_iter().find(|(_, given)| *given) {
            Some((option, _)) if !spec.object.is_async() => {
                Err(PlanError::AsyncOption { function, option })
            }
            _ if overlap.rate_limit.is_some() && concurrency.is_none() => {
                Err(PlanError::RateOfAnyWorkers { function })
            }
            _ => Ok(()),
        }
    }
}

/// Refuses a function whose declaration says what only an async one may.
///
/// # Errors
/// [`PlanError::AsyncOption`].
pub fn check_overlap(spec: &FunctionSpec) -> Result<(), PlanError> {
    let one = spec.defaults.concurrency.or(Some(1));
    OverlapOptions::default().check(spec, one)
}

fn in_flight(given: Literal) -> Option<usize> {
    let Literal::Int(n) = given else {
        return None;
    };
    let n = usize::try_from(n).ok()?;
    (1..=MAX_IN_FLIGHT).contains(&n).then_some(n)
}

fn rate(given: Literal) -> Option<f64> {
    let rate = match given {
        Literal::Int(n) => n as f64,
        Literal::Float(x) => x,
        _ => return None,
    };
    (0.001..=1e6).contains(&rate).then_some(rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::call_options::CallOptions;
    use datafusion::arrow::datatypes::DataType;
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;
    use mobula_udfs::ObjectKind;

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
                "max_in_flight",
                "1 64 4096 NULL",
                "0 4097 -1 2.5 'many' true",
            ),
            ("rate_limit", "1 0.5 2500 NULL", "0 -1 1e7 'fast' true"),
        ] {
            for value in good.split(' ') {
                let mut options = CallOptions::default();
                set(&mut options, name, value).unwrap_or_else(|e| panic!("{name} {value}: {e}"));
                let twice = set(&mut options, name, value).unwrap_err();
                assert!(twice.contains("is given twice"), "{twice}");
                let overlap = options.overlap.over(&Overlap::default());
                assert_eq!(overlap.is_default(), value == "NULL", "{name} {value}");
            }
            for value in bad.split(' ') {
                let refused = set(&mut CallOptions::default(), name, value).unwrap_err();
                let start = format!("invalid value {value} for option \"{name}\" of f: expected ");
                assert!(refused.starts_with(&start), "{refused}");
            }
        }
    }

    #[test]
    fn a_call_beats_its_function_and_only_async_ones_have_them() {
        let mut spec = FunctionSpec::native_scalar("f", [("x", DataType::Int64)], DataType::Int64);
        spec.object = ObjectKind::AsyncFunction;
        spec.defaults.overlap = Overlap {
            max_in_flight: Some(64),
            rate_limit: Some(10.0),
        };
        let mut options = CallOptions::default();
        set(&mut options, "max_in_flight", "NULL").unwrap();
        let expected = Overlap {
            max_in_flight: None,
            rate_limit: Some(10.0),
        };
        let overlap = &options.overlap;
        assert_eq!(overlap.over(&spec.defaults.overlap), expected);
        overlap.check(&spec, Some(1)).unwrap();
        let any = overlap.check(&spec, None).unwrap_err().to_string();
        assert!(
            any.contains("rate_limit") && any.contains("concurrency"),
            "{any}"
        );
        spec.object = ObjectKind::Function;
        let plain = overlap.check(&spec, Some(1)).unwrap_err().to_string();
        assert!(
            plain.contains("\"rate_limit\" is for async functions"),
            "{plain}"
        );
    }
}
