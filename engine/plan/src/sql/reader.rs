//! The parser of our own statements, with our errors.
//!
//! For `create_function` and `create_actor`.

use datafusion::sql::sqlparser::ast::{DataType as SqlType, Ident, ObjectName};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::normalized;
use super::statement::Text;
use crate::error::PlanError;

/// A statement half read.
pub(super) struct Reader<'p, 'a, 't> {
    pub(super) parser: &'p mut Parser<'a>,
    pub(super) text: &'t Text<'t>,
}

impl Reader<'_, '_, '_> {
    pub(super) fn ok<T>(&self, result: Result<T, ParserError>) -> Result<T, PlanError> {
        result.map_err(|e| self.text.refused(&e.into()))
    }

    pub(super) fn expect(&mut self, token: &Token) -> Result<(), PlanError> {
        let found = self.parser.expect_token(token).map(|_| ());
        self.ok(found)
    }

    pub(super) fn identifier(&mut self) -> Result<Ident, PlanError> {
        let ident = self.parser.parse_identifier();
        self.ok(ident)
    }

    pub(super) fn sql_type(&mut self) -> Result<SqlType, PlanError> {
        let sql_type = self.parser.parse_data_type();
        self.ok(sql_type)
    }

    /// Items between commas up to `)`, which is consumed.
    pub(super) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, PlanError>,
    ) -> Result<Vec<T>, PlanError> {
        let mut items = Vec::new();
        if self.parser.consume_token(&Token::RParen) {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if !self.parser.consume_token(&Token::Comma) {
                self.expect(&Token::RParen)?;
                return Ok(items);
            }
        }
    }

    /// A name without a schema; `refused` makes the error for one with.
    pub(super) fn name(
        &mut self,
        refused: impl FnOnce(&str) -> PlanError,
    ) -> Result<String, PlanError> {
        let name = self.parser.parse_object_name(false);
        let ObjectName(parts) = self.ok(name)?;
        match parts.as_slice() {
            [part] => Ok(part.as_ident().map(normalized).unwrap_or_default()),
            _ => Err(refused(&ObjectName(parts).to_string())),
        }
    }
}
