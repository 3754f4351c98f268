//! A declared scalar function, Python or native, as DataFusion's `ScalarUDF`.
//!
//! DataFusion needs it to resolve names, check arguments and coerce types; it
//! never runs it: [`crate::rule::hoist_udf`] moves every call into a
//! `MapBatches` node before the optimizer sees the plan. Two of them are equal
//! when their declarations are.

use std::any::Any;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TypeSignature, Volatility,
};
use mobula_udfs::{FunctionSpec, ParamKind, Returns};

use crate::error::PlanError;
use crate::function_catalog::FunctionCatalog;
use crate::operator::Operator;
use crate::operator::map_batches::MapBatchesNode;

/// A declared scalar function, for DataFusion's eyes.
#[derive(Debug)]
pub struct PythonFunction {
    spec: Arc<FunctionSpec>,
    hash: String,
    signature: Signature,
}

impl PythonFunction {
    pub fn new(spec: Arc<FunctionSpec>) -> Self {
        let volatility = match spec.volatility {
            mobula_udfs::Volatility::Immutable => Volatility::Immutable,
            mobula_udfs::Volatility::Stable => Volatility::Stable,
            mobula_udfs::Volatility::Volatile => Volatility::Volatile,
        };
        let mut signature = Signature::new(TypeSignature::UserDefined, volatility);
        // Names that repeat are refused at CREATE FUNCTION.
        signature.parameter_names = Some(spec.params.iter().map(|p| p.name.clone()).collect());
        Self {
            hash: spec.hash(),
            signature,
            spec,
        }
    }

    /// The declaration.
    pub fn spec(&self) -> &Arc<FunctionSpec> {
        &self.spec
    }

    /// The Python function behind `udf`, if it is one.
    pub fn of(udf: &ScalarUDF) -> Option<&Self> {
        (udf.inner().as_ref() as &dyn Any).downcast_ref()
    }

    /// The declaration of the Python function that `expr` calls, if it does.
    pub fn called_by(expr: &Expr) -> Option<&Arc<FunctionSpec>> {
        match expr {
            Expr::ScalarFunction(call) => Self::of(&call.func).map(Self::spec),
            _ => None,
        }
    }
}

impl PartialEq for PythonFunction {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for PythonFunction {}

impl Hash for PythonFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl ScalarUDFImpl for PythonFunction {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        check_method(&self.spec)?;
        check_arguments(&self.spec, arg_types.iter())?;
        match &self.spec.returns {
            Returns::Scalar(data_type) => Ok(data_type.clone()),
            Returns::Table(_) => Err(PlanError::TableFunction {
                function: self.spec.name.clone(),
            }
            .into()),
        }
    }

    /// Arguments that cannot be coerced keep their type: DataFusion would bury
    /// our error in its own, while that of [`Self::return_type`] arrives as is.
    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let wanted = self.spec.params.iter().map(|param| match &param.kind {
            ParamKind::Value(wanted) => Some(wanted),
            ParamKind::Table => None,
        });
        let pairs = arg_types.iter().zip(wanted.chain(std::iter::repeat(None)));
        let coerced = pairs.map(|(found, wanted)| match wanted {
            Some(wanted) if accepts(wanted, found) => wanted.clone(),
            _ => found.clone(),
        });
        Ok(coerced.collect())
    }

    fn is_strict(&self) -> bool {
        self.spec.strict
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!(
            "the call of function \"{}\" was not moved into a worker: plan with a session built with_mobula",
            self.spec.name
        )
    }
}

/// `spec` as a function DataFusion resolves.
pub fn scalar_udf(spec: Arc<FunctionSpec>) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(PythonFunction::new(spec)))
}

