//! Has one worker run neighbouring calls, one after another.
//!
//! ```text
//! MapBatchesExec: udf=g                 MapBatchesExec: udf=f, then=[map_batches g]
//!   MapBatchesExec: udf=f        →        DataSourceExec
//!     DataSourceExec
//!
//! MapExec: udf=g                        FlatMapExec: udf=f, then=[map g]
//!   ProjectionExec: expr=[b, a]  →        DataSourceExec
//!     FlatMapExec: udf=f
//!       DataSourceExec
//! ```
//!
//! A block then crosses to a worker and back once, and waits in one line. Functions of
//! values are put together where they are called on the same rows; what one makes of
//! another's result stays in the worker. A function of rows takes those above it that
//! are called row by row, and so do not see where batches end.
//!
//! Only `def`s in Python whose calls ask for nothing that counts for each alone:
//! workers, time, what becomes of rows that fail. Their batches are of one size.
//! Functions that wait for a network may do better in workers of their own:
//! `concurrency` on one of them keeps it apart, and `udf_fuse` all of them.
//! As Ray Data's fusion of map operators.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use mobula_block::plain::plain_schema;
use mobula_udfs::{
    CallMode, ErrorPolicy, Handling, Language, ObjectKind, OnError, Step, Take, UdfCall,
};

use crate::config::MobulaOptions;
use crate::operator::map_batches::{ExecShape, MapBatchesExec, map_batches_exec};

/// The rule; see the head of this file.
#[derive(Debug, Default)]
pub struct FuseCalls;

impl PhysicalOptimizerRule for FuseCalls {
    fn name(&self) -> &str {
        "fuse_calls"
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = config.extensions.get::<MobulaOptions>();
        if !options.cloned().unwrap_or_default().udf_fuse() {
            return Ok(plan);
        }
        plan.transform_up(|node| {
            let fused = match map_batches_exec(node.as_ref()) {
                Some(outer) => fuse(outer)?,
                None => None,
            };
            Ok(match fused {
                Some(fused) => Transformed::yes(fused),
                None => Transformed::no(node),
            })
        })
        .data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// `outer` and the call right below it as one, if they go together.
fn fuse(outer: &MapBatchesExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some((below, columns)) = chosen(outer.input()) else {
        return Ok(None);
    };
    let Some(inner) = map_batches_exec(below.as_ref()) else {
        return Ok(None);
    };
    let apart = outer.input_order().is_some() || outer.grouping().is_some();
    if apart || !goes_with_others(inner) || !goes_with_others(outer) {
        return Ok(None);
    }
    if inner.call().batch_size != outer.call().batch_size {
        return Ok(None);
    }
    let pair = Pair {
        inner,
        outer,
        columns: &columns,
    };
    let fused = match (inner.shape(), outer.shape()) {
        (ExecShape::Column { args, mask }, ExecShape::Column { .. }) => pair.values(args, *mask)?,
        (ExecShape::Table { keeps_rows }, _) => pair.rows(*keeps_rows)?,
        _ => None,
    };
    match fused {
        Some(fused) => pair.as_outer(fused),
        None => Ok(None),
    }
}

/// What is below `plan` if that only chooses columns, and which ones.
fn chosen(plan: &Arc<dyn ExecutionPlan>) -> Option<(&Arc<dyn ExecutionPlan>, Vec<usize>)> {
    let Some(projection) = plan.downcast_ref::<ProjectionExec>() else {
        return Some((plan, (0..plan.schema().fields().len()).collect()));
    };
    let columns = projection.expr().iter();
    let columns = columns.map(|e| Some(e.expr.downcast_ref::<Column>()?.index()));
    Some((projection.input(), columns.collect::<Option<_>>()?))
}

/// Whether nothing of a call is for it alone.
fn goes_with_others(exec: &MapBatchesExec) -> bool {
    exec.concurrency().is_none() && exec.call().parts().all(is_plain)
}

fn is_plain(call: &UdfCall) -> bool {
    let Handling {
        timeout,
        init_timeout,
        min_workers,
        demand,
        keyed,
        ..
    } = &call.handling;
    let ErrorPolicy { on_error, .. } = &call.errors;
    call.spec.language == Language::Python
        && call.spec.object == ObjectKind::Function
        && *on_error == OnError::Raise
        && (timeout, init_timeout, min_workers) == (&None, &None, &None)
        && demand.is_none()
        // It may ask which of its rows it is called for: not those that another one made.
        && !call.spec.may_ask_for_context()
        && keyed.is_none()
}

/// Two calls, the outer one over `columns` of what the inner one gives.
struct Pair<'a> {
    inner: &'a MapBatchesExec,
    outer: &'a MapBatchesExec,
    columns: &'a [usize],
}

impl Pair<'_> {
    /// Both append columns to the same rows.
    fn values(&self, args: &[usize], mask: Option<usize>) -> Result<Option<MapBatchesExec>> {
        let ExecShape::Column {
            args: wanted,
            mask: outer_mask,
        } = self.outer.shape()
        else {
            return Ok(None);
        };
        // Without arguments there is no telling how many rows a step has.
        if args.is_empty() || wanted.is_empty() || self.below(*outer_mask) != mask {
            return Ok(None);
        }
        let passed = self.inner.input().schema().fields().len();
        let made = plain_schema(&self.inner.call().output);
        let mut sent = Sent::of(self.inner.call(), args);
        let mut takes = vec![];
        for (arg, field) in wanted.iter().zip(self.outer.call().input.fields()) {
            let column = self.columns[*arg];
            takes.push(match column.checked_sub(passed) {
                None => sent.column(column, field.data_type()),
                Some(result) if made.field(result).data_type() == field.data_type() => {
                    Take::Made(result)
                }
                Some(_) => return Ok(None),
            });
        }
        let args = sent.columns.iter().map(|(column, _)| *column).collect();
        let call = self.call(sent.schema(), Some(takes));
        self.exec(call, ExecShape::Column { args, mask }).map(Some)
    }

