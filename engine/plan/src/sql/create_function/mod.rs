//! `CREATE FUNCTION … LANGUAGE python`: reads a declaration.
//!
//! ```sql
//! CREATE [OR REPLACE] [TEMP | TEMPORARY] FUNCTION [IF NOT EXISTS] name(param type | TABLE, …)
//!   RETURNS type | TABLE(column type, …)
//!   LANGUAGE python [IMMUTABLE | STABLE | VOLATILE] [STRICT]
//!   [WITH (batch_size = n, concurrency = n, batch_format = 'numpy' | 'pyarrow' | …,
//!          passthrough = 'column, …', row_preserving = true, reads = 'column, …')]
//!   AS $$ … $$
//! ```
//!
//! Clauses after the parameters may stand in any order. The parser of the SQL
//! crate is not used: it knows neither WITH nor IF NOT EXISTS nor a late AS, and
//! DataFusion's planner drops what it does know. Types become Arrow types by
//! DataFusion's own conversion. Whether the body holds a `def` or a `class` is
//! found later, in a worker.

use std::collections::HashSet;

use arrow::datatypes::{DataType, Schema};
use datafusion::sql::sqlparser::ast::{ColumnDef, DataType as SqlType, Ident};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use mobula_udfs::{FunctionSpec, Language, ObjectKind, Param, ParamKind, Returns, Volatility};

use super::call_options::CallOptions;
use super::normalized;
use super::reader::Reader;
use super::sql_type::arrow_schema;
use super::statement::Text;
use crate::error::PlanError;

/// A parsed declaration.
#[derive(Debug)]
pub struct CreateFunction {
    pub or_replace: bool,
    /// Of the session alone, and gone with it.
    pub is_temporary: bool,
    pub if_not_exists: bool,
    /// Its `object` is [`ObjectKind::Function`] until a worker has looked.
    pub spec: FunctionSpec,
}

/// The words before the name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    or_replace: bool,
    is_temporary: bool,
}

/// Consumes `CREATE [OR REPLACE] [TEMP | TEMPORARY] FUNCTION`, or nothing.
pub(super) fn head(parser: &mut Parser<'_>) -> Option<Head> {
    use Keyword::{CREATE, FUNCTION, OR, REPLACE, TEMP, TEMPORARY};
    for replaces in [&[CREATE, OR, REPLACE][..], &[CREATE]] {
        for temporary in [&[][..], &[TEMP], &[TEMPORARY]] {
            if parser.parse_keywords(&[replaces, temporary, &[FUNCTION]].concat()) {
                return Some(Head {
                    or_replace: replaces.len() > 1,
                    is_temporary: !temporary.is_empty(),
                });
            }
        }
    }
    None
}

/// Reads what follows the head.
///
/// # Errors
/// Syntax errors with their place, and declarations that make no sense.
pub(super) fn parse(
    parser: &mut Parser<'_>,
    head: Head,
    text: &Text<'_>,
) -> Result<CreateFunction, PlanError> {
    let mut reader = Reader { parser, text };
    let if_not_exists = reader
        .parser
        .parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = reader.name(|name| {
        let problem = "its name must not have a schema: functions are in none";
        declaration(name, problem)
    })?;
    let params = reader.params()?;
    let mut clauses = Clauses::default();
    while reader.clause(&name, &mut clauses)? {}
    Ok(CreateFunction {
        or_replace: head.or_replace,
        is_temporary: head.is_temporary,
        if_not_exists,
        spec: clauses.into_spec(name, params)?,
    })
}

/// A parameter as written.
struct ParamText {
    name: String,
    /// `None`: TABLE.
    sql_type: Option<SqlType>,
}

/// What RETURNS says.
enum ReturnsText {
    Scalar(SqlType),
    Table(Vec<(Ident, SqlType)>),
}

/// The clauses read so far.
#[derive(Default)]
struct Clauses {
    returns: Option<ReturnsText>,
    language: Option<String>,
    volatility: Option<Volatility>,
    strict: Option<bool>,
    options: Option<CallOptions>,
    body: Option<String>,
}

