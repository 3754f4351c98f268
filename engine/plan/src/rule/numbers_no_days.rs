//! Refuses to take a whole number for a day.
//!
//! ```text
//! SELECT day FROM a UNION ALL SELECT 5  →  CAST(5 AS DATE), which is 1970-01-06
//! ```
//!
//! Type coercion makes dates of numbers that stand beside dates, in UNION, CASE and comparisons, and
//! counts days since 1970. Nobody who writes that means it; PostgreSQL and DuckDB have no such cast.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::common::{DFSchema, Result, plan_err};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Cast, Expr, ExprSchemable, LogicalPlan, TryCast};
use datafusion::optimizer::AnalyzerRule;

use super::each_part;

/// The rule; see the head of this file.
#[derive(Debug, Default)]
pub struct NumbersNoDays;

impl AnalyzerRule for NumbersNoDays {
    fn name(&self) -> &str {
        "numbers_no_days"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| {
            let schema = merge_schema(&node.inputs());
            each_part(node, |part| {
                check(&part, &schema)?;
                Ok(Transformed::no(part))
            })
        })
        .data()
    }
}

fn check(part: &Expr, schema: &DFSchema) -> Result<()> {
    let (Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field })) = part else {
        return Ok(());
    };
    let is_date = matches!(field.data_type(), DataType::Date32 | DataType::Date64);
    // What has no type here is told by others.
    let is_number = is_date && expr.get_type(schema).is_ok_and(|t| t.is_integer());
    let shown = expr.human_display();
    match is_number {
        true => plan_err!(
            "{shown} is a whole number and would become a DATE, days since 1970, beside one or by a cast. Write it as a date, or DATE '1970-01-01' + {shown} if that is meant"
        ),
        false => Ok(()),
    }
}
