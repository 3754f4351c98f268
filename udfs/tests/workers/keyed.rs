//! Keyed actors: lanes, snapshots and what is seen again after a death, and owners that
//! come too late.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::buffer::Buffer;
use arrow::datatypes::DataType;
use futures::TryStreamExt;
use futures::future::join_all;
use mobula_udfs::{ActorPool, Answer, Handling, Keyed, OnError, UdfError, UdfErrorClass, UdfPool};
use tempfile::TempDir;

use crate::bench::*;

/// Gives `x * 1000` and how many rows it has seen. It dies, once for each file in `DIR`, when
/// it sees the file's number; before that it may have answered half of a block.
const COUNTS: &str = "
import os, signal
class f:
    def __init__(self):
        self.seen = 0
        with open(DIR + '/built', 'a') as built:
            built.write(f'{os.getpid()}\\n')
    def __call__(self, x):
        made = []
        for value in x.tolist():
            path = f'{DIR}/{value}'
            if os.path.exists(path):
                os.remove(path)
                os.kill(os.getpid(), signal.SIGKILL)
            self.seen += 1
            made.append(value * 1000 + self.seen)
        return made
    def snapshot(self):
        with open(DIR + '/snapshots', 'a') as snapshots:
            snapshots.write(f'{self.seen}\\n')
        return STATE
    def restore(self, state):
        self.seen = SEEN";

/// A directory that workers write to.
struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// `body` with this directory as `DIR`, whose state is plain bytes.
    fn body(&self, body: &str) -> String {
        self.with_state(body, "str(self.seen).encode()", "int(state)")
    }

    fn with_state(&self, body: &str, state: &str, seen: &str) -> String {
        let dir = format!("{:?}", self.0.path().display().to_string());
        let body = body.replace("DIR", &dir);
        body.replace("STATE", state).replace("SEEN", seen)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// It dies when it sees `value`.
    fn dies_at(&self, value: i64) {
        std::fs::write(self.path(&value.to_string()), "").unwrap();
    }

    fn lines(&self, name: &str) -> Vec<i64> {
        let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }
}

fn keyed(mut case: Case, snapshot_every: u64) -> Case {
    case.handling = Handling {
        keyed: Some(Keyed {
            snapshot_every,
            replay_bytes: 1 << 20,
            snapshot_max_bytes: 1 << 20,
            actors: 0,
        }),
        ..case.handling
    };
    case
}

/// Blocks of one row, all given at once, through the actor of `lane`.
async fn through(pool: &Arc<dyn UdfPool>, lane: usize, rows: std::ops::Range<i64>) -> Vec<i64> {
    let calls = rows.map(|x| {
        let pool = Arc::clone(pool);
        async move {
            let answers = pool.call_lane(lane, vec![ints([Some(x)])]).await.unwrap();
            let answers: Vec<Answer> = answers.try_collect().await.unwrap();
            let [Answer::Rows(rows)] = answers.as_slice() else {
                panic!("{answers:?}");
            };
            values(rows)[0].unwrap()
        }
    });
    let all = tokio::time::timeout(PATIENCE, join_all(calls)).await;
    all.expect("no answers in time")
}

/// What an actor says that has lost nothing.
fn unbroken(rows: std::ops::Range<i64>) -> Vec<i64> {
    rows.map(|x| x * 1000 + x + 1).collect()
}

#[tokio::test]
async fn an_actor_that_dies_goes_on_where_it_was() {
    for every in [1, 7, 1000] {
        let scratch = Scratch::new();
        let manager = manager();
        let case = keyed(Case::ints("f", &scratch.body(COUNTS)).class(), every);
        let pool = case.pool(&manager, 1);
        for at in [20, 50, 51, 99] {
            scratch.dies_at(at);
        }
        assert_eq!(through(&pool, 0, 0..100).await, unbroken(0..100), "{every}");
        let stats = pool.stats();
        assert_eq!((stats.calls, stats.workers_started), (100, 5), "{every}");
        assert_eq!(stats.retries, 4);
        match every {
            1 => assert_eq!((stats.snapshots, stats.replayed), (100, 0)),
            7 => {
                // At 7, 14, …: what came after the last one is seen again.
                assert!(stats.snapshots >= 10, "{stats:?}");
                assert!((1..28).contains(&stats.replayed), "{stats:?}");
            }
            _ => {
                assert_eq!(stats.snapshots, 0);
                assert_eq!(stats.replayed, 20 + 50 + 51 + 99);
            }
        }
        manager.shutdown().await;
    }
}

