//! Functions in Rust that a program adds to its engine and executors.
//!
//! Fixed when an engine or an executor starts: whatever a plan may name is there
//! from its first query on. Every process of a cluster must be started with the same
//! ones, that is, from one build of one program.

use std::sync::Arc;

use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use mobula_plan::udf::check_name_is_free;
use mobula_plan::{FunctionCatalog, PlanError};
use mobula_udfs::{NativeFunction, NativeFunctions, UdfError};

/// Functions in Rust: Mobula's native ones, and DataFusion's own kinds.
///
/// A native function runs beside the plan, in as many workers as the call asks for,
/// and may keep state, give other rows and answer in parts. A [`ScalarUDF`] runs
/// inside the plan's expressions: cheaper for what is pure and fast, and DataFusion
/// simplifies and pushes it as it does its own.
#[derive(Debug, Clone, Default)]
pub struct RustFunctions {
    native: NativeFunctions,
    scalar: Vec<Arc<ScalarUDF>>,
    aggregate: Vec<Arc<AggregateUDF>>,
    window: Vec<Arc<WindowUDF>>,
}

impl RustFunctions {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a native function.
    ///
    /// # Errors
    /// [`UdfError::NativeDeclaration`].
    pub fn with_native(mut self, function: impl NativeFunction) -> Result<Self, UdfError> {
        self.native.insert(function)?;
        Ok(self)
    }

    /// Adds a scalar function of DataFusion.
    pub fn with_scalar(mut self, function: impl Into<Arc<ScalarUDF>>) -> Self {
        self.scalar.push(function.into());
        self
    }

    /// Adds an aggregate function of DataFusion.
    pub fn with_aggregate(mut self, function: impl Into<Arc<AggregateUDF>>) -> Self {
        self.aggregate.push(function.into());
        self
    }

    /// Adds a window function of DataFusion.
    pub fn with_window(mut self, function: impl Into<Arc<WindowUDF>>) -> Self {
        self.window.push(function.into());
        self
    }

    pub(crate) fn native(&self) -> &NativeFunctions {
        &self.native
    }

    /// Adds DataFusion's kinds to a session that has its default functions.
    pub(crate) fn register(&self, builder: &mut SessionStateBuilder) {
        let scalar = builder.scalar_functions().get_or_insert_default();
        scalar.extend(self.scalar.iter().cloned());
        let aggregate = builder.aggregate_functions().get_or_insert_default();
        aggregate.extend(self.aggregate.iter().cloned());
        let window = builder.window_functions().get_or_insert_default();
        window.extend(self.window.iter().cloned());
    }

    /// A new catalog with the native functions.
    ///
    /// # Errors
    /// [`PlanError::BuiltIn`] for one whose name SQL would not find.
    pub(crate) fn catalog(&self) -> Result<FunctionCatalog, PlanError> {
        let catalog = FunctionCatalog::default();
        let mut specs = self.native.specs().peekable();
        if specs.peek().is_none() {
            return Ok(catalog);
        }
        let names = self.names();
        for spec in specs {
            check_name_is_free(&names, &spec.name)?;
            catalog.insert(Arc::clone(spec));
        }
        Ok(catalog)
    }

    /// A session that knows every name but those of native functions.
    fn names(&self) -> SessionState {
        let mut builder = SessionStateBuilder::new().with_default_features();
        self.register(&mut builder);
        builder.build()
    }
}
