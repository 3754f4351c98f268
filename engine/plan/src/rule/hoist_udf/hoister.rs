//! Lifts calls out of the expressions of one node, growing the node's input.
//!
//! An expression without calls stays as it is. What stands where SQL evaluates
//! it for some rows only is lifted with a [`Guard`]: its call gets a mask, and
//! what is computed for it below is computed under the same condition, because
//! a division by zero must not fail for rows that the user kept from it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result, plan_err};
use datafusion::logical_expr::expr::{
    AggregateFunction, BinaryExpr, Case, ScalarFunction, WindowFunction,
};
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{
    Expr, ExprSchemable, LogicalPlan, Operator, Projection, UserDefinedLogicalNodeCore, cast, when,
};
use mobula_udfs::{CallMode, FunctionSpec, ParamKind};

use super::first_call;
use super::guard::{self, Guard};
use crate::error::PlanError;
use crate::operator::map_batches::{FunctionCall, MapBatchesNode, NodeShape};
use crate::sql::call_options::CallOptions;
use crate::udf::{PythonFunction, accepts};

/// See the head of this file.
pub(super) struct Hoister {
    /// The node's input with a column appended for each call, argument and mask.
    pub input: LogicalPlan,
    /// Columns that hold what an expression gives for the rows of a guard.
    known: HashMap<Expr, Vec<(Guard, Column)>>,
    masks: HashMap<Guard, Column>,
    /// What is left for [`Self::finish`].
    outer: Vec<Expr>,
    /// Names that columns must not get: those of a join's other side.
    pub elsewhere: HashSet<String>,
    /// A function that the node calls, for errors.
    function: Arc<FunctionSpec>,
}

impl Hoister {
    /// A filter by columns of an outer query, if `input` is one, is left for the
    /// end: DataFusion makes a join of it, and finds it on top alone.
    pub fn over(input: LogicalPlan, function: &Arc<FunctionSpec>) -> Result<Self> {
        let (input, outer) = match input {
            LogicalPlan::Filter(filter) if filter.predicate.contains_outer() => {
                let conjuncts = split_conjunction_owned(filter.predicate).into_iter();
                let (outer, own) = conjuncts.partition(Expr::contains_outer);
                (
                    super::filtered(Arc::unwrap_or_clone(filter.input), own)?,
                    outer,
                )
            }
            input => (input, vec![]),
        };
        Ok(Self {
            input,
            outer,
            elsewhere: HashSet::new(),
            known: HashMap::new(),
            masks: HashMap::new(),
            function: Arc::clone(function),
        })
    }

    /// Runs `conjuncts` with columns of an outer query when all else is done.
    pub fn filter_last(&mut self, conjuncts: Vec<Expr>) {
        self.outer.extend(conjuncts);
    }

    /// The grown input.
    pub fn finish(self) -> Result<LogicalPlan> {
        super::filtered(self.input, self.outer)
    }

    pub fn lift_all(&mut self, exprs: Vec<Expr>) -> Result<Vec<Expr>> {
        exprs.into_iter().map(|expr| self.lift(expr)).collect()
    }

    /// `expr`, which is evaluated for all rows, with its calls replaced by columns.
    pub fn lift(&mut self, expr: Expr) -> Result<Expr> {
        self.lift_under(expr, &Guard::default())
    }

    /// The same for the rows of `guard` only.
    pub fn lift_under(&mut self, expr: Expr, guard: &Guard) -> Result<Expr> {
        if first_call(&expr).is_none() {
            return Ok(expr);
        }
        match expr {
            Expr::Case(case) => self.lift_case(case, guard),
            Expr::BinaryExpr(binary) if matches!(binary.op, Operator::And | Operator::Or) => {
                self.lift_and_or(binary, guard)
            }
            Expr::ScalarFunction(call) => self.lift_function(call, guard),
            Expr::AggregateFunction(AggregateFunction { func, mut params })
                if params.filter.is_some() =>
            {
                let guard = self.lift_filter(&mut params.filter, guard)?;
                params.args = self.lift_each(params.args, &guard)?;
                for key in &mut params.order_by {
                    key.expr = self.lift_under(std::mem::take(&mut key.expr), &guard)?;
                }
                Ok(Expr::AggregateFunction(AggregateFunction { func, params }))
            }
            Expr::WindowFunction(window) if window.params.filter.is_some() => {
                let WindowFunction { fun, mut params } = *window;
                let filtered = self.lift_filter(&mut params.filter, guard)?;
                params.args = self.lift_each(params.args, &filtered)?;
                params.partition_by = self.lift_each(params.partition_by, guard)?;
                for key in &mut params.order_by {
                    key.expr = self.lift_under(std::mem::take(&mut key.expr), guard)?;
                }
                let window = WindowFunction { fun, params };
                Ok(Expr::WindowFunction(Box::new(window)))
            }
            Expr::Lambda(lambda) => Err(refused(&lambda.body, "a lambda")),
            other => other
                .map_children(|child| self.lift_under(child, guard).map(Transformed::yes))
                .map(|transformed| transformed.data),
        }
    }

