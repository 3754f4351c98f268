//! Splits: whose they are, and when they end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;

use super::{all, open, refused, values};
use crate::Outcome;

const MAKE: &str =
    "CREATE SPLIT s WITH (readers = 1) AS SELECT value AS a FROM generate_series(1, 100000)";

#[tokio::test]
async fn a_split_ends_with_the_session_that_made_it_and_no_other() {
    let first = open(None).await;
    let database = Arc::clone(first.database());
    let second = database.new_session().unwrap();
    all(&first, &[MAKE]).await;
    // Any session reads it, and may drop it.
    let count = "SELECT count(*) FROM read_split('s', 0)";
    assert_eq!(values(&second, count).await, ["100000"]);
    all(&second, &["DROP SPLIT s", MAKE]).await;
    assert_eq!(first.splits_idle_for(Instant::now()), None);
    drop(first);
    assert_eq!(values(&second, count).await, ["100000"]);
    drop(second);
    let third = database.new_session().unwrap();
    let told = refused(&third, count).await;
    assert!(told.contains("there is no split \"s\""), "{told}");
}

#[tokio::test]
async fn who_made_a_split_is_not_idle_while_it_is_read() {
    let owner = open(None).await;
    let reader = owner.database().new_session().unwrap();
    all(&owner, &[MAKE]).await;
    let later = Instant::now() + Duration::from_secs(3600);
    assert!(owner.splits_idle_for(later).unwrap() > Duration::from_secs(3000));
    let Outcome::Rows(mut run) = reader
        .sql("SELECT a FROM read_split('s', 0)")
        .await
        .unwrap()
    else {
        panic!("it gives rows");
    };
    assert!(run.stream.try_next().await.unwrap().is_some());
    assert_eq!(owner.splits_idle_for(later), Some(Duration::ZERO));
    drop(run);
    assert!(owner.splits_idle_for(later).unwrap() > Duration::from_secs(3000));
}
