//! Groups of rows: cut by the worker, kept together on the way.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::DataType;
use mobula_udfs::{CallMode, GROUP_STARTS, OnError, UdfErrorClass, WorkerManager, WorkerSettings};

use crate::bench::*;

/// Groups of `rows` rows each; `x` counts all rows.
fn groups(rows: &[usize]) -> RecordBatch {
    let total: usize = rows.iter().sum();
    let x: ArrayRef = Arc::new(Int64Array::from_iter_values(0..total as i64));
    let starts = rows.iter().flat_map(|n| (0..*n).map(|at| at == 0));
    let starts: ArrayRef = Arc::new(starts.map(Some).collect::<BooleanArray>());
    RecordBatch::try_from_iter_with_nullable([("x", x, true), (GROUP_STARTS, starts, true)])
        .unwrap()
}

fn case(body: &str) -> Case {
    let mut case = Case::table("f", &[("x", DataType::Int64)], body).by_row(CallMode::Groups);
    case.input = groups(&[1]).schema();
    case
}

const SIZES: &str = "
def f(rows):
    assert list(rows) == ['x'], list(rows)
    yield {'x': [len(rows['x'])]}";

#[tokio::test]
async fn each_group_is_a_call() {
    let out = case(SIZES).once(groups(&[2, 1, 3])).await.unwrap();
    assert_eq!(values(&out), [Some(2), Some(1), Some(3)]);
}

#[tokio::test]
async fn a_block_that_is_too_long_is_cut_between_groups() {
    let manager = WorkerManager::new(WorkerSettings {
        max_frame_bytes: 64 << 10,
        ..settings()
    });
    let pool = case(SIZES).pool(&manager, 1);
    let rows = [10, 4000, 20, 7000, 3000, 1, 7000, 30];
    let out = run(&pool, groups(&rows)).await.unwrap();
    let expected: Vec<_> = rows.iter().map(|n| Some(*n as i64)).collect();
    assert_eq!(values(&out), expected);
    let error = run(&pool, groups(&[1, 9000, 1])).await.unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::Setup);
    let text = error.to_string();
    assert!(text.contains("gets a group of"), "{text}");
    manager.shutdown().await;
}

#[tokio::test]
async fn a_group_fails_as_a_whole() {
    let body = "
def f(rows):
    if 3 in rows['x']:
        raise ValueError('three')
    return rows";
    let case = case(body).immutable().on_error(OnError::DeadLetter);
    let manager = manager();
    let pool = case.pool(&manager, 1);
    let (out, failed) = run_whole(&pool, groups(&[2, 3, 2])).await.unwrap();
    let places: Vec<_> = failed.iter().map(|row| row.row).collect();
    assert_eq!(places, [2, 3, 4]);
    assert_eq!(values(&out), [Some(0), Some(1), Some(5), Some(6)]);
    manager.shutdown().await;
}

#[tokio::test]
async fn a_group_that_ends_workers_is_found() {
    let body = "
import os
def f(rows):
    if 3 in rows['x']:
        os._exit(1)
    return rows";
    let case = case(body).immutable().on_error(OnError::Drop);
    let manager = manager();
    let pool = case.pool(&manager, 1);
    let (out, failed) = run_whole(&pool, groups(&[2, 1, 3, 2])).await.unwrap();
    assert_eq!(failed.len(), 3);
    assert_eq!(values(&out), [Some(0), Some(1), Some(2), Some(6), Some(7)]);
    manager.shutdown().await;
}
