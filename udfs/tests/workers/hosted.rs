//! Named actors: one process and one instance for the calls of all, until dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::StringArray;
use arrow::datatypes::DataType;
use futures::future::join_all;
use mobula_udfs::{ActorSpec, ActorState, Literal, Returns, UdfError, UdfErrorClass};

use crate::bench::*;
use crate::stage::*;

#[tokio::test]
async fn methods_share_one_instance_in_one_process() {
    let stage = Stage::new(COUNTER);
    stage
        .create("c", &[("start", Literal::Int(100))])
        .await
        .unwrap();
    let pid = stage.call("c", "pid", 0).await.unwrap();
    assert_eq!(stage.call("c", "add", 5).await.unwrap(), 105);
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), 105);
    assert_eq!(stage.call("c", "__call__", 1).await.unwrap(), 106);
    assert_eq!(stage.call("c", "pid", 0).await.unwrap(), pid);
    let info = stage.info("c");
    assert_eq!(info.pid.map(i64::from), Some(pid));
    assert_eq!(
        (info.state, info.calls, info.restarts),
        (ActorState::Idle, 5, 0)
    );
    assert_eq!((info.queue, info.class.as_str()), (0, "counter"));
    assert!(info.memory_bytes > 1 << 20, "{info:?}");
    // Another one is another process with another state.
    stage.create("d", &[]).await.unwrap();
    assert_eq!(stage.call("d", "get", 0).await.unwrap(), 0);
    assert_ne!(stage.call("d", "pid", 0).await.unwrap(), pid);
    stage.end().await;
}

#[tokio::test]
async fn calls_run_one_at_a_time_in_the_order_they_came() {
    let stage = Stage::new(COUNTER);
    stage.create("c", &[]).await.unwrap();
    let (add, slow) = (stage.pool("c", "add"), stage.pool("c", "slow"));
    // Each adds 1, whichever pool it is of.
    let calls = (0..200).map(|at| {
        let (pool, x) = if at % 3 == 0 { (&slow, 0) } else { (&add, 1) };
        async move { values(&run(pool, ints([Some(x)])).await.unwrap())[0].unwrap() }
    });
    let found = join_all(calls).await;
    assert_eq!(found, (1..=200).collect::<Vec<i64>>());
    assert_eq!(stage.info("c").calls, 200);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_calls_keep_the_instance() {
    let stage = Stage::new(COUNTER);
    stage.create("c", &[]).await.unwrap();
    // A worker keeps 32 calls loaded; each of these is another.
    for rows in 1..=40 {
        let mut case = stage.method("c", "add");
        case.batch_size = Some(rows);
        let pool = stage.host.open_pool(case.call()).unwrap();
        let out = run(&pool, ints([Some(1)])).await.unwrap();
        assert_eq!(values(&out), [Some(rows as i64)]);
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_leaves_the_actor_alive() {
    let stage = Stage::new(COUNTER);
    stage.create("c", &[]).await.unwrap();
    let pid = stage.call("c", "pid", 0).await.unwrap();
    // Gone while it is at work: it finishes, and its state stays.
    let pool = stage.pool("c", "slow");
    let stream = pool.call(ints([Some(300)])).await.unwrap();
    stage.until("c", ActorState::Busy).await;
    drop((stream, pool));
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), 1);
    // Gone with most of a table unread.
    let pool = stage.pool("c", "lines");
    let mut stream = pool.call(counting(500)).await.unwrap();
    next(&mut stream).await.unwrap().unwrap();
    drop((stream, pool));
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), 501);
    // Gone before its turn: it is never begun.
    let at_work = stage
        .pool("c", "slow")
        .call(ints([Some(300)]))
        .await
        .unwrap();
    let in_line = stage.pool("c", "add");
    let waiting =
        tokio::time::timeout(Duration::from_millis(50), in_line.call(ints([Some(1_000)])));
    assert!(waiting.await.is_err());
    assert_eq!(stage.info("c").queue, 0);
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), 502);
    drop(at_work);
    let info = stage.info("c");
    assert_eq!((info.pid.map(i64::from), info.restarts), (Some(pid), 0));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_waits_keeps_the_actor_from_nobody() {
    let stage = Stage::new(COUNTER);
    stage.create("c", &[]).await.unwrap();
    let pool = stage.pool("c", "lines");
    let mut unread = pool.call(counting(50)).await.unwrap();
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), 50);
    let mut rows = 0;
    while let Some(block) = next(&mut unread).await {
        rows += block.unwrap().num_rows();
    }
    assert_eq!(rows, 50_000);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_dies_is_built_anew_at_once_and_counted() {
    let stage = Stage::new(COUNTER);
    stage
        .create("c", &[("start", Literal::Int(7))])
        .await
        .unwrap();
    stage.call("c", "add", 1).await.unwrap();
    let pid = stage.info("c").pid.unwrap();
    // Nobody calls it meanwhile.
    send(pid, rustix::process::Signal::KILL);
    let since = Instant::now();
    while stage.info("c").restarts == 0 || stage.info("c").state != ActorState::Idle {
        assert!(since.elapsed() < PATIENCE, "{:?}", stage.info("c"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_ne!(stage.info("c").pid, Some(pid));
    // What it kept is gone.
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), 7);
    // A block that ends it twice is an error; the next one finds it well.
    let error = stage.call("c", "dies", 1).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("function \"c.dies\" lost its worker"),
        "{text}"
    );
    assert!(text.contains("killed by SIGKILL"), "{text}");
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), 7);
    let info = stage.info("c");
    assert_eq!(info.restarts, 3, "{info:?}");
    assert!(info.last_error.contains("SIGKILL"), "{info:?}");
    stage.end().await;
}

