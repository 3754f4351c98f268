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
//! ```
//!
//! In projections, filters, aggregates, sorts and windows; elsewhere, and where
//! an expression decides which rows reach the call, it is refused: running the
//! call on all rows could fail on rows the user kept from it. Equal calls of one
//! node are made once, unless volatile. Arguments that are no columns are
//! computed in a projection below. The schema of every node stays as it was, so
//! nodes above need no change. Runs after type coercion; running it again
//! changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchemaRef, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{AggregateFunction, ScalarFunction, WindowFunction};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable, Filter, LogicalPlan, Operator, Projection, Sort, Window,
};
use datafusion::optimizer::AnalyzerRule;
use mobula_udfs::{CallMode, FunctionSpec, ParamKind};

use crate::error::PlanError;
use crate::operator::map_batches::{FunctionCall, MapBatchesNode};
use crate::sql::call_options::CallOptions;
use crate::udf::{PythonFunction, accepts};

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
        LogicalPlan::Projection(projection) => hoist_projection(projection),
        LogicalPlan::Filter(filter) => hoist_filter(filter),
        LogicalPlan::Aggregate(aggregate) => hoist_aggregate(aggregate),
        LogicalPlan::Sort(sort) => hoist_sort(sort),
        LogicalPlan::Window(window) => hoist_window(window),
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
        LogicalPlan::Join(_) => "a JOIN condition",
        LogicalPlan::Values(_) => "VALUES",
        LogicalPlan::Distinct(_) => "DISTINCT ON",
        LogicalPlan::Limit(_) => "LIMIT",
        LogicalPlan::Repartition(_) => "DISTRIBUTE BY",
        LogicalPlan::Statement(_) => "a statement's parameters",
        _ => "this place",
    }
}

fn hoist_projection(projection: Projection) -> Result<LogicalPlan> {
    let Projection {
        expr,
        input,
        schema,
        ..
    } = projection;
    let mut hoister = Hoister::over(Arc::unwrap_or_clone(input));
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
    let input = Arc::new(hoister.input);
    Projection::try_new_with_schema(exprs, input, schema).map(LogicalPlan::Projection)
}

/// Conjuncts without calls stay below, so that fewer rows reach the workers.
fn hoist_filter(filter: Filter) -> Result<LogicalPlan> {
    let schema = Arc::clone(filter.input.schema());
    let conjuncts = split_conjunction_owned(filter.predicate).into_iter();
    let (costly, cheap): (Vec<_>, Vec<_>) = conjuncts.partition(|e| first_call(e).is_some());
    let input = match conjunction(cheap) {
        Some(cheap) => LogicalPlan::Filter(Filter::try_new(cheap, filter.input)?),
        None => Arc::unwrap_or_clone(filter.input),
    };
    let mut hoister = Hoister::over(input);
    let costly = costly.into_iter().map(|expr| hoister.lift(expr));
    let predicate = conjunction(costly.collect::<Result<Vec<_>>>()?);
    let Some(predicate) = predicate else {
        return Ok(hoister.input);
    };
    let filter = Filter::try_new(predicate, Arc::new(hoister.input))?;
    restored(LogicalPlan::Filter(filter), &schema, |i| i)
}

fn hoist_aggregate(aggregate: Aggregate) -> Result<LogicalPlan> {
    let mut hoister = Hoister::over(Arc::unwrap_or_clone(aggregate.input));
    let group = hoister.lift_all(aggregate.group_expr)?;
    let aggr = hoister.lift_all(aggregate.aggr_expr)?;
    let hoisted = Aggregate::try_new(Arc::new(hoister.input), group, aggr)?;
    restored(LogicalPlan::Aggregate(hoisted), &aggregate.schema, |i| i)
}

fn hoist_sort(sort: Sort) -> Result<LogicalPlan> {
    let schema = Arc::clone(sort.input.schema());
    let mut hoister = Hoister::over(Arc::unwrap_or_clone(sort.input));
    let keys = sort.expr.into_iter().map(|mut key| {
        key.expr = hoister.lift(key.expr)?;
        Ok(key)
    });
    let hoisted = Sort {
        expr: keys.collect::<Result<_>>()?,
        input: Arc::new(hoister.input),
        fetch: sort.fetch,
    };
    restored(LogicalPlan::Sort(hoisted), &schema, |i| i)
}

