//! `partition_by` and `order_by` of `map_groups`, as written.
//!
//! ```text
//! partition_by  a | (a, b)
//! order_by      a | (a, b) | 'a DESC, b NULLS FIRST'
//! ```

use datafusion::common::{Column, DFSchema};
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, OrderByExpr, OrderByOptions};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use mobula_udfs::Literal;

use super::call_options::literal;
use super::normalized;
use crate::error::PlanError;
use crate::nearest;
use crate::operator::map_batches::{Grouping, SortWay};

/// What was given of the two; `None` where not given.
#[derive(Debug, Default)]
pub struct WrittenGrouping {
    partition_by: Option<Vec<SqlExpr>>,
    order_by: Option<Vec<OrderByExpr>>,
}

impl WrittenGrouping {
    /// Sets `name`, one of the two.
    ///
    /// # Errors
    /// A repeated option, and an order that cannot be read.
    pub fn set(&mut self, owner: &str, name: &str, value: SqlExpr) -> Result<(), PlanError> {
        let twice = match name {
            "partition_by" => self.partition_by.replace(listed(value)).is_some(),
            _ => self.order_by.replace(order(owner, value)?).is_some(),
        };
        match twice {
            true => Err(PlanError::OptionTwice {
                owner: owner.to_owned(),
                option: name.to_owned(),
            }),
            false => Ok(()),
        }
    }

    /// Whether any was given; which.
    pub fn given(&self) -> Option<&'static str> {
        match (&self.partition_by, &self.order_by) {
            (Some(_), _) => Some("partition_by"),
            (None, Some(_)) => Some("order_by"),
            (None, None) => None,
        }
    }

    /// Over the columns of `input`; `None` without keys.
    ///
    /// # Errors
    /// What is no column of `input`.
    pub fn over(self, owner: &str, input: &DFSchema) -> Result<Option<Grouping>, PlanError> {
        let keys = self.partition_by.unwrap_or_default().into_iter();
        let keys = keys.map(|key| column(owner, "partition_by", key, input));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let order = self.order_by.unwrap_or_default().into_iter().map(|key| {
            let ascending = key.options.asc.unwrap_or(true);
            let way = SortWay {
                descending: !ascending,
                nulls_first: key.options.nulls_first.unwrap_or(!ascending),
            };
            Ok((column(owner, "order_by", key.expr, input)?, way))
        });
        let order = order.collect::<Result<_, _>>()?;
        Ok((!keys.is_empty()).then_some(Grouping { keys, order }))
    }
}

pub(super) fn listed(value: SqlExpr) -> Vec<SqlExpr> {
    match value {
        SqlExpr::Tuple(values) => values,
        SqlExpr::Nested(inner) => listed(*inner),
        other => vec![other],
    }
}

fn order(owner: &str, value: SqlExpr) -> Result<Vec<OrderByExpr>, PlanError> {
    let Some(Literal::Text(text)) = literal(&value) else {
        let keys = listed(value).into_iter().map(|expr| OrderByExpr {
            expr,
            options: OrderByOptions::default(),
            with_fill: None,
        });
        return Ok(keys.collect());
    };
    let refused = |problem: String| PlanError::OptionValue {
        owner: owner.to_owned(),
        option: "order_by".to_owned(),
        value: format!("'{text}'"),
        expected: format!("what stands in ORDER BY, as 'a DESC, b' ({problem})"),
    };
    let mut parser = Parser::new(&GenericDialect {})
        .try_with_sql(&text)
        .map_err(|e| refused(e.to_string()))?;
    let keys = parser
        .parse_comma_separated(Parser::parse_order_by_expr)
        .map_err(|e| refused(e.to_string()))?;
    match parser.peek_token().token {
        Token::EOF => Ok(keys),
        other => Err(refused(format!("unexpected {other}"))),
    }
}

pub(super) fn column(
    owner: &str,
    option: &str,
    expr: SqlExpr,
    input: &DFSchema,
) -> Result<Column, PlanError> {
    match &expr {
        SqlExpr::Identifier(ident) => column_named(owner, option, &normalized(ident), input),
        other => Err(no_column(owner, option, &other.to_string(), "", input)),
    }
}

/// The column `name` of `input`.
///
/// # Errors
/// When there is none.
pub(crate) fn column_named(
    owner: &str,
    option: &str,
    name: &str,
    input: &DFSchema,
) -> Result<Column, PlanError> {
    let names = || input.fields().iter().map(|f| f.name().as_str());
    match names().any(|known| known == name) {
        true => Ok(Column::new_unqualified(name)),
        false => {
            let hint = nearest::hint(name, names());
            Err(no_column(owner, option, name, &hint, input))
        }
    }
}

fn no_column(owner: &str, option: &str, value: &str, hint: &str, input: &DFSchema) -> PlanError {
    let names: Vec<&str> = input.fields().iter().map(|f| f.name().as_str()).collect();
    let names = names.join(", ");
    PlanError::OptionValue {
        owner: owner.to_owned(),
        option: option.to_owned(),
        value: value.to_owned(),
        expected: format!("columns of the input ({names}); compute others inside the query{hint}"),
    }
}
