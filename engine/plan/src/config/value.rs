//! Reading the text of a setting: counts, bytes, durations, choices, resources.
//!
//! Pure. Called by [`super::MobulaOptions::set_value`]; the text form of each
//! kind is what files, flags, the environment and `SET` all accept.

use std::time::Duration;

use mobula_udfs::Amount;
use mobula_udfs::resources::{Gpus, amounts_of, labels_of};

use super::SettingKind;

/// What stands for as much as is found.
const AUTO: &str = "auto";

/// A setting's text, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Bool(bool),
    Count(u64),
    Duration(Duration),
    Text,
}

/// Reads `text` as a value of `kind`, or says what was expected.
pub(super) fn parse(kind: SettingKind, text: &str) -> Result<Value, String> {
    let wrong = || kind.expected();
    let said = |is_fine: bool| is_fine.then_some(Value::Text).ok_or_else(wrong);
    match kind {
        SettingKind::Bool => match text.to_ascii_lowercase().as_str() {
            "true" | "on" | "yes" | "1" => Ok(Value::Bool(true)),
            "false" | "off" | "no" | "0" => Ok(Value::Bool(false)),
            _ => Err(wrong()),
        },
        SettingKind::Count { min, max } => {
            let count: u64 = text.trim().parse().map_err(|_| wrong())?;
            within(count, min, max).map(Value::Count).ok_or_else(wrong)
        }
        SettingKind::Bytes { min, max } => bytes(text)
            .and_then(|n| within(n, min, max))
            .map(Value::Count)
            .ok_or_else(wrong),
        SettingKind::Duration { min, max } => duration(text)
            .and_then(|d| within(d, min, max))
            .map(Value::Duration)
            .ok_or_else(wrong),
        SettingKind::Choice(choices) => match choices.contains(&text) {
            true => Ok(Value::Text),
            false => Err(wrong()),
        },
        SettingKind::Text | SettingKind::Path => Ok(Value::Text),
        SettingKind::Amount => said(text == AUTO || text.parse::<Amount>().is_ok()),
        SettingKind::BytesOrAuto => said(text == AUTO || bytes(text).is_some()),
        SettingKind::Gpus => said(text.parse::<Gpus>().is_ok()),
        SettingKind::Amounts => said(amounts_of(text).is_some()),
        SettingKind::Labels => said(labels_of(text).is_some()),
    }
}

impl SettingKind {
    /// What a value must look like, for messages and documentation.
    pub fn expected(&self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Count { min, max } => format!("a count from {min} to {max}"),
            Self::Bytes { min, max } => format!(
                "bytes from {} to {}, such as 64MiB",
                bytes_text(*min),
                bytes_text(*max)
            ),
            Self::Duration { min, max } => format!(
                "a duration from {} to {}, such as 500ms, 3s or 10m",
                duration_text(*min),
                duration_text(*max)
            ),
            Self::Text => "text".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Choice(choices) => format!("one of {}", choices.join(", ")),
            Self::Amount => "auto, or a number with at most three decimals".to_owned(),
            Self::BytesOrAuto => "auto, or bytes such as 64GiB".to_owned(),
            Self::Gpus => "auto, a count up to 256, or ids with commas".to_owned(),
            Self::Amounts => {
                "names with amounts above 0, each once, as in fpga=2,slot=0.5".to_owned()
            }
            Self::Labels => "keys with values, each once, as in zone=a,disk=ssd".to_owned(),
        }
    }
}

fn within<T: PartialOrd>(value: T, min: T, max: T) -> Option<T> {
    (value >= min && value <= max).then_some(value)
}

/// The number and the unit of `text`: `64MiB` is `("64", "MiB")`.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim()))
}

/// `64MiB` and the like as bytes.
pub fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    match unit.to_ascii_lowercase().as_str() {
        "" if number == 0 => Some(Duration::ZERO),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

fn bytes_text(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = units
        .iter()
        .find(|(_, shift)| bytes >= 1 << shift && bytes.trailing_zeros() >= *shift);
    match whole {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

fn duration_text(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "0".to_owned(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_know_their_units() {
        for (text, expected) in [
            ("123", Some(123)),
            ("64MiB", Some(64 << 20)),
            ("1 gb", Some(1_000_000_000)),
            ("1GB", Some(1_000_000_000)),
            ("2KiB", Some(2048)),
            ("", None),
            ("-1", None),
            ("1.5MiB", None),
            ("10 parsecs", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit_unless_zero() {
        for (text, expected) in [
            ("500ms", Some(Duration::from_millis(500))),
            ("3s", Some(Duration::from_secs(3))),
            ("10m", Some(Duration::from_secs(600))),
            ("2h", Some(Duration::from_secs(7200))),
            ("0", Some(Duration::ZERO)),
            ("3", None),
            ("soon", None),
        ] {
            assert_eq!(duration(text), expected, "{text}");
        }
    }

    #[test]
    fn resources_are_checked_where_they_are_set() {
        for (kind, good, bad) in [
            (SettingKind::Amount, "auto 2 0.5", "Auto 0.0001 -1 many"),
            (SettingKind::BytesOrAuto, "auto 64GiB 0", "all 1.5GiB"),
            (SettingKind::Gpus, "auto 0 2 GPU-1,GPU-2", "1000 a,a"),
            (SettingKind::Amounts, "fpga=2,slot=0.5", "fpga a=1,a=1 a=0"),
            (SettingKind::Labels, "zone=a,disk=ssd", "zone a=b=c"),
        ] {
            for text in good.split(' ') {
                assert_eq!(parse(kind, text), Ok(Value::Text), "{kind:?} {text}");
            }
            for text in bad.split(' ') {
                assert_eq!(parse(kind, text), Err(kind.expected()), "{kind:?} {text}");
            }
        }
    }

    #[test]
    fn what_is_expected_reads_well() {
        let kinds = [
            SettingKind::Count { min: 1, max: 10 },
            SettingKind::Bytes {
                min: 0,
                max: 1 << 40,
            },
            SettingKind::Duration {
                min: Duration::ZERO,
                max: Duration::from_secs(7200),
            },
            SettingKind::Choice(&["lz4", "none"]),
        ];
        let texts: Vec<_> = kinds.iter().map(SettingKind::expected).collect();
        assert_eq!(
            texts,
            [
                "a count from 1 to 10",
                "bytes from 0 to 1TiB, such as 64MiB",
                "a duration from 0 to 2h, such as 500ms, 3s or 10m",
                "one of lz4, none",
            ]
        );
    }
}