fn hoist_window(window: Window) -> Result<LogicalPlan> {
    let passed = window.input.schema().fields().len();
    let mut hoister = Hoister::over(Arc::unwrap_or_clone(window.input));
    let exprs = hoister.lift_all(window.window_expr)?;
    let added = hoister.input.schema().fields().len() - passed;
    let hoisted = Window::try_new(exprs, Arc::new(hoister.input))?;
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

/// Lifts calls out of the expressions of one node, growing its input.
struct Hoister {
    /// The node's input with a column appended for each call and argument.
    input: LogicalPlan,
    /// Columns that hold what an expression gives.
    known: HashMap<Expr, Column>,
}

impl Hoister {
    fn over(input: LogicalPlan) -> Self {
        Self {
            input,
            known: HashMap::new(),
        }
    }

    fn lift_all(&mut self, exprs: Vec<Expr>) -> Result<Vec<Expr>> {
        exprs.into_iter().map(|expr| self.lift(expr)).collect()
    }

    /// `expr` with its calls replaced by columns.
    fn lift(&mut self, expr: Expr) -> Result<Expr> {
        if first_call(&expr).is_none() {
            return Ok(expr);
        }
        refuse_guarded(&expr)?;
        match expr {
            Expr::ScalarFunction(call) => {
                let args = self.lift_all(call.args)?;
                let call = ScalarFunction::new_udf(call.func, args);
                match PythonFunction::of(&call.func).map(|f| Arc::clone(f.spec())) {
                    Some(spec) => self.append_call(call, spec).map(Expr::Column),
                    None => Ok(Expr::ScalarFunction(call)),
                }
            }
            other => other
                .map_children(|child| self.lift(child).map(Transformed::yes))
                .map(|transformed| transformed.data),
        }
    }

    /// The column that holds the result of `call`, whose arguments are free of
    /// calls.
    fn append_call(&mut self, call: ScalarFunction, spec: Arc<FunctionSpec>) -> Result<Column> {
        let args = call.args.clone();
        let expr = Expr::ScalarFunction(call);
        if let Some(column) = self.known.get(&expr) {
            return Ok(column.clone());
        }
        let mut columns = Vec::with_capacity(args.len());
        for (arg, param) in args.into_iter().zip(&spec.params) {
            let name = format!("__{}_{}", spec.name, param.name);
            let column = match &param.kind {
                ParamKind::Value(wanted) => self.argument(arg, wanted, name, &spec)?,
                ParamKind::Table => {
                    return Err(PlanError::TableFunction {
                        function: spec.name.clone(),
                    }
                    .into());
                }
            };
            columns.push(column);
        }
        // Named as the expression was, so that names of columns made from it
        // stay as they were.
        let result = self.free_name(expr.schema_name().to_string());
        let call = FunctionCall::new(spec, CallMode::Batches, vec![], &CallOptions::default());
        call.refuse_dropped_rows()?;
        let input = std::mem::take(&mut self.input);
        let node = MapBatchesNode::try_new_column(input, call, columns, result.clone())?;
        self.input = node.into_plan();
        Ok(self.remember(expr, Column::new_unqualified(result)))
    }

    /// The column that holds `arg`, computed below if need be.
    fn argument(
        &mut self,
        arg: Expr,
        wanted: &DataType,
        name: String,
        spec: &FunctionSpec,
    ) -> Result<Column> {
        let arg = match arg {
            // The exec casts a column to its parameter's type by itself.
            Expr::Cast(cast)
                if cast.field.data_type() == wanted && self.casts(&cast.expr, wanted)? =>
            {
                *cast.expr
            }
            arg => arg,
        };
        if let Expr::Column(column) = arg {
            return Ok(column);
        }
        if let Some(column) = self.known.get(&arg) {
            return Ok(column.clone());
        }
        if arg.contains_outer() {
            return Err(PlanError::MisplacedCall {
                function: spec.name.clone(),
                place: "a subquery over columns of the outer query".to_owned(),
            }
            .into());
        }
        let name = self.free_name(name);
        let mut exprs: Vec<Expr> = self
            .input
            .schema()
            .columns()
            .into_iter()
            .map(Expr::Column)
            .collect();
        exprs.push(arg.clone().alias(&name));
        let input = Arc::new(std::mem::take(&mut self.input));
        self.input = LogicalPlan::Projection(Projection::try_new(exprs, input)?);
        Ok(self.remember(arg, Column::new_unqualified(name)))
    }

    /// Whether `expr` is a column that may be cast to `wanted` silently.
    fn casts(&self, expr: &Expr, wanted: &DataType) -> Result<bool> {
        match expr {
            Expr::Column(_) => Ok(accepts(
                wanted,
                &expr.get_type(self.input.schema().as_ref())?,
            )),
            _ => Ok(false),
        }
    }

    fn remember(&mut self, expr: Expr, column: Column) -> Column {
        if !expr.is_volatile() {
            self.known.insert(expr, column.clone());
        }
        column
    }

    /// `name`, with a number if a column has it.
    fn free_name(&self, name: String) -> String {
        let taken = |name: &str| {
            let fields = self.input.schema().fields();
            fields.iter().any(|field| field.name() == name)
        };
        if !taken(&name) {
            return name;
        }
        let mut n = 1;
        loop {
            let numbered = format!("{name}_{n}");
            if !taken(&numbered) {
                return numbered;
            }
            n += 1;
        }
    }
}

/// Refuses calls in the parts of `expr` that run for some rows only.
fn refuse_guarded(expr: &Expr) -> Result<()> {
    match expr {
        Expr::Case(case) => {
            let branches = case
                .when_then_expr
                .iter()
                .flat_map(|(when, then)| [when, then]);
            let branches = branches.chain(&case.else_expr);
            refuse("CASE", branches.map(|branch| branch.as_ref()))
        }
        Expr::BinaryExpr(binary) => match binary.op {
            Operator::And => refuse("AND", [binary.left.as_ref(), binary.right.as_ref()]),
            Operator::Or => refuse("OR", [binary.left.as_ref(), binary.right.as_ref()]),
            _ => Ok(()),
        },
        Expr::ScalarFunction(call) => match call.func.conditional_arguments(&call.args) {
            Some((_, conditional)) => refuse(&call.func.name().to_uppercase(), conditional),
            None => Ok(()),
        },
        Expr::Lambda(lambda) => refuse("a lambda", [lambda.body.as_ref()]),
        Expr::AggregateFunction(AggregateFunction { params, .. }) if params.filter.is_some() => {
            refuse("an aggregate with FILTER", &params.args)
        }
        Expr::WindowFunction(window) => {
            let WindowFunction { params, .. } = window.as_ref();
            match params.filter {
                Some(_) => refuse("a window function with FILTER", &params.args),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn refuse<'a>(place: &str, exprs: impl IntoIterator<Item = &'a Expr>) -> Result<()> {
    match exprs.into_iter().find_map(first_call) {
        Some(spec) => Err(PlanError::GuardedCall {
            function: spec.name.clone(),
            place: place.to_owned(),
        }
        .into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
