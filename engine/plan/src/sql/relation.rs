//! Plans `FROM map_batches(input, function, option => value, …) [AS alias]`, and
//! `map`, `flat_map`, `filter` and `map_groups` in the same form; `repartition` is
//! read beside it.
//!
//! ```text
//! input     (query), which table_argument also makes of TABLE(query) and TABLE(name)
//! function  name | 'name' | name(argument => literal, …)   constructor of a class;
//!                                                         a parameter is a literal to come
//!           | actor.method
//! options   those of call_options; batch_format of map_batches alone
//! ```
//!
//! DataFusion asks this planner for every relation before its own planning. A
//! scalar function gets columns by its parameters' names and appends one column
//! of its own name, or decides whether a row stays; a function of a TABLE gets all
//! columns. Inside, the input loses its table names: what comes out is one
//! relation.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::{Column, DFSchema, Result, not_impl_err};
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, FunctionArg, FunctionArgExpr, FunctionArguments, ObjectName, ObjectNamePart,
    TableFactor, Value, ValueWithSpan,
};
use mobula_udfs::{CallMode, FunctionSpec, Literal, Returns};

use super::call_options::{CallOptions, literal};
use super::check_call::check_call;
use super::grouping::WrittenGrouping;
use super::keyed::{keyed_over, refuse_snapshots};
use super::literal::no_literal;
use super::method_call::method_name;
use super::{merged_keys, normalized, repartition};
use crate::error::PlanError;
use crate::function_catalog::FunctionCatalog;
use crate::nearest;
use crate::operator::Operator;
use crate::operator::map_batches::{FunctionCall, Grouping, MapBatchesNode};
use crate::operator::repartition::SQL_NAME;

/// Plans our relations; one per session.
#[derive(Debug)]
pub struct OperatorPlanner {
    functions: Arc<FunctionCatalog>,
}

impl OperatorPlanner {
    pub fn new(functions: Arc<FunctionCatalog>) -> Self {
        Self { functions }
    }
}

/// DataFusion reads the clause and takes all rows.
fn refuse_sample(relation: &TableFactor) -> Result<()> {
    match relation {
        TableFactor::Table {
            sample: Some(_), ..
        }
        | TableFactor::Derived {
            sample: Some(_), ..
        } => not_impl_err!(
            "TABLESAMPLE is not supported. Write WHERE random() < 0.1 for a tenth of the rows"
        ),
        _ => Ok(()),
    }
}

impl RelationPlanner for OperatorPlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        refuse_sample(&relation)?;
        if matches!(relation, TableFactor::NestedJoin { .. }) {
            return merged_keys::plan(relation, context);
        }
        let named = match &relation {
            TableFactor::Table {
                name,
                args: Some(_),
                ..
            }
            | TableFactor::Function { name, .. } => single(name),
            _ => None,
        };
        let op = named.as_deref().and_then(Operator::named);
        if op.is_none() && named.as_deref() != Some(SQL_NAME) {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        }
        let (alias, args) = match relation {
            TableFactor::Table {
                alias,
                args: Some(args),
                ..
            } => (alias, args.args),
            TableFactor::Function { alias, args, .. } => (alias, args),
            other => return Ok(RelationPlanning::Original(Box::new(other))),
        };
        let Some(op) = op else {
            let node = repartition::plan(args, |input| context.plan(input))?;
            let planned = PlannedRelation::new(node.into_plan(), alias);
            return Ok(RelationPlanning::Planned(Box::new(planned)));
        };
        let written = Written::read(op, args)?;
        let spec = self.functions.find(&written.function)?;
        let spec = written.options.declare(spec)?;
        let pool = self.functions.pool_of(&spec);
        check_call(op, (&spec, pool), &written.args, &written.options)?;
        let input = context.plan(written.input.clone())?;
        let node = match written.grouping.given() {
            Some(_) if op.mode != CallMode::Groups => {
                let grouping = |columns: &DFSchema| written.grouping.over(op.sql, columns);
                let called = (spec, pool);
                keyed_over(op, input, called, written.args, &written.options, grouping)?
            }
            Some(_) => {
                let grouping = |columns: &DFSchema| written.grouping.over(op.sql, columns);
                groups_over(op, input, spec, written.args, &written.options, grouping)?
            }
            None => operator_over(op, input, spec, written.args, &written.options)?,
        };
        let node = node.with_parameters(written.parameters);
        let planned = PlannedRelation::new(node.into_plan(), alias);
        Ok(RelationPlanning::Planned(Box::new(planned)))
    }
}

