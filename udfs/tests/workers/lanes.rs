//! Who goes first where several queries wait for one actor.

use std::sync::Arc;

use futures::future::join_all;
use mobula_udfs::{ActorState, PoolBounds, Priority, UdfCall, UdfPool};

use crate::bench::*;
use crate::stage::*;

const SEEMS_INTERACTIVE: Priority = Priority {
    is_interactive: true,
    is_said: false,
};
const SAID_INTERACTIVE: Priority = Priority {
    is_interactive: true,
    is_said: true,
};
const SAID_BATCH: Priority = Priority {
    is_interactive: false,
    is_said: true,
};

/// An actor that is at work for a while, alone or as one of a pool.
async fn busy(is_pooled: bool) -> Stage {
    let stage = Stage::new(COUNTER);
    let mut spec = stage.spec("c", &[]);
    spec.pool = is_pooled.then_some(PoolBounds {
        min: 1,
        max: 1,
        idle_ttl: None,
    });
    drop(
        stage
            .host
            .put(stage.host.build(Arc::new(spec)).await.unwrap()),
    );
    // Who sees to it that it is there is through with it after this.
    stage.call("c", "get", 0).await.unwrap();
    let answers = stage.pool("c", "slow").call(ints([Some(300)])).await;
    stage.until("c", ActorState::Busy).await;
    // It goes on without a reader.
    drop(answers.unwrap());
    stage
}

/// A way of `query` to the actor.
fn way(stage: &Stage, query: &str, priority: Priority) -> Arc<dyn UdfPool> {
    let call = UdfCall {
        query: query.to_owned(),
        priority,
        ..stage.method("c", "slow").call().as_ref().clone()
    };
    stage.host.open_pool(Arc::new(call)).unwrap()
}

/// Has each of `ways` stand in line, in this order; the number of the turn of each.
async fn turns(ways: &[Arc<dyn UdfPool>]) -> Vec<i64> {
    let calls = ways.iter().map(|pool| async move {
        let out = run(pool, ints([Some(2)])).await.unwrap();
        // The first turn was that of the blocker.
        values(&out)[0].unwrap() - 1
    });
    join_all(calls).await
}

#[tokio::test]
async fn an_actor_of_a_pool_takes_questions_first_and_queries_in_turn() {
    let stage = busy(true).await;
    let a = way(&stage, "a", Priority::default());
    let b = way(&stage, "b", Priority::default());
    let question = way(&stage, "c", SEEMS_INTERACTIVE);
    let mut ways = vec![Arc::clone(&a); 6];
    ways.extend(vec![Arc::clone(&b); 6]);
    ways.push(question);
    let found = turns(&ways).await;
    assert_eq!(found[12], 1, "{found:?}");
    let (of_a, of_b) = (&found[..6], &found[6..12]);
    assert!(of_a.is_sorted() && of_b.is_sorted(), "{found:?}");
    // Its time is shared: neither waits for all of the other.
    assert!(of_b[0] < of_a[3] && of_a[0] < of_b[3], "{found:?}");
    assert_eq!(stage.info("c").queue, 0);
    stage.end().await;
}

#[tokio::test]
async fn work_has_every_eighth_turn_whatever_is_asked() {
    let stage = busy(true).await;
    let work = way(&stage, "work", Priority::default());
    let mut ways = vec![work];
    ways.extend((0..16).map(|n| way(&stage, &n.to_string(), SEEMS_INTERACTIVE)));
    let found = turns(&ways).await;
    assert_eq!(found[0], 8, "{found:?}");
    stage.end().await;
}

#[tokio::test]
async fn a_single_actor_takes_calls_as_they_come_unless_sessions_say_otherwise() {
    let stage = busy(false).await;
    let ways = [
        way(&stage, "a", SAID_BATCH),
        way(&stage, "b", Priority::default()),
        way(&stage, "c", SEEMS_INTERACTIVE),
        way(&stage, "b", Priority::default()),
        way(&stage, "d", SAID_INTERACTIVE),
        way(&stage, "e", SEEMS_INTERACTIVE),
    ];
    assert_eq!(turns(&ways).await, [6, 2, 3, 4, 1, 5]);
    stage.end().await;
}

#[tokio::test]
async fn a_pool_tells_how_long_others_keep_it() {
    let stage = busy(true).await;
    let way = way(&stage, "a", SEEMS_INTERACTIVE);
    assert!(!way.wait_expected().is_zero());
    stage.until("c", ActorState::Idle).await;
    assert!(way.wait_expected().is_zero());
    stage.end().await;
}
