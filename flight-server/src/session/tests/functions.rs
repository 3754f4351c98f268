//! Temporary functions: whose they are, what they hide, and what may not use them.

use std::sync::Arc;

use super::{Files, all, open, refused, values};

/// A function of one number, by the words before FUNCTION, that gives `x * times`.
fn function(words: &str, times: i64) -> String {
    format!(
        "CREATE {words} FUNCTION f(x BIGINT) RETURNS BIGINT LANGUAGE python IMMUTABLE AS $$\ndef f(x):\n    return x * {times}\n$$"
    )
}

#[tokio::test]
async fn a_temporary_function_is_of_its_session_alone_and_hides_others() {
    let first = open(None).await;
    let database = Arc::clone(first.database());
    let second = database.new_session().unwrap();
    all(&first, &[&function("TEMP", 2)]).await;
    assert_eq!(values(&first, "SELECT f(10)").await, ["20"]);
    let unknown = refused(&second, "SELECT f(10)").await;
    assert!(unknown.contains("Invalid function 'f'"), "{unknown}");

    // Others may take its name, in their session or for all.
    all(&second, &[&function("TEMPORARY", 3)]).await;
    assert_eq!(values(&second, "SELECT f(10)").await, ["30"]);
    let third = database.new_session().unwrap();
    all(
        &third,
        &[&function("", 5), "CREATE VIEW v AS SELECT f(10) AS n"],
    )
    .await;
    assert_eq!(values(&third, "SELECT f(10)").await, ["50"]);
    assert_eq!(values(&first, "SELECT f(10)").await, ["20"]);
    // A view means what it meant where it was made.
    assert_eq!(values(&first, "SELECT n FROM v").await, ["50"]);

    let taken = refused(&first, &function("TEMP", 4)).await;
    assert!(taken.contains("function \"f\" exists already"), "{taken}");
    all(&first, &[&function("OR REPLACE TEMP", 4)]).await;
    assert_eq!(values(&first, "SELECT f(10)").await, ["40"]);
    // What is dropped is the own one first, then that of all.
    all(&first, &["DROP FUNCTION f"]).await;
    assert_eq!(values(&first, "SELECT f(10)").await, ["50"]);
    all(&first, &["DROP FUNCTION f"]).await;
    refused(&first, "SELECT f(10)").await;
    assert_eq!(values(&second, "SELECT f(10)").await, ["30"]);
    database.engine().shutdown().await;
}

#[tokio::test]
async fn it_ends_with_its_session_and_is_not_stored() {
    let files = Files::new();
    let data_dir = files.dir.path().join("data");
    let session = open(Some(&data_dir)).await;
    all(&session, &[&function("TEMP", 2)]).await;
    let database = Arc::clone(session.database());
    let of_all = database.engine().functions().list().len();
    assert_eq!(of_all, 0);
    drop(session);
    database.engine().shutdown().await;
    drop(database);
    let session = open(Some(&data_dir)).await;
    refused(&session, "SELECT f(10)").await;
    session.database().engine().shutdown().await;
}

#[tokio::test]
async fn what_others_see_may_not_use_it() {
    let session = open(None).await;
    let class = "CREATE TEMP FUNCTION c(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$
class c:
    def __call__(self, x: int) -> int:
        return x
$$";
    all(&session, &[&function("TEMP", 2), class]).await;
    for (sql, what) in [
        (
            "CREATE VIEW v AS SELECT f(1)",
            "a view cannot use the function \"f\"",
        ),
        (
            "CREATE VIEW v AS SELECT 1 AS n WHERE 2 IN (SELECT f(1))",
            "a view cannot use the function \"f\"",
        ),
        (
            "CREATE VIEW v AS SELECT * FROM filter(TABLE(SELECT 1 AS x), f)",
            "\"f\"",
        ),
        (
            "CREATE ACTOR a FROM c",
            "an actor cannot use the function \"c\"",
        ),
        (
            "CREATE ACTOR POOL a FROM c WITH (min = 1, max = 1)",
            "an actor pool cannot use the function \"c\"",
        ),
    ] {
        let told = refused(&session, sql).await;
        assert!(told.contains(what), "{sql}: {told}");
    }
    // A table's rows are made once, by whatever made them.
    all(&session, &["CREATE TEMP TABLE t AS SELECT f(10) AS n"]).await;
    assert_eq!(values(&session, "SELECT n FROM t").await, ["20"]);
    session.database().engine().shutdown().await;
}
