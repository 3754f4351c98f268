//! One accepted TCP connection: its number, its place under the limit, its end.
//!
//! A client without a token is known by its HTTP/2 connection, so each gets a
//! number that tonic hands to every call on it. When the socket is dropped, the
//! sessions bound to it end. A server that has waited long enough for its
//! clients breaks the rest of the connections through `broken`, which drops
//! their streams and so cancels their queries.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::sessions::Sessions;

/// The number of a connection, unique while the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

/// A connection that ends its sessions when it is dropped.
pub struct Connection {
    socket: TcpStream,
    id: ConnectionId,
    sessions: Arc<Sessions>,
    broken: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: OwnedSemaphorePermit,
}

/// Connections as they are accepted, at most `limit` at a time; a socket above
/// it is closed at once.
pub fn accept(
    listener: TcpListener,
    sessions: Arc<Sessions>,
    limit: usize,
    broken: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
    let numbers = AtomicU64::new(1);
    TcpListenerStream::new(listener).filter_map(move |accepted| {
        let made = accepted.map(|socket| {
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                tracing::warn!(limit, peer = ?peer(&socket), "connection refused: too many");
                return None;
            };
            if let Err(error) = socket.set_nodelay(true) {
                tracing::debug!(%error, "cannot turn off delayed sending");
            }
            let id = ConnectionId(numbers.fetch_add(1, Ordering::Relaxed));
            sessions.begin_connection(id);
            Some(Connection {
                socket,
                id,
                sessions: Arc::clone(&sessions),
                broken: Box::pin(broken.clone().cancelled_owned()),
                _place: place,
            })
        });
        std::future::ready(made.transpose())
    })
}

fn peer(socket: &TcpStream) -> Option<SocketAddr> {
    socket.peer_addr().ok()
}

impl Connection {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.broken.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
            Poll::Pending => Ok(()),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.sessions.end_connection(self.id);
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionId;

    fn connect_info(&self) -> ConnectionId {
        self.id
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Err(error) = self.check(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
