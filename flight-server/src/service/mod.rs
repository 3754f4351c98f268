//! The Flight SQL front: what clients connect to.
//!
//! Read `flight` first (every RPC arrives there), then `statement` (how one
//! statement is planned, described and run), `stream` (how rows leave) and
//! `sessions` (who is calling). `status` beside this folder makes every error a
//! client sees, `wire_schema` every schema. `client` is the other end, for
//! `mobula sql --connect`.
//!
//! Deliberately absent: SQL and the catalog, which belong to `Session` and
//! `Database`, and anything about executors.

mod actions;
pub mod client;
mod connection;
mod entry;
mod flight;
mod ingest;
mod keys;
mod metadata;
mod name_pattern;
mod parameters;
mod prepared;
mod session_options;
mod sessions;
mod sql_info;
mod statement;
mod stream;
mod tables;
#[cfg(test)]
mod tests;
mod tickets;
mod updates;
mod xdbc_types;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::flight_service_server::FlightServiceServer;
use mobula_execution::{OwnedTask, spawn_named};
use mobula_plan::MobulaOptions;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

pub use self::entry::Entry;
use self::flight::FlightFront;
use self::sessions::Sessions;
use self::tickets::Tickets;
use self::updates::Updates;
use crate::{Database, ServerError};

/// Calls of one connection at a time.
const STREAMS_MAX: u32 = 1024;
/// Headers of a call together; long tokens need more than the usual 16 KiB.
const HEADER_BYTES_MAX: u32 = 64 * 1024;
/// Unread tickets a session; drivers read one at a time.
const TICKETS_PER_SESSION_MAX: usize = 64;
/// Statements without rows applied at a time, over all sessions.
const UPDATES_MAX: usize = 256;

/// Limits of the front.
#[derive(Debug, Clone)]
pub struct ServiceSettings {
    pub max_sessions: usize,
    /// How long a session, a prepared statement or an unread ticket may be idle.
    pub session_ttl: Duration,
    /// Prepared statements a session.
    pub prepared_max: usize,
    /// Rows of values bound at once.
    pub parameter_rows_max: usize,
    /// Bytes of values bound to the statements of a session.
    pub parameter_bytes_max: usize,
    /// Bytes of a statement's text.
    pub sql_max_bytes: usize,
    /// Bytes of a message of rows; a single larger row still goes as one.
    pub wire_batch_bytes: usize,
    /// Bytes of a message of rows that are loaded.
    pub load_message_bytes: usize,
    /// How long a stopping server waits for what is running.
    pub drain: Duration,
    /// How often a silent connection is asked whether it lives, and how long it
    /// may take to answer.
    pub keepalive: Duration,
}

impl ServiceSettings {
    /// The settings of a configuration.
    pub fn from_options(options: &MobulaOptions) -> Self {
        Self {
            max_sessions: options.max_sessions(),
            session_ttl: options.session_ttl(),
            prepared_max: options.prepared_max(),
            parameter_rows_max: options.parameter_rows_max(),
            parameter_bytes_max: options.parameter_bytes_max(),
            sql_max_bytes: options.sql_max_bytes(),
            wire_batch_bytes: options.wire_batch_bytes(),
            load_message_bytes: options.load_message_bytes(),
            drain: Duration::from_secs(5),
            keepalive: Duration::from_secs(20),
        }
    }

    /// Bytes of a message from a client: room for a statement that is too long,
    /// so that the refusal can name the limit, and for rows that are loaded.
    fn received_bytes_max(&self) -> usize {
        let statement = self.sql_max_bytes.saturating_mul(2).max(64 << 20);
        statement.max(self.load_message_bytes)
    }

    /// Twice the sessions: a client may open a second connection for a result.
    fn max_connections(&self) -> usize {
        self.max_sessions.saturating_mul(2)
    }
}

/// Serves clients on `listener` until `shutdown` is ready and what runs then has
/// ended, for which it waits at most `settings.drain`.
///
/// # Errors
/// The transport broke.
pub async fn serve(
    db: Arc<Database>,
    listener: TcpListener,
    settings: ServiceSettings,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    serve_guarded(db, listener, settings, Entry::open(), shutdown).await
}

/// As [`serve`], for clients that `entry` lets in.
///
/// # Errors
/// As [`serve`].
pub async fn serve_guarded(
    db: Arc<Database>,
    listener: TcpListener,
    settings: ServiceSettings,
    entry: Entry,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let front = Front {
        entry,
        ..Front::new(db, settings)
    };
    serve_front(front, listener, shutdown).await
}

/// The parts of a server that outlive a connection.
struct Front {
    sessions: Arc<Sessions>,
    tickets: Arc<Tickets>,
    updates: Arc<Updates>,
    settings: ServiceSettings,
    entry: Entry,
}

impl Front {
    fn new(db: Arc<Database>, settings: ServiceSettings) -> Self {
        let tickets = Arc::new(Tickets::new(TICKETS_PER_SESSION_MAX));
        let sessions = Sessions::new(
            db,
            Arc::clone(&tickets),
            settings.max_sessions,
            (settings.prepared_max, settings.parameter_bytes_max),
            settings.session_ttl,
        );
        Self {
            sessions: Arc::new(sessions),
            tickets,
            updates: Arc::new(Updates::new(UPDATES_MAX)),
            settings,
            entry: Entry::open(),
        }
    }

    fn service(&self) -> InterceptedService<FlightServiceServer<FlightFront>, Entry> {
        let service = FlightServiceServer::new(FlightFront {
            sessions: Arc::clone(&self.sessions),
            tickets: Arc::clone(&self.tickets),
            updates: Arc::clone(&self.updates),
            settings: self.settings.clone(),
        })
        .max_decoding_message_size(self.settings.received_bytes_max())
        // Rows are cut to size before they get here; this must not cut again.
        .max_encoding_message_size(usize::MAX);
        InterceptedService::new(service, self.entry.clone())
    }

    /// Ends what is idle too long, now and then.
    fn sweeper(&self) -> OwnedTask<()> {
        let sessions = Arc::clone(&self.sessions);
        let every = (self.settings.session_ttl / 4)
            .clamp(Duration::from_millis(100), Duration::from_secs(30));
        spawn_named("sweep sessions", async move {
            loop {
                tokio::time::sleep(every).await;
                sessions.sweep(Instant::now());
            }
        })
    }
}

async fn serve_front(
    front: Front,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let (stop, broken) = (CancellationToken::new(), CancellationToken::new());
    let incoming = connection::accept(
        listener,
        Arc::clone(&front.sessions),
        front.settings.max_connections(),
        broken.clone(),
    );
    let serving = Server::builder()
        .http2_keepalive_interval(Some(front.settings.keepalive))
        .http2_keepalive_timeout(Some(front.settings.keepalive))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024)
        .add_service(front.service())
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let _sweeper = front.sweeper();
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended.map_err(ServerError::Serve),
        () = shutdown => {}
    }
    front.sessions.drain();
    stop.cancel();
    let drain = front.settings.drain;
    let ended = match tokio::time::timeout(drain, &mut serving).await {
        Ok(ended) => ended,
        Err(_) => {
            tracing::warn!("clients are still reading: their connections are cut");
            broken.cancel();
            serving.await
        }
    };
    front.updates.finish(drain).await;
    ended.map_err(ServerError::Serve)
}
