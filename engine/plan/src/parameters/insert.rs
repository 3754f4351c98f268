//! Many rows of values for one INSERT: written at once, all or none.
//!
//! ```text
//! Dml: Insert t                          Dml: Insert t
//!   Projection: column1 AS a               Projection: column1 AS a
//!     Values: ($1)                 →         Values: (1), (2), (3)
//! ```
//!
//! Run a row at a time, each would be a file of its own, and one that fails would leave
//! those before it.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{
    DmlStatement, Expr, LogicalPlan, LogicalPlanBuilder, Projection, Values, WriteOp,
};

use super::{Given, has_parameter, in_values};

/// `plan` for all of `rows`, if it inserts VALUES and nothing but these has parameters.
///
/// # Errors
/// As [`super::bind`].
pub fn insert_all(plan: &LogicalPlan, rows: &[Vec<ScalarValue>]) -> Result<Option<LogicalPlan>> {
    let LogicalPlan::Dml(dml) = plan else {
        return Ok(None);
    };
    if dml.op != WriteOp::Insert(InsertOp::Append) || rows.is_empty() {
        return Ok(None);
    }
    let Some(input) = values_below(&dml.input, rows)? else {
        return Ok(None);
    };
    Ok(Some(LogicalPlan::Dml(DmlStatement::new(
        dml.table_name.clone(),
        Arc::clone(&dml.target),
        dml.op.clone(),
        Arc::new(input),
    ))))
}

fn values_below(plan: &LogicalPlan, rows: &[Vec<ScalarValue>]) -> Result<Option<LogicalPlan>> {
    match plan {
        LogicalPlan::Projection(projection) => {
            if projection
                .expr
                .iter()
                .any(|e| has_parameter(e) || has_subquery(e))
            {
                return Ok(None);
            }
            let input = values_below(&projection.input, rows)?;
            let above = input.map(|input| {
                let exprs = projection.expr.clone();
                Projection::try_new(exprs, Arc::new(input)).map(LogicalPlan::Projection)
            });
            above.transpose()
        }
        LogicalPlan::Values(Values { values, schema }) => {
            if values.iter().flatten().any(has_subquery) {
                return Ok(None);
            }
            let types: Vec<_> = schema.fields().iter().map(|f| f.data_type()).collect();
            let mut all = Vec::with_capacity(values.len() * rows.len());
            for given in rows {
                for row in values {
                    all.push(in_values(row.clone(), &types, &Given::Values(given))?);
                }
            }
            LogicalPlanBuilder::values(all)?.build().map(Some)
        }
        _ => Ok(None),
    }
}

fn has_subquery(expr: &Expr) -> bool {
    let mut found = false;
    // The closure cannot fail.
    let _ = expr.apply(|expr| {
        found |= matches!(
            expr,
            Expr::ScalarSubquery(_)
                | Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
        );
        Ok(TreeNodeRecursion::Continue)
    });
    found
}
