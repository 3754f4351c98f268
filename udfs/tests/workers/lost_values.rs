//! Values of which a part would be lost without a word on their way to Arrow, alone or
//! beside others, at every depth: they come out as they are meant, or are refused.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::*;
use mobula_udfs::{BatchFormat, UdfErrorClass, WorkerManager};

use crate::bench::*;
use crate::odd_values::{list_of, struct_of};

const STAMP: DataType = DataType::Timestamp(TimeUnit::Nanosecond, None);
const TIME: DataType = DataType::Time64(TimeUnit::Nanosecond);
const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

/// Two rows of `kind`, as `returned` gives them.
fn returning(kind: &DataType, returned: &str) -> Case {
    let body = format!(
        "
import datetime, decimal
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
day, noon = datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1, 12)
midnight, hours = datetime.datetime(2020, 1, 1), datetime.timedelta(hours=30)
east = datetime.timezone(datetime.timedelta(hours=5))
def f(x):
    return {returned}"
    );
    Case::scalar("f", &[("x", DataType::Int64)], kind.clone(), &body)
}

/// Checks that `returned` gives the same rows as `plain`.
async fn is_as(manager: &Arc<WorkerManager>, kind: &DataType, returned: &str, plain: &str) {
    let out = run(&returning(kind, returned).pool(manager, 1), counting(2)).await;
    let out = out.unwrap_or_else(|e| panic!("{kind}, {returned}: {e}"));
    let expected = run(&returning(kind, plain).pool(manager, 1), counting(2)).await;
    assert_eq!(out, expected.unwrap(), "{kind}, {returned}");
}

/// Checks that `returned` is refused with a text that contains `expected`.
async fn is_refused(manager: &Arc<WorkerManager>, kind: &DataType, returned: &str, expected: &str) {
    let out = run(&returning(kind, returned).pool(manager, 1), counting(2)).await;
    let error = match out {
        Err(error) => error,
        Ok(out) => panic!("{kind}, {returned}: {out:?}"),
    };
    assert_eq!(error.class(), UdfErrorClass::User, "{error}");
    assert!(error.to_string().contains(expected), "{returned}: {error}");
}