fn send(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap());
    rustix::process::kill_process(pid.unwrap(), signal).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_does_not_answer_fails_a_method_s_first_call_in_its_time() {
    let stage = Stage::new(COUNTER);
    stage.create("c", &[]).await.unwrap();
    send(stage.info("c").pid.unwrap(), rustix::process::Signal::STOP);
    let mut call = stage.method("c", "add").call();
    Arc::get_mut(&mut call).unwrap().timeout = Some(Duration::from_millis(100));
    let pool = stage.host.open_pool(call).unwrap();
    let outcome = tokio::time::timeout(PATIENCE, run(&pool, ints([Some(1)]))).await;
    let error = outcome.expect("the call has a time limit").unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::Timeout, "{error}");
    // Building it was never at fault.
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), 0);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_takes_too_long_ends_the_actor_and_it_is_built_anew() {
    let stage = Stage::new(COUNTER);
    stage.create("c", &[]).await.unwrap();
    let mut call = stage.method("c", "slow").call();
    Arc::get_mut(&mut call).unwrap().timeout = Some(Duration::from_millis(100));
    let pool = stage.host.open_pool(call).unwrap();
    let error = run(&pool, ints([Some(60_000)])).await.unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::Timeout);
    let text = error.to_string();
    assert!(text.contains("(line 19: time.sleep(x / 1000))"), "{text}");
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), 0);
    assert_eq!(stage.info("c").restarts, 1);
    stage.end().await;
}

#[tokio::test]
async fn errors_name_the_method_and_its_line_and_leave_the_actor_alive() {
    let stage = Stage::new(COUNTER);
    stage.create("c", &[]).await.unwrap();
    stage.call("c", "add", 3).await.unwrap();
    let error = stage.call("c", "fails", 8).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "function \"c.fails\" failed: ValueError: 8 (line 26: raise ValueError(x))"
    );
    assert!(
        error
            .traceback()
            .unwrap()
            .contains("File \"<function c>\", line 26")
    );
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), 3);
    let info = stage.info("c");
    assert_eq!((info.restarts, info.last_error), (0, error.to_string()));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_cannot_be_built_is_refused_and_one_that_died_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log").display().to_string();
    let refuse = format!("{log}.refuse");
    let args = [("log", Literal::Text(log.clone()))];
    let stage = Stage::new(COUNTER);
    std::fs::write(&refuse, "").unwrap();
    let error = stage.create("c", &args).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "function \"c\" failed: ValueError: not today (line 7: raise ValueError('not today')). It was tried 3 times in a row"
    );
    assert!(stage.host.list().is_empty());
    at_most(0, &stage.manager).await;
    std::fs::remove_file(&refuse).unwrap();
    stage.create("c", &args).await.unwrap();
    std::fs::write(&refuse, "").unwrap();
    let error = stage.call("c", "dies", 1).await.unwrap_err();
    assert!(error.to_string().contains("not today"), "{error}");
    let info = stage.until("c", ActorState::Failed).await;
    assert!(info.last_error.contains("not today"), "{info:?}");
    // Who comes right after is told at once, and does not try three times more.
    let error = stage.call("c", "get", 0).await.unwrap_err();
    assert!(error.to_string().contains("not today"), "{error}");
    std::fs::remove_file(&refuse).unwrap();
    stage.until("c", ActorState::Idle).await;
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), 0);
    stage.end().await;
}

