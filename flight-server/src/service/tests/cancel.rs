//! Cancelling: a client that goes away, one that asks for it, a server that stops.

use arrow_flight::sql::ActionCancelQueryRequest;
use arrow_flight::{CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus};
use futures::StreamExt;

use super::*;

/// Would run for days; its first row comes when it is done.
pub const ENDLESS: &str = "SELECT count(*) AS n FROM generate_series(1, 100000000000000)";
/// Would run for days and gives rows all the time.
const ENDLESS_ROWS: &str = "SELECT value FROM generate_series(1, 100000000000000)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_stream_ends_the_query() {
    let server = TestServer::start().await;
    for sql in [ENDLESS, ENDLESS_ROWS] {
        let mut client = server.client().await;
        let info = client.execute(sql.to_owned(), None).await.unwrap();
        let mut stream = client.do_get(ticket(&info)).await.unwrap();
        if sql == ENDLESS_ROWS {
            assert!(stream.next().await.unwrap().unwrap().num_rows() > 0);
        }
        assert_eq!(server.tickets.count(), 1);
        drop(stream);
        eventually("the query's end", || server.tickets.count() == 0).await;
        // The connection goes on.
        assert_eq!(value(&mut client, "SELECT 1").await, "1");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_ends_its_queries() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let info = client.execute(ENDLESS.to_owned(), None).await.unwrap();
    let stream = client.do_get(ticket(&info)).await.unwrap();
    drop((client, stream));
    eventually("the end of all", || {
        (server.sessions.count(), server.tickets.count()) == (0, 0)
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_query_can_be_cancelled_from_elsewhere() {
    let server = TestServer::start().await;
    let (mut client, mut other) = (server.client().await, server.client().await);
    let info = client.execute(ENDLESS.to_owned(), None).await.unwrap();
    let stream = client.do_get(ticket(&info)).await.unwrap();
    let body = CancelFlightInfoRequest::new(info).encode_to_vec();
    let answers = act(&mut other, "CancelFlightInfo", body.clone())
        .await
        .unwrap();
    let answer = CancelFlightInfoResult::decode(answers[0].body.clone()).unwrap();
    assert_eq!(answer.status(), CancelStatus::Cancelled);
    let collected = stream.try_collect::<Vec<_>>();
    let ended = tokio::time::timeout(SOON, collected).await.unwrap();
    assert_code(&status_of(ended.unwrap_err()), Code::Cancelled);
    let again = act(&mut other, "CancelFlightInfo", body).await.unwrap_err();
    assert_code(&again, Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_query_can_be_cancelled_the_old_way() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let info = client.execute("SELECT 1".to_owned(), None).await.unwrap();
    let asked = ActionCancelQueryRequest {
        info: info.encode_to_vec().into(),
    };
    let body = asked.as_any().encode_to_vec();
    assert_eq!(
        act(&mut client, "CancelQuery", body).await.unwrap().len(),
        1
    );
    let gone = read(&mut client, &info).await.unwrap_err();
    assert_code(&gone, Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_waits_only_so_long() {
    let server = TestServer::start_with(ServiceSettings {
        drain: Duration::from_millis(200),
        ..settings()
    })
    .await;
    let mut client = server.client().await;
    let info = client.execute(ENDLESS.to_owned(), None).await.unwrap();
    let stream = client.do_get(ticket(&info)).await.unwrap();
    let tickets = Arc::clone(&server.tickets);
    server.stop().await;
    eventually("the query's end", || tickets.count() == 0).await;
    assert!(stream.try_collect::<Vec<_>>().await.is_err());
}
