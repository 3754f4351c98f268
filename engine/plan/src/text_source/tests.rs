//! Values that are made exact, and what is told of those that are not. Run by `cargo test`.

use std::io::ErrorKind;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, ListArray, StringArray, StructArray, UInt8Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use datafusion::datasource::listing::{FileRange, PartitionedFile};

use super::exact::{Lost, as_read, made_exact, schema_as_read};
use super::faults::Faults;
use super::{JsonLayout, TextFormat, TypesFrom, has_keys};

const JSON: TextFormat = TextFormat::Json(JsonLayout::Lines);

fn csv() -> TextFormat {
    TextFormat::Csv(Box::default())
}

fn texts(values: &[&str]) -> ArrayRef {
    let values = values.iter().map(|v| (!v.is_empty()).then_some(*v));
    Arc::new(values.collect::<StringArray>())
}

/// As text what `values` are as `into`, or the one that is lost.
fn made(values: &[&str], into: &DataType, format: &TextFormat) -> Result<Vec<String>, String> {
    let made = made_exact(&texts(values), into, format).map_err(|lost: Lost| lost.value)?;
    assert_eq!(made.data_type(), into);
    let shown = cast(&made, &DataType::Utf8).unwrap();
    let shown = shown.as_string::<i32>().iter();
    Ok(shown.map(|v| v.unwrap_or_default().to_owned()).collect())
}

fn timestamp(unit: TimeUnit) -> DataType {
    DataType::Timestamp(unit, None)
}

#[test]
fn dates_have_no_time_of_day() {
    let date = |text| made(&["", text], &DataType::Date32, &csv()).map(|mut v| v.remove(1));
    assert_eq!(date("2024-02-29"), Ok("2024-02-29".to_owned()));
    assert_eq!(date("2024-02-29 00:00:00"), Ok("2024-02-29".to_owned()));
    assert_eq!(date("2024-02-29T00:00:00Z"), Ok("2024-02-29".to_owned()));
    assert_eq!(date("+12024-02-29"), Ok("+12024-02-29".to_owned()));
    for lost in [
        "2024-02-29 00:00:01",
        "2024-02-29 00:00:00.000000001",
        "2024-02-29T00:00:00+02:00",
        "2024-02-30",
        "19782",
        "x",
    ] {
        assert_eq!(date(lost), Err(lost.to_owned()));
    }
}

#[test]
fn fractions_are_not_cut() {
    let at = "2024-02-29T10:20:30.123456";
    let same = |unit| made(&[at], &timestamp(unit), &csv());
    assert_eq!(same(TimeUnit::Microsecond), Ok(vec![at.to_owned()]));
    assert_eq!(same(TimeUnit::Millisecond), Err(at.to_owned()));
    assert_eq!(same(TimeUnit::Second), Err(at.to_owned()));
    let fine = |text| made(&[text], &timestamp(TimeUnit::Nanosecond), &csv()).is_ok();
    assert!(fine("2024-02-29T10:20:30.1234567890Z") && !fine("2024-02-29T10:20:30.1234567891Z"));
    assert!(!fine("1600-01-01T00:00:00"), "nanoseconds do not go so far");
    let whole = "1969-12-31T23:59:59";
    assert_eq!(
        made(&[whole], &timestamp(TimeUnit::Second), &csv()),
        Ok(vec![whole.to_owned()])
    );
    let zone = DataType::Timestamp(TimeUnit::Microsecond, Some("+02:00".into()));
    assert_eq!(
        made(
            &["2024-02-29 10:00:00", "2024-02-29 10:00:00Z"],
            &zone,
            &csv()
        ),
        Ok(vec![
            "2024-02-29T10:00:00+02:00".to_owned(),
            "2024-02-29T12:00:00+02:00".to_owned()
        ])
    );
    let time = DataType::Time32(TimeUnit::Millisecond);
    assert_eq!(
        made(&["12:00:00.5"], &time, &csv()),
        Ok(vec!["12:00:00.500".to_owned()])
    );
    assert_eq!(
        made(&["12:00:00.0005"], &time, &csv()),
        Err("12:00:00.0005".to_owned())
    );
}

