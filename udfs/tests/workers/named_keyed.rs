//! Named actors that are called by key: their state outlives them and who called them.

use std::sync::Arc;
use std::time::Duration;

use arrow::buffer::Buffer;
use futures::TryStreamExt;
use mobula_udfs::{
    ActorState, Answer, Handling, KeptStates, Keyed, UdfCall, UdfError, UdfErrorClass, UdfPool,
};

use crate::bench::*;
use crate::stage::*;

/// Adds up; a method may leave without a word.
const SUMS: &str = "
import os, time
class counter:
    def __init__(self):
        self.n = 0
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
        time.sleep(x / 1000)
        self.n += 1000
        return self.n
    def fails(self, x: int) -> int:
        raise ValueError(x)
    def dies(self, x: int) -> int:
        os.kill(os.getpid(), 9)
    def lines(self, rows: 'TABLE') -> 'TABLE(x BIGINT)':
        yield {'x': rows['x']}
    def snapshot(self):
        return self.n
    def restore(self, n):
        self.n = n
";

fn by_key(stage: &Stage, method: &str, snapshot_every: u64) -> Arc<UdfCall> {
    let mut case = stage.method("c", method);
    case.handling = Handling {
        keyed: Some(Keyed {
            snapshot_every,
            replay_bytes: 1 << 20,
            snapshot_max_bytes: 1 << 20,
            actors: 1,
        }),
        ..case.handling
    };
    case.call()
}

/// What a block of one row gives, and the state that was told after it.
async fn ask(pool: &Arc<dyn UdfPool>, x: i64) -> Result<(i64, Option<Buffer>), UdfError> {
    let answers = pool.call_lane(0, vec![ints([Some(x)])]).await?;
    let answers: Vec<Answer> = answers.try_collect().await?;
    let (mut value, mut told) = (None, None);
    for answer in answers {
        match answer {
            Answer::Rows(rows) => value = values(&rows)[0],
            Answer::Snapshot(state) => told = Some(state),
            Answer::Failed(rows) => panic!("{rows:?}"),
        }
    }
    Ok((value.unwrap(), told))
}

