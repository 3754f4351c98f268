//! Values that are read as text, made exactly what their column is.
//!
//! Texts mean here what they mean to Arrow's readers: what those would take as it is comes the
//! same, what they would cut is an error.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, FixedSizeListArray, GenericListArray, MapArray,
    OffsetSizeTrait, PrimitiveArray, StructArray, downcast_integer,
};
use arrow::compute::kernels::cast_utils::{Parser, parse_decimal, string_to_datetime};
use arrow::datatypes::{
    DataType, Date32Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
    Field, FieldRef, Schema, SchemaRef, Time32MillisecondType, Time32SecondType,
    Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};

use super::TextFormat;

const SECONDS_A_DAY: i64 = 24 * 3600;
const NANOS_A_SECOND: i64 = 1_000_000_000;
/// Digits that a whole number may have.
const WHOLE_DIGITS: u8 = 38;
/// Digits of a second that times have.
const NANO_DIGITS: usize = 9;

/// A value that its column has no room for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) value: String,
    /// The type that has no room: of the column, or inside it.
    pub(super) into: DataType,
}

/// `schema` as files are read, before columns are made exact.
pub(super) fn schema_as_read(schema: &SchemaRef, format: &TextFormat) -> SchemaRef {
    let fields = schema.fields().iter();
    let fields: Vec<_> = fields.map(|f| field_as_read(f, format)).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn field_as_read(field: &FieldRef, format: &TextFormat) -> FieldRef {
    let read = as_read(field.data_type(), format);
    match read == *field.data_type() {
        true => Arc::clone(field),
        false => Arc::new(Field::clone(field).with_data_type(read)),
    }
}

/// As what values of `declared` are read: as text, where the reader might cut them.
pub(super) fn as_read(declared: &DataType, format: &TextFormat) -> DataType {
    let item = |field: &FieldRef| field_as_read(field, format);
    match declared {
        DataType::Date32 | DataType::Time32(_) => DataType::Utf8,
        DataType::Time64(_) => DataType::Utf8,
        decimal if decimal.is_decimal() => DataType::Utf8,
        DataType::Timestamp(..) => DataType::Utf8,
        DataType::Duration(_) if matches!(format, TextFormat::Json(_)) => DataType::Utf8,
        whole if whole.is_integer() && matches!(format, TextFormat::Json(_)) => DataType::Utf8,
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(item).collect()),
        DataType::List(field) => DataType::List(item(field)),
        DataType::LargeList(field) => DataType::LargeList(item(field)),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(item(field), *size),
        DataType::Map(entries, sorted) => DataType::Map(item(entries), *sorted),
        other => other.clone(),
    }
}

/// `read`, made what `declared` is.
///
/// # Errors
/// The first value that it has no room for.
pub(super) fn made_exact(
    read: &ArrayRef,
    declared: &DataType,
    format: &TextFormat,
) -> Result<ArrayRef, Lost> {
    let exact = |read: &ArrayRef, field: &FieldRef| made_exact(read, field.data_type(), format);
    if read.data_type() == declared {
        return Ok(Arc::clone(read));
    }
    Ok(match declared {
        DataType::Struct(fields) => {
            let read = read.as_struct();
            let each = read.columns().iter().zip(fields);
            let each = each.map(|(values, field)| exact(values, field));
            let each = each.collect::<Result<Vec<_>, _>>()?;
            let nulls = read.nulls().cloned();
            match each.is_empty() {
                true => Arc::new(StructArray::new_empty_fields(read.len(), nulls)),
                false => Arc::new(StructArray::new(fields.clone(), each, nulls)),
            }
        }
        DataType::List(field) => list(read.as_list::<i32>(), field, exact)?,
        DataType::LargeList(field) => list(read.as_list::<i64>(), field, exact)?,
        DataType::FixedSizeList(field, size) => {
            let read = read.as_fixed_size_list();
            let values = exact(read.values(), field)?;
            let nulls = read.nulls().cloned();
            Arc::new(FixedSizeListArray::new(
                Arc::clone(field),
                *size,
                values,
                nulls,
            ))
        }
        DataType::Map(field, sorted) => {
            let read = read.as_map();
            let entries: ArrayRef = Arc::new(read.entries().clone());
            let entries = exact(&entries, field)?.as_struct().clone();
            let (offsets, nulls) = (read.offsets().clone(), read.nulls().cloned());
            Arc::new(MapArray::new(
                Arc::clone(field),
                offsets,
                entries,
                nulls,
                *sorted,
            ))
        }
        plain => of_texts(read, plain, matches!(format, TextFormat::Json(_)))?,
    })
}

