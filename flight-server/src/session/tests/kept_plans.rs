//! Kept plans that call functions, actors and pools: never one that is another now.

use arrow::array::StringArray;

use super::*;

/// Bound to `text`, three times: what it gives, which is the same each time.
async fn ask(session: &Session, sql: &str, text: &str) -> Result<String, String> {
    let mut seen = vec![];
    for _ in 0..3 {
        let asked = async {
            let prepared = session.prepare(sql).await?;
            let column = Arc::new(StringArray::from(vec![text])) as _;
            let given = arrow::array::RecordBatch::try_from_iter([("0", column)]);
            let bound = session.bind(&prepared, Some(given.unwrap())).await?;
            let Outcome::Rows(run) = session
                .execute_run(&bound, 0, std::future::pending())
                .await?
            else {
                panic!("{sql} gives no rows");
            };
            Ok::<_, ServerError>(run.stream.try_collect::<Vec<_>>().await?)
        };
        let blocks = asked.await.map_err(|error| error.to_string())?;
        seen.push(array_value_to_string(blocks[0].column(0), 0).unwrap());
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "{sql}: {seen:?}");
    Ok(seen.remove(0))
}

fn function(answer: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION f(x VARCHAR) RETURNS VARCHAR LANGUAGE python AS $$\n\
         class f:\n    def __call__(self, x: str) -> str:\n        return [{answer} for x in x]\n$$"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_made_anew_is_called() {
    let session = open(None).await;
    let other = session.database().new_session().unwrap();
    let sql = "SELECT f(?)";
    all(&session, &[&function("x + '1'")]).await;
    all(&session, &["CREATE VIEW v AS SELECT f('v') AS a"]).await;
    let viewed = "SELECT a || CAST(? AS VARCHAR) FROM v";
    assert_eq!(ask(&session, sql, "a").await.unwrap(), "a1");
    assert_eq!(ask(&session, viewed, "w").await.unwrap(), "v1w");
    all(&other, &[&function("x + '2'")]).await;
    assert_eq!(ask(&session, sql, "a").await.unwrap(), "a2");
    assert_eq!(ask(&session, viewed, "w").await.unwrap(), "v2w");
    all(&other, &["DROP FUNCTION f"]).await;
    let gone = ask(&session, sql, "a").await.unwrap_err();
    assert!(gone.contains("'f'") || gone.contains("\"f\""), "{gone}");
    all(&other, &[&function("x + '3'")]).await;
    assert_eq!(ask(&session, sql, "b").await.unwrap(), "b3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_made_anew_is_called() {
    let session = open(None).await;
    let other = session.database().new_session().unwrap();
    let sql = "SELECT p(?)";
    let pool = "CREATE OR REPLACE ACTOR POOL p FROM f WITH (min = 1, max = 1)";
    all(&session, &[&function("x + '1'"), pool]).await;
    assert_eq!(ask(&session, sql, "a").await.unwrap(), "a1");
    all(&other, &[&function("x + '2'"), pool]).await;
    assert_eq!(ask(&session, sql, "a").await.unwrap(), "a2");
    all(&other, &["ALTER ACTOR POOL p SET (max = 2)"]).await;
    assert_eq!(ask(&session, sql, "a").await.unwrap(), "a2");
    all(&other, &["DROP ACTOR POOL p"]).await;
    let gone = ask(&session, sql, "a").await.unwrap_err();
    assert!(gone.contains("'p'") || gone.contains("\"p\""), "{gone}");
    // A function may have the name now, and gives a number.
    all(
        &other,
        &["CREATE FUNCTION p(x VARCHAR) RETURNS BIGINT LANGUAGE python AS $$\ndef p(x):\n    return [7 for _ in x]\n$$"],
    )
    .await;
    assert_eq!(ask(&session, sql, "a").await.unwrap(), "7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_keeps_its_state_over_kept_plans() {
    let session = open(None).await;
    all(
        &session,
        &[
            "CREATE FUNCTION c(start BIGINT) RETURNS BIGINT LANGUAGE python AS $$\nclass c:\n    def __init__(self):\n        self.n = 0\n    def __call__(self, start: int) -> int:\n        return start\n    def add(self, x: str) -> int:\n        self.n += 1\n        return self.n\n$$",
            "CREATE ACTOR a FROM c",
        ],
    )
    .await;
    // Volatile: one call each run, however the plan came about.
    for expected in 1..=5 {
        let prepared = session.prepare("SELECT a.add(?)").await.unwrap();
        let column = Arc::new(StringArray::from(vec!["x"])) as _;
        let given = arrow::array::RecordBatch::try_from_iter([("0", column)]).unwrap();
        let bound = session.bind(&prepared, Some(given)).await.unwrap();
        assert_eq!(bound.is_ahead(), expected > 1);
        let run = session.execute_run(&bound, 0, std::future::pending()).await;
        let Outcome::Rows(run) = run.unwrap() else {
            panic!("it gives no rows");
        };
        let blocks: Vec<_> = run.stream.try_collect().await.unwrap();
        let found = array_value_to_string(blocks[0].column(0), 0).unwrap();
        assert_eq!(found, expected.to_string());
    }
}
