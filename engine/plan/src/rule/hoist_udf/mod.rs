//! Moves calls of Python functions out of expressions into `MapBatches` nodes.
//!
//! ```text
//! Projection: net(t.a) + 1                Projection: "net(t.a)" + 1
//!   TableScan: t                    →       MapBatches: net over [t.a] AS net(t.a)
//!                                             TableScan: t
//!
//! Filter: t.b = 1 AND net(t.a) > 5        Projection: t.a, t.b
//!   TableScan: t                    →       Filter: "net(t.a)" > 5
//!                                             MapBatches: net over [t.a] AS net(t.a)
//!                                               Filter: t.b = 1
//!                                                 TableScan: t
//!
//! Projection: CASE WHEN t.b > 0           Projection: CASE WHEN t.b > 0
//!   THEN net(t.a) END                 →       THEN "net(t.a)" END
//!   TableScan: t                            MapBatches: net over [t.a] AS net(t.a), mask=__mask
//!                                             Projection: t.a, t.b, t.b > 0 IS TRUE AS __mask
//!                                               TableScan: t
//! ```
//!
//! In projections, filters, aggregates, sorts, windows and joins; elsewhere it is
//! refused. Where an expression decides which rows reach the call (CASE, COALESCE,
//! the second half of AND and OR, FILTER), the call gets a mask: running it on all
//! rows could fail on rows the user kept from it. Of the conjuncts of a filter,
//! those without calls run first, and each other one on the rows that passed those
//! before it. Equal calls of one node are made once, unless volatile. Arguments
//! that are no columns are computed in a projection below. The schema of every
//! node stays as it was, so nodes above need no change. Runs after type coercion;
//! running it again changes nothing.
//!
//! `guard` says which rows, `hoister` grows a node's input, `join` is for JOIN ON.

mod guard;
mod hoister;
mod join;

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchemaRef, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Aggregate, Expr, Filter, LogicalPlan, Projection, Sort, Window};
use datafusion::optimizer::AnalyzerRule;
use mobula_udfs::FunctionSpec;

use self::hoister::Hoister;
use crate::error::PlanError;
use crate::udf::PythonFunction;

/// The rule; see the head of this file.
#[derive(Debug, Default)]
pub struct HoistUdf;

impl AnalyzerRule for HoistUdf {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(hoist)?.data)
    }

    fn name(&self) -> &str {
        "hoist_udf"
    }
}

fn hoist(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let Some(function) = called_in(&plan)? else {
        return Ok(Transformed::no(plan));
    };
    let hoisted = match plan {
        LogicalPlan::Projection(projection) => hoist_projection(projection, &function),
        LogicalPlan::Filter(filter) => hoist_filter(filter, &function),
        LogicalPlan::Aggregate(aggregate) => hoist_aggregate(aggregate, &function),
        LogicalPlan::Sort(sort) => hoist_sort(sort, &function),
        LogicalPlan::Window(window) => hoist_window(window, &function),
        LogicalPlan::Join(join) => join::hoist(join, &function),
        other => Err(PlanError::MisplacedCall {
            function: function.name.clone(),
            place: place_of(&other).to_owned(),
        }
        .into()),
    };
    hoisted.map(Transformed::yes)
}

