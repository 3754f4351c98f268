//! EXPLAIN of a distributed plan: the stages, one box each.
//!
//! DataFusion's own EXPLAIN prints the plan before it is cut into stages, which
//! is not what would run. EXPLAIN ANALYZE needs nothing here: the base replaces
//! it by one that gathers the metrics of every task.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::common::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Explain, LogicalPlan};
use datafusion::physical_plan::displayable;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

use crate::base::planner::{is_distributed, stages_text};
use crate::coordinator::query::QueryRun;

/// The EXPLAIN at the root of `plan`, unless it asks for every step.
pub fn explained(plan: &LogicalPlan) -> Option<&Explain> {
    match plan {
        LogicalPlan::Explain(explain) if !explain.verbose => Some(explain),
        _ => None,
    }
}

/// Plans what is explained and returns the texts as rows.
///
/// # Errors
/// What planning fails with.
pub async fn run(query_id: String, state: &SessionState, explain: &Explain) -> Result<QueryRun> {
    let logical = state.optimize(&explain.plan)?;
    let plan = state
        .query_planner()
        .create_physical_plan(&logical, state)
        .await?;
    let physical = match is_distributed(&plan) {
        true => stages_text(plan.as_ref()),
        false => displayable(plan.as_ref()).indent(false).to_string(),
    };
    let schema = Arc::new(explain.schema.as_arrow().clone());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["logical_plan", "physical_plan"])),
        Arc::new(StringArray::from(vec![
            logical.display_indent().to_string(),
            physical,
        ])),
    ];
    let rows = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    Ok(QueryRun {
        query_id,
        stream: Box::pin(RecordBatchStreamAdapter::new(
            schema,
            futures::stream::iter([Ok(rows)]),
        )),
        plan,
    })
}
