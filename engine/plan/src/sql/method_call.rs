//! Calls of methods: `a.add(x)` has DataFusion look for a function of one name.
//!
//! DataFusion takes a function's name of two parts as it is written, in whatever case.
//! Here it becomes one name, as `normalized` makes its parts; an actor's methods are
//! registered so. Whatever else has two parts stays the name that it was.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Expr, Ident, ObjectName, ObjectNamePart};

use super::normalized;
use super::walk::{Walker, look_at_statement, walk_statement};
use crate::error::PlanError;
use crate::function_catalog::FunctionCatalog;

/// Makes one name of two in all calls of functions in `statement`.
pub(super) fn join_names(statement: &mut Statement) {
    let flow = walk_statement(statement, &mut Joining);
    debug_assert!(flow.is_continue());
}

struct Joining;

impl Walker for Joining {
    fn leave_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(call) = expr
            && let Some(name) = joined(&call.name)
        {
            let name = Ident::with_quote('"', name);
            call.name = ObjectName(vec![ObjectNamePart::Identifier(name)]);
        }
        ControlFlow::Continue(())
    }
}

/// The error about the first call in `statement` of a method that its actor does not have.
pub fn unknown_method(statement: &Statement, functions: &FunctionCatalog) -> Option<PlanError> {
    let mut unknown = None;
    let _ = look_at_statement(statement, &mut |expr| {
        let Expr::Function(call) = expr else {
            return ControlFlow::Continue(());
        };
        // As `join_names` has made them.
        let name = match call.name.0.as_slice() {
            [ObjectNamePart::Identifier(name)] if name.value.contains('.') => &name.value,
            _ => return ControlFlow::Continue(()),
        };
        match functions.find(name) {
            Err(error @ PlanError::NoMethod { .. }) => {
                unknown = Some(error);
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    });
    unknown
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
