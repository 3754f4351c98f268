//! Puts chains of joins that merge keys into parentheses, which DataFusion shows to the
//! relation planner, and says which sides of their keys the query asks for.
//!
//! ```text
//! SELECT *, a.k FROM a FULL JOIN b USING (k) WHERE k > 1
//!   →  SELECT *, a.k FROM (a FULL JOIN b USING (k)) AS "sides of its keys"("k")
//!      WHERE "(a, …)".k > 1
//! ```
//!
//! The text of a view is stored as it is after that, and comes here again.

use std::collections::BTreeMap;
use std::mem;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, OrderBy, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr,
    TableFactor, TableWithJoins, Visit,
};

use super::chain::{self, ALL, Sides};
use super::qualify::qualify;
use crate::sql::normalized;
use crate::sql::walk::{Walker, look_at, walk_statement};

/// Wraps what merges keys in all queries of `statement`.
pub fn wrap(statement: &mut Statement) {
    let flow = walk_statement(statement, &mut Queries);
    debug_assert!(flow.is_continue());
}

struct Queries;

impl Walker for Queries {
    /// Queries inside come first, and are another place's: their names are no longer bare.
    fn leave_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let SetExpr::Select(select) = query.body.as_mut() {
            wrap_in(select, query.order_by.as_mut());
            return ControlFlow::Continue(());
        }
        // The ORDER BY of a UNION knows the columns of its result alone.
        let mut parts = vec![query.body.as_mut()];
        while let Some(part) = parts.pop() {
            match part {
                SetExpr::Select(select) => wrap_in(select, None),
                SetExpr::SetOperation { left, right, .. } => {
                    parts.extend([left.as_mut(), right.as_mut()]);
                }
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }
}

fn wrap_in(select: &mut Select, order_by: Option<&mut OrderBy>) {
    if !select.from.iter().any(chain::merges) {
        return;
    }
    let mut asked = asked_in(select);
    asked.extend(order_by.as_deref().map(asked_by).unwrap_or_default());
    let mut keys = BTreeMap::new();
    let from = mem::take(&mut select.from).into_iter().map(|item| {
        if !chain::merges(&item) {
            return item;
        }
        let tables = chain::tables(&item);
        let of_item = asked.iter().filter(|(table, _)| tables.contains(table));
        let sides: Sides = of_item.map(|(_, name)| name.clone()).collect();
        let mut of_item = chain::keys(&item);
        of_item.retain(|key, _| sides.has(key));
        chain::add_keys(&mut keys, of_item);
        in_parentheses(item, &sides)
    });
    let from: Vec<_> = from.collect();
    let one = |(key, qualifier): (_, Option<_>)| Some((key, qualifier?));
    let keys: BTreeMap<_, _> = keys.into_iter().filter_map(one).collect();
    if !keys.is_empty() {
        qualify(select, order_by, &keys);
    }
    select.from = from;
}

/// What `select` asks for as `table.name`, and `table.*`.
fn asked_in(select: &Select) -> Vec<(String, String)> {
    let mut asked = asked_by(select);
    for item in &select.projection {
        if let SelectItem::QualifiedWildcard(
            SelectItemQualifiedWildcardKind::ObjectName(table),
            _,
        ) = item
        {
            let table = chain::idents(table).pop();
            asked.extend(table.map(|table| (table, ALL.to_owned())));
        }
    }
    asked
}

/// As [`asked_in`], of expressions alone. `a.b.c` may be a name in a schema or a field of a
/// column: it is taken for both.
fn asked_by(node: &impl Visit) -> Vec<(String, String)> {
    let mut asked = vec![];
    let flow = look_at(node, &mut |expr| {
        match expr {
            Expr::CompoundIdentifier(parts) => {
                let pairs = parts.windows(2).filter_map(|pair| match pair {
                    [table, name] => Some((normalized(table), normalized(name))),
                    _ => None,
                });
                asked.extend(pairs);
            }
            Expr::QualifiedWildcard(table, _) => {
                let table = chain::idents(table).pop();
                asked.extend(table.map(|table| (table, ALL.to_owned())));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    debug_assert!(flow.is_continue());
    asked
}

/// `item` in parentheses, these and those inside knowing the `sides` that are asked for.
fn in_parentheses(item: TableWithJoins, sides: &Sides) -> TableWithJoins {
    let is_so = item.joins.is_empty() && chain::open(&item.relation).is_some();
    let mut item = match is_so {
        true => item,
        false => TableWithJoins {
            relation: TableFactor::NestedJoin {
                table_with_joins: Box::new(item),
                alias: None,
            },
            joins: vec![],
        },
    };
    tell(&mut item, sides);
    item
}

fn tell(chain: &mut TableWithJoins, sides: &Sides) {
    let joined = chain.joins.iter_mut().map(|join| &mut join.relation);
    for factor in joined.chain([&mut chain.relation]) {
        if let Some((inner, alias)) = chain::open_mut(factor)
            && chain::merges(inner)
        {
            *alias = sides.clone().into_alias();
            tell(inner, sides);
        }
    }
}
