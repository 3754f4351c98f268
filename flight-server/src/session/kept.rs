//! `CREATE TEMP TABLE … AS`: rows stay with the processes that make them, for this session.
//!
//! See `mobula_execution::kept` for where they lie.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{CreateMemoryTable, LogicalPlan, TableSource};
use futures::TryStreamExt;
use mobula_execution::kept::table::KeptTable;
use mobula_plan::{keep, parts_of, result_schema};

use super::load::{LoadTarget, check_columns};
use super::{Outcome, Session, while_awaited};
use crate::ServerError;

impl Session {
    /// Makes a table of the rows of a query; gives up if `left` ends before all are there.
    pub(super) async fn create_kept(
        &self,
        create: &CreateMemoryTable,
        target: LoadTarget,
        sql: &str,
        left: impl Future<Output = ()>,
    ) -> Result<Outcome, ServerError> {
        let engine = self.database().engine();
        let schema = declared(&result_schema(&create.input));
        check_columns(&target.table, &schema)?;
        let held = engine.hold_table();
        let plan = keep(create.input.as_ref().clone(), held.id())?;
        let keeping = async {
            let mut run = self.run(&plan, false, sql).await?;
            let mut parts = vec![];
            while let Some(block) = run.stream.try_next().await? {
                parts.extend(parts_of(&block)?);
            }
            Ok::<_, ServerError>(parts)
        };
        let parts = while_awaited(keeping, left).await?;
        let name = target.table.table();
        let table = Arc::new(KeptTable::new(engine, held, name, schema, parts));
        let _change = self.database().change().await;
        match self.check_target(&target).await {
            Err(error) if error.already_exists() && create.if_not_exists => {}
            Err(error) => return Err(error),
            Ok(()) => self.temporary.put(name, table, None),
        }
        Ok(Outcome::Affected(None))
    }
}

/// Columns may have NULLs, whatever the query promised of its own.
fn declared(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let (name, data_type) = (field.name(), field.data_type().clone());
        Field::new(name, data_type, true)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Whether `source` is such a table.
pub(super) fn is_kept(source: &Arc<dyn TableSource>) -> bool {
    source_as_provider(source).is_ok_and(|provider| provider.is::<KeptTable>())
}

/// Whether `plan` reads such a table.
pub(super) fn reads_kept(plan: &LogicalPlan) -> Result<bool, ServerError> {
    let mut reads = false;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            reads |= is_kept(&scan.source);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(reads)
}
