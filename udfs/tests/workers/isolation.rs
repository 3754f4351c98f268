//! Rows that fail alone: which are told, and what the others become.

use arrow::datatypes::DataType;
use mobula_udfs::{CallMode, FailedRow, OnError, UdfErrorClass};

use crate::bench::*;

/// Fails for every multiple of seven but 0.
const SEVENS: &str = "
def f(x):
    if x and x % 7 == 0:
        raise ValueError(f'no {x}')
    return x * 2";
/// The same on a batch.
const SEVENS_OF_A_BATCH: &str = "
def f(x):
    bad = x[(x != 0) & (x % 7 == 0)]
    if len(bad):
        raise ValueError(f'no {bad[0]}')
    return x * 2";

fn places(failed: &[FailedRow]) -> Vec<usize> {
    failed.iter().map(|failed| failed.row).collect()
}

async fn whole(
    case: &Case,
    block: arrow::array::RecordBatch,
) -> (arrow::array::RecordBatch, Vec<FailedRow>) {
    let manager = manager();
    let out = run_whole(&case.pool(&manager, 1), block).await.unwrap();
    manager.shutdown().await;
    out
}

#[tokio::test]
async fn a_row_function_loses_the_rows_that_fail() {
    for batch_size in [1, 3, 100] {
        let case = Case::ints("f", SEVENS).by_row(CallMode::Map);
        let case = case.batches_of(batch_size).on_error(OnError::DeadLetter);
        let (out, failed) = whole(&case, counting(30)).await;
        assert_eq!(places(&failed), [7, 14, 21, 28]);
        let reason = failed[1].reason.as_ref().unwrap();
        assert_eq!(reason.error_type, "ValueError");
        let line = "ValueError: no 14 (line 4: raise ValueError(f'no {x}'))";
        assert_eq!(reason.message, line);
        assert!(reason.traceback.ends_with("ValueError: no 14\n"));
        assert!(!reason.traceback.contains("mobula"), "{}", reason.traceback);
        for (row, value) in values(&out).into_iter().enumerate() {
            let bad = row > 0 && row % 7 == 0;
            assert_eq!(value, (!bad).then_some(row as i64 * 2), "row {row}");
        }
    }
    // Where nobody asks why, the first alone says it.
    let case = Case::ints("f", SEVENS).by_row(CallMode::Map);
    let (_, failed) = whole(&case.on_error(OnError::Null), counting(20)).await;
    let told: Vec<_> = failed.iter().map(|row| row.reason.is_some()).collect();
    assert_eq!((places(&failed), told), (vec![7, 14], vec![true, false]));
}

#[tokio::test]
async fn what_a_value_does_not_fit_is_the_rows_fault() {
    let body = "
def f(x):
    return {3: 'x', 5: 2**70, 6: None}.get(x, x)";
    let case = Case::ints("f", body).by_row(CallMode::Map);
    let (out, failed) = whole(&case.on_error(OnError::DeadLetter), counting(8)).await;
    assert_eq!(places(&failed), [3, 5]);
    assert_eq!(failed[0].reason.as_ref().unwrap().error_type, "Refused");
    let expected = [Some(0), Some(1), Some(2), None, Some(4), None, None];
    assert_eq!(values(&out)[..7], expected);
}

#[tokio::test]
async fn a_stop_iteration_is_an_error_of_its_row() {
    let body = "
def f(x):
    if x % 4 == 1:
        raise StopIteration
    return x";
    let case = Case::ints("f", body).by_row(CallMode::Map);
    let (out, failed) = whole(&case.on_error(OnError::DeadLetter), counting(6)).await;
    assert_eq!(places(&failed), [1, 5]);
    assert_eq!(values(&out)[4], Some(4));
    let error_type = &failed[0].reason.as_ref().unwrap().error_type;
    assert_eq!(error_type, "StopIteration");
    let body = body.replace("def f(x):", "def f():\n    global n\n    n += 1\n    x = n");
    let none = Case::scalar("f", &[], DataType::Int64, &format!("n = -1\n{body}"));
    let none = none.by_row(CallMode::Map).on_error(OnError::Drop);
    let (out, failed) = whole(&none, counting(6).project(&[]).unwrap()).await;
    assert_eq!(places(&failed), [1, 5]);
    let expected = [Some(0), None, Some(2), Some(3), Some(4), None];
    assert_eq!(values(&out), expected);
}

#[tokio::test]
async fn strict_rows_do_not_shift_the_places() {
    let case = Case::ints("f", SEVENS).by_row(CallMode::Map).strict();
    let block = ints([Some(7), None, Some(1), None, Some(14)]);
    let (out, failed) = whole(&case.on_error(OnError::Drop), block).await;
    assert_eq!(places(&failed), [0, 4]);
    assert_eq!(values(&out), [None, None, Some(2), None, None]);
}

#[tokio::test]
async fn an_immutable_batch_function_is_bisected() {
    let case = Case::ints("f", SEVENS_OF_A_BATCH).immutable();
    let case = case.batches_of(16).on_error(OnError::DeadLetter);
    let (out, failed) = whole(&case, counting(40)).await;
    assert_eq!(places(&failed), [7, 14, 21, 28, 35]);
    let message = &failed[4].reason.as_ref().unwrap().message;
    assert!(message.starts_with("ValueError: no 35 "), "{message}");
    assert_eq!(values(&out)[34..37], [Some(68), None, Some(72)]);
}

#[tokio::test]
async fn another_batch_function_loses_its_batch() {
    let case = Case::ints("f", SEVENS_OF_A_BATCH).batches_of(4);
    let (out, failed) = whole(&case.on_error(OnError::DeadLetter), counting(12)).await;
    assert_eq!(places(&failed), [4, 5, 6, 7]);
    assert_eq!(
        values(&out)[3..9],
        [Some(6), None, None, None, None, Some(16)]
    );
}

