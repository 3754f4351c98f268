//! Walks through the trees of statements.
//!
//! sqlparser makes its walk anew for each type of visitor, 0.4 MB of code every time. Here all
//! visitors are one type to it.

use std::ops::ControlFlow;

use datafusion::sql::parser::{CopyToSource, Statement};
use datafusion::sql::sqlparser::ast::{
    Expr, Query, TableFactor, Visit, VisitMut, VisitorMut, visit_expressions,
};

/// What to do at each place of a tree, as of [`VisitorMut`]. One that breaks off has its reason
/// in itself.
pub trait Walker {
    /// Before what is in a query.
    fn enter_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// After what is in a query.
    fn leave_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Before what is in an expression.
    fn enter_expr(&mut self, _expr: &mut Expr) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// After what is in an expression.
    fn leave_expr(&mut self, _expr: &mut Expr) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Before what is in an item of FROM.
    fn enter_table(&mut self, _table: &mut TableFactor) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

struct Walking<'a>(&'a mut dyn Walker);

impl VisitorMut for Walking<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.0.enter_query(query)
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.0.leave_query(query)
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.0.enter_expr(expr)
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.0.leave_expr(expr)
    }

    fn pre_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<()> {
        self.0.enter_table(table)
    }
}

/// Walks through the query that `statement` has, also behind EXPLAIN and in COPY.
pub fn walk_statement(statement: &mut Statement, walker: &mut dyn Walker) -> ControlFlow<()> {
    match statement {
        Statement::Statement(inner) => walk(inner.as_mut(), walker),
        Statement::Explain(explain) => walk_statement(&mut explain.statement, walker),
        Statement::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => walk(query.as_mut(), walker),
            CopyToSource::Relation(_) => ControlFlow::Continue(()),
        },
        _ => ControlFlow::Continue(()),
    }
}

/// Walks through `node`.
pub(crate) fn walk(node: &mut impl VisitMut, walker: &mut dyn Walker) -> ControlFlow<()> {
    node.visit(&mut Walking(walker))
}

/// Has `each` look at all expressions of `statement`, as [`walk_statement`] finds them.
pub(crate) fn look_at_statement(
    statement: &Statement,
    each: &mut dyn FnMut(&Expr) -> ControlFlow<()>,
) -> ControlFlow<()> {
    match statement {
        Statement::Statement(inner) => look_at(inner.as_ref(), each),
        Statement::Explain(explain) => look_at_statement(&explain.statement, each),
        Statement::CopyTo(copy) => match &copy.source {
            CopyToSource::Query(query) => look_at(query.as_ref(), each),
            CopyToSource::Relation(_) => ControlFlow::Continue(()),
        },
        _ => ControlFlow::Continue(()),
    }
}

/// Has `each` look at all expressions of `node`, outer ones first.
pub(crate) fn look_at(
    node: &impl Visit,
    each: &mut dyn FnMut(&Expr) -> ControlFlow<()>,
) -> ControlFlow<()> {
    visit_expressions(node, each)
}
