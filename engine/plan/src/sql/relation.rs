//! Plans `FROM map_batches(input, function, option => value, …) [AS alias]`.
//!
//! ```text
//! input     TABLE(name) | (query) | TABLE(query)        (the last: see table_argument)
//! function  name | 'name' | name(argument => literal, …)   constructor of a class
//! options   batch_size => n | NULL, concurrency => n, batch_format => 'numpy' | 'pyarrow'
//! ```
//!
//! DataFusion asks this planner for every relation before its own planning. A
//! scalar function gets columns by its parameters' names and appends one column
//! of its own name; a table function gets all columns. Inside, the input loses
//! its table names: what comes out is one relation.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::{Column, DFSchema, Result};
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName,
    ObjectNamePart, TableFactor,
};
use mobula_udfs::{FunctionSpec, Literal, ObjectKind};

use super::call_options::{CallOptions, literal};
use super::normalized;
use crate::error::PlanError;
use crate::function_catalog::FunctionCatalog;
use crate::nearest;
use crate::operator::map_batches::{FunctionCall, MapBatchesNode};

/// Name of the relation.
pub const MAP_BATCHES: &str = "map_batches";

/// Plans our relations; one per session.
#[derive(Debug)]
pub struct MapBatchesPlanner {
    functions: Arc<FunctionCatalog>,
}

impl MapBatchesPlanner {
    pub fn new(functions: Arc<FunctionCatalog>) -> Self {
        Self { functions }
    }
}

impl RelationPlanner for MapBatchesPlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let (name, alias, args) = match relation {
            TableFactor::Table { name, alias, args: Some(args), .. } if is_map_batches(&name) => {
                (name, alias, args.args)
            }
            TableFactor::Function { name, alias, args, .. } if is_map_batches(&name) => {
                (name, alias, args)
            }
            other => return Ok(RelationPlanning::Original(Box::new(other))),
        };
        drop(name);
        let written = Written::read(args)?;
        let spec = self.functions.find(&written.function)?;
        check_constructor(&spec, &written.args)?;
        let call = FunctionCall::new(Arc::clone(&spec), written.args, &written.options);
        let input = without_qualifiers(context.plan(written.input)?, &spec.name)?;
        let node = match spec.is_table() {
            true => MapBatchesNode::try_new_table(input, call)?,
            false => {
                let columns = bind(&spec, input.schema())?;
                MapBatchesNode::try_new_column(input, call, columns, spec.name.clone())?
            }
        };
        let planned = PlannedRelation::new(node.into_plan(), alias);
        Ok(RelationPlanning::Planned(Box::new(planned)))
    }
}

fn is_map_batches(name: &ObjectName) -> bool {
    matches!(name.0.as_slice(), [ObjectNamePart::Identifier(ident)] if normalized(ident) == MAP_BATCHES)
}

/// The arguments of `map_batches`, read.
struct Written {
    input: TableFactor,
    function: String,
    args: Vec<(String, Literal)>,
    options: CallOptions,
}

impl Written {
    fn read(args: Vec<FunctionArg>) -> Result<Self, PlanError> {
        let mut places = [None, None];
        let mut options = CallOptions::default();
        let mut next = 0;
        for arg in args {
            let (name, value) = split(arg)?;
            match name.as_deref() {
                None => {
                    let Some(place) = places.get_mut(next) else {
                        return Err(relation(&format!("unexpected argument {value}. Write options as name => value")));
                    };
                    *place = Some(value);
                    next += 1;
                }
                Some("input") => places[0] = Some(value),
                Some("function" | "fn") => places[1] = Some(value),
                Some(option) => options.set(MAP_BATCHES, option, &value)?,
            }
        }
        let [Some(input), Some(function)] = places else {
            return Err(relation("it takes an input and a function. Write map_batches(TABLE(query), function, option => value, …)"));
        };
        let (function, args) = read_function(function)?;
        Ok(Self {
            input: read_input(input)?,
            function,
            args,
            options,
        })
    }
}

fn relation(problem: &str) -> PlanError {
    PlanError::Relation {
        problem: problem.to_owned(),
    }
}

/// The name and the value of an argument.
fn split(arg: FunctionArg) -> Result<(Option<String>, SqlExpr), PlanError> {
    let (name, value) = match arg {
        FunctionArg::Named { name, arg, .. } => (Some(normalized(&name)), arg),
        FunctionArg::ExprNamed {
            name: SqlExpr::Identifier(name),
            arg,
            ..
        } => (Some(normalized(&name)), arg),
        FunctionArg::ExprNamed { name, .. } => {
            return Err(relation(&format!("{name} is not the name of an option")));
        }
        FunctionArg::Unnamed(arg) => (None, arg),
    };
    match value {
        FunctionArgExpr::Expr(expr) => Ok((name, expr)),
        other => Err(relation(&format!("unexpected argument {other}"))),
    }
}