#[tokio::test]
async fn tables_lose_the_rows_that_fail() {
    let columns = [("x", DataType::Int64)];
    let flat = "
def f(row):
    for i in range(row['x']):
        if i == 3:
            raise ValueError('three')
        yield {'x': i} if row['x'] != 2 else {'y': 0}";
    let case = Case::table("f", &columns, flat).by_row(CallMode::FlatMap);
    let (out, failed) = whole(&case.on_error(OnError::DeadLetter), counting(5)).await;
    // Row 2 gives keys that are not declared; of row 4 no part comes.
    assert_eq!(places(&failed), [2, 4]);
    assert_eq!(values(&out), [Some(0), Some(0), Some(1), Some(2)]);
    let batch = "
def f(t):
    if 3 in t['x']:
        raise ValueError('three')
    yield t";
    let case = Case::table("f", &columns, batch).immutable();
    let (out, failed) = whole(&case.on_error(OnError::Drop), counting(5)).await;
    assert_eq!(places(&failed), [3]);
    assert_eq!(values(&out), [Some(0), Some(1), Some(2), Some(4)]);
    let map = "def f(row): return {'x': 1 // row['x']}";
    let case = Case::table("f", &columns, map).by_row(CallMode::Map);
    let (out, failed) = whole(&case.on_error(OnError::Null), counting(3)).await;
    assert_eq!(places(&failed), [0]);
    assert_eq!(values(&out), [None, Some(1), Some(0)]);
}

#[tokio::test]
async fn too_many_end_the_call_and_leave_the_worker() {
    let mut case = Case::ints("f", SEVENS).by_row(CallMode::Map);
    case = case.on_error(OnError::DeadLetter);
    case.max_errors = Some(3);
    let manager = manager();
    let pool = case.pool(&manager, 1);
    run_whole(&pool, counting(28)).await.unwrap();
    let pid = only_pid(&manager);
    let error = run_whole(&pool, counting(29)).await.unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::User);
    let text = error.to_string();
    assert!(
        text.contains(
            "failed for more rows than max_errors, or the setting udf_errors_max_rows, lets it"
        ),
        "{text}"
    );
    assert!(text.contains("ValueError: no 28"), "{text}");
    assert_eq!(only_pid(&manager), pid);
    manager.shutdown().await;
}

#[tokio::test]
async fn an_exit_is_no_rows_fault() {
    let body = "
def f(x):
    if x == 2:
        raise SystemExit('enough')
    return x";
    let case = Case::ints("f", body).by_row(CallMode::Map);
    let error = case.on_error(OnError::Drop).fails(counting(4)).await;
    assert!(error.to_string().contains("SystemExit: enough"), "{error}");
}

#[tokio::test]
async fn many_failures_and_long_texts_cross() {
    let body = "def f(x): raise ValueError(str(x) * 1500)";
    let case = Case::ints("f", body).by_row(CallMode::Map);
    let (out, failed) = whole(&case.on_error(OnError::DeadLetter), counting(20_000)).await;
    assert_eq!(out.column(0).null_count(), 20_000);
    assert_eq!(places(&failed), (0..20_000).collect::<Vec<_>>());
    for row in [0, 9_999, 19_999] {
        let message = &failed[row].reason.as_ref().unwrap().message;
        let start = format!("ValueError: {row}{row}");
        assert!(message.starts_with(&start), "{message}");
    }
}

#[tokio::test]
async fn a_row_that_ends_workers_is_found() {
    let body = "
import os
def f(x):
    if 5 in x:
        os._exit(9)
    return x";
    let case = Case::ints("f", body).immutable();
    let (out, failed) = whole(&case.clone().on_error(OnError::DeadLetter), counting(9)).await;
    assert_eq!(places(&failed), [5]);
    let reason = failed[0].reason.as_ref().unwrap();
    assert_eq!(reason.error_type, "WorkerLost");
    assert!(reason.message.contains("exit code 9"), "{}", reason.message);
    let expected = (0..9).map(|x| (x != 5).then_some(x)).collect::<Vec<_>>();
    let mut sorted = values(&out);
    sorted.sort();
    let mut wanted = expected.clone();
    wanted.sort();
    assert_eq!(sorted, wanted);
    assert_eq!(values(&out), expected);
    let error = case.fails(counting(9)).await;
    assert_eq!(error.class(), UdfErrorClass::Lost);
}

#[tokio::test]
async fn a_lost_worker_is_replaced_once() {
    let body = "
import os, sys
def f(x):
    try:
        os.mkdir(sys.argv[0] + MARK)
    except FileExistsError:
        return x
    os._exit(9)";
    let mark = std::env::temp_dir().join(format!("mobula-once-{}", std::process::id()));
    let body = body.replace(
        "sys.argv[0] + MARK",
        &format!("{:?}", mark.display().to_string()),
    );
    let manager = manager();
    let pool = Case::ints("f", &body).pool(&manager, 1);
    let out = run(&pool, counting(4)).await;
    std::fs::remove_dir(&mark).unwrap();
    assert_eq!(values(&out.unwrap()).len(), 4);
    assert_eq!(pool.stats().workers_started, 2);
    manager.shutdown().await;
}

#[tokio::test]
async fn a_row_of_a_row_function_that_ends_workers_is_found() {
    let body = "
import os
def f(x):
    if x == 5:
        os._exit(9)
    return x";
    let case = Case::ints("f", body).by_row(CallMode::Map);
    let (out, failed) = whole(&case.on_error(OnError::Drop), counting(9)).await;
    assert_eq!(places(&failed), [5]);
    assert_eq!(values(&out)[4..7], [Some(4), None, Some(6)]);
}
