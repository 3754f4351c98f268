//! Functions called row by row: what a row is, what it may give, what is refused.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema};
use mobula_udfs::{CallMode, OnError, Param, ParamKind, UdfErrorClass};

use crate::bench::*;

/// `a` 1, NULL, 3 and `s` "x", "y", NULL.
fn mixed() -> RecordBatch {
    let a: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), None, Some(3.0)]));
    let s: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), Some("y"), None]));
    RecordBatch::try_from_iter_with_nullable([("a", a, true), ("s", s, true)]).unwrap()
}

/// A table function over [`mixed`] that gives `(a DOUBLE, n BIGINT)`.
fn table(body: &str, mode: CallMode) -> Case {
    let columns = [("a", DataType::Float64), ("n", DataType::Int64)];
    let mut case = Case::table("f", &columns, body).by_row(mode);
    case.input = mixed().schema();
    case
}

/// A filter over [`mixed`], of a dict.
fn filter(body: &str) -> Case {
    let mut case = Case::scalar("f", &[], DataType::Boolean, body).by_row(CallMode::Filter);
    case.spec.params = vec![Param {
        name: "row".into(),
        kind: ParamKind::Table,
    }];
    case.input = mixed().schema();
    case
}

#[tokio::test]
async fn map_gets_plain_values_and_gives_one() {
    let body = "
def f(x):
    assert x is None or type(x) is int, type(x)
    return 7 if x is None else x * 2";
    let case = Case::ints("f", body).by_row(CallMode::Map);
    let out = case.once(ints([Some(1), None, Some(3)])).await.unwrap();
    assert_eq!(values(&out), [Some(2), Some(7), Some(6)]);
    // Rows with NULL are not passed to a STRICT one.
    let out = case
        .strict()
        .batches_of(2)
        .once(ints([Some(1), None, Some(3)]))
        .await
        .unwrap();
    assert_eq!(values(&out), [Some(2), None, Some(6)]);
    let two = [("x", DataType::Int64), ("y", DataType::Int64)];
    let add = Case::scalar("f", &two, DataType::Int64, "def f(x, y): return x + y");
    let block = RecordBatch::try_from_iter([
        ("x", Arc::clone(counting(3).column(0))),
        ("y", Arc::clone(counting(3).column(0))),
    ]);
    let out = add
        .by_row(CallMode::Map)
        .once(block.unwrap())
        .await
        .unwrap();
    assert_eq!(values(&out), [Some(0), Some(2), Some(4)]);
}

#[tokio::test]
async fn a_class_is_called_row_by_row_in_order() {
    let body = "
class f:
    def __init__(self): self.sum = 0
    def __call__(self, x):
        self.sum += x
        return self.sum";
    let case = Case::ints("f", body).class().by_row(CallMode::Map);
    let out = case.batches_of(2).once(counting(5)).await.unwrap();
    assert_eq!(values(&out), [0, 1, 3, 6, 10].map(Some));
}

#[tokio::test]
async fn map_of_a_dict_gives_a_dict() {
    let body = "
def f(row):
    return {'n': len(row['s'] or ''), 'a': row['a']}";
    let out = table(body, CallMode::Map).once(mixed()).await.unwrap();
    assert_eq!(
        out.column(0)
            .as_primitive::<Float64Type>()
            .iter()
            .collect::<Vec<_>>(),
        [Some(1.0), None, Some(3.0)]
    );
    assert_eq!(
        out.column(1)
            .as_primitive::<Int64Type>()
            .iter()
            .collect::<Vec<_>>(),
        [Some(1), Some(1), Some(0)]
    );
}

#[tokio::test]
async fn flat_map_gives_any_number_of_dicts() {
    for body in [
        "def f(row): return [{'a': row['a'], 'n': i} for i in range(int(row['a'] or 0))]",
        "\ndef f(row):\n    for i in range(int(row['a'] or 0)):\n        yield {'a': row['a'], 'n': i}",
    ] {
        let out = table(body, CallMode::FlatMap).once(mixed()).await.unwrap();
        assert_eq!(
            out.column(1).as_primitive::<Int64Type>().values(),
            &[0, 0, 1, 2]
        );
    }
}

#[tokio::test]
async fn filter_gives_whether_a_row_stays() {
    let body = "
def f(row):
    return None if row['s'] is None else row['a'] is not None";
    let out = filter(body).once(mixed()).await.unwrap();
    let expected = BooleanArray::from(vec![Some(true), Some(false), None]);
    assert_eq!(out.column(0).as_boolean(), &expected);
    // Of a row it is asked as Python asks.
    let body = "def f(row): return row['s'] and [1] * int(row['a'] or 0)";
    let out = filter(body).once(mixed()).await.unwrap();
    let expected = BooleanArray::from(vec![Some(true), Some(false), None]);
    assert_eq!(out.column(0).as_boolean(), &expected);
    let values = Case::scalar(
        "f",
        &[("x", DataType::Int64)],
        DataType::Boolean,
        "def f(x): return x > 0",
    );
    let out = values
        .by_row(CallMode::Filter)
        .once(counting(2))
        .await
        .unwrap();
    assert_eq!(
        out.column(0).as_boolean(),
        &BooleanArray::from(vec![false, true])
    );
}