#[tokio::test]
async fn a_retired_actor_finishes_its_block_and_leaves_the_rest_to_others() {
    let stage = Stage::new(COUNTER);
    stage.create("c", &[]).await.unwrap();
    let (slow, add) = (stage.pool("c", "slow"), stage.pool("c", "add"));
    let pid = stage.info("c").pid.unwrap();
    let retire = async {
        stage.until("c", ActorState::Busy).await;
        while stage.info("c").queue == 0 {
            tokio::task::yield_now().await;
        }
        let actor = stage.host.take("c").unwrap();
        stage.host.retire(actor, PATIENCE).await;
    };
    let in_line = async {
        stage.until("c", ActorState::Busy).await;
        run(&add, ints([Some(1)])).await
    };
    let (at_work, in_line, ()) = tokio::join!(run(&slow, ints([Some(300)])), in_line, retire);
    assert_eq!(values(&at_work.unwrap()), [Some(1)]);
    // Whoever sent it sends it elsewhere.
    for told in [in_line, run(&add, ints([Some(1)])).await] {
        let told = told.unwrap_err();
        assert!(matches!(told, UdfError::PoolGone { .. }), "{told}");
        assert_eq!(told.class(), UdfErrorClass::Lost);
    }
    gone(pid).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_an_actor_that_is_dropped_or_replaced_is_told() {
    let stage = Stage::new(COUNTER);
    stage.create("c", &[]).await.unwrap();
    let (slow, add) = (stage.pool("c", "slow"), stage.pool("c", "add"));
    let replace = async {
        stage.until("c", ActorState::Busy).await;
        stage
            .create("c", &[("start", Literal::Int(50))])
            .await
            .unwrap();
    };
    let first = run(&slow, ints([Some(200)]));
    let second = async {
        stage.until("c", ActorState::Busy).await;
        run(&add, ints([Some(1)])).await
    };
    let (first, second, ()) = tokio::join!(first, second, replace);
    // What is at work may finish.
    assert_eq!(values(&first.unwrap()), [Some(1)]);
    let text = second.unwrap_err().to_string();
    assert!(
        text.starts_with("actor \"c\" was dropped or replaced while \"c.add\" was called"),
        "{text}"
    );
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), 50);

    // What does not finish in `udf_kill_grace` is ended.
    let slow = stage.pool("c", "slow");
    let begun = Instant::now();
    let drop_it = async {
        stage.until("c", ActorState::Busy).await;
        let actor = stage.host.take("c").unwrap();
        stage.host.end(actor).await;
    };
    let (first, ()) = tokio::join!(run(&slow, ints([Some(60_000)])), drop_it);
    assert!(begun.elapsed() < Duration::from_secs(20));
    let text = first.unwrap_err().to_string();
    assert!(
        text.starts_with("actor \"c\" was dropped or replaced"),
        "{text}"
    );
    at_most(0, &stage.manager).await;
    let error = stage
        .host
        .open_pool(stage.method("c", "add").call())
        .unwrap_err();
    assert!(matches!(error, UdfError::ActorElsewhere { .. }), "{error}");
    stage.end().await;
}

