//! `FROM read_csv('orders/*.csv', delimiter => ';')`: files with options of their format.
//!
//! Such a call becomes the name of a table before planning, a name that says all of the call,
//! and the table is made when the planner asks for that name, as `CREATE EXTERNAL TABLE` makes
//! one: so views, prepared statements and writes find it wherever a name may stand.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::{DataFusionError, Result, plan_datafusion_err, plan_err};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, TableAlias, TableFactor,
};
use mobula_plan::{Walker, walk_statement};
use serde::{Deserialize, Serialize};

use super::file_options::{COMPRESSION, CSV, FileOption, JSON, compression, plain};
use super::files;
use crate::{Database, ServerError};

const READERS: [(&str, &[FileOption]); 3] = [
    ("read_csv", CSV),
    ("read_json", JSON),
    ("read_parquet", &[]),
];
/// One call of a reader.
#[derive(Debug, Serialize, Deserialize)]
pub struct FileCall {
    paths: Vec<String>,
    /// As `CREATE EXTERNAL TABLE` has them.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    options: HashMap<String, String>,
    /// Columns and their types as SQL declares them; none: they are found in the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schema: Option<String>,
    #[serde(skip)]
    reader: String,
}

/// Puts names in place of the calls of readers in `statement`.
///
/// # Errors
/// Arguments that are none, by the call that has them.
pub fn name_calls(statement: &mut Statement) -> Result<(), ServerError> {
    let mut naming = Naming { refused: Ok(()) };
    let _ = walk_statement(statement, &mut naming);
    naming.refused.map_err(ServerError::from)
}

struct Naming {
    refused: Result<()>,
}