    /// The inner one gives rows, which the outer one takes one by one.
    fn rows(&self, keeps_rows: bool) -> Result<Option<MapBatchesExec>> {
        let outer = self.outer.call();
        if matches!(outer.mode, CallMode::Batches | CallMode::Groups) {
            return Ok(None);
        }
        let columns: Vec<usize> = match self.outer.shape() {
            ExecShape::Column { mask: Some(_), .. } => return Ok(None),
            ExecShape::Column { args, .. } | ExecShape::Filter { args } => {
                args.iter().map(|arg| self.columns[*arg]).collect()
            }
            ExecShape::Table { .. } => self.columns.to_vec(),
        };
        let given = plain_schema(&self.inner.call().output);
        let mut pairs = columns.iter().zip(outer.input.fields());
        let same =
            pairs.all(|(column, field)| given.field(*column).data_type() == field.data_type());
        if columns.is_empty() || !same {
            return Ok(None);
        }
        let takes = columns.into_iter().map(Take::In).collect();
        let call = self.call(Arc::clone(&self.inner.call().input), Some(takes));
        let keeps_rows = keeps_rows && self.outer.keeps_rows();
        self.exec(call, ExecShape::Table { keeps_rows }).map(Some)
    }

    /// The column of the inner one's output that a column of the outer one's input is.
    fn below(&self, column: Option<usize>) -> Option<usize> {
        column.map(|column| self.columns[column])
    }

    /// Both calls as one on blocks of `input`; `takes` is for the outer one.
    fn call(&self, input: Arc<Schema>, takes: Option<Vec<Take>>) -> UdfCall {
        let inner = self.inner.call();
        let mut steps = inner.steps.clone();
        if steps.is_empty() {
            let takes = match self.inner.shape() {
                ExecShape::Column { args, .. } => Some((0..args.len()).map(Take::In).collect()),
                _ => None,
            };
            let call = inner.as_ref().clone();
            steps.push(Step { call, takes });
        }
        steps.push(Step {
            call: self.outer.call().as_ref().clone(),
            takes,
        });
        let first = steps.remove(0);
        let mut call = UdfCall::fused(input, first, steps);
        let ordered = self.inner.keeps_order() && self.outer.keeps_order();
        let by_default = !call.spec.is_table();
        call.handling.preserve_order = (ordered != by_default).then_some(ordered);
        call
    }

    fn exec(&self, call: UdfCall, shape: ExecShape) -> Result<MapBatchesExec> {
        let input = Arc::clone(self.inner.input());
        let exec = MapBatchesExec::try_new(input, Arc::new(call), shape, None)?;
        let exec = exec.with_input_order(self.inner.input_order().cloned());
        Ok(exec.with_grouping(self.inner.grouping().cloned()))
    }

    /// `fused` with the columns that the outer one gives.
    fn as_outer(&self, fused: MapBatchesExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let wanted = self.outer.schema();
        let given = self.outer.is_table() || self.columns.iter().enumerate().all(|(i, c)| i == *c);
        if given && fused.schema() == wanted {
            return Ok(Some(Arc::new(fused)));
        }
        let own = fused.schema().fields().len().saturating_sub(1);
        let columns = match self.outer.shape() {
            ExecShape::Column { .. } => [self.columns, &[own]].concat(),
            ExecShape::Filter { .. } => self.columns.to_vec(),
            ExecShape::Table { .. } => return Ok(None),
        };
        let schema = fused.schema();
        let exprs = columns.iter().zip(wanted.fields()).map(|(column, field)| {
            let expr = Arc::new(Column::new(schema.field(*column).name(), *column));
            ProjectionExpr::new(expr, field.name())
        });
        let plan = ProjectionExec::try_new(exprs.collect::<Vec<_>>(), Arc::new(fused))?;
        let same = plan.schema() == wanted;
        Ok(same.then(|| Arc::new(plan) as _))
    }
}

/// The columns that go to a worker, each once for a type.
struct Sent {
    columns: Vec<(usize, DataType)>,
}

impl Sent {
    fn of(call: &UdfCall, args: &[usize]) -> Self {
        let types = call.input.fields().iter().map(|f| f.data_type().clone());
        Self {
            columns: args.iter().copied().zip(types).collect(),
        }
    }

    /// Where `column` is as `data_type`.
    fn column(&mut self, column: usize, data_type: &DataType) -> Take {
        let mut known = self.columns.iter();
        let found = known.position(|(c, t)| *c == column && t == data_type);
        Take::In(found.unwrap_or_else(|| {
            self.columns.push((column, data_type.clone()));
            self.columns.len() - 1
        }))
    }

    fn schema(&self) -> Arc<Schema> {
        let fields = self.columns.iter().enumerate();
        let fields = fields.map(|(i, (_, t))| Field::new(format!("c{i}"), t.clone(), true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }
}

#[cfg(test)]
mod tests;
