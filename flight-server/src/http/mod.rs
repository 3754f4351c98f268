//! HTTP beside Flight, for those who look after a process: whether it lives (`/health`),
//! whether it takes work (`/ready`), and on a coordinator its figures (`/metrics`).
//!
//! Only with `http_listen`. One request a connection, few connections, little time for each:
//! nobody who asks here can take anything from queries. Figures are read by one at a time.

mod figures;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use mobula_execution::{OwnedTask, spawn_named};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::{Database, ServerError};

/// Requests at a time; more wait.
const CONNECTIONS_MAX: usize = 16;
/// How long a request may take, until its last byte is sent.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const TEXT: &str = "text/plain; charset=utf-8";

/// The listener; dropped, it ends.
pub struct HttpFront {
    address: SocketAddr,
    watched: Arc<Watched>,
    _listening: OwnedTask<()>,
}

/// What is told of.
#[derive(Default)]
struct Watched {
    /// Set once it takes work; of an executor without figures.
    ready: OnceLock<Option<Arc<Database>>>,
    /// Who reads figures.
    reading: tokio::sync::Mutex<()>,
}

impl HttpFront {
    /// Listens at `at`; port 0 picks a free one.
    ///
    /// # Errors
    /// A port in use.
    pub async fn start(at: SocketAddr) -> Result<Self, ServerError> {
        let listen = |source| ServerError::Listen {
            address: at.to_string(),
            source,
        };
        let listener = TcpListener::bind(at).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let watched = Arc::<Watched>::default();
        let listening = spawn_named("http-front", accept(listener, Arc::clone(&watched)));
        Ok(Self {
            address,
            watched,
            _listening: listening,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process takes work from now on; `database` is what a coordinator has figures of.
    pub fn ready(&self, database: Option<Arc<Database>>) {
        // A second word changes nothing.
        let _ = self.watched.ready.set(database);
    }
}

/// Serves connections until it is dropped.
async fn accept(listener: TcpListener, watched: Arc<Watched>) {
    let mut serving = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if serving.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    serving.spawn(serve(stream, Arc::clone(&watched)));
                }
                // No file is left, or the client has gone: others may come.
                Err(error) => {
                    tracing::debug!(%error, "no connection for HTTP");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = serving.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, watched: Arc<Watched>) {
    let answer = service_fn(|request| {
        let watched = Arc::clone(&watched);
        async move { Ok::<_, Infallible>(watched.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    match tokio::time::timeout(REQUEST_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "HTTP was broken off"),
        Err(_) => tracing::debug!("HTTP took too long"),
    }
}

impl Watched {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let is_known = matches!(request.uri().path(), "/health" | "/ready" | "/metrics");
        if is_known && !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
            let allowed = HeaderValue::from_static("GET, HEAD");
            refused.headers_mut().insert(ALLOW, allowed);
            return refused;
        }
        match (request.uri().path(), self.ready.get()) {
            ("/health", _) => text(StatusCode::OK, "it lives\n"),
            ("/ready", Some(_)) => text(StatusCode::OK, "it takes work\n"),
            ("/ready" | "/metrics", None) => {
                text(StatusCode::SERVICE_UNAVAILABLE, "it is starting\n")
            }
            ("/metrics", Some(Some(database))) => self.figures(database).await,
            ("/metrics", Some(None)) => text(
                StatusCode::NOT_FOUND,
                "an executor has no figures of its own. Ask its coordinator\n",
            ),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /health, /ready and /metrics\n",
            ),
        }
    }

    async fn figures(&self, database: &Arc<Database>) -> Response<Full<Bytes>> {
        let _turn = self.reading.lock().await;
        match figures::page(database).await {
            Ok(page) => with(StatusCode::OK, figures::CONTENT_TYPE, page),
            Err(error) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                &format!("cannot read figures: {error}\n"),
            ),
        }
    }
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    with(status, TEXT, text.to_owned())
}

fn with(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