/// A name without a schema.
fn single(name: &ObjectName) -> Option<String> {
    match name.0.as_slice() {
        [ObjectNamePart::Identifier(ident)] => Some(normalized(ident)),
        _ => None,
    }
}

/// The node of `op` over `input`, for a call that [`check_call`] allows.
pub(crate) fn operator_over(
    op: &Operator,
    input: LogicalPlan,
    spec: Arc<FunctionSpec>,
    args: Vec<(String, Literal)>,
    options: &CallOptions,
) -> Result<MapBatchesNode> {
    refuse_snapshots(op, options)?;
    let input = without_qualifiers(input, &spec.name)?;
    node(
        input,
        FunctionCall::new(spec, op.mode, args, options).in_order(),
    )
}

/// The same of each group of rows; `grouping` finds its columns in the input.
pub(crate) fn groups_over(
    op: &Operator,
    input: LogicalPlan,
    spec: Arc<FunctionSpec>,
    args: Vec<(String, Literal)>,
    options: &CallOptions,
    grouping: impl FnOnce(&DFSchema) -> Result<Option<Grouping>, PlanError>,
) -> Result<MapBatchesNode> {
    refuse_snapshots(op, options)?;
    let input = without_qualifiers(input, &spec.name)?;
    let grouping = grouping(input.schema())?;
    let call = FunctionCall::new(spec, op.mode, args, options);
    MapBatchesNode::try_new_table(input, call, grouping)
}

/// The node of `call` over `input`, whose columns have bare names.
pub(super) fn node(input: LogicalPlan, call: FunctionCall) -> Result<MapBatchesNode> {
    let spec = Arc::clone(call.spec());
    let columns = match spec.takes_table() {
        true => input.schema().columns(),
        false => bind(&spec, input.schema())?,
    };
    match call.mode() {
        CallMode::Filter => MapBatchesNode::try_new_filter(input, call, columns),
        _ if spec.is_table() => {
            MapBatchesNode::try_new_table(as_declared(input, &call)?, call, None)
        }
        _ => MapBatchesNode::try_new_column(input, call, columns, spec.column_name().to_owned()),
    }
}

/// `input` with texts that pass through a call in the form the call gives them
/// out in: what is known of such a column then holds on both sides.
fn as_declared(input: LogicalPlan, call: &FunctionCall) -> Result<LogicalPlan> {
    let Returns::Table(declared) = &call.spec().returns else {
        return Ok(input);
    };
    let text =
        |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let declared_as = |field: &Field| {
        let passes = call.passthrough().contains(field.name());
        let declared = declared
            .field_with_name(field.name())
            .ok()
            .filter(|_| passes)?;
        let (wanted, found) = (declared.data_type(), field.data_type());
        (wanted != found && text(wanted) && text(found)).then(|| wanted.clone())
    };
    let fields = input.schema().fields().iter();
    if fields.clone().all(|field| declared_as(field).is_none()) {
        return Ok(input);
    }
    let columns = fields.map(|field| {
        let column = Expr::Column(Column::new_unqualified(field.name()));
        match declared_as(field) {
            Some(wanted) => cast(column, wanted).alias(field.name()),
            None => column,
        }
    });
    let columns: Vec<_> = columns.collect();
    LogicalPlanBuilder::from(input).project(columns)?.build()
}

/// The arguments of an operator, read.
struct Written {
    input: TableFactor,
    function: String,
    args: Vec<(String, Literal)>,
    /// The arguments among them that are parameters, with their names.
    parameters: Vec<(String, String)>,
    options: CallOptions,
    grouping: WrittenGrouping,
}