fn list<O: OffsetSizeTrait>(
    read: &GenericListArray<O>,
    field: &FieldRef,
    exact: impl Fn(&ArrayRef, &FieldRef) -> Result<ArrayRef, Lost>,
) -> Result<ArrayRef, Lost> {
    let values = exact(read.values(), field)?;
    let (offsets, nulls) = (read.offsets().clone(), read.nulls().cloned());
    let list = GenericListArray::<O>::new(Arc::clone(field), offsets, values, nulls);
    Ok(Arc::new(list))
}

/// `numbers`: days, times and instants may be numbers, of their column's units.
fn of_texts(read: &ArrayRef, declared: &DataType, numbers: bool) -> Result<ArrayRef, Lost> {
    let number = |text: &str| -> Option<i64> {
        let number = whole(text).filter(|_| numbers);
        number?.try_into().ok()
    };
    macro_rules! whole_numbers {
        ($t:ty) => {
            each::<$t>(read, declared, |text| whole(text)?.try_into().ok())
        };
    }
    macro_rules! decimals {
        ($t:ty, $precision:expr, $scale:expr) => {
            each::<$t>(read, declared, |text| {
                let is_exact = digits_behind_point(text)? <= i64::from(*$scale);
                let value = || parse_decimal::<$t>(text, *$precision, *$scale).ok();
                is_exact.then(value)?
            })
        };
    }
    macro_rules! times {
        ($t:ty, $units:expr) => {
            each::<$t>(read, declared, |text| {
                let time = time(text, $units).unwrap_or_else(|| number(text));
                time?.try_into().ok()
            })
        };
    }
    downcast_integer! {
        declared => (whole_numbers),
        DataType::Date32 => each::<Date32Type>(read, declared, |text| match days(text) {
            Some(days) => days,
            None => number(text)?.try_into().ok(),
        }),
        DataType::Time32(TimeUnit::Second) => times!(Time32SecondType, 1),
        DataType::Time32(_) => times!(Time32MillisecondType, 1_000),
        DataType::Time64(TimeUnit::Microsecond) => times!(Time64MicrosecondType, 1_000_000),
        DataType::Time64(_) => times!(Time64NanosecondType, NANOS_A_SECOND),
        DataType::Duration(TimeUnit::Second) => whole_numbers!(DurationSecondType),
        DataType::Duration(TimeUnit::Millisecond) => whole_numbers!(DurationMillisecondType),
        DataType::Duration(TimeUnit::Microsecond) => whole_numbers!(DurationMicrosecondType),
        DataType::Duration(_) => whole_numbers!(DurationNanosecondType),
        DataType::Decimal32(precision, scale) => decimals!(Decimal32Type, precision, scale),
        DataType::Decimal64(precision, scale) => decimals!(Decimal64Type, precision, scale),
        DataType::Decimal128(precision, scale) => decimals!(Decimal128Type, precision, scale),
        DataType::Decimal256(precision, scale) => decimals!(Decimal256Type, precision, scale),
        DataType::Timestamp(unit, zone) => {
            // The schema has it checked; what is wrong all the same finds no value.
            let zone = zone.as_deref().unwrap_or("+00:00").parse::<Tz>().ok();
            let at = |text: &str, units| match instant(text, zone.as_ref()?, units) {
                Some(at) => at,
                None => number(text),
            };
            match unit {
                TimeUnit::Second => {
                    each::<TimestampSecondType>(read, declared, |text| at(text, 1))
                }
                TimeUnit::Millisecond => {
                    each::<TimestampMillisecondType>(read, declared, |text| at(text, 1_000))
                }
                TimeUnit::Microsecond => {
                    each::<TimestampMicrosecondType>(read, declared, |text| at(text, 1_000_000))
                }
                TimeUnit::Nanosecond => {
                    each::<TimestampNanosecondType>(read, declared, |text| at(text, NANOS_A_SECOND))
                }
            }
        }
        other => Err(Lost { value: read.data_type().to_string(), into: other.clone() }),
    }
}

