//! Queries: rows, schemas, message sizes, tickets.

use arrow::datatypes::{DataType, Field};
use arrow_flight::{FlightData, SchemaResult};
use futures::StreamExt;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_arrive_in_one_and_in_many_blocks() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    assert_eq!(value(&mut client, "SELECT 1 + 1").await, "2");
    let blocks = run(&mut client, "SELECT value FROM generate_series(1, 50000)")
        .await
        .unwrap();
    let rows: usize = blocks.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, 50_000);
    assert!(blocks.len() > 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_rows_keep_their_schema() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let sql = "SELECT 1 AS a, 'x' AS b WHERE false";
    let info = client.execute(sql.to_owned(), None).await.unwrap();
    let mut stream = client.do_get(ticket(&info)).await.unwrap();
    while let Some(block) = stream.next().await {
        assert_eq!(block.unwrap().num_rows(), 0);
    }
    assert_eq!(stream.schema().unwrap(), &announced(&info));
    assert_eq!(names(&announced(&info)), ["a", "b"]);
    server.stop().await;
}

/// What is announced is what comes, in names, types and nullability.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announced_schemas_are_those_of_the_streams() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let queries = [
        "SELECT 1 AS one, 'text' AS text, NULL AS nothing, now() AS now",
        "SELECT arrow_cast('view', 'Utf8View') AS v, arrow_cast('b', 'BinaryView') AS b",
        "SELECT arrow_cast('d', 'Dictionary(Int32, Utf8)') AS d",
        "SELECT make_array(1, 2) AS l, arrow_cast(make_array('a'), 'LargeList(Utf8View)') AS ll",
        "SELECT named_struct('v', arrow_cast('x', 'Utf8View'), 'n', 1) AS s",
        "SELECT count(*), sum(value), avg(value), max(value) FROM generate_series(1, 10)",
        "SELECT count(*) AS n, value % 3 AS k FROM generate_series(1, 10) GROUP BY value % 3",
        "SELECT a.value, b.value FROM generate_series(1, 3) a LEFT JOIN generate_series(2, 5) b ON a.value = b.value",
        "SELECT value, row_number() OVER (ORDER BY value) AS r FROM generate_series(1, 3)",
        "SELECT 1 AS same, 2 AS same2 UNION ALL SELECT 3, NULL",
        "SELECT * FROM (VALUES (1, 'a', 1.5), (2, NULL, 2.5)) t(i, s, f)",
        "SELECT CAST(1.25 AS DECIMAL(10, 2)) AS d, DATE '2020-01-01' AS day, INTERVAL '1 day' AS i",
        "EXPLAIN SELECT 1",
        "SHOW TABLES",
    ];
    for sql in queries {
        let info = client.execute(sql.to_owned(), None).await.unwrap();
        let expected = announced(&info);
        assert!(expected.metadata().is_empty());
        let mut stream = client.do_get(ticket(&info)).await.unwrap();
        while let Some(block) = stream.next().await {
            let block = block.unwrap_or_else(|error| panic!("{sql}: {error}"));
            assert_eq!(block.schema(), expected, "{sql}");
        }
        assert_eq!(stream.schema(), Some(&expected), "{sql}");
        assert!(
            expected.fields().iter().all(|field| field.is_nullable()),
            "{sql}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_schema_plans_a_statement() {
    let server = TestServer::start().await;
    let mut raw = server.raw().await;
    let asked = query_descriptor("SELECT arrow_cast('x', 'Utf8View') AS a, 1 AS b");
    let answer: SchemaResult = raw.get_schema(asked).await.unwrap().into_inner();
    let schema = Schema::try_from(&answer).unwrap();
    let expected = Schema::new(vec![
        Field::new("a", DataType::Utf8, true),
        Field::new("b", DataType::Int64, true),
    ]);
    assert_eq!(schema, expected);
    let wrong = raw
        .get_schema(query_descriptor("SELECT nothing FROM nowhere"))
        .await;
    assert_code(&wrong.unwrap_err(), Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_is_done_at_once() {
    let server = TestServer::start().await;
    let mut raw = server.raw().await;
    let answer = raw
        .poll_flight_info(query_descriptor("SELECT 7 AS x"))
        .await
        .unwrap();
    let answer = answer.into_inner();
    assert!(answer.flight_descriptor.is_none());
    let mut client = server.client().await;
    let blocks = read(&mut client, &answer.info.unwrap()).await.unwrap();
    assert!(shown(&blocks).contains('7'));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_stay_below_their_limit() {
    let server = TestServer::start().await;
    let mut raw = server.raw().await;
    let sql = "SELECT repeat('x', CAST(value AS INT)) AS t FROM generate_series(1, 4000)";
    let info = raw
        .get_flight_info(query_descriptor(sql))
        .await
        .unwrap()
        .into_inner();
    let stream = raw.do_get(ticket(&info)).await.unwrap().into_inner();
    let messages: Vec<FlightData> = stream.try_collect().await.unwrap();
    assert!(messages.len() > 8_000_000 / settings().wire_batch_bytes);
    for message in &messages {
        assert!(message.data_body.len() <= settings().wire_batch_bytes + 4096);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_of_16_mib_is_refused_by_column() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let sql = "SELECT 1 AS small, repeat('x', 16777216) AS huge";
    let refused = run(&mut client, sql).await.unwrap_err();
    assert_code(&refused, Code::ResourceExhausted);
    assert!(
        refused.message().contains("\"huge\""),
        "{}",
        refused.message()
    );
    let sql = "SELECT length(repeat('x', 16777216))";
    assert_eq!(value(&mut client, sql).await, "16777216");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_read_once_and_by_anyone_who_has_it() {
    let server = TestServer::start().await;
    let (mut client, mut other) = (server.client().await, server.client().await);
    let info = client
        .execute("SELECT 42 AS x".to_owned(), None)
        .await
        .unwrap();
    let blocks = read(&mut other, &info).await.unwrap();
    assert!(shown(&blocks).contains("42"));
    let again = read(&mut client, &info).await.unwrap_err();
    assert_code(&again, Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_nobody_reads_give_way() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let first = client.execute("SELECT 1".to_owned(), None).await.unwrap();
    for _ in 0..crate::service::TICKETS_PER_SESSION_MAX {
        client.execute("SELECT 2".to_owned(), None).await.unwrap();
    }
    assert_eq!(
        server.tickets.count(),
        crate::service::TICKETS_PER_SESSION_MAX
    );
    let gone = read(&mut client, &first).await.unwrap_err();
    assert_code(&gone, Code::NotFound);
    server.stop().await;
}

/// Drivers wait for the schema of each stream before they read on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schema_comes_before_the_query_is_done() {
    let server = TestServer::start().await;
    let mut raw = server.raw().await;
    let info = raw
        .get_flight_info(query_descriptor(super::cancel::ENDLESS))
        .await
        .unwrap();
    let mut stream = raw
        .do_get(ticket(info.get_ref()))
        .await
        .unwrap()
        .into_inner();
    let first = tokio::time::timeout(SOON, stream.message())
        .await
        .unwrap()
        .unwrap();
    assert!(Schema::try_from(&first.unwrap()).is_ok());
    drop(stream);
    eventually("the query's end", || server.tickets.count() == 0).await;
    server.stop().await;
}
