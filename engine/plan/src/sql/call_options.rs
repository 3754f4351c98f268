//! Options of a call: how blocks are cut and spread, what becomes of rows that fail,
//! and what a table function promises of its rows.
//!
//! The same stand in `CREATE FUNCTION … WITH (…)`, where they are
//! defaults, and in `map_batches(…, k => v)`, where they decide. Anything else
//! is refused by name: no option is silently ignored.

use std::collections::HashSet;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use mobula_udfs::{
    BatchFormat, CallDefaults, Demand, ErrorPolicy, FunctionSpec, Handling, Literal, OnError,
    Overlap, Returns, Volatility,
};

use crate::config::duration;
use crate::error::PlanError;
use crate::nearest;
use crate::sql::demand_options::{self, DemandOptions};
pub use crate::sql::literal::literal;
use crate::sql::overlap_options::{self, OverlapOptions};
use crate::sql::sql_type::arrow_schema;

/// Most rows of a batch.
pub const MAX_BATCH_SIZE: usize = 1 << 20;
/// Most blocks between two snapshots.
pub const MAX_SNAPSHOT_EVERY: usize = 1 << 20;
/// Most workers of one call over the cluster.
pub const MAX_CONCURRENCY: usize = 1024;

const KNOWN: &[&str] = &[
    "batch_size",
    "concurrency",
    "batch_format",
    "zero_copy_batch",
    "preserve_order",
    "schema",
    "timeout",
    "init_timeout",
    "retry_exceptions",
    "max_retries",
    "on_error",
    "max_errors",
    "max_error_ratio",
    "passthrough",
    "row_preserving",
    "reads",
    "volatility",
    "strict",
    "snapshot_every",
];

/// Options that Ray Data has, and what to do here instead.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "compute",
        "Say how many workers by concurrency => n or 'min..max'",
    ),
    (
        "fn_constructor_args",
        "Write a class's arguments behind its name: f(model => 'big')",
    ),
    (
        "fn_constructor_kwargs",
        "Write a class's arguments behind its name: f(model => 'big')",
    ),
    (
        "fn_args",
        "A class gets arguments behind its name, f(model => 'big'); a function gets what differs from call to call as columns",
    ),
    (
        "fn_kwargs",
        "A class gets arguments behind its name, f(model => 'big'); a function gets what differs from call to call as columns",
    ),
    (
        "max_concurrency",
        "Say how many calls of an async function a worker has in flight by max_in_flight, and how many workers by concurrency",
    ),
    (
        "ray_remote_args",
        "Say what each worker asks for by num_cpus, num_gpus, memory, resources and label_selector",
    ),
    (
        "requirements",
        "Workers use the Python of their executor. Install there what the function imports",
    ),
    (
        "udf_modifying_row_count",
        "Say row_preserving => true of a function that gives a row for each row",
    ),
];

/// Most calls of user code that are made again for one row, batch or group.
pub const MAX_RETRIES: u32 = 1000;

