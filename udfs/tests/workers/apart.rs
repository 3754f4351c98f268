//! Actors of a host that no call finds, being built or on their way out: they are seen, and end
//! when they are told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mobula_udfs::{ActorInfo, ActorState, UdfError};

use crate::bench::*;
use crate::stage::*;

const HANGS: &str = "
import time
class counter:
    def __init__(self):
        time.sleep(1000)
    def __call__(self, x):
        return x
";
const LONG: Duration = Duration::from_secs(1000);

/// The one actor of the host, once it is in `state` and has a process.
async fn only(stage: &Stage, state: ActorState) -> ActorInfo {
    let since = Instant::now();
    loop {
        let mut all = stage.host.list();
        assert!(all.len() < 2, "{all:?}");
        if let Some(info) = all.pop().filter(|i| i.state == state && i.pid.is_some()) {
            return info;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "never {state}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_being_built_is_seen_and_counted_and_ends_when_it_is_told() {
    let stage = Stage::with_room(HANGS, 1);
    let member = |number| Arc::new(stage.spec("p", &[]).as_member(number));
    let (built, ()) = tokio::join!(stage.host.build(member(3)), async {
        let info = only(&stage, ActorState::Starting).await;
        assert_eq!((info.name.as_str(), info.member), ("p", 3));
        assert_eq!(stage.host.names(), ["p#3"]);
        let full = stage.host.build(member(4)).await.unwrap_err();
        assert!(
            matches!(full, UdfError::ActorsMax { actors: 1, .. }),
            "{full}"
        );
        stage.host.end_by_key("p#4").await;
        stage.host.end_by_key("p#3").await;
        assert!(stage.host.list().is_empty());
    });
    let error = built.unwrap_err();
    assert!(matches!(error, UdfError::ActorGone { .. }), "{error}");
    at_most(0, &stage.manager).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_on_its_way_out_is_seen_and_ends_at_once_when_it_is_told() {
    let stage = Stage::new(COUNTER);
    let spec = Arc::new(stage.spec("p", &[]).as_member(3));
    drop(stage.host.put(stage.host.build(spec).await.unwrap()));
    let call = stage.method("p", "slow").call();
    let pool = stage.host.open_member("p#3", call).unwrap();
    let (answer, ()) = tokio::join!(run(&pool, one("slow", 1_000_000)), async {
        let busy = only(&stage, ActorState::Busy).await;
        let actor = stage.host.take("p#3").unwrap();
        let ((), ()) = tokio::join!(stage.host.retire(actor, LONG), async {
            let leaving = only(&stage, ActorState::Retiring).await;
            assert_eq!((leaving.pid, leaving.member), (busy.pid, 3));
            stage.host.end_by_key("p#3").await;
            assert!(stage.host.list().is_empty());
        });
    });
    // What it was at is for others of its pool.
    let error = answer.unwrap_err();
    assert!(matches!(error, UdfError::PoolGone { .. }), "{error}");
    at_most(0, &stage.manager).await;
    stage.end().await;
}
