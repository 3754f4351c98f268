//! One use of a function, as written: which function, built how, called how.
//!
//! Made by the relation planner and by the hoist rule; carried by the node; the
//! physical planner turns it into a [`UdfCall`], which also knows the schemas.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use mobula_block::plain::plain_schema;
use mobula_udfs::{
    BatchFormat, CallMode, ErrorPolicy, FunctionSpec, Handling, Keyed, Literal, ParamKind, Returns,
    UdfCall, Volatility,
};

use super::grouping::starts_field;
use crate::error::PlanError;
use crate::operator::Operator;
use crate::sql::call_options::CallOptions;

/// A function with the options of one call.
#[derive(Debug, Clone)]
pub struct FunctionCall {
    spec: Arc<FunctionSpec>,
    mode: CallMode,
    /// Keyword arguments of a class's constructor.
    args: Vec<(String, Literal)>,
    /// Those of `args` that wait for the value of a parameter: their names, and its.
    parameters: Vec<(String, String)>,
    batch_size: Option<usize>,
    batch_format: BatchFormat,
    concurrency: Option<usize>,
    errors: ErrorPolicy,
    handling: Handling,
    passthrough: Vec<String>,
    row_preserving: bool,
    reads: Option<Vec<String>>,
    /// Whether an ORDER BY inside the input decides the order of the calls.
    in_order: bool,
    /// Text that is equal exactly when two calls are.
    identity: String,
}

impl FunctionCall {
    /// A call of `spec` with `options`, else the function's defaults.
    pub fn new(
        spec: Arc<FunctionSpec>,
        mode: CallMode,
        args: Vec<(String, Literal)>,
        options: &CallOptions,
    ) -> Self {
        // A method whose hints are plain types is not given arrays.
        let by_row = spec.actor.as_ref().is_some_and(|method| method.by_row);
        let mode = match mode {
            CallMode::Batches if by_row => CallMode::Map,
            mode => mode,
        };
        let batch_size = options.batch_size_of(&spec);
        let batch_format = options.batch_format_of(&spec);
        let concurrency = options.concurrency_of(&spec);
        let errors = options.errors_of(&spec);
        let handling = options.handling_of(&spec);
        let promised = spec.defaults.clone();
        let passthrough = options.passthrough.clone();
        let passthrough = passthrough.unwrap_or(promised.passthrough);
        let row_preserving = options.row_preserving.unwrap_or(promised.row_preserving);
        let reads = options.reads.clone().or(promised.reads);
        let identity = format!(
            "{} {} {mode:?} {args:?} {batch_size:?} {batch_format} {concurrency:?} {errors:?} \
             {handling:?} {passthrough:?} {row_preserving} {reads:?}",
            spec.name,
            spec.hash()
        );
        Self {
            spec,
            mode,
            args,
            parameters: vec![],
            batch_size,
            batch_format,
            concurrency,
            errors,
            handling,
            passthrough,
            row_preserving,
            reads,
            in_order: false,
            identity,
        }
    }

    /// A call that is built with `parameters`, as pairs of an argument and the parameter
    /// whose value it gets.
    pub fn with_parameters(mut self, parameters: Vec<(String, String)>) -> Self {
        if !parameters.is_empty() {
            self.identity.push_str(&format!(" with {parameters:?}"));
            self.parameters = parameters;
        }
        self
    }

    /// Its parameters that have no value yet.
    pub fn parameters(&self) -> &[(String, String)] {
        &self.parameters
    }

    /// The call with what `value` says of each of its parameters.
    ///
    /// # Errors
    /// What `value` refuses.
    pub fn with_values<E>(mut self, value: impl Fn(&str) -> Result<Literal, E>) -> Result<Self, E> {
        for (name, parameter) in std::mem::take(&mut self.parameters) {
            let literal = value(&parameter)?;
            self.identity.push_str(&format!(" {name} => {literal:?}"));
            if let Some((_, arg)) = self.args.iter_mut().find(|(arg, _)| *arg == name) {
                *arg = literal;
            }
        }
        Ok(self)
    }

    /// A call that an ORDER BY inside the input has a meaning for.
    pub fn in_order(mut self) -> Self {
        self.in_order = true;
        self.identity.push_str(" in order");
        self
    }

    /// A call whose rows go to actors by key; these tell their state after so many blocks,
    /// 0: as the session is set.
    pub fn keyed(mut self, snapshot_every: u64) -> Self {
        self.handling.keyed = Some(Keyed {
            snapshot_every,
            ..Keyed::default()
        });
        self.identity.push_str(" keyed ");
        self.identity.push_str(&snapshot_every.to_string());
        self
    }

    pub fn is_in_order(&self) -> bool {
        self.in_order
    }

    pub fn spec(&self) -> &Arc<FunctionSpec> {
        &self.spec
    }

