//! Takes `KeyNames` out of a plan: names are found before, and rows are none of its business.
//!
//! ```text
//! KeyNames                       →  Projection: coalesce(a.k, b.k) AS k, a.k, b.k
//!   Projection: coalesce(…) …
//!   Using Join, of nothing
//! ```

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::AnalyzerRule;

use crate::sql::merged_keys::KeyNamesNode;

/// The rule; see the head of this file.
#[derive(Debug, Default)]
pub struct DropKeyNames;

impl AnalyzerRule for DropKeyNames {
    fn name(&self) -> &str {
        "drop_key_names"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let input = match &plan {
                LogicalPlan::Extension(extension) => extension
                    .node
                    .as_any()
                    .downcast_ref::<KeyNamesNode>()
                    .map(|names| names.input().clone()),
                _ => None,
            };
            Ok(match input {
                Some(input) => Transformed::yes(input),
                None => Transformed::no(plan),
            })
        })
        .data()
    }
}
