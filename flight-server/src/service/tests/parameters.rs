//! Values for parameters: bound, counted, limited, refused.

use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, StringArray};
use arrow::datatypes::DataType;
use arrow_flight::sql::client::PreparedStatement;

use super::prepared::create;
use super::*;

fn block(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

fn ints(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

async fn prepare(client: &mut Client, sql: &str) -> PreparedStatement<Channel> {
    client.prepare(sql.to_owned(), None).await.unwrap()
}

/// What `sql` gives with `values`: the values of its first column.
async fn given(client: &mut Client, sql: &str, values: RecordBatch) -> Result<Vec<String>, Status> {
    let mut prepared = client
        .prepare(sql.to_owned(), None)
        .await
        .map_err(status_of)?;
    prepared.set_parameters(values).unwrap();
    let info = prepared.execute().await.map_err(status_of)?;
    let blocks = read(client, &info).await?;
    for block in &blocks {
        assert_eq!(block.schema(), announced(&info));
    }
    prepared.close().await.unwrap();
    Ok(first_column(&blocks))
}

fn first_column(blocks: &[RecordBatch]) -> Vec<String> {
    let rows = blocks.iter().flat_map(|block| {
        (0..block.num_rows())
            .map(|row| arrow::util::display::array_value_to_string(block.column(0), row).unwrap())
    });
    rows.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_bound_by_place_and_by_name() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let two = || block(vec![("0", ints([7])), ("1", texts(&["x"]))]);
    for sql in [
        "SELECT ? || CAST(? AS VARCHAR)",
        "SELECT CAST($1 AS VARCHAR) || $2",
        "SELECT CAST($n AS VARCHAR) || $text",
    ] {
        assert_eq!(
            given(&mut client, sql, two()).await.unwrap(),
            ["7x"],
            "{sql}"
        );
    }
    let named = block(vec![("text", texts(&["x"])), ("$n", ints([7]))]);
    let sql = "SELECT CAST($n AS VARCHAR) || $text";
    assert_eq!(given(&mut client, sql, named).await.unwrap(), ["7x"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_runs_once_for_each_row() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let rows = |values: std::ops::RangeInclusive<i64>| block(vec![("0", ints(values))]);
    let sql = "SELECT ? + 1 AS x";
    let found = given(&mut client, sql, rows(1..=4)).await.unwrap();
    assert_eq!(found, ["2", "3", "4", "5"]);
    let sql = "SELECT value FROM generate_series(1, 3) WHERE value <= ?";
    let found = given(&mut client, sql, rows(1..=2)).await.unwrap();
    assert_eq!(found, ["1", "1", "2"]);
    // Of no rows, no run: but the schema is there.
    let mut prepared = prepare(&mut client, "SELECT ? + 1.5 AS x").await;
    prepared
        .set_parameters(block(vec![("0", ints([]))]))
        .unwrap();
    let info = prepared.execute().await.unwrap();
    assert_eq!(announced(&info).field(0).data_type(), &DataType::Float64);
    assert!(first_column(&read(&mut client, &info).await.unwrap()).is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_says_what_values_it_takes() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    run(&mut client, "CREATE TABLE t AS SELECT 1 AS a, 'x' AS s")
        .await
        .unwrap();
    let sql = "SELECT a FROM t WHERE a = ? AND s LIKE ? LIMIT ?";
    let prepared = prepare(&mut client, sql).await;
    let fields = prepared.parameter_schema().unwrap().fields().clone();
    let types: Vec<_> = fields
        .iter()
        .map(|field| field.data_type().clone())
        .collect();
    assert_eq!(types, [DataType::Int64, DataType::Utf8, DataType::Int64]);
    let names: Vec<_> = fields.iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["$1", "$2", "$3"]);
    assert!(fields.iter().all(|field| field.is_nullable()));
    let prepared = prepare(&mut client, "SELECT $who").await;
    let field = prepared.parameter_schema().unwrap().field(0).clone();
    assert_eq!(
        (field.name().as_str(), field.data_type()),
        ("$who", &DataType::Null)
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_are_summed_and_inserts_written_at_once() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    run(&mut client, "CREATE TABLE t AS SELECT 1 AS a, 'x' AS s")
        .await
        .unwrap();
    let mut insert = prepare(&mut client, "INSERT INTO t VALUES (?, ?)").await;
    let values = block(vec![
        ("0", ints(10..13)),
        ("1", texts(&["a'); DROP TABLE t; --", "b", "c"])),
    ]);
    insert.set_parameters(values).unwrap();
    assert_eq!(insert.execute_update().await.unwrap(), 3);
    // As drivers do that take every statement for a query.
    let info = insert.execute().await.unwrap();
    assert_eq!(info.total_records, 3);
    assert_eq!(value(&mut client, "SELECT count(*) FROM t").await, "7");
    let injected = "SELECT count(*) FROM t WHERE s = 'a''); DROP TABLE t; --'";
    assert_eq!(value(&mut client, injected).await, "2");
    let mut insert = prepare(
        &mut client,
        "INSERT INTO t SELECT a + ?, s FROM t WHERE a = 1",
    )
    .await;
    insert
        .set_parameters(block(vec![("0", ints([100, 200]))]))
        .unwrap();
    assert_eq!(insert.execute_update().await.unwrap(), 2);
    insert.set_parameters(block(vec![("0", ints([]))])).unwrap();
    assert_eq!(insert.execute_update().await.unwrap(), 0);
    assert_eq!(value(&mut client, "SELECT count(*) FROM t").await, "9");
    // The second row cannot be inserted: none is, as it is one INSERT.
    let mut insert = prepare(&mut client, "INSERT INTO t VALUES (?, 'z')").await;
    insert
        .set_parameters(block(vec![("0", texts(&["1", "one"]))]))
        .unwrap();
    let refused = status_of(insert.execute_update().await.unwrap_err());
    assert_code(&refused, Code::InvalidArgument);
    assert_eq!(value(&mut client, "SELECT count(*) FROM t").await, "9");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_fails_is_named() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    run(&mut client, "CREATE TABLE t AS SELECT 1 AS a")
        .await
        .unwrap();
    let sql = "INSERT INTO t SELECT 10 / CAST(? AS BIGINT) FROM t LIMIT 1";
    let mut insert = prepare(&mut client, sql).await;
    insert
        .set_parameters(block(vec![("0", ints([5, 0, 2]))]))
        .unwrap();
    let refused = status_of(insert.execute_update().await.unwrap_err());
    assert_code(&refused, Code::InvalidArgument);
    assert!(
        refused.message().starts_with("row 2 of the parameters: "),
        "{refused}"
    );
    assert_eq!(value(&mut client, "SELECT count(*) FROM t").await, "2");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_values_are_refused_clearly() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let missing = run(&mut client, "SELECT ? + 1").await.unwrap_err();
    assert_code(&missing, Code::InvalidArgument);
    assert!(
        missing
            .message()
            .contains("parameters ($1), and none were bound"),
        "{missing}"
    );
    let mut prepared = prepare(&mut client, "SELECT $b + $a").await;
    let missing = status_of(prepared.execute().await.unwrap_err());
    assert!(
        missing.message().contains("($b, $a), and none"),
        "{missing}"
    );
    let one = || block(vec![("0", ints([1]))]);
    for (sql, expected) in [
        (
            "SELECT ? + ?",
            "takes 2 parameters, and values for 1 were bound",
        ),
        (
            "SELECT 1",
            "takes 0 parameters, and values for 1 were bound",
        ),
        ("SELECT $0", "parameter $0 has no number"),
        ("SELECT ?, $1", "is written in another way"),
        ("SELECT :a", "Write ?, $1 or $name"),
        ("CREATE VIEW v AS SELECT ?", "parameters are for queries"),
        ("SET mobula.udf_batch_rows = ?", ""),
        ("SELECT upper(?) LIKE", "syntax error"),
        ("SELECT date_trunc('day', ?)", ""),
        ("SELECT true AND ?", ""),
        ("SELECT $1 || $1", "write CAST($1 AS type)"),
    ] {
        let refused = given(&mut client, sql, one()).await.unwrap_err();
        assert_code(&refused, Code::InvalidArgument);
        assert!(refused.message().contains(expected), "{sql}: {refused}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_stay_values() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let odd = "'; DROP TABLE t; -- $1 ? \\ \"\u{1f99c}\n";
    let values = block(vec![("0", texts(&[odd]))]);
    let found = given(&mut client, "SELECT ?", values).await.unwrap();
    assert_eq!(found, [odd]);
    let decimal = Decimal128Array::from(vec![12345]).with_precision_and_scale(10, 2);
    let values = block(vec![("0", Arc::new(decimal.unwrap()) as ArrayRef)]);
    assert_eq!(
        given(&mut client, "SELECT ? * 2", values).await.unwrap(),
        ["246.90"]
    );
    let values = block(vec![(
        "0",
        Arc::new(Float64Array::from(vec![None])) as ArrayRef,
    )]);
    assert_eq!(
        given(&mut client, "SELECT ? IS NULL", values)
            .await
            .unwrap(),
        ["true"]
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_values_and_no_more() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let limit = i64::try_from(settings().parameter_rows_max).unwrap();
    let rows = |n| block(vec![("0", ints(0..n))]);
    let refused = given(&mut client, "SELECT ?", rows(limit + 1))
        .await
        .unwrap_err();
    assert_code(&refused, Code::ResourceExhausted);
    assert!(
        refused.message().contains("mobula.parameter_rows_max"),
        "{refused}"
    );
    let long = "x".repeat(settings().parameter_bytes_max + 1);
    let refused = given(&mut client, "SELECT ?", block(vec![("0", texts(&[&long]))])).await;
    let refused = refused.unwrap_err();
    assert_code(&refused, Code::ResourceExhausted);
    assert!(
        refused.message().contains("mobula.parameter_bytes_max"),
        "{refused}"
    );
    // Together they have as many for the session.
    let half = "x".repeat(settings().parameter_bytes_max * 3 / 5);
    let half = || block(vec![("0", texts(&[&half]))]);
    let mut one = prepare(&mut client, "SELECT length(?)").await;
    one.set_parameters(half()).unwrap();
    one.execute().await.unwrap();
    let mut two = prepare(&mut client, "SELECT length(?) + 1").await;
    two.set_parameters(half()).unwrap();
    let refused = status_of(two.execute().await.unwrap_err());
    assert_code(&refused, Code::ResourceExhausted);
    one.close().await.unwrap();
    two.execute().await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_with_values_is_no_update() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let made = create(&mut client, "SELECT ?").await.unwrap();
    assert_eq!(made.is_update, Some(false));
    let made = create(&mut client, "CREATE TABLE t AS SELECT ? AS a")
        .await
        .unwrap();
    assert_eq!(made.is_update, Some(true));
    let mut table = prepare(&mut client, "CREATE TABLE t AS SELECT ? AS a").await;
    table.set_parameters(block(vec![("0", ints([5]))])).unwrap();
    table.execute_update().await.unwrap();
    assert_eq!(value(&mut client, "SELECT a FROM t").await, "5");
    server.stop().await;
}
