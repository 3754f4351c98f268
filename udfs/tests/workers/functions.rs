//! What functions may be, what they get and what they may give.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, Float64Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow::datatypes::DataType;
use futures::TryStreamExt;
use mobula_udfs::{Answer, Literal, ObjectKind, OnError};

use crate::bench::*;

#[tokio::test]
async fn a_def_gets_arrays_and_gives_a_value_a_row() {
    let double = Case::ints("double", "\ndef double(x):\n    return x * 2\n");
    let out = double.once(counting(1000)).await.unwrap();
    assert_eq!(
        values(&out),
        (0..1000).map(|x| Some(x * 2)).collect::<Vec<_>>()
    );
    assert_eq!(out.schema().field(0).name(), "out");
    for rows in [0, 1] {
        assert_eq!(
            double.once(counting(rows)).await.unwrap().num_rows(),
            rows as usize
        );
    }
}

#[tokio::test]
async fn nulls_are_masked_and_nan_is_not_null() {
    let keep = Case::scalar(
        "keep",
        &[("x", DataType::Float64)],
        DataType::Float64,
        "
import numpy as np
def keep(x):
    assert isinstance(x, np.ma.MaskedArray) and x.mask.tolist() == [False, True, False], x
    return x + 1",
    );
    let x = Float64Array::from(vec![Some(f64::NAN), None, Some(1.0)]);
    let block = RecordBatch::try_new(Arc::clone(&keep.input), vec![Arc::new(x)]).unwrap();
    let out = keep.once(block.clone()).await.unwrap();
    let out = out
        .column(0)
        .as_any()
        .downcast_ref::<Float64Array>()
        .unwrap();
    assert!(out.value(0).is_nan() && out.is_valid(0));
    assert!(out.is_null(1));
    assert_eq!(out.value(2), 2.0);

    let mut lists = keep.pyarrow();
    lists.spec.body = "
import pyarrow as pa
def keep(x):
    assert isinstance(x, pa.DoubleArray)
    return [1.0, None, float('nan')]"
        .into();
    let out = lists.once(block).await.unwrap();
    let out = out
        .column(0)
        .as_any()
        .downcast_ref::<Float64Array>()
        .unwrap();
    assert!(out.is_null(1) && out.is_valid(2) && out.value(2).is_nan());
}

#[tokio::test]
async fn strict_rows_with_null_are_not_passed() {
    let body = "
def f(x):
    assert len(x) == 2, len(x)
    return x * 10";
    let f = Case::ints("f", body).strict();
    let out = f.once(ints([None, Some(1), None, Some(2)])).await.unwrap();
    assert_eq!(values(&out), [None, Some(10), None, Some(20)]);
    let out = f.once(ints([None, None])).await.unwrap();
    assert_eq!(values(&out), [None, None]);
}