fn each<T: ArrowPrimitiveType>(
    read: &ArrayRef,
    declared: &DataType,
    value: impl Fn(&str) -> Option<T::Native>,
) -> Result<ArrayRef, Lost> {
    let texts = read.as_string::<i32>().iter();
    let values = texts.map(|text| {
        let found = text.map(|text| {
            value(text).ok_or_else(|| Lost {
                value: text.to_owned(),
                into: declared.clone(),
            })
        });
        found.transpose()
    });
    let values = values.collect::<Result<PrimitiveArray<T>, _>>()?;
    Ok(Arc::new(values.with_data_type(declared.clone())))
}

/// A number without a fraction, however it is written.
fn whole(text: &str) -> Option<i128> {
    if let Ok(number) = text.parse::<i64>() {
        return Some(number.into());
    }
    if let Ok(number) = text.parse::<u64>() {
        return Some(number.into());
    }
    let is_whole = digits_behind_point(text)? <= 0;
    let number = || parse_decimal::<Decimal128Type>(text, WHOLE_DIGITS, 0).ok();
    is_whole.then(number)?
}

/// Digits that a decimal number needs behind its point, fewer than none where it ends in zeros.
fn digits_behind_point(text: &str) -> Option<i64> {
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (before, behind) = digits.split_once('.').unwrap_or((digits, ""));
    let significant = behind.trim_end_matches('0');
    let places = match significant.is_empty() {
        false => significant.len() as i64,
        true => {
            let shorter = before.trim_end_matches('0');
            let is_zero = !shorter.bytes().any(|byte| byte.is_ascii_digit());
            if is_zero {
                return Some(i64::MIN);
            }
            shorter.len() as i64 - before.len() as i64
        }
    };
    places.checked_sub(exponent)
}

/// Days since 1970; `Some(None)` of a time of day that is not midnight. `None`: no date.
fn days(text: &str) -> Option<Option<i32>> {
    let days = Date32Type::parse(text)?;
    let has_time = text.len() > 10 && !text.starts_with(['+', '-']);
    if !has_time {
        return Some(Some(days));
    }
    let at = string_to_datetime(&"+00:00".parse::<Tz>().ok()?, text).ok()?;
    let seconds = at.timestamp().rem_euclid(SECONDS_A_DAY);
    Some((seconds == 0 && at.timestamp_subsec_nanos() == 0).then_some(days))
}

/// The time of day in units of which a second has `units`; `Some(None)` where it is finer.
/// `None`: no time.
fn time(text: &str, units: i64) -> Option<Option<i64>> {
    let nanos = Time64NanosecondType::parse(text)?;
    Some(in_units(nanos, units).filter(|_| !is_finer_than_nanos(text)))
}

/// Units since 1970, of which a second has `units`; `Some(None)` where it is finer.
/// `None`: no instant.
fn instant(text: &str, zone: &Tz, units: i64) -> Option<Option<i64>> {
    let at = string_to_datetime(zone, text).ok()?;
    let part = in_units(at.timestamp_subsec_nanos().into(), units);
    let seconds = at.timestamp().checked_mul(units);
    let part = part.filter(|_| !is_finer_than_nanos(text));
    Some(part.and_then(|part| seconds?.checked_add(part)))
}

/// Whether there are digits behind the nanoseconds, which Arrow's parsers leave out.
fn is_finer_than_nanos(text: &str) -> bool {
    let behind = text.split_once('.').map_or("", |(_, behind)| behind);
    let digits = behind.bytes().take_while(u8::is_ascii_digit);
    digits.skip(NANO_DIGITS).any(|digit| digit != b'0')
}

fn in_units(nanos: i64, units: i64) -> Option<i64> {
    let unit = NANOS_A_SECOND / units;
    (nanos % unit == 0).then_some(nanos / unit)
}
