//! EXPLAIN: the plan that runs, and what is known of its scans.
//!
//! Over executors DataFusion's own EXPLAIN prints the plan before it is cut into
//! stages, which is not what would run: here stages are printed, one box each. EXPLAIN
//! ANALYZE needs nothing here: the base replaces it by one that gathers the metrics of
//! every task.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::compute::{cast, concat_batches};
use datafusion::common::Result;
use datafusion::common::format::ExplainFormat;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Explain, LogicalPlan};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, collect};

use crate::base::planner::{is_distributed, stages_text};
use crate::coordinator::query::QueryRun;
use crate::scans;

/// The EXPLAIN at the root of `plan`, unless it asks for every step or another form.
pub fn explained(plan: &LogicalPlan) -> Option<&Explain> {
    match plan {
        LogicalPlan::Explain(explain)
            if !explain.verbose && explain.explain_format == ExplainFormat::Indent =>
        {
            Some(explain)
        }
        _ => None,
    }
}

/// Plans what `explain`, the root of `written`, explains, and returns texts as rows.
///
/// # Errors
/// What planning fails with, and `check`.
pub async fn run(
    query_id: String,
    state: &SessionState,
    written: &LogicalPlan,
    explain: &Explain,
    check: impl FnOnce(&Arc<dyn ExecutionPlan>) -> Result<()>,
) -> Result<Option<QueryRun>> {
    let logical = state.optimize(&explain.plan)?;
    let plan = state
        .query_planner()
        .create_physical_plan(&logical, state)
        .await?;
    check(&plan)?;
    let schema = Arc::new(explain.schema.as_arrow().clone());
    let mut texts = match is_distributed(&plan) {
        true => rows(
            &schema,
            &[
                ("logical_plan", logical.display_indent().to_string()),
                ("physical_plan", stages_text(plan.as_ref())),
            ],
        )?,
        false => by_datafusion(state, written).await?,
    };
    let scans = scans::text(&plan, state).await?;
    if !scans.is_empty() {
        let scans = rows(&schema, &[("scans", scans)])?;
        texts = concat_batches(&schema, [&texts, &scans])?;
    }
    let rows = futures::stream::iter([Ok(texts)]);
    Ok(Some(QueryRun {
        query_id,
        stream: Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), rows)),
        // Whoever asks for the schema of the rows asks the plan.
        plan: Arc::new(EmptyExec::new(schema)),
    }))
}

/// What DataFusion prints, which is what runs in one process.
async fn by_datafusion(state: &SessionState, written: &LogicalPlan) -> Result<RecordBatch> {
    let plan = state.create_physical_plan(written).await?;
    let (schema, context) = (plan.schema(), state.task_ctx());
    let texts = collect(plan, context).await?;
    Ok(concat_batches(&schema, &texts)?)
}

fn rows(schema: &arrow::datatypes::SchemaRef, texts: &[(&str, String)]) -> Result<RecordBatch> {
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(texts.iter().map(|(n, _)| n)));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts.iter().map(|(_, t)| t)));
    let columns = [names, texts].into_iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| cast(&column, field.data_type()));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}
