//! What a plan's rows look like, before its rules have been over it.
//!
//! The planner gives a UNION the types of its first input and a CASE that of its first value; that
//! they become what holds all values is left to the analyzer. Who is told of a result before it
//! runs must be told what will come.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;

/// The schema of the rows of `plan`; as it is planned where types are not known yet, as those of
/// parameters.
pub fn result_schema(plan: &LogicalPlan) -> SchemaRef {
    let coerced = TypeCoercion::new().analyze(plan.clone(), &ConfigOptions::default());
    let typed = coerced.as_ref().unwrap_or(plan);
    Arc::clone(typed.schema().inner())
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn types_hold_all_values() {
        let state = SessionContext::new().state();
        for (sql, expected) in [
            ("SELECT 1 AS a UNION ALL SELECT 1.5", "Float64"),
            ("SELECT NULL AS a UNION SELECT 7", "Int64"),
            (
                "SELECT 1::INT AS a UNION ALL SELECT 5000000000 UNION ALL SELECT 2",
                "Int64",
            ),
            (
                "SELECT b + 1 AS a FROM (SELECT 1 AS b UNION ALL SELECT 1.5)",
                "Float64",
            ),
            ("SELECT 1 AS a UNION ALL SELECT 2", "Int64"),
            ("SELECT CASE WHEN false THEN 1 ELSE 1.5 END AS a", "Float64"),
            (
                "SELECT sum(CASE WHEN false THEN 1 ELSE 1.5 END) AS a",
                "Float64",
            ),
            ("SELECT 1 AS a UNION ALL BY NAME SELECT 'x' AS a", "Utf8"),
            (
                "SELECT * FROM (SELECT 2::INT AS a UNION ALL BY NAME SELECT 0 AS b, 1.5 AS a)",
                "Float64",
            ),
        ] {
            let plan = state.create_logical_plan(sql).await.unwrap();
            let schema = result_schema(&plan);
            assert_eq!(schema.field(0).data_type().to_string(), expected, "{sql}");
            let run = state.create_physical_plan(&plan).await.unwrap();
            assert_eq!(
                run.schema().field(0).data_type(),
                schema.field(0).data_type()
            );
        }
    }
}
