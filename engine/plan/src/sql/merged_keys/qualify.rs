//! Writes `"(a, …)".k` for `k` where a query asks for `a.k` as well.
//!
//! Only the query's own expressions, since a query inside may have a `k` of its own; not those
//! in its FROM, where the keys are still being merged; and not in ORDER BY where `k` is a
//! column of the result under that name.

use std::collections::BTreeMap;
use std::mem;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, OrderBy, OrderByKind, Query, Select, SelectItem, VisitMut,
};

use crate::sql::normalized;
use crate::sql::walk::{Walker, walk};

/// Rewrites the names of `keys`, to which it maps what stands before them, in `select`, whose
/// FROM is elsewhere, and its `order_by`.
pub(super) fn qualify(
    select: &mut Select,
    order_by: Option<&mut OrderBy>,
    keys: &BTreeMap<String, String>,
) {
    if let Some(order_by) = order_by {
        qualify_order(order_by, &Results::of(select), keys);
    }
    rewrite(select, keys.clone());
}

fn qualify_order(order_by: &mut OrderBy, results: &Results, keys: &BTreeMap<String, String>) {
    let OrderByKind::Expressions(sorts) = &mut order_by.kind else {
        return;
    };
    for sort in sorts {
        let mut here = keys.clone();
        match &sort.expr {
            Expr::Identifier(name) => here.retain(|key, _| {
                *key != normalized(name) || !(results.is_alias(key) || results.is_one_side(key))
            }),
            _ => here.retain(|key, _| !results.is_alias(key)),
        }
        rewrite(&mut sort.expr, here);
    }
}

/// The names of columns of the result, as far as the text says.
struct Results {
    aliases: Vec<String>,
    /// Names with a table's name in front.
    sides: Vec<String>,
    /// Names with nothing in front.
    bare: Vec<String>,
    has_all: bool,
    has_table: bool,
}

impl Results {
    fn of(select: &Select) -> Self {
        let mut results = Self {
            aliases: vec![],
            sides: vec![],
            bare: vec![],
            has_all: false,
            has_table: false,
        };
        for item in &select.projection {
            match item {
                SelectItem::UnnamedExpr(Expr::Identifier(name)) => {
                    results.bare.push(normalized(name));
                }
                SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => {
                    results.sides.extend(parts.last().map(normalized));
                }
                SelectItem::ExprWithAlias { alias, .. } => results.aliases.push(normalized(alias)),
                SelectItem::Wildcard(_) => results.has_all = true,
                SelectItem::QualifiedWildcard(..) => results.has_table = true,
                _ => {}
            }
        }
        results
    }

    fn is_alias(&self, key: &str) -> bool {
        self.aliases.iter().any(|alias| alias == key)
    }

    /// Whether the one column called `key` is that of one side.
    fn is_one_side(&self, key: &str) -> bool {
        let n_sides = self.sides.iter().filter(|name| *name == key).count();
        let has_merged = self.has_all || self.bare.iter().any(|name| name == key);
        !has_merged && n_sides + usize::from(self.has_table) == 1
    }
}

/// Writes in `node`, but for queries in it, the names of `keys` with what they map to in front.
fn rewrite(node: &mut impl VisitMut, keys: BTreeMap<String, String>) {
    let mut names = Names {
        keys,
        n_queries: 0,
        shadowed: vec![],
    };
    let flow = walk(node, &mut names);
    debug_assert!(flow.is_continue());
}

struct Names {
    keys: BTreeMap<String, String>,
    /// Queries around, below the one whose names these are.
    n_queries: usize,
    /// The keys outside of each lambda around.
    shadowed: Vec<BTreeMap<String, String>>,
}

impl Walker for Names {
    fn enter_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.n_queries += 1;
        ControlFlow::Continue(())
    }

    fn leave_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.n_queries -= 1;
        ControlFlow::Continue(())
    }

    fn enter_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Lambda(lambda) = expr {
            let mut inside = self.keys.clone();
            for parameter in lambda.params.iter() {
                inside.remove(&normalized(&parameter.name));
            }
            self.shadowed.push(mem::replace(&mut self.keys, inside));
        }
        ControlFlow::Continue(())
    }

    fn leave_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Lambda(_) => self.keys = self.shadowed.pop().unwrap_or_default(),
            Expr::Identifier(name) if self.n_queries == 0 => {
                if let Some(qualifier) = self.keys.get(&normalized(name)) {
                    let qualifier = Ident::with_quote('"', qualifier);
                    *expr = Expr::CompoundIdentifier(vec![qualifier, name.clone()]);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
