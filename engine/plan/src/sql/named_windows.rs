//! `OVER w`, `OVER (w)` and `OVER (w ROWS …)`: a window that is or begins as one of WINDOW.
//!
//! DataFusion reads the name in parentheses and forgets it, so that rows would be numbered in no
//! order. Without them it looks in the columns of a SELECT alone, and there also in queries
//! inside, which may have a window of that name themselves. Here the named window's parts are
//! written into the call before it is planned.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, NamedWindowExpr, Query, Select, SetExpr, VisitMut, WindowSpec, WindowType,
};

use super::normalized;
use super::walk::{Walker, walk, walk_statement};
use crate::error::PlanError;

/// Writes named windows out in all queries of `statement`.
///
/// # Errors
/// A name that no WINDOW has, or parts that the named one has already.
pub(super) fn write_out(statement: &mut Statement) -> Result<(), PlanError> {
    let mut queries = Queries { refused: Ok(()) };
    let _ = walk_statement(statement, &mut queries);
    queries.refused
}

struct Queries {
    refused: Result<(), PlanError>,
}

impl Walker for Queries {
    /// Queries inside come first, and then have no names any more.
    fn leave_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.refused = write_out_in(query);
        match self.refused {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

fn write_out_in(query: &mut Query) -> Result<(), PlanError> {
    let windows = match query.body.as_ref() {
        SetExpr::Select(select) => windows(select)?,
        _ => BTreeMap::new(),
    };
    if let Some(order_by) = &mut query.order_by {
        write_in(order_by, &windows)?;
    }
    let mut parts = vec![query.body.as_mut()];
    while let Some(part) = parts.pop() {
        match part {
            SetExpr::Select(select) => {
                let windows = self::windows(select)?;
                write_in(select.as_mut(), &windows)?;
            }
            SetExpr::SetOperation { left, right, .. } => {
                parts.extend([left.as_mut(), right.as_mut()]);
            }
            _ => {}
        }
    }
    Ok(())
}

type Windows = BTreeMap<String, WindowSpec>;

/// Those of the WINDOW of `select`, each with what it takes from those before it.
fn windows(select: &Select) -> Result<Windows, PlanError> {
    let mut windows = Windows::new();
    for definition in &select.named_window {
        let spec = match &definition.1 {
            NamedWindowExpr::WindowSpec(spec) => with_named(spec, &windows)?,
            NamedWindowExpr::NamedWindow(other) => match windows.get(&normalized(other)) {
                Some(spec) => spec.clone(),
                // DataFusion refuses it.
                None => continue,
            },
        };
        windows.insert(normalized(&definition.0), spec);
    }
    Ok(windows)
}

fn write_in(node: &mut impl VisitMut, windows: &Windows) -> Result<(), PlanError> {
    let refused = Ok(());
    let mut calls = Calls { windows, refused };
    let _ = walk(node, &mut calls);
    calls.refused
}

struct Calls<'a> {
    windows: &'a Windows,
    refused: Result<(), PlanError>,
}

impl Walker for Calls<'_> {
    fn leave_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let Expr::Function(call) = expr else {
            return ControlFlow::Continue(());
        };
        let written = match &call.over {
            Some(WindowType::WindowSpec(spec)) => with_named(spec, self.windows),
            Some(WindowType::NamedWindow(name)) => named(name, self.windows).cloned(),
            None => return ControlFlow::Continue(()),
        };
        match written {
            Ok(spec) => call.over = Some(WindowType::WindowSpec(spec)),
            Err(error) => {
                self.refused = Err(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}

/// `spec`, with the parts of the window that it names.
fn with_named(spec: &WindowSpec, windows: &Windows) -> Result<WindowSpec, PlanError> {
    let mut spec = spec.clone();
    let Some(name) = spec.window_name.take() else {
        return Ok(spec);
    };
    let named = named(&name, windows)?;
    if !spec.partition_by.is_empty() {
        return Err(refused(format!(
            "PARTITION BY stands beside {name}, which says it. Write the window out, or name it alone"
        )));
    }
    if !spec.order_by.is_empty() && !named.order_by.is_empty() {
        return Err(refused(format!(
            "ORDER BY stands beside {name}, which has one. Write the window out, or name it alone"
        )));
    }
    spec.partition_by.clone_from(&named.partition_by);
    if spec.order_by.is_empty() {
        spec.order_by.clone_from(&named.order_by);
    }
    if spec.window_frame.is_none() {
        spec.window_frame.clone_from(&named.window_frame);
    }
    Ok(spec)
}

fn named<'a>(name: &Ident, windows: &'a Windows) -> Result<&'a WindowSpec, PlanError> {
    let found = windows.get(&normalized(name));
    found.ok_or_else(|| refused(format!("the query has no WINDOW {name}")))
}

fn refused(problem: String) -> PlanError {
    let operator = "OVER";
    PlanError::Relation { operator, problem }
}
