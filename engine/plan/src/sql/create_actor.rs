//! `CREATE ACTOR` and `DROP ACTOR`: reads them.
//!
//! ```sql
//! CREATE [OR REPLACE] ACTOR [POOL] [IF NOT EXISTS] name
//!   FROM class [(argument => literal, …)]
//!   [WITH (timeout = '30s', init_timeout = '5m', num_gpus = 1, …)]
//! DROP ACTOR [POOL] [IF EXISTS] name
//! SHOW ACTORS, SHOW ACTOR POOLS
//! ```
//!
//! A pool also takes `min`, `max` and `idle_ttl` (`pool_options`). ACTOR, POOL and so on are no keywords of
//! the SQL crate and are told by their text. Which methods there
//! are is found later, in a worker; see `actor_methods`.

use std::time::Duration;

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use mobula_udfs::{Literal, PoolBounds};

use super::call_options::{CallOptions, literal};
use super::demand_options::{DemandOptions, NAMES};
use super::literal::no_literal;
use super::normalized;
use super::pool_options::{POOL_OPTIONS, PoolOptions};
use super::reader::Reader;
use super::statement::Text;
use crate::error::PlanError;

/// Options that an actor takes; a pool takes others besides.
const OPTIONS: &str =
    "timeout, init_timeout, num_cpus, num_gpus, memory, resources and label_selector";

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
    /// What its process asks for, over what the class does.
    pub demand: DemandOptions,
    /// `None`: it is one.
    pub pool: Option<PoolBounds>,
}

/// A parsed `DROP ACTOR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropActor {
    pub name: String,
    pub if_exists: bool,
    pub is_pool: bool,
}

/// The words before the name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    or_replace: bool,
    is_pool: bool,
}

/// Consumes `CREATE [OR REPLACE] ACTOR`, or nothing.
pub(super) fn head(parser: &mut Parser<'_>) -> Option<Head> {
    use Keyword::{CREATE, OR, REPLACE};
    [&[CREATE, OR, REPLACE][..], &[CREATE]]
        .into_iter()
        .find(|words| consumed(parser, words))
        .map(|words| Head {
            or_replace: words.len() > 1,
            is_pool: consumed_pool(parser),
        })
}

/// Consumes POOL where a word follows, as its name does: an actor called so is written in quotes.
pub(super) fn consumed_pool(parser: &mut Parser<'_>) -> bool {
    let is_pool = word_is(&parser.peek_token_ref().token, "pool");
    let found = is_pool && matches!(&parser.peek_nth_token_ref(1).token, Token::Word(_));
    if found {
        parser.advance_token();
    }
    found
}

pub(super) fn word_is(token: &Token, text: &str) -> bool {
    matches!(token, Token::Word(word)
        if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text))
}