    fn lift_each(&mut self, exprs: Vec<Expr>, guard: &Guard) -> Result<Vec<Expr>> {
        let exprs = exprs.into_iter();
        exprs.map(|expr| self.lift_under(expr, guard)).collect()
    }

    /// A WHEN is reached where none before held, a THEN where its WHEN is the
    /// first to hold.
    fn lift_case(&mut self, case: Case, guard: &Guard) -> Result<Expr> {
        let calls = |expr: &Expr| usize::from(first_call(expr).is_some());
        let branches = case.when_then_expr.iter();
        let mut ahead: usize = branches.map(|(w, t)| calls(w) + calls(t)).sum();
        ahead += case.else_expr.as_deref().map_or(0, calls);
        let base = match case.expr {
            Some(base) => {
                let base = self.lift_under(*base, guard)?;
                Some(self.once(base, guard, ahead > 0)?)
            }
            None => None,
        };
        let mut whens: Vec<Expr> = vec![];
        let mut branches = vec![];
        for (when, then) in case.when_then_expr {
            let reached = match ahead {
                0 => guard.clone(),
                _ => guard.and_all(guard::none_holds(base.as_ref(), &whens)),
            };
            ahead -= calls(&when);
            let when = self.lift_under(*when, &reached)?;
            whens.push(self.once(when, &reached, ahead > 0)?);
            let here = calls(&then);
            ahead -= here;
            let then = match here {
                0 => *then,
                _ => {
                    let taken = guard::last_holds(base.as_ref(), &whens);
                    self.lift_under(*then, &guard.and_all(taken))?
                }
            };
            branches.push(Box::new(then));
        }
        let otherwise = match case.else_expr {
            Some(expr) if ahead > 0 => {
                let reached = guard.and_all(guard::none_holds(base.as_ref(), &whens));
                Some(Box::new(self.lift_under(*expr, &reached)?))
            }
            other => other,
        };
        let whens = whens.into_iter().map(Box::new);
        Ok(Expr::Case(Case {
            expr: base.map(Box::new),
            when_then_expr: whens.zip(branches).collect(),
            else_expr: otherwise,
        }))
    }

    /// The second operand counts where the first has not decided.
    fn lift_and_or(&mut self, binary: BinaryExpr, guard: &Guard) -> Result<Expr> {
        let guards = first_call(&binary.right).is_some();
        let left = self.lift_under(*binary.left, guard)?;
        let left = self.once(left, guard, guards)?;
        let right = match guards {
            false => *binary.right,
            true => {
                let open = match binary.op {
                    Operator::And => left.clone().is_not_false(),
                    _ => left.clone().is_not_true(),
                };
                self.lift_under(*binary.right, &guard.and(open))?
            }
        };
        let (left, right) = (Box::new(left), Box::new(right));
        Ok(Expr::BinaryExpr(BinaryExpr::new(left, binary.op, right)))
    }

    fn lift_function(&mut self, call: ScalarFunction, guard: &Guard) -> Result<Expr> {
        let lazy = call.func.conditional_arguments(&call.args);
        let lazy = lazy.and_then(|(_, lazy)| lazy.into_iter().find(|e| first_call(e).is_some()));
        if let Some(called) = lazy {
            return match call.func.name() {
                "coalesce" | "nvl" => self.lift_coalesce(call, guard),
                "nvl2" => self.lift_under(nvl2_as_case(call)?, guard),
                other => Err(refused(called, &other.to_uppercase())),
            };
        }
        let args = self.lift_each(call.args, guard)?;
        let call = ScalarFunction::new_udf(call.func, args);
        match PythonFunction::of(&call.func).map(|f| Arc::clone(f.spec())) {
            Some(spec) => self.append_call(call, spec, guard).map(Expr::Column),
            None => Ok(Expr::ScalarFunction(call)),
        }
    }

