//! Literals in options and in arguments of constructors.
//!
//! A whole number is a BIGINT or none: as a float it would be another number. `call_options`
//! and its parts read options by [`literal`]; `relation` and `create_actor` read arguments,
//! and say by [`no_literal`] what is wrong with others.

use datafusion::sql::sqlparser::ast::{Expr, UnaryOperator, Value, ValueWithSpan};
use mobula_udfs::Literal;

/// The literal that `expr` is, if it is one.
pub fn literal(expr: &Expr) -> Option<Literal> {
    match expr {
        Expr::Value(value) => plain_literal(value),
        Expr::Nested(inner) => literal(inner),
        Expr::UnaryOp {
            op: UnaryOperator::Plus,
            expr,
        } => literal(expr),
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => negated(expr),
        _ => None,
    }
}

/// What is wrong with the argument `value`, of which [`literal`] makes nothing.
pub(super) fn no_literal(value: &Expr) -> String {
    match is_whole_number(value) {
        true => format!(
            "is beyond BIGINT: {value}. Write it as text, or with a point for the nearest DOUBLE"
        ),
        false => format!("must be a literal, not {value}"),
    }
}

fn plain_literal(value: &ValueWithSpan) -> Option<Literal> {
    match &value.value {
        Value::Null => Some(Literal::Null),
        Value::Boolean(b) => Some(Literal::Bool(*b)),
        Value::Number(text, _) => number(text),
        Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => {
            Some(Literal::Text(text.clone()))
        }
        Value::DollarQuotedString(quoted) => Some(Literal::Text(quoted.value.clone())),
        _ => None,
    }
}

/// The number that `expr` is with its sign changed.
fn negated(expr: &Expr) -> Option<Literal> {
    match expr {
        Expr::Nested(inner) => negated(inner),
        // With its sign: the least BIGINT has no counterpart above 0.
        Expr::Value(ValueWithSpan {
            value: Value::Number(text, _),
            ..
        }) => number(&format!("-{text}")),
        _ => match literal(expr)? {
            Literal::Int(n) => n.checked_neg().map(Literal::Int),
            Literal::Float(x) => Some(Literal::Float(-x)),
            _ => None,
        },
    }
}

fn number(text: &str) -> Option<Literal> {
    match is_whole(text) {
        true => text.parse().ok().map(Literal::Int),
        false => text.parse().ok().map(Literal::Float),
    }
}

/// Whether it has digits alone, and perhaps a sign.
fn is_whole(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_whole_number(expr: &Expr) -> bool {
    match expr {
        Expr::Value(ValueWithSpan {
            value: Value::Number(text, _),
            ..
        }) => is_whole(text),
        Expr::Nested(inner) => is_whole_number(inner),
        Expr::UnaryOp {
            op: UnaryOperator::Plus | UnaryOperator::Minus,
            expr,
        } => is_whole_number(expr),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    fn parsed(sql: &str) -> Expr {
        let parser = Parser::new(&GenericDialect {}).try_with_sql(sql);
        parser.unwrap().parse_expr().unwrap()
    }

    #[test]
    fn numbers_are_what_is_written() {
        for (sql, expected) in [
            ("0", Literal::Int(0)),
            ("-7", Literal::Int(-7)),
            ("+7", Literal::Int(7)),
            ("-(7)", Literal::Int(-7)),
            ("9223372036854775807", Literal::Int(i64::MAX)),
            ("-9223372036854775808", Literal::Int(i64::MIN)),
            ("(-(9223372036854775808))", Literal::Int(i64::MIN)),
            ("1.5", Literal::Float(1.5)),
            ("-1.5", Literal::Float(-1.5)),
            ("1e3", Literal::Float(1000.0)),
            (
                "9223372036854775808.0",
                Literal::Float(9_223_372_036_854_775_808.0),
            ),
        ] {
            assert_eq!(literal(&parsed(sql)), Some(expected), "{sql}");
        }
    }

    #[test]
    fn whole_numbers_beyond_bigint_are_no_floats() {
        for sql in [
            "9223372036854775808",
            "+9223372036854775808",
            "-9223372036854775809",
            "-(-(-9223372036854775809))",
            "100000000000000000000000",
        ] {
            let value = parsed(sql);
            assert_eq!(literal(&value), None, "{sql}");
            let expected = format!("is beyond BIGINT: {sql}. Write it as text, ");
            let problem = no_literal(&value);
            assert!(problem.starts_with(&expected), "{problem}");
        }
        assert_eq!(no_literal(&parsed("a")), "must be a literal, not a");
    }
}
