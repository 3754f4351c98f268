//! Prepared statements: handles, limits, what they say of themselves.

use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, Any,
    CommandPreparedStatementQuery,
};

use super::*;
use crate::service::prepared::CreatePreparedResult;

pub(super) async fn create(client: &mut Client, sql: &str) -> Result<CreatePreparedResult, Status> {
    let asked = ActionCreatePreparedStatementRequest {
        query: sql.to_owned(),
        transaction_id: None,
    };
    let body = asked.as_any().encode_to_vec();
    let answers = act(client, "CreatePreparedStatement", body).await?;
    let any = Any::decode(answers[0].body.clone()).unwrap();
    assert!(
        any.type_url
            .ends_with("ActionCreatePreparedStatementResult")
    );
    Ok(CreatePreparedResult::decode(any.value).unwrap())
}

fn run_descriptor(made: &CreatePreparedResult) -> FlightDescriptor {
    let asked = CommandPreparedStatementQuery {
        prepared_statement_handle: made.prepared_statement_handle.clone(),
    };
    FlightDescriptor::new_cmd(asked.as_any().encode_to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_runs_as_often_as_asked() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let mut prepared = client
        .prepare("SELECT 5 AS x".to_owned(), None)
        .await
        .unwrap();
    assert_eq!(names(prepared.dataset_schema().unwrap()), ["x"]);
    assert!(prepared.parameter_schema().unwrap().fields().is_empty());
    for _ in 0..3 {
        let info = prepared.execute().await.unwrap();
        assert!(shown(&read(&mut client, &info).await.unwrap()).contains('5'));
    }
    prepared.close().await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_handles_leave_nothing_behind() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for round in 0..200 {
        let sql = format!("SELECT {round}");
        let prepared = client.prepare(sql, None).await.unwrap();
        prepared.close().await.unwrap();
    }
    let made = create(&mut client, "SELECT 1").await.unwrap();
    let closing = ActionClosePreparedStatementRequest {
        prepared_statement_handle: made.prepared_statement_handle.clone(),
    };
    for _ in 0..2 {
        let body = closing.as_any().encode_to_vec();
        act(&mut client, "ClosePreparedStatement", body)
            .await
            .unwrap();
    }
    let gone = server
        .raw()
        .await
        .get_flight_info(run_descriptor(&made))
        .await;
    assert_code(&gone.unwrap_err(), Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_holds_so_many_and_no_more() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for _ in 0..settings().prepared_max {
        create(&mut client, "SELECT 1").await.unwrap();
    }
    let refused = create(&mut client, "SELECT 1").await.unwrap_err();
    assert_code(&refused, Code::ResourceExhausted);
    assert!(refused.message().contains("mobula.prepared_max"));
    create(&mut server.client().await, "SELECT 1")
        .await
        .unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_say_whether_they_return_rows() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let query = create(&mut client, "SELECT 1").await.unwrap();
    assert_eq!(query.is_update, Some(false));
    assert!(!query.dataset_schema.is_empty());
    let ddl = create(&mut client, "CREATE VIEW v AS SELECT 1")
        .await
        .unwrap();
    assert_eq!(ddl.is_update, Some(true));
    assert!(ddl.dataset_schema.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_run_sees_changed_tables() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    run(&mut client, "CREATE VIEW v AS SELECT 1 AS a")
        .await
        .unwrap();
    let mut prepared = client
        .prepare("SELECT * FROM v".to_owned(), None)
        .await
        .unwrap();
    let before = prepared.execute().await.unwrap();
    assert_eq!(names(&announced(&before)), ["a"]);
    run(
        &mut client,
        "CREATE OR REPLACE VIEW v AS SELECT 1 AS b, 2 AS c",
    )
    .await
    .unwrap();
    let after = prepared.execute().await.unwrap();
    assert_eq!(names(&announced(&after)), ["b", "c"]);
    let blocks = read(&mut client, &after).await.unwrap();
    assert_eq!(blocks[0].schema(), announced(&after));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handles_belong_to_their_session() {
    let server = TestServer::start().await;
    let made = create(&mut server.client().await, "SELECT 1")
        .await
        .unwrap();
    let foreign = server
        .raw()
        .await
        .get_flight_info(run_descriptor(&made))
        .await;
    assert_code(&foreign.unwrap_err(), Code::NotFound);
    server.stop().await;
}
