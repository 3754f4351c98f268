//! `SHOW FUNCTIONS`: DataFusion's, the functions that users made, and the operators
//! that call them.
//!
//! DataFusion lists those whose types it can enumerate. A union with it has its
//! columns, and its LIKE.

use std::sync::Arc;

use arrow::array::{ArrayRef, ListBuilder, RecordBatch, StringArray, StringBuilder};
use arrow::compute::cast;
use datafusion::common::Result;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, col, lit};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{ShowStatementFilter, Statement as SqlStatement};
use mobula_plan::FunctionCatalog;
use mobula_plan::operator::SYNTAX;
use mobula_udfs::{FunctionSpec, Language, ObjectKind, ParamKind, Returns};

/// The pattern of a `SHOW FUNCTIONS [LIKE pattern]`; `None` for other statements.
pub(super) fn pattern(statement: &Statement) -> Option<Option<String>> {
    match statement {
        Statement::Statement(statement) => match statement.as_ref() {
            SqlStatement::ShowFunctions { filter: None } => Some(None),
            SqlStatement::ShowFunctions {
                filter: Some(ShowStatementFilter::Like(pattern)),
            } => Some(Some(pattern.clone())),
            _ => None,
        },
        _ => None,
    }
}

/// `theirs`, the plan of the statement, with what it does not list.
pub(super) fn with_ours(
    theirs: LogicalPlan,
    pattern: Option<String>,
    functions: &FunctionCatalog,
) -> Result<LogicalPlan> {
    let schema = Arc::clone(theirs.schema().inner());
    let columns = columns(&rows(functions)).into_iter();
    let columns = columns
        .zip(schema.fields())
        .map(|(column, field)| Ok(cast(&column, field.data_type())?));
    // Anything of them may be NULL.
    let nullable = schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone().with_nullable(true));
    let nullable = Arc::new(arrow::datatypes::Schema::new(nullable.collect::<Vec<_>>()));
    let rows = RecordBatch::try_new(Arc::clone(&nullable), columns.collect::<Result<_>>()?)?;
    let table = MemTable::try_new(nullable, vec![vec![rows]])?;
    let mut ours = LogicalPlanBuilder::scan(
        "system.functions",
        provider_as_source(Arc::new(table)),
        None,
    )?;
    if let Some(pattern) = pattern {
        ours = ours.filter(col("function_name").like(lit(pattern)))?;
    }
    LogicalPlanBuilder::from(theirs)
        .union(ours.build()?)?
        .sort(["function_name", "return_type"].map(|name| col(name).sort(true, false)))?
        .build()
}

/// One function, or operator.
struct Row {
    name: String,
    returns: Option<String>,
    /// Names and types.
    parameters: Vec<(String, String)>,
    kind: &'static str,
    description: String,
    syntax: String,
}

fn rows(functions: &FunctionCatalog) -> Vec<Row> {
    let ours = functions.list();
    let ours = ours.iter().map(|spec| {
        let row = Row::of(spec);
        let description = match functions.own(&spec.name) {
            Some(_) => format!("temporary {}", row.description),
            None => row.description,
        };
        Row { description, ..row }
    });
    let operators = SYNTAX.iter().map(|(name, syntax, description)| Row {
        name: (*name).to_owned(),
        returns: None,
        parameters: vec![],
        kind: "TABLE",
        description: (*description).to_owned(),
        syntax: (*syntax).to_owned(),
    });
    ours.chain(operators).collect()
}

impl Row {
    fn of(spec: &FunctionSpec) -> Self {
        let parameters = spec.params.iter().map(|param| {
            let data_type = match &param.kind {
                ParamKind::Value(data_type) => data_type.to_string(),
                ParamKind::Table => "TABLE".to_owned(),
            };
            (param.name.clone(), data_type)
        });
        let parameters: Vec<_> = parameters.collect();
        let (returns, kind) = match &spec.returns {
            Returns::Scalar(data_type) => (data_type.to_string(), "SCALAR"),
            Returns::Table(schema) => {
                let columns = schema.fields().iter();
                let columns = columns.map(|f| format!("{} {}", f.name(), f.data_type()));
                let columns = columns.collect::<Vec<_>>().join(", ");
                (format!("TABLE({columns})"), "TABLE")
            }
        };
        let names: Vec<&str> = parameters.iter().map(|(name, _)| name.as_str()).collect();
        let name = &spec.name;
        let kind = match spec.is_method() {
            true => "METHOD",
            false => kind,
        };
        let syntax = match spec.is_table() || spec.takes_table() {
            false => format!("{name}({})", names.join(", ")),
            true => format!("FROM map_batches(TABLE(query), {name})"),
        };
        Self {
            name: name.clone(),
            returns: Some(returns),
            parameters,
            kind,
            description: description(spec),
            syntax,
        }
    }
}

fn description(spec: &FunctionSpec) -> String {
    let what = match (spec.language, spec.object) {
        _ if spec.is_method() => "Method of a Python actor",
        (Language::Native, _) => "Rust function of this program",
        (Language::Python, ObjectKind::Class) => "Python class",
        (Language::Python, ObjectKind::Function) => "Python function",
        (Language::Python, ObjectKind::AsyncClass) => "async Python class",
        (Language::Python, ObjectKind::AsyncFunction) => "async Python function",
    };
    let strict = if spec.strict { ", STRICT" } else { "" };
    let volatility = format!("{:?}", spec.volatility).to_uppercase();
    format!("{what}, {volatility}{strict}")
}

fn columns(rows: &[Row]) -> Vec<ArrayRef> {
    let text = |f: fn(&Row) -> Option<&str>| -> ArrayRef {
        Arc::new(rows.iter().map(f).collect::<StringArray>())
    };
    let lists = |f: fn(&(String, String)) -> &str| -> ArrayRef {
        let mut lists = ListBuilder::new(StringBuilder::new());
        for row in rows {
            row.parameters
                .iter()
                .for_each(|p| lists.values().append_value(f(p)));
            lists.append(true);
        }
        Arc::new(lists.finish())
    };
    vec![
        text(|row| Some(&row.name)),
        text(|row| row.returns.as_deref()),
        lists(|(name, _)| name),
        lists(|(_, data_type)| data_type),
        text(|row| Some(row.kind)),
        text(|row| Some(&row.description)),
        text(|row| Some(&row.syntax)),
    ]
}