impl Written {
    fn read(op: &Operator, args: Vec<FunctionArg>) -> Result<Self, PlanError> {
        let mut places = [None, None];
        let mut options = CallOptions::default();
        let mut grouping = WrittenGrouping::default();
        let mut next = 0;
        for arg in args {
            let (name, value) = split(op.sql, arg)?;
            match name.as_deref() {
                None => {
                    let Some(place) = places.get_mut(next) else {
                        return Err(relation(
                            op,
                            &format!("unexpected argument {value}. Write options as name => value"),
                        ));
                    };
                    *place = Some(value);
                    next += 1;
                }
                Some("input") => places[0] = Some(value),
                Some("function" | "fn") => places[1] = Some(value),
                Some(option @ ("partition_by" | "order_by")) => {
                    grouping.set(op.sql, option, value)?;
                }
                Some(option) => options.set(op.sql, option, &value)?,
            }
        }
        let [Some(input), Some(function)] = places else {
            return Err(relation(
                op,
                &format!(
                    "it takes an input and a function. Write {}(TABLE(query), function, option => value, …)",
                    op.sql
                ),
            ));
        };
        check_grouping(op, &options, &grouping)?;
        let (function, args) = read_function(op, function)?;
        let parameters = args.iter().filter_map(|(name, value)| match value {
            Argument::Parameter(parameter) => Some((name.clone(), parameter.clone())),
            Argument::Literal(_) => None,
        });
        let parameters = parameters.collect();
        let args = args.into_iter().map(|(name, value)| match value {
            Argument::Literal(value) => (name, value),
            Argument::Parameter(_) => (name, Literal::Null),
        });
        Ok(Self {
            input: read_input(op.sql, input)?,
            function,
            args: args.collect(),
            parameters,
            options,
            grouping,
        })
    }
}

/// Refuses options of groups without groups, and groups without keys.
fn check_grouping(
    op: &Operator,
    options: &CallOptions,
    grouping: &WrittenGrouping,
) -> Result<(), PlanError> {
    let given = grouping.given();
    let problem = match (op.mode == CallMode::Groups, given) {
        (false, Some("order_by")) => {
            "order_by is the order of the rows of a key. Write partition_by => (column, …) as well"
                .to_owned()
        }
        (true, None | Some("order_by")) => {
            "it needs the columns whose equal values make a group. Write partition_by => (column, …)"
                .to_owned()
        }
        (true, _) if options.batch_size.is_some() => {
            "a group is a batch. batch_size is an option of the other operators".to_owned()
        }
        _ => return Ok(()),
    };
    Err(relation(op, &problem))
}

pub(super) fn relation(op: &Operator, problem: &str) -> PlanError {
    refused(op.sql, problem)
}

pub(super) fn refused(operator: &'static str, problem: &str) -> PlanError {
    PlanError::Relation {
        operator,
        problem: problem.to_owned(),
    }
}

/// The name and the value of an argument.
pub(super) fn split(
    operator: &'static str,
    arg: FunctionArg,
) -> Result<(Option<String>, SqlExpr), PlanError> {
    let (name, value) = match arg {
        FunctionArg::Named { name, arg, .. } => (Some(normalized(&name)), arg),
        FunctionArg::ExprNamed {
            name: SqlExpr::Identifier(name),
            arg,
            ..
        } => (Some(normalized(&name)), arg),
        FunctionArg::ExprNamed { name, .. } => {
            return Err(refused(
                operator,
                &format!("{name} is not the name of an option"),
            ));
        }
        FunctionArg::Unnamed(arg) => (None, arg),
    };
    match value {
        FunctionArgExpr::Expr(expr) => Ok((name, expr)),
        other => Err(refused(operator, &format!("unexpected argument {other}"))),
    }
}

/// `(query)` as a relation.
pub(super) fn read_input(operator: &'static str, expr: SqlExpr) -> Result<TableFactor, PlanError> {
    match expr {
        SqlExpr::Subquery(subquery) => Ok(TableFactor::Derived {
            lateral: false,
            subquery,
            alias: None,
            sample: None,
        }),
        SqlExpr::Nested(inner) => read_input(operator, *inner),
        other => Err(refused(
            operator,
            &format!("its input must be TABLE(name), TABLE(query) or (query), not {other}"),
        )),
    }
}