#[test]
fn whole_numbers_of_json_have_no_fraction() {
    let number = |text, into| made(&[text], &into, &JSON).map(|mut v| v.remove(0));
    for (text, shown) in [
        ("-7", "-7"),
        ("7.0", "7"),
        ("1e3", "1000"),
        ("-0", "0"),
        ("9223372036854775807", "9223372036854775807"),
    ] {
        assert_eq!(number(text, DataType::Int64), Ok(shown.to_owned()));
    }
    assert_eq!(
        number("18446744073709551615", DataType::UInt64),
        Ok("18446744073709551615".to_owned())
    );
    assert_eq!(
        number("1e18", DataType::Int64),
        Ok("1000000000000000000".to_owned())
    );
    assert_eq!(
        number("9007199254740993.0", DataType::Int64),
        Ok("9007199254740993".to_owned())
    );
    for lost in [
        "1.5",
        "1e30",
        "9223372036854775808",
        "4503599627370497.4",
        "1.00000000000000000001",
        "true",
        "NaN",
        "inf",
    ] {
        assert_eq!(number(lost, DataType::Int64), Err(lost.to_owned()));
    }
    assert_eq!(number("300", DataType::UInt8), Err("300".to_owned()));
    assert_eq!(number("-1", DataType::UInt64), Err("-1".to_owned()));
}

#[test]
fn decimals_have_no_more_digits_than_there_is_room_for() {
    for declared in [
        DataType::Decimal64(6, 2),
        DataType::Decimal128(6, 2),
        DataType::Decimal256(6, 2),
    ] {
        let number = |text| made(&[text], &declared, &csv()).map(|mut v| v.remove(0));
        for (text, shown) in [
            ("1.239000e1", "12.39"),
            ("1.230", "1.23"),
            ("-.5", "-0.50"),
            ("7", "7.00"),
            ("700e-4", "0.07"),
            ("0e-9", "0.00"),
            ("0.000", "0.00"),
        ] {
            assert_eq!(number(text), Ok(shown.to_owned()));
        }
        for lost in [
            "1.239", "1e-3", "70001e-4", "12345.6", "1,5", "x", "NaN", "-",
        ] {
            assert_eq!(number(lost), Err(lost.to_owned()));
        }
    }
    let hundreds = DataType::Decimal128(6, -2);
    assert!(made(&["1200"], &hundreds, &csv()).is_ok());
    assert!(made(&["1250"], &hundreds, &csv()).is_err());
}

#[test]
fn numbers_of_json_are_days_and_instants() {
    assert_eq!(
        made(&["19782", "2024-02-29"], &DataType::Date32, &JSON),
        Ok(vec!["2024-02-29".to_owned(), "2024-02-29".to_owned()])
    );
    assert_eq!(
        made(&["1500"], &timestamp(TimeUnit::Millisecond), &JSON),
        Ok(vec!["1970-01-01T00:00:01.500".to_owned()])
    );
    assert_eq!(
        made(&["1.5"], &timestamp(TimeUnit::Second), &JSON),
        Err("1.5".to_owned())
    );
}

