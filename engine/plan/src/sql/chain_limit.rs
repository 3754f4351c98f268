//! Refuses statements whose parsed form would be too deep for a stack.
//!
//! The parser bounds nesting by parentheses, but `1 + 1 + 1 + …` nests without
//! any: each operator is a level of the tree, and planning it, even dropping it,
//! recurses. What ends a thread's stack ends the process, so such chains are
//! counted before parsing, on tokens: those since the last comma or clause, over
//! all parentheses open. Values, columns and conditions in lists are no chain.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::error::PlanError;

/// Tokens of one expression, those of the expressions around it included; two
/// or more make a level. A stack of 32 MiB, which our threads have, holds four
/// times as many levels.
const CHAIN_TOKENS: usize = 10_000;
/// Parameters of one sum or the like. Their types are found by looking at all of it for
/// each, and again for each part.
const CHAIN_PARAMETERS: usize = 256;
/// Joins, or set operations, of one query and the queries around it. Planning
/// time grows with their square.
const CHAIN_QUERIES: usize = 1000;
/// Queries in one statement: each may read from the one before.
const SELECTS: usize = 2000;

/// Words that begin an expression of its own.
const BEGINS_EXPRESSION: &[Keyword] = &[
    Keyword::SELECT,
    Keyword::FROM,
    Keyword::WHERE,
    Keyword::GROUP,
    Keyword::HAVING,
    Keyword::ORDER,
    Keyword::ON,
    Keyword::WHEN,
    Keyword::THEN,
    Keyword::ELSE,
    Keyword::VALUES,
    Keyword::JOIN,
];
/// Words between two sums of one expression.
const ENDS_SUM: &[Keyword] = &[Keyword::AND, Keyword::OR, Keyword::LIKE];
const CHAINS_QUERIES: &[Keyword] = &[
    Keyword::UNION,
    Keyword::EXCEPT,
    Keyword::INTERSECT,
    Keyword::JOIN,
];

/// What one level of parentheses has so far.
#[derive(Debug, Clone, Copy, Default)]
struct Level {
    tokens: usize,
    parameters: usize,
    queries: usize,
}

/// Fails for a chain longer than the limits above.
///
/// # Errors
/// [`PlanError::SyntaxWithoutPlace`].
pub(super) fn check(tokens: &[TokenWithSpan]) -> Result<(), PlanError> {
    let (mut outer, mut level) = (Vec::new(), Level::default());
    let (mut chained, mut parameters, mut queries, mut selects) = (0, 0, 0, 0);
    for token in tokens {
        let mut counts = true;
        match &token.token {
            Token::Whitespace(_) => counts = false,
            // One too many is the parser's to refuse.
            Token::RParen | Token::RBracket | Token::RBrace => {
                if let Some(around) = outer.pop() {
                    let closed = std::mem::replace(&mut level, around);
                    chained -= closed.tokens;
                    parameters -= closed.parameters;
                    queries -= closed.queries;
                }
                counts = false;
            }
            Token::Comma | Token::SemiColon => {
                chained -= std::mem::take(&mut level.tokens);
                parameters -= std::mem::take(&mut level.parameters);
                counts = false;
            }
            Token::Placeholder(_) => {
                level.parameters += 1;
                parameters += 1;
            }
            Token::Eq | Token::Neq | Token::Lt | Token::Gt | Token::LtEq | Token::GtEq => {
                parameters -= std::mem::take(&mut level.parameters);
            }
            Token::Word(word) => {
                if CHAINS_QUERIES.contains(&word.keyword) {
                    level.queries += 1;
                    queries += 1;
                }
                selects += usize::from(word.keyword == Keyword::SELECT);
                if ENDS_SUM.contains(&word.keyword) || BEGINS_EXPRESSION.contains(&word.keyword) {
                    parameters -= std::mem::take(&mut level.parameters);
                }
                if BEGINS_EXPRESSION.contains(&word.keyword) {
                    chained -= std::mem::take(&mut level.tokens);
                    counts = false;
                }
            }
            _ => {}
        }
        if counts {
            level.tokens += 1;
            chained += 1;
        }
        if matches!(token.token, Token::SemiColon) {
            queries -= std::mem::take(&mut level.queries);
            selects = 0;
        }
        if matches!(token.token, Token::LParen | Token::LBracket | Token::LBrace) {
            outer.push(std::mem::take(&mut level));
        }
        if chained > CHAIN_TOKENS {
            return Err(too_long(format!(
                "an expression is a chain of more than {CHAIN_TOKENS} words and signs. Use a list, as in x IN (1, 2, 3), or put parts of it into subqueries"
            )));
        }
        if parameters > CHAIN_PARAMETERS {
            return Err(too_long(format!(
                "an expression has more than {CHAIN_PARAMETERS} parameters in a chain. Use a list, as in x IN (?, ?, ?), a subquery over VALUES, or put parts of it into subqueries"
            )));
        }
        if queries > CHAIN_QUERIES {
            return Err(too_long(format!(
                "more than {CHAIN_QUERIES} joins or set operations in one query. Put parts of it into tables, or use VALUES"
            )));
        }
        if selects > SELECTS {
            return Err(too_long(format!(
                "more than {SELECTS} queries in one statement. Put parts of it into tables or views"
            )));
        }
    }
    Ok(())
}

fn too_long(message: String) -> PlanError {
    PlanError::SyntaxWithoutPlace { message }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    use super::*;

    fn checked(sql: &str) -> Result<(), String> {
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location();
        check(&tokens.unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn chains_are_bounded_and_lists_are_not() {
        let many = |part: &str, separator: &str, n: usize| vec![part; n].join(separator);
        for fine in [
            format!("SELECT {}", many("1", " + ", 4900)),
            format!("SELECT {}", many("a + b", ", ", 50_000)),
            format!("SELECT a IN ({})", many("1", ",", 50_000)),
            format!("INSERT INTO t VALUES {}", many("(1, 'x')", ", ", 50_000)),
            format!("SELECT CASE {} END", many("WHEN a = 1 THEN 2", " ", 5000)),
            format!("SELECT a IN ({})", many("$1", ",", 5000)),
            format!("SELECT {}", many("a = ? AND b < ?", " OR ", 900)),
            format!("SELECT {}", many("(a + ? = ?)", " OR ", 900)),
            many("SELECT 1 + 1", "; ", 5000),
            many("SELECT 1", " UNION ALL ", 900),
            ")))".to_owned(),
        ] {
            assert_eq!(checked(&fine), Ok(()), "{}", &fine[..40.min(fine.len())]);
        }
        for (deep, named) in [
            (format!("SELECT {}", many("1", " + ", 20_000)), "chain"),
            (format!("SELECT 1{}", "::int".repeat(6000)), "chain"),
            (format!("SELECT a{}", "[1]".repeat(11_000)), "chain"),
            (
                format!("SELECT {}", many("1", " + (1 + ", 6000) + &")".repeat(6000)),
                "chain",
            ),
            (format!("SELECT {}", many("?", " + ", 300)), "parameters"),
            (
                format!("SELECT ?{}{}", " * (? + ".repeat(300), ")".repeat(300)),
                "parameters",
            ),
            (many("SELECT 1", " UNION ALL ", 1500), "set operations"),
            (many("(SELECT 1)", ", ", 3000), "queries"),
            (
                format!("SELECT * FROM {}", many("t", " JOIN ", 1200)),
                "joins",
            ),
        ] {
            let refused = checked(&deep).unwrap_err();
            assert!(refused.contains(named), "{refused}");
        }
    }
}
