//! `f(TABLE(SELECT …))`: makes it parse.
//!
//! The parser knows `f((SELECT …))` but not the standard's word TABLE around a
//! query argument, and takes `TABLE(name)` for a call, whose argument DataFusion
//! would not look up. Before parsing, tokens are rewritten:
//!
//! ```text
//! f(TABLE(SELECT …))   →  f((SELECT …))                   also WITH and (
//! f(TABLE(VALUES …))   →  f((SELECT * FROM (VALUES …)))   also FROM
//! f(TABLE(s.name))     →  f((SELECT * FROM s.name))
//! ```
//!
//! Only directly inside the parentheses of a call, so `CREATE TABLE (` and
//! `RETURNS TABLE(` stay as they are. New tokens keep the
//! place of the old ones, so error messages still point into the user's text.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

/// Words before `(` that do not make it a call.
const NO_CALL: &[Keyword] = &[
    Keyword::TABLE,
    Keyword::VALUES,
    Keyword::IN,
    Keyword::AS,
    Keyword::FROM,
    Keyword::JOIN,
    Keyword::ON,
    Keyword::USING,
    Keyword::WHERE,
    Keyword::AND,
    Keyword::OR,
    Keyword::NOT,
    Keyword::SELECT,
    Keyword::EXISTS,
    Keyword::OVER,
    Keyword::WITH,
    Keyword::OPTIONS,
];

/// What an open parenthesis belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Paren {
    Call,
    Other,
    /// Opened by a rewritten `TABLE(` that needs a second one closed.
    Doubled,
}

/// What a `TABLE(…)` argument holds.
#[derive(Clone, Copy, PartialEq)]
enum Held {
    /// A query that may stand in parentheses by itself.
    Query,
    /// A query that may not.
    Rows,
    Name,
}

/// Rewrites `TABLE(…)` arguments of calls in `tokens`.
pub(super) fn rewrite(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    if !tokens.iter().any(|t| is_word(&t.token, Keyword::TABLE)) {
        return tokens;
    }
    let mut out = Vec::with_capacity(tokens.len() + 8);
    let mut open: Vec<Paren> = Vec::new();
    let mut last = Token::SemiColon;
    let mut held = None;
    for (i, token) in tokens.iter().enumerate() {
        match &token.token {
            Token::Whitespace(_) => {}
            Token::Word(_) if is_argument(token, &last, open.last()) => {
                held = held_by(&tokens, i);
                if held.is_some() {
                    continue;
                }
            }
            Token::LParen => match held.take() {
                Some(Held::Rows) => {
                    open.push(Paren::Doubled);
                    out.extend(select_from(token));
                }
                Some(Held::Name) => {
                    open.push(Paren::Other);
                    out.extend(select_from(token));
                    last = Token::LParen;
                    continue;
                }
                Some(Held::Query) => open.push(Paren::Other),
                None => open.push(paren_after(&last)),
            },
            Token::RParen => {
                let doubled = open.pop() == Some(Paren::Doubled);
                out.extend(doubled.then(|| token.clone()));
            }
            _ => {}
        }
        if !matches!(token.token, Token::Whitespace(_)) {
            last = token.token.clone();
        }
        out.push(token.clone());
    }
    out
}

/// True when `token` is a TABLE where an argument of a call starts.
fn is_argument(token: &TokenWithSpan, last: &Token, open: Option<&Paren>) -> bool {
    is_word(&token.token, Keyword::TABLE)
        && matches!(last, Token::LParen | Token::Comma | Token::RArrow)
        && open == Some(&Paren::Call)
}

/// What the TABLE at `at` holds in its parentheses, if we know it.
fn held_by(tokens: &[TokenWithSpan], at: usize) -> Option<Held> {
    let mut after = following(tokens, at);
    if after.next() != Some(&Token::LParen) {
        return None;
    }
    let first = after.next()?;
    let starts = |words: &[Keyword]| words.iter().any(|word| is_word(first, *word));
    if *first == Token::LParen || starts(&[Keyword::SELECT, Keyword::WITH]) {
        return Some(Held::Query);
    }
    if starts(&[Keyword::VALUES, Keyword::FROM]) {
        return Some(Held::Rows);
    }
    // A name: words with periods between them, up to the closing parenthesis.
    let mut token = first;
    loop {
        match (token, after.next()?) {
            (Token::Word(_), Token::RParen) => return Some(Held::Name),
            (Token::Word(_), Token::Period) => token = after.next()?,
            _ => return None,
        }
    }
}