    /// An argument is looked at where all before it are NULL.
    fn lift_coalesce(&mut self, call: ScalarFunction, guard: &Guard) -> Result<Expr> {
        let mut calls = call.args.iter().map(|arg| first_call(arg).is_some());
        let last = calls.rposition(|calls| calls).unwrap_or_default();
        let mut args: Vec<Expr> = vec![];
        for (i, arg) in call.args.into_iter().enumerate() {
            let reached = match args.as_slice() {
                [] => guard.clone(),
                _ if i > last => guard.clone(),
                [only] => guard.and(only.clone().is_null()),
                several => {
                    let before = ScalarFunction::new_udf(Arc::clone(&call.func), several.to_vec());
                    guard.and(Expr::ScalarFunction(before).is_null())
                }
            };
            let arg = self.lift_under(arg, &reached)?;
            args.push(self.once(arg, &reached, i < last)?);
        }
        let call = ScalarFunction::new_udf(call.func, args);
        Ok(Expr::ScalarFunction(call))
    }

    /// The guard of what an aggregate with FILTER takes.
    fn lift_filter(&mut self, filter: &mut Option<Box<Expr>>, guard: &Guard) -> Result<Guard> {
        let Some(condition) = filter.take() else {
            return Ok(guard.clone());
        };
        let condition = self.lift_under(*condition, guard)?;
        let condition = self.once(condition, guard, true)?;
        *filter = Some(Box::new(condition.clone()));
        Ok(guard.and(condition.is_true()))
    }

    /// The column that holds the result of `call`, whose arguments are free of
    /// calls.
    fn append_call(
        &mut self,
        call: ScalarFunction,
        spec: Arc<FunctionSpec>,
        guard: &Guard,
    ) -> Result<Column> {
        let args = call.args.clone();
        let expr = Expr::ScalarFunction(call);
        if let Some(column) = self.known(&expr, guard) {
            return Ok(column);
        }
        let mut columns = Vec::with_capacity(args.len());
        for (arg, param) in args.into_iter().zip(&spec.params) {
            let name = format!("__{}_{}", spec.name, param.name);
            let column = match &param.kind {
                ParamKind::Value(wanted) => self.argument(arg, wanted, name, guard)?,
                ParamKind::Table => {
                    return Err(PlanError::TableFunction {
                        function: spec.name.clone(),
                    }
                    .into());
                }
            };
            columns.push(column);
        }
        let mask = self.mask(guard)?;
        // Named as the expression was, so that names of columns made from it
        // stay as they were.
        let result = self.free_name(expr.schema_name().to_string());
        // One that waits is called for each row, unless it is declared for batches.
        let mode = match spec.object.is_async() && spec.defaults.takes_rows() {
            true => CallMode::Map,
            false => CallMode::Batches,
        };
        let call = FunctionCall::new(spec, mode, vec![], &CallOptions::default());
        call.refuse_dropped_rows()?;
        let input = std::mem::take(&mut self.input);
        let node = MapBatchesNode::try_new_column(input, call, columns, result.clone())?;
        self.input = node.with_mask(mask)?.into_plan();
        Ok(self.remember(expr, guard, Column::new_unqualified(result)))
    }

