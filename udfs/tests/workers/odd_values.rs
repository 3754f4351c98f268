//! What user code may return that is no value of its type, or that pyarrow would
//! change without a word: it comes out right, or is refused as the author's error.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::*;
use arrow::datatypes::*;
use mobula_udfs::{CallMode, OnError, UdfError, UdfErrorClass};

use crate::bench::*;

pub fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

pub fn struct_of(name: &str, kind: DataType) -> DataType {
    DataType::Struct(vec![Field::new(name, kind, true)].into())
}

/// One value a row of `kind`, as `returned` gives it, `x` a list of 0, 1, …
fn returning(kind: DataType, returned: &str) -> Case {
    let body = format!(
        "
import datetime, decimal, fractions
import numpy as np
import pyarrow as pa
def f(x):
    x = x.tolist()
    return {returned}"
    );
    Case::scalar("f", &[("x", DataType::Int64)], kind, &body)
}

#[tokio::test]
async fn list_views_are_lists_at_every_depth() {
    let (ints, texts) = (list_of(DataType::Int64), list_of(DataType::Utf8));
    let manager = manager();
    for (kind, arrow, value) in [
        (
            &ints,
            "pa.large_list_view(pa.int64())",
            "[10 * i, 10 * i + 1]",
        ),
        (
            &ints,
            "pa.list_view(pa.int32())",
            "None if i % 3 == 1 else [i, None][: i % 3]",
        ),
        (
            &texts,
            "pa.list_view(pa.string())",
            "[str(i) * i, None, 'é']",
        ),
        (
            &list_of(ints.clone()),
            "pa.list_view(pa.large_list_view(pa.int64()))",
            "[[i], None, [i, i + 1]]",
        ),
        (
            &list_of(texts.clone()),
            "pa.list_(pa.list_view(pa.string()))",
            "[[str(i)], [], None]",
        ),
        (
            &struct_of("a", texts.clone()),
            "pa.struct([('a', pa.list_view(pa.string()))])",
            "None if i == 2 else {'a': [str(i)]}",
        ),
    ] {
        // As it is, a part of a longer one, and in pieces.
        for taken in [
            "{made}",
            "pa.concat_arrays([{made}, {made}])[len(x):]",
            "pa.chunked_array([{made}[:2], {made}[2:]])",
        ] {
            let made = format!("pa.array([{value} for i in x], {arrow})");
            let views = returning(kind.clone(), &taken.replace("{made}", &made));
            let lists = returning(kind.clone(), &format!("[{value} for i in x]"));
            let out = run(&views.pool(&manager, 1), counting(5)).await;
            let out = out.unwrap_or_else(|e| panic!("{arrow}: {e}"));
            let expected = run(&lists.pool(&manager, 1), counting(5)).await.unwrap();
            assert_eq!(out, expected, "{arrow}");
        }
    }
    manager.shutdown().await;
    let astray = "pa.ListViewArray.from_arrays(pa.array([0, 9], pa.int32()), pa.array([1, 1], pa.int32()), pa.array([1, 2]))";
    let error = returning(ints, astray).fails(counting(2)).await;
    assert_eq!(error.class(), UdfErrorClass::User, "{error}");
    assert!(
        error.to_string().contains("Index 9 out of bounds"),
        "{error}"
    );
}

/// Texts that are none, where `x` has a 3.
const BROKEN: &str =
    "pa.array([b'\\xff' if i == 3 else b'ok' for i in x], pa.binary()).view(pa.string())";

#[tokio::test]
async fn what_is_not_valid_is_the_authors_error() {
    let manager = manager();
    let values = returning(DataType::Utf8, BROKEN);
    let pool = values.pool(&manager, 1);
    let error = run(&pool, counting(5)).await.unwrap_err();
    let expected = "function \"f\" returned values that are no valid Utf8: ";
    assert!(error.to_string().starts_with(expected), "{error}");
    assert_eq!(error.class(), UdfErrorClass::User);
    assert_eq!(run(&pool, counting(3)).await.unwrap().num_rows(), 3);
    assert_eq!(pool.stats().workers_started, 1, "it heard the answer out");
    manager.shutdown().await;
}

