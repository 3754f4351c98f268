//! `CREATE ACTOR` and `DROP ACTOR`: reads them.
//!
//! ```sql
//! CREATE [OR REPLACE] ACTOR [IF NOT EXISTS] name
//!   FROM class [(argument => literal, …)] [WITH (timeout = '30s', init_timeout = '5m')]
//! DROP ACTOR [IF EXISTS] name
//! ```
//!
//! ACTOR is no keyword of the SQL crate and is told by its text. Which methods there
//! are is found later, in a worker; see `actor_methods`.

use std::time::Duration;

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use mobula_udfs::Literal;

use super::call_options::{CallOptions, literal};
use super::normalized;
use super::reader::Reader;
use super::statement::Text;
use crate::error::PlanError;

/// Options that an actor takes.
const OPTIONS: &str = "timeout and init_timeout";

/// A parsed `CREATE ACTOR`.
#[derive(Debug, PartialEq)]
pub struct CreateActor {
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub name: String,
    /// The function that is its class.
    pub class: String,
    /// Keyword arguments of the constructor.
    pub args: Vec<(String, Literal)>,
    pub timeout: Option<Duration>,
    pub init_timeout: Option<Duration>,
}

/// The words before the name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    or_replace: bool,
}

/// Consumes `CREATE [OR REPLACE] ACTOR`, or nothing.
pub(super) fn head(parser: &mut Parser<'_>) -> Option<Head> {
    use Keyword::{CREATE, OR, REPLACE};
    [&[CREATE, OR, REPLACE][..], &[CREATE]]
        .into_iter()
        .find(|words| consumed(parser, words))
        .map(|words| Head {
            or_replace: words.len() > 1,
        })
}

/// Reads what follows the head.
///
/// # Errors
/// Syntax errors with their place, and declarations that make no sense.
pub(super) fn parse(
    parser: &mut Parser<'_>,
    head: Head,
    text: &Text<'_>,
) -> Result<CreateActor, PlanError> {
    use Keyword::{EXISTS, FROM, IF, NOT, WITH};
    let mut reader = Reader { parser, text };
    let if_not_exists = reader.parser.parse_keywords(&[IF, NOT, EXISTS]);
    let schema = |name: &str| {
        refused(
            name,
            "its name must not have a schema: actors belong to all",
        )
    };
    let name = reader.name(schema)?;
    if name.is_empty() || name.contains('.') {
        let problem = "its name must have letters and no dot: one stands before its methods";
        return Err(refused(&name, problem));
    }
    if head.or_replace && if_not_exists {
        return Err(refused(
            &name,
            "OR REPLACE and IF NOT EXISTS contradict each other. Write one of them",
        ));
    }
    let from = reader.parser.expect_keyword(FROM).map(|_| ());
    reader.ok(from)?;
    let class = normalized(&reader.identifier()?);
    let args = match reader.parser.consume_token(&Token::LParen) {
        true => reader.list(|reader| argument(reader, &name))?,
        false => vec![],
    };
    if let Some((at, _)) = args.iter().enumerate().find(|(at, (arg, _))| {
        let before = &args[..*at];
        before.iter().any(|(other, _)| other == arg)
    }) {
        return Err(refused(
            &name,
            &format!("argument \"{}\" is given twice", args[at].0),
        ));
    }
    let options = match reader.parser.parse_keyword(WITH) {
        true => options(&mut reader, &name)?,
        false => CallOptions::default(),
    };
    Ok(CreateActor {
        or_replace: head.or_replace,
        if_not_exists,
        name,
        class,
        args,
        timeout: options.timeout.flatten(),
        init_timeout: options.init_timeout.flatten(),
    })
}

/// Reads a `DROP ACTOR`: the name, and whether it must exist. `None` for anything else.
///
/// # Errors
/// Syntax errors with their place.
pub(super) fn parse_drop(
    parser: &mut Parser<'_>,
    text: &Text<'_>,
) -> Option<Result<(String, bool), PlanError>> {
    if !consumed(parser, &[Keyword::DROP]) {
        return None;
    }
    let mut reader = Reader { parser, text };
    let if_exists = [Keyword::IF, Keyword::EXISTS];
    let if_exists = reader.parser.parse_keywords(&if_exists);
    Some(
        reader
            .identifier()
            .map(|name| (normalized(&name), if_exists)),
    )
}

/// Consumes `words` and ACTOR behind them, or nothing.
fn consumed(parser: &mut Parser<'_>, words: &[Keyword]) -> bool {
    let next = &parser.peek_nth_token_ref(words.len()).token;
    let is_actor = matches!(next, Token::Word(word)
        if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("actor"));
    let found = is_actor && parser.parse_keywords(words);
    if found {
        parser.advance_token();
    }
    found
}

fn argument(reader: &mut Reader<'_, '_, '_>, actor: &str) -> Result<(String, Literal), PlanError> {
    let name = normalized(&reader.identifier()?);
    reader.expect(&Token::RArrow)?;
    let value = reader.parser.parse_expr();
    let value = reader.ok(value)?;
    match literal(&value) {
        Some(value) => Ok((name, value)),
        None => {
            let problem = format!("argument \"{name}\" must be a literal, not {value}");
            Err(refused(actor, &problem))
        }
    }
}

