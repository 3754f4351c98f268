//! Calls in JOIN ON.
//!
//! ```text
//! Inner Join: Filter: inc(t.a) = u.a           Inner Join: Filter: "inc(t.a)" = u.a
//!   TableScan: t                         →       MapBatches: inc over [t.a] AS inc(t.a)
//!   TableScan: u                                   TableScan: t
//!                                                TableScan: u
//!
//! Inner Join: Filter: t.a = u.a AND            Filter: "net(t.b,u.x)" > 1
//!     net(t.b, u.x) > 1                  →       MapBatches: net over [t.b, u.x] AS net(t.b,u.x)
//!   TableScan: t                                   Inner Join: Filter: t.a = u.a
//!   TableScan: u                                     …
//! ```
//!
//! What a conjunct computes of one side becomes a column of that side, in a join
//! of any kind: it is the same for every pair the row is in. It is computed for
//! the rows for which the conjuncts without calls over that side hold. What takes
//! columns of both sides, or differs each time, becomes a filter above an inner
//! join; with any other join it is refused, because rows that find no partner
//! stay, and whether they do must be known while joining. `FROM t, u WHERE
//! inc(t.a) = u.a` is an inner join by that key.

use std::sync::Arc;

use datafusion::common::{DFSchema, JoinType, Result};
use datafusion::logical_expr::expr::BinaryExpr;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Filter, Join, LogicalPlan, Operator};
use mobula_udfs::FunctionSpec;

use super::guard::Guard;
use super::hoister::Hoister;
use super::{filtered, first_call, hoist_filter, restored};
use crate::error::PlanError;

/// `join` without calls in its condition.
pub(super) fn hoist(join: Join, function: &Arc<FunctionSpec>) -> Result<LogicalPlan> {
    let (kind, old) = (join.join_type, Arc::clone(&join.schema));
    let width = join.left.schema().fields().len();
    let conjuncts = join.filter.map_or_else(Vec::new, split_conjunction_owned);
    let (costly, mut kept): (Vec<_>, Vec<_>) =
        conjuncts.into_iter().partition(|e| first_call(e).is_some());
    let mut sides = [
        Side::over(Arc::unwrap_or_clone(join.left), &kept, kind, function)?,
        Side::over(Arc::unwrap_or_clone(join.right), &kept, kind, function)?,
    ];
    if kind == JoinType::Inner {
        // The sides are filtered by these already.
        kept.retain(|e| e.is_volatile() || side_of(e, &sides).is_none());
    }
    let mut above = vec![];
    for conjunct in costly {
        match lifted(conjunct, &mut sides)? {
            Ok(conjunct) => kept.push(conjunct),
            Err(conjunct) => above.push(conjunct),
        }
    }
    if let (Some(call), true) = (above.iter().find_map(first_call), kind != JoinType::Inner) {
        return Err(PlanError::JoinCall {
            function: call.name.clone(),
            join: words(kind),
        }
        .into());
    }
    let [left, right] = sides.map(|side| side.hoister.finish());
    let (left, right) = (left?, right?);
    let added = left.schema().fields().len() - width;
    let joined = LogicalPlan::Join(Join::try_new(
        Arc::new(left),
        Arc::new(right),
        join.on,
        conjunction(kept),
        kind,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?);
    let joined = match conjunction(above) {
        Some(above) => hoist_filter(Filter::try_new(above, Arc::new(joined))?, function)?,
        None => joined,
    };
    restored(joined, &old, |i| match kind {
        JoinType::RightSemi | JoinType::RightAnti => i,
        _ if i < width => i,
        _ => i + added,
    })
}

/// One input of a join.
struct Side {
    hoister: Hoister,
    schema: Arc<DFSchema>,
    /// The rows for which the join looks at conjuncts with calls.
    guard: Guard,
}

impl Side {
    /// `cheap`: the conjuncts without calls.
    fn over(
        input: LogicalPlan,
        cheap: &[Expr],
        kind: JoinType,
        function: &Arc<FunctionSpec>,
    ) -> Result<Self> {
        let schema = Arc::clone(input.schema());
        let mine = cheap
            .iter()
            .filter(|e| is_over(e, &schema) && !e.is_volatile());
        let mine: Vec<Expr> = mine.cloned().collect();
        // The rows of an inner join pass all of them; rows of others may stay
        // without.
        let (input, guard) = match kind {
            JoinType::Inner => (filtered(input, mine)?, Guard::default()),
            _ => {
                let mine = conjunction(mine).map(Expr::is_true);
                (input, Guard::default().and_all(mine))
            }
        };
        Ok(Self {
            hoister: Hoister::over(input, function)?,
            schema,
            guard,
        })
    }
}

/// `FROM t, u` with the conjuncts of a WHERE that may be keys of the join; they
/// are taken out of `costly`. Nothing changes where others join the two already.
pub(super) fn with_keys(
    mut join: Join,
    cheap: &[Expr],
    costly: &mut Vec<Expr>,
    function: &Arc<FunctionSpec>,
) -> Result<LogicalPlan> {
    let plain = join.join_type == JoinType::Inner && join.on.is_empty() && join.filter.is_none();
    let sides = [
        Arc::clone(join.left.schema()),
        Arc::clone(join.right.schema()),
    ];
    let over_one = |e: &Expr| sides.iter().any(|schema| is_over(e, schema));
    if !plain || !cheap.iter().all(over_one) {
        return Ok(LogicalPlan::Join(join));
    }
    let is_key = |e: &Expr| match e {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            *op == Operator::Eq
                && !e.is_volatile()
                && !over_one(e)
                && over_one(left)
                && over_one(right)
        }
        _ => false,
    };
    let (keys, others): (Vec<_>, Vec<_>) = std::mem::take(costly).into_iter().partition(is_key);
    *costly = others;
    join.filter = conjunction(keys);
    match join.filter {
        Some(_) => hoist(join, function),
        None => Ok(LogicalPlan::Join(join)),
    }
}

