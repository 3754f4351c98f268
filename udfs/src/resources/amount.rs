//! How much of something: thousandths, so that shares add up exactly.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const ONE: u64 = 1000;
/// Decimals of a thousandth.
const DECIMALS: usize = 3;
/// Most of anything.
const MAX_WHOLE: u64 = 1 << 40;

/// An amount of a resource, to a thousandth.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Amount(u64);

/// What is no amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a number of at least 0 with at most three decimals")]
pub struct BadAmount;

impl Amount {
    pub const ZERO: Self = Self(0);
    pub const ONE: Self = Self(ONE);

    /// `n` whole ones.
    pub fn whole(n: usize) -> Self {
        Self((n as u64).min(MAX_WHOLE) * ONE)
    }

    pub fn from_milli(thousandths: u64) -> Self {
        Self(thousandths)
    }

    pub fn milli(self) -> u64 {
        self.0
    }

    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether nothing is behind the point.
    pub fn is_whole(self) -> bool {
        self.0.is_multiple_of(ONE)
    }

    /// The whole ones in it.
    pub fn floor(self) -> usize {
        (self.0 / ONE) as usize
    }

    pub fn as_f64(self) -> f64 {
        self.0 as f64 / ONE as f64
    }

    pub(crate) fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// `self`, `n` times.
    pub fn times(self, n: usize) -> Self {
        Self(self.0.saturating_mul(n as u64))
    }
}

impl FromStr for Amount {
    type Err = BadAmount;

    fn from_str(text: &str) -> Result<Self, BadAmount> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let are_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let decimals = decimals.trim_end_matches('0');
        let is_number = are_digits(whole) && (decimals.is_empty() || are_digits(decimals));
        if !is_number || decimals.len() > DECIMALS {
            return Err(BadAmount);
        }
        let whole: u64 = whole.parse().map_err(|_| BadAmount)?;
        let thousandths: u64 = format!("{decimals:0<DECIMALS$}")
            .parse()
            .map_err(|_| BadAmount)?;
        match whole <= MAX_WHOLE {
            true => Ok(Self(whole * ONE + thousandths)),
            false => Err(BadAmount),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, thousandths) = (self.0 / ONE, self.0 % ONE);
        match thousandths {
            0 => write!(f, "{whole}"),
            _ => {
                let decimals = format!("{thousandths:0>DECIMALS$}");
                write!(f, "{whole}.{}", decimals.trim_end_matches('0'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_and_write() {
        for (text, expected) in [
            ("0", Some((0, "0"))),
            ("2", Some((2000, "2"))),
            ("0.5", Some((500, "0.5"))),
            ("0.050", Some((50, "0.05"))),
            ("1.25", Some((1250, "1.25"))),
            ("1.0005000", None),
            ("1.500000", Some((1500, "1.5"))),
            ("3.", Some((3000, "3"))),
            (".5", None),
            ("", None),
            ("-1", None),
            ("1e3", None),
            ("one", None),
            ("99999999999999999999", None),
        ] {
            let read = text.parse::<Amount>().ok();
            let written = read.map(|amount| (amount.milli(), amount.to_string()));
            let expected = expected.map(|(milli, text)| (milli, text.to_owned()));
            assert_eq!(written, expected, "{text}");
        }
        assert_eq!(Amount::from_milli(2999).floor(), 2);
        assert!(Amount::whole(3).is_whole() && !Amount::from_milli(1).is_whole());
    }
}