/// An argument of a constructor, as written.
enum Argument {
    Literal(Literal),
    Parameter(String),
}

impl Argument {
    fn read(expr: &SqlExpr) -> Option<Self> {
        match expr {
            SqlExpr::Value(ValueWithSpan {
                value: Value::Placeholder(name),
                ..
            }) => Some(Self::Parameter(name.clone())),
            other => literal(other).map(Self::Literal),
        }
    }
}

/// `f`, `'f'`, `f(k => v, …)` or `actor.method`.
fn read_function(
    op: &Operator,
    expr: SqlExpr,
) -> Result<(String, Vec<(String, Argument)>), PlanError> {
    match expr {
        SqlExpr::Identifier(name) => Ok((normalized(&name), vec![])),
        SqlExpr::CompoundIdentifier(parts) if parts.len() == 2 => {
            Ok((method_name(&parts[0], &parts[1]), vec![]))
        }
        SqlExpr::Function(function) => {
            let name = match function.name.0.as_slice() {
                [ObjectNamePart::Identifier(name)] => normalized(name),
                _ => {
                    return Err(relation(
                        op,
                        &format!("{} is not the name of a function", function.name),
                    ));
                }
            };
            let args = match function.args {
                FunctionArguments::List(list) => list.args,
                _ => vec![],
            };
            let args = args
                .into_iter()
                .map(|arg| constructor_argument(op, &name, arg));
            Ok((name.clone(), args.collect::<Result<_, _>>()?))
        }
        other => match literal(&other) {
            Some(Literal::Text(name)) => Ok((name, vec![])),
            _ => Err(relation(
                op,
                &format!("{other} is not the name of a function"),
            )),
        },
    }
}

fn constructor_argument(
    op: &Operator,
    function: &str,
    arg: FunctionArg,
) -> Result<(String, Argument), PlanError> {
    match split(op.sql, arg)? {
        (Some(name), value) => match Argument::read(&value) {
            Some(argument) => Ok((name, argument)),
            None => Err(relation(
                op,
                &format!("argument \"{name}\" of {function} {}", no_literal(&value)),
            )),
        },
        (None, value) => Err(relation(
            op,
            &format!("write the argument {value} of {function} as name => {value}"),
        )),
    }
}

