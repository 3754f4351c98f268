//! What a batch is in user code, format by format.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Float64Type};
use mobula_udfs::{BatchFormat, UdfErrorClass};

use crate::bench::*;

/// What a table argument and an array are, by format: two Python expressions.
const KINDS: [(BatchFormat, &str, &str); 5] = [
    (BatchFormat::Numpy, "dict", "__import__('numpy').ndarray"),
    (
        BatchFormat::Pyarrow,
        "__import__('pyarrow').RecordBatch",
        "__import__('pyarrow').Array",
    ),
    (
        BatchFormat::Pandas,
        "__import__('pandas').DataFrame",
        "__import__('pandas').Series",
    ),
    (
        BatchFormat::Polars,
        "__import__('polars').DataFrame",
        "__import__('polars').Series",
    ),
    (BatchFormat::Rows, "list", "list"),
];

/// Columns `i`, `f` and `s`, with NULLs, a NaN and texts.
fn mixed() -> RecordBatch {
    let i: ArrayRef = Arc::new(Int64Array::from(vec![Some(i64::MAX), None, Some(3)]));
    let f: ArrayRef = Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(0.5), None]));
    let s: ArrayRef = Arc::new(StringArray::from(vec![Some("ä"), None, Some("")]));
    RecordBatch::try_from_iter_with_nullable([("i", i, true), ("f", f, true), ("s", s, true)])
        .unwrap()
}

fn table(body: &str) -> Case {
    let columns = [
        ("i", DataType::Int64),
        ("f", DataType::Float64),
        ("s", DataType::Utf8),
    ];
    let mut case = Case::table("f", &columns, body);
    case.input = mixed().schema();
    case
}

#[tokio::test]
async fn a_batch_is_what_its_format_says_and_comes_back_as_it_went() {
    for (format, kind, array) in KINDS {
        let body = format!(
            "def f(t):\n    assert isinstance(t, {kind}), type(t)\n    {}\n    return t",
            match format {
                BatchFormat::Rows => "assert t[1] == {'i': None, 'f': 0.5, 's': None}, t",
                _ => "assert len(t['i']) == 3",
            }
        );
        for rows in [3, 1, 0] {
            let block = mixed().slice(0, rows);
            let body = match rows {
                3 => body.clone(),
                _ => "def f(t): return t".to_owned(),
            };
            let out = table(&body).in_format(format).once(block.clone()).await;
            let out = out.unwrap_or_else(|e| panic!("{format}: {e}"));
            assert_eq!(out.num_rows(), rows, "{format}");
            if rows > 0 {
                assert_eq!(format!("{out:?}"), format!("{block:?}"), "{format}");
            }
        }
        let body = format!("def f(x):\n    assert isinstance(x, {array}), type(x)\n    return x");
        for block in [counting(4), ints([None, Some(2)]), counting(0)] {
            let case = Case::ints("f", &body).in_format(format);
            let out = case.once(block.clone()).await;
            let out = out.unwrap_or_else(|e| panic!("{format}: {e}"));
            assert_eq!(values(&out), values(&block), "{format}");
        }
    }
}

#[tokio::test]
async fn missing_in_pandas_is_null() {
    // What user code makes in pandas's own type; NaN that came in stays NaN.
    let f: ArrayRef = Arc::new(Float64Array::from(vec![0.0, 1.0]));
    let block = RecordBatch::try_from_iter_with_nullable([("x", f, true)]).unwrap();
    let case = Case::scalar(
        "f",
        &[("x", DataType::Float64)],
        DataType::Float64,
        "def f(x): return x.where(x > 0) * 2",
    );
    let out = case
        .in_format(BatchFormat::Pandas)
        .once(block)
        .await
        .unwrap();
    let out = out.column(0).as_primitive::<Float64Type>();
    assert!(out.is_null(0) && out.value(1) == 2.0);
}

#[tokio::test]
async fn rows_are_dicts_given_as_a_list_or_one_by_one() {
    let manager = manager();
    for body in [
        "def f(rows): return [{'y': r['x'] + 1} for r in rows if r['x'] % 2]",
        "def f(rows):\n    for r in rows:\n        if r['x'] % 2:\n            yield {'y': r['x'] + 1}",
    ] {
        let case = Case::table("f", &[("y", DataType::Int64)], body).in_format(BatchFormat::Rows);
        let out = case.once(counting(20_000)).await.unwrap();
        let expected: Vec<_> = (0..20_000)
            .filter(|x| x % 2 == 1)
            .map(|x| Some(x + 1))
            .collect();
        assert_eq!(values(&out), expected);
    }
    // A generator is read in parts: the first come before it ends.
    let body = "def f(rows):\n    for i in range(10**9):\n        yield {'y': i}";
    let case = Case::table("f", &[("y", DataType::Int64)], body).in_format(BatchFormat::Rows);
    let mut stream = case.pool(&manager, 1).call(counting(1)).await.unwrap();
    let first = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(first.num_rows(), 8192);
    drop(stream);
    // One dict alone is one row.
    let case = Case::table(
        "f",
        &[("y", DataType::Int64)],
        "def f(rows): return {'y': 7}",
    );
    let out = case
        .in_format(BatchFormat::Rows)
        .once(counting(3))
        .await
        .unwrap();
    assert_eq!(values(&out), [Some(7)]);
    manager.shutdown().await;
}

#[tokio::test]
async fn rows_that_do_not_fit_say_how() {
    for (body, part) in [
        (
            "return [{'y': 1}, {'z': 2}]",
            "gave a row with the keys z. Declared: y",
        ),
        ("return [{'y': 1}, {}]", "gave a row with the keys none"),
        (
            "return [1, 2]",
            "gave 1 value (int) where a row is declared. Give dicts with the keys y",
        ),
        (
            "return 'text'",
            "returned 1 value (str), but rows are declared",
        ),
        ("return [{'y': 'text'}]", "returned column \"y\" as"),
        ("yield {'y': 1}\n    raise KeyError('k')", "KeyError"),
    ] {
        let body = format!("def f(rows):\n    {body}");
        let case = Case::table("f", &[("y", DataType::Int64)], &body).in_format(BatchFormat::Rows);
        let error = case.fails(counting(2)).await;
        assert_eq!(error.class(), UdfErrorClass::User);
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test]
async fn parts_of_every_format_may_be_mixed() {
    let body = "
import pandas, polars, pyarrow
def f(t):
    yield t
    yield t.to_pandas()
    yield polars.from_arrow(t)
    yield {'i': [1], 'f': [None], 's': ['x']}";
    let manager = manager();
    let pool = table(body).pyarrow().pool(&manager, 1);
    let out = run(&pool, mixed().slice(2, 1)).await.unwrap();
    assert_eq!(values(&out), [Some(3), Some(3), Some(3), Some(1)]);
    manager.shutdown().await;
}
