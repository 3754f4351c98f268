//! Options of a call: how blocks are cut and spread, what becomes of rows that fail,
//! and what a table function promises of its rows.
//!
//! The same stand in `CREATE FUNCTION … WITH (…)`, where they are
//! defaults, and in `map_batches(…, k => v)`, where they decide. Anything else
//! is refused by name: no option is silently ignored.

use std::fmt::Display;
use std::str::FromStr;

use datafusion::sql::sqlparser::ast::{Expr, UnaryOperator, Value, ValueWithSpan};
use mobula_udfs::{BatchFormat, CallDefaults, ErrorPolicy, FunctionSpec, Literal, OnError};

use crate::error::PlanError;
use crate::nearest;

/// Most rows of a batch.
pub const MAX_BATCH_SIZE: usize = 1 << 20;
/// Most workers of one call over the cluster.
pub const MAX_CONCURRENCY: usize = 1024;

const KNOWN: &[&str] = &[
    "batch_size",
    "concurrency",
    "batch_format",
    "on_error",
    "max_errors",
    "max_error_ratio",
    "passthrough",
    "row_preserving",
    "reads",
];

/// Options of Ray Data and of the design that come later: refused with that
/// word, not as unknown.
const LATER: &[&str] = &[
    "compute",
    "max_concurrency",
    "memory",
    "mode",
    "num_cpus",
    "num_gpus",
    "requirements",
    "schema",
    "timeout",
    "udf_modifying_row_count",
    "zero_copy_batch",
];

/// Options as given; `None` where not given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CallOptions {
    /// `Some(None)`: the whole block, asked for with NULL.
    pub batch_size: Option<Option<usize>>,
    /// `Some(None)`: as many workers as the task has cores, asked for with NULL.
    pub concurrency: Option<Option<usize>>,
    pub batch_format: Option<BatchFormat>,
    pub on_error: Option<OnError>,
    /// `Some(None)`: no bound, asked for with NULL; as is the next.
    pub max_errors: Option<Option<u64>>,
    pub max_error_ratio: Option<Option<f64>>,
    /// Columns of the output that equal the input's.
    pub passthrough: Option<Vec<String>>,
    pub row_preserving: Option<bool>,
    /// Columns of the input that matter.
    pub reads: Option<Vec<String>>,
}

impl CallOptions {
    /// Sets the option named `name`; `owner` is who it is given to, for errors.
    ///
    /// # Errors
    /// Unknown, later or repeated options, and values out of range.
    pub fn set(&mut self, owner: &str, name: &str, value: &Expr) -> Result<(), PlanError> {
        let option = Given { owner, name, value };
        let twice = match name {
            "batch_size" => self
                .batch_size
                .replace(option.count(MAX_BATCH_SIZE)?)
                .is_some(),
            "concurrency" => self
                .concurrency
                .replace(option.count(MAX_CONCURRENCY)?)
                .is_some(),
            "batch_format" => self.batch_format.replace(option.format()?).is_some(),
            "on_error" => self.on_error.replace(option.on_error()?).is_some(),
            "max_errors" => self.max_errors.replace(option.bound()?).is_some(),
            "max_error_ratio" => self.max_error_ratio.replace(option.ratio()?).is_some(),
            "passthrough" => self.passthrough.replace(option.columns()?).is_some(),
            "row_preserving" => self.row_preserving.replace(option.truth()?).is_some(),
            "reads" => self.reads.replace(option.columns()?).is_some(),
            _ => return Err(option.unknown()),
        };
        match twice {
            true => Err(PlanError::OptionTwice {
                owner: owner.to_owned(),
                option: name.to_owned(),
            }),
            false => Ok(()),
        }
    }

    /// As the defaults of a function.
    pub fn into_defaults(self) -> CallDefaults {
        CallDefaults {
            batch_size: self.batch_size.flatten(),
            concurrency: self.concurrency.flatten(),
            batch_format: self.batch_format,
            on_error: self.on_error,
            max_errors: self.max_errors.flatten(),
            max_error_ratio: self.max_error_ratio.flatten(),
            passthrough: self.passthrough.unwrap_or_default(),
            row_preserving: self.row_preserving.unwrap_or(false),
            reads: self.reads,
        }
    }

    /// What becomes of rows on which a call of `spec` fails.
    pub fn errors_of(&self, spec: &FunctionSpec) -> ErrorPolicy {
        let defaults = &spec.defaults;
        ErrorPolicy {
            on_error: self.on_error.or(defaults.on_error).unwrap_or_default(),
            max_errors: self.max_errors.unwrap_or(defaults.max_errors),
            max_error_ratio: self.max_error_ratio.unwrap_or(defaults.max_error_ratio),
        }
    }

    /// The first option given that says something of a table function's rows.
    pub fn promise(&self) -> Option<&'static str> {
        let given = [
            ("passthrough", self.passthrough.is_some()),
            ("row_preserving", self.row_preserving.is_some()),
            ("reads", self.reads.is_some()),
        ];
        let mut given = given.into_iter().filter(|(_, given)| *given);
        given.next().map(|(name, _)| name)
    }

    /// Rows of a batch for a call of `spec`; `None`: the block.
    pub fn batch_size_of(&self, spec: &FunctionSpec) -> Option<usize> {
        self.batch_size.unwrap_or(spec.defaults.batch_size)
    }

    /// Workers over the cluster for a call of `spec`; `None`: as many as each
    /// task has cores. A class has one unless told otherwise.
    pub fn concurrency_of(&self, spec: &FunctionSpec) -> Option<usize> {
        let by_kind = match spec.object {
            mobula_udfs::ObjectKind::Class => Some(1),
            mobula_udfs::ObjectKind::Function => None,
        };
        self.concurrency
            .unwrap_or(spec.defaults.concurrency.or(by_kind))
    }

    /// Format of batches for a call of `spec`.
    pub fn batch_format_of(&self, spec: &FunctionSpec) -> BatchFormat {
        self.batch_format
            .or(spec.defaults.batch_format)
            .unwrap_or(BatchFormat::Numpy)
    }
}

