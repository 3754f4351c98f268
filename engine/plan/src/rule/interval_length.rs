//! Compares a DURATION with an INTERVAL by their lengths.
//!
//! ```text
//! CAST(b - a AS INTERVAL) > INTERVAL '1 day'  →  b - a > DURATION of 86400 s
//! ```
//!
//! Type coercion makes an interval of the duration, one of nanoseconds alone, and Arrow compares
//! intervals part by part: months, then days, then nanoseconds, so that no such duration is ever
//! longer than a day. A day is 24 hours here; a month has no length.

use datafusion::arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use datafusion::common::DFSchema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Between, BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, cast, lit,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::simplify_expressions::{ExprSimplifier, SimplifyContext};

use super::each_part;

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);
const NANOSECONDS: DataType = DataType::Duration(TimeUnit::Nanosecond);
const DAY: i128 = 24 * 3600 * 1_000_000_000;

/// The rule; see the head of this file.
#[derive(Debug, Default)]
pub struct IntervalLength;

impl AnalyzerRule for IntervalLength {
    fn name(&self) -> &str {
        "interval_length"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| {
            let schema = merge_schema(&node.inputs());
            if let LogicalPlan::Join(join) = &node {
                for (left, right) in &join.on {
                    // A key is no constant: either both are durations, or this fails.
                    lengths(vec![left.clone(), right.clone()], &schema)?;
                }
            }
            each_part(node, |part| by_length(part, &schema))
        })
        .data()
    }
}

/// `expr` with lengths compared, if it compares any.
fn by_length(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let compared = match &expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(*op) => {
            vec![left.as_ref().clone(), right.as_ref().clone()]
        }
        Expr::Between(Between {
            expr, low, high, ..
        }) => [expr, low, high].map(|e| e.as_ref().clone()).to_vec(),
        Expr::InList(InList { expr, list, .. }) => {
            let first = std::iter::once(expr.as_ref());
            first.chain(list).cloned().collect()
        }
        _ => return Ok(Transformed::no(expr)),
    };
    let Some(lengths) = lengths(compared, schema)? else {
        return Ok(Transformed::no(expr));
    };
    let mut lengths = lengths.into_iter();
    let changed = expr.map_children(|child| {
        Ok(match lengths.next() {
            Some(length) => Transformed::yes(length),
            None => Transformed::no(child),
        })
    })?;
    Ok(changed)
}

fn compares(op: Operator) -> bool {
    let distinct = matches!(op, Operator::IsDistinctFrom | Operator::IsNotDistinctFrom);
    distinct || op.supports_propagation()
}

/// What is compared, as durations of nanoseconds; `None` where it is not durations with intervals.
///
/// # Errors
/// An interval that is no constant, or has months.
fn lengths(compared: Vec<Expr>, schema: &DFSchema) -> Result<Option<Vec<Expr>>> {
    let durations = compared.iter().filter(|e| duration(e, schema).is_some());
    let durations = durations.count();
    if durations == 0 || durations == compared.len() {
        return Ok(None);
    }
    let each = compared
        .into_iter()
        .map(|expr| match duration(&expr, schema) {
            Some(inner) => Ok(cast(inner.clone(), NANOSECONDS)),
            None => Ok(lit(ScalarValue::DurationNanosecond(nanoseconds(expr)?))),
        });
    each.collect::<Result<_>>().map(Some)
}

/// The duration that became an interval in `expr`.
fn duration<'a>(expr: &'a Expr, schema: &DFSchema) -> Option<&'a Expr> {
    let Expr::Cast(cast) = expr else {
        return None;
    };
    let from = cast.expr.get_type(schema).ok()?;
    let is_duration = matches!(from, DataType::Duration(_));
    (is_duration && cast.field.data_type() == &INTERVAL).then_some(&cast.expr)
}

fn nanoseconds(interval: Expr) -> Result<Option<i64>> {
    let simplifier = ExprSimplifier::new(SimplifyContext::default());
    let shown = interval.to_string();
    let constant = match interval.column_refs().is_empty() {
        true => simplifier.simplify(interval)?,
        false => interval,
    };
    let Expr::Literal(ScalarValue::IntervalMonthDayNano(value), _) = constant else {
        return plan_err!(
            "a DURATION is compared with the INTERVAL {shown}, which is no constant. An interval has days and months as parts of their own: compare timestamps, as in b > a + INTERVAL '1 day'"
        );
    };
    let Some(parts) = value else {
        return Ok(None);
    };
    if parts.months != 0 {
        return plan_err!(
            "a DURATION is compared with an INTERVAL of {} months, which differ in length. Say days, or compare timestamps, as in b > a + INTERVAL '1 month'",
            parts.months
        );
    }
    let length = i128::from(parts.days) * DAY + i128::from(parts.nanoseconds);
    match i64::try_from(length) {
        Ok(length) => Ok(Some(length)),
        Err(_) => plan_err!(
            "a DURATION is compared with an INTERVAL of {} days, more than 292 years",
            parts.days
        ),
    }
}