#[tokio::test]
async fn what_means_missing_in_pandas_is_null() {
    let manager = manager();
    for kind in [
        DataType::Date32,
        STAMP,
        DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into())),
        TIME,
        INTERVAL,
        DataType::Int64,
        DataType::Float64,
        DataType::Boolean,
        DataType::Utf8,
        DataType::Decimal128(5, 2),
    ] {
        is_as(&manager, &kind, "[pd.NaT, pd.NA]", "[None, None]").await;
        let list = list_of(kind.clone());
        is_as(&manager, &list, "[[pd.NaT], pd.NA]", "[[None], None]").await;
        let fields = ("[{'a': pd.NaT}, {'a': pd.NA}]", "[{'a': None}] * 2");
        is_as(&manager, &struct_of("a", kind), fields.0, fields.1).await;
    }
    for (kind, returned, plain) in [
        (DataType::Date32, "[day, pd.NaT]", "[day, None]"),
        (DataType::Int64, "[pd.NA, 2]", "[None, 2]"),
        (DataType::Int64, "[np.ma.masked, 2]", "[None, 2]"),
        (
            DataType::Date32,
            "pd.Series([pd.NaT, day], dtype=object)",
            "[None, day]",
        ),
        (
            list_of(DataType::Date32),
            "[[day, pd.NaT], [pd.NaT, day]]",
            "[[day, None], [None, day]]",
        ),
        (
            struct_of("a", DataType::Date32),
            "[{'a': day}, {'a': pd.NaT}]",
            "[{'a': day}, {'a': None}]",
        ),
    ] {
        is_as(&manager, &kind, returned, plain).await;
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn a_date_takes_no_time_of_day() {
    let manager = manager();
    let (days, fields) = (list_of(DataType::Date32), struct_of("a", DataType::Date32));
    for (kind, returned) in [
        (&DataType::Date32, "[day, noon]"),
        (&DataType::Date32, "[noon, noon]"),
        (&DataType::Date32, "[day, pd.Timestamp(1)]"),
        (&DataType::Date32, "pd.Series([day, noon], dtype=object)"),
        (&DataType::Date32, "pa.array([midnight, noon])"),
        (&days, "[[noon], None]"),
        (&days, "[[day], [day, noon]]"),
        (&days, "pa.array([[noon], None])"),
        (&fields, "[{'a': noon}, {'a': noon}]"),
        (&fields, "[{'a': day}, {'a': noon}]"),
        (&fields, "pa.array([{'a': noon}, None])"),
    ] {
        is_refused(&manager, kind, returned, "time of day").await;
    }
    for (kind, returned, plain) in [
        (&DataType::Date32, "[day, midnight]", "[day, day]"),
        (
            &DataType::Date32,
            "[midnight.replace(tzinfo=east), None]",
            "[day, None]",
        ),
        (&days, "pa.array([[midnight], None])", "[[day], None]"),
        (&fields, "[{'a': midnight}, None]", "[{'a': day}, None]"),
    ] {
        is_as(&manager, kind, returned, plain).await;
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn a_timestamp_takes_no_zone() {
    let manager = manager();
    let way_out =
        "has a time zone. Return value.replace(tzinfo=None), or declare TIMESTAMP WITH TIME ZONE";
    for (kind, returned, expected) in [
        (STAMP, "[noon.replace(tzinfo=east)] * 2", way_out),
        (STAMP, "[noon, noon.replace(tzinfo=east)]", way_out),
        (
            STAMP,
            "pd.Series([noon, noon.replace(tzinfo=east)], dtype=object)",
            way_out,
        ),
        (
            list_of(STAMP),
            "[[noon.replace(tzinfo=east)], None]",
            way_out,
        ),
        (
            STAMP,
            "pa.array([noon.replace(tzinfo=east), None])",
            "they have the time zone +05:00. Declare TIMESTAMP WITH TIME ZONE",
        ),
        (
            TIME,
            "pd.Series([datetime.time(1, tzinfo=east)] * 2)",
            "has a time zone. Return value.replace(tzinfo=None)",
        ),
    ] {
        is_refused(&manager, &kind, returned, expected).await;
    }
    let zoned = DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into()));
    let plain = "[noon - datetime.timedelta(hours=5), None]";
    for returned in ["[{}, None]", "pa.array([{}, None])"] {
        let returned = returned.replace("{}", "noon.replace(tzinfo=east)");
        is_as(&manager, &zoned, &returned, plain).await;
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn what_would_be_cut_or_counted_is_refused() {
    let manager = manager();
    for (kind, returned, expected) in [
        (
            struct_of("a", DataType::Float32),
            "[{'a': 1e300}, {'a': 2.0}]",
            "a value is too large",
        ),
        (
            struct_of("a", DataType::Float32),
            "pa.array([{'a': 1e300}, None])",
            "a value is too large",
        ),
        (
            struct_of("a", TIME),
            "[{'a': datetime.time(1), 'z': 5}] * 2",
            "z: int64>, but struct<a: time64[ns]> is declared",
        ),
        (
            list_of(struct_of("a", INTERVAL)),
            "[[{'a': hours, 'z': 5}], None]",
            "z: int64>>, but list<item: struct<a: month_day_nano_interval>> is declared",
        ),
        (
            struct_of("a", DataType::Int64),
            "[{'a': 1, 'z': 5}, {'a': 2, 'z': 'x'}]",
            "has a field 'z' that is not declared",
        ),
        (
            DataType::Int64,
            "[np.complex64(1 + 2j), 2]",
            "is not a whole number. Return int(value) to cut it",
        ),
        (
            list_of(DataType::Float64),
            "[[1.5, np.complex64(1 + 2j)], None]",
            "is a complex64. Return float(value)",
        ),
        (STAMP, "[1, noon]", "1 is of type int"),
        (
            DataType::Timestamp(TimeUnit::Microsecond, None),
            "[pd.Timestamp(1), None]",
            "has nanoseconds. Return value.floor('us')",
        ),
        (DataType::Date32, "[1.5, day]", "1.5 is of type float"),
    ] {
        is_refused(&manager, &kind, returned, expected).await;
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn arrays_with_values_out_of_range_are_refused() {
    let manager = manager();
    let wide = "pa.array([decimal.Decimal(10) ** 30, None], pa.decimal128(38, 2))";
    let wide = format!("pa.Array.from_buffers(pa.decimal128(5, 2), 2, {wide}.buffers())");
    let early = "pa.array([-1, 0]).view(pa.time64('ns'))";
    let listed = format!("pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), {early})");
    for (kind, returned, expected) in [
        (
            DataType::Decimal128(5, 2),
            wide.as_str(),
            "no valid decimal128(5, 2): ",
        ),
        (TIME, early, "no valid time64[ns]: "),
        (list_of(TIME), &listed, "no valid list<item: time64[ns]>: "),
    ] {
        is_refused(&manager, &kind, returned, expected).await;
    }
    let body = format!(
        "
import pyarrow as pa
def f(rows):
    return pa.record_batch([{early}], ['t'])"
    );
    let batch = Case::table("f", &[("t", TIME)], &body);
    let error = run(&batch.pool(&manager, 1), counting(2))
        .await
        .unwrap_err();
    let expected = "returned column \"t\" as values that are no valid time64[ns]: ";
    assert!(error.to_string().contains(expected), "{error}");
    manager.shutdown().await;
}

#[tokio::test]
async fn masks_hold_at_every_depth() {
    let manager = manager();
    let ints = list_of(DataType::Int64);
    let masked = "np.ma.array([1, 2], mask=[False, True])";
    for (kind, returned) in [
        (ints.clone(), "[{}, None]"),
        (list_of(ints.clone()), "[[{}], None]"),
        (list_of(ints.clone()), "pd.Series([[{}], None])"),
        (struct_of("a", ints.clone()), "[{'a': {}}, None]"),
        (list_of(struct_of("a", ints)), "[[{'a': {}}], None]"),
    ] {
        let plain = returned
            .replace("pd.Series(", "(")
            .replace("{}", "[1, None]");
        is_as(&manager, &kind, &returned.replace("{}", masked), &plain).await;
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn durations_of_every_library_are_intervals() {
    let manager = manager();
    for returned in [
        "pd.Series([hours, None])",
        "pd.Series([hours, None], dtype=object)",
        "pl.Series([hours, None])",
        "pa.array([hours, None])",
        "pa.array([None, hours, None], pa.duration('s'))[1:]",
        "np.array([30, 'NaT'], 'm8[h]')",
        "np.array([15, 'NaT'], 'm8[2h]')",
        "np.ma.array(np.array([108_000, 1], 'm8[s]'), mask=[False, True])",
        "[np.timedelta64(30, 'h'), pd.NaT]",
    ] {
        is_as(&manager, &INTERVAL, returned, "[hours, None]").await;
    }
    let (list, fields) = (list_of(INTERVAL), struct_of("a", INTERVAL));
    for (kind, plain) in [
        (list, "[[hours, None], None]"),
        (fields, "[{'a': hours}, {'a': None}]"),
    ] {
        is_as(&manager, &kind, &format!("pa.array({plain})"), plain).await;
    }
    let long = "np.array([2**62, 0], 'm8[W]')";
    is_refused(&manager, &INTERVAL, long, "a duration is too long").await;
    manager.shutdown().await;
}

#[tokio::test]
async fn texts_of_polars_are_texts() {
    let manager = manager();
    let (texts, fields) = (list_of(DataType::Utf8), struct_of("a", DataType::Utf8));
    let words = "pl.Series(['x', None], dtype=pl.Categorical)";
    let in_struct = format!("pl.DataFrame({{'a': {words}}}).to_struct('s')");
    for (kind, returned, plain) in [
        (&DataType::Utf8, words, "['x', None]"),
        (
            &DataType::Utf8,
            "pl.Series(['b', None], dtype=pl.Enum(['a', 'b']))",
            "['b', None]",
        ),
        (&fields, in_struct.as_str(), "[{'a': 'x'}, {'a': None}]"),
        (
            &texts,
            "pl.Series([['x', None], None], dtype=pl.List(pl.Categorical))",
            "[['x', None], None]",
        ),
        (
            &texts,
            "pa.array([['a', None], None], pa.list_view(pa.string_view()))",
            "[['a', None], None]",
        ),
    ] {
        is_as(&manager, kind, returned, plain).await;
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn polars_is_given_parts_of_vectors_with_null() {
    let vectors = FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>(
        [Some([1, 2]), None, Some([3, 4]), Some([5, 6]), None].map(|v| v.map(|v| v.map(Some))),
        2,
    );
    let vectors: ArrayRef = Arc::new(vectors);
    let block = RecordBatch::try_from_iter_with_nullable([("x", vectors, true)]).unwrap();
    let body = "
def f(rows):
    return {'y': [None if v is None else list(v)[1] for v in rows['x'].to_list()]}";
    let mut case = Case::table("f", &[("y", DataType::Int64)], body)
        .in_format(BatchFormat::Polars)
        .batches_of(2);
    case.input = block.schema();
    let out = case.once(block).await.unwrap();
    assert_eq!(values(&out), [Some(2), None, Some(4), Some(6), None]);
}
