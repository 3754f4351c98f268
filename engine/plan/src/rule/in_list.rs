//! Writes `x IN (…)` as comparisons where DataFusion would take its list for constant.
//!
//! ```text
//! x + 1 IN (1, CASE WHEN x = 0 THEN 2 END)  →  x + 1 = 1 OR x + 1 = CASE WHEN x = 0 THEN 2 END
//! ```
//!
//! It asks each item for a value without any rows (`try_evaluate_constant_list` in
//! datafusion-physical-expr 55.2), and a CASE has one then, whatever it depends on: that of
//! no row, for all rows. A plain column in the list keeps it from that. An expression on the
//! left that changes each time it is asked stays as it is: it must be asked once.

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Expr, LogicalPlan, lit, not};
use datafusion::optimizer::AnalyzerRule;

use super::each_part;

/// The rule; see the head of this file.
#[derive(Debug, Default)]
pub struct PlainInList;

impl AnalyzerRule for PlainInList {
    fn name(&self) -> &str {
        "plain_in_list"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| each_part(node, |part| Ok(compared(part))))
            .data()
    }
}

fn compared(expr: Expr) -> Transformed<Expr> {
    match expr {
        Expr::InList(list) if is_taken_for_constant(&list) => Transformed::yes(comparisons(list)),
        other => Transformed::no(other),
    }
}

fn is_taken_for_constant(in_list: &InList) -> bool {
    let InList { expr, list, .. } = in_list;
    let depends = list.iter().any(|item| !item.column_refs().is_empty());
    let has_column = list.iter().any(|item| matches!(item, Expr::Column(_)));
    depends && !has_column && !expr.is_volatile()
}

fn comparisons(in_list: InList) -> Expr {
    let InList {
        expr,
        list,
        negated,
    } = in_list;
    let each = list.into_iter().map(|item| expr.as_ref().clone().eq(item));
    let Some(any) = each.reduce(Expr::or) else {
        // An empty one depends on nothing, and does not get here.
        return lit(negated);
    };
    if negated { not(any) } else { any }
}
