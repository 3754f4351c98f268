//! A kept plan is used, and never when what it was made of has changed.

use arrow::array::{ArrayRef, Int64Array};
use arrow_flight::sql::client::PreparedStatement;

use super::*;
use crate::{Bound, Session};

/// A session of an embedded database.
async fn session() -> Arc<Session> {
    database(|_| {}).await.new_session().unwrap()
}

/// `sql` bound to `values`, as a driver that prepares it again and again has it.
async fn bound(session: &Session, sql: &str, values: &[i64]) -> Arc<Bound> {
    let prepared = session.prepare(sql).await.unwrap();
    session.bind(&prepared, columns(values)).await.unwrap()
}

/// One row.
fn columns(values: &[i64]) -> Option<RecordBatch> {
    let columns = values.iter().enumerate().map(|(place, value)| {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![*value]));
        (place.to_string(), column)
    });
    (!values.is_empty()).then(|| RecordBatch::try_from_iter(columns).unwrap())
}

async fn apply(session: &Session, sql: &str) {
    if let Err(error) = session.sql(sql).await {
        panic!("{sql}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_comes_again_is_planned_once() {
    let session = session().await;
    apply(&session, "CREATE TABLE t AS SELECT 1 AS a").await;
    for (sql, values) in [
        ("SELECT a FROM t", &[][..]),
        ("SELECT a FROM t WHERE a = ?", &[1]),
        ("SELECT 1", &[]),
    ] {
        let first = bound(&session, sql, values).await;
        assert!(!first.is_ahead(), "{sql}");
        for _ in 0..2 {
            let again = bound(&session, sql, values).await;
            assert!(Arc::ptr_eq(first.prepared(), again.prepared()), "{sql}");
            assert!(again.is_ahead(), "{sql}");
        }
    }
    let other = session.database().new_session().unwrap();
    let theirs = other.prepare("SELECT 1").await.unwrap();
    let own = session.prepare("SELECT 1").await.unwrap();
    assert!(!Arc::ptr_eq(&theirs, &own));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_change_unseen_is_planned_each_time() {
    let session = session().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    std::fs::write(&path, "n\n1\n").unwrap();
    let file = format!("SELECT * FROM '{}'", path.display());
    for sql in [
        file.as_str(),
        "SELECT count(*) FROM information_schema.tables",
        "SHOW TABLES",
    ] {
        let first = session.prepare(sql).await.unwrap();
        let again = session.prepare(sql).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &again), "{sql}");
        assert!(!first.is_lasting(), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_are_few_and_end_with_their_session() {
    let mut options = MobulaOptions::default();
    options.set_value("plan_cache_max", "3").unwrap();
    let engine = Engine::embedded(EngineSettings {
        options,
        python: "python3".into(),
    });
    let database = Database::open(engine.unwrap(), None).await.unwrap();
    let session = database.new_session().unwrap();
    let kept = |n: i64| format!("SELECT {n}");
    let first = session.prepare(&kept(0)).await.unwrap();
    for n in 1..5 {
        session.prepare(&kept(n)).await.unwrap();
        // Used, and so not the one to go.
        assert!(Arc::ptr_eq(
            &first,
            &session.prepare(&kept(0)).await.unwrap()
        ));
    }
    let (statements, bytes) = database.plans().size();
    assert_eq!(statements, 3);
    assert!(bytes > 3 * 1024, "{bytes}");
    drop(session);
    assert_eq!(database.plans().size(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_plans_are_not_kept() {
    let mut options = MobulaOptions::default();
    options.set_value("plan_cache_bytes", "64KiB").unwrap();
    let engine = Engine::embedded(EngineSettings {
        options,
        python: "python3".into(),
    });
    let database = Database::open(engine.unwrap(), None).await.unwrap();
    let session = database.new_session().unwrap();
    let large = format!("SELECT '{}'", "x".repeat(64 * 1024));
    session.prepare(&large).await.unwrap();
    assert_eq!(database.plans().size(), (0, 0));
    for n in 0..100 {
        session.prepare(&format!("SELECT {n}")).await.unwrap();
    }
    let (statements, bytes) = database.plans().size();
    assert!(
        (2..100).contains(&statements) && bytes <= 64 * 1024,
        "{statements} {bytes}"
    );
}

/// One row, whose first column is the values one after the other.
async fn once(
    client: &mut Client,
    prepared: &mut PreparedStatement<Channel>,
) -> Result<String, Status> {
    let info = prepared.execute().await.map_err(status_of)?;
    let blocks = read(client, &info).await?;
    let block = blocks.iter().find(|block| block.num_rows() > 0);
    let block = block.ok_or_else(|| Status::not_found("no row"))?;
    assert_eq!(block.schema(), announced(&info));
    Ok(arrow::util::display::array_value_to_string(block.column(0), 0).unwrap())
}

/// Runs `sql` three times, `changes` in another session, and `sql` again.
async fn across(sql: &str, value: Option<i64>, first: &str, changes: &[(&str, &str)]) {
    let server = TestServer::start().await;
    let (mut client, mut other) = (server.client().await, server.client().await);
    run(&mut other, "CREATE TABLE t AS SELECT 1 AS a, 10 AS b")
        .await
        .unwrap();
    run(&mut other, "CREATE VIEW v AS SELECT a + 100 AS a FROM t")
        .await
        .unwrap();
    run(&mut other, "CREATE VIEW w AS SELECT a + 1000 AS a FROM v")
        .await
        .unwrap();
    let mut prepared = client.prepare(sql.to_owned(), None).await.unwrap();
    if let Some(values) = columns(value.as_slice()) {
        prepared.set_parameters(values).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(
            once(&mut client, &mut prepared).await.unwrap(),
            first,
            "{sql}"
        );
    }
    for (change, expected) in changes {
        run(&mut other, change).await.unwrap();
        for _ in 0..3 {
            let found = once(&mut client, &mut prepared).await;
            let found = found.unwrap_or_else(|status| status.message().to_owned());
            assert!(found.starts_with(expected), "{sql} after {change}: {found}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_made_anew_is_read() {
    let changes = [
        ("CREATE OR REPLACE TABLE t AS SELECT 2 AS a", "2"),
        (
            "CREATE OR REPLACE TABLE t AS SELECT 'two' AS c, 3 AS a",
            "3",
        ),
        ("DROP TABLE t", "table \"t\" does not exist"),
        ("CREATE TABLE t AS SELECT 4 AS a", "4"),
        ("INSERT INTO t VALUES (3)", "4"),
    ];
    across(
        "SELECT a FROM t WHERE a > ? ORDER BY a DESC",
        Some(0),
        "1",
        &changes,
    )
    .await;
    across("SELECT a FROM t ORDER BY a DESC", None, "1", &changes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_made_anew_is_read() {
    let changes = [
        (
            "CREATE OR REPLACE VIEW v AS SELECT a + 200 AS a FROM t",
            "1201",
        ),
        ("CREATE OR REPLACE TABLE t AS SELECT 2 AS a", "1202"),
        ("CREATE OR REPLACE VIEW w AS SELECT 'x' AS a", "x"),
        ("DROP VIEW w", "table \"w\" does not exist"),
    ];
    across("SELECT a FROM w", None, "1101", &changes).await;
    let changes = [(
        "CREATE OR REPLACE VIEW v AS SELECT a + 200 AS a FROM t",
        "1211",
    )];
    across("SELECT a + ? FROM w", Some(10), "1111", &changes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_and_its_tables_come_and_go() {
    let changes = [
        ("CREATE SCHEMA s", ""),
        ("CREATE VIEW s.t AS SELECT 5 AS a", "1"),
        ("DROP SCHEMA s CASCADE", "1"),
    ];
    across("SELECT a FROM t", None, "1", &changes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_the_session_count() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    run(&mut client, "CREATE SCHEMA s").await.unwrap();
    run(&mut client, "CREATE VIEW t AS SELECT 1 AS a")
        .await
        .unwrap();
    run(&mut client, "CREATE VIEW s.t AS SELECT 2 AS a")
        .await
        .unwrap();
    let sql = "SELECT a FROM t".to_owned();
    let mut prepared = client.prepare(sql.clone(), None).await.unwrap();
    for (schema, expected) in [("public", "1"), ("s", "2"), ("public", "1")] {
        let set = format!("SET datafusion.catalog.default_schema = '{schema}'");
        run(&mut client, &set).await.unwrap();
        for _ in 0..3 {
            assert_eq!(once(&mut client, &mut prepared).await.unwrap(), expected);
            assert_eq!(value(&mut client, &sql).await, expected);
        }
    }
    run(&mut client, "SET datafusion.catalog.default_schema = 's'")
        .await
        .unwrap();
    run(&mut client, "RESET datafusion.catalog.default_schema")
        .await
        .unwrap();
    assert_eq!(once(&mut client, &mut prepared).await.unwrap(), "1");
    let zone = "SELECT CAST(CAST(0 AS TIMESTAMP) AS TIMESTAMPTZ)::VARCHAR".to_owned();
    let mut prepared = client.prepare(zone, None).await.unwrap();
    let mut seen = vec![];
    for zone in ["+00:00", "+05:00"] {
        let set = format!("SET datafusion.execution.time_zone = '{zone}'");
        run(&mut client, &set).await.unwrap();
        for _ in 0..3 {
            seen.push(once(&mut client, &mut prepared).await.unwrap());
        }
    }
    assert_eq!(seen[0], seen[2]);
    assert_ne!(seen[2], seen[3], "{seen:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_goes_on() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let mut prepared = client
        .prepare("SELECT now()".to_owned(), None)
        .await
        .unwrap();
    let mut seen = vec![];
    for _ in 0..4 {
        seen.push(once(&mut client, &mut prepared).await.unwrap());
    }
    seen.dedup();
    assert_eq!(seen.len(), 4, "{seen:?}");
    server.stop().await;
}