#[tokio::test]
async fn rows_are_read_when_they_are_given() {
    let head = "
again = {'a': 0.0, 'n': 0}
def f(row):";
    let map = format!(
        "{head}
    again['a'], again['n'] = row['a'], 7 if row['s'] is None else len(row['s'])
    return again"
    );
    let flat = format!(
        "{head}
    for n in range(2):
        again['a'], again['n'] = row['a'], n
        yield again"
    );
    for (case, n) in [
        (table(&map, CallMode::Map), vec![1, 1, 7]),
        (table(&flat, CallMode::FlatMap), vec![0, 1, 0, 1, 0, 1]),
    ] {
        for case in [case.clone().on_error(OnError::Drop), case] {
            let out = case.once(mixed()).await.unwrap();
            let column = out.column(1).as_primitive::<Int64Type>();
            assert_eq!(column.values().to_vec(), n);
        }
    }
    // Values of a column too, where they can change.
    let list = DataType::new_list(DataType::Int64, true);
    let body = "
again = [0]
def f(x):
    again[0] = x
    return again";
    let case = Case::scalar("f", &[("x", DataType::Int64)], list, body).by_row(CallMode::Map);
    let out = case.once(counting(3)).await.unwrap();
    let inside = out.column(0).as_list::<i32>().values();
    assert_eq!(
        inside.as_primitive::<Int64Type>().values().to_vec(),
        [0, 1, 2]
    );
}

#[tokio::test]
async fn what_does_not_fit_is_told() {
    let flat = |body| table(body, CallMode::FlatMap);
    let map = |body| table(body, CallMode::Map);
    for (case, expected) in [
        (
            map("def f(row): return 5"),
            "gave 1 value (int) where a row is declared",
        ),
        (
            map("def f(row): return {'a': 1}"),
            "gave a row with the keys a. Declared: a, n",
        ),
        (
            map("def f(row): return {'a': 'x', 'n': 1}"),
            "returned column \"a\" as values that are not double",
        ),
        (
            flat("def f(row): return {'a': 1, 'n': 1}"),
            "returned a dict for a row. Return a list of dicts",
        ),
        (
            flat("def f(row): return None"),
            "returned None for a row. Return a list of dicts",
        ),
        (
            flat("def f(row): return [1]"),
            "gave 1 value (int) where a row is declared",
        ),
        (
            filter("def f(row): return row['a'] / 0"),
            "failed: ZeroDivisionError: float division by zero (line 1: def f(row): return row['a'] / 0)",
        ),
        (
            flat("\ndef f(row):\n    yield {'a': 1, 'n': 1}\n    raise ValueError('no')"),
            "failed: ValueError: no (line 4: raise ValueError('no'))",
        ),
    ] {
        let error = case.fails(mixed()).await;
        let text = error.to_string();
        assert!(text.contains(expected), "{text}\n{expected}");
        assert_eq!(error.class(), UdfErrorClass::User, "{text}");
    }
}

/// It ends a loop that Python itself makes over calls.
#[tokio::test]
async fn a_stop_iteration_is_an_error_and_no_end() {
    let stop = "\ndef f(row):\n    next(iter(()))";
    let value = stop.replace("row", "x");
    for case in [
        table(stop, CallMode::Map),
        table(stop, CallMode::FlatMap),
        filter(stop),
    ] {
        let text = case.fails(mixed()).await.to_string();
        let expected = "function \"f\" failed: StopIteration (line 3: next(iter(())))";
        assert_eq!(text, expected);
    }
    for mode in [CallMode::Map, CallMode::Filter] {
        let case = Case::ints("f", &value).by_row(mode);
        let text = case.fails(counting(3)).await.to_string();
        assert!(text.contains("failed: StopIteration (line 3"), "{text}");
    }
}

#[tokio::test]
async fn empty_blocks_have_no_rows() {
    let none = RecordBatch::new_empty(mixed().schema());
    let out = filter("def f(row): return True").once(none).await.unwrap();
    assert_eq!(out.num_rows(), 0);
    assert_eq!(
        out.schema(),
        Arc::new(Schema::new(vec![Field::new(
            "out",
            DataType::Boolean,
            true
        )]))
    );
}