/// `input` with bare column names.
pub(crate) fn without_qualifiers(input: LogicalPlan, function: &str) -> Result<LogicalPlan> {
    let mut seen = HashSet::new();
    if let Some(field) = input
        .schema()
        .fields()
        .iter()
        .find(|f| !seen.insert(f.name()))
    {
        return Err(PlanError::ColumnTwice {
            function: function.to_owned(),
            column: field.name().clone(),
        }
        .into());
    }
    if input
        .schema()
        .iter()
        .all(|(qualifier, _)| qualifier.is_none())
    {
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
    let columns = spec
        .params
        .iter()
        .map(|param| match names.contains(&param.name.as_str()) {
            true => Ok(Column::new_unqualified(&param.name)),
            false => Err(PlanError::NoColumn {
                function: spec.name.clone(),
                parameter: param.name.clone(),
                columns: names.join(", "),
                hint: nearest::hint(&param.name, names.iter().copied()),
            }),
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
        check("SELECT * FROM map_batches(TABLE(t), net)", expect![[r#"
            Projection: a, b, c, s, net [a:Int64, b:Float64, c:Int64, s:Utf8, net:Float64;N]
              MapBatches: net over [a, b] AS net [a:Int64, b:Float64, c:Int64, s:Utf8, net:Float64;N]
                Projection: t.a AS a, t.b AS b, t.c AS c, t.s AS s [a:Int64, b:Float64, c:Int64, s:Utf8]
                  Projection: t.a, t.b, t.c, t.s [a:Int64, b:Float64, c:Int64, s:Utf8]
                    TableScan: t [a:Int64, b:Float64, c:Int64, s:Utf8]"#]]).await;
        check("SELECT m.a, \"INC\" FROM map_batches(TABLE(SELECT a FROM t WHERE c = 1), 'inc', batch_size => 10) AS m(a, \"INC\")", expect![[r#"
            Projection: m.a, m.INC [a:Int64, INC:Int64;N]
              SubqueryAlias: m [a:Int64, INC:Int64;N]
                Projection: a AS a, inc AS INC [a:Int64, INC:Int64;N]
                  MapBatches: inc over [a] AS inc [a:Int64, inc:Int64;N]
                    Projection: t.a AS a [a:Int64]
                      Projection: t.a [a:Int64]
                        Filter: t.c = Int64(1) [a:Int64, b:Float64, c:Int64, s:Utf8]
                          TableScan: t [a:Int64, b:Float64, c:Int64, s:Utf8]"#]]).await;
        check("SELECT * FROM map_batches((SELECT a FROM t ORDER BY a), inc, concurrency => 2) m JOIN u ON m.a = u.a", expect![[r#"
            Projection: m.a, m.inc, u.a, u.x [a:Int64, inc:Int64;N, a:Int64, x:Int64]
              Inner Join:  Filter: m.a = u.a [a:Int64, inc:Int64;N, a:Int64, x:Int64]
                SubqueryAlias: m [a:Int64, inc:Int64;N]
                  MapBatches: inc over [a] AS inc [a:Int64, inc:Int64;N]
                    Projection: t.a AS a [a:Int64]
                      Sort: t.a ASC NULLS LAST [a:Int64]
                        Projection: t.a [a:Int64]
                          TableScan: t [a:Int64, b:Float64, c:Int64, s:Utf8]
                TableScan: u [a:Int64, x:Int64]"#]]).await;
        check(
            "WITH x AS (SELECT 1 AS a) SELECT * FROM map_batches(TABLE(x), inc)",
            expect![[r#"
            Projection: a, inc [a:Int64, inc:Int64;N]
              MapBatches: inc over [a] AS inc [a:Int64, inc:Int64;N]
                Projection: x.a AS a [a:Int64]
                  Projection: x.a [a:Int64]
                    SubqueryAlias: x [a:Int64]
                      Projection: Int64(1) AS a [a:Int64]
                        EmptyRelation: rows=1 []"#]],
        )
        .await;
        check("SELECT * FROM map_batches(TABLE(public.t), \"Embed\"(model => 'big', n => -3), batch_size => NULL)", expect![[r#"
            Projection: a, b, c, s, Embed [a:Int64, b:Float64, c:Int64, s:Utf8, Embed:List(Float32);N]
              MapBatches: Embed(model => 'big', n => -3) over [s] AS Embed [a:Int64, b:Float64, c:Int64, s:Utf8, Embed:List(Float32);N]
                Projection: public.t.a AS a, public.t.b AS b, public.t.c AS c, public.t.s AS s [a:Int64, b:Float64, c:Int64, s:Utf8]
                  Projection: public.t.a, public.t.b, public.t.c, public.t.s [a:Int64, b:Float64, c:Int64, s:Utf8]
                    TableScan: public.t [a:Int64, b:Float64, c:Int64, s:Utf8]"#]]).await;
        check(
            "SELECT * FROM map_batches(TABLE(VALUES (1), (2)) , twice)",
            expect![[r#"
            Projection: x, s [x:Int64;N, s:Utf8;N]
              MapBatches: twice over TABLE [x:Int64;N, s:Utf8;N]
                Projection: column1 [column1:Int64]
                  Values: (Int64(1)), (Int64(2)) [column1:Int64]"#]],
        )
        .await;
    }

    #[tokio::test]
    async fn a_table_function_replaces_its_input() {
        check("SELECT x, m.s FROM map_batches(input => TABLE(t), fn => twice, batch_format => 'pyarrow') m", expect![[r#"
            Projection: m.x, m.s [x:Int64;N, s:Utf8;N]
              SubqueryAlias: m [x:Int64;N, s:Utf8;N]
                MapBatches: twice over TABLE [x:Int64;N, s:Utf8;N]
                  Projection: t.a AS a, t.b AS b, t.c AS c, t.s AS s [a:Int64, b:Float64, c:Int64, s:Utf8]
                    Projection: t.a, t.b, t.c, t.s [a:Int64, b:Float64, c:Int64, s:Utf8]
                      TableScan: t [a:Int64, b:Float64, c:Int64, s:Utf8]"#]]).await;
        check("SELECT * FROM map_batches(TABLE(SELECT * FROM map_batches(TABLE(t), twice)), twice)", expect![[r#"
            Projection: x, s [x:Int64;N, s:Utf8;N]
              MapBatches: twice over TABLE [x:Int64;N, s:Utf8;N]
                Projection: x, s [x:Int64;N, s:Utf8;N]
                  MapBatches: twice over TABLE [x:Int64;N, s:Utf8;N]
                    Projection: t.a AS a, t.b AS b, t.c AS c, t.s AS s [a:Int64, b:Float64, c:Int64, s:Utf8]
                      Projection: t.a, t.b, t.c, t.s [a:Int64, b:Float64, c:Int64, s:Utf8]
                        TableScan: t [a:Int64, b:Float64, c:Int64, s:Utf8]"#]]).await;
    }

    #[tokio::test]
    async fn refused_calls() {
        check("SELECT * FROM map_batches(TABLE(t), nett)", expect![[r#"External error: unknown function "nett". CREATE FUNCTION makes one; SHOW FUNCTIONS lists them. Did you mean "net"?"#]]).await;
        check("SELECT * FROM map_batches(TABLE(t))", expect!["External error: cannot plan map_batches: it takes an input and a function. Write map_batches(TABLE(query), function, option => value, …)"]).await;
        check("SELECT * FROM map_batches(TABLE(t), inc, 5)", expect!["External error: cannot plan map_batches: unexpected argument 5. Write options as name => value"]).await;
        check("SELECT * FROM map_batches(t, inc)", expect!["External error: cannot plan map_batches: its input must be TABLE(name), TABLE(query) or (query), not t"]).await;
        check(
            "SELECT * FROM map_batches(TABLE(nowhere), inc)",
            expect!["Error during planning: table 'datafusion.public.nowhere' not found"],
        )
        .await;
        check("SELECT * FROM map_batches(TABLE(t), inc, num_gpus => 1.5)", expect![[r#"External error: invalid value 1.5 for option "num_gpus" of map_batches: expected a share below 1 with at most three decimals, a whole number up to 1024, or NULL"#]]).await;
        check("SELECT * FROM map_batches(TABLE(t), inc, batchsize => 1)", expect![[r#"External error: unknown option "batchsize" of map_batches. Options are batch_size, concurrency, batch_format, zero_copy_batch, preserve_order, schema, timeout, init_timeout, retry_exceptions, max_retries, on_error, max_errors, max_error_ratio, passthrough, row_preserving, reads, volatility, strict, snapshot_every, num_cpus, num_gpus, memory, resources, label_selector, placement, max_in_flight and rate_limit. Did you mean "batch_size"?"#]]).await;
        check("SELECT * FROM map_batches(TABLE(t), inc, batch_size => 'x')", expect![[r#"External error: invalid value 'x' for option "batch_size" of map_batches: expected a count from 1 to 1048576, or NULL"#]]).await;
        check("SELECT * FROM map_batches(TABLE(t), inc, concurrency => 100000)", expect![[r#"External error: invalid value 100000 for option "concurrency" of map_batches: expected a count of workers from 1 to 1024, 'min..max', or NULL"#]]).await;
        check("SELECT * FROM map_batches(TABLE(t), inc(k => 1))", expect![[r#"External error: cannot plan map_batches: "inc" is a def and has no constructor for "k". Only a class takes arguments here"#]]).await;
        check("SELECT * FROM map_batches(TABLE(t), \"Embed\"(k => a))", expect![[r#"External error: cannot plan map_batches: argument "k" of Embed must be a literal, not a"#]]).await;
        check("SELECT * FROM map_batches(TABLE(t), \"Embed\"(k => 9223372036854775808))", expect![[r#"External error: cannot plan map_batches: argument "k" of Embed is beyond BIGINT: 9223372036854775808. Write it as text, or with a point for the nearest DOUBLE"#]]).await;
        check("SELECT * FROM map_batches(TABLE(t), \"Embed\"(1))", expect!["External error: cannot plan map_batches: write the argument 1 of Embed as name => 1"]).await;
        check("SELECT * FROM map_batches(TABLE(SELECT b, c AS \"A\" FROM t), inc)", expect![[r#"External error: parameter "a" of function "inc" finds no column of its name in the input (b, A). Rename a column with AS inside the query. Did you mean "A"?"#]]).await;
        check("SELECT * FROM map_batches(TABLE(SELECT s AS a FROM t), inc)", expect![[r#"External error: argument 1 ("a") of function "inc" must be Int64, not Utf8. Write a CAST"#]]).await;
        check("SELECT * FROM map_batches(TABLE(SELECT a, 1 AS inc FROM t), inc)", expect![[r#"External error: the input already has a column "inc", the name of the function's result. Rename it with AS inside the query"#]]).await;
        check("SELECT * FROM map_batches(TABLE(SELECT * FROM t JOIN u ON t.a = u.a), inc)", expect![[r#"External error: the input of function "inc" has two columns named "a". Rename one with AS inside the query"#]]).await;
    }

    #[tokio::test]
    async fn row_operators_refuse_what_they_cannot_call() {
        for (from, expected) in [
            (
                "flat_map(TABLE(t), inc)",
                "cannot plan flat_map: \"inc\" returns a value. Declare it as inc(row TABLE) RETURNS TABLE(…), or call it by map",
            ),
            (
                "filter(TABLE(t), twice)",
                "cannot plan filter: \"twice\" returns a table. Declare it with RETURNS BOOLEAN, or call it by map or flat_map",
            ),
            (
                "filter(TABLE(t), inc)",
                "filter needs a function that returns BOOLEAN, and \"inc\" returns something else. Call it by map, and compare its result in WHERE",
            ),
            (
                "map_batches(TABLE(t), good)",
                "cannot plan map_batches: \"good\" says which rows stay. Call it by filter",
            ),
            (
                "map(TABLE(t), inc, batch_format => 'rows')",
                "cannot plan map: it calls functions row by row. batch_format is an option of map_batches",
            ),
            (
                "filter(TABLE(SELECT s FROM t), big)",
                "parameter \"a\" of function \"big\" finds no column of its name in the input (s)",
            ),
            (
                "filter(TABLE(SELECT s AS a FROM t), big)",
                "argument 1 (\"a\") of function \"big\" must be Int64, not Utf8",
            ),
        ] {
            let state = session(Arc::new(FakeHost::default()));
            let sql = format!("SELECT * FROM {from}");
            let error = plan(&state, &sql).await.unwrap_err();
            let text = error.find_root().strip_backtrace();
            assert!(text.contains(expected), "{text}");
        }
    }

    #[tokio::test]
    async fn row_operators_say_what_they_do() {
        for (from, expected) in [
            (
                "map(TABLE(SELECT a, s FROM t), inc, concurrency => 2)",
                "  Map: inc over [a] AS inc [a:Int64, s:Utf8, inc:Int64;N]",
            ),
            (
                "map(TABLE(SELECT a, s FROM t), twice)",
                "  Map: twice over TABLE [x:Int64;N, s:Utf8;N]",
            ),
            (
                "flat_map(TABLE(SELECT a, s FROM t), twice) AS f",
                "    FlatMap: twice over TABLE [x:Int64;N, s:Utf8;N]",
            ),
            (
                "filter(TABLE(SELECT a, s FROM t), big)",
                "  UdfFilter: big over [a] [a:Int64, s:Utf8]",
            ),
            (
                "filter(TABLE(SELECT a, s FROM t), good)",
                "  UdfFilter: good over [a, s] [a:Int64, s:Utf8]",
            ),
        ] {
            let sql = format!("SELECT * FROM {from}");
            let state = session(Arc::new(FakeHost::default()));
            let plan = plan(&state, &sql).await.unwrap();
            let text = plan.display_indent_schema().to_string();
            assert!(text.contains(expected), "{sql}\n{text}");
        }
    }
}