impl Reader<'_, '_, '_> {
    fn params(&mut self) -> Result<Vec<ParamText>, PlanError> {
        self.expect(&Token::LParen)?;
        self.list(|reader| {
            let _mode = reader.parser.parse_keyword(Keyword::IN);
            let name = normalized(&reader.identifier()?);
            let next = reader.parser.peek_token_ref();
            if matches!(next.token, Token::Comma | Token::RParen) {
                return Err(reader
                    .text
                    .unexpected("a type after the parameter's name", next));
            }
            let table = reader.parser.parse_keyword(Keyword::TABLE);
            let sql_type = match table {
                true => None,
                false => Some(reader.sql_type()?),
            };
            Ok(ParamText { name, sql_type })
        })
    }

    /// Reads one clause; false at the end of the statement.
    fn clause(&mut self, function: &str, clauses: &mut Clauses) -> Result<bool, PlanError> {
        use Keyword as K;
        let next = self.parser.peek_token_ref().clone();
        if matches!(next.token, Token::SemiColon | Token::EOF) {
            return Ok(false);
        }
        let twice = if self
            .parser
            .parse_keywords(&[K::RETURNS, K::NULL, K::ON, K::NULL, K::INPUT])
            || self.parser.parse_keyword(K::STRICT)
        {
            clauses.strict.replace(true).is_some()
        } else if self
            .parser
            .parse_keywords(&[K::CALLED, K::ON, K::NULL, K::INPUT])
        {
            clauses.strict.replace(false).is_some()
        } else if self.parser.parse_keyword(K::RETURNS) {
            let returns = self.returns()?;
            clauses.returns.replace(returns).is_some()
        } else if self.parser.parse_keyword(K::LANGUAGE) {
            let language = normalized(&self.identifier()?);
            clauses.language.replace(language).is_some()
        } else if let Some(volatility) = self.volatility() {
            clauses.volatility.replace(volatility).is_some()
        } else if self
            .parser
            .parse_one_of_keywords(&[K::WITH, K::OPTIONS])
            .is_some()
        {
            let options = self.options(function)?;
            clauses.options.replace(options).is_some()
        } else if self.parser.parse_keyword(K::AS) {
            let body = self.body()?;
            clauses.body.replace(body).is_some()
        } else {
            return Err(self.text.unexpected(
                "RETURNS, LANGUAGE, IMMUTABLE, STABLE, VOLATILE, STRICT, WITH, AS or the end of the statement",
                &next,
            ));
        };
        match twice {
            true => Err(declaration(
                function,
                &format!("{} is given twice", next.token),
            )),
            false => Ok(true),
        }
    }

    fn returns(&mut self) -> Result<ReturnsText, PlanError> {
        if !self.parser.parse_keyword(Keyword::TABLE) {
            return self.sql_type().map(ReturnsText::Scalar);
        }
        self.expect(&Token::LParen)?;
        self.list(|reader| Ok((reader.identifier()?, reader.sql_type()?)))
            .map(ReturnsText::Table)
    }

    fn volatility(&mut self) -> Option<Volatility> {
        use Keyword::{IMMUTABLE, STABLE, VOLATILE};
        match self
            .parser
            .parse_one_of_keywords(&[IMMUTABLE, STABLE, VOLATILE])?
        {
            IMMUTABLE => Some(Volatility::Immutable),
            STABLE => Some(Volatility::Stable),
            _ => Some(Volatility::Volatile),
        }
    }

    fn options(&mut self, function: &str) -> Result<CallOptions, PlanError> {
        let owner = format!("function \"{function}\"");
        let mut options = CallOptions::default();
        self.expect(&Token::LParen)?;
        self.list(|reader| {
            let name = normalized(&reader.identifier()?);
            reader.expect(&Token::Eq)?;
            let value = reader.parser.parse_expr();
            let value = reader.ok(value)?;
            options.set(&owner, &name, &value)
        })?;
        Ok(options)
    }

    fn body(&mut self) -> Result<String, PlanError> {
        let token = self.parser.next_token();
        match token.token {
            Token::DollarQuotedString(quoted) => Ok(quoted.value),
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => Ok(text),
            _ => Err(self
                .text
                .unexpected("the body as $$ … $$ or a string", &token)),
        }
    }
}

impl Clauses {
    fn into_spec(self, name: String, params: Vec<ParamText>) -> Result<FunctionSpec, PlanError> {
        match self.language.as_deref() {
            Some("python") => {}
            Some(other) => {
                return Err(PlanError::Language {
                    language: other.to_owned(),
                });
            }
            None => {
                return Err(declaration(
                    &name,
                    "LANGUAGE is missing. Write LANGUAGE python",
                ));
            }
        }
        let Some(body) = self.body.filter(|body| !body.trim().is_empty()) else {
            return Err(declaration(&name, "its body is missing. Write AS $$ … $$"));
        };
        let Some(returns) = self.returns else {
            return Err(declaration(
                &name,
                "RETURNS is missing. Write RETURNS type or RETURNS TABLE(column type, …)",
            ));
        };
        let params = typed_params(&name, params)?;
        let returns = typed_returns(&name, returns)?;
        check_shape(&name, &params, &returns)?;
        let options = self.options.unwrap_or_default();
        check_promises(&name, &options, &returns)?;
        if options.schema.is_some() {
            let problem =
                "schema is an option of calls. RETURNS TABLE(…) says which columns come out";
            return Err(declaration(&name, problem));
        }
        if options.volatility.is_some() || options.strict.is_some() {
            let problem = "volatility and strict are options of calls. Write IMMUTABLE, STABLE, VOLATILE or STRICT before AS";
            return Err(declaration(&name, problem));
        }
        Ok(FunctionSpec {
            name,
            language: Language::Python,
            params,
            returns,
            object: ObjectKind::Function,
            volatility: self.volatility.unwrap_or(Volatility::Volatile),
            strict: self.strict.unwrap_or(false),
            body,
            defaults: options.into_defaults(),
            actor: None,
        })
    }
}

