//! One HTTP/2 connection to each peer, made when first needed.
//!
//! Keepalive notices a peer that vanished without closing its socket. Stream
//! windows bound what one partition may buffer; the connection window is as
//! large as the protocol allows, so that partitions nobody reads yet cannot
//! starve the others that share the connection.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_client::FlightServiceClient;
use dashmap::DashMap;
use datafusion_distributed::grpc::BoxCloneSyncChannel;
use http::HeaderValue;
use tokio::runtime::Handle;
use tonic::body::Body;
use tonic::transport::Endpoint;
use url::Url;

use super::threads::ExchangeThreads;
use crate::error::ExecutionError;
use crate::token::ClusterToken;

/// The largest window HTTP/2 knows, in bytes.
pub const MAX_WINDOW_BYTES: u32 = (1 << 31) - 1;
/// A connection is tried for so long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A silent peer is asked so often.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// A peer that does not answer for so long is gone.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Most peers remembered; beyond it all connections are made anew.
const MAX_PEERS: usize = 4096;

/// What the transport between executors is bounded by.
#[derive(Debug, Clone, Copy)]
pub struct TransportLimits {
    /// HTTP/2 window of one stream, in bytes.
    pub stream_window_bytes: u32,
    /// Longest message, in bytes.
    pub message_bytes: usize,
    /// Threads for connections.
    pub threads: usize,
}

/// Connections by URL; every call on them carries the cluster token.
#[derive(Debug, Clone)]
pub struct ChannelPool {
    channels: Arc<DashMap<Url, BoxCloneSyncChannel>>,
    bearer: HeaderValue,
    limits: TransportLimits,
    /// `None`: connections live on the runtime that asks for them.
    threads: Option<Arc<ExchangeThreads>>,
}

impl ChannelPool {
    /// An empty pool.
    ///
    /// # Errors
    /// When the token is no valid header value.
    pub fn try_new(token: &ClusterToken, limits: TransportLimits) -> Result<Self, ExecutionError> {
        let mut bearer = HeaderValue::from_str(&token.bearer())
            .map_err(|_| ExecutionError::Malformed { what: "token" })?;
        bearer.set_sensitive(true);
        Ok(Self {
            channels: Arc::new(DashMap::new()),
            bearer,
            limits,
            threads: Some(ExchangeThreads::new(limits.threads)),
        })
    }

    /// An empty pool with the same token and limits, for another runtime, on which its
    /// connections live.
    pub fn fresh(&self) -> Self {
        Self {
            channels: Arc::default(),
            threads: None,
            ..self.clone()
        }
    }

    /// The limits this pool was made with.
    pub fn limits(&self) -> TransportLimits {
        self.limits
    }

    /// Where connections live, those accepted too.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn runtime(&self) -> Result<Handle, ExecutionError> {
        match &self.threads {
            Some(threads) => threads.handle(),
            None => Ok(Handle::current()),
        }
    }

    /// The connection to `url`; it connects at the first call and again after a
    /// break.
    ///
    /// # Errors
    /// [`ExecutionError::BadAddress`], or no thread to be had.
    pub fn channel(&self, url: &Url) -> Result<BoxCloneSyncChannel, ExecutionError> {
        if let Some(found) = self.channels.get(url) {
            return Ok(found.value().clone());
        }
        let made = self.connect_lazily(url)?;
        if self.channels.len() >= MAX_PEERS {
            self.channels.clear();
        }
        self.channels.insert(url.clone(), made.clone());
        Ok(made)
    }

    /// A Flight client over the connection to `url`.
    ///
    /// # Errors
    /// [`ExecutionError::BadAddress`].
    pub fn flight(
        &self,
        url: &Url,
    ) -> Result<FlightServiceClient<BoxCloneSyncChannel>, ExecutionError> {
        // One row can be larger than the size a producer aims at.
        let decoding = self.limits.message_bytes.saturating_mul(4);
        Ok(FlightServiceClient::new(self.channel(url)?)
            .max_decoding_message_size(decoding)
            .max_encoding_message_size(decoding))
    }

    /// Forgets the connection to `url`.
    pub fn forget(&self, url: &Url) {
        self.channels.remove(url);
    }

    fn connect_lazily(&self, url: &Url) -> Result<BoxCloneSyncChannel, ExecutionError> {
        let endpoint = Endpoint::from_shared(url.to_string())
            .map_err(|_| ExecutionError::BadAddress {
                url: url.to_string(),
            })?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(self.limits.stream_window_bytes)
            .initial_connection_window_size(MAX_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let endpoint = match &self.threads {
            Some(threads) => endpoint.executor(threads.connections()?),
            None => endpoint,
        };
        let bearer = self.bearer.clone();
        let service = tower::ServiceBuilder::new()
            .map_request(move |mut request: http::Request<Body>| {
                request
                    .headers_mut()
                    .insert(http::header::AUTHORIZATION, bearer.clone());
                request
            })
            .service(endpoint.connect_lazy());
        Ok(BoxCloneSyncChannel::new(service))
    }
}

/// Reads `grpc://h:p`, `http://h:p` or `h:p` as the URL the transport wants.
///
/// # Errors
/// [`ExecutionError::BadAddress`] for anything else.
pub fn parse_address(text: &str) -> Result<Url, ExecutionError> {
    let bad = || ExecutionError::BadAddress {
        url: text.to_owned(),
    };
    let rest = match text.split_once("://") {
        Some(("grpc" | "http", rest)) => rest,
        Some(_) => return Err(bad()),
        None => text,
    };
    let url = Url::parse(&format!("http://{rest}")).map_err(|_| bad())?;
    let plain = url.host_str().is_some() && matches!(url.path(), "" | "/");
    if !plain || url.port().is_none() {
        return Err(bad());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in [
            "grpc://127.0.0.1:7",
            "http://h:80808".trim_end_matches('8'),
            "h:1",
            "[::1]:9",
        ] {
            assert!(parse_address(good).is_ok(), "{good}");
        }
        for bad in ["", "h", "ftp://h:1", "grpc://h", "grpc://h:1/path", "h:x"] {
            let text = parse_address(bad).unwrap_err().to_string();
            assert!(text.contains("grpc://HOST:PORT"), "{text}");
        }
    }
}
