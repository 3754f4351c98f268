//! The cluster listener: the base's plan service and our Flight service on one
//! port, behind the token gate. Coordinator and executors share it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use arrow_flight::flight_service_server::FlightServiceServer;
use futures::TryStreamExt;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use url::Url;

use crate::actor_calls::serve::ActorCalls;
use crate::base::worker::TaskSource;
use crate::coordinator::control::Control;
use crate::error::ExecutionError;
use crate::exchange::channels::{
    KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_WINDOW_BYTES, parse_address,
};
use crate::exchange::flight_service::ClusterFlightService;
use crate::exchange::guard::GuardLayer;
use crate::exchange::hand_over::HandOverLayer;
use crate::process::Process;
use crate::spawn::{OwnedTask, spawn_on};
use crate::token::ClusterToken;

/// Block streams one peer may have open at a time.
const MAX_STREAMS: u32 = 65_536;
/// Longest header list accepted, in bytes: the options of a query travel there.
const MAX_HEADER_BYTES: u32 = 1 << 20;

/// Serves until dropped.
pub struct Listener {
    _server: OwnedTask<()>,
    failure: watch::Receiver<Option<String>>,
}

/// Takes the port.
///
/// # Errors
/// [`ExecutionError::Listen`], naming the address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ExecutionError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ExecutionError::Listen { address, source })
}

/// The URL under which others reach a listener at `address`: what is advertised, or else where
/// it listens; of one that listens on all addresses, the one that this machine is known by to
/// the network it sends to. An advertised port 0 stands for the port bound.
///
/// # Errors
/// When `address` is unspecified, nothing is advertised and there is no network, or the
/// advertised text is no address.
pub fn advertised_url(address: SocketAddr, advertise: Option<&str>) -> Result<Url, ExecutionError> {
    match advertise {
        Some(text) => {
            let mut url = parse_address(text).map_err(|_| ExecutionError::BadAdvertise {
                text: text.to_owned(),
            })?;
            if url.port() == Some(0) {
                // Cannot fail: the URL has a host.
                let _ = url.set_port(Some(address.port()));
            }
            Ok(url)
        }
        None if address.ip().is_unspecified() => {
            let found = outgoing_ip(address.is_ipv4());
            let ip = found.ok_or(ExecutionError::Advertise { address })?;
            parse_address(&SocketAddr::new(ip, address.port()).to_string())
        }
        None => parse_address(&address.to_string()),
    }
}

/// The address that packets to elsewhere leave from; `None` without a network.
fn outgoing_ip(is_v4: bool) -> Option<IpAddr> {
    // Addresses of documentation, which nobody has. Connecting a datagram socket sends nothing.
    let (any, elsewhere) = match is_v4 {
        true => ("0.0.0.0:0", "192.0.2.1:9"),
        false => ("[::]:0", "[2001:db8::1]:9"),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(elsewhere).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

impl Listener {
    /// Serves `tasks`, and `control` on a coordinator: connections on threads of their own,
    /// what they ask for on the runtime that calls this.
    ///
    /// # Errors
    /// When the port cannot be watched from there, or there are no threads.
    pub fn serve(
        bound: TcpListener,
        process: &Arc<Process>,
        tasks: TaskSource,
        control: Option<Arc<Control>>,
        url: &Url,
        token: ClusterToken,
    ) -> Result<Self, ExecutionError> {
        let threads = process.channels().runtime()?;
        let limits = process.channels().limits();
        let actors = ActorCalls {
            actors: Arc::clone(process.actors()),
            hosting: Arc::clone(process.hosting()),
            line: Arc::clone(process.pool_line()),
            executor_id: process.executor_id().to_owned(),
            traffic: Arc::clone(process.traffic()),
            this_url: url.to_string(),
            message_bytes: limits.message_bytes,
            has_actors: control.is_some(),
        };
        let flight = ClusterFlightService {
            tasks: tasks.clone(),
            control,
            actors,
            reporter: process.reporter(),
            kept: Arc::clone(process.kept()),
            traffic: Arc::clone(process.traffic()),
            this_url: url.to_string(),
            message_bytes: limits.message_bytes,
        };
        let decoding = limits.message_bytes.saturating_mul(4);
        let flight = FlightServiceServer::new(flight)
            .max_decoding_message_size(decoding)
            .max_encoding_message_size(decoding);
        let router = Server::builder()
            .layer(GuardLayer::new(token))
            .layer(HandOverLayer::new(Handle::current()))
            .initial_stream_window_size(limits.stream_window_bytes)
            .initial_connection_window_size(MAX_WINDOW_BYTES)
            .max_concurrent_streams(MAX_STREAMS)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_service(tasks.plan_service())
            .add_service(flight);
        let (failed, failure) = watch::channel(None);
        // Small answers must not wait for the peer's word that the last one came.
        let accepted = TcpListenerStream::new(moved(bound, &threads)?).inspect_ok(|socket| {
            let _ = socket.set_nodelay(true);
        });
        let server = spawn_on(&threads, "cluster-listener", async move {
            if let Err(e) = router.serve_with_incoming(accepted).await {
                failed.send_replace(Some(e.to_string()));
            }
        });
        Ok(Self {
            _server: server,
            failure,
        })
    }

    /// Completes only when the listener breaks.
    pub async fn broken(&self) -> ExecutionError {
        let mut failure = self.failure.clone();
        let reason = match failure.wait_for(Option::is_some).await {
            Ok(text) => text.clone(),
            Err(_) => None,
        };
        match reason {
            Some(reason) => ExecutionError::ListenerBroken { reason },
            // The server task ended without a word: it was aborted with us.
            None => std::future::pending().await,
        }
    }
}

/// `bound`, as the runtime `to` watches it.
fn moved(bound: TcpListener, to: &Handle) -> Result<TcpListener, ExecutionError> {
    let moved = || {
        let _on_it = to.enter();
        TcpListener::from_std(bound.into_std()?)
    };
    moved().map_err(|e| ExecutionError::ListenerBroken {
        reason: e.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advertised() {
        let loopback: SocketAddr = "127.0.0.1:5".parse().unwrap();
        let any: SocketAddr = "0.0.0.0:5".parse().unwrap();
        assert_eq!(
            advertised_url(loopback, None).unwrap().as_str(),
            "http://127.0.0.1:5/"
        );
        // Where there is a network, and where there is none.
        match (advertised_url(any, None), outgoing_ip(true)) {
            (Ok(url), Some(ip)) => assert_eq!(url.as_str(), format!("http://{ip}:5/")),
            (Err(error), None) => assert!(error.to_string().contains("--advertise")),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            advertised_url(any, Some("box:0")).unwrap().as_str(),
            "http://box:5/"
        );
        assert_eq!(
            advertised_url(any, Some("grpc://box:9")).unwrap().as_str(),
            "http://box:9/"
        );
    }
}