#[tokio::test]
async fn each_lane_has_an_actor_and_a_state_of_its_own() {
    let scratch = Scratch::new();
    let manager = manager();
    let case = keyed(Case::ints("f", &scratch.body(COUNTS)).class(), 5);
    // All of them are needed, so that no bound on workers keeps one out.
    let pool = case.pool(&manager, 6);
    assert_eq!(pool.concurrency(), 6);
    scratch.dies_at(33);
    let all = join_all((0..6).map(|lane| {
        let pool = Arc::clone(&pool);
        // Lanes are counted on from the first.
        async move { through(&pool, lane + 6 * (lane % 2), 0..40).await }
    }));
    for lane in all.await {
        assert_eq!(lane, unbroken(0..40));
    }
    assert_eq!(pool.stats().workers_started, 7);
    manager.shutdown().await;
}

#[tokio::test]
async fn a_state_may_be_whatever_can_be_pickled_its_own_classes_too() {
    let own = "
import dataclasses
@dataclasses.dataclass
class _State:
    seen: int
";
    for (state, seen) in [
        ("{'seen': self.seen}", "state['seen']"),
        ("_State(self.seen)", "state.seen"),
        ("bytes(8) + bytes([self.seen])", "state[8]"),
        ("self.seen", "state"),
    ] {
        let scratch = Scratch::new();
        let manager = manager();
        // Workers that have loaded other bodies before call this one's module otherwise.
        let others = Case::ints("g", "def g(x):\n    return x");
        run(&others.pool(&manager, 1), counting(1)).await.unwrap();
        let body = format!("{own}{}", scratch.with_state(COUNTS, state, seen));
        let case = keyed(Case::ints("f", &body).class(), 3);
        let pool = case.pool(&manager, 1);
        scratch.dies_at(10);
        assert_eq!(through(&pool, 0, 0..12).await, unbroken(0..12), "{state}");
        manager.shutdown().await;
    }
}

#[tokio::test]
async fn a_state_longer_than_a_message_goes_in_parts() {
    let scratch = Scratch::new();
    let manager = mobula_udfs::WorkerManager::new(mobula_udfs::WorkerSettings {
        max_frame_bytes: 64 << 10,
        ..settings()
    });
    let body = scratch.with_state(COUNTS, "bytes(300_000) + bytes([self.seen])", "state[-1]");
    let case = keyed(Case::ints("f", &body).class(), 3);
    let pool = case.pool(&manager, 1);
    scratch.dies_at(10);
    assert_eq!(through(&pool, 0, 0..12).await, unbroken(0..12));
    manager.shutdown().await;
}

