//! Values for the parameters of a plan.
//!
//! A plan made of a statement with parameters has [`Placeholder`]s, numbered `$1`, `$2` and
//! so on by `sql::placeholder`, and calls whose constructors take some. [`bind`] puts values
//! in: a value means what a literal of its type would mean at that place, and what it
//! contains is never read as SQL.
//!
//! `infer` says what types values should have; `insert` puts many rows into one INSERT;
//! `ahead` optimises a plan before its values are known. Sessions call them in this order.

mod ahead;
mod infer;
mod insert;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::{Cast, Placeholder};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    Expr, ExprSchemable, Extension, LogicalPlan, LogicalPlanBuilder, Union, Values,
};
use mobula_udfs::Literal;

pub use ahead::Ahead;
pub use infer::infer;
pub use insert::insert_all;

use crate::error::PlanError;
use crate::operator::map_batches::MapBatchesNode;

/// What a parameter becomes.
enum Given<'a> {
    /// These values.
    Values(&'a [ScalarValue]),
    /// Parameters again, of these types.
    Types(&'a [DataType]),
}

impl Given<'_> {
    fn instead_of(&self, placeholder: &Placeholder) -> Result<Expr> {
        let at = index(&placeholder.id)?;
        let given = match self {
            Self::Values(values) => values.get(at).cloned().map(|v| Expr::Literal(v, None)),
            Self::Types(types) => types.get(at).map(|data_type| {
                let field = Field::new(&placeholder.id, data_type.clone(), true);
                let id = placeholder.id.clone();
                Expr::Placeholder(Placeholder::new_with_field(id, Some(Arc::new(field))))
            }),
        };
        given.ok_or_else(|| PlanError::parameter(&placeholder.id, "has no value").into())
    }
}

/// `plan` with `values` for its parameters.
///
/// # Errors
/// A value that its place cannot take, as a literal there could not be.
pub fn bind(plan: LogicalPlan, values: &[ScalarValue]) -> Result<LogicalPlan> {
    substituted(plan, &Given::Values(values))
}

/// `plan` with parameters of these types: its schema is that of any values of theirs.
///
/// # Errors
/// As [`bind`].
pub fn with_types(plan: LogicalPlan, types: &[DataType]) -> Result<LogicalPlan> {
    substituted(plan, &Given::Types(types))
}

fn substituted(plan: LogicalPlan, given: &Given<'_>) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| {
        let node = match node {
            LogicalPlan::Values(Values { values, schema }) => {
                let types: Vec<_> = schema.fields().iter().map(|f| f.data_type()).collect();
                let rows = values.into_iter().map(|row| in_values(row, &types, given));
                let rows = rows.collect::<Result<Vec<_>>>()?;
                return LogicalPlanBuilder::values(rows)?
                    .build()
                    .map(Transformed::yes);
            }
            LogicalPlan::Extension(extension) => in_call(extension, given)?,
            node => node,
        };
        in_expressions(node, given)?.map_data(|node| match node {
            // Its schema would stay as it was planned.
            LogicalPlan::Union(union) => {
                Union::try_new_with_loose_types(union.inputs).map(LogicalPlan::Union)
            }
            node => node.recompute_schema(),
        })
    })?;
    Ok(done.data)
}

/// The expressions of `node` alone, under the names they had.
fn in_expressions(node: LogicalPlan, given: &Given<'_>) -> Result<Transformed<LogicalPlan>> {
    let names = NamePreserver::new(&node);
    node.map_expressions(|expr| {
        if !has_parameter(&expr) {
            return Ok(Transformed::no(expr));
        }
        let name = names.save(&expr);
        let replaced = replaced(expr, given)?;
        Ok(Transformed::yes(name.restore(replaced)))
    })
}

