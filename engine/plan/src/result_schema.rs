//! What a plan's rows look like, before its rules have been over it.
//!
//! The planner gives a UNION the types of its first input; that all of them become what holds
//! all values is left to the analyzer. Who is told of a result before it runs must be told what
//! will come.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{ExprSchemable, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;

/// The schema of the rows of `plan`; as it is planned where types are not known yet, as those of
/// parameters.
pub fn result_schema(plan: &LogicalPlan) -> SchemaRef {
    let coerced = match has_union_of_types(plan) {
        true => TypeCoercion::new().analyze(plan.clone(), &ConfigOptions::default()),
        false => return Arc::clone(plan.schema().inner()),
    };
    let schema = coerced.map(|coerced| Arc::clone(coerced.schema().inner()));
    schema.unwrap_or_else(|_| Arc::clone(plan.schema().inner()))
}

fn has_union_of_types(plan: &LogicalPlan) -> bool {
    let mut has = false;
    let looked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Union(union) = node {
            let mut inputs = union.inputs.iter().map(|input| types_of(input));
            let first = inputs.next();
            has |= inputs.any(|input| Some(&input) != first.as_ref());
        }
        Ok(match has {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    });
    looked.is_ok() && has
}

/// The types of what `input` of a UNION gives. Inputs of a UNION BY NAME are projections that claim
/// the schema of the union.
fn types_of(input: &LogicalPlan) -> Vec<Option<DataType>> {
    match input {
        LogicalPlan::Projection(projection) => {
            let schema = projection.input.schema();
            let exprs = projection.expr.iter();
            exprs.map(|expr| expr.get_type(schema).ok()).collect()
        }
        _ => {
            let fields = input.schema().fields().iter();
            fields.map(|f| Some(f.data_type().clone())).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn unions_have_types_that_hold_all_values() {
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
