//! Statements without rows: eager, exactly once, counted.

use super::cancel::ENDLESS;
use super::*;

const TABLE: &str = "CREATE TABLE numbers AS SELECT value AS n FROM generate_series(1, 3)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ddl_is_applied_without_a_fetch_and_seen_by_others() {
    let server = TestServer::start().await;
    let (mut client, mut other) = (server.client().await, server.client().await);
    let sql = "CREATE VIEW seven AS SELECT 7 AS x";
    let info = client.execute(sql.to_owned(), None).await.unwrap();
    assert_eq!(info.total_records, -1);
    assert!(announced(&info).fields().is_empty());
    assert_eq!(value(&mut other, "SELECT x FROM seven").await, "7");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dml_is_applied_once_however_often_it_is_read() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    run(&mut client, TABLE).await.unwrap();
    let sql = "INSERT INTO numbers VALUES (10), (11)";
    let info = client.execute(sql.to_owned(), None).await.unwrap();
    assert_eq!(info.total_records, 2);
    for _ in 0..3 {
        let blocks = read(&mut client, &info).await.unwrap();
        assert_eq!(blocks.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    }
    assert_eq!(
        value(&mut client, "SELECT count(*) FROM numbers").await,
        "5"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn describing_applies_nothing() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    run(&mut client, TABLE).await.unwrap();
    let sql = "INSERT INTO numbers VALUES (10)";
    let schema = server
        .raw()
        .await
        .get_schema(query_descriptor(sql))
        .await
        .unwrap();
    let schema = Schema::try_from(schema.get_ref()).unwrap();
    assert!(schema.fields().is_empty());
    let prepared = client.prepare(sql.to_owned(), None).await.unwrap();
    assert!(prepared.dataset_schema().unwrap().fields().is_empty());
    prepared.close().await.unwrap();
    assert_eq!(
        value(&mut client, "SELECT count(*) FROM numbers").await,
        "3"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_count_rows() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    assert_eq!(
        client.execute_update(TABLE.to_owned(), None).await.unwrap(),
        -1
    );
    let one = "INSERT INTO numbers VALUES (4)";
    assert_eq!(
        client.execute_update(one.to_owned(), None).await.unwrap(),
        1
    );
    let many = "INSERT INTO numbers SELECT value FROM generate_series(1, 100)";
    assert_eq!(
        client.execute_update(many.to_owned(), None).await.unwrap(),
        100
    );
    assert_eq!(
        value(&mut client, "SELECT count(*) FROM numbers").await,
        "104"
    );
    let query = client
        .execute_update("SELECT 1".to_owned(), None)
        .await
        .unwrap_err();
    assert_code(&status_of(query), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_updates_count_rows() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    run(&mut client, TABLE).await.unwrap();
    let sql = "INSERT INTO numbers VALUES (4), (5)";
    let mut insert = client.prepare(sql.to_owned(), None).await.unwrap();
    assert_eq!(insert.execute_update().await.unwrap(), 2);
    let info = insert.execute().await.unwrap();
    assert_eq!(info.total_records, 2);
    assert_eq!(
        value(&mut client, "SELECT count(*) FROM numbers").await,
        "7"
    );
    server.stop().await;
}

/// Has a client of its own start `sql`, and leave as soon as it is being applied.
async fn start_and_leave(server: &TestServer, sql: &str) {
    let mut leaving = server.client().await;
    let call = leaving.execute(sql.to_owned(), None);
    tokio::pin!(call);
    let started = eventually("the start", || server.updates.count() == 1);
    tokio::select! {
        biased;
        _ = &mut call => panic!("it is done too soon to leave in between"),
        () = started => {}
    }
}

/// What is not there before it is done is not made for nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_new_table_or_file_end_with_their_client() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    run(&mut client, TABLE).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let copy = format!(
        "COPY ({ENDLESS}) TO '{}'",
        dir.path().join("n.csv").display()
    );
    for sql in [
        copy,
        format!("CREATE OR REPLACE TABLE numbers AS {ENDLESS}"),
        format!("CREATE TEMP TABLE passing AS {ENDLESS}"),
    ] {
        start_and_leave(&server, &sql).await;
        eventually("its end", || server.updates.count() == 0).await;
    }
    // As it was, and names can be given again.
    assert_eq!(
        value(&mut client, "SELECT count(*) FROM numbers").await,
        "3"
    );
    run(&mut client, "CREATE TABLE more AS SELECT 1 AS n")
        .await
        .unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    server.stop().await;
}

/// A client that leaves does not leave its statement half done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_outlives_its_client() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    run(&mut client, TABLE).await.unwrap();
    let sql = "INSERT INTO numbers SELECT count(*) FROM generate_series(1, 300000000)";
    start_and_leave(&server, sql).await;
    let count = async {
        while value(&mut client, "SELECT count(*) FROM numbers").await != "4" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, count)
        .await
        .expect("the insert is applied");
    server.stop().await;
}