/// `conjunct` with its calls replaced by columns of the sides, or as it was.
fn lifted(conjunct: Expr, sides: &mut [Side; 2]) -> Result<Result<Expr, Expr>> {
    if conjunct.is_volatile() {
        return Ok(Err(conjunct));
    }
    if let Some(side) = side_of(&conjunct, sides) {
        return lift_on(side, conjunct, sides).map(Ok);
    }
    // Both operands of a comparison are evaluated; those of AND and OR may not be.
    let operands = match &conjunct {
        Expr::BinaryExpr(binary) if !matches!(binary.op, Operator::And | Operator::Or) => {
            (side_of(&binary.left, sides), side_of(&binary.right, sides))
        }
        _ => (None, None),
    };
    match (conjunct, operands) {
        (Expr::BinaryExpr(binary), (Some(left), Some(right))) => {
            let left = lift_on(left, *binary.left, sides)?;
            let right = lift_on(right, *binary.right, sides)?;
            let binary = BinaryExpr::new(Box::new(left), binary.op, Box::new(right));
            Ok(Ok(Expr::BinaryExpr(binary)))
        }
        (other, _) => Ok(Err(other)),
    }
}

/// The side whose columns alone `expr` takes.
fn side_of(expr: &Expr, sides: &[Side; 2]) -> Option<usize> {
    sides.iter().position(|side| is_over(expr, &side.schema))
}

fn lift_on(side: usize, expr: Expr, sides: &mut [Side; 2]) -> Result<Expr> {
    let [left, right] = sides;
    let (side, other) = match side {
        0 => (left, right),
        _ => (right, left),
    };
    let names = other.hoister.input.schema().fields().iter();
    side.hoister.elsewhere = names.map(|field| field.name().clone()).collect();
    side.hoister.lift_under(expr, &side.guard)
}

/// `LEFT SEMI` and the like.
fn words(kind: JoinType) -> String {
    let mut words = String::new();
    for letter in kind.to_string().chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_uppercase());
    }
    words
}

/// Whether `expr` takes columns of `schema` alone.
fn is_over(expr: &Expr, schema: &DFSchema) -> bool {
    !expr.contains_outer()
        && !super::guard::has_subquery(expr)
        && expr
            .column_refs()
            .into_iter()
            .all(|column| schema.has_column(column))
}
