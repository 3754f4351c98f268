//! Splits SQL into statements and parses each.
//!
//! Our statements (`CREATE` and `DROP` of functions, actors and splits, `ALTER` of pools) are read here, all others
//! by DataFusion's parser in its generic dialect, after `TABLE(query)` arguments
//! were made parseable. Front ends call [`parse_statements`] and plan what it
//! gives; nothing is executed here.

use datafusion::common::DataFusionError;
use datafusion::sql::parser::{DFParser, DFParserBuilder, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use super::alter_pool::{self, AlterPool};
use super::create_actor::{self, CreateActor, DropActor};
use super::create_function::{self, CreateFunction};
use super::create_split::{self, CreateSplit, DropSplit};
use super::{
    chain_limit, merged_keys, method_call, named_windows, normalized, placeholder, table_argument,
};
use crate::error::PlanError;

/// Deepest nesting of a statement that is parsed.
const RECURSION_LIMIT: usize = 128;

/// One statement, parsed.
#[derive(Debug)]
pub enum MobulaStatement {
    /// `CREATE FUNCTION … LANGUAGE python …`
    CreateFunction(Box<CreateFunction>),
    /// `DROP FUNCTION [IF EXISTS] name`
    DropFunction { name: String, if_exists: bool },
    /// `CREATE ACTOR … FROM class`
    CreateActor(Box<CreateActor>),
    /// `DROP ACTOR [POOL] [IF EXISTS] name`
    DropActor(DropActor),
    /// `ALTER ACTOR POOL [IF EXISTS] name SET (…)`
    AlterPool(AlterPool),
    /// `CREATE SPLIT name WITH (readers = n) AS query`
    CreateSplit(CreateSplit),
    /// `DROP SPLIT [IF EXISTS] name`
    DropSplit(DropSplit),
    /// Anything DataFusion knows.
    DataFusion(Box<Statement>),
}

/// A text, parsed.
#[derive(Debug)]
pub struct Parsed {
    pub statements: Vec<MobulaStatement>,
    /// The names of its parameters (`$1`, `$name`), in the order of their numbers: in the
    /// statements all are numbers.
    pub parameters: Vec<String>,
}

/// Parses `sql` into its statements, separated by semicolons.
///
/// # Errors
/// [`PlanError::Syntax`] with the place in `sql`, and what
/// [`CREATE FUNCTION`](create_function) refuses.
pub fn parse_statements(sql: &str) -> Result<Vec<MobulaStatement>, PlanError> {
    parse(sql).map(|parsed| parsed.statements)
}

/// As [`parse_statements`], with the parameters of all of them.
///
/// # Errors
/// As [`parse_statements`], and [`PlanError::Parameter`].
pub fn parse(sql: &str) -> Result<Parsed, PlanError> {
    let text = Text { sql };
    let mut tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .map_err(|e| text.syntax(&e.to_string()))?;
    chain_limit::check(&tokens)?;
    let parameters = placeholder::number(&mut tokens)?;
    let mut df = DFParserBuilder::new(table_argument::rewrite(tokens))
        .with_recursion_limit(RECURSION_LIMIT)
        .build()
        .map_err(|e| text.refused(&e))?;
    let mut statements = Vec::new();
    loop {
        while df.parser.consume_token(&Token::SemiColon) {}
        if df.parser.peek_token_ref().token == Token::EOF {
            return Ok(Parsed {
                statements,
                parameters,
            });
        }
        statements.push(parse_statement(&mut df, &text)?);
        let next = df.parser.peek_token_ref();
        if !matches!(next.token, Token::SemiColon | Token::EOF) {
            return Err(text.unexpected("end of statement", next));
        }
    }
}

fn parse_statement(df: &mut DFParser<'_>, text: &Text<'_>) -> Result<MobulaStatement, PlanError> {
    if let Some(created) = create_split::parse(df, text) {
        return created.map(MobulaStatement::CreateSplit);
    }
    let parser = &mut df.parser;
    if let Some(dropped) = create_split::parse_drop(parser, text) {
        return dropped.map(MobulaStatement::DropSplit);
    }
    if let Some(head) = create_function::head(parser) {
        let create = create_function::parse(parser, head, text)?;
        return Ok(MobulaStatement::CreateFunction(Box::new(create)));
    }
    if let Some(head) = create_actor::head(parser) {
        let create = create_actor::parse(parser, head, text)?;
        return Ok(MobulaStatement::CreateActor(Box::new(create)));
    }
    if let Some(dropped) = create_actor::parse_drop(parser, text) {
        return dropped.map(MobulaStatement::DropActor);
    }
    if let Some(altered) = alter_pool::parse_alter(parser, text) {
        return altered.map(MobulaStatement::AlterPool);
    }
    if let Some(query) = create_actor::parse_show(parser) {
        let mut shown = DFParserBuilder::new(query.as_str())
            .build()
            .map_err(|e| text.refused(&e))?;
        let shown = shown.parse_statement().map_err(|e| text.refused(&e))?;
        return Ok(MobulaStatement::DataFusion(Box::new(shown)));
    }
    if parser.parse_keywords(&[Keyword::DROP, Keyword::FUNCTION]) {
        let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
        let name = parser
            .parse_identifier()
            .map_err(|e| text.refused(&e.into()))?;
        // `f(INT)`: PostgreSQL names overloads so; there are none here.
        if parser.consume_token(&Token::LParen) {
            while !matches!(parser.next_token().token, Token::RParen | Token::EOF) {}
        }
        return Ok(MobulaStatement::DropFunction {
            name: normalized(&name),
            if_exists,
        });
    }
    match df.parse_statement() {
        Ok(mut statement) => {
            method_call::join_names(&mut statement);
            named_windows::write_out(&mut statement)?;
            merged_keys::wrap(&mut statement);
            Ok(MobulaStatement::DataFusion(Box::new(statement)))
        }
        Err(error) => Err(text.refused(&error)),
    }
}

/// The text being parsed, for the places in errors.
pub(super) struct Text<'a> {
    sql: &'a str,
}