impl Walker for Naming {
    fn enter_table(&mut self, table: &mut TableFactor) -> ControlFlow<()> {
        self.refused = named(table);
        match self.refused {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

/// The call that `name` stands for.
pub fn call_of(name: &str) -> Option<FileCall> {
    let (reader, text) = name.split_once(':')?;
    READERS.iter().find(|(known, _)| *known == reader)?;
    let call: FileCall = serde_json::from_str(text).ok()?;
    Some(FileCall {
        reader: reader.to_owned(),
        ..call
    })
}

fn named(factor: &mut TableFactor) -> Result<()> {
    let TableFactor::Table {
        name,
        args,
        alias,
        with_hints,
        ..
    } = factor
    else {
        return Ok(());
    };
    if let Some(hint) = with_hints.first() {
        // It would be dropped without a word, and CSV read with other delimiters.
        return plan_err!(
            "WITH ({hint}) behind {name} says nothing here. Files have options in read_csv('path', delimiter => ';')"
        );
    }
    let ([ObjectNamePart::Identifier(reader)], Some(given)) = (name.0.as_slice(), args.as_ref())
    else {
        return Ok(());
    };
    let reader = reader.value.to_lowercase();
    let Some((reader, known)) = READERS.iter().find(|(word, _)| *word == reader) else {
        return Ok(());
    };
    let call = FileCall::of(reader, known, &given.args)?;
    let text = serde_json::to_string(&call).map_err(|e| DataFusionError::External(Box::new(e)))?;
    *name = ObjectName(vec![ObjectNamePart::Identifier(Ident::with_quote(
        '"',
        format!("{reader}:{text}"),
    ))]);
    *args = None;
    // What columns are called by, where nobody says otherwise.
    alias.get_or_insert_with(|| TableAlias {
        explicit: true,
        name: Ident::new(*reader),
        columns: vec![],
        at: None,
    });
    Ok(())
}

impl FileCall {
    fn of(reader: &str, known: &[FileOption], args: &[FunctionArg]) -> Result<Self> {
        let mut call = Self {
            paths: vec![],
            options: HashMap::new(),
            schema: None,
            reader: reader.to_owned(),
        };
        for arg in args {
            match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(path)) if call.paths.is_empty() => {
                    call.paths = paths(reader, path)?;
                }
                FunctionArg::Named { name, arg, .. } => call.set(known, &name.value, arg)?,
                FunctionArg::ExprNamed { name, arg, .. } => {
                    call.set(known, &name.to_string(), arg)?;
                }
                other => {
                    return plan_err!("{reader} has the argument {other}. Write {}", usage(reader));
                }
            }
        }
        if call.paths.is_empty() {
            return plan_err!("{reader} has no files. Write {}", usage(reader));
        }
        Ok(call)
    }

    fn set(&mut self, known: &[FileOption], name: &str, value: &FunctionArgExpr) -> Result<()> {
        let (reader, name) = (&self.reader, name.to_lowercase());
        let is_new = if name == "schema" && !known.is_empty() {
            let columns = plain(reader, &name, value)?;
            if columns.trim().is_empty() {
                return plan_err!(
                    "{reader}: schema is empty. Write schema => 'a BIGINT, b VARCHAR'"
                );
            }
            self.schema.replace(columns).is_none()
        } else {
            let (key, value) = FileOption::given(known, reader, &name, value)?;
            self.options.insert(key, value).is_none()
        };
        match is_new {
            true => Ok(()),
            false => plan_err!("{} has {name} twice", self.reader),
        }
    }

    /// What it reads, in words.
    pub fn shown(&self) -> String {
        self.paths.join(", ")
    }

    /// Makes the table that it means.
    ///
    /// # Errors
    /// No such files, options that are none, files that are no such format.
    pub async fn table(
        &self,
        database: &Arc<Database>,
        state: &SessionState,
    ) -> Result<Arc<dyn TableProvider>> {
        let format = self.reader.trim_start_matches("read_").to_uppercase();
        let columns = self
            .schema
            .as_ref()
            .map(|s| format!("({s})"))
            .unwrap_or_default();
        let text = format!("CREATE EXTERNAL TABLE t {columns} STORED AS {format} LOCATION '/'");
        let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(mut create)) =
            state.create_logical_plan(&text).await.map_err(|error| {
                plan_datafusion_err!(
                    "{}: schema => '{}': {error}",
                    self.reader,
                    self.schema.as_deref().unwrap_or_default()
                )
            })?
        else {
            return plan_err!(
                "{}: schema => '{columns}' is no list of columns",
                self.reader
            );
        };
        create.locations.clone_from(&self.paths);
        create.options.clone_from(&self.options);
        files::prepare_locations(database, state, &mut create)
            .await
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        let has_options = self.reader != "read_parquet";
        if has_options && !create.options.contains_key(COMPRESSION) {
            let kind = compression(state, &self.reader, &create.locations).await?;
            let option = kind.map(|kind| (COMPRESSION.to_owned(), kind.to_owned()));
            create.options.extend(option);
        }
        let factory = state.table_factories().get(&format);
        let factory = factory.ok_or_else(|| plan_datafusion_err!("no format {format}"))?;
        let made = factory.create(state, &create).await;
        made.map_err(|error| self.unlike(error))
    }

    /// Says which way there is where files differ: DataFusion says it of a statement that nobody
    /// wrote.
    fn unlike(&self, error: DataFusionError) -> DataFusionError {
        let text = error.to_string();
        match text.contains("must have the same schema") && self.paths.len() > 1 {
            true => plan_datafusion_err!(
                "{} has files whose columns or types differ: {}. Read each by itself, and put them together by UNION ALL BY NAME",
                self.reader,
                self.shown()
            ),
            false => error,
        }
    }
}

fn paths(reader: &str, expr: &Expr) -> Result<Vec<String>> {
    let several = match expr {
        Expr::Array(array) => array.elem.as_slice(),
        one => std::slice::from_ref(one),
    };
    let text = |expr: &Expr| match expr {
        Expr::Value(value) => value.value.clone().into_string(),
        _ => None,
    };
    several
        .iter()
        .map(|one| match text(one) {
            Some(path) if !path.is_empty() => Ok(path),
            _ => plan_err!(
                "{reader} has {one} for a path: it takes texts, and no parameters. Write {}",
                usage(reader)
            ),
        })
        .collect()
}

fn usage(reader: &str) -> String {
    let ending = reader.trim_start_matches("read_");
    let more = match reader {
        "read_csv" => ", delimiter => ';'",
        "read_json" => ", compression => 'gzip'",
        _ => "",
    };
    format!(
        "{reader}('dir/*.{ending}'{more}), or a list of paths: {reader}(['a.{ending}', 'b.{ending}'])"
    )
}
