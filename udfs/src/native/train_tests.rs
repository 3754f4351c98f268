//! Small blocks that a native function gets together, each a call of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type};
use futures::TryStreamExt;

use super::tests::{block, ints, open, open_with};
use super::{Native, NativeError};
use crate::error::{UdfError, UdfErrorClass};
use crate::failed_rows::OnError;
use crate::pool::{Answer, UdfPool};

const INT: DataType = DataType::Int64;

fn only(batch: &RecordBatch) -> i64 {
    assert_eq!(batch.num_rows(), 1);
    batch.column(0).as_primitive::<Int64Type>().value(0)
}

/// A function of one value, given in batches of one row.
fn of_value(code: impl Fn(i64) -> Result<i64, NativeError> + Send + Sync + 'static) -> Native {
    Native::scalar("f", [("x", INT)], INT, move |batch| {
        let value = Int64Array::from(vec![code(only(batch))?]);
        Ok(Arc::new(value) as ArrayRef)
    })
}

fn train(values: std::ops::Range<i64>) -> Vec<RecordBatch> {
    values.map(|x| block([Some(x)])).collect()
}

async fn each(
    pool: &Arc<dyn UdfPool>,
    blocks: Vec<RecordBatch>,
) -> Result<(Vec<RecordBatch>, Vec<usize>), UdfError> {
    let answers: Vec<Answer> = pool.call_each(blocks).await?.try_collect().await?;
    let (mut rows, mut failed) = (vec![], vec![]);
    for answer in answers {
        match answer {
            Answer::Rows(block) => rows.push(block),
            Answer::Failed(some) => failed.extend(some.iter().map(|f| f.row)),
            other => panic!("{other:?}"),
        }
    }
    Ok((rows, failed))
}

#[tokio::test]
async fn each_block_is_a_call() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let function = of_value(move |x| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(x + 1)
    });
    let pool = open(function, 1);
    assert_eq!(pool.train(), 1);
    let (rows, failed) = each(&pool, train(0..64)).await.unwrap();
    assert_eq!(rows.len(), 64, "an answer for each block");
    assert!(ints(&rows).into_iter().eq((1..65).map(Some)));
    assert_eq!(failed, [0; 0]);
    let stats = pool.stats();
    assert_eq!((calls.load(Ordering::Relaxed), stats.calls), (64, 64));
    assert_eq!((stats.rows_in, stats.workers_started), (64, 1));
    for _ in 0..100 {
        each(&pool, train(0..1)).await.unwrap();
    }
    assert!(pool.train() > 1, "{}", pool.train());
}

#[tokio::test]
async fn rows_that_fail_are_counted_over_all_blocks() {
    let function = of_value(|x| match x % 3 {
        0 => Err("a third".into()),
        _ => Ok(x),
    });
    let pool = open_with(function, 1, |call| {
        call.errors.on_error = OnError::DeadLetter;
    });
    let (rows, failed) = each(&pool, train(0..8)).await.unwrap();
    assert_eq!(failed, [0, 3, 6]);
    let expected = [
        None,
        Some(1),
        Some(2),
        None,
        Some(4),
        Some(5),
        None,
        Some(7),
    ];
    assert_eq!(ints(&rows), expected);
}

#[tokio::test]
async fn an_error_or_a_panic_ends_its_train_and_no_more() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let function = of_value(move |x| {
        counted.fetch_add(1, Ordering::Relaxed);
        assert!(x != 5, "five");
        if x == 9 { Err("nine".into()) } else { Ok(x) }
    });
    let pool = open(function, 1);
    for (blocks, said, called) in [(train(3..9), "five", 3), (train(7..12), "nine", 3)] {
        calls.store(0, Ordering::Relaxed);
        let error = each(&pool, blocks).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(calls.load(Ordering::Relaxed), called, "none after it");
    }
    let (rows, _) = each(&pool, train(1..5)).await.unwrap();
    assert!(ints(&rows).into_iter().eq((1..5).map(Some)));
}

#[tokio::test]
async fn a_time_limit_is_that_of_each_block() {
    let function = of_value(|x| {
        std::thread::sleep(Duration::from_millis(x as u64));
        Ok(x)
    });
    let pool = open_with(function, 1, |call| {
        call.timeout = Some(Duration::from_millis(400));
    });
    let slow = |count| vec![block([Some(150)]); count];
    let (rows, _) = each(&pool, slow(5)).await.unwrap();
    assert_eq!(rows.len(), 5);
    let since = Instant::now();
    let blocks = [slow(4), vec![block([Some(3_000)])]].concat();
    let error = each(&pool, blocks).await.unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::Timeout, "{error}");
    assert!(since.elapsed() < Duration::from_secs(3), "{since:?}");
}

#[tokio::test]
async fn what_is_cancelled_stops_at_the_next_block() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let function = of_value(move |x| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(200));
        Ok(x)
    });
    let pool = open(function, 1);
    let stream = pool.call_each(train(0..10)).await.unwrap();
    while calls.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(stream);
    // Its worker is free when it has noticed.
    let (rows, _) = each(&pool, train(0..1)).await.unwrap();
    assert_eq!(ints(&rows), [Some(0)]);
    assert!(calls.load(Ordering::Relaxed) <= 3, "{calls:?}");
}

#[tokio::test]
async fn tables_come_in_the_order_of_their_blocks() {
    let columns = [Field::new("y", INT, true)];
    let function = Native::generator("f", columns, |batch| {
        let x = only(&batch);
        let parts = (0..x).map(move |_| {
            let y: ArrayRef = Arc::new(Int64Array::from(vec![x]));
            Ok(RecordBatch::try_from_iter_with_nullable([("y", y, true)])?)
        });
        Ok(parts.collect::<Vec<_>>())
    });
    let pool = open(function, 1);
    let (rows, _) = each(&pool, train(0..20)).await.unwrap();
    let expected = (0..20).flat_map(|x| std::iter::repeat_n(Some(x), x as usize));
    assert!(ints(&rows).into_iter().eq(expected));
}
