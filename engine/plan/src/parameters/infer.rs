//! What types the values of parameters should have.
//!
//! DataFusion's planner says it where a parameter is compared with something, or inserted.
//! Here it is said where one is an argument of a function, is cast, or is the number of a
//! LIMIT. What nothing says stays open: a value of any type may be tried there.

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ExprSchema, Result, internal_err};
use datafusion::logical_expr::expr::{Cast, Placeholder, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, ScalarUDF};
use mobula_udfs::ParamKind;

use super::{each_placeholder, index};
use crate::udf::PythonFunction;

/// `plan` with what is known of the types of its parameters, and that for each of `count`.
///
/// # Errors
/// A parameter that is written in a way we do not know, or is none of `count`.
pub fn infer(plan: LogicalPlan, count: usize) -> Result<(LogicalPlan, Vec<Option<DataType>>)> {
    let plan = with_hints(plan)?;
    let mut types: Vec<Option<DataType>> = vec![None; count];
    let mut contradicted = vec![false; count];
    each_placeholder(&plan, &mut |_, placeholder| {
        let at = index(&placeholder.id)?;
        let Some(known) = types.get_mut(at) else {
            return internal_err!("{} is not counted", placeholder.id);
        };
        let Some(field) = &placeholder.field else {
            return Ok(());
        };
        // Of two places that want different types, neither is right alone.
        match known {
            Some(known) if known != field.data_type() => contradicted[at] = true,
            _ => *known = Some(field.data_type().clone()),
        }
        Ok(())
    })?;
    for (known, contradicted) in types.iter_mut().zip(contradicted) {
        if contradicted {
            *known = None;
        }
    }
    Ok((plan, types))
}

fn with_hints(plan: LogicalPlan) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| {
        // The casts in there are the planner's own guesses.
        if matches!(node, LogicalPlan::Values(_)) {
            return Ok(Transformed::no(node));
        }
        let is_limit = matches!(node, LogicalPlan::Limit(_));
        let names = NamePreserver::new(&node);
        let schema = merged_schema(&node)?;
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let expr = match expr {
                Expr::Placeholder(p) if is_limit => hinted(p, &DataType::Int64),
                expr => expr,
            };
            let hinted = expr.transform_up(|expr| Ok(in_expression(expr, &schema)))?;
            Ok(hinted.update_data(|expr| name.restore(expr)))
        })
    })?;
    Ok(done.data)
}

/// The columns that the expressions of `node` may name.
fn merged_schema(node: &LogicalPlan) -> Result<DFSchema> {
    let mut schema = DFSchema::empty();
    for input in node.inputs() {
        schema.merge(input.schema());
    }
    Ok(schema)
}

fn in_expression(expr: Expr, schema: &dyn ExprSchema) -> Transformed<Expr> {
    match expr {
        Expr::Cast(Cast { expr, field }) => match *expr {
            Expr::Placeholder(p) => {
                let expr = Box::new(hinted(p, field.data_type()));
                Transformed::yes(Expr::Cast(Cast { expr, field }))
            }
            other => {
                let expr = Box::new(other);
                Transformed::no(Expr::Cast(Cast { expr, field }))
            }
        },
        Expr::ScalarFunction(call) => in_call(call, schema),
        other => Transformed::no(other),
    }
}

fn in_call(call: ScalarFunction, schema: &dyn ExprSchema) -> Transformed<Expr> {
    let is_open = |arg: &Expr| matches!(arg, Expr::Placeholder(p) if p.field.is_none());
    if !call.args.iter().any(is_open) {
        return Transformed::no(Expr::ScalarFunction(call));
    }
    let ScalarFunction { func, args } = call;
    let wanted: Vec<Option<DataType>> = match PythonFunction::of(&func) {
        Some(ours) => {
            let params = ours.spec().params.iter();
            let params = params.map(|param| match &param.kind {
                ParamKind::Value(wanted) => Some(wanted.clone()),
                ParamKind::Table => None,
            });
            params.collect()
        }
        None => coerced(&func, &args, schema).unwrap_or_default(),
    };
    let wanted = wanted.into_iter().chain(std::iter::repeat(None));
    let args = args.into_iter().zip(wanted);
    let args = args.map(|(arg, wanted)| match (arg, wanted) {
        (Expr::Placeholder(p), Some(wanted)) => hinted(p, &wanted),
        (arg, _) => arg,
    });
    let args = args.collect();
    Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args }))
}

/// What DataFusion would make of the arguments of `func`.
fn coerced(
    func: &ScalarUDF,
    args: &[Expr],
    schema: &dyn ExprSchema,
) -> Option<Vec<Option<DataType>>> {
    let fields = args.iter().map(|arg| arg.to_field(schema).ok());
    let fields = fields.map(|field| field.map(|(_, field)| field));
    let fields: Vec<FieldRef> = fields.collect::<Option<_>>()?;
    let coerced = fields_with_udf(&fields, func).ok()?;
    let types = coerced.iter().map(|field| field.data_type().clone());
    Some(types.map(|t| (!t.is_null()).then_some(t)).collect())
}

fn hinted(mut placeholder: Placeholder, wanted: &DataType) -> Expr {
    if placeholder.field.is_none() {
        let field = Field::new(&placeholder.id, wanted.clone(), true);
        placeholder.field = Some(field.into());
    }
    Expr::Placeholder(placeholder)
}
