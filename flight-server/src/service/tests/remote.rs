//! The small client, against the real server.

use super::*;
use crate::service::client::{RemoteOutcome, RemoteSession};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_counts_and_settings_pass() {
    let server = TestServer::start().await;
    let mut remote = RemoteSession::connect(&server.url).await.unwrap();
    let RemoteOutcome::Rows { schema, stream } = remote.execute("SELECT 6 AS x").await.unwrap()
    else {
        panic!("a query gives rows");
    };
    assert_eq!(names(&schema), ["x"]);
    let blocks: Vec<_> = stream.try_collect().await.unwrap();
    assert!(shown(&blocks).contains('6'));
    let sql = "CREATE TABLE t AS SELECT 1 AS n";
    let made = remote.execute(sql).await.unwrap();
    assert!(matches!(made, RemoteOutcome::Affected(None)));
    let sql = "INSERT INTO t VALUES (2), (3)";
    let added = remote.execute(sql).await.unwrap();
    assert!(matches!(added, RemoteOutcome::Affected(Some(2))));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_the_servers_line_and_nothing_else() {
    let server = TestServer::start().await;
    let mut remote = RemoteSession::connect(&server.url).await.unwrap();
    let direct = run(&mut server.client().await, "SELECT nothing")
        .await
        .unwrap_err();
    let Err(error) = remote.execute("SELECT nothing").await else {
        panic!("there is no such column");
    };
    assert_eq!(error.to_string(), direct.message());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_rows_cancels_on_the_server() {
    let server = TestServer::start().await;
    let mut remote = RemoteSession::connect(&server.url).await.unwrap();
    let outcome = remote.execute(super::cancel::ENDLESS).await.unwrap();
    assert_eq!(server.tickets.count(), 1);
    drop(outcome);
    eventually("the query's end", || server.tickets.count() == 0).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_names_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("grpc://{}", listener.local_addr().unwrap());
    drop(listener);
    let Err(error) = RemoteSession::connect(&url).await else {
        panic!("nobody listens there");
    };
    assert!(error.to_string().contains(&url), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_away_is_said_to_be_gone() {
    let server = TestServer::start_with(ServiceSettings {
        drain: Duration::from_millis(100),
        ..settings()
    })
    .await;
    let mut remote = RemoteSession::connect(&server.url).await.unwrap();
    let outcome = remote.execute(super::cancel::ENDLESS).await.unwrap();
    server.stop().await;
    let RemoteOutcome::Rows { stream, .. } = outcome else {
        panic!("a query gives rows");
    };
    let broken = stream.try_collect::<Vec<_>>().await.unwrap_err();
    assert!(broken.to_string().contains("connection"), "{broken}");
    let Err(gone) = remote.execute("SELECT 1").await else {
        panic!("nobody is there");
    };
    assert!(gone.to_string().contains("connection"), "{gone}");
}
