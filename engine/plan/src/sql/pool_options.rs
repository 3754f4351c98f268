//! The options that named pools have and single actors have not: `min`, `max`, `idle_ttl`.
//!
//! For CREATE ACTOR POOL and ALTER ACTOR POOL. What is wrong with one continues a sentence
//! about the pool.

use std::time::Duration;

use datafusion::sql::sqlparser::ast::Expr;
use mobula_udfs::{Literal, PoolBounds};

use super::call_options::literal;
use crate::config::duration;

/// Their names, for errors.
pub(super) const POOL_OPTIONS: &str = "min, max, idle_ttl";
/// Most actors of a pool.
const ACTORS_MAX: usize = 1024;
/// Longest that an actor is kept idle, as of the setting.
const IDLE_MAX: Duration = Duration::from_secs(24 * 3600);

/// As written; `None` where not given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolOptions {
    pub min: Option<usize>,
    pub max: Option<usize>,
    /// `Some(None)`: as the process is set, asked for with NULL.
    pub idle_ttl: Option<Option<Duration>>,
}

impl PoolOptions {
    /// Sets the option called `name`; false: pools have none of that name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn set(&mut self, name: &str, value: &Expr) -> Result<bool, String> {
        let invalid =
            |expected: &str| format!("option \"{name}\" is {value}, but must be {expected}");
        let count = || {
            let count = match literal(value) {
                Some(Literal::Int(n)) => usize::try_from(n).ok(),
                _ => None,
            };
            let count = count.filter(|n| (1..=ACTORS_MAX).contains(n));
            count.ok_or_else(|| invalid("a number from 1 to 1024"))
        };
        let was_set = match name {
            "min" => self.min.replace(count()?).is_some(),
            "max" => self.max.replace(count()?).is_some(),
            "idle_ttl" => {
                let expected =
                    "a time of at most a day, as in '30s', '1500ms' or 1.5 for seconds, or NULL";
                let ttl = time(value).filter(|ttl| ttl.is_none_or(|ttl| ttl <= IDLE_MAX));
                let ttl = ttl.ok_or_else(|| invalid(expected))?;
                self.idle_ttl.replace(ttl).is_some()
            }
            _ => return Ok(false),
        };
        match was_set {
            true => Err(format!("option \"{name}\" is given twice")),
            false => Ok(true),
        }
    }

    /// The bounds of a new pool.
    ///
    /// # Errors
    /// Bounds that leave no number.
    pub(super) fn bounds(&self) -> Result<PoolBounds, String> {
        let min = self.min.unwrap_or(1);
        let alone = PoolBounds {
            min,
            max: min,
            idle_ttl: None,
        };
        self.over(alone)
    }

    /// What becomes of `bounds`.
    ///
    /// # Errors
    /// Bounds that leave no number.
    pub fn over(&self, bounds: PoolBounds) -> Result<PoolBounds, String> {
        let bounds = PoolBounds {
            min: self.min.unwrap_or(bounds.min),
            max: self.max.unwrap_or(bounds.max),
            idle_ttl: self.idle_ttl.unwrap_or(bounds.idle_ttl),
        };
        let PoolBounds { min, max, .. } = bounds;
        match max < min {
            true => Err(format!("its max, {max}, is below its min, {min}")),
            false => Ok(bounds),
        }
    }
}

/// A time, or NULL; `None`: it is neither.
fn time(value: &Expr) -> Option<Option<Duration>> {
    match literal(value)? {
        Literal::Null => Some(None),
        Literal::Int(n) => u64::try_from(n).ok().map(Duration::from_secs).map(Some),
        Literal::Float(seconds) => Duration::try_from_secs_f64(seconds).ok().map(Some),
        Literal::Text(text) => duration(&text).map(Some),
        _ => None,
    }
}
