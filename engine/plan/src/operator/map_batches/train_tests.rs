//! Small blocks that go to fake workers together: what is together, and what comes out.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use arrow::array::Int64Array;

use super::tests::{host, int, one_column, run};
use crate::MobulaOptions;
use crate::test_session::{FakeHost, add_table, rows_of_t, session_with};

/// Blocks of `block_rows` rows of a table of 1,000; what came out of column 1 by that of
/// column 0, the calls, and how many there were together.
async fn together(
    host: FakeHost,
    block_rows: &str,
    sql: &str,
) -> (Vec<[i64; 2]>, usize, Vec<usize>) {
    let mut options = MobulaOptions::default();
    options.set_value("udf_batch_rows", block_rows).unwrap();
    let host = Arc::new(host);
    let state = session_with(Arc::clone(&host), options);
    add_table(
        &state,
        "wide",
        vec![rows_of_t(0..500), rows_of_t(500..1000)],
    );
    let rows = run(&state, sql).await.unwrap();
    let pairs = rows.iter().flat_map(|rows| {
        let pairs = int(rows, 0).iter().zip(int(rows, 1));
        let pairs = pairs.map(|(a, r)| [a.unwrap(), r.unwrap_or(-1)]);
        pairs.collect::<Vec<_>>()
    });
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_unstable();
    assert_eq!(host.alive(), 0);
    let trains = host.trains.lock().unwrap().clone();
    (pairs, host.calls.load(Ordering::SeqCst), trains)
}

#[tokio::test]
async fn small_blocks_go_together_and_each_is_a_call() {
    for (block_rows, blocks) in [("1", 1000), ("7", 144)] {
        let host = host().with_trains(16);
        let sql = "SELECT a, inc(a) FROM wide";
        let (pairs, calls, trains) = together(host, block_rows, sql).await;
        assert!(pairs.into_iter().eq((0..1000).map(|a| [a, a + 1])));
        assert_eq!((calls, trains.iter().sum()), (blocks, blocks));
        assert_eq!(trains[0], 1, "the pool was not there to be asked");
        assert_eq!(trains.iter().max(), Some(&16));
    }
    // A table function as well, whose answers are more than its rows.
    let host = host().with_trains(16);
    let sql = "SELECT x, x AS y FROM map_batches(TABLE(SELECT * FROM wide), twice)";
    let (pairs, calls, trains) = together(host, "1", sql).await;
    assert!(pairs.into_iter().eq((0..2000).map(|at| [at / 2, at / 2])));
    assert_eq!((calls, trains.iter().max()), (1000, Some(&16)));
}

#[tokio::test]
async fn large_blocks_and_those_of_slow_calls_go_alone() {
    let sql = "SELECT a, inc(a) FROM wide";
    let host_of = |train| host().with_trains(train);
    for (host, block_rows) in [(host_of(16), "65536"), (host_of(1), "1")] {
        let (pairs, calls, trains) = together(host, block_rows, sql).await;
        assert!(pairs.into_iter().eq((0..1000).map(|a| [a, a + 1])));
        assert_eq!((calls, trains.iter().max()), (trains.len(), Some(&1)));
    }
}

#[tokio::test]
async fn rows_that_nobody_is_asked_about_pass_between_blocks() {
    for block_rows in ["1", "3"] {
        let seen = Arc::new(Mutex::<Vec<i64>>::new(vec![]));
        let noted = Arc::clone(&seen);
        let host = host().with("inc", move |block| {
            noted.lock().unwrap().extend(int(&block, 0).values());
            let next = int(&block, 0).iter().map(|a| Some(a? + 1));
            Ok(vec![one_column(next.collect::<Int64Array>())])
        });
        let host = host.with_trains(8);
        let sql = "SELECT a, CASE WHEN a % 10 = 3 AND a < 500 THEN inc(a) END FROM wide";
        let (pairs, _, trains) = together(host, block_rows, sql).await;
        let asked = |a: &i64| a % 10 == 3 && *a < 500;
        let expected = |a: i64| [a, if asked(&a) { a + 1 } else { -1 }];
        assert!(pairs.into_iter().eq((0..1000).map(expected)));
        let mut seen = seen.lock().unwrap().clone();
        seen.sort_unstable();
        assert!(seen.into_iter().eq((0..1000).filter(asked)));
        assert!(trains.iter().any(|train| *train > 1), "{trains:?}");
    }
}
