//! Descriptors on their way to another process.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::net::UnixStream;

/// Sends `bytes`, which are few, and at most three descriptors with them.
pub(crate) async fn send_with(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("no room for the descriptors"));
        }
        let pieces = [IoSlice::new(bytes)];
        Ok(sendmsg(socket, &pieces, &mut control, SendFlags::NOSIGNAL)?)
    };
    let sent = socket.async_io(tokio::io::Interest::WRITABLE, send).await?;
    match sent == bytes.len() {
        true => Ok(()),
        false => Err(io::Error::other("a short write")),
    }
}
