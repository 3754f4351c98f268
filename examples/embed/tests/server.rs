//! The server of this example on three executors: all of them have its functions.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use futures::TryStreamExt;
use mobula_flight_server::service::client::{RemoteOutcome, RemoteSession};
use mobula_tests::ServerProcess;

async fn rows(session: &mut RemoteSession, sql: &str) -> Vec<RecordBatch> {
    let RemoteOutcome::Rows { stream, .. } = session.execute(sql).await.unwrap() else {
        return vec![];
    };
    stream.try_collect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executors_have_the_functions() {
    let data = tempfile::tempdir().unwrap();
    for file in 0..3 {
        let lines = "x,line\n3.0,to be or not\n";
        std::fs::write(data.path().join(format!("{file}.csv")), lines).unwrap();
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_mobula-with-functions"));
    let small = ["--scan-bytes-per-task", "1"];
    let args = [
        &["--no-local-executor", "--executors", "3"],
        small.as_slice(),
    ]
    .concat();
    let server = ServerProcess::start_program(binary, &args).unwrap();
    let mut session = RemoteSession::connect(&server.clients).await.unwrap();
    let create = format!(
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{}' OPTIONS ('format.has_header' 'true')",
        data.path().display()
    );
    rows(&mut session, &create).await;
    let sql = "SELECT sum(length_of(x, 4.0) + half(x)) FROM t GROUP BY x";
    let found = rows(&mut session, sql).await;
    assert_eq!(
        found[0].column(0).as_primitive::<Float64Type>().value(0),
        19.5
    );
    let sql = "SELECT count(*) FROM flat_map(TABLE(SELECT line FROM t), words) WHERE letters = 2";
    let found = rows(&mut session, sql).await;
    assert_eq!(found[0].column(0).as_primitive::<Int64Type>().value(0), 9);
    let stages = rows(&mut session, &format!("EXPLAIN {sql}")).await;
    let text = arrow::util::pretty::pretty_format_batches(&stages)
        .unwrap()
        .to_string();
    assert!(
        text.contains("tasks=3") && text.contains("language=native"),
        "{text}"
    );
}