/// Makes the Python functions of `state` those of `functions`: adds new ones,
/// replaces changed ones, takes out those that are gone. A function of
/// DataFusion is never shadowed.
pub fn sync_functions(state: &mut SessionState, functions: &FunctionCatalog) {
    let known = state.scalar_functions();
    let gone: Vec<String> = known
        .iter()
        .filter(|(_, udf)| PythonFunction::of(udf).is_some())
        .filter(|(name, _)| functions.get(name).is_none())
        .map(|(name, _)| name.clone())
        .collect();
    // Table functions too: called like a scalar, they say how they are called.
    let wanted = functions.list().into_iter();
    let new: Vec<_> = wanted
        .filter(|spec| match known.get(&spec.name) {
            Some(udf) => PythonFunction::of(udf).is_some_and(|ours| !Arc::ptr_eq(&ours.spec, spec)),
            None => true,
        })
        .collect();
    for name in gone {
        if let Err(error) = state.deregister_udf(&name) {
            tracing::warn!(name, %error, "function stays registered");
        }
    }
    for spec in new {
        let name = spec.name.clone();
        if let Err(error) = state.register_udf(scalar_udf(spec)) {
            tracing::warn!(name, %error, "function cannot be registered");
        }
    }
}

/// Refuses a new function that has the name of one of DataFusion's, or of one that
/// the program registered there.
///
/// # Errors
/// [`PlanError::BuiltIn`].
pub fn check_name_is_free(state: &SessionState, name: &str) -> Result<(), PlanError> {
    let scalar = state.scalar_functions().get(name);
    let taken = scalar.is_some_and(|udf| PythonFunction::of(udf).is_none())
        || state.aggregate_functions().contains_key(name)
        || state.window_functions().contains_key(name)
        || state.higher_order_functions().contains_key(name)
        || state.table_functions().contains_key(name)
        // The planner's own, in no list.
        || name == "unnest"
        || Operator::named(name).is_some();
    match taken {
        true => Err(PlanError::BuiltIn {
            function: name.to_owned(),
        }),
        false => Ok(()),
    }
}

/// The declarations of all functions that `plan`, as it was before the rules, calls: in
/// expressions and in operators, once for each call.
///
/// # Errors
/// None that walking a plan has.
pub fn called_functions(plan: &LogicalPlan) -> Result<Vec<Arc<FunctionSpec>>> {
    let mut called = vec![];
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Extension(extension) = node
            && let Some(operator) = extension.node.as_any().downcast_ref::<MapBatchesNode>()
        {
            called.push(Arc::clone(operator.call().spec()));
        }
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                called.extend(PythonFunction::called_by(expr).cloned());
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(called)
}

/// Refuses a method that cannot be called, with the reason.
///
/// # Errors
/// [`PlanError::Method`].
pub fn check_method(spec: &FunctionSpec) -> Result<(), PlanError> {
    let problem = spec.actor.as_ref().and_then(|m| m.problem.as_ref());
    match problem {
        Some(problem) => Err(PlanError::Method {
            method: spec.name.clone(),
            problem: problem.clone(),
        }),
        None => Ok(()),
    }
}

/// Refuses arguments whose number or types do not fit `spec`.
///
/// # Errors
/// [`PlanError::ArgumentCount`], [`PlanError::ArgumentType`] and, for a table
/// parameter, [`PlanError::TableFunction`].
pub fn check_arguments<'a>(
    spec: &FunctionSpec,
    found: impl ExactSizeIterator<Item = &'a DataType>,
) -> Result<(), PlanError> {
    if found.len() != spec.params.len() {
        return Err(PlanError::ArgumentCount {
            function: spec.name.clone(),
            wanted: spec.params.len(),
            found: found.len(),
        });
    }
    for (i, (param, found)) in spec.params.iter().zip(found).enumerate() {
        match &param.kind {
            ParamKind::Value(wanted) if accepts(wanted, found) => {}
            ParamKind::Value(wanted) => {
                return Err(PlanError::ArgumentType {
                    function: spec.name.clone(),
                    parameter: param.name.clone(),
                    position: i + 1,
                    wanted: wanted.to_string(),
                    found: found.to_string(),
                });
            }
            ParamKind::Table => {
                let function = spec.name.clone();
                return Err(match spec.is_table() {
                    true => PlanError::TableFunction { function },
                    false => PlanError::RowFunction { function },
                });
            }
        }
    }
    Ok(())
}

