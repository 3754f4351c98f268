//! Calls that are made again, batches to write to, pools that grow.

use std::time::Duration;

use futures::future::join_all;
use mobula_udfs::{Handling, OnError};

use crate::bench::*;

fn again(body: &str, exceptions: &[&str], max_retries: u32) -> Case {
    let mut case = Case::ints("f", body);
    case.handling = Handling {
        retry_exceptions: exceptions.iter().map(|name| (*name).to_owned()).collect(),
        max_retries,
        ..Handling::default()
    };
    case
}

/// Raises `exception` the first two times it sees a row; waits no time in between.
fn fails_twice(exception: &str) -> String {
    format!(
        "
import collections
seen = collections.Counter()
class Busy(ConnectionError):
    retry_after = 0
class Other(Exception):
    pass
def f(x):
    key = x if isinstance(x, int) else tuple(x.tolist())
    seen[key] += 1
    if seen[key] <= 2: raise {exception}(key)
    return x"
    )
}

#[tokio::test]
async fn a_call_that_raises_what_was_named_is_made_again() {
    let manager = manager();
    // By its own name, that of a class above it, and with its module.
    for name in [
        "Busy",
        "ConnectionError",
        "OSError",
        "builtins.ConnectionError",
    ] {
        let pool = again(&fails_twice("Busy"), &["KeyError", name], 2).pool(&manager, 1);
        let out = run(&pool, counting(3)).await.unwrap();
        assert_eq!(values(&out), [Some(0), Some(1), Some(2)]);
        assert_eq!(pool.stats().retries, 2, "{name}");
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn rows_are_tried_again_one_by_one() {
    let manager = manager();
    let case = again(&fails_twice("Busy"), &["Busy"], 2).by_row(mobula_udfs::CallMode::Map);
    let pool = case.pool(&manager, 1);
    let out = run(&pool, counting(4)).await.unwrap();
    assert_eq!(values(&out), (0..4).map(Some).collect::<Vec<_>>());
    assert_eq!(pool.stats().retries, 8);
    manager.shutdown().await;
}

#[tokio::test]
async fn what_is_not_named_or_fails_too_often_is_told() {
    let cases = [
        ("Other", "ConnectionError", 9),
        ("Busy", "Busy", 1),
        ("Busy", "Busy", 0),
    ];
    for (raised, named, most) in cases {
        let case = again(&fails_twice(raised), &[named], most);
        let error = case.fails(counting(1)).await.to_string();
        assert!(
            error.contains(&format!("{raised}: (0,) (line 11: ")),
            "{error}"
        );
    }
    // The policy for rows that fail comes after that.
    let case = again(&fails_twice("Busy"), &["Busy"], 1);
    let case = case
        .by_row(mobula_udfs::CallMode::Map)
        .on_error(OnError::Null);
    let manager = manager();
    let pool = case.pool(&manager, 1);
    let (out, failed) = run_whole(&pool, counting(2)).await.unwrap();
    assert_eq!((values(&out), failed.len()), (vec![None, None], 2));
    assert_eq!(pool.stats().retries, 2);
    manager.shutdown().await;
}

#[tokio::test]
async fn a_generator_is_made_again_before_its_first_part() {
    let body = "
tries = []
def f(rows):
    tries.append(1)
    if len(tries) < 3:
        error = TimeoutError()
        error.retry_after = 0
        raise error
    for part in range(3):
        yield {'y': [len(tries)]}
        if rows['x'][0] == 9: raise error_of_a_part";
    let mut case = Case::table("f", &[("y", arrow::datatypes::DataType::Int64)], body);
    case.handling.retry_exceptions = vec!["TimeoutError".into()];
    let out = case.once(counting(1)).await.unwrap();
    assert_eq!(values(&out), [Some(3); 3]);
    case.handling.retry_exceptions = vec!["NameError".into(), "TimeoutError".into()];
    let error = case.fails(ints([Some(9)])).await.to_string();
    assert!(error.contains("NameError"), "{error}");
}

#[tokio::test]
async fn time_runs_out_over_all_tries() {
    let manager = manager();
    let mut case = again("\ndef f(x): raise ConnectionError()", &["OSError"], 1000);
    case.handling.timeout = Some(Duration::from_millis(300));
    let mut call = case.call().as_ref().clone();
    call.timeout = case.handling.timeout;
    let pool = manager.open_pool(call.into(), 1).unwrap();
    let error = run(&pool, counting(1)).await.unwrap_err().to_string();
    // What went wrong is told, not that time ran out.
    let told = "ConnectionError (line 2: def f(x): raise ConnectionError(); no time left for another call after ";
    assert!(error.contains(told), "{error}");
    manager.shutdown().await;
}

#[tokio::test]
async fn a_retry_gets_its_input_as_it_came() {
    use mobula_udfs::{BatchFormat, CallMode};
    let body = "
import collections
calls = collections.Counter()
def f(x):
    calls[type(x).__name__] += 1
    if isinstance(x, list):
        x[0] += [7]
        out = [len(item) for item in x]
    else:
        x *= 10
        out = x
    if sum(calls.values()) < 3:
        error = ConnectionError()
        error.retry_after = 0
        raise error
    return out";
    let manager = manager();
    for format in [BatchFormat::Numpy, BatchFormat::Pandas] {
        let mut case = again(body, &["ConnectionError"], 5);
        case.handling.zero_copy_batch = false;
        let mut call = case.call().as_ref().clone();
        call.batch_format = format;
        let pool = manager.open_pool(call.into(), 1).unwrap();
        let out = run(&pool, counting(3)).await.unwrap();
        assert_eq!(values(&out), [Some(0), Some(10), Some(20)], "{format}");
        assert_eq!(pool.stats().retries, 2);
    }
    // A row is a dict, of its call alone.
    let body = "
tries = []
def f(row):
    row['x'] *= 10
    tries.append(row.pop('x'))
    if len(tries) % 3:
        error = ConnectionError()
        error.retry_after = 0
        raise error
    return {'y': tries[-1]}";
    for mode in [CallMode::Map, CallMode::Batches] {
        let mut case = Case::table("f", &[("y", arrow::datatypes::DataType::Int64)], body);
        case.handling.retry_exceptions = vec!["ConnectionError".into()];
        let mut call = case.by_row(mode).call().as_ref().clone();
        let rows = match mode {
            CallMode::Map => counting(3),
            _ => counting(1),
        };
        if mode == CallMode::Batches {
            call.batch_format = BatchFormat::Rows;
            let body = body.replace(
                "row['x'] *= 10",
                "row = row[0]; row['x'] = row['x'] * 10 + 5",
            );
            let mut spec = call.spec.as_ref().clone();
            spec.body = body;
            call.spec = spec.into();
        }
        let pool = manager.open_pool(call.into(), 1).unwrap();
        let out = run(&pool, rows).await.unwrap();
        match mode {
            CallMode::Map => assert_eq!(values(&out), [Some(0), Some(10), Some(20)]),
            _ => assert_eq!(values(&out), [Some(5)]),
        }
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn names_of_exceptions_are_those_that_modules_use() {
    let body = "
import json
tries = []
def f(x):
    tries.append(1)
    return x if len(tries) > 1 else json.loads('{')";
    let out = again(body, &["json.JSONDecodeError"], 2)
        .once(counting(1))
        .await
        .unwrap();
    assert_eq!(values(&out), [Some(0)]);
    let error = again(body, &["SystemExit"], 2)
        .fails(counting(1))
        .await
        .to_string();
    assert!(
        error.contains("retry_exceptions => 'SystemExit', which is no error"),
        "{error}"
    );
    let error = again("\ndef f(x): raise OSError()", &["OSError"], 1)
        .fails(counting(1))
        .await
        .to_string();
    assert!(error.contains("; given up after 2 calls)"), "{error}");
}

#[tokio::test]
async fn a_batch_is_read_only_or_user_codes_own() {
    let write = |how: &str| format!("\ndef f(x):\n    {how}\n    return x");
    for format in [
        mobula_udfs::BatchFormat::Numpy,
        mobula_udfs::BatchFormat::Pandas,
    ] {
        let how = match format {
            mobula_udfs::BatchFormat::Numpy => "x[0] = 7",
            _ => "x.iloc[0] = 7",
        };
        let mut case = Case::ints("f", &write(how)).in_format(format);
        let error = case.fails(counting(3)).await.to_string();
        assert!(
            error.contains("ValueError: assignment destination is read-only"),
            "{error}"
        );
        case.handling.zero_copy_batch = false;
        let out = case.once(counting(3)).await;
        assert_eq!(
            values(&out.unwrap()),
            [Some(7), Some(1), Some(2)],
            "{format}"
        );
    }
    // With NULLs, whole tables, and lists in lists.
    let mut case = Case::ints("f", &write("x[0] = 7"));
    case.handling.zero_copy_batch = false;
    let out = case.once(ints([None, Some(1), None])).await.unwrap();
    assert_eq!(values(&out), [Some(7), Some(1), None]);
    let body = "\ndef f(rows):\n    rows['x'][0] = 7\n    return {'y': rows['x']}";
    let mut case = Case::table("f", &[("y", arrow::datatypes::DataType::Int64)], body);
    case.handling.zero_copy_batch = false;
    assert_eq!(
        values(&case.once(counting(2)).await.unwrap()),
        [Some(7), Some(1)]
    );
}

#[tokio::test]
async fn a_pool_grows_only_while_blocks_wait_long() {
    let manager = manager();
    let growing = |body: &str| {
        let mut case = Case::ints("f", body);
        case.handling.min_workers = Some(1);
        case.pool(&manager, 3)
    };
    let quick = growing("def f(x): return x");
    for out in join_all((0..20).map(|_| run(&quick, counting(1)))).await {
        out.unwrap();
    }
    assert_eq!(quick.stats().workers_at_once, 1);
    let slow = growing("\nimport time\ndef f(x):\n    time.sleep(0.2)\n    return x");
    for out in join_all((0..20).map(|_| run(&slow, counting(1)))).await {
        out.unwrap();
    }
    assert_eq!(slow.stats().workers_at_once, 3);
    manager.shutdown().await;
}

/// An actor whose first instance is there at once; the others do `then` first.
fn slow_to_follow(mark: &std::path::Path, then: &str) -> String {
    format!(
        "
import os, time
class f:
    def __init__(self):
        try:
            os.close(os.open({:?}, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            {then}
    def __call__(self, x):
        time.sleep(0.05)
        return x",
        mark.display().to_string()
    )
}

#[tokio::test]
async fn no_block_waits_for_a_newcomer() {
    let manager = manager();
    for then in ["time.sleep(30)", "raise OSError('no room')", "os._exit(3)"] {
        let marks = tempfile::tempdir().unwrap();
        let body = slow_to_follow(&marks.path().join("first"), then);
        let mut case = Case::ints("f", &body).class();
        case.handling.min_workers = Some(1);
        let pool = case.pool(&manager, 3);
        let since = std::time::Instant::now();
        for out in join_all((0..20).map(|_| run(&pool, counting(1)))).await {
            out.unwrap();
        }
        assert!(since.elapsed() < Duration::from_secs(20), "{then}");
        let stats = pool.stats();
        assert_eq!(stats.workers_at_once, 1, "{then}");
        assert!(stats.workers_started > 1, "{then}");
    }
    manager.shutdown().await;
}

/// A class whose fourth instance waits for `go`, and which ends once at 7.
fn slow_to_replace(marks: &std::path::Path) -> String {
    format!(
        "
import os, time
marks = {:?}
class f:
    def __init__(self):
        for number in range(3):
            try:
                os.close(os.open(os.path.join(marks, str(number)), os.O_CREAT | os.O_EXCL))
                return
            except FileExistsError:
                pass
        while not os.path.exists(os.path.join(marks, 'go')):
            time.sleep(0.01)
    def __call__(self, x):
        time.sleep(0.03)
        if x[0] == 7 and not os.path.exists(os.path.join(marks, 'ended')):
            open(os.path.join(marks, 'ended'), 'w').close()
            os._exit(3)
        return x",
        marks.display().to_string()
    )
}

#[tokio::test]
async fn a_block_whose_actor_ended_goes_to_one_that_is_there() {
    let manager = manager();
    let marks = tempfile::tempdir().unwrap();
    let mut case = Case::ints("f", &slow_to_replace(marks.path())).class();
    case.handling.min_workers = Some(3);
    let pool = case.pool(&manager, 3);
    let calls = (0..60).map(|x| {
        let pool = &pool;
        async move { values(&run(pool, ints([Some(x)])).await.unwrap()) }
    });
    // Before the one that takes its place is there.
    for (x, found) in (0..).zip(join_all(calls).await) {
        assert_eq!(found, [Some(x)]);
    }
    assert!(marks.path().join("ended").exists());
    let stats = pool.stats();
    assert_eq!((stats.workers_started, stats.retries), (4, 1));
    std::fs::write(marks.path().join("go"), "").unwrap();
    manager.shutdown().await;
}
