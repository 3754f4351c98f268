//! Which rows SQL evaluates a part of an expression for.
//!
//! ```text
//! CASE WHEN a THEN f(x) WHEN b THEN g(y) ELSE h(z) END
//!   f: a IS TRUE    g: a IS NOT TRUE, and b is the first to hold    h: neither
//! p AND f(x): p IS NOT FALSE    p OR f(x): p IS NOT TRUE    COALESCE(a, f(x)): a IS NULL
//! ```
//!
//! Of several WHENs a CASE of numbers is made, which looks at a WHEN only where
//! those before it did not hold, as the user's CASE does. Pure.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::expr::Case;
use datafusion::logical_expr::{Expr, cast, lit};

/// Conditions that a row passes one after the other, each looked at only where
/// those before it hold. Without any: all rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Guard(Vec<Expr>);

impl Guard {
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// The rows of `self` for which `condition` is true.
    pub fn and(&self, condition: Expr) -> Self {
        self.and_all(Some(condition))
    }

    pub fn and_all(&self, condition: Option<Expr>) -> Self {
        Self(self.0.iter().cloned().chain(condition).collect())
    }

    /// The last condition, and those before it.
    pub fn innermost(&self) -> Option<(Self, &Expr)> {
        let (last, before) = self.0.split_last()?;
        Some((Self(before.to_vec()), last))
    }

    /// Whether each row of `other` is one of `self`, as far as one can see.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }
}

/// That no branch of a CASE is taken; `None` where there is none.
pub(super) fn none_holds(base: Option<&Expr>, whens: &[Expr]) -> Option<Expr> {
    match (base, whens) {
        (_, []) => None,
        (None, [only]) => Some(only.clone().is_not_true()),
        _ => Some(numbered(base, whens, 0, 1)),
    }
}

/// That the last branch of a CASE is taken.
pub(super) fn last_holds(base: Option<&Expr>, whens: &[Expr]) -> Option<Expr> {
    match (base, whens) {
        (_, []) => None,
        (None, [only]) => Some(only.clone().is_true()),
        _ => Some(numbered(base, whens, 1, 0)),
    }
}

/// `CASE … THEN 0 … THEN last ELSE otherwise END`, as a truth value.
fn numbered(base: Option<&Expr>, whens: &[Expr], last: i8, otherwise: i8) -> Expr {
    let branches = whens.iter().enumerate().map(|(i, when)| {
        let then = if i + 1 == whens.len() { last } else { 0 };
        (Box::new(when.clone()), Box::new(lit(then)))
    });
    let case = Case {
        expr: base.cloned().map(Box::new),
        when_then_expr: branches.collect(),
        else_expr: Some(Box::new(lit(otherwise))),
    };
    cast(Expr::Case(case), DataType::Boolean)
}

/// Whether a query stands in `expr`.
pub(super) fn has_subquery(expr: &Expr) -> bool {
    let found = expr.exists(|expr| {
        Ok(matches!(
            expr,
            Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
                | Expr::ScalarSubquery(_)
        ))
    });
    // The closure cannot fail.
    found.unwrap_or(true)
}