/// Options as given; `None` where not given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CallOptions {
    /// `Some(None)`: the whole block, asked for with NULL.
    pub batch_size: Option<Option<usize>>,
    /// `Some(None)`: as many workers as the task has cores, asked for with NULL.
    pub concurrency: Option<Option<usize>>,
    /// Workers to start with, of those of `concurrency`.
    pub min_workers: Option<usize>,
    pub batch_format: Option<BatchFormat>,
    pub zero_copy_batch: Option<bool>,
    pub preserve_order: Option<bool>,
    /// The table that a function returns, instead of the declared one.
    pub schema: Option<SchemaRef>,
    /// `Some(None)`: as the session is set, asked for with NULL.
    pub timeout: Option<Option<Duration>>,
    /// `Some(None)`: as the process is set.
    pub init_timeout: Option<Option<Duration>>,
    /// `Some(vec![])`: none, asked for with NULL.
    pub retry_exceptions: Option<Vec<String>>,
    pub max_retries: Option<u32>,
    pub on_error: Option<OnError>,
    /// `Some(None)`: no bound, asked for with NULL; as is the next.
    pub max_errors: Option<Option<u64>>,
    pub max_error_ratio: Option<Option<f64>>,
    /// Columns of the output that equal the input's.
    pub passthrough: Option<Vec<String>>,
    pub row_preserving: Option<bool>,
    /// Columns of the input that matter.
    pub reads: Option<Vec<String>>,
    /// Instead of what the function declares, as is the next.
    pub volatility: Option<Volatility>,
    pub strict: Option<bool>,
    /// What each worker asks for.
    pub demand: DemandOptions,
    /// How many calls of an async function run at a time.
    pub overlap: OverlapOptions,
    /// Blocks after which keyed actors tell their state; `Some(None)`: as the session is
    /// set, asked for with NULL.
    pub snapshot_every: Option<Option<usize>>,
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
            "concurrency" => {
                let (least, most) = option.workers()?;
                self.min_workers = least;
                self.concurrency.replace(most).is_some()
            }
            "zero_copy_batch" => self.zero_copy_batch.replace(option.truth()?).is_some(),
            "preserve_order" => self.preserve_order.replace(option.truth()?).is_some(),
            "schema" => self.schema.replace(option.schema()?).is_some(),
            "timeout" => self.timeout.replace(option.time()?).is_some(),
            "init_timeout" => self.init_timeout.replace(option.time()?).is_some(),
            "retry_exceptions" => self
                .retry_exceptions
                .replace(option.exceptions()?)
                .is_some(),
            "max_retries" => self.max_retries.replace(option.retries()?).is_some(),
            "batch_format" => self.batch_format.replace(option.format()?).is_some(),
            "on_error" => self.on_error.replace(option.on_error()?).is_some(),
            "max_errors" => self.max_errors.replace(option.bound()?).is_some(),
            "max_error_ratio" => self.max_error_ratio.replace(option.ratio()?).is_some(),
            "passthrough" => self.passthrough.replace(option.columns()?).is_some(),
            "row_preserving" => self.row_preserving.replace(option.truth()?).is_some(),
            "reads" => self.reads.replace(option.columns()?).is_some(),
            "volatility" => self.volatility.replace(option.volatility()?).is_some(),
            "strict" => self.strict.replace(option.truth()?).is_some(),
            "snapshot_every" => {
                let every = option.count(MAX_SNAPSHOT_EVERY)?;
                self.snapshot_every.replace(every).is_some()
            }
            _ => match (self.demand.set(name, value)).or_else(|| self.overlap.set(name, value)) {
                Some(set) => set.map_err(|expected| option.refused(expected))?,
                None => return Err(option.unknown()),
            },
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
            min_workers: self.min_workers,
            retry_exceptions: self.retry_exceptions,
            max_retries: self.max_retries,
            zero_copy_batch: self.zero_copy_batch,
            preserve_order: self.preserve_order,
            timeout: self.timeout.flatten(),
            init_timeout: self.init_timeout.flatten(),
            on_error: self.on_error,
            max_errors: self.max_errors.flatten(),
            max_error_ratio: self.max_error_ratio.flatten(),
            passthrough: self.passthrough.unwrap_or_default(),
            row_preserving: self.row_preserving.unwrap_or(false),
            reads: self.reads,
            demand: self.demand.over(&Demand::default()),
            overlap: self.overlap.over(&Overlap::default()),
            snapshot_every: self.snapshot_every.flatten().map(|every| every as u64),
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

    /// How the blocks of a call of `spec` are handled.
    pub fn handling_of(&self, spec: &FunctionSpec) -> Handling {
        let (defaults, none) = (&spec.defaults, Handling::default());
        let retry_exceptions = self.retry_exceptions.as_ref();
        let retry_exceptions = retry_exceptions.or(defaults.retry_exceptions.as_ref());
        let zero_copy_batch = self.zero_copy_batch.or(defaults.zero_copy_batch);
        Handling {
            retry_exceptions: retry_exceptions.cloned().unwrap_or_default(),
            max_retries: (self.max_retries.or(defaults.max_retries)).unwrap_or(none.max_retries),
            zero_copy_batch: zero_copy_batch.unwrap_or(none.zero_copy_batch),
            preserve_order: self.preserve_order.or(defaults.preserve_order),
            min_workers: match self.concurrency {
                Some(_) => self.min_workers,
                None => defaults.min_workers,
            },
            timeout: self.timeout.unwrap_or(defaults.timeout),
            init_timeout: self.init_timeout.unwrap_or(defaults.init_timeout),
            demand: self.demand.over(&defaults.demand),
            overlap: self.overlap.over(&defaults.overlap),
            keyed: None,
        }
    }

    /// `spec` as this call declares it.
    ///
    /// # Errors
    /// [`PlanError::TableOption`] where it returns a value.
    pub fn declare(&self, spec: Arc<FunctionSpec>) -> Result<Arc<FunctionSpec>, PlanError> {
        if self.schema.is_some() && !spec.is_table() {
            return Err(PlanError::TableOption {
                function: spec.name.clone(),
                option: "schema".to_owned(),
            });
        }
        let mut declared = spec.as_ref().clone();
        if let Some(schema) = &self.schema {
            declared.returns = Returns::Table(Arc::clone(schema));
        }
        declared.volatility = self.volatility.unwrap_or(declared.volatility);
        declared.strict = self.strict.unwrap_or(declared.strict);
        match declared == *spec {
            true => Ok(spec),
            false => Ok(Arc::new(declared)),
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
    /// task has cores. A class, an async function and whatever takes resources have one
    /// unless told otherwise.
    pub fn concurrency_of(&self, spec: &FunctionSpec) -> Option<usize> {
        let keeps = spec.object != mobula_udfs::ObjectKind::Function;
        let takes = || self.demand.over(&spec.defaults.demand).takes_resources();
        let by_kind = (keeps || takes()).then_some(1);
        self.concurrency
            .unwrap_or(spec.defaults.concurrency.or(by_kind))
    }

    /// Blocks between two snapshots of keyed actors of `spec`; 0: as the session is set.
    pub fn snapshot_every_of(&self, spec: &FunctionSpec) -> u64 {
        let own = self
            .snapshot_every
            .map(|every| every.map(|every| every as u64));
        own.unwrap_or(spec.defaults.snapshot_every).unwrap_or(0)
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
    match known().as_slice() {
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
        [] => String::new(),
    }
}

fn known() -> Vec<&'static str> {
    let demand = demand_options::NAMES.iter();
    let others = demand.chain(&overlap_options::NAMES);
    KNOWN.iter().chain(others).copied().collect()
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

    /// A count of workers, or `'min..max'`: those to start with, and most.
    fn workers(&self) -> Result<(Option<usize>, Option<usize>), PlanError> {
        let Some(Literal::Text(text)) = literal(self.value) else {
            let expected =
                format!("a count of workers from 1 to {MAX_CONCURRENCY}, 'min..max', or NULL");
            return match self.count(MAX_CONCURRENCY) {
                Ok(most) => Ok((None, most)),
                Err(_) => Err(self.refused(expected)),
            };
        };
        let range = text.split_once("..");
        let range = range.map(|(least, most)| (least.trim().parse(), most.trim().parse()));
        match range {
            Some((Ok(least), Ok(most)))
                if 1 <= least && least <= most && most <= MAX_CONCURRENCY =>
            {
                Ok((Some(least), Some(most)))
            }
            _ => Err(self.refused(format!(
                "a range 'min..max' with 1 <= min <= max <= {MAX_CONCURRENCY}, as in '1..4'"
            ))),
        }
    }

    /// A time such as `'30s'`, seconds, or NULL.
    fn time(&self) -> Result<Option<Duration>, PlanError> {
        let time = match literal(self.value) {
            Some(Literal::Null) => return Ok(None),
            Some(Literal::Int(n)) => u64::try_from(n).ok().map(Duration::from_secs),
            Some(Literal::Float(seconds)) => Duration::try_from_secs_f64(seconds).ok(),
            Some(Literal::Text(text)) => duration(&text),
            _ => None,
        };
        match time.filter(|time| !time.is_zero()) {
            Some(time) => Ok(Some(time)),
            None => {
                Err(self
                    .refused("a time above 0, as in '30s', '1500ms' or 1.5 for seconds, or NULL"))
            }
        }
    }

    /// `'ConnectionError, TimeoutError'`, true for every exception, or none.
    fn exceptions(&self) -> Result<Vec<String>, PlanError> {
        let is_name = |name: &String| {
            let is_truth = ["true", "false"]
                .iter()
                .any(|t| name.eq_ignore_ascii_case(t));
            let mut parts = name.split('.');
            !is_truth
                && parts.all(|part| {
                    let starts = part.starts_with(|c: char| c.is_alphabetic() || c == '_');
                    starts && part.chars().all(|c| c.is_alphanumeric() || c == '_')
                })
        };
        let names = match literal(self.value) {
            Some(Literal::Null | Literal::Bool(false)) => return Ok(vec![]),
            Some(Literal::Bool(true)) => return Ok(vec!["Exception".to_owned()]),
            Some(Literal::Text(_)) => self.columns().ok(),
            _ => None,
        };
        names.filter(|names| names.iter().all(is_name)).ok_or_else(|| {
            self.refused("names of Python exceptions, as in 'ConnectionError, TimeoutError', true for all, or NULL")
        })
    }

    /// `'a BIGINT, b VARCHAR'` as columns.
    fn schema(&self) -> Result<SchemaRef, PlanError> {
        let expected = "columns, each once, with their types, as in 'a BIGINT, b VARCHAR'";
        let refused = |problem: String| self.refused(format!("{expected} ({problem})"));
        let Some(Literal::Text(text)) = literal(self.value) else {
            return Err(self.refused(expected));
        };
        let columns = Parser::new(&GenericDialect {})
            .try_with_sql(&format!("({text})"))
            .and_then(|mut parser| {
                let (columns, _) = parser.parse_columns()?;
                parser.expect_token(&Token::EOF).map(|_| columns)
            })
            .map_err(|error| refused(error.to_string()))?;
        // Nobody would check them.
        if let Some(column) = columns.iter().find(|column| !column.options.is_empty()) {
            let name = &column.name;
            return Err(refused(format!("{name} has more than a type")));
        }
        let schema = arrow_schema(columns).map_err(|error| refused(error.strip_backtrace()))?;
        let names: HashSet<_> = schema.fields().iter().map(|field| field.name()).collect();
        match !names.is_empty() && names.len() == schema.fields().len() {
            true => Ok(Arc::new(schema)),
            false => Err(self.refused(expected)),
        }
    }

    fn retries(&self) -> Result<u32, PlanError> {
        match literal(self.value) {
            Some(Literal::Int(n)) if (0..=i64::from(MAX_RETRIES)).contains(&n) => Ok(n as u32),
            _ => Err(self.refused(format!("a number of calls from 0 to {MAX_RETRIES}"))),
        }
    }

    fn format(&self) -> Result<BatchFormat, PlanError> {
        let text = match literal(self.value) {
            Some(Literal::Text(text)) => BatchFormat::from_str(&text).ok(),
            _ => None,
        };
        text.ok_or_else(|| self.refused(BatchFormat::listed()))
    }

    fn volatility(&self) -> Result<Volatility, PlanError> {
        let text = match literal(self.value) {
            Some(Literal::Text(text)) => text.to_lowercase(),
            _ => String::new(),
        };
        match text.as_str() {
            "immutable" => Ok(Volatility::Immutable),
            "stable" => Ok(Volatility::Stable),
            "volatile" => Ok(Volatility::Volatile),
            _ => Err(self.refused("'immutable', 'stable' or 'volatile'")),
        }
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
        match ELSEWHERE.iter().find(|(name, _)| *name == self.name) {
            Some((_, instead)) => PlanError::OptionElsewhere {
                owner,
                option,
                instead,
            },
            None => PlanError::UnknownOption {
                hint: nearest::hint(&option, known()),
                owner,
                option,
            },
        }
    }
}
