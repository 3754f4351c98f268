//! Named actors: one process and one instance for the calls of all, until dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::StringArray;
use arrow::datatypes::{DataType, Schema};
use futures::future::join_all;
use mobula_udfs::{
    ActorHost, ActorInfo, ActorSpec, ActorState, CallMode, Literal, MethodOf, Returns, UdfError,
    UdfErrorClass, UdfPool, WorkerManager,
};

use crate::bench::*;

const COUNTER: &str = "
import os, time
class counter:
    def __init__(self, start=0, log=None):
        self.n, self.log = start, log
        if log and os.path.exists(log + '.refuse'):
            raise ValueError('not today')
    def __call__(self, x):
        return x + self.n
    def add(self, x: int) -> int:
        self.n += x
        return self.n
    def get(self) -> int:
        return self.n
    def pid(self) -> int:
        return os.getpid()
    def slow(self, x: int) -> int:
        began = time.monotonic_ns()
        time.sleep(x / 1000)
        if self.log:
            with open(self.log, 'a') as log:
                log.write(f'{began} {time.monotonic_ns()}\\n')
        self.n += 1
        return self.n
    def fails(self, x: int) -> int:
        raise ValueError(x)
    def dies(self, x: int) -> int:
        os.kill(os.getpid(), 9)
    def lines(self, rows: 'TABLE') -> 'TABLE(x BIGINT)':
        for x in rows['x']:
            yield {'x': [x] * 1000}
            self.n += 1
";

/// A host with the actors that tests make.
struct Stage {
    manager: Arc<WorkerManager>,
    host: ActorHost,
    class: Case,
}

impl Stage {
    fn new(body: &str) -> Self {
        Self::with_room(body, 10)
    }

    fn with_room(body: &str, actors_max: usize) -> Self {
        let manager = manager();
        Self {
            host: ActorHost::new(Arc::clone(&manager), "here", actors_max),
            manager,
            class: Case::ints("counter", body).class(),
        }
    }

    fn spec(&self, actor: &str, args: &[(&str, Literal)]) -> ActorSpec {
        let mut spec = ActorSpec {
            name: actor.to_owned(),
            class: self.class.spec.clone(),
            args: args
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            timeout: None,
            init_timeout: None,
            methods: vec![],
        };
        for name in [
            "__call__", "add", "get", "pid", "slow", "fails", "dies", "lines",
        ] {
            spec.methods.push(self.method(actor, name).spec);
        }
        spec
    }

    async fn create(&self, actor: &str, args: &[(&str, Literal)]) -> Result<(), UdfError> {
        let built = self.host.build(Arc::new(self.spec(actor, args))).await?;
        let replaced = self.host.put(built);
        if let Some(replaced) = replaced {
            self.host.end(replaced).await;
        }
        Ok(())
    }

    /// A method as the planner makes it.
    fn method(&self, actor: &str, name: &str) -> Case {
        let mut case = match name {
            "lines" => Case::table(name, &[("x", DataType::Int64)], ""),
            "get" | "pid" => Case::scalar(name, &[], DataType::Int64, ""),
            _ => Case::ints(name, ""),
        }
        .class();
        let by_row = !matches!(name, "__call__" | "lines");
        if by_row {
            case.mode = CallMode::Map;
        }
        case.spec.body = self.class.spec.body.clone();
        case.spec.name = match name {
            "__call__" => actor.to_owned(),
            _ => format!("{actor}.{name}"),
        };
        case.spec.actor = Some(MethodOf {
            actor: actor.to_owned(),
            method: name.to_owned(),
            by_row,
            problem: None,
        });
        case
    }

    fn pool(&self, actor: &str, method: &str) -> Arc<dyn UdfPool> {
        let call = self.method(actor, method).call();
        self.host.open_pool(call).unwrap()
    }

    /// One value through a method.
    async fn call(&self, actor: &str, method: &str, x: i64) -> Result<i64, UdfError> {
        let pool = self.pool(actor, method);
        let out = run(&pool, one(method, x)).await?;
        Ok(values(&out)[0].unwrap())
    }

    fn info(&self, actor: &str) -> ActorInfo {
        let mut all = self.host.list().into_iter();
        all.find(|info| info.name == actor).unwrap()
    }

    /// Waits until the actor is in `state`.
    async fn until(&self, actor: &str, state: ActorState) -> ActorInfo {
        let since = Instant::now();
        loop {
            let info = self.info(actor);
            if info.state == state {
                return info;
            }
            assert!(since.elapsed() < PATIENCE, "{info:?}");
            tokio::task::yield_now().await;
        }
    }

    async fn end(self) {
        self.host.shutdown();
        self.manager.shutdown().await;
    }
}

/// A row for a method: of `x`, or of nothing.
fn one(method: &str, x: i64) -> arrow::array::RecordBatch {
    use arrow::array::{RecordBatch, RecordBatchOptions};
    match method {
        "get" | "pid" => {
            let options = RecordBatchOptions::new().with_row_count(Some(1));
            let schema = Arc::new(Schema::empty());
            RecordBatch::try_new_with_options(schema, vec![], &options).unwrap()
        }
        _ => ints([Some(x)]),
    }
}

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
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
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
