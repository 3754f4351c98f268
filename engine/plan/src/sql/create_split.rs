//! `CREATE SPLIT`: reads it.
//!
//! ```sql
//! CREATE SPLIT name WITH (readers = 4 [, equal = true]) AS SELECT …
//! DROP SPLIT [IF EXISTS] name
//! ```
//!
//! The query's rows are dealt out to so many readers, each of which has its own
//! `read_split('name', reader)`.

use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use mobula_udfs::Literal;

use super::create_actor::word_is;
use super::literal::literal;
use super::reader::Reader;
use super::statement::Text;
use super::{merged_keys, method_call, named_windows, normalized};
use crate::error::PlanError;

/// Most readers of a split.
const READERS_MAX: i64 = 1024;
const OPTIONS: &str = "readers and equal";

/// A parsed `CREATE SPLIT`.
#[derive(Debug)]
pub struct CreateSplit {
    pub name: String,
    /// At least 1.
    pub readers: usize,
    /// Whether all of them get as many rows.
    pub is_equal: bool,
    pub query: Box<Statement>,
}

/// A parsed `DROP SPLIT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropSplit {
    pub name: String,
    pub if_exists: bool,
}

/// Reads a `CREATE SPLIT`. `None` for anything else.
///
/// # Errors
/// Syntax errors with their place, and options that make no sense.
pub(super) fn parse(
    df: &mut DFParser<'_>,
    text: &Text<'_>,
) -> Option<Result<CreateSplit, PlanError>> {
    consumed(&mut df.parser, Keyword::CREATE).then(|| create(df, text))
}

/// Reads a `DROP SPLIT`. `None` for anything else.
///
/// # Errors
/// Syntax errors with their place.
pub(super) fn parse_drop(
    parser: &mut Parser<'_>,
    text: &Text<'_>,
) -> Option<Result<DropSplit, PlanError>> {
    if !consumed(parser, Keyword::DROP) {
        return None;
    }
    let mut reader = Reader { parser, text };
    let if_exists = [Keyword::IF, Keyword::EXISTS];
    let if_exists = reader.parser.parse_keywords(&if_exists);
    Some(reader.identifier().map(|name| DropSplit {
        name: normalized(&name),
        if_exists,
    }))
}

/// Consumes `word` and SPLIT behind it, where a name follows, or nothing.
fn consumed(parser: &mut Parser<'_>, word: Keyword) -> bool {
    let is_split = word_is(&parser.peek_nth_token_ref(1).token, "split");
    let found = is_split && parser.parse_keyword(word);
    if found {
        parser.advance_token();
    }
    found
}

fn create(df: &mut DFParser<'_>, text: &Text<'_>) -> Result<CreateSplit, PlanError> {
    let mut reader = Reader {
        parser: &mut df.parser,
        text,
    };
    let name = normalized(&reader.identifier()?);
    let (mut readers, mut is_equal) = (None, None);
    let with = reader.parser.expect_keyword(Keyword::WITH).map(|_| ());
    reader.ok(with)?;
    reader.expect(&Token::LParen)?;
    reader.list(|reader| {
        let option = normalized(&reader.identifier()?);
        reader.expect(&Token::Eq)?;
        let value = reader.parser.parse_expr();
        let value = reader.ok(value)?;
        let is_again = match option.as_str() {
            "readers" => readers.replace(count(&name, &value)?).is_some(),
            "equal" => is_equal.replace(flag(&name, &value)?).is_some(),
            _ => {
                let problem = format!("it has no option \"{option}\". There are {OPTIONS}");
                return Err(refused(&name, problem));
            }
        };
        match is_again {
            true => Err(refused(&name, format!("it is given \"{option}\" twice"))),
            false => Ok(()),
        }
    })?;
    let Some(readers) = readers else {
        let problem = "how many read it is not said. Write WITH (readers = 2)".to_owned();
        return Err(refused(&name, problem));
    };
    let as_query = reader.parser.expect_keyword(Keyword::AS).map(|_| ());
    reader.ok(as_query)?;
    let mut query = df.parse_statement().map_err(|error| text.refused(&error))?;
    method_call::join_names(&mut query);
    named_windows::write_out(&mut query)?;
    merged_keys::wrap(&mut query);
    Ok(CreateSplit {
        name,
        readers,
        is_equal: is_equal.unwrap_or_default(),
        query: Box::new(query),
    })
}

fn count(name: &str, value: &Expr) -> Result<usize, PlanError> {
    let found = match literal(value) {
        Some(Literal::Int(n)) if (1..=READERS_MAX).contains(&n) => usize::try_from(n).ok(),
        _ => None,
    };
    found.ok_or_else(|| {
        let problem = format!("readers = {value}. Give a number from 1 to {READERS_MAX}");
        refused(name, problem)
    })
}

fn flag(name: &str, value: &Expr) -> Result<bool, PlanError> {
    match literal(value) {
        Some(Literal::Bool(flag)) => Ok(flag),
        _ => Err(refused(
            name,
            format!("equal = {value}. Give true or false"),
        )),
    }
}

fn refused(split: &str, problem: String) -> PlanError {
    PlanError::Split {
        split: split.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use crate::sql::statement::{MobulaStatement, parse_statements};

    fn read(sql: &str) -> Result<MobulaStatement, String> {
        let mut all = parse_statements(sql).map_err(|error| error.to_string())?;
        Ok(all.remove(0))
    }

    #[test]
    fn it_is_read() {
        let sql = "CREATE SPLIT S WITH (readers = 2, equal = TRUE) AS SELECT 1; SELECT 2";
        let MobulaStatement::CreateSplit(create) = read(sql).unwrap() else {
            panic!("{sql}");
        };
        assert_eq!(
            (create.name.as_str(), create.readers, create.is_equal),
            ("s", 2, true)
        );
        assert_eq!(create.query.to_string(), "SELECT 1");
        let MobulaStatement::DropSplit(drop) = read("drop split if exists \"S\"").unwrap() else {
            panic!("it is a DROP SPLIT");
        };
        assert_eq!((drop.name.as_str(), drop.if_exists), ("S", true));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (sql, expected) in [
            (
                "CREATE SPLIT s AS SELECT 1",
                "syntax error at line 1, column 16: expected WITH, found AS",
            ),
            (
                "CREATE SPLIT s WITH (equal = true) AS SELECT 1",
                "cannot create split \"s\": how many read it is not said. Write WITH (readers = 2)",
            ),
            (
                "CREATE SPLIT s WITH (readers = 0) AS SELECT 1",
                "cannot create split \"s\": readers = 0. Give a number from 1 to 1024",
            ),
            (
                "CREATE SPLIT s WITH (readers = 2, Readers = 2) AS SELECT 1",
                "cannot create split \"s\": it is given \"readers\" twice",
            ),
            (
                "CREATE SPLIT s WITH (readers = 2, equal = 1) AS SELECT 1",
                "cannot create split \"s\": equal = 1. Give true or false",
            ),
            (
                "CREATE SPLIT s WITH (n = 2) AS SELECT 1",
                "cannot create split \"s\": it has no option \"n\". There are readers and equal",
            ),
        ] {
            assert_eq!(read(sql).unwrap_err(), expected, "{sql}");
        }
    }
}