#[tokio::test]
async fn batches_have_the_asked_size_and_a_class_keeps_state_in_order() {
    let body = "
class Running:
    def __init__(self, start=0, *, step='', flag=None, ratio=1.0):
        assert (step, flag, ratio) == (\"it's\", True, float('inf'))
        self.sum, self.sizes = start, []
    def __call__(self, x):
        self.sizes.append(len(x))
        assert max(self.sizes) <= 64
        out = self.sum + x.cumsum()
        self.sum = int(out[-1])
        return out";
    let running = Case::ints("running", body)
        .class()
        .batches_of(64)
        .arg("start", Literal::Int(100))
        .arg("step", Literal::Text("it's".into()))
        .arg("flag", Literal::Bool(true))
        .arg("ratio", Literal::Float(f64::INFINITY));
    let manager = manager();
    let pool = running.pool(&manager, 1);
    let mut sum = 100;
    for _ in 0..3 {
        let out = run(&pool, counting(1000)).await.unwrap();
        let expected: Vec<_> = (0..1000)
            .map(|x| {
                sum += x;
                Some(sum)
            })
            .collect();
        assert_eq!(values(&out), expected);
    }
    assert_eq!(pool.stats().workers_started, 1);
    assert_eq!(
        (
            pool.stats().rows_in,
            pool.stats().rows_out,
            pool.stats().calls
        ),
        (3000, 3000, 3)
    );
    assert!(pool.stats().bytes_in >= 24_000);
    manager.shutdown().await;
}

#[tokio::test]
async fn an_actor_may_keep_a_batch() {
    let body = "
class Before:
    def __init__(self):
        self.kept = None
    def __call__(self, x):
        out = x if self.kept is None else self.kept
        self.kept = x
        return out";
    let before = Case::ints("before", body).class();
    let manager = manager();
    let pool = before.pool(&manager, 1);
    run(&pool, counting(5000)).await.unwrap();
    for _ in 0..3 {
        let out = run(&pool, ints((0..5000).map(|x| Some(-x)))).await.unwrap();
        assert_eq!(out.num_rows(), 5000);
    }
    let last = run(&pool, counting(5000)).await.unwrap();
    assert_eq!(values(&last)[4999], Some(-4999));
    manager.shutdown().await;
}

#[tokio::test]
async fn a_table_function_streams_what_it_yields() {
    let body = "
def parts(rows):
    for i in range(1000):
        yield {'i': [i], 'n': [len(rows['x'])]}";
    let parts = Case::table(
        "parts",
        &[("n", DataType::Int64), ("i", DataType::Int32)],
        body,
    );
    let out = parts.once(counting(7)).await.unwrap();
    assert_eq!(out.num_rows(), 1000);
    assert_eq!(values(&out), vec![Some(7); 1000]);
    let nothing = parts.once(counting(0)).await.unwrap();
    assert_eq!(nothing.num_rows(), 0);
}

#[tokio::test]
async fn what_is_yielded_comes_while_the_next_is_made() {
    let place = tempfile::tempdir().unwrap();
    let heard = place.path().join("heard");
    let body = format!(
        "
import os, time
def f(rows):
    yield {{'y': [1]}}
    while not os.path.exists({heard:?}):
        time.sleep(0.01)
    yield {{'y': [2]}}"
    );
    let manager = manager();
    let pool = Case::table("f", &[("y", DataType::Int64)], &body).pool(&manager, 1);
    let mut answers = pool.call(counting(1)).await.unwrap();
    for expected in [1, 2] {
        let answer = tokio::time::timeout(Duration::from_secs(20), answers.try_next());
        let Ok(Some(Answer::Rows(part))) = answer.await.expect("it comes at once") else {
            panic!("part {expected} is missing");
        };
        assert_eq!(values(&part), [Some(expected)]);
        std::fs::write(&heard, "").unwrap();
    }
    assert!(answers.try_next().await.unwrap().is_none());
    manager.shutdown().await;
}

#[tokio::test]
async fn a_table_function_may_return_any_relation() {
    for (format, returned) in [
        ("numpy", "{'y': rows['x'] + 1}"),
        (
            "numpy",
            "[{'y': rows['x'][:2] + 1}, {'y': rows['x'][2:] + 1}]",
        ),
        ("pyarrow", "rows.rename_columns(['y'])"),
        ("pyarrow", "pa.table({'y': rows['x']})"),
        (
            "pyarrow",
            "(pa.record_batch({'y': rows['x']}) for _ in range(1))",
        ),
    ] {
        let body = format!("\nimport pyarrow as pa\ndef f(rows):\n    return {returned}");
        let mut f = Case::table("f", &[("y", DataType::Int64)], &body);
        f.batch_format = format.parse().unwrap();
        let out = f.once(counting(4)).await.unwrap();
        assert_eq!(out.num_rows(), 4, "{returned}");
    }
}

#[tokio::test]
async fn user_code_may_write_to_what_it_returned() {
    let body = "
import numpy as np
out = np.empty(8, 'int64')
def f(x):
    made = out[:len(x)]
    np.multiply(np.asarray(x), 2, out=made)
    if 10 in made: raise ValueError(10)
    return made";
    let manager = manager();
    let case = Case::ints("f", body).batches_of(2);
    let out = run(&case.pool(&manager, 1), counting(5)).await.unwrap();
    assert_eq!(
        values(&out),
        (0..5).map(|x| Some(2 * x)).collect::<Vec<_>>()
    );
    for rows in [2, 7] {
        let case = Case::ints("f", body).batches_of(rows).immutable();
        let case = case.on_error(OnError::Null);
        let (out, failed) = run_whole(&case.pool(&manager, 1), counting(7))
            .await
            .unwrap();
        let expected = [0, 2, 4, 6, 8, 10, 12].map(|x| (x != 10).then_some(x));
        assert_eq!(
            (values(&out), failed.len()),
            (expected.to_vec(), 1),
            "{rows}"
        );
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn describe_finds_the_object() {
    let manager = manager();
    for (name, body, expected) in [
        ("f", "def f(x): return x", ObjectKind::Function),
        (
            "f",
            "def _helper(): pass\ndef anything(x): return x",
            ObjectKind::Function,
        ),
        ("f", "f = lambda x: x", ObjectKind::Function),
        ("f", "from numpy import negative as f", ObjectKind::Function),
        (
            "f",
            "def f(x, more=1, *rest, **options): return x",
            ObjectKind::Function,
        ),
        (
            "f",
            "    def f(*xs):\n        return xs[0]",
            ObjectKind::Function,
        ),
        (
            "embed",
            "class Embed:\n  def __init__(self): raise ValueError\n  def __call__(self, x): pass\nclass Other: pass",
            ObjectKind::Class,
        ),
        (
            "f",
            "import dataclasses\n@dataclasses.dataclass\nclass f:\n  n: int = 1\n  def __call__(self, x): pass",
            ObjectKind::Class,
        ),
    ] {
        let found = manager.describe(&Case::ints(name, body).spec).await;
        assert_eq!(found.unwrap(), expected, "{body}");
    }
    assert_eq!(manager.workers().len(), 1);
    manager.shutdown().await;
}

#[tokio::test]
async fn user_code_knows_its_executor_and_has_one_thread() {
    let who = Case::scalar(
        "who",
        &[],
        DataType::Utf8,
        "
import os, sys
def who():
    assert sys.stdin.read() == ''
    return os.environ['MOBULA_EXECUTOR_ID'] + ' ' + os.environ['OMP_NUM_THREADS']",
    );
    let options = RecordBatchOptions::new().with_row_count(Some(3));
    let block = RecordBatch::try_new_with_options(Arc::clone(&who.input), vec![], &options);
    let block = block.unwrap();
    let out = who.once(block).await.unwrap();
    let threads = std::env::var("OMP_NUM_THREADS").unwrap_or_else(|_| "1".into());
    let expected = format!("executor-7 {threads}");
    let column = out
        .column(0)
        .as_any()
        .downcast_ref::<StringArray>()
        .unwrap();
    assert_eq!(
        column.iter().collect::<Vec<_>>(),
        [Some(expected.as_str()); 3]
    );
}
