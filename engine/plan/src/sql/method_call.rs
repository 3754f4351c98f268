//! Calls of methods: `a.add(x)` has DataFusion look for a function of one name.
//!
//! DataFusion takes a function's name of two parts as it is written, in whatever case.
//! Here it becomes one name, as `normalized` makes its parts; an actor's methods are
//! registered so. Whatever else has two parts stays the name that it was.

use std::ops::ControlFlow;

use datafusion::sql::parser::{CopyToSource, Statement};
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, ObjectNamePart, Visit, visit_expressions, visit_expressions_mut,
};

use super::normalized;
use crate::error::PlanError;
use crate::function_catalog::FunctionCatalog;

/// Makes one name of two in all calls of functions in `statement`.
pub(super) fn join_names(statement: &mut Statement) {
    match statement {
        Statement::Statement(inner) => join_in(inner.as_mut()),
        Statement::Explain(explain) => join_names(&mut explain.statement),
        Statement::CopyTo(copy) => {
            if let CopyToSource::Query(query) = &mut copy.source {
                join_in(query.as_mut());
            }
        }
        _ => {}
    }
}

/// The error about the first call in `statement` of a method that its actor does not have.
pub fn unknown_method(statement: &Statement, functions: &FunctionCatalog) -> Option<PlanError> {
    match statement {
        Statement::Statement(inner) => unknown_in(inner.as_ref(), functions),
        Statement::Explain(explain) => unknown_method(&explain.statement, functions),
        Statement::CopyTo(copy) => match &copy.source {
            CopyToSource::Query(query) => unknown_in(query.as_ref(), functions),
            CopyToSource::Relation(_) => None,
        },
        _ => None,
    }
}

fn unknown_in(node: &impl Visit, functions: &FunctionCatalog) -> Option<PlanError> {
    let flow = visit_expressions(node, |expr| {
        let Expr::Function(call) = expr else {
            return ControlFlow::Continue(());
        };
        // As `join_names` has made them.
        let name = match call.name.0.as_slice() {
            [ObjectNamePart::Identifier(name)] if name.value.contains('.') => &name.value,
            _ => return ControlFlow::Continue(()),
        };
        match functions.find(name) {
            Err(error @ PlanError::NoMethod { .. }) => ControlFlow::Break(error),
            _ => ControlFlow::Continue(()),
        }
    });
    flow.break_value()
}

fn join_in(node: &mut impl datafusion::sql::sqlparser::ast::VisitMut) {
    let flow: ControlFlow<()> = visit_expressions_mut(node, |expr| {
        if let Expr::Function(call) = expr
            && let Some(name) = joined(&call.name)
        {
            let name = Ident::with_quote('"', name);
            call.name = ObjectName(vec![ObjectNamePart::Identifier(name)]);
        }
        ControlFlow::Continue(())
    });
    debug_assert!(flow.is_continue());
}

/// `a.add` of a name of two parts.
pub(super) fn joined(name: &ObjectName) -> Option<String> {
    match name.0.as_slice() {
        [
            ObjectNamePart::Identifier(actor),
            ObjectNamePart::Identifier(method),
        ] => Some(method_name(actor, method)),
        _ => None,
    }
}

/// The name under which a method is registered.
pub(super) fn method_name(actor: &Ident, method: &Ident) -> String {
    format!("{}.{}", normalized(actor), normalized(method))
}

#[cfg(test)]
mod tests {
    use crate::sql::statement::{MobulaStatement, parse_statements};

    #[test]
    fn calls_of_two_parts_have_one_name_wherever_they_stand() {
        for (sql, expected) in [
            ("SELECT A.Add(x)", "SELECT \"a.add\"(x)"),
            ("SELECT \"A\".m(a.b(1))", "SELECT \"A.m\"(\"a.b\"(1))"),
            (
                "CREATE VIEW v AS SELECT CASE WHEN a.m(x) THEN 1 END FROM s.t JOIN s.u ON a.n(t.x) = u.y",
                "CREATE VIEW v AS SELECT CASE WHEN \"a.m\"(x) THEN 1 END FROM s.t JOIN s.u ON \"a.n\"(t.x) = u.y",
            ),
            (
                "EXPLAIN SELECT * FROM t WHERE x IN (SELECT a.m(y) FROM u)",
                "EXPLAIN SELECT * FROM t WHERE x IN (SELECT \"a.m\"(y) FROM u)",
            ),
            (
                "COPY (SELECT a.m(1)) TO 'f.csv'",
                "COPY (SELECT \"a.m\"(1)) TO f.csv",
            ),
            (
                "INSERT INTO s.t (a) SELECT f(1)",
                "INSERT INTO s.t (a) SELECT f(1)",
            ),
            (
                "SELECT a.b.c(1), t.x FROM s.t",
                "SELECT a.b.c(1), t.x FROM s.t",
            ),
        ] {
            let all = parse_statements(sql).unwrap();
            let [MobulaStatement::DataFusion(statement)] = all.as_slice() else {
                panic!("{sql}");
            };
            assert_eq!(statement.to_string(), expected, "{sql}");
        }
    }
}