#[test]
fn nested_values_are_exact_and_keep_their_nulls() {
    let item = Arc::new(Field::new("item", DataType::UInt8, true));
    let list = DataType::List(Arc::clone(&item));
    let fields = vec![
        Field::new("l", list, true),
        Field::new("s", DataType::Utf8, true),
    ];
    let declared = DataType::Struct(fields.into());
    let DataType::Struct(read) = as_read(&declared, &JSON) else {
        panic!("a struct is read as one");
    };
    assert_eq!(as_read(&declared, &csv()), declared);
    let of = |values: &[&str]| {
        let text = Arc::new(Field::new("item", DataType::Utf8, true));
        let offsets = arrow::buffer::OffsetBuffer::from_lengths([values.len(), 0]);
        let nulls = arrow::buffer::NullBuffer::from(vec![true, false]);
        let list = ListArray::new(text, offsets, texts(values), Some(nulls));
        let each: Vec<ArrayRef> = vec![Arc::new(list), texts(&["a", "b"])];
        Arc::new(StructArray::new(read.clone(), each, None)) as ArrayRef
    };
    let made = made_exact(&of(&["1", "", "3"]), &declared, &JSON).unwrap();
    let made = made.as_struct();
    let lists = made.column(0).as_list::<i32>();
    assert!(lists.is_null(1));
    let expected: ArrayRef = Arc::new(UInt8Array::from(vec![Some(1), None, Some(3)]));
    assert_eq!(&lists.value(0), &expected);
    assert_eq!(made.column(1), &texts(&["a", "b"]));
    let lost = made_exact(&of(&["1", "256"]), &declared, &JSON).unwrap_err();
    assert_eq!(lost.value, "256");
    assert_eq!(lost.into, DataType::UInt8);
}

#[test]
fn what_readers_take_as_it_is_they_read() {
    let schema = Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
        Field::new("at", timestamp(TimeUnit::Nanosecond), true),
    ]));
    let read: Vec<_> = schema_as_read(&schema, &csv())
        .fields()
        .iter()
        .map(|f| f.data_type().clone())
        .collect();
    assert_eq!(read, [DataType::Int64, DataType::Float64, DataType::Utf8]);
    assert_eq!(
        schema_as_read(&schema, &JSON).field(0).data_type(),
        &DataType::Utf8
    );
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    assert_eq!(
        made_exact(&numbers, &DataType::Int64, &csv())
            .unwrap()
            .as_ref(),
        numbers.as_ref()
    );
    assert!(has_keys(&DataType::new_list(
        DataType::Struct(Fields::empty()),
        true
    )));
    assert!(!has_keys(&DataType::new_list(DataType::Int64, true)));
}

#[test]
fn faults_name_file_and_way_out() {
    let explain = |error| {
        let faults = Faults::new(
            &PartitionedFile::new("d/x.json", 1),
            &JSON,
            TypesFrom::FirstRows(9),
        );
        let error = DataFusionError::ArrowError(Box::new(error), None);
        faults.explain(error).strip_backtrace()
    };
    let key =
        ArrowError::JsonError("whilst decoding field 's': column 'b' missing from schema".into());
    assert_eq!(
        explain(key),
        "Arrow error: Json error: the key \"b\" of the JSON file /d/x.json is no column: it is not in the rows that were looked at. \
         Columns are those of the first 9 rows: say them by schema, or look at more by infer_rows"
    );
    let syntax = explain(ArrowError::JsonError("Encountered unexpected 'x'".into()));
    assert!(syntax.ends_with("'x', in the file /d/x.json"), "{syntax}");
    let mut part = PartitionedFile::new("d/x.csv", 9);
    part.range = Some(FileRange { start: 5, end: 9 });
    let part = Faults::new(&part, &csv(), TypesFrom::Declaration);
    let parse = ArrowError::ParseError("no number at line 2".into());
    let text = part.explain(DataFusionError::ArrowError(Box::new(parse), None));
    let text = text.strip_backtrace();
    assert!(
        text.contains("at line 2, in the file /d/x.csv (lines counted from byte 5 on). Declare"),
        "{text}"
    );
    let cut = std::io::Error::new(ErrorKind::InvalidData, "incomplete deflate stream");
    let cut = part.explain(cut.into()).strip_backtrace();
    assert!(
        cut.ends_with("incomplete deflate stream, in the file /d/x.csv"),
        "{cut}"
    );
    let other = explain(ArrowError::ComputeError("no".into()));
    assert!(
        other.starts_with("Arrow error: Compute error: no"),
        "{other}"
    );
}
