//! A plan that is analysed and optimised before its values are known.
//!
//! What is kept has parameters of the types of the values it was made for, and serves
//! values of these types alone: then every cast and every choice of the rules is the one
//! they would have made. Constants that come of the values are folded when they are in.
//!
//! Not every plan may be kept so. The rules put the time into a plan that calls `now()`, as
//! they do for every function that is stable within one query; they look at the number of
//! a LIMIT; and VALUES has the types of the literals in it.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Optimizer, OptimizerContext};

use super::{Given, has_parameter, in_expressions, with_types};
use crate::operator::map_batches::MapBatchesNode;
use crate::result_schema::result_schema;
use crate::udf::PythonFunction;

/// An optimised plan, for values of certain types.
#[derive(Debug)]
pub struct Ahead {
    types: Vec<DataType>,
    plan: LogicalPlan,
    schema: SchemaRef,
}

impl Ahead {
    /// Optimises `plan` for values of `types`; `None` where that has to wait for them.
    ///
    /// # Errors
    /// What the rules refuse.
    pub fn of(
        state: &SessionState,
        plan: &LogicalPlan,
        types: Vec<DataType>,
    ) -> Result<Option<Self>> {
        if !may_be_kept(plan)? {
            return Ok(None);
        }
        let typed = match types.is_empty() {
            true => plan.clone(),
            false => with_types(plan.clone(), &types)?,
        };
        let schema = result_schema(&typed);
        let plan = state.optimize(&typed)?;
        Ok(Some(Self {
            types,
            plan,
            schema,
        }))
    }

    /// The types of the values that it takes.
    pub fn types(&self) -> &[DataType] {
        &self.types
    }

    /// Of the rows, as the statement says it.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The optimised plan with `values`, which are of its types, under the settings that it
    /// was made under.
    ///
    /// # Errors
    /// A constant that cannot be computed with them.
    pub fn bind(
        &self,
        options: &Arc<ConfigOptions>,
        values: &[ScalarValue],
    ) -> Result<LogicalPlan> {
        if self.types.is_empty() {
            return Ok(self.plan.clone());
        }
        let given = Given::Values(values);
        let bound = self.plan.clone();
        let bound = bound.transform_up_with_subqueries(|node| in_expressions(node, &given))?;
        let folding = Optimizer::with_rules(vec![Arc::new(SimplifyExpressions::new())]);
        let context = OptimizerContext::new_with_config_options(Arc::clone(options));
        folding.optimize(bound.data, &context, |_, _| {})
    }
}

fn may_be_kept(plan: &LogicalPlan) -> Result<bool> {
    if matches!(
        plan,
        LogicalPlan::Explain(_)
            | LogicalPlan::Analyze(_)
            | LogicalPlan::Ddl(_)
            | LogicalPlan::Dml(_)
            | LogicalPlan::Copy(_)
            | LogicalPlan::Statement(_)
            | LogicalPlan::DescribeTable(_)
    ) {
        return Ok(false);
    }
    let mut may = true;
    plan.apply_with_subqueries(|node| {
        may &= !is_built_with_parameters(node);
        let in_place = !matches!(node, LogicalPlan::Values(_) | LogicalPlan::Limit(_));
        node.apply_expressions(|expr| {
            may &= (in_place || !has_parameter(expr)) && !has_stable_call(expr);
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(match may {
            true => TreeNodeRecursion::Continue,
            false => TreeNodeRecursion::Stop,
        })
    })?;
    Ok(may)
}

fn is_built_with_parameters(node: &LogicalPlan) -> bool {
    let LogicalPlan::Extension(extension) = node else {
        return false;
    };
    let node = extension.node.as_any().downcast_ref::<MapBatchesNode>();
    node.is_some_and(|node| !node.call().parameters().is_empty())
}

/// Whether `expr` has a call whose value the rules put in its place, one for each query.
/// Calls of our functions are never made by them.
fn has_stable_call(expr: &Expr) -> bool {
    let is_one = |expr: &Expr| {
        Ok(match expr {
            Expr::ScalarFunction(call) => {
                let volatility = call.func.signature().volatility;
                volatility == Volatility::Stable && PythonFunction::of(&call.func).is_none()
            }
            Expr::ScalarVariable(..) => true,
            _ => false,
        })
    };
    expr.exists(is_one).unwrap_or(true)
}