#[tokio::test]
async fn the_column_that_is_not_valid_is_named() {
    let columns = [("a", DataType::Int64), ("l", list_of(DataType::Int64))];
    // Without an end: nobody waits for it.
    let body = "
import pyarrow as pa
def f(rows):
    astray = pa.ListArray.from_arrays(pa.array([0, 5, 2], pa.int32()), pa.array([1, 2]))
    while True:
        yield {'a': [1, 2], 'l': astray}";
    let case = Case::table("f", &columns, body);
    let manager = manager();
    let pool = case.pool(&manager, 1);
    let error = run(&pool, counting(1)).await.unwrap_err();
    let expected = "function \"f\" returned column \"l\" as values that are no valid List(Int64): ";
    assert!(error.to_string().starts_with(expected), "{error}");
    assert_eq!(error.class(), UdfErrorClass::User);
    run(&pool, counting(1)).await.unwrap_err();
    manager.shutdown().await;
}

#[tokio::test]
async fn rows_that_are_not_valid_are_lost_alone() {
    let manager = manager();
    let values = returning(DataType::Utf8, BROKEN).immutable();
    let table = "
import pyarrow as pa
def f(rows):
    x = rows['x'].tolist()
    return {'t': TEXTS}";
    let table = Case::table(
        "f",
        &[("t", DataType::Utf8)],
        &table.replace("TEXTS", BROKEN),
    );
    for (case, rows) in [(values, 5), (table.immutable(), 4)] {
        let pool = case.on_error(OnError::DeadLetter).pool(&manager, 1);
        let (out, failed) = run_whole(&pool, counting(5)).await.unwrap();
        assert_eq!(out.num_rows(), rows);
        let [row] = &failed[..] else {
            panic!("{failed:?}")
        };
        let reason = row.reason.as_ref().unwrap();
        assert_eq!((row.row, reason.error_type.as_str()), (3, "Refused"));
        assert!(reason.message.contains("no valid string"), "{reason:?}");
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn what_is_raised_while_values_are_read_is_the_authors_error() {
    let classes = "
class Array:
    def __array__(self, *a, **k): raise BaseException('boom')
    def __len__(self): return 1
class Items(list):
    def __iter__(self): raise KeyboardInterrupt('boom')
class Index:
    def __index__(self): raise SystemExit('boom')
class Frame:
    @property
    def columns(self): raise BaseException('boom')
    def __arrow_c_stream__(self, schema=None): pass
class Keys(dict):
    def keys(self): raise BaseException('boom')
";
    let manager = manager();
    let mut cases = vec![];
    for (made, known) in [
        (
            "Array()",
            "returned a Array that cannot be read: BaseException: boom",
        ),
        (
            "Items([1])",
            "returned a Items that cannot be read: KeyboardInterrupt: boom",
        ),
        (
            "[Index()]",
            "returned values that are not int64: Could not convert",
        ),
    ] {
        let body = format!("{classes}def f(x): return {made}");
        cases.push((Case::ints("f", &body), known));
    }
    let table = format!("{classes}def f(rows): return Frame()");
    cases.push((
        Case::table("f", &[("y", DataType::Int64)], &table),
        "BaseException: boom",
    ));
    let rows = format!("{classes}def f(row): return [Keys(y=1)]");
    let rows = Case::table("f", &[("y", DataType::Int64)], &rows).by_row(CallMode::FlatMap);
    cases.push((
        rows,
        "returned a Keys that cannot be read: BaseException: boom",
    ));
    for (case, known) in cases {
        let pool = case.pool(&manager, 1);
        let error = run(&pool, counting(1)).await.unwrap_err();
        assert!(error.to_string().contains(known), "{error}");
        assert_eq!(error.class(), UdfErrorClass::User, "{error}");
    }
    assert_eq!(manager.workers().len(), 1, "one worker lived through all");
    manager.shutdown().await;
}

#[tokio::test]
async fn a_panic_of_polars_is_an_error_in_words() {
    let kind = DataType::Decimal256(60, 2);
    let wide = Decimal256Array::from(vec![i256::from(15)]);
    let wide: ArrayRef = Arc::new(wide.with_precision_and_scale(60, 2).unwrap());
    let mut case = Case::table(
        "f",
        &[("y", DataType::Int64)],
        "def f(rows): return {'y': [1]}",
    );
    case.input = Arc::new(Schema::new(vec![Field::new("x", kind, true)]));
    let block = RecordBatch::try_new(Arc::clone(&case.input), vec![wide]).unwrap();
    let case = case.in_format(mobula_udfs::BatchFormat::Polars);
    let error = case.fails(block).await;
    let expected = "function \"f\" cannot be given a batch of \"x\" decimal256(60, 2) in batch_format 'polars': ";
    assert!(error.to_string().starts_with(expected), "{error}");
    assert_eq!(error.class(), UdfErrorClass::User);
}

#[tokio::test]
async fn values_that_would_lose_something_are_refused() {
    let time = DataType::Time64(TimeUnit::Nanosecond);
    let zoned = "datetime.time(1, tzinfo=datetime.timezone.utc)";
    for (kind, value, expected) in [
        (
            DataType::Int64,
            "fractions.Fraction(7, 2)",
            "int64: Fraction(7, 2) is not a whole number",
        ),
        (
            list_of(DataType::Int32),
            "[1, fractions.Fraction(7, 2)]",
            "list<item: int32>: Fraction(7, 2) is not",
        ),
        (
            struct_of("a", DataType::Int64),
            "{'a': fractions.Fraction(7, 2)}",
            "Fraction(7, 2) is not",
        ),
        (
            time.clone(),
            zoned,
            "has a time zone. Return value.replace(tzinfo=None)",
        ),
        (
            list_of(time.clone()),
            &format!("[{zoned}]"),
            "has a time zone",
        ),
        (
            DataType::Float64,
            "decimal.Decimal('0.1')",
            "double: Decimal('0.1') is a Decimal. Return float(value)",
        ),
    ] {
        let error = returning(kind, &format!("[{value}] * len(x)"))
            .fails(counting(2))
            .await;
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.class(), UdfErrorClass::User);
    }
    // One that no type holds beside the others, and whole ones.
    let mixed = returning(DataType::Int64, "[1.5, decimal.Decimal('2.5')]");
    let error = mixed.fails(counting(2)).await.to_string();
    assert!(error.contains("1.5 is not a whole number"), "{error}");
    let whole = returning(DataType::Int64, "[fractions.Fraction(8, 2), np.array(3)]");
    let out = whole.once(counting(2)).await.unwrap();
    assert_eq!(values(&out), [Some(4), Some(3)]);
}

#[tokio::test]
async fn a_duration_is_no_number_of_days() {
    let kind = DataType::Interval(IntervalUnit::MonthDayNano);
    let hours = 30 * 3_600 * 1_000_000_000;
    let delta = "datetime.timedelta(hours=30)";
    let plain = returning(
        kind.clone(),
        &format!("[{delta}, None, pa.MonthDayNano([1, 2, 3])]"),
    );
    let out = plain.once(counting(3)).await.unwrap();
    let found = out.column(0).as_primitive::<IntervalMonthDayNanoType>();
    let nano = IntervalMonthDayNano::new;
    assert_eq!(
        found.iter().collect::<Vec<_>>(),
        [Some(nano(0, 0, hours)), None, Some(nano(1, 2, 3))]
    );
    let nested = returning(list_of(kind), &format!("[[-{delta}]]"));
    let out = nested.once(counting(1)).await.unwrap();
    let list = out.column(0).as_list::<i32>().value(0);
    let found = list.as_primitive::<IntervalMonthDayNanoType>();
    assert_eq!(found.value(0), nano(0, 0, -hours));
}

#[tokio::test]
async fn a_body_that_hangs_is_given_its_own_time() {
    let mut case = Case::ints("f", "\nimport time\ntime.sleep(600)\ndef f(x): return x");
    case.spec.defaults.init_timeout = Some(Duration::from_millis(500));
    let manager = manager();
    let error = manager.describe(&case.spec).await.unwrap_err();
    assert!(matches!(error, UdfError::TimedOut { .. }), "{error}");
    assert!(error.to_string().contains("`init_timeout`"), "{error}");
    manager.shutdown().await;
}

#[tokio::test]
async fn control_characters_of_an_exception_are_shown() {
    let body = "\ndef f(x):\n\traise ValueError('a\\0b\\x1b[1m\\nc')";
    let error = Case::ints("f", body).fails(counting(1)).await;
    assert!(
        error
            .to_string()
            .contains("ValueError: a\\x00b\\x1b[1m c (line 3"),
        "{error}"
    );
    let traceback = error.traceback().unwrap();
    assert!(traceback.contains("a\\x00b\\x1b[1m\nc"), "{traceback}");
}