fn replaced(expr: Expr, given: &Given<'_>) -> Result<Expr> {
    let replaced = expr.transform_up(|expr| match expr {
        Expr::Placeholder(placeholder) => given.instead_of(&placeholder).map(Transformed::yes),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(replaced.data)
}

/// A row of VALUES whose columns were planned with `types`. Those of an INSERT are its
/// table's, and a value is cast as a literal is. Others come from the literals beside the
/// parameter, and a value that is none of that type is refused, not cut.
fn in_values(row: Vec<Expr>, types: &[&DataType], given: &Given<'_>) -> Result<Vec<Expr>> {
    let columns = row.into_iter().zip(types);
    let bound = columns.map(|(expr, wanted)| {
        let guessed = match &expr {
            Expr::Cast(Cast { expr, .. }) => match expr.as_ref() {
                Expr::Placeholder(p) if p.field.is_none() => Some(p.clone()),
                _ => None,
            },
            _ => None,
        };
        if let (Some(placeholder), Given::Values(_)) = (&guessed, given) {
            refuse_cut(placeholder, &given.instead_of(placeholder)?, wanted)?;
        }
        let is_bare = matches!(expr, Expr::Placeholder(_));
        let bound = replaced(expr, given)?;
        match is_bare && !wanted.is_null() {
            true => bound.cast_to(wanted, &DFSchema::empty()),
            false => Ok(bound),
        }
    });
    bound.collect()
}

/// Refuses a value that a cast to `wanted` would change.
fn refuse_cut(placeholder: &Placeholder, value: &Expr, wanted: &DataType) -> Result<()> {
    let Expr::Literal(value, _) = value else {
        return Ok(());
    };
    if value.is_null() || value.data_type() == *wanted {
        return Ok(());
    }
    let there = value.cast_to(wanted);
    let back = there.and_then(|there| there.cast_to(&value.data_type()));
    if back.is_ok_and(|back| back == *value) {
        return Ok(());
    }
    let problem = format!(
        "stands in a column of VALUES that is {wanted}, and {value} is none. Write CAST({} AS …) in all its rows",
        placeholder.id
    );
    Err(PlanError::parameter(&placeholder.id, problem).into())
}

/// A node whose call is built with parameters.
fn in_call(extension: Extension, given: &Given<'_>) -> Result<LogicalPlan> {
    let node = extension.node.as_any().downcast_ref::<MapBatchesNode>();
    let (Some(node), Given::Values(values)) = (node, given) else {
        return Ok(LogicalPlan::Extension(extension));
    };
    if node.call().parameters().is_empty() {
        return Ok(LogicalPlan::Extension(extension));
    }
    let literal = |id: &str| {
        let value = values.get(index(id)?);
        let value = value.ok_or_else(|| PlanError::parameter(id, "has no value"))?;
        literal_of(id, value)
    };
    Ok(node.clone().with_values(literal)?.into_plan())
}

/// `value` as an argument of a constructor.
fn literal_of(id: &str, value: &ScalarValue) -> Result<Literal, PlanError> {
    use ScalarValue as S;
    let whole = |value: &ScalarValue| match value.cast_to(&DataType::Int64) {
        Ok(S::Int64(Some(number))) => Some(number),
        _ => None,
    };
    let found = match value {
        value if value.is_null() => Some(Literal::Null),
        S::Boolean(Some(truth)) => Some(Literal::Bool(*truth)),
        S::Float32(Some(number)) => Some(Literal::Float(f64::from(*number))),
        S::Float64(Some(number)) => Some(Literal::Float(*number)),
        S::Utf8(Some(text)) | S::LargeUtf8(Some(text)) | S::Utf8View(Some(text)) => {
            Some(Literal::Text(text.clone()))
        }
        value if value.data_type().is_integer() => whole(value).map(Literal::Int),
        _ => None,
    };
    found.ok_or_else(|| {
        let problem = format!(
            "is an argument of a constructor, which takes NULL, a truth value, a BIGINT, a DOUBLE or a text, not {value} ({})",
            value.data_type()
        );
        PlanError::parameter(id, problem)
    })
}

/// Whether `expr` has a parameter outside of subqueries.
fn has_parameter(expr: &Expr) -> bool {
    let is_one = |expr: &Expr| Ok(matches!(expr, Expr::Placeholder(_)));
    expr.exists(is_one).unwrap_or(true)
}

/// The place among the values of the parameter `id`.
fn index(id: &str) -> Result<usize, PlanError> {
    let number = id.strip_prefix('$').and_then(|digits| digits.parse().ok());
    match number {
        Some(number @ 1usize..) => Ok(number - 1),
        _ => {
            let problem = "is written in a way that is not known. Write ?, $1 or $name";
            Err(PlanError::parameter(id, problem))
        }
    }
}

/// Calls `see` with every parameter in the expressions of `plan`.
fn each_placeholder(
    plan: &LogicalPlan,
    see: &mut dyn FnMut(&LogicalPlan, &Placeholder) -> Result<()>,
) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::Placeholder(placeholder) = expr {
                    see(node, placeholder)?;
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(())
}