fn options(reader: &mut Reader<'_, '_, '_>, actor: &str) -> Result<CallOptions, PlanError> {
    let owner = format!("actor \"{actor}\"");
    let mut options = CallOptions::default();
    reader.expect(&Token::LParen)?;
    reader.list(|reader| {
        let name = normalized(&reader.identifier()?);
        reader.expect(&Token::Eq)?;
        let value = reader.parser.parse_expr();
        let value = reader.ok(value)?;
        match name.as_str() {
            "timeout" | "init_timeout" => options.set(&owner, &name, &value),
            _ => {
                let problem = format!(
                    "it has no option \"{name}\". It takes {OPTIONS}; how batches are cut and handled, calls of its methods say"
                );
                Err(refused(actor, &problem))
            }
        }
    })?;
    Ok(options)
}

fn refused(actor: &str, problem: &str) -> PlanError {
    PlanError::Actor {
        actor: actor.to_owned(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::statement::{MobulaStatement, parse_statements};

    fn read(sql: &str) -> Result<MobulaStatement, String> {
        let mut all = parse_statements(sql).map_err(|error| error.to_string())?;
        Ok(all.remove(0))
    }

    fn created(sql: &str) -> CreateActor {
        match read(sql) {
            Ok(MobulaStatement::CreateActor(create)) => *create,
            other => panic!("{sql}: {other:?}"),
        }
    }

    #[test]
    fn declarations_are_read() {
        let plain = CreateActor {
            or_replace: false,
            if_not_exists: false,
            name: "a".into(),
            class: "counter".into(),
            args: vec![],
            timeout: None,
            init_timeout: None,
        };
        assert_eq!(created("create actor A from Counter"), plain);
        assert_eq!(created("CREATE ACTOR a FROM counter();"), plain);
        let whole = "CREATE OR REPLACE ACTOR \"B\" FROM counter(start => -1, name => 'x') \
                     WITH (timeout = '30s', init_timeout = NULL)";
        let expected = CreateActor {
            or_replace: true,
            name: "B".into(),
            args: vec![
                ("start".into(), Literal::Int(-1)),
                ("name".into(), Literal::Text("x".into())),
            ],
            timeout: Some(Duration::from_secs(30)),
            ..plain
        };
        assert_eq!(created(whole), expected);
        for (sql, name, if_exists) in [
            ("DROP ACTOR a", "a", false),
            ("drop actor if exists \"A b\"", "A b", true),
        ] {
            let Ok(MobulaStatement::DropActor {
                name: found,
                if_exists: may,
            }) = read(sql)
            else {
                panic!("{sql}");
            };
            assert_eq!((found.as_str(), may), (name, if_exists));
        }
        // It is no keyword.
        assert!(matches!(
            read("CREATE TABLE actor (actor INT)"),
            Ok(MobulaStatement::DataFusion(_))
        ));
        assert!(matches!(
            read("DROP TABLE actor"),
            Ok(MobulaStatement::DataFusion(_))
        ));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (sql, expected) in [
            (
                "CREATE ACTOR s.a FROM c",
                "cannot create actor \"s.a\": its name must not have a schema",
            ),
            (
                "CREATE ACTOR \"\" FROM c",
                "cannot create actor \"\": its name must have letters and no dot",
            ),
            (
                "CREATE ACTOR \"a.b\" FROM c",
                "cannot create actor \"a.b\": its name must have letters and no dot",
            ),
            (
                "CREATE OR REPLACE ACTOR IF NOT EXISTS a FROM c",
                "cannot create actor \"a\": OR REPLACE and IF NOT EXISTS contradict each other",
            ),
            (
                "CREATE ACTOR a FROM c(n => 1, n => 2)",
                "cannot create actor \"a\": argument \"n\" is given twice",
            ),
            (
                "CREATE ACTOR a FROM c(n => x)",
                "cannot create actor \"a\": argument \"n\" must be a literal, not x",
            ),
            (
                "CREATE ACTOR a FROM c(1)",
                "syntax error at line 1, column 23: expected identifier, found 1",
            ),
            (
                "CREATE ACTOR a",
                "syntax error at line 1, column 15: expected FROM, found the end of the text",
            ),
            (
                "CREATE ACTOR a FROM c WITH (batch_size = 3)",
                "cannot create actor \"a\": it has no option \"batch_size\". It takes timeout and init_timeout",
            ),
            (
                "CREATE ACTOR a FROM c WITH (timeout = 0)",
                "invalid value 0 for option \"timeout\" of actor \"a\"",
            ),
            (
                "CREATE ACTOR a FROM c WITH (timeout = 1, timeout = 2)",
                "option \"timeout\" of actor \"a\" is given twice",
            ),
            ("DROP ACTOR", "syntax error at line 1, column 11"),
        ] {
            let error = read(sql).unwrap_err();
            assert!(error.starts_with(expected), "{sql}: {error}");
        }
    }
}
