//! `ALTER ACTOR POOL`: reads it.
//!
//! ```sql
//! ALTER ACTOR POOL [IF EXISTS] name SET (min = 2, max = 8, idle_ttl = '1m')
//! ```
//!
//! What is not said stays as it is. The pool follows at once: it grows to its new `min` as
//! soon as there is room, and ends what is above its new `max`.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::create_actor::{consumed, consumed_pool};
use super::normalized;
use super::pool_options::{POOL_OPTIONS, PoolOptions};
use super::reader::Reader;
use super::statement::Text;
use crate::error::PlanError;

/// A parsed `ALTER ACTOR POOL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterPool {
    pub name: String,
    pub if_exists: bool,
    pub options: PoolOptions,
}

/// Reads an `ALTER ACTOR POOL`. `None` for anything else.
///
/// # Errors
/// Syntax errors with their place, and options that make no sense.
pub(super) fn parse_alter(
    parser: &mut Parser<'_>,
    text: &Text<'_>,
) -> Option<Result<AlterPool, PlanError>> {
    consumed(parser, &[Keyword::ALTER]).then(|| alter(parser, text))
}

fn alter(parser: &mut Parser<'_>, text: &Text<'_>) -> Result<AlterPool, PlanError> {
    use Keyword::{EXISTS, IF, SET};
    if !consumed_pool(parser) {
        return Err(text.unexpected("POOL and its name", parser.peek_token_ref()));
    }
    let mut reader = Reader { parser, text };
    let if_exists = reader.parser.parse_keywords(&[IF, EXISTS]);
    let name = normalized(&reader.identifier()?);
    let set = reader.parser.expect_keyword(SET).map(|_| ());
    reader.ok(set)?;
    reader.expect(&Token::LParen)?;
    let mut options = PoolOptions::default();
    reader.list(|reader| {
        let option = normalized(&reader.identifier()?);
        reader.expect(&Token::Eq)?;
        let value = reader.parser.parse_expr();
        let value = reader.ok(value)?;
        match options.set(&option, &value) {
            Ok(true) => Ok(()),
            Ok(false) => Err(refused(
                &name,
                format!(
                    "it has no option \"{option}\" that can be changed. Those are {POOL_OPTIONS}; for others, CREATE OR REPLACE it"
                ),
            )),
            Err(problem) => Err(refused(&name, problem)),
        }
    })?;
    if options == PoolOptions::default() {
        let problem = format!("nothing is said to change. Say one of {POOL_OPTIONS}");
        return Err(refused(&name, problem));
    }
    Ok(AlterPool {
        name,
        if_exists,
        options,
    })
}

fn refused(pool: &str, problem: String) -> PlanError {
    PlanError::ActorPool {
        pool: pool.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mobula_udfs::PoolBounds;

    use super::*;
    use crate::sql::statement::{MobulaStatement, parse_statements};

    fn read(sql: &str) -> Result<AlterPool, String> {
        let mut all = parse_statements(sql).map_err(|error| error.to_string())?;
        match all.remove(0) {
            MobulaStatement::AlterPool(alter) => Ok(alter),
            other => panic!("{sql}: {other:?}"),
        }
    }

    #[test]
    fn what_is_said_changes_and_the_rest_stays() {
        let bounds = PoolBounds {
            min: 1,
            max: 4,
            idle_ttl: Some(Duration::from_secs(5)),
        };
        let changed = |sql: &str| read(sql).unwrap().options.over(bounds);
        let smaller = PoolBounds { max: 2, ..bounds };
        assert_eq!(changed("alter actor pool p set (max = 2);"), Ok(smaller));
        let other = PoolBounds {
            min: 2,
            max: 8,
            idle_ttl: None,
        };
        let all = "ALTER ACTOR POOL IF EXISTS P SET (min = 2, idle_ttl = NULL, max = 8)";
        assert_eq!(changed(all), Ok(other));
        let read = read(all).unwrap();
        assert_eq!((read.name.as_str(), read.if_exists), ("p", true));
        for (text, ttl) in [("'0'", 0), ("1.5", 1500), ("'20ms'", 20), ("2", 2000)] {
            let found = changed(&format!("ALTER ACTOR POOL p SET (idle_ttl = {text})"));
            let ttl = Some(Duration::from_millis(ttl));
            assert_eq!(found.unwrap().idle_ttl, ttl, "{text}");
        }
        assert_eq!(
            changed("ALTER ACTOR POOL p SET (min = 5)"),
            Err("its max, 4, is below its min, 5".to_owned())
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (sql, expected) in [
            (
                "ALTER ACTOR a SET (max = 2)",
                "syntax error at line 1, column 13: expected POOL and its name, found a",
            ),
            (
                "ALTER ACTOR POOL p (max = 2)",
                "syntax error at line 1, column 20: expected SET, found (",
            ),
            (
                "ALTER ACTOR POOL p SET ()",
                "cannot alter actor pool \"p\": nothing is said to change. Say one of min, max, idle_ttl",
            ),
            (
                "ALTER ACTOR POOL p SET (idle_ttl = 99999999999)",
                "cannot alter actor pool \"p\": option \"idle_ttl\" is 99999999999, but must be a time of at most a day",
            ),
            (
                "ALTER ACTOR POOL p SET (max = 0)",
                "cannot alter actor pool \"p\": option \"max\" is 0, but must be a number from 1 to 1024",
            ),
            (
                "ALTER ACTOR POOL p SET (idle_ttl = 'x')",
                "cannot alter actor pool \"p\": option \"idle_ttl\" is 'x', but must be a time of at most a day, as in",
            ),
            (
                "ALTER ACTOR POOL p SET (min = 1, min = 2)",
                "cannot alter actor pool \"p\": option \"min\" is given twice",
            ),
            (
                "ALTER ACTOR POOL p SET (num_gpus = 1)",
                "cannot alter actor pool \"p\": it has no option \"num_gpus\" that can be changed. Those are min, max, idle_ttl;",
            ),
        ] {
            let error = read(sql).unwrap_err();
            assert!(error.starts_with(expected), "{sql}: {error}");
        }
    }
}