fn typed_params(function: &str, params: Vec<ParamText>) -> Result<Vec<Param>, PlanError> {
    let mut seen = HashSet::new();
    let mut typed = Vec::with_capacity(params.len());
    for ParamText { name, sql_type } in params {
        if !seen.insert(name.clone()) {
            return Err(declaration(
                function,
                &format!("parameter \"{name}\" is declared twice"),
            ));
        }
        let kind = match sql_type {
            None => ParamKind::Table,
            Some(sql_type) => {
                let what = format!("parameter \"{name}\" ({sql_type})");
                let schema = schema_of(function, what, vec![(Ident::new("value"), sql_type)])?;
                ParamKind::Value(schema.field(0).data_type().clone())
            }
        };
        typed.push(Param { name, kind });
    }
    Ok(typed)
}

fn typed_returns(function: &str, returns: ReturnsText) -> Result<Returns, PlanError> {
    match returns {
        ReturnsText::Scalar(sql_type) => {
            let what = format!("its result ({sql_type})");
            let schema = schema_of(function, what, vec![(Ident::new("value"), sql_type)])?;
            Ok(Returns::Scalar(schema.field(0).data_type().clone()))
        }
        ReturnsText::Table(columns) if columns.is_empty() => {
            Err(declaration(function, "RETURNS TABLE() has no column"))
        }
        ReturnsText::Table(columns) => {
            let mut fields = Vec::with_capacity(columns.len());
            for (name, sql_type) in columns {
                let what = format!("result column {name} ({sql_type})");
                let column = schema_of(function, what, vec![(name, sql_type)])?;
                fields.extend(column.fields().iter().cloned());
            }
            let schema = Schema::new(fields);
            let mut seen = HashSet::new();
            match schema
                .fields()
                .iter()
                .find(|field| !seen.insert(field.name()))
            {
                Some(field) => Err(declaration(
                    function,
                    &format!("RETURNS TABLE has two columns named \"{}\"", field.name()),
                )),
                None => Ok(Returns::Table(schema.into())),
            }
        }
    }
}

fn schema_of(
    function: &str,
    what: String,
    columns: Vec<(Ident, SqlType)>,
) -> Result<Schema, PlanError> {
    let columns = columns.into_iter().map(|(name, data_type)| ColumnDef {
        name,
        data_type,
        options: vec![],
    });
    arrow_schema(columns.collect()).map_err(|source| PlanError::DeclaredType {
        function: function.to_owned(),
        what,
        source,
    })
}

/// Either values in and one value out, or one table in and one out, or a row in
/// and whether it stays out.
fn check_shape(function: &str, params: &[Param], returns: &Returns) -> Result<(), PlanError> {
    let tables = params
        .iter()
        .filter(|p| matches!(p.kind, ParamKind::Table))
        .count();
    match (returns, tables) {
        (Returns::Scalar(_), 0) => Ok(()),
        // For `filter`.
        (Returns::Scalar(DataType::Boolean), 1) if params.len() == 1 => Ok(()),
        (Returns::Table(_), 1) if params.len() == 1 => Ok(()),
        (Returns::Scalar(_), _) => Err(declaration(
            function,
            "a function with a TABLE parameter must return a table, or BOOLEAN for filter. Write RETURNS TABLE(column type, …)",
        )),
        (Returns::Table(_), _) => Err(declaration(
            function,
            "a function that returns a table takes exactly one parameter, of type TABLE",
        )),
    }
}

/// Columns that pass through must come out.
fn check_promises(
    function: &str,
    options: &CallOptions,
    returns: &Returns,
) -> Result<(), PlanError> {
    let Returns::Table(schema) = returns else {
        return match options.promise() {
            Some(option) => Err(PlanError::TableOption {
                function: function.to_owned(),
                option: option.to_owned(),
            }),
            None => Ok(()),
        };
    };
    let mut names = options.passthrough.iter().flatten();
    match names.find(|name| schema.field_with_name(name).is_err()) {
        Some(name) => Err(declaration(
            function,
            &format!("passthrough names \"{name}\", which RETURNS TABLE has not"),
        )),
        None => Ok(()),
    }
}

fn declaration(function: &str, problem: &str) -> PlanError {
    PlanError::Declaration {
        function: function.to_owned(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests;