/// `TABLE(name)` or `(query)` as a relation.
fn read_input(expr: SqlExpr) -> Result<TableFactor, PlanError> {
    let wrong = |expr: &SqlExpr| {
        relation(&format!("its input must be TABLE(name), TABLE(query) or (query), not {expr}"))
    };
    match expr {
        SqlExpr::Subquery(subquery) => Ok(TableFactor::Derived {
            lateral: false,
            subquery,
            alias: None,
            sample: None,
        }),
        SqlExpr::Nested(inner) => read_input(*inner),
        SqlExpr::Function(ref function) if is_table_word(&function.name) => {
            match unnamed_arguments(&function.args).as_deref() {
                Some([SqlExpr::Identifier(name)]) => Ok(table(vec![name.clone()])),
                Some([SqlExpr::CompoundIdentifier(name)]) => Ok(table(name.clone())),
                _ => Err(wrong(&expr)),
            }
        }
        other => Err(wrong(&other)),
    }
}

fn is_table_word(name: &ObjectName) -> bool {
    matches!(name.0.as_slice(), [ObjectNamePart::Identifier(ident)]
        if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("table"))
}

fn unnamed_arguments(args: &FunctionArguments) -> Option<Vec<SqlExpr>> {
    let FunctionArguments::List(list) = args else {
        return None;
    };
    let unnamed = list.args.iter().map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    });
    unnamed.collect()
}

fn table(name: Vec<Ident>) -> TableFactor {
    TableFactor::Table {
        name: ObjectName(name.into_iter().map(ObjectNamePart::Identifier).collect()),
        alias: None,
        args: None,
        with_hints: vec![],
        version: None,
        with_ordinality: false,
        partitions: vec![],
        json_path: None,
        sample: None,
        index_hints: vec![],
    }
}

/// `f`, `'f'` or `f(k => v, …)`.
fn read_function(expr: SqlExpr) -> Result<(String, Vec<(String, Literal)>), PlanError> {
    match expr {
        SqlExpr::Identifier(name) => Ok((normalized(&name), vec![])),
        SqlExpr::Function(function) => {
            let name = match function.name.0.as_slice() {
                [ObjectNamePart::Identifier(name)] => normalized(name),
                _ => return Err(relation(&format!("{} is not the name of a function", function.name))),
            };
            let args = match function.args {
                FunctionArguments::List(list) => list.args,
                _ => vec![],
            };
            let args = args.into_iter().map(|arg| constructor_argument(&name, arg));
            Ok((name.clone(), args.collect::<Result<_, _>>()?))
        }
        other => match literal(&other) {
            Some(Literal::Text(name)) => Ok((name, vec![])),
            _ => Err(relation(&format!("{other} is not the name of a function"))),
        },
    }
}

fn constructor_argument(function: &str, arg: FunctionArg) -> Result<(String, Literal), PlanError> {
    match split(arg)? {
        (Some(name), value) => match literal(&value) {
            Some(literal) => Ok((name, literal)),
            None => Err(relation(&format!(
                "argument \"{name}\" of {function} must be a literal, not {value}"
            ))),
        },
        (None, value) => Err(relation(&format!(
            "write the argument {value} of {function} as name => {value}"
        ))),
    }
}

fn check_constructor(spec: &FunctionSpec, args: &[(String, Literal)]) -> Result<(), PlanError> {
    let mut seen = HashSet::new();
    if let Some((name, _)) = args.iter().find(|(name, _)| !seen.insert(name)) {
        return Err(relation(&format!("argument \"{name}\" of {} is given twice", spec.name)));
    }
    match (&spec.object, args.first()) {
        (ObjectKind::Function, Some((name, _))) => Err(relation(&format!(
            "\"{}\" is a def and has no constructor for \"{name}\". Only a class takes arguments here",
            spec.name
        ))),
        _ => Ok(()),
    }
}

/// `input` with bare column names.
fn without_qualifiers(input: LogicalPlan, function: &str) -> Result<LogicalPlan> {
    let mut seen = HashSet::new();
    if let Some(field) = input.schema().fields().iter().find(|f| !seen.insert(f.name())) {
        return Err(PlanError::ColumnTwice {
            function: function.to_owned(),
            column: field.name().clone(),
        }
        .into());
    }
    if input.schema().iter().all(|(qualifier, _)| qualifier.is_none()) {
        return Ok(input);
    }
    let bare = input.schema().columns().into_iter().map(|column| {
        let name = column.name.clone();
        Expr::Column(column).alias(name)
    });
    let bare: Vec<_> = bare.collect();
    LogicalPlanBuilder::from(input).project(bare)?.build()
}