/// All options, as a list in a sentence.
pub fn listed() -> String {
    match KNOWN {
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
        [] => String::new(),
    }
}

/// One option as given.
struct Given<'a> {
    owner: &'a str,
    name: &'a str,
    value: &'a Expr,
}

impl Given<'_> {
    /// A count from 1 to `max`, or NULL.
    fn count(&self, max: usize) -> Result<Option<usize>, PlanError> {
        let expected = || self.refused(format!("a count from 1 to {max}, or NULL"));
        match literal(self.value) {
            Some(Literal::Null) => Ok(None),
            Some(Literal::Int(n)) => match usize::try_from(n) {
                Ok(n) if (1..=max).contains(&n) => Ok(Some(n)),
                _ => Err(expected()),
            },
            _ => Err(expected()),
        }
    }

    fn format(&self) -> Result<BatchFormat, PlanError> {
        let text = match literal(self.value) {
            Some(Literal::Text(text)) => BatchFormat::from_str(&text).ok(),
            _ => None,
        };
        text.ok_or_else(|| self.refused(BatchFormat::listed()))
    }

    fn on_error(&self) -> Result<OnError, PlanError> {
        let text = match literal(self.value) {
            Some(Literal::Text(text)) => OnError::from_str(&text).ok(),
            _ => None,
        };
        text.ok_or_else(|| self.refused("'raise', 'null', 'drop' or 'dead_letter'"))
    }

    /// A number of rows, or NULL.
    fn bound(&self) -> Result<Option<u64>, PlanError> {
        match literal(self.value) {
            Some(Literal::Null) => Ok(None),
            Some(Literal::Int(n)) if n >= 0 => Ok(Some(n as u64)),
            _ => Err(self.refused("a number of rows, or NULL")),
        }
    }

    /// A share, or NULL.
    fn ratio(&self) -> Result<Option<f64>, PlanError> {
        match literal(self.value) {
            Some(Literal::Null) => Ok(None),
            Some(Literal::Int(n @ 0..=1)) => Ok(Some(n as f64)),
            Some(Literal::Float(x)) if (0.0..=1.0).contains(&x) => Ok(Some(x)),
            _ => Err(self.refused("a share of the rows from 0 to 1, or NULL")),
        }
    }

    /// `'a, b'` as names.
    fn columns(&self) -> Result<Vec<String>, PlanError> {
        let names: Vec<String> = match literal(self.value) {
            Some(Literal::Text(text)) => text.split(',').map(|n| n.trim().to_owned()).collect(),
            _ => vec![],
        };
        match names.is_empty() || names.iter().any(String::is_empty) {
            true => Err(self.refused("names of columns, as in 'a, b'")),
            false => Ok(names),
        }
    }

    fn truth(&self) -> Result<bool, PlanError> {
        match literal(self.value) {
            Some(Literal::Bool(truth)) => Ok(truth),
            _ => Err(self.refused("true or false")),
        }
    }

    fn refused(&self, expected: impl Display) -> PlanError {
        PlanError::OptionValue {
            owner: self.owner.to_owned(),
            option: self.name.to_owned(),
            value: self.value.to_string(),
            expected: expected.to_string(),
        }
    }

    fn unknown(&self) -> PlanError {
        let (owner, option) = (self.owner.to_owned(), self.name.to_owned());
        match LATER.contains(&self.name) {
            true => PlanError::LaterOption { owner, option },
            false => PlanError::UnknownOption {
                hint: nearest::hint(&option, KNOWN.iter().copied()),
                owner,
                option,
            },
        }
    }
}

/// The literal that `expr` is, if it is one.
pub fn literal(expr: &Expr) -> Option<Literal> {
    match expr {
        Expr::Value(value) => plain_literal(value),
        Expr::Nested(inner) => literal(inner),
        Expr::UnaryOp {
            op: UnaryOperator::Plus,
            expr,
        } => literal(expr),
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => match literal(expr)? {
            Literal::Int(n) => n.checked_neg().map(Literal::Int),
            Literal::Float(x) => Some(Literal::Float(-x)),
            _ => None,
        },
        _ => None,
    }
}

fn plain_literal(value: &ValueWithSpan) -> Option<Literal> {
    match &value.value {
        Value::Null => Some(Literal::Null),
        Value::Boolean(b) => Some(Literal::Bool(*b)),
        Value::Number(text, _) => {
            let text = text.to_string();
            let int = text.parse().map(Literal::Int);
            int.or_else(|_| text.parse().map(Literal::Float)).ok()
        }
        Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => {
            Some(Literal::Text(text.clone()))
        }
        Value::DollarQuotedString(quoted) => Some(Literal::Text(quoted.value.clone())),
        _ => None,
    }
}