/// Digits behind the point that a number may have.
fn decimals(number: &DataType) -> i32 {
    use DataType as T;
    match number {
        number if number.is_floating() => i32::MAX,
        T::Decimal32(_, scale)
        | T::Decimal64(_, scale)
        | T::Decimal128(_, scale)
        | T::Decimal256(_, scale) => i32::from(*scale),
        _ => 0,
    }
}

/// Whether a value of type `found` may be cast to `wanted` without the user's
/// word: within numbers, within texts, within bytes, text to times, NULL to all; but
/// not where digits behind the point, or the time of day, would be cut off.
pub fn accepts(wanted: &DataType, found: &DataType) -> bool {
    use DataType as T;
    let text = |t: &T| matches!(t, T::Utf8 | T::LargeUtf8 | T::Utf8View);
    let binary = |t: &T| {
        matches!(
            t,
            T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_)
        )
    };
    match (wanted, found) {
        (a, b) if a == b => true,
        (_, T::Null) => true,
        (a, T::Dictionary(_, value)) => accepts(a, value),
        (a, T::RunEndEncoded(_, value)) => accepts(a, value.data_type()),
        (a, b) if a.is_numeric() && b.is_numeric() => decimals(a) >= decimals(b),
        (T::Date32 | T::Date64, T::Timestamp(..)) => false,
        (T::Time32(_) | T::Time64(_), T::Timestamp(..)) => false,
        (a, b) if text(a) && text(b) => true,
        (a, b) if binary(a) && binary(b) => true,
        (a, b) if a.is_temporal() && (b.is_temporal() || text(b)) => {
            arrow::compute::can_cast_types(b, a)
        }
        (a, b) => match (element(a), element(b)) {
            (Some(x), Some(y)) => accepts(x, y) && arrow::compute::can_cast_types(b, a),
            _ => same_struct(a, b),
        },
    }
}

fn element(list: &DataType) -> Option<&DataType> {
    match list {
        DataType::List(f)
        | DataType::LargeList(f)
        | DataType::ListView(f)
        | DataType::LargeListView(f)
        | DataType::FixedSizeList(f, _) => Some(f.data_type()),
        _ => None,
    }
}

/// Structs go together when their fields do, by name and in order.
fn same_struct(a: &DataType, b: &DataType) -> bool {
    let (DataType::Struct(a), DataType::Struct(b)) = (a, b) else {
        return false;
    };
    let pairs = || a.iter().zip(b);
    a.len() == b.len()
        && pairs().all(|(x, y)| x.name() == y.name() && accepts(x.data_type(), y.data_type()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{Field, TimeUnit};

    #[test]
    fn casts_within_a_family_need_no_word() {
        use DataType as T;
        let list = |t: T| T::List(Arc::new(Field::new("item", t, true)));
        for (wanted, found, ok) in [
            (T::Float64, T::Decimal128(15, 2), true),
            (T::Int32, T::Int64, true),
            (T::Utf8, T::Utf8View, true),
            (
                T::Utf8,
                T::Dictionary(Box::new(T::Int8), Box::new(T::Utf8)),
                true,
            ),
            (T::Date32, T::Utf8, true),
            (T::Int64, T::Null, true),
            (list(T::Float32), list(T::Float64), true),
            (T::Decimal128(10, 2), T::Decimal128(15, 2), true),
            (T::Decimal128(10, 2), T::Float64, false),
            (T::Decimal128(10, 2), T::Decimal128(15, 3), false),
            (T::Int64, T::Decimal128(15, 0), true),
            (T::Int64, T::Decimal128(15, 2), false),
            (T::Int64, T::Float32, false),
            (T::Float32, T::Float64, true),
            (T::Date32, T::Timestamp(TimeUnit::Microsecond, None), false),
            (T::Timestamp(TimeUnit::Microsecond, None), T::Date32, true),
            (T::Int64, T::Utf8, false),
            (T::Utf8, T::Int64, false),
            (T::Boolean, T::Int64, false),
            (T::Int64, T::Boolean, false),
            (list(T::Int64), list(T::Utf8), false),
            (list(T::Int64), T::Int64, false),
        ] {
            assert_eq!(accepts(&wanted, &found), ok, "{wanted} from {found}");
        }
    }
}