impl Text<'_> {
    /// The parser's error as ours.
    pub(super) fn refused(&self, error: &DataFusionError) -> PlanError {
        match error {
            DataFusionError::SQL(parser, _) => match parser.as_ref() {
                ParserError::TokenizerError(message) | ParserError::ParserError(message) => {
                    self.syntax(message)
                }
                ParserError::RecursionLimitExceeded => PlanError::SyntaxWithoutPlace {
                    message: format!("nested deeper than {RECURSION_LIMIT} levels"),
                },
            },
            DataFusionError::Diagnostic(_, inner) | DataFusionError::Context(_, inner) => {
                self.refused(inner)
            }
            other => PlanError::SyntaxWithoutPlace {
                message: one_line(&other.strip_backtrace()),
            },
        }
    }

    /// The parser's message as ours: the place moves from its end into fields.
    fn syntax(&self, message: &str) -> PlanError {
        let (message, place) = split_place(message);
        let place = place.or_else(|| message.ends_with("found: EOF").then(|| self.end()));
        let message = one_line(&message.replacen("Expected: ", "expected ", 1))
            .replace(", found: EOF", ", found the end of the text")
            .replacen("found: ", "found ", 1);
        match place {
            Some(Location { line, column }) => PlanError::Syntax {
                message,
                line,
                column,
            },
            None => PlanError::SyntaxWithoutPlace { message },
        }
    }

    /// `found` stands where `expected` should.
    pub(super) fn unexpected(&self, expected: &str, found: &TokenWithSpan) -> PlanError {
        let start = found.span.start;
        self.syntax(&format!("Expected: {expected}, found: {found}{start}"))
    }

    /// The place after the last character.
    fn end(&self) -> Location {
        let last = self.sql.trim_end().rsplit('\n').next().unwrap_or_default();
        Location {
            line: self.sql.trim_end().matches('\n').count() as u64 + 1,
            column: last.chars().count() as u64 + 1,
        }
    }
}