    pub fn mode(&self) -> CallMode {
        self.mode
    }

    /// The operator it is called by.
    pub fn operator(&self) -> &'static Operator {
        Operator::of(self.mode)
    }

    /// Columns of a table function's rows that are those of the input row.
    pub fn passthrough(&self) -> &[String] {
        &self.passthrough
    }

    /// Whether a row comes out of each row that goes in.
    pub fn keeps_rows(&self) -> bool {
        let promised = self.row_preserving || self.mode == CallMode::Map;
        promised && !self.errors.on_error.drops_rows()
    }

    /// The input columns that a table function takes; `None`: all.
    pub fn reads(&self) -> Option<&[String]> {
        self.reads.as_deref()
    }

    /// What it was promised of a table function's rows, for EXPLAIN.
    pub(super) fn write_promises(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.passthrough.is_empty() {
            write!(f, ", passthrough=[{}]", self.passthrough.join(", "))?;
        }
        match &self.reads {
            Some(reads) => write!(f, ", reads=[{}]", reads.join(", ")),
            None => Ok(()),
        }
    }

    /// Workers over the whole cluster; `None`: the cores of each task.
    pub fn concurrency(&self) -> Option<usize> {
        self.concurrency
    }

    /// What becomes of rows that fail.
    pub fn errors(&self) -> &ErrorPolicy {
        &self.errors
    }

    /// Refuses what an expression cannot do.
    ///
    /// # Errors
    /// [`PlanError::DropsRows`].
    pub fn refuse_dropped_rows(&self) -> Result<(), PlanError> {
        match self.errors.on_error.drops_rows() {
            true => Err(PlanError::DropsRows {
                function: self.spec.name.clone(),
                on_error: self.errors.on_error.to_string(),
            }),
            false => Ok(()),
        }
    }

    /// Whether two evaluations may differ.
    pub fn is_volatile(&self) -> bool {
        self.spec.volatility == Volatility::Volatile
    }

    /// This call over an input of `input`, giving a column `result` if the
    /// function gives a value. What the worker sees has plain types and may be NULL
    /// everywhere.
    pub fn over(&self, input: &Schema, result: &str) -> UdfCall {
        let input = match self.spec.takes_table() {
            false => self.parameter_schema(),
            true if self.mode == CallMode::Groups => {
                let columns = nullable(&plain_schema(input));
                let columns = columns.fields().iter().cloned();
                let columns = columns.chain([Arc::new(starts_field())]);
                Arc::new(Schema::new(columns.collect::<Vec<_>>()))
            }
            true => nullable(&plain_schema(input)),
        };
        let output = match &self.spec.returns {
            Returns::Scalar(data_type) => Arc::new(Schema::new(vec![Field::new(
                result,
                data_type.clone(),
                true,
            )])),
            Returns::Table(schema) => Arc::clone(schema),
        };
        UdfCall {
            spec: Arc::clone(&self.spec),
            mode: self.mode,
            args: self.args.clone(),
            batch_size: self.batch_size,
            batch_format: self.batch_format,
            errors: self.errors,
            handling: self.handling.clone(),
            input,
            output,
            timeout: None,
            max_errors: None,
            query: String::new(),
            priority: Default::default(),
            steps: vec![],
        }
    }

    fn parameter_schema(&self) -> SchemaRef {
        let values = self
            .spec
            .params
            .iter()
            .filter_map(|param| match &param.kind {
                ParamKind::Value(t) => Some(Field::new(&param.name, t.clone(), true)),
                ParamKind::Table => None,
            });
        nullable(&plain_schema(&Schema::new(values.collect::<Vec<_>>())))
    }
}

/// `embed(model => 'big')`, or the bare name.
impl fmt::Display for FunctionCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_call(f, &self.spec.name, &self.args)
    }
}

/// Writes a function's name with its constructor's arguments.
pub(super) fn write_call(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    args: &[(String, Literal)],
) -> fmt::Result {
    write!(f, "{name}")?;
    if args.is_empty() {
        return Ok(());
    }
    let texts = args.iter().map(|(name, value)| match value {
        Literal::Null => format!("{name} => NULL"),
        Literal::Bool(b) => format!("{name} => {b}"),
        Literal::Int(n) => format!("{name} => {n}"),
        Literal::Float(x) => format!("{name} => {x:?}"),
        Literal::Text(t) => format!("{name} => '{}'", t.replace('\'', "''")),
    });
    write!(f, "({})", texts.collect::<Vec<_>>().join(", "))
}

fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

impl PartialEq for FunctionCall {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl Eq for FunctionCall {}

impl Hash for FunctionCall {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity.hash(state);
    }
}

impl PartialOrd for FunctionCall {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.identity.cmp(&other.identity))
    }
}
