//! HTTP beside Flight, for those who look after a process: whether it lives (`/health`),
//! whether it takes work (`/ready`), and on a coordinator its figures (`/metrics`).
//!
//! Only with `http_listen`. One request a connection, few connections, little time for each:
//! nobody who asks here can take anything from queries. Figures are read by one at a time.

mod figures;

use std::collections::VecDeque;
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
use mobula_execution::{Contact, OwnedTask, spawn_named};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::{Database, ServerError};

/// Connections at a time: one more ends the oldest, so that those who never finish what
/// they ask keep nobody out.
const CONNECTIONS_MAX: usize = 128;
/// How long a client may take to say what it wants.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
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
    /// Set once it takes work.
    ready: OnceLock<Of>,
    /// Who reads figures.
    reading: tokio::sync::Mutex<()>,
}

/// Whose front it is.
enum Of {
    /// Has figures.
    Coordinator(Arc<Database>),
    Executor {
        coordinator: String,
        contact: Arc<Contact>,
    },
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

    /// The coordinator takes work from now on; it has figures of `database`.
    pub fn ready(&self, database: Arc<Database>) {
        // A second word changes nothing.
        let _ = self.watched.ready.set(Of::Coordinator(database));
    }

    /// The executor takes work from now on, while `coordinator` answers.
    pub fn executor_ready(&self, coordinator: String, contact: Arc<Contact>) {
        let of = Of::Executor {
            coordinator,
            contact,
        };
        let _ = self.watched.ready.set(of);
    }
}

/// Serves connections until it is dropped.
async fn accept(listener: TcpListener, watched: Arc<Watched>) {
    let mut serving = JoinSet::new();
    let mut by_age = VecDeque::<AbortHandle>::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    by_age.retain(|connection| !connection.is_finished());
                    if let Some(oldest) = (by_age.len() >= CONNECTIONS_MAX).then(|| by_age.pop_front()) {
                        oldest.inspect(AbortHandle::abort);
                    }
                    by_age.push_back(serving.spawn(serve(stream, Arc::clone(&watched))));
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
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    match tokio::time::timeout(REQUEST_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "HTTP was broken off"),
        Err(_) => tracing::debug!("HTTP took too long"),
    }
}

impl Of {
    /// Why it takes no work now.
    fn not_ready(&self) -> Option<String> {
        match self {
            Self::Coordinator(database) => {
                let takes_tasks = database.engine().takes_tasks();
                let reason = "no executor that takes tasks is registered\n";
                (!takes_tasks).then(|| reason.to_owned())
            }
            Self::Executor {
                coordinator,
                contact,
            } => contact.silent().map(|(since, reason)| {
                let seconds = since.as_secs_f32();
                format!(
                    "no answer from the coordinator at {coordinator} for {seconds:.1} s: {reason}\n"
                )
            }),
        }
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
            ("/ready", Some(of)) => match of.not_ready() {
                Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, &reason),
                None => text(StatusCode::OK, "it takes work\n"),
            },
            ("/ready" | "/metrics", None) => {
                text(StatusCode::SERVICE_UNAVAILABLE, "it is starting\n")
            }
            ("/metrics", Some(Of::Coordinator(database))) => self.figures(database).await,
            ("/metrics", Some(Of::Executor { .. })) => text(
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