/// The tokens after `at`, blanks left out.
fn following(tokens: &[TokenWithSpan], at: usize) -> impl Iterator<Item = &Token> {
    let after = tokens.iter().skip(at + 1).map(|t| &t.token);
    after.filter(|t| !matches!(t, Token::Whitespace(_)))
}

fn paren_after(last: &Token) -> Paren {
    match last {
        Token::Word(word) if !NO_CALL.contains(&word.keyword) => Paren::Call,
        _ => Paren::Other,
    }
}

/// `( SELECT * FROM`, all at the place of `at`; the caller adds `at` itself.
fn select_from(at: &TokenWithSpan) -> Vec<TokenWithSpan> {
    let word = |text: &str, keyword| {
        Token::Word(Word {
            value: text.to_owned(),
            quote_style: None,
            keyword,
        })
    };
    let tokens = [
        Token::LParen,
        word("SELECT", Keyword::SELECT),
        Token::Mul,
        word("FROM", Keyword::FROM),
    ];
    tokens
        .map(|token| TokenWithSpan {
            token,
            span: at.span,
        })
        .to_vec()
}

fn is_word(token: &Token, keyword: Keyword) -> bool {
    matches!(token, Token::Word(word) if word.keyword == keyword && word.quote_style.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    fn check(sql: &str, expected: &str) {
        let tokens = Tokenizer::new(&GenericDialect {}, sql)
            .tokenize_with_location()
            .unwrap();
        let text: Vec<_> = rewrite(tokens)
            .iter()
            .map(|t| t.token.to_string())
            .collect();
        assert_eq!(
            text.concat()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
            expected
        );
    }

    #[test]
    fn a_query_argument_loses_the_word() {
        check(
            "SELECT * FROM f(TABLE(SELECT 1), g)",
            "SELECT * FROM f((SELECT 1), g)",
        );
        check(
            "FROM f(TABLE (WITH x AS (SELECT 1) SELECT * FROM x))",
            "FROM f( (WITH x AS (SELECT 1) SELECT * FROM x))",
        );
        check("FROM f(TABLE((SELECT 1)))", "FROM f(((SELECT 1)))");
        check(
            "FROM f(input => TABLE(SELECT 1))",
            "FROM f(input => (SELECT 1))",
        );
        check("FROM f(1, table(select 1))", "FROM f(1, (select 1))");
    }

    #[test]
    fn values_and_from_get_a_select() {
        check(
            "FROM f(TABLE(VALUES (1), (2)), g)",
            "FROM f((SELECT*FROM(VALUES (1), (2))), g)",
        );
        check("FROM f(TABLE(FROM t))", "FROM f((SELECT*FROM(FROM t)))");
    }

    #[test]
    fn a_name_becomes_a_query() {
        check("FROM f(TABLE(t), g)", "FROM f((SELECT*FROMt), g)");
        check(
            "FROM f(TABLE( s . \"T\" ), g)",
            "FROM f((SELECT*FROM s . \"T\" ), g)",
        );
        check("FROM f(TABLE(t u), g)", "FROM f(TABLE(t u), g)");
        check("FROM f(TABLE(t.), TABLE())", "FROM f(TABLE(t.), TABLE())");
    }

    #[test]
    fn other_uses_of_table_stay() {
        for sql in [
            "CREATE TABLE t (a INT)",
            "CREATE TABLE (SELECT 1)",
            "CREATE FUNCTION f(docs TABLE) RETURNS TABLE(id BIGINT)",
            "SELECT \"TABLE\"(SELECT 1)",
            "SELECT * FROM TABLE(SELECT 1)",
            "SELECT 'f(TABLE(SELECT 1))'",
            "INSERT INTO t VALUES (TABLE(SELECT 1))",
        ] {
            check(sql, sql);
        }
    }

    #[test]
    fn calls_nest() {
        check(
            "FROM f(TABLE(SELECT * FROM f(TABLE(SELECT 1), g)), h)",
            "FROM f((SELECT * FROM f((SELECT 1), g)), h)",
        );
        check(
            "FROM f(TABLE(FROM f(TABLE(VALUES (1)), g)), h)",
            "FROM f((SELECT*FROM(FROM f((SELECT*FROM(VALUES (1))), g))), h)",
        );
    }
}