    /// The column that holds `arg`, computed below if need be.
    fn argument(
        &mut self,
        arg: Expr,
        wanted: &DataType,
        name: String,
        guard: &Guard,
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
        if let Some(column) = self.known(&arg, guard) {
            return Ok(column);
        }
        let computed = self.where_reached(arg.clone(), guard)?;
        let column = self.append(computed, name)?;
        Ok(self.remember(arg, guard, column))
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

    /// The column that is true for the rows of `guard`; `None`: all rows.
    fn mask(&mut self, guard: &Guard) -> Result<Option<Column>> {
        let Some((outer, condition)) = guard.innermost() else {
            return Ok(None);
        };
        if let (true, Expr::IsTrue(flag)) = (outer.is_all(), condition)
            && let Expr::Column(column) = flag.as_ref()
        {
            return Ok(Some(column.clone()));
        }
        if let Some(column) = self.masks.get(guard) {
            return Ok(Some(column.clone()));
        }
        let condition = self.where_reached(condition.clone(), &outer)?;
        let column = self.append(condition, "__mask".to_owned())?;
        self.masks.insert(guard.clone(), column.clone());
        Ok(Some(column))
    }

    /// `expr` for the rows of `guard`, NULL for the others, for which it is not
    /// evaluated. Hidden in numbers if it is a truth value: DataFusion makes AND
    /// and OR of a CASE over those, and they evaluate both sides for all rows.
    fn where_reached(&mut self, expr: Expr, guard: &Guard) -> Result<Expr> {
        if matches!(expr, Expr::Literal(..)) {
            return Ok(expr);
        }
        let Some(mask) = self.mask(guard)? else {
            return Ok(expr);
        };
        let truth = expr.get_type(self.input.schema().as_ref())? == DataType::Boolean;
        let value = match truth {
            true => cast(expr, DataType::Int8),
            false => expr,
        };
        let case = when(Expr::Column(mask), value).end()?;
        Ok(match truth {
            true => cast(case, DataType::Boolean),
            false => case,
        })
    }

    /// `expr` such that it may stand in a mask and at its old place as well: what
    /// may differ from one evaluation to the next becomes a column.
    fn once(&mut self, expr: Expr, guard: &Guard, twice: bool) -> Result<Expr> {
        if !twice || !(expr.is_volatile() || guard::has_subquery(&expr)) {
            return Ok(expr);
        }
        let expr = self.where_reached(expr, guard)?;
        self.append(expr, "__guard".to_owned()).map(Expr::Column)
    }

    /// A column named like `name` that holds `expr`.
    fn append(&mut self, expr: Expr, name: String) -> Result<Column> {
        if expr.contains_outer() {
            return Err(PlanError::MisplacedCall {
                function: self.function.name.clone(),
                place: "a subquery over columns of the outer query".to_owned(),
            }
            .into());
        }
        let name = self.free_name(name);
        self.input = with_column(std::mem::take(&mut self.input), expr, &name)?;
        Ok(Column::new_unqualified(name))
    }

    /// The column that holds `expr` for the rows of `guard` at least.
    fn known(&self, expr: &Expr, guard: &Guard) -> Option<Column> {
        let mut known = self.known.get(expr)?.iter();
        let found = known.find(|(rows, _)| rows.covers(guard))?;
        Some(found.1.clone())
    }

    fn remember(&mut self, expr: Expr, guard: &Guard, column: Column) -> Column {
        if !expr.is_volatile() {
            let known = self.known.entry(expr).or_default();
            known.push((guard.clone(), column.clone()));
        }
        column
    }

    /// `name`, with a number if a column has it.
    fn free_name(&self, name: String) -> String {
        let taken = |name: &str| {
            let fields = self.input.schema().fields();
            self.elsewhere.contains(name) || fields.iter().any(|field| field.name() == name)
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

/// `plan` with a column `name` that holds `expr`: computed below the calls on top
/// that it does not need, which so stay neighbours.
fn with_column(plan: LogicalPlan, expr: Expr, name: &str) -> Result<LogicalPlan> {
    if let LogicalPlan::Extension(extension) = &plan
        && let Some(node) = extension.node.as_any().downcast_ref::<MapBatchesNode>()
        && matches!(node.shape(), NodeShape::Column { .. })
        && !node.call().errors().on_error.drops_rows()
        && !guard::has_subquery(&expr)
    {
        let schema = node.input().schema();
        let mut needed = expr.column_refs().into_iter();
        if needed.all(|column| schema.has_column(column)) {
            let input = with_column(node.input().clone(), expr, name)?;
            let node = node.with_exprs_and_inputs(node.expressions(), vec![input])?;
            return Ok(node.into_plan());
        }
    }
    let columns = plan.schema().columns().into_iter();
    let mut exprs: Vec<Expr> = columns.map(Expr::Column).collect();
    exprs.push(expr.alias(name));
    Projection::try_new(exprs, Arc::new(plan)).map(LogicalPlan::Projection)
}

/// A call in a part of an expression that has no rows to mask.
fn refused(called: &Expr, place: &str) -> datafusion::common::DataFusionError {
    let function = first_call(called).map(|spec| spec.name.clone());
    PlanError::GuardedCall {
        function: function.unwrap_or_default(),
        place: place.to_owned(),
    }
    .into()
}

/// `nvl2(test, a, b)` as the CASE that it means.
fn nvl2_as_case(call: ScalarFunction) -> Result<Expr> {
    match <[Expr; 3]>::try_from(call.args) {
        Ok([test, given, otherwise]) => when(test.is_not_null(), given).otherwise(otherwise),
        Err(args) => plan_err!("nvl2 takes three arguments, not {}", args.len()),
    }
}