/// The input column of each parameter, by name.
fn bind(spec: &FunctionSpec, input: &DFSchema) -> Result<Vec<Column>, PlanError> {
    let names: Vec<&str> = input.fields().iter().map(|f| f.name().as_str()).collect();
    let columns = spec.params.iter().map(|param| {
        match names.contains(&param.name.as_str()) {
            true => Ok(Column::new_unqualified(&param.name)),
            false => Err(PlanError::NoColumn {
                function: spec.name.clone(),
                parameter: param.name.clone(),
                columns: format!(
                    "{}{}",
                    names.join(", "),
                    nearest::hint(&param.name, names.iter().copied())
                ),
            }),
        }
    });
    columns.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_session::{FakeHost, plan, session};
    use expect_test::{Expect, expect};

    async fn check(sql: &str, expected: Expect) {
        let state = session(Arc::new(FakeHost::default()));
        let text = match plan(&state, sql).await {
            Ok(plan) => plan.display_indent_schema().to_string(),
            Err(error) => error.find_root().strip_backtrace(),
        };
        expected.assert_eq(&text);
    }

    #[tokio::test]
    async fn a_scalar_function_appends_its_column() {
        check("SELECT * FROM map_batches(TABLE(t), net)", expect![]).await;
        check("SELECT m.a, \"INC\" FROM map_batches(TABLE(SELECT a FROM t WHERE c = 1), 'inc', batch_size => 10) AS m(a, \"INC\")", expect![]).await;
        check("SELECT * FROM map_batches((SELECT a FROM t ORDER BY a), inc, concurrency => 2) m JOIN u ON m.a = u.a", expect![]).await;
        check("WITH x AS (SELECT 1 AS a) SELECT * FROM map_batches(TABLE(x), inc)", expect![]).await;
        check("SELECT * FROM map_batches(TABLE(public.t), \"Embed\"(model => 'big', n => -3), batch_size => NULL)", expect![]).await;
        check("SELECT * FROM map_batches(TABLE(VALUES (1), (2)) , twice)", expect![]).await;
    }

    #[tokio::test]
    async fn a_table_function_replaces_its_input() {
        check("SELECT x, m.s FROM map_batches(input => TABLE(t), fn => twice, batch_format => 'pyarrow') m", expect![]).await;
        check("SELECT * FROM map_batches(TABLE(SELECT * FROM map_batches(TABLE(t), twice)), twice)", expect![]).await;
    }

    #[tokio::test]
    async fn refused_calls() {
        check("SELECT * FROM map_batches(TABLE(t), nett)", expect![]).await;
        check("SELECT * FROM map_batches(TABLE(t))", expect![]).await;
        check("SELECT * FROM map_batches(TABLE(t), inc, 5)", expect![]).await;
        check("SELECT * FROM map_batches(t, inc)", expect![]).await;
        check("SELECT * FROM map_batches(TABLE(nowhere), inc)", expect![]).await;
        check("SELECT * FROM map_batches(TABLE(t), inc, num_gpus => 1)", expect![]).await;
        check("SELECT * FROM map_batches(TABLE(t), inc, batchsize => 1)", expect![]).await;
        check("SELECT * FROM map_batches(TABLE(t), inc, batch_size => 'x')", expect![]).await;
        check("SELECT * FROM map_batches(TABLE(t), inc, concurrency => 100000)", expect![]).await;
        check("SELECT * FROM map_batches(TABLE(t), inc(k => 1))", expect![]).await;
        check("SELECT * FROM map_batches(TABLE(t), \"Embed\"(k => a))", expect![]).await;
        check("SELECT * FROM map_batches(TABLE(t), \"Embed\"(1))", expect![]).await;
        check("SELECT * FROM map_batches(TABLE(SELECT b, c AS \"A\" FROM t), inc)", expect![]).await;
        check("SELECT * FROM map_batches(TABLE(SELECT s AS a FROM t), inc)", expect![]).await;
        check("SELECT * FROM map_batches(TABLE(SELECT a, 1 AS inc FROM t), inc)", expect![]).await;
        check("SELECT * FROM map_batches(TABLE(SELECT * FROM t JOIN u ON t.a = u.a), inc)", expect![]).await;
    }
}
