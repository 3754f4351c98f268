//! Named actors of a database: over restarts, under prepared statements, bounded.

use arrow::util::display::array_value_to_string;
use futures::TryStreamExt;
use mobula_execution::{Engine, EngineSettings};
use mobula_plan::MobulaOptions;

use super::{all, open, python, refused, values};
use crate::{Database, Outcome};

const COUNTER: &str = "CREATE FUNCTION counter(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$
class counter:
    def __init__(self, start=0): self.n = start
    def __call__(self, x): return x
    def add(self, x: int) -> int:
        self.n += x
        return self.n
$$";

#[tokio::test]
async fn actors_survive_a_restart_without_their_state() {
    let data = tempfile::tempdir().unwrap();
    let session = open(Some(data.path())).await;
    all(
        &session,
        &[
            COUNTER,
            "CREATE ACTOR c FROM counter(start => 10)",
            "CREATE ACTOR gone FROM counter",
            "DROP ACTOR gone",
            "CREATE VIEW v AS SELECT c.add(1) AS n",
        ],
    )
    .await;
    assert_eq!(values(&session, "SELECT c.add(1)").await, ["11"]);
    assert_eq!(values(&session, "SELECT n FROM v").await, ["12"]);
    session.database().engine().shutdown().await;
    drop(session);
    let session = open(Some(data.path())).await;
    assert!(session.database().unusable().await.is_empty());
    let names = "SELECT name FROM system.actors";
    assert_eq!(values(&session, names).await, ["c"]);
    assert_eq!(values(&session, "SELECT n FROM v").await, ["11"]);
    all(&session, &["DROP FUNCTION counter", "DROP ACTOR c"]).await;
    session.database().engine().shutdown().await;
    drop(session);
    let session = open(Some(data.path())).await;
    assert!(values(&session, names).await.is_empty());
}

#[tokio::test]
async fn a_prepared_call_follows_its_actor_and_not_another_kind_of_it() {
    let session = open(None).await;
    all(&session, &[COUNTER, "CREATE ACTOR c FROM counter"]).await;
    let prepared = session.prepare("SELECT c.add(1)").await.unwrap();
    all(
        &session,
        &["CREATE OR REPLACE ACTOR c FROM counter(start => 5)"],
    )
    .await;
    let Outcome::Rows(run) = session.execute(&prepared).await.unwrap() else {
        panic!("it gives rows");
    };
    let blocks: Vec<_> = run.stream.try_collect().await.unwrap();
    assert_eq!(array_value_to_string(blocks[0].column(0), 0).unwrap(), "6");
    let texts = COUNTER
        .replace("x: int", "x: str")
        .replace("CREATE", "CREATE OR REPLACE");
    all(
        &session,
        &[&texts, "CREATE OR REPLACE ACTOR c FROM counter"],
    )
    .await;
    let error = match session.execute(&prepared).await {
        Ok(Outcome::Rows(run)) => run
            .stream
            .try_collect::<Vec<_>>()
            .await
            .unwrap_err()
            .to_string(),
        Ok(Outcome::Affected(_)) => panic!("it gives rows"),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("actor \"c\" has other methods"), "{error}");
    session.database().engine().shutdown().await;
}

#[tokio::test]
async fn there_are_no_more_actors_than_the_setting_says() {
    let mut options = MobulaOptions::default();
    options.set_value("actors_max", "1").unwrap();
    let engine = Engine::embedded(EngineSettings {
        options,
        python: python(),
    });
    let database = Database::open(engine.unwrap(), None).await.unwrap();
    let session = database.new_session().unwrap();
    all(&session, &[COUNTER, "CREATE ACTOR c FROM counter"]).await;
    let text = refused(&session, "CREATE ACTOR d FROM counter").await;
    assert!(text.contains("`actors_max`"), "{text}");
    all(&session, &["CREATE OR REPLACE ACTOR c FROM counter"]).await;
    session.database().engine().shutdown().await;
}

#[tokio::test]
async fn a_pool_of_more_than_there_may_be_is_refused_before_any_is_built() {
    let mut options = MobulaOptions::default();
    options.set_value("actors_max", "4").unwrap();
    let engine = Engine::embedded(EngineSettings {
        options,
        python: python(),
    });
    let database = Database::open(engine.unwrap(), None).await.unwrap();
    let session = database.new_session().unwrap();
    all(&session, &[COUNTER, "CREATE ACTOR c FROM counter"]).await;
    let expected = "actor pool \"p\" cannot have 4 actors, its min: there may be 4 (`actors_max`)";
    let create = "CREATE ACTOR POOL p FROM counter WITH (min = 4, max = 8)";
    let text = refused(&session, create).await;
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("others have 1"), "{text}");
    // As many as there may be, with the other one.
    let create = create.replace("min = 4", "min = 3");
    all(&session, &[&create]).await;
    let alter = "ALTER ACTOR POOL p SET (min = 4)";
    let text = refused(&session, alter).await;
    assert!(text.contains(expected), "{text}");
    let counts = "SELECT min || ' ' || actors FROM system.actor_pools";
    assert_eq!(values(&session, counts).await, ["3 3"]);
    all(&session, &["DROP ACTOR c", alter]).await;
    session.database().engine().shutdown().await;
}