/// A Python function that the expressions of `plan` itself call.
fn called_in(plan: &LogicalPlan) -> Result<Option<Arc<FunctionSpec>>> {
    let mut found = None;
    plan.apply_expressions(|expr| {
        found = first_call(expr);
        Ok(match found {
            Some(_) => TreeNodeRecursion::Stop,
            None => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

/// A Python function that `expr` calls; plans of subqueries inside are not
/// looked into.
fn first_call(expr: &Expr) -> Option<Arc<FunctionSpec>> {
    let mut found = None;
    // The closure cannot fail.
    let _ = expr.apply(|expr| {
        found = PythonFunction::called_by(expr).cloned();
        Ok(match found {
            Some(_) => TreeNodeRecursion::Stop,
            None => TreeNodeRecursion::Continue,
        })
    });
    found
}

fn place_of(plan: &LogicalPlan) -> &'static str {
    match plan {
        LogicalPlan::Values(_) => "VALUES",
        LogicalPlan::Distinct(_) => "DISTINCT ON",
        LogicalPlan::Limit(_) => "LIMIT",
        LogicalPlan::Repartition(_) => "DISTRIBUTE BY",
        LogicalPlan::Statement(_) => "a statement's parameters",
        _ => "this place",
    }
}

fn hoist_projection(projection: Projection, function: &Arc<FunctionSpec>) -> Result<LogicalPlan> {
    let Projection {
        expr,
        input,
        schema,
        ..
    } = projection;
    let mut hoister = Hoister::over(Arc::unwrap_or_clone(input), function)?;
    let exprs = expr
        .into_iter()
        .zip(schema.iter())
        .map(|(expr, (qualifier, field))| {
            let expr = hoister.lift(expr)?;
            let (new_qualifier, name) = expr.qualified_name();
            Ok(
                match new_qualifier.as_ref() == qualifier && name == *field.name() {
                    true => expr,
                    false => expr.alias_qualified(qualifier.cloned(), field.name()),
                },
            )
        })
        .collect::<Result<_>>()?;
    let input = Arc::new(hoister.finish()?);
    Projection::try_new_with_schema(exprs, input, schema).map(LogicalPlan::Projection)
}

/// Conjuncts without calls stay below, so that fewer rows reach the workers, and
/// each with calls runs on the rows that passed those before it.
fn hoist_filter(filter: Filter, function: &Arc<FunctionSpec>) -> Result<LogicalPlan> {
    let schema = Arc::clone(filter.input.schema());
    let conjuncts = split_conjunction_owned(filter.predicate).into_iter();
    let (mut costly, cheap): (Vec<_>, Vec<_>) = conjuncts.partition(|e| first_call(e).is_some());
    let (outer, cheap): (Vec<_>, Vec<_>) = cheap.into_iter().partition(Expr::contains_outer);
    let input = match Arc::unwrap_or_clone(filter.input) {
        LogicalPlan::Join(join) => join::with_keys(join, &cheap, &mut costly, function)?,
        input => input,
    };
    let mut hoister = Hoister::over(filtered(input, cheap)?, function)?;
    hoister.filter_last(outer);
    for conjunct in costly {
        let conjunct = hoister.lift(conjunct)?;
        hoister.input = filtered(hoister.input, vec![conjunct])?;
    }
    restored(hoister.finish()?, &schema, |i| i)
}

fn filtered(input: LogicalPlan, conjuncts: Vec<Expr>) -> Result<LogicalPlan> {
    match conjunction(conjuncts) {
        Some(all) => Filter::try_new(all, Arc::new(input)).map(LogicalPlan::Filter),
        None => Ok(input),
    }
}

fn hoist_aggregate(aggregate: Aggregate, function: &Arc<FunctionSpec>) -> Result<LogicalPlan> {
    let mut hoister = Hoister::over(Arc::unwrap_or_clone(aggregate.input), function)?;
    let group = hoister.lift_all(aggregate.group_expr)?;
    let aggr = hoister.lift_all(aggregate.aggr_expr)?;
    let hoisted = Aggregate::try_new(Arc::new(hoister.finish()?), group, aggr)?;
    restored(LogicalPlan::Aggregate(hoisted), &aggregate.schema, |i| i)
}

fn hoist_sort(sort: Sort, function: &Arc<FunctionSpec>) -> Result<LogicalPlan> {
    let schema = Arc::clone(sort.input.schema());
    let mut hoister = Hoister::over(Arc::unwrap_or_clone(sort.input), function)?;
    let keys = sort.expr.into_iter().map(|mut key| {
        key.expr = hoister.lift(key.expr)?;
        Ok(key)
    });
    let hoisted = Sort {
        expr: keys.collect::<Result<_>>()?,
        input: Arc::new(hoister.finish()?),
        fetch: sort.fetch,
    };
    restored(LogicalPlan::Sort(hoisted), &schema, |i| i)
}

fn hoist_window(window: Window, function: &Arc<FunctionSpec>) -> Result<LogicalPlan> {
    let passed = window.input.schema().fields().len();
    let mut hoister = Hoister::over(Arc::unwrap_or_clone(window.input), function)?;
    let exprs = hoister.lift_all(window.window_expr)?;
    let added = hoister.input.schema().fields().len() - passed;
    let hoisted = Window::try_new(exprs, Arc::new(hoister.finish()?))?;
    restored(LogicalPlan::Window(hoisted), &window.schema, |i| {
        match i < passed {
            true => i,
            false => i + added,
        }
    })
}

/// `plan` with exactly the columns of `schema`; the `i`th comes from column
/// `from(i)` of `plan`.
fn restored(
    plan: LogicalPlan,
    schema: &DFSchemaRef,
    from: impl Fn(usize) -> usize,
) -> Result<LogicalPlan> {
    let same = plan.schema().fields().len() == schema.fields().len()
        && plan
            .schema()
            .iter()
            .zip(schema.iter())
            .all(|(new, old)| new.0 == old.0 && new.1.name() == old.1.name());
    if same {
        return Ok(plan);
    }
    let exprs = schema.iter().enumerate().map(|(i, (qualifier, field))| {
        let new = plan.schema().qualified_field(from(i));
        let expr = Expr::Column(Column::from(new));
        match new.0 == qualifier && new.1.name() == field.name() {
            true => expr,
            false => expr.alias_qualified(qualifier.cloned(), field.name()),
        }
    });
    let exprs = exprs.collect();
    Projection::try_new_with_schema(exprs, Arc::new(plan), Arc::clone(schema))
        .map(LogicalPlan::Projection)
}

#[cfg(test)]
mod guard_tests;
#[cfg(test)]
mod join_tests;
#[cfg(test)]
mod tests;
