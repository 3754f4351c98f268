//! Words behind a call that mean nothing for a function of values: OVER, FILTER, DISTINCT, ORDER BY.
//!
//! DataFusion's planner drops them without a word, so that `f(x) OVER (ORDER BY y)` would look
//! like a window. Of our functions they are refused.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Expr, Function, FunctionArguments, ObjectNamePart};

use super::normalized;
use super::walk::look_at_statement;
use crate::error::PlanError;
use crate::function_catalog::FunctionCatalog;

/// The error about the first call in `statement` that has such words.
pub fn misplaced_words(statement: &Statement, functions: &FunctionCatalog) -> Option<PlanError> {
    let mut found = None;
    let _ = look_at_statement(statement, &mut |expr| {
        let Expr::Function(call) = expr else {
            return ControlFlow::Continue(());
        };
        let (Some(words), [ObjectNamePart::Identifier(name)]) =
            (misplaced(call), call.name.0.as_slice())
        else {
            return ControlFlow::Continue(());
        };
        match functions.get(&normalized(name)) {
            Some(spec) if !spec.is_table() => {
                let function = spec.name.clone();
                found = Some(PlanError::CallWords { function, words });
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    });
    found
}

fn misplaced(call: &Function) -> Option<&'static str> {
    let in_list = match &call.args {
        FunctionArguments::List(list) => list
            .duplicate_treatment
            .map(|_| "DISTINCT or ALL")
            .or_else(|| (!list.clauses.is_empty()).then_some("ORDER BY, LIMIT and the like")),
        _ => None,
    };
    if call.over.is_some() {
        Some("OVER")
    } else if call.filter.is_some() {
        Some("FILTER")
    } else if !call.within_group.is_empty() {
        Some("WITHIN GROUP")
    } else if call.null_treatment.is_some() {
        Some("IGNORE NULLS and RESPECT NULLS")
    } else {
        in_list
    }
}
