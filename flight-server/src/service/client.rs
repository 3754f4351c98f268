//! A small Flight SQL client, for `mobula sql --connect`.
//!
//! One [`RemoteSession`] keeps one connection, which is its session on the
//! server: settings made by one statement hold for the next. Errors carry the
//! server's line of text and nothing around it.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow_flight::FlightInfo;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::ServerError;

/// Longest message taken: one row of a result, or a message of several.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// How long a server may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A session on a server.
pub struct RemoteSession {
    client: FlightSqlServiceClient<Channel>,
}

/// What a statement gave.
pub enum RemoteOutcome {
    /// Dropping the stream cancels the query on the server.
    Rows {
        schema: SchemaRef,
        stream: BoxStream<'static, Result<RecordBatch, ServerError>>,
    },
    /// The rows it touched, `None` where a statement has no such number.
    Affected(Option<u64>),
}

impl RemoteSession {
    /// Connects to `grpc://HOST:PORT` (`http://` means the same).
    ///
    /// # Errors
    /// The address is malformed, or nobody listens there.
    pub async fn connect(url: &str) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Connect {
            url: url.to_owned(),
            source,
        };
        let channel = endpoint(url)
            .map_err(failed)?
            .connect()
            .await
            .map_err(failed)?;
        Ok(Self {
            client: FlightSqlServiceClient::new_from_inner(
                // The server cuts results to messages; a row may be a long one.
                FlightServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX),
            ),
        })
    }

    /// Runs one statement. A query's rows come as the stream is read.
    ///
    /// # Errors
    /// The server refused the statement, or is gone.
    pub async fn execute(&mut self, sql: &str) -> Result<RemoteOutcome, ServerError> {
        let info = self
            .client
            .execute(sql.to_owned(), None)
            .await
            .map_err(remote)?;
        let schema = info
            .clone()
            .try_decode_schema()
            .map_err(|error| remote(FlightError::Arrow(error)))?;
        if schema.fields().is_empty() {
            return Ok(RemoteOutcome::Affected(
                u64::try_from(info.total_records).ok(),
            ));
        }
        self.read(info, schema).await
    }

    async fn read(
        &mut self,
        info: FlightInfo,
        schema: Schema,
    ) -> Result<RemoteOutcome, ServerError> {
        let mut parts = Vec::with_capacity(info.endpoint.len());
        for endpoint in info.endpoint {
            let ticket = endpoint
                .ticket
                .ok_or_else(|| remote(FlightError::protocol("an endpoint has no ticket")))?;
            let rows = self.client.do_get(ticket).await.map_err(remote)?;
            parts.push(rows.map_err(remote));
        }
        Ok(RemoteOutcome::Rows {
            schema: Arc::new(schema),
            stream: futures::stream::iter(parts).flatten().boxed(),
        })
    }
}

fn endpoint(url: &str) -> Result<Endpoint, tonic::transport::Error> {
    let address = match url.split_once("://") {
        Some(("grpc" | "grpc+tcp" | "http", rest)) => format!("http://{rest}"),
        None => format!("http://{url}"),
        Some(_) => url.to_owned(),
    };
    Ok(Endpoint::from_shared(address)?
        .connect_timeout(CONNECT_LIMIT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024))
}

/// Keeps the code and the text of a status.
fn remote(error: FlightError) -> ServerError {
    let (code, message) = match error {
        FlightError::Tonic(status) if is_broken(&status) => (
            Code::Unavailable,
            "the connection to the server broke. Look at its log, then connect again".to_owned(),
        ),
        FlightError::Tonic(status) => (status.code(), status.message().to_owned()),
        other => (
            Code::Internal,
            format!("the server's answer cannot be read: {other}"),
        ),
    };
    ServerError::Remote { code, message }
}

/// True when the transport made the status and not the server.
fn is_broken(status: &Status) -> bool {
    status.source().is_some()
}