#[tokio::test]
async fn a_block_that_goes_in_pieces_is_not_seen_twice() {
    let scratch = Scratch::new();
    let manager = mobula_udfs::WorkerManager::new(mobula_udfs::WorkerSettings {
        max_frame_bytes: 64 << 10,
        ..settings()
    });
    for every in [1, 2, 1000] {
        let case = keyed(Case::ints("f", &scratch.body(COUNTS)).class(), every);
        let pool = case.pool(&manager, 1);
        // Of 30,000 numbers a frame holds about a quarter; it dies in the last one.
        scratch.dies_at(29_999);
        let out = run(&pool, counting(30_000)).await.unwrap();
        let found: Vec<i64> = values(&out).into_iter().flatten().collect();
        assert_eq!(found, unbroken(0..30_000), "{every}");
        let next = run(&pool, ints([Some(0)])).await.unwrap();
        assert_eq!(values(&next), [Some(30_001)]);
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn bytes_of_blocks_ask_for_a_snapshot_as_well() {
    let scratch = Scratch::new();
    let manager = manager();
    let mut case = keyed(Case::ints("f", &scratch.body(COUNTS)).class(), 1000);
    if let Some(keyed) = &mut case.handling.keyed {
        keyed.replay_bytes = 20_000;
    }
    let pool = case.pool(&manager, 1);
    for _ in 0..10 {
        run(&pool, counting(1000)).await.unwrap();
    }
    // Each block has 8,000 bytes and its head.
    assert_eq!(scratch.lines("snapshots"), [3000, 6000, 9000]);
    manager.shutdown().await;
}

#[tokio::test]
async fn rows_of_a_table_come_out_once() {
    const TABLE: &str = "
import os, signal
class f:
    def __init__(self):
        self.seen = 0
    def __call__(self, rows):
        for x in rows['x'].tolist():
            self.seen += 1
            yield {'x': [x], 'seen': [self.seen]}
            path = f'{DIR}/{x}'
            if os.path.exists(path):
                os.remove(path)
                os.kill(os.getpid(), signal.SIGKILL)
    def snapshot(self):
        return self.seen
    def restore(self, seen):
        self.seen = seen";
    let scratch = Scratch::new();
    let manager = manager();
    let columns = [("x", DataType::Int64), ("seen", DataType::Int64)];
    let case = keyed(Case::table("f", &columns, &scratch.body(TABLE)).class(), 2);
    let pool = case.pool(&manager, 1);
    scratch.dies_at(25);
    for block in 0..6 {
        let (from, to) = (block * 10, block * 10 + 10);
        let out = run(&pool, ints((from..to).map(Some))).await.unwrap();
        assert_eq!(values(&out), (from..to).map(Some).collect::<Vec<_>>());
        let seen = values(&out.project(&[1]).unwrap());
        assert_eq!(seen, (from + 1..=to).map(Some).collect::<Vec<_>>());
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn rows_that_fail_are_no_part_of_what_is_seen_again() {
    let scratch = Scratch::new();
    let manager = manager();
    let body = scratch.body(COUNTS).replace(
        "            self.seen += 1",
        "            if value == 5:\n                raise ValueError('five')\n            self.seen += 1",
    );
    let case = keyed(Case::ints("f", &body).class().on_error(OnError::Null), 1000);
    let pool = case.pool(&manager, 1);
    scratch.dies_at(8);
    let mut found = vec![];
    for x in 0..10 {
        let (out, failed) = run_whole(&pool, ints([Some(x)])).await.unwrap();
        assert_eq!(failed.len(), usize::from(x == 5));
        found.push(values(&out)[0]);
    }
    let expected = |x: i64| (x != 5).then_some(x * 1000 + x + i64::from(x < 5));
    assert_eq!(found, (0..10).map(expected).collect::<Vec<_>>());
    manager.shutdown().await;
}

#[tokio::test]
async fn without_snapshot_the_state_is_lost_and_nothing_is_kept() {
    let scratch = Scratch::new();
    let manager = manager();
    let body = scratch.body(COUNTS).replace("def snapshot", "def other");
    let body = body.replace("def restore", "def another");
    let case = keyed(Case::ints("f", &body).class(), 1);
    let pool = case.pool(&manager, 1);
    scratch.dies_at(10);
    let found = through(&pool, 0, 0..12).await;
    let expected = [unbroken(0..10), vec![10_001, 11_002]].concat();
    assert_eq!(found, expected);
    let stats = pool.stats();
    assert_eq!((stats.snapshots, stats.replayed), (0, 0));
    manager.shutdown().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_state_is_told() {
    let scratch = Scratch::new();
    let plain = scratch.body(COUNTS);
    for (body, wanted) in [
        (
            plain.replace("def restore", "def other"),
            "has a method snapshot() and no restore(state)",
        ),
        (
            plain.replace("def snapshot", "def other"),
            "has a method restore(state) and no snapshot()",
        ),
        (
            scratch.with_state(COUNTS, "lambda: 1", "state"),
            "returned from snapshot() what cannot be pickled",
        ),
        (
            scratch.with_state(COUNTS, "1 / 0", "state"),
            "ZeroDivisionError: division by zero (in snapshot(), line ",
        ),
        (
            scratch.with_state(COUNTS, "bytes(2_000_000)", "state"),
            "raise udf_snapshot_max_bytes",
        ),
    ] {
        let case = keyed(Case::ints("f", &body).class(), 1);
        let error = case.fails(counting(3)).await;
        assert_eq!(error.class(), UdfErrorClass::User, "{error}");
        assert!(error.to_string().contains(wanted), "{error}");
    }
    // And of one that cannot take it.
    let manager = manager();
    let body = scratch.with_state(COUNTS, "self.seen", "state['seen']");
    let pool = keyed(Case::ints("f", &body).class(), 1).pool(&manager, 1);
    run(&pool, counting(1)).await.unwrap();
    scratch.dies_at(77);
    let error = run(&pool, ints([Some(77)])).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("TypeError") && text.contains("(in restore(), line "),
        "{text}"
    );
    manager.shutdown().await;
}

/// All that a lane elsewhere says to one block: its value, and the state that it tells.
async fn asked(pool: &Arc<dyn UdfPool>, x: i64) -> Result<(i64, Option<Buffer>), UdfError> {
    let work = async {
        let answers: Vec<Answer> = pool.call(ints([Some(x)])).await?.try_collect().await?;
        let (mut value, mut state) = (None, None);
        for answer in answers {
            match answer {
                Answer::Rows(rows) => value = values(&rows)[0],
                Answer::Snapshot(told) => state = Some(told),
                Answer::Failed(failed) => panic!("{failed:?}"),
            }
        }
        Ok((value.unwrap(), state))
    };
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.expect("no answer in time")
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    // It may be gone.
    let _ = rustix::process::kill_process(pid, signal);
}

#[tokio::test]
async fn a_lane_moves_with_its_state_and_who_stood_still_is_not_heard() {
    use rustix::process::Signal;
    let scratch = Scratch::new();
    let manager = manager();
    let body = scratch.body(COUNTS).replace(
        "            self.seen += 1",
        "            if value == 666:\n                open(DIR + '/stalls', 'w').close()\n                __import__('time').sleep(3600 if os.path.exists(DIR + '/stall') else 0)\n            self.seen += 1",
    );
    let dir = format!("{:?}", scratch.path("").display().to_string());
    let case = keyed(Case::ints("f", &body.replace("DIR", &dir)).class(), 1);
    let lanes = ActorPool::try_new(&manager, case.call(), [2, 2]).unwrap();
    let first = lanes.open_lane(1, 1, None).unwrap();
    let (value, state) = asked(&first, 0).await.unwrap();
    assert_eq!((value, state.as_deref()), (1, Some(&b"\x001"[..])));
    let (value, state) = asked(&first, 1).await.unwrap();
    assert_eq!((value, state.as_deref()), (1002, Some(&b"\x002"[..])));
    // It is at work, and stands still.
    std::fs::write(scratch.path("stall"), "").unwrap();
    let moved = async {
        while !scratch.path("stalls").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let pid = only_pid(&manager);
        signal(pid, Signal::STOP);
        std::fs::remove_file(scratch.path("stall")).unwrap();
        // Another one has it, from the last state.
        let second = lanes.open_lane(1, 2, state.clone()).unwrap();
        let (value, told) = asked(&second, 666).await.unwrap();
        assert_eq!((value, told.as_deref()), (666_003, Some(&b"\x003"[..])));
        signal(pid, Signal::CONT);
        (pid, second)
    };
    let (late, (pid, second)) = tokio::join!(asked(&first, 666), moved);
    assert!(late.is_err(), "{late:?}");
    dead(pid).await;
    assert!(asked(&first, 5).await.is_err());
    // Who comes too late has nothing, and takes nothing.
    for generation in [1, 2] {
        let refused = lanes.open_lane(1, generation, None).unwrap_err();
        assert_eq!(refused.class(), UdfErrorClass::Lost, "{refused}");
    }
    assert!(lanes.open_lane(2, 1, None).is_err());
    let (value, _) = asked(&second, 7).await.unwrap();
    assert_eq!(value, 7004);
    // The other lane is as its constructor makes it.
    let other = lanes.open_lane(0, 9, None).unwrap();
    assert_eq!(asked(&other, 7).await.unwrap().0, 7001);
    drop(lanes);
    assert!(asked(&other, 7).await.is_err());
    manager.shutdown().await;
}
