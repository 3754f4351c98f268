//! [`NativeFunction`]s made of closures.
//!
//! A closure is called from several threads at once and keeps nothing between
//! batches; what does is an actor, opened once a worker.

use std::iter;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field};

use super::{NativeBatches, NativeError, NativeFunction, NativeInstance};
use crate::call::Literal;
use crate::resources::Demand;
use crate::spec::{FunctionSpec, ObjectKind, Returns, Volatility};

type Open = dyn Fn(&[(String, Literal)]) -> Result<Box<dyn NativeInstance>, NativeError>
    + Send
    + Sync
    + 'static;

/// A native function; see the constructors.
#[derive(Clone)]
pub struct Native {
    spec: FunctionSpec,
    open: Arc<Open>,
}

impl Native {
    /// A function of values: `code` gets the parameters as columns and gives a
    /// value for each row. Called in expressions, and by `map_batches`, `map` and,
    /// if it returns BOOLEAN, `filter`.
    pub fn scalar<N: Into<String>>(
        name: impl Into<String>,
        params: impl IntoIterator<Item = (N, DataType)>,
        returns: DataType,
        code: impl Fn(&RecordBatch) -> Result<ArrayRef, NativeError> + Send + Sync + 'static,
    ) -> Self {
        let spec = FunctionSpec::native_scalar(name, params, returns);
        Self::of_closure(spec, move |batch| column(code(&batch)?))
    }

    /// A function of whole rows that says which of them stay, for `filter`.
    pub fn filter(
        name: impl Into<String>,
        code: impl Fn(&RecordBatch) -> Result<BooleanArray, NativeError> + Send + Sync + 'static,
    ) -> Self {
        let returns = Returns::Scalar(DataType::Boolean);
        let spec = FunctionSpec::native_table(name, returns);
        Self::of_closure(spec, move |batch| column(Arc::new(code(&batch)?)))
    }

    /// A function of a relation: all columns in, `columns` out, any number of rows.
    /// Called by `map_batches`, and a row at a time by `map` and `flat_map`.
    pub fn table(
        name: impl Into<String>,
        columns: impl IntoIterator<Item = Field>,
        code: impl Fn(RecordBatch) -> Result<RecordBatch, NativeError> + Send + Sync + 'static,
    ) -> Self {
        let spec = FunctionSpec::native_table(name, table_of(columns));
        Self::of_closure(spec, move |batch| Ok(Box::new(iter::once(code(batch)))))
    }

    /// As [`Native::table`], but `code` gives its answer in parts, each made when
    /// there is room for it.
    pub fn generator<I>(
        name: impl Into<String>,
        columns: impl IntoIterator<Item = Field>,
        code: impl Fn(RecordBatch) -> Result<I, NativeError> + Send + Sync + 'static,
    ) -> Self
    where
        I: IntoIterator<Item = Result<RecordBatch, NativeError>> + 'static,
    {
        let spec = FunctionSpec::native_table(name, table_of(columns));
        Self::of_closure(spec, move |batch| Ok(Box::new(code(batch)?.into_iter())))
    }

    /// A function with state: `open` makes an instance for each worker, from the
    /// constructor arguments of the call. Unless `concurrency` says otherwise there
    /// is one worker, which sees all batches.
    pub fn actor<I: NativeInstance + 'static>(
        spec: FunctionSpec,
        open: impl Fn(&[(String, Literal)]) -> Result<I, NativeError> + Send + Sync + 'static,
    ) -> Self {
        let object = ObjectKind::Class;
        Self {
            spec: FunctionSpec { object, ..spec },
            open: Arc::new(move |args| Ok(Box::new(open(args)?))),
        }
    }

    /// The same input gives the same answer, today and tomorrow.
    pub fn immutable(mut self) -> Self {
        self.spec.volatility = Volatility::Immutable;
        self
    }

    /// The same input gives the same answer within one statement.
    pub fn stable(mut self) -> Self {
        self.spec.volatility = Volatility::Stable;
        self
    }

    /// Rows with a NULL argument are not passed and give NULL.
    pub fn strict(mut self) -> Self {
        self.spec.strict = true;
        self
    }

    /// Rows of a batch, unless a call says otherwise.
    pub fn batch_size(mut self, rows: usize) -> Self {
        self.spec.defaults.batch_size = Some(rows);
        self
    }

    /// Workers over the whole cluster, unless a call says otherwise.
    pub fn concurrency(mut self, workers: usize) -> Self {
        self.spec.defaults.concurrency = Some(workers);
        self
    }

    /// What each worker asks for, unless a call says otherwise; memory cannot be asked for.
    pub fn asks_for(mut self, demand: Demand) -> Self {
        self.spec.defaults.demand = demand;
        self
    }

    fn of_closure(
        spec: FunctionSpec,
        code: impl Fn(RecordBatch) -> Result<NativeBatches<'static>, NativeError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let code: Arc<Code> = Arc::new(code);
        Self {
            spec,
            open: Arc::new(move |_| Ok(Box::new(Closure(Arc::clone(&code))))),
        }
    }
}

impl NativeFunction for Native {
    fn spec(&self) -> FunctionSpec {
        self.spec.clone()
    }

    fn open(&self, args: &[(String, Literal)]) -> Result<Box<dyn NativeInstance>, NativeError> {
        (self.open)(args)
    }
}

type Code =
    dyn Fn(RecordBatch) -> Result<NativeBatches<'static>, NativeError> + Send + Sync + 'static;

struct Closure(Arc<Code>);

impl NativeInstance for Closure {
    fn call(&mut self, batch: RecordBatch) -> Result<NativeBatches<'_>, NativeError> {
        (self.0)(batch)
    }
}

fn column(values: ArrayRef) -> Result<NativeBatches<'static>, NativeError> {
    let batch = RecordBatch::try_from_iter([("value", values)])?;
    Ok(Box::new(iter::once(Ok(batch))))
}

fn table_of(columns: impl IntoIterator<Item = Field>) -> Returns {
    let fields: Vec<_> = columns.into_iter().collect();
    Returns::Table(Arc::new(arrow::datatypes::Schema::new(fields)))
}
