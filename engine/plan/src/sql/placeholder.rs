//! Parameters as they are written: numbers all of them `$1`, `$2` and so on.
//!
//! ```text
//! WHERE a = ? AND b < ?            →  WHERE a = $1 AND b < $2
//! WHERE a = $low OR b = $low       →  WHERE a = $1 OR b = $1       $1 is named $low
//! WHERE a = $2                     →  as it is, and $1 may be anything
//! ```
//!
//! The planner would take all `?` for one parameter, and knows no names in INSERT. One
//! statement uses one way. Tokens keep their places, so errors point into the user's text.
//! `statement` calls this before it parses; `parameters` reads the numbers out of plans.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::error::PlanError;

/// Most parameters of a statement, as in PostgreSQL's protocol.
const PARAMETERS_MAX: usize = 65_535;

/// A way to write parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    InOrder,
    Numbered,
    Named,
}

/// Numbers the parameters in `tokens`; their names, in the order of their numbers.
///
/// # Errors
/// [`PlanError::Parameter`]: no number or one out of range, or two ways at once.
pub(super) fn number(tokens: &mut [TokenWithSpan]) -> Result<Vec<String>, PlanError> {
    let mut names = vec![];
    let mut way = None;
    for token in tokens {
        let Token::Placeholder(written) = &mut token.token else {
            continue;
        };
        let (found, number) = read(written, &names)?;
        if way.is_some_and(|way| way != found) {
            let problem = "is written in another way than those before it. Write all as ?, all as $1, or all as $name";
            return Err(PlanError::parameter(written, problem));
        }
        way = Some(found);
        let named = match found {
            Way::Named => written.clone(),
            Way::InOrder | Way::Numbered => format!("${number}"),
        };
        for next in names.len() + 1..=number {
            names.push(format!("${next}"));
        }
        names[number - 1] = named;
        *written = format!("${number}");
    }
    Ok(names)
}

/// The way of `written`, and its number where `names` come before it.
fn read(written: &str, names: &[String]) -> Result<(Way, usize), PlanError> {
    let next = names.len() + 1;
    let (way, number) = match written.split_at(1) {
        ("?", "") => (Way::InOrder, Some(next)),
        (_, digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.is_empty() => {
            (Way::Numbered, digits.parse().ok())
        }
        ("$", name) if !name.is_empty() => {
            let known = names.iter().position(|name| name == written);
            (Way::Named, Some(known.map_or(next, |at| at + 1)))
        }
        _ => (Way::Named, None),
    };
    match number {
        Some(number @ 1..=PARAMETERS_MAX) => Ok((way, number)),
        _ => {
            let problem = format!("has no number from 1 to {PARAMETERS_MAX}, nor a name");
            Err(PlanError::parameter(written, problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::sql::statement::{MobulaStatement, parse};

    /// The statement as it is parsed, and its parameters.
    fn numbered(sql: &str) -> String {
        let parsed = match parse(sql) {
            Ok(parsed) => parsed,
            Err(error) => return error.to_string(),
        };
        let [MobulaStatement::DataFusion(statement)] = parsed.statements.as_slice() else {
            panic!("{sql} is no statement of DataFusion's");
        };
        format!("{statement} {:?}", parsed.parameters)
    }

    #[test]
    fn all_ways_become_numbers() {
        for (sql, expected) in [
            ("SELECT 1", "SELECT 1 []"),
            ("SELECT ?, ? + 1", r#"SELECT $1, $2 + 1 ["$1", "$2"]"#),
            (
                "SELECT a-?-b, '?', \"?\"",
                r#"SELECT a - $1 - b, '?', "?" ["$1"]"#,
            ),
            ("SELECT $2, $1, $2", r#"SELECT $2, $1, $2 ["$1", "$2"]"#),
            ("SELECT $3", r#"SELECT $3 ["$1", "$2", "$3"]"#),
            ("SELECT ?2, ?1", r#"SELECT $2, $1 ["$1", "$2"]"#),
            (
                "SELECT $low, $High, $low",
                r#"SELECT $1, $2, $1 ["$low", "$High"]"#,
            ),
            ("SELECT $$a $1 ?$$", "SELECT $$a $1 ?$$ []"),
        ] {
            assert_eq!(numbered(sql), expected);
        }
    }

    #[test]
    fn what_is_no_parameter_is_refused() {
        for (sql, expected) in [
            ("SELECT $0", "parameter $0 has no number from 1 to 65535"),
            ("SELECT $65536", "parameter $65536 has no number"),
            (
                "SELECT $99999999999999999999999",
                "parameter $99999999999999999999999 has no number",
            ),
            ("SELECT ?, $1", "parameter $1 is written in another way"),
            ("SELECT $a, ?", "parameter ? is written in another way"),
        ] {
            let text = numbered(sql);
            assert!(text.starts_with(expected), "{sql}: {text}");
        }
    }
}
