//! Which plans may serve the next run of their statement, and how large they are.
//!
//! Kept are queries and writes that read tables and views of the catalog alone: what these
//! are, only DDL changes, which gives the database another version. A file that a query
//! names (`FROM 'a.parquet'`) may be another one tomorrow without any statement, and
//! `information_schema` is made of what is there; statements that read them are planned for
//! each run. So are those of temporary tables whose blocks are kept: a plan would hold them. DDL and SET change the version themselves.

use datafusion::common::TableReference;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::Session;
use super::kept::is_kept;
use super::prepared::Work;
use crate::ServerError;

/// What a node of a plan takes, roughly, and an expression, without what it holds.
const NODE_BYTES: usize = 1024;
const EXPR_BYTES: usize = 256;
/// It is kept as it was written and as it was optimised.
const TIMES: usize = 2;

/// About how many bytes the plan of `work` has, if it may be kept.
pub(super) fn bytes_if_lasting(
    session: &Session,
    work: &Work,
) -> Result<Option<usize>, ServerError> {
    let Work::Plan(plan) = work else {
        return Ok(None);
    };
    if matches!(
        plan.as_ref(),
        LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) | LogicalPlan::DescribeTable(_)
    ) {
        return Ok(None);
    }
    let mut is_lasting = true;
    let mut bytes = 0;
    plan.apply_with_subqueries(|node| {
        bytes += NODE_BYTES;
        let table = match node {
            LogicalPlan::TableScan(scan) => Some((&scan.table_name, &scan.source)),
            LogicalPlan::Dml(dml) => Some((&dml.table_name, &dml.target)),
            _ => None,
        };
        if let Some((name, source)) = table {
            is_lasting &= is_registered(session, name) && !is_kept(source);
        }
        if !is_lasting {
            return Ok(TreeNodeRecursion::Stop);
        }
        node.apply_expressions(|expr| {
            bytes += bytes_of(expr)?;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(is_lasting.then_some(TIMES * bytes))
}

/// Whether the catalog has a table or view of that name. One in a view may be of another
/// default schema than the session's: then it is not found, and nothing is kept.
fn is_registered(session: &Session, name: &TableReference) -> bool {
    let state = session.context.state_ref();
    let full = {
        let state = state.read();
        let defaults = &state.config_options().catalog;
        name.clone()
            .resolve(&defaults.default_catalog, &defaults.default_schema)
    };
    let catalog = session.database.catalogs().catalog(&full.catalog);
    let schema = catalog.and_then(|catalog| catalog.schema(&full.schema));
    schema.is_some_and(|schema| schema.table_exist(&full.table))
}

fn bytes_of(expr: &Expr) -> Result<usize, datafusion::common::DataFusionError> {
    let mut bytes = 0;
    expr.apply(|expr| {
        bytes += EXPR_BYTES;
        if let Expr::Literal(value, _) = expr {
            bytes += value.size();
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(bytes)
}