/// Takes for ever to build if the file is there.
const HANGS: &str = "
import os, time
class counter:
    def __init__(self, file):
        while os.path.exists(file):
            time.sleep(0.01)
    def __call__(self, x):
        return x
    def get(self) -> int:
        return 0
    def dies(self, x: int) -> int:
        os.kill(os.getpid(), 9)
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_hangs_ends_with_who_asked_for_it_or_with_its_actor() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wait").display().to_string();
    let args = [("file", Literal::Text(file.clone()))];
    let stage = Stage::new(HANGS);
    std::fs::write(&file, "").unwrap();
    let creating = stage.create("c", &args);
    let cancelled = tokio::time::timeout(Duration::from_millis(500), creating).await;
    assert!(cancelled.is_err());
    at_most(0, &stage.manager).await;
    std::fs::remove_file(&file).unwrap();
    stage.create("c", &args).await.unwrap();
    // Built anew for a call that has lost it, which can never end well.
    std::fs::write(&file, "").unwrap();
    let pool = stage.pool("c", "dies");
    let drop_it = async {
        let info = stage.until("c", ActorState::Restarting).await;
        assert_eq!(info.pid, None);
        worker_in(&stage.manager, "loading").await;
        let actor = stage.host.take("c").unwrap();
        stage.host.end(actor).await;
    };
    let (called, ()) = tokio::join!(run(&pool, ints([Some(1)])), drop_it);
    let text = called.unwrap_err().to_string();
    assert!(
        text.starts_with("actor \"c\" was dropped or replaced"),
        "{text}"
    );
    at_most(0, &stage.manager).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_actors_take_no_places_of_queries() {
    let stage = Stage::new(COUNTER);
    for actor in ["a", "b", "c", "d", "e"] {
        stage.create(actor, &[]).await.unwrap();
    }
    // The manager has four places; two of them are for this pool at once.
    let case = Case::ints(
        "f",
        "import time\nclass f:\n    def __call__(self, x):\n        time.sleep(0.3)\n        return x",
    );
    let pool = case.class().pool(&stage.manager, 2);
    let calls = (0..2).map(|x| run(&pool, ints([Some(x)])));
    join_all(calls)
        .await
        .into_iter()
        .for_each(|out| drop(out.unwrap()));
    assert_eq!(pool.stats().workers_at_once, 2);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_of_before_is_there_at_once_and_built_in_the_background() {
    let stage = Stage::with_room(COUNTER, 1);
    let bytes = stage
        .spec("c", &[("start", Literal::Int(3))])
        .encode()
        .unwrap();
    let spec = ActorSpec::decode(&bytes).unwrap();
    stage.host.start_later(Arc::new(spec)).unwrap();
    assert_eq!(stage.info("c").pid, None);
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), 3);
    // There is room for one, and for what replaces it.
    let text = stage.create("d", &[]).await.unwrap_err().to_string();
    assert!(
        text.contains("there are 1 already") && text.contains("actors_max"),
        "{text}"
    );
    stage.create("c", &[]).await.unwrap();
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), 0);
    // Whoever planned a call of other types is told.
    let mut other = stage.method("c", "add");
    other.spec.params[0].kind = mobula_udfs::ParamKind::Value(DataType::Utf8);
    let error = stage.host.open_pool(other.call()).unwrap_err();
    assert!(matches!(error, UdfError::ActorChanged { .. }), "{error}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_one_actor_never_overlap_and_those_of_two_do() {
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::new(COUNTER);
    let log = |actor: &str| dir.path().join(actor).display().to_string();
    for actor in ["a", "b"] {
        let args = [("log", Literal::Text(log(actor)))];
        stage.create(actor, &args).await.unwrap();
    }
    let calls = (0..40).map(|at| stage.call(if at % 2 == 0 { "a" } else { "b" }, "slow", 20));
    join_all(calls)
        .await
        .into_iter()
        .for_each(|n| assert!(n.is_ok()));
    let intervals = |actor: &str| -> Vec<(u64, u64)> {
        let text = std::fs::read_to_string(log(actor)).unwrap();
        let lines = text.lines().map(|line| {
            let (began, ended) = line.split_once(' ').unwrap();
            (began.parse().unwrap(), ended.parse().unwrap())
        });
        lines.collect()
    };
    let (a, b) = (intervals("a"), intervals("b"));
    assert_eq!((a.len(), b.len()), (20, 20));
    for own in [&a, &b] {
        assert!(own.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{own:?}");
    }
    let overlaps = a.iter().any(|x| b.iter().any(|y| x.0 < y.1 && y.0 < x.1));
    assert!(overlaps, "{a:?} {b:?}");
    stage.end().await;
}

#[tokio::test]
async fn what_returns_nothing_gives_null() {
    let body = "class counter:\n    def __call__(self, x): return x\n    def add(self, x: int) -> None: pass";
    let stage = Stage::new(body);
    let mut spec = stage.spec("c", &[]);
    let mut case = stage.method("c", "add");
    case.spec.returns = Returns::Scalar(DataType::Utf8);
    spec.methods = vec![case.spec.clone()];
    let built = stage.host.build(Arc::new(spec)).await.unwrap();
    stage.host.put(built);
    let pool = stage.host.open_pool(case.call()).unwrap();
    let out = run(&pool, counting(3)).await.unwrap();
    let out = out
        .column(0)
        .as_any()
        .downcast_ref::<StringArray>()
        .unwrap();
    assert!(out.iter().eq([None, None, None]));
    stage.end().await;
}
