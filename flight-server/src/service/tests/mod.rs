//! The front as clients meet it: a real server on a free port of 127.0.0.1, the
//! arrow-flight client, an embedded database. One file a theme; the harness is
//! at the bottom here.

mod cancel;
mod errors;
mod ingest;
mod metadata;
mod parameters;
mod prepared;
mod remote;
mod sessions;
mod sql_info;
mod stale_plans;
mod statements;
mod updates;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{Action, FlightDescriptor, FlightInfo, Ticket};
use futures::TryStreamExt;
use mobula_execution::{Engine, EngineSettings, OwnedTask, spawn_named};
use mobula_plan::MobulaOptions;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::sessions::Sessions;
use super::tickets::Tickets;
use super::updates::Updates;
use super::{Front, ServiceSettings, serve_front};
use crate::{Database, ServerError};

/// How long a test waits for what must happen soon.
const SOON: Duration = Duration::from_secs(20);

struct TestServer {
    url: String,
    sessions: Arc<Sessions>,
    tickets: Arc<Tickets>,
    updates: Arc<Updates>,
    stop: oneshot::Sender<()>,
    serving: OwnedTask<Result<(), ServerError>>,
}

type Client = FlightSqlServiceClient<Channel>;

fn settings() -> ServiceSettings {
    ServiceSettings {
        max_sessions: 16,
        session_ttl: Duration::from_secs(600),
        prepared_max: 8,
        parameter_rows_max: 1000,
        parameter_bytes_max: 64 * 1024,
        sql_max_bytes: 64 * 1024,
        wire_batch_bytes: 256 * 1024,
        load_message_bytes: 1024 * 1024,
        drain: Duration::from_secs(10),
        keepalive: Duration::from_secs(20),
    }
}

async fn database(change: impl FnOnce(&mut MobulaOptions)) -> Arc<Database> {
    let mut options = MobulaOptions::default();
    change(&mut options);
    let sql_max_bytes = settings().sql_max_bytes.to_string();
    options.set_value("sql_max_bytes", &sql_max_bytes).unwrap();
    let engine = Engine::embedded(EngineSettings {
        options,
        python: "python3".into(),
    })
    .unwrap();
    Database::open(engine, None).await.unwrap()
}

impl TestServer {
    async fn start() -> Self {
        Self::start_with(settings()).await
    }

    async fn start_with(settings: ServiceSettings) -> Self {
        Self::over(database(|_| {}).await, settings).await
    }

    /// Over a database with other settings.
    async fn start_over(change: impl FnOnce(&mut MobulaOptions)) -> Self {
        Self::over(database(change).await, settings()).await
    }

    async fn over(database: Arc<Database>, settings: ServiceSettings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("grpc://{}", listener.local_addr().unwrap());
        let front = Front::new(database, settings);
        let (sessions, tickets) = (Arc::clone(&front.sessions), Arc::clone(&front.tickets));
        let updates = Arc::clone(&front.updates);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = spawn_named("test server", async move {
            serve_front(front, listener, async {
                let _ = stopped.await;
            })
            .await
        });
        Self {
            url,
            sessions,
            tickets,
            updates,
            stop,
            serving,
        }
    }

    async fn channel(&self) -> Channel {
        let address = self.url.replace("grpc://", "http://");
        Endpoint::from_shared(address)
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    /// A client on a connection of its own.
    async fn client(&self) -> Client {
        FlightSqlServiceClient::new(self.channel().await)
    }

    /// A client below Flight SQL, to see messages as they are.
    async fn raw(&self) -> FlightServiceClient<Channel> {
        FlightServiceClient::new(self.channel().await).max_decoding_message_size(64 * 1024 * 1024)
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        let ended = tokio::time::timeout(SOON, self.serving.join()).await;
        ended
            .expect("the server stops")
            .expect("it did not panic")
            .unwrap();
    }
}

/// Runs a statement to its end.
async fn run(client: &mut Client, sql: &str) -> Result<Vec<RecordBatch>, Status> {
    let info = client
        .execute(sql.to_owned(), None)
        .await
        .map_err(status_of)?;
    read(client, &info).await
}

/// Reads what `info` points at.
async fn read(client: &mut Client, info: &FlightInfo) -> Result<Vec<RecordBatch>, Status> {
    let stream = client.do_get(ticket(info)).await.map_err(status_of)?;
    stream.try_collect().await.map_err(status_of)
}

fn ticket(info: &FlightInfo) -> Ticket {
    assert_eq!(info.endpoint.len(), 1);
    assert!(info.endpoint[0].location.is_empty());
    info.endpoint[0].ticket.clone().unwrap()
}

fn announced(info: &FlightInfo) -> SchemaRef {
    Arc::new(info.clone().try_decode_schema().unwrap())
}

fn status_of(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => panic!("not a status: {other}"),
    }
}

/// The text of a table of results.
fn shown(blocks: &[RecordBatch]) -> String {
    arrow::util::pretty::pretty_format_batches(blocks)
        .unwrap()
        .to_string()
}

/// The only value of a one-row, one-column result, as text.
async fn value(client: &mut Client, sql: &str) -> String {
    let blocks = run(client, sql).await.unwrap();
    let rows: usize = blocks.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, 1, "{sql}");
    let block = blocks.iter().find(|block| block.num_rows() == 1).unwrap();
    arrow::util::display::array_value_to_string(block.column(0), 0).unwrap()
}

fn query_descriptor(sql: &str) -> FlightDescriptor {
    let command = CommandStatementQuery {
        query: sql.to_owned(),
        transaction_id: None,
    };
    FlightDescriptor::new_cmd(command.as_any().encode_to_vec())
}

/// One action's answers.
async fn act(
    client: &mut Client,
    name: &str,
    body: Vec<u8>,
) -> Result<Vec<arrow_flight::Result>, Status> {
    let answers = client
        .do_action(Action::new(name, body))
        .await
        .map_err(status_of)?;
    answers.try_collect().await
}

fn assert_code(status: &Status, code: Code) {
    assert_eq!(status.code(), code, "{}", status.message());
}

/// Waits, without sleeping, until `done` says so.
async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    let reached = tokio::time::timeout(SOON, waiting).await;
    reached.unwrap_or_else(|_| panic!("{what} did not happen within {SOON:?}"));
}

fn names(schema: &Schema) -> Vec<&str> {
    schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect()
}
