//! Several functions that one worker runs on a block.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use mobula_udfs::{CallMode, Handling, Step, Take, UdfCall, UdfError, UdfPool, WorkerManager};

use crate::bench::*;

fn step(case: &Case, takes: &[Take]) -> Step {
    Step {
        call: case.call().as_ref().clone(),
        takes: Some(takes.to_vec()),
    }
}

/// The first case with all that comes, then the others.
fn fused(first: &Case, others: Vec<Step>) -> Arc<UdfCall> {
    let call = first.call().as_ref().clone();
    let takes = match call.spec.is_table() {
        true => None,
        false => Some((0..call.input.fields().len()).map(Take::In).collect()),
    };
    let first = Step { call, takes };
    Arc::new(UdfCall::fused(Arc::clone(&first.call.input), first, others))
}

fn pool(manager: &Arc<WorkerManager>, call: &Arc<UdfCall>) -> Arc<dyn UdfPool> {
    manager.open_pool(Arc::clone(call), 1).unwrap()
}

async fn once(call: &Arc<UdfCall>, block: RecordBatch) -> Result<RecordBatch, UdfError> {
    let manager = manager();
    let out = run(&pool(&manager, call), block).await;
    manager.shutdown().await;
    out
}

fn column(block: &RecordBatch, at: usize) -> Vec<Option<i64>> {
    block
        .column(at)
        .as_primitive::<Int64Type>()
        .iter()
        .collect()
}

const ROWS: &str = "\ndef f(rows):\n    return rows";

fn table(name: &str, body: &str) -> Case {
    Case::table(name, &[("x", DataType::Int64)], body)
}

#[tokio::test]
async fn a_value_goes_on_to_the_next_function() {
    let double = Case::ints("double", "\ndef double(x): return x * 2");
    let strict = Case::ints("strict", "\ndef strict(x): return x + 1").strict();
    let by_row = Case::ints(
        "by_row",
        "\ndef by_row(x): return None if x is None else x - 1",
    )
    .by_row(CallMode::Map);
    let call = fused(
        &double,
        vec![
            step(&strict, &[Take::Made(0)]),
            step(&by_row, &[Take::In(0)]),
        ],
    );
    assert_eq!(call.function_names(), "double, strict, by_row");
    let manager = manager();
    let pool = pool(&manager, &call);
    let block = ints([Some(1), None, Some(3)]);
    let out = run(&pool, block).await.unwrap();
    assert_eq!(column(&out, 0), [Some(2), None, Some(6)]);
    assert_eq!(column(&out, 1), [Some(3), None, Some(7)]);
    assert_eq!(column(&out, 2), [Some(0), None, Some(2)]);
    let stats = pool.stats();
    assert_eq!((stats.calls, stats.rows_in, stats.rows_out), (1, 3, 3));
    assert_eq!(manager.workers().len(), 1);
    manager.shutdown().await;
}

#[tokio::test]
async fn rows_go_on_to_functions_of_a_row() {
    let many = table(
        "many",
        "\ndef many(rows):\n    for x in rows['x']:\n        yield {'x': [x] * 2}",
    );
    let each = table(
        "each",
        "\ndef each(row):\n    return [{'x': row['x'] * 10 + i} for i in (0, 1)]",
    )
    .by_row(CallMode::FlatMap);
    let mut odd = Case::ints("odd", "\ndef odd(x): return None if x == 1 else x % 2 == 1")
        .by_row(CallMode::Filter);
    odd.spec.returns = mobula_udfs::Returns::Scalar(DataType::Boolean);
    let next = Case::ints("next", "\ndef next(x): return x + 1").by_row(CallMode::Map);
    let call = fused(
        &many,
        vec![
            Step {
                takes: None,
                ..step(&each, &[])
            },
            step(&odd, &[Take::In(0)]),
            step(&next, &[Take::In(0)]),
        ],
    );
    let out = once(&call, counting(2)).await.unwrap();
    // 0 and 1 twice, each as itself ten times and one more; NULL drops the 1s.
    assert_eq!(column(&out, 0), [Some(11), Some(11)]);
    assert_eq!(column(&out, 1), [Some(12), Some(12)]);
    assert_eq!(out.schema().field(1).name(), "out");
}

#[tokio::test]
async fn who_fails_is_named() {
    let first = table("first", &ROWS.replace("def f", "def first"));
    for (mode, body, expected) in [
        (
            CallMode::Map,
            "\ndef second(row):\n    return 1 / 0",
            "function \"second\" failed: ZeroDivisionError: division by zero (line 3: return 1 / 0)",
        ),
        (
            CallMode::FlatMap,
            "\ndef second(row):\n    yield {'y': 1}",
            "function \"second\" gave a row with the keys y. Declared: x",
        ),
        (
            CallMode::Map,
            "\ndef second(a, b): return 1",
            "function \"second\" is declared with 1 parameter (rows), but its Python code takes 2 (a, b)",
        ),
    ] {
        let second = table("second", body).by_row(mode);
        let call = fused(&first, vec![step(&second, &[Take::In(0)])]);
        let error = once(&call, counting(2)).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let broken = table(
        "first",
        "\ndef first(rows):\n    yield rows\n    raise ValueError('end')",
    );
    let second = table("second", "\ndef second(row): return row").by_row(CallMode::Map);
    let call = fused(&broken, vec![step(&second, &[Take::In(0)])]);
    let error = once(&call, counting(2)).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("function \"first\" failed: ValueError: end"),
        "{text}"
    );
}

#[tokio::test]
async fn a_worker_that_is_lost_or_late_names_who_did_it() {
    let first = table("first", &ROWS.replace("def f", "def first"));
    let deadly = "\nimport os\ndef second(row):\n    os._exit(3)";
    let second = table("second", deadly).by_row(CallMode::Map);
    let call = fused(&first, vec![step(&second, &[Take::In(0)])]);
    let error = once(&call, counting(2)).await.unwrap_err();
    // `os._exit` leaves no stack: both may have done it.
    let text = error.to_string();
    assert!(text.contains("\"one of first, second\""), "{text}");

    let slow = "\ndef second(row):\n    while True: pass";
    let second = table("second", slow).by_row(CallMode::Map);
    let call = fused(&first, vec![step(&second, &[Take::In(0)])]);
    let call = Arc::new(UdfCall {
        timeout: Some(Duration::from_millis(500)),
        ..call.as_ref().clone()
    });
    let error = once(&call, counting(2)).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with(
            "function \"second\" did not answer within 500ms (line 3: while True: pass)"
        ),
        "{text}"
    );
}

#[tokio::test]
async fn each_function_is_called_again_by_itself() {
    let flaky = |name: &str| {
        let body = format!(
            "\ncalls = 0\ndef {name}(x):\n    global calls\n    calls += 1\n    if calls == 1: raise OSError('busy')\n    return x + calls"
        );
        let mut case = Case::ints(name, &body);
        case.handling = Handling {
            retry_exceptions: vec!["OSError".into()],
            max_retries: 2,
            ..Handling::default()
        };
        case
    };
    let call = fused(&flaky("a"), vec![step(&flaky("b"), &[Take::Made(0)])]);
    let manager = manager();
    let pool = pool(&manager, &call);
    let out = run(&pool, counting(2)).await.unwrap();
    assert_eq!(column(&out, 1), [Some(4), Some(5)]);
    assert_eq!(pool.stats().retries, 2);
    manager.shutdown().await;
}
