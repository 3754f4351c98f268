//! `OVER (w)` and `OVER (w ROWS …)`: a window that begins as one of WINDOW.
//!
//! DataFusion reads the name and forgets it, so that rows would be numbered in no order. Here the
//! named window's parts are written into the call before it is planned. `OVER w`, without
//! parentheses, DataFusion knows.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::parser::{CopyToSource, Statement};
use datafusion::sql::sqlparser::ast::{
    Expr, NamedWindowExpr, Query, Select, SetExpr, VisitMut, VisitorMut, WindowSpec, WindowType,
    visit_expressions_mut,
};

use super::normalized;
use crate::error::PlanError;

/// Writes named windows out in all queries of `statement`.
///
/// # Errors
/// A name that no WINDOW has, or parts that the named one has already.
pub(super) fn write_out(statement: &mut Statement) -> Result<(), PlanError> {
    let flow = match statement {
        Statement::Statement(inner) => inner.visit(&mut Queries),
        Statement::Explain(explain) => return write_out(&mut explain.statement),
        Statement::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => query.visit(&mut Queries),
            CopyToSource::Relation(_) => return Ok(()),
        },
        _ => return Ok(()),
    };
    flow.break_value().map_or(Ok(()), Err)
}

struct Queries;

impl VisitorMut for Queries {
    type Break = PlanError;

    /// Queries inside come first, and then have no names any more.
    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<PlanError> {
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
        ControlFlow::Continue(())
    }
}

type Windows = BTreeMap<String, WindowSpec>;

/// Those of the WINDOW of `select`, each with what it takes from those before it.
fn windows(select: &Select) -> ControlFlow<PlanError, Windows> {
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
    ControlFlow::Continue(windows)
}

fn write_in(node: &mut impl VisitMut, windows: &Windows) -> ControlFlow<PlanError> {
    visit_expressions_mut(node, |expr| {
        if let Expr::Function(call) = expr
            && let Some(WindowType::WindowSpec(spec)) = &mut call.over
        {
            *spec = with_named(spec, windows)?;
        }
        ControlFlow::Continue(())
    })
}

/// `spec`, with the parts of the window that it names.
fn with_named(spec: &WindowSpec, windows: &Windows) -> ControlFlow<PlanError, WindowSpec> {
    let mut spec = spec.clone();
    let Some(name) = spec.window_name.take() else {
        return ControlFlow::Continue(spec);
    };
    let refused = |problem| {
        let operator = "OVER";
        ControlFlow::Break(PlanError::Relation { operator, problem })
    };
    let Some(named) = windows.get(&normalized(&name)) else {
        return refused(format!("the query has no WINDOW {name}"));
    };
    if !spec.partition_by.is_empty() {
        return refused(format!(
            "PARTITION BY stands beside {name}, which says it. Write the window out, or name it alone"
        ));
    }
    if !spec.order_by.is_empty() && !named.order_by.is_empty() {
        return refused(format!(
            "ORDER BY stands beside {name}, which has one. Write the window out, or name it alone"
        ));
    }
    spec.partition_by.clone_from(&named.partition_by);
    if spec.order_by.is_empty() {
        spec.order_by.clone_from(&named.order_by);
    }
    if spec.window_frame.is_none() {
        spec.window_frame.clone_from(&named.window_frame);
    }
    ControlFlow::Continue(spec)
}