/// Consumes `SHOW ACTORS [LIKE pattern]` or `SHOW ACTOR POOLS [LIKE pattern]`; the query that
/// it stands for.
pub(super) fn parse_show(parser: &mut Parser<'_>) -> Option<String> {
    let first = &parser.peek_nth_token_ref(1).token;
    let (words, table) = if word_is(first, "actors") {
        (1, "system.actors")
    } else if word_is(first, "actor") && word_is(&parser.peek_nth_token_ref(2).token, "pools") {
        (2, "system.actor_pools")
    } else {
        return None;
    };
    if !parser.parse_keyword(Keyword::SHOW) {
        return None;
    }
    (0..words).for_each(|_| parser.advance_token());
    let is_like = matches!(&parser.peek_token_ref().token,
        Token::Word(word) if word.keyword == Keyword::LIKE);
    let filter = match &parser.peek_nth_token_ref(1).token {
        Token::SingleQuotedString(pattern) if is_like => {
            format!(" WHERE name LIKE '{}'", pattern.replace('\'', "''"))
        }
        // What stands here is no part of this statement, as its reader says.
        _ => String::new(),
    };
    if !filter.is_empty() {
        (0..2).for_each(|_| parser.advance_token());
    }
    Some(format!("SELECT * FROM {table}{filter} ORDER BY name"))
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
    if head.is_pool
        && matches!(&parser.peek_token_ref().token, Token::Word(word) if word.keyword == FROM)
    {
        return Err(text.unexpected("the name of the pool", parser.peek_token_ref()));
    }
    let refused = |name: &str, problem: &str| refused(head.is_pool, name, problem);
    let mut reader = Reader { parser, text };
    let if_not_exists = reader.parser.parse_keywords(&[IF, NOT, EXISTS]);
    let schema = |name: &str| {
        refused(
            name,
            "its name must not have a schema: actors and pools belong to all",
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
        true => reader.list(|reader| argument(reader, &name, head.is_pool))?,
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
        true => options(&mut reader, &name, head.is_pool)?,
        false => Options::default(),
    };
    let pool = match head.is_pool {
        true => Some(options.pool.bounds().map_err(|e| refused(&name, &e))?),
        false => None,
    };
    let options = options.call;
    Ok(CreateActor {
        or_replace: head.or_replace,
        if_not_exists,
        name,
        class,
        args,
        timeout: options.timeout.flatten(),
        init_timeout: options.init_timeout.flatten(),
        demand: options.demand,
        pool,
    })
}

/// Reads a `DROP ACTOR`. `None` for anything else.
///
/// # Errors
/// Syntax errors with their place.
pub(super) fn parse_drop(
    parser: &mut Parser<'_>,
    text: &Text<'_>,
) -> Option<Result<DropActor, PlanError>> {
    if !consumed(parser, &[Keyword::DROP]) {
        return None;
    }
    let is_pool = consumed_pool(parser);
    let mut reader = Reader { parser, text };
    let if_exists = [Keyword::IF, Keyword::EXISTS];
    let if_exists = reader.parser.parse_keywords(&if_exists);
    Some(reader.identifier().map(|name| DropActor {
        name: normalized(&name),
        if_exists,
        is_pool,
    }))
}

/// Consumes `words` and ACTOR behind them, or nothing.
pub(super) fn consumed(parser: &mut Parser<'_>, words: &[Keyword]) -> bool {
    let next = &parser.peek_nth_token_ref(words.len()).token;
    let is_actor = word_is(next, "actor");
    let found = is_actor && parser.parse_keywords(words);
    if found {
        parser.advance_token();
    }
    found
}

fn argument(
    reader: &mut Reader<'_, '_, '_>,
    actor: &str,
    is_pool: bool,
) -> Result<(String, Literal), PlanError> {
    let name = normalized(&reader.identifier()?);
    reader.expect(&Token::RArrow)?;
    let value = reader.parser.parse_expr();
    let value = reader.ok(value)?;
    match literal(&value) {
        Some(value) => Ok((name, value)),
        None => {
            let problem = format!("argument \"{name}\" {}", no_literal(&value));
            Err(refused(is_pool, actor, &problem))
        }
    }
}

/// As written after WITH.
#[derive(Debug, Default)]
struct Options {
    call: CallOptions,
    pool: PoolOptions,
}

fn options(
    reader: &mut Reader<'_, '_, '_>,
    actor: &str,
    is_pool: bool,
) -> Result<Options, PlanError> {
    let owner = match is_pool {
        true => format!("actor pool \"{actor}\""),
        false => format!("actor \"{actor}\""),
    };
    let refused = |problem: &str| refused(is_pool, actor, problem);
    let mut options = Options::default();
    reader.expect(&Token::LParen)?;
    reader.list(|reader| {
        let name = normalized(&reader.identifier()?);
        reader.expect(&Token::Eq)?;
        let value = reader.parser.parse_expr();
        let value = reader.ok(value)?;
        if is_pool {
            let set = options.pool.set(&name, &value);
            if set.map_err(|problem| refused(&problem))? {
                return Ok(());
            }
        }
        match name.as_str() {
            "timeout" | "init_timeout" => options.call.set(&owner, &name, &value),
            name if NAMES.contains(&name) => options.call.set(&owner, name, &value),
            _ => {
                let taken = match is_pool {
                    true => format!("{POOL_OPTIONS}, {OPTIONS}"),
                    false => OPTIONS.to_owned(),
                };
                let problem = format!(
                    "it has no option \"{name}\". It takes {taken}; how batches are cut and handled, calls of its methods say"
                );
                Err(refused(&problem))
            }
        }
    })?;
    Ok(options)
}

fn refused(is_pool: bool, name: &str, problem: &str) -> PlanError {
    PlanError::new_actor(name, is_pool, problem.to_owned())
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
            demand: DemandOptions::default(),
            pool: None,
        };
        assert_eq!(created("create actor A from Counter"), plain);
        assert_eq!(created("CREATE ACTOR a FROM counter();"), plain);
        let whole = "CREATE OR REPLACE ACTOR \"B\" FROM counter(start => -9223372036854775808, name => 'x') \
                     WITH (timeout = '30s', init_timeout = NULL)";
        let expected = CreateActor {
            or_replace: true,
            name: "B".into(),
            args: vec![
                ("start".into(), Literal::Int(i64::MIN)),
                ("name".into(), Literal::Text("x".into())),
            ],
            timeout: Some(Duration::from_secs(30)),
            ..plain
        };
        assert_eq!(created(whole), expected);
        for (sql, name, if_exists, is_pool) in [
            ("DROP ACTOR a", "a", false, false),
            ("drop actor if exists \"A b\"", "A b", true, false),
            ("drop actor pool", "pool", false, false),
            ("drop actor pool p", "p", false, true),
            ("DROP ACTOR POOL IF EXISTS p", "p", true, true),
        ] {
            let Ok(MobulaStatement::DropActor(found)) = read(sql) else {
                panic!("{sql}");
            };
            let expected = DropActor {
                name: name.into(),
                if_exists,
                is_pool,
            };
            assert_eq!(found, expected, "{sql}");
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
    fn pools_have_bounds_and_ask_for_resources() {
        assert_eq!(created("CREATE ACTOR \"pool\" FROM c").name, "pool");
        let plain = created("create actor pool P from c");
        let bounds = |min, max, idle_ttl: Option<u64>| PoolBounds {
            min,
            max,
            idle_ttl: idle_ttl.map(Duration::from_secs),
        };
        let one = bounds(1, 1, None);
        assert_eq!((plain.name.as_str(), plain.pool), ("p", Some(one)));
        let whole = created(
            "CREATE OR REPLACE ACTOR POOL p FROM c(n => 1) WITH (min = 2, max = 4, idle_ttl = '5s', num_gpus = 0.5, timeout = '1s')",
        );
        let whole_bounds = Some(bounds(2, 4, Some(5)));
        assert_eq!((whole.or_replace, whole.pool), (true, whole_bounds));
        let demand = whole.demand.over(&mobula_udfs::Demand::default());
        assert_eq!(demand.to_string(), "0.5 GPU");
        for (sql, query) in [
            ("SHOW ACTORS", "system.actors"),
            ("show actor pools", "system.actor_pools"),
            ("SHOW ACTORS LIKE 'a%'", "system.actors"),
            ("show actor pools like 'it''s%'", "system.actor_pools"),
        ] {
            let shown = format!("{:?}", read(sql).unwrap());
            let schema = query.rsplit_once('.').unwrap().1;
            assert!(shown.contains(&format!("\"{schema}\"")), "{shown}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (sql, expected) in [
            (
                "CREATE ACTOR s.a FROM c",
                "cannot create actor \"s.a\": its name must not have a schema",
            ),
            (
                "CREATE ACTOR POOL FROM c",
                "syntax error at line 1, column 19: expected the name of the pool, found FROM",
            ),
            (
                "SHOW ACTORS LIKE a",
                "syntax error at line 1, column 13: expected end of statement, found LIKE",
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
                "CREATE ACTOR a FROM c(n => -9223372036854775809)",
                "cannot create actor \"a\": argument \"n\" is beyond BIGINT: -9223372036854775809. Write it as text",
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
                "cannot create actor \"a\": it has no option \"batch_size\". It takes timeout, init_timeout",
            ),
            (
                "CREATE ACTOR a FROM c WITH (min = 3)",
                "cannot create actor \"a\": it has no option \"min\". It takes timeout, init_timeout, num_cpus",
            ),
            (
                "CREATE ACTOR POOL p FROM c WITH (min = 3, max = 2)",
                "cannot create actor pool \"p\": its max, 2, is below its min, 3",
            ),
            (
                "CREATE ACTOR POOL p FROM c WITH (min = 0)",
                "cannot create actor pool \"p\": option \"min\" is 0, but must be a number from 1 to 1024",
            ),
            (
                "CREATE ACTOR POOL p FROM c WITH (min = 1, min = 1)",
                "cannot create actor pool \"p\": option \"min\" is given twice",
            ),
            (
                "CREATE ACTOR POOL p FROM c WITH (size = 1)",
                "cannot create actor pool \"p\": it has no option \"size\". It takes min, max, idle_ttl, timeout",
            ),
            (
                "CREATE ACTOR a FROM c WITH (num_gpus = 1.5)",
                "invalid value 1.5 for option \"num_gpus\" of actor \"a\"",
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