async fn kill(stage: &Stage) {
    let pid = stage.info("c").pid.unwrap();
    let killed = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status();
    assert!(killed.unwrap().success());
    let since = std::time::Instant::now();
    while stage.info("c").pid == Some(pid) {
        assert!(since.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_outlives_the_process_between_calls_and_whose_they_were() {
    for every in [1, 3, 1000] {
        let stage = Stage::new(SUMS);
        stage.create("c", &[]).await.unwrap();
        let mut sum = 0;
        for query in 0..4 {
            // Each with a way of its own, by one method or another.
            let method = ["add", "slow"][query % 2];
            let pool = stage.host.open_pool(by_key(&stage, method, every)).unwrap();
            for x in 1..=5 {
                sum += if method == "add" { x } else { 1000 };
                assert_eq!(ask(&pool, x).await.unwrap(), (sum, None), "{every}");
            }
            drop(pool);
            kill(&stage).await;
            // Whoever asks without a key finds it as it was, too.
            assert_eq!(stage.call("c", "get", 0).await.unwrap(), sum, "{every}");
        }
        assert_eq!(stage.info("c").restarts, 4);
        stage.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_loses_its_actor_counts_once() {
    let stage = Stage::new(SUMS);
    stage.create("c", &[]).await.unwrap();
    let add = stage.host.open_pool(by_key(&stage, "add", 3)).unwrap();
    let slow = stage.host.open_pool(by_key(&stage, "slow", 3)).unwrap();
    let mut sum = 0;
    for round in 0..3 {
        sum += 7;
        assert_eq!(ask(&add, 7).await.unwrap().0, sum);
        let killed = async {
            stage.until("c", ActorState::Busy).await;
            kill(&stage).await;
        };
        let (answer, ()) = tokio::join!(ask(&slow, 300), killed);
        sum += 1000;
        assert_eq!(answer.unwrap().0, sum, "{round}");
    }
    // One that ends two actors is its own error, and is in no state.
    let dies = stage.host.open_pool(by_key(&stage, "dies", 3)).unwrap();
    let error = ask(&dies, 1).await.unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::Lost, "{error}");
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), sum);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_that_cannot_tell_its_state_begins_anew() {
    let body = SUMS
        .replace("snapshot", "other")
        .replace("restore", "another");
    let stage = Stage::new(&body);
    stage.create("c", &[]).await.unwrap();
    let pool = stage.host.open_pool(by_key(&stage, "add", 1)).unwrap();
    assert_eq!(ask(&pool, 5).await.unwrap(), (5, None));
    assert_eq!(ask(&pool, 5).await.unwrap(), (10, None));
    kill(&stage).await;
    assert_eq!(ask(&pool, 5).await.unwrap(), (5, None));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_as_a_later_generation_has_the_state_and_the_one_before_has_not() {
    let stage = Stage::new(SUMS);
    stage.create("c", &[]).await.unwrap();
    // What was there before anybody called it by key stays.
    assert_eq!(stage.call("c", "add", 1).await.unwrap(), 1);
    let open = |generation, told: Option<&Buffer>| {
        let state = (generation, told.cloned());
        let opened = stage.host.open_keyed("c", by_key(&stage, "add", 1), state);
        opened.unwrap()
    };
    let first = open(5, None).unwrap();
    let (sum, told) = ask(&first, 10).await.unwrap();
    assert_eq!(sum, 11);
    let told = told.unwrap();
    assert_eq!(ask(&first, 10).await.unwrap().0, 21);
    let pid = stage.info("c").pid;
    // Its caller did not hear of the second block: it counts no more.
    let second = open(6, Some(&told)).unwrap();
    assert_eq!(ask(&second, 100).await.unwrap().0, 111);
    assert_ne!(stage.info("c").pid, pid);
    let late = ask(&first, 1).await.unwrap_err();
    assert!(matches!(late, UdfError::PoolGone { .. }), "{late}");
    assert!(open(5, Some(&told)).is_none());
    // By another call of the same one it is the same state.
    let other = open(6, None).unwrap();
    assert_eq!(ask(&other, 1).await.unwrap().0, 112);
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), 112);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_at_work_for_who_had_the_state_does_not_count_for_who_has_it() {
    let stage = Stage::new(SUMS);
    stage.create("c", &[]).await.unwrap();
    let state = |generation| (generation, None);
    let slow = by_key(&stage, "slow", 1);
    let first = stage.host.open_keyed("c", slow, state(1)).unwrap().unwrap();
    let warm = ask(&first, 0).await.unwrap();
    assert_eq!(warm.0, 1000);
    let taken_over = async {
        stage.until("c", ActorState::Busy).await;
        let add = by_key(&stage, "add", 1);
        let second = (2, warm.1);
        let second = stage.host.open_keyed("c", add, second).unwrap().unwrap();
        assert_eq!(ask(&second, 1).await.unwrap().0, 1001);
        assert_eq!(ask(&second, 1).await.unwrap().0, 1002);
    };
    let (late, ()) = tokio::join!(ask(&first, 2000), taken_over);
    assert!(late.is_err());
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_what_may_be_kept_no_block_is_given() {
    let states = KeptStates::new(4);
    let mut stage = Stage::new(SUMS);
    stage.host = stage.host.with_states(Arc::clone(&states));
    stage.create("c", &[]).await.unwrap();
    let pool = stage.host.open_pool(by_key(&stage, "add", 1)).unwrap();
    assert_eq!(ask(&pool, 5).await.unwrap().0, 5);
    assert!(states.used() > 4);
    let error = ask(&pool, 5).await.unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::Exhausted);
    assert!(
        error.to_string().contains("`actor_states_max_bytes`"),
        "{error}"
    );
    // Without a key it goes on, and dropped it makes room.
    assert_eq!(stage.call("c", "get", 0).await.unwrap(), 5);
    drop(pool);
    let dropped = stage.host.take("c").unwrap();
    stage.host.end(dropped).await;
    let since = std::time::Instant::now();
    while states.used() > 0 {
        assert!(since.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stage.end().await;
}
