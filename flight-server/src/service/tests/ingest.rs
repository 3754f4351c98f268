//! Bulk ingestion below what stock drivers send: what is refused, and streams that break off.

use std::path::Path;

use arrow::array::{ArrayRef, Int64Array};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::sql::{
    CommandStatementIngest, TableDefinitionOptions, TableExistsOption, TableNotExistOption,
};
use arrow_flight::{FlightData, sql::Any};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;

fn block(numbers: std::ops::Range<i64>) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
    RecordBatch::try_from_iter([("n", numbers)]).unwrap()
}

fn command(if_there: TableExistsOption) -> CommandStatementIngest {
    CommandStatementIngest {
        table_definition_options: Some(TableDefinitionOptions {
            if_not_exist: TableNotExistOption::Create.into(),
            if_exists: if_there.into(),
        }),
        table: "numbers".to_owned(),
        ..CommandStatementIngest::default()
    }
}

async fn ingest(
    client: &mut Client,
    command: CommandStatementIngest,
    blocks: Vec<RecordBatch>,
) -> Result<i64, Status> {
    let blocks = futures::stream::iter(blocks.into_iter().map(Ok));
    let loaded = client.execute_ingest(command, blocks).await;
    loaded.map_err(status_of)
}

/// What a client sends for `blocks`, the command first.
async fn messages(command: CommandStatementIngest, blocks: Vec<RecordBatch>) -> Vec<FlightData> {
    let command = Any::pack(&command).unwrap().encode_to_vec();
    let blocks = futures::stream::iter(blocks.into_iter().map(Ok));
    let encoded = FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(FlightDescriptor::new_cmd(command)))
        .build(blocks);
    encoded.map(Result::unwrap).collect().await
}

fn folders(at: &Path) -> usize {
    let made = std::fs::read_dir(at).unwrap();
    let within = made.map(|entry| std::fs::read_dir(entry.unwrap().path()).unwrap().count());
    within.sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_become_a_table_of_all_sessions() {
    let server = TestServer::start().await;
    let (mut client, mut other) = (server.client().await, server.client().await);
    let blocks = vec![block(0..3), block(0..0), block(3..5)];
    let loaded = ingest(&mut client, command(TableExistsOption::Fail), blocks).await;
    assert_eq!(loaded.unwrap(), 5);
    let more = ingest(
        &mut client,
        command(TableExistsOption::Append),
        vec![block(5..6)],
    );
    assert_eq!(more.await.unwrap(), 1);
    assert_eq!(value(&mut other, "SELECT sum(n) FROM numbers").await, "15");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_refused_and_makes_nothing() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let fine = command(TableExistsOption::Fail);
    let cases = [
        (
            CommandStatementIngest::default(),
            Code::InvalidArgument,
            "definition",
        ),
        (
            command(TableExistsOption::Unspecified),
            Code::InvalidArgument,
            "definition",
        ),
        (
            CommandStatementIngest {
                transaction_id: Some(vec![1].into()),
                ..fine.clone()
            },
            Code::Unimplemented,
            "transactions",
        ),
        (
            CommandStatementIngest {
                options: [("speed".to_owned(), "11".to_owned())].into(),
                ..fine.clone()
            },
            Code::Unimplemented,
            "\"speed\"",
        ),
        (
            CommandStatementIngest {
                table: String::new(),
                ..fine.clone()
            },
            Code::InvalidArgument,
            "no name",
        ),
        (
            CommandStatementIngest {
                catalog: Some("mobula".to_owned()),
                ..fine.clone()
            },
            Code::InvalidArgument,
            "Give both",
        ),
    ];
    for (command, code, text) in cases {
        let refused = ingest(&mut client, command, vec![block(0..3)]).await;
        let refused = refused.unwrap_err();
        assert_code(&refused, code);
        assert!(refused.message().contains(text), "{}", refused.message());
    }
    assert!(run(&mut client, "SELECT * FROM numbers").await.is_err());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_off_leaves_nothing() {
    let within = tempfile::tempdir().unwrap();
    let server = TestServer::start_over(|options| {
        let text = within.path().to_str().unwrap();
        options.set_value("loaded_dir", text).unwrap();
        options.set_value("loads_max", "1").unwrap();
    })
    .await;
    let mut client = server.client().await;
    let sent = messages(command(TableExistsOption::Fail), vec![block(0..9); 4]).await;
    // Its sender stays open: the server waits for more.
    let (sender, receiver) = mpsc::unbounded_channel();
    for message in sent {
        sender.send(message).unwrap();
    }
    let mut raw = server.raw().await;
    let putting = spawn_named("put", async move {
        let put = raw.do_put(UnboundedReceiverStream::new(receiver)).await;
        put.map(drop)
    });
    eventually("the folder", || {
        within.path().read_dir().unwrap().count() == 1 && folders(within.path()) == 1
    })
    .await;
    let second = ingest(
        &mut client,
        command(TableExistsOption::Fail),
        vec![block(0..1)],
    );
    let refused = second.await.unwrap_err();
    assert_code(&refused, Code::ResourceExhausted);
    assert!(refused.message().contains("mobula.loads_max"));
    drop(putting);
    eventually("nothing", || folders(within.path()) == 0).await;
    drop(sender);
    assert!(run(&mut client, "SELECT * FROM numbers").await.is_err());
    // The right to load is given back a moment after the folder.
    let until = tokio::time::Instant::now() + SOON;
    let rows = loop {
        let third = command(TableExistsOption::Fail);
        match ingest(&mut client, third, vec![block(0..1)]).await {
            Ok(rows) => break rows,
            Err(refused) => assert_code(&refused, Code::ResourceExhausted),
        }
        assert!(tokio::time::Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(rows, 1);
    server.stop().await;
}