/// Cuts ` at Line: 1, Column: 5` off the end of `message`.
fn split_place(message: &str) -> (&str, Option<Location>) {
    let place = || {
        let at = message.rfind(" at Line: ")?;
        let (line, column) = message.get(at + 10..)?.split_once(", Column: ")?;
        let (line, column) = (line.parse().ok()?, column.trim().parse().ok()?);
        Some((at, Location { line, column }))
    };
    match place() {
        Some((at, location)) => (&message[..at], Some(location)),
        None => (message, None),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn refuses(sql: &str, expected: Expect) {
        expected.assert_eq(&parse_statements(sql).unwrap_err().to_string());
    }

    #[test]
    fn statements_are_split() {
        let statements =
            parse_statements("SELECT 1;; DROP FUNCTION IF EXISTS Net;\nSHOW TABLES;").unwrap();
        assert_eq!(statements.len(), 3);
        assert!(
            matches!(&statements[0], MobulaStatement::DataFusion(s) if s.to_string() == "SELECT 1")
        );
        assert!(
            matches!(&statements[1], MobulaStatement::DropFunction { name, if_exists: true } if name == "net")
        );
        assert!(parse_statements(" -- nothing\n").unwrap().is_empty());
    }

    #[test]
    fn queries_of_map_batches_parse() {
        for sql in [
            "SELECT * FROM map_batches(TABLE(SELECT id, text FROM docs), chunks, batch_size => 64)",
            "SELECT * FROM map_batches(TABLE(docs), embed(model => 'big'), batch_size => NULL) AS m(a, b)",
            "SELECT * FROM map_batches((SELECT * FROM t ORDER BY a), 'f') JOIN u ON a = b",
            "SELECT * FROM map_batches(TABLE(VALUES (1), (2)), f)",
            "SELECT * FROM map_batches(TABLE(WITH x AS (SELECT 1) SELECT * FROM x), f)",
            "SELECT * FROM map_batches(TABLE(FROM docs), f)",
            "CREATE TABLE x AS SELECT * FROM map_batches(TABLE(SELECT 1), f)",
            "EXPLAIN ANALYZE SELECT * FROM map_batches(TABLE(s.docs), f)",
            "COPY (SELECT * FROM map_batches(TABLE(SELECT 1), f)) TO 'x.parquet'",
            "SET mobula.udf_batch_rows = 100",
        ] {
            let parsed = parse_statements(sql);
            assert!(
                matches!(parsed.as_deref(), Ok([MobulaStatement::DataFusion(_)])),
                "{sql}: {parsed:?}"
            );
        }
    }

    #[test]
    fn errors_carry_their_place() {
        refuses(
            "SELEC 1",
            expect!["syntax error at line 1, column 1: expected an SQL statement, found SELEC"],
        );
        refuses(
            "SELECT *\nFROM t WHERE",
            expect![
                "syntax error at line 2, column 13: expected an expression, found the end of the text"
            ],
        );
        refuses(
            "SELECT 'open",
            expect!["syntax error at line 1, column 8: Unterminated string literal"],
        );
        refuses(
            "SELECT 1 SELECT 2",
            expect!["syntax error at line 1, column 10: expected end of statement, found SELECT"],
        );
        refuses(
            "SELECT * FROM f(TABLE(SELECT 1 FRM t), g)",
            expect!["syntax error at line 1, column 36: expected ), found t"],
        );
        let deep = format!("SELECT {}1{}", "(".repeat(500), ")".repeat(500));
        refuses(
            &deep,
            expect!["syntax error: nested deeper than 128 levels"],
        );
    }
}
