//! Frames over one Unix socket: bounded, one allocation each way.
//!
//! A frame is written with vectored writes straight from the arrays' buffers,
//! and read into one aligned buffer that the decoded block then shares. Neither
//! direction may be cancelled half-way and then used again: the owner ends the
//! worker instead.

use std::io::{self, IoSlice};

use arrow::buffer::{Buffer, MutableBuffer};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::protocol::{Frame, HEADER_BYTES, Header, Kind};

/// Most pieces given to one vectored write: what Linux takes.
const PIECES_MAX: usize = 1024;

/// This process's end of a worker's socket.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: UnixStream,
    max_frame_bytes: usize,
}

/// Why a frame did not pass.
#[derive(Debug)]
pub(crate) enum ChannelError {
    /// The other end is closed.
    Closed,
    Io(io::Error),
    /// The other end does not speak our protocol.
    Malformed(String),
}

impl From<io::Error> for ChannelError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof, WriteZero};
        match error.kind() {
            BrokenPipe | ConnectionReset | UnexpectedEof | WriteZero => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

impl Channel {
    /// Frames over `socket`, none longer than `max_frame_bytes`.
    pub(crate) fn new(socket: UnixStream, max_frame_bytes: usize) -> Self {
        Self {
            socket,
            max_frame_bytes,
        }
    }

    /// Most bytes of a frame.
    pub(crate) fn max_frame_bytes(&self) -> usize {
        self.max_frame_bytes
    }

    /// What frames travel over, to wait for it or to send descriptors.
    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Writes bytes that are no frame; only the worker's own source is sent so.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        Ok(self.socket.write_all(bytes).await?)
    }

    /// Writes one frame.
    pub(crate) async fn send(
        &mut self,
        kind: Kind,
        seq: u64,
        body: &impl Serialize,
        payload: &[Buffer],
    ) -> Result<(), ChannelError> {
        let body = serde_json::to_vec(body)
            .map_err(|e| ChannelError::Malformed(format!("{kind:?} cannot be written: {e}")))?;
        let payload_bytes = payload.iter().map(Buffer::len).sum();
        let start = Header::frame_start(kind, seq, &body, payload_bytes)
            .filter(|start| start.len() + payload_bytes <= self.max_frame_bytes)
            .ok_or_else(|| ChannelError::Malformed(format!("{kind:?} is too long to be sent")))?;
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(payload.len() + 1);
        slices.push(IoSlice::new(&start));
        let pieces = payload.iter().filter(|piece| !piece.is_empty());
        slices.extend(pieces.map(|piece| IoSlice::new(piece)));
        let mut left = slices.as_mut_slice();
        while !left.is_empty() {
            let now = left.len().min(PIECES_MAX);
            let written = self.socket.write_vectored(&left[..now]).await?;
            if written == 0 {
                return Err(ChannelError::Closed);
            }
            IoSlice::advance_slices(&mut left, written);
        }
        Ok(())
    }

    /// Reads one frame.
    pub(crate) async fn receive(&mut self) -> Result<Frame, ChannelError> {
        let mut header = [0; HEADER_BYTES];
        self.socket.read_exact(&mut header).await?;
        let header = Header::decode(&header).map_err(ChannelError::Malformed)?;
        if header.rest_bytes > self.max_frame_bytes {
            return Err(ChannelError::Malformed(format!(
                "a frame of {} bytes where {} are allowed",
                header.rest_bytes, self.max_frame_bytes
            )));
        }
        let mut rest = MutableBuffer::from_len_zeroed(header.rest_bytes);
        self.socket.read_exact(rest.as_slice_mut()).await?;
        Frame::try_new(header, rest).map_err(ChannelError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Done;

    #[tokio::test]
    async fn many_pieces_arrive_as_one_payload() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut channel = Channel::new(ours, 1 << 20);
        let pieces: Vec<Buffer> = (0..3000_u32)
            .map(|i| Buffer::from_vec(vec![i as u8; (i % 5) as usize]))
            .collect();
        let expected: Vec<u8> = pieces.iter().flat_map(|p| p.to_vec()).collect();
        channel
            .send(Kind::Done, 3, &serde_json::json!({"user_us": 1}), &pieces)
            .await
            .unwrap();
        drop(channel);
        let mut bytes = Vec::new();
        theirs.read_to_end(&mut bytes).await.unwrap();

        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut channel = Channel::new(ours, 1 << 20);
        theirs.write_all(&bytes).await.unwrap();
        drop(theirs);
        let frame = channel.receive().await.unwrap();
        assert_eq!(frame.body::<Done>().unwrap().user_us, 1);
        assert_eq!(frame.payload.unwrap().as_slice(), expected);
        assert!(matches!(channel.receive().await, Err(ChannelError::Closed)));
    }

    #[tokio::test]
    async fn long_frames_are_refused_both_ways() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut channel = Channel::new(ours, 100);
        let long = [Buffer::from_vec(vec![0_u8; 200])];
        let sent = channel.send(Kind::Process, 1, &(), &long).await;
        assert!(matches!(sent, Err(ChannelError::Malformed(_))));
        let start = Header::frame_start(Kind::Done, 1, &[b' '; 101], 0).unwrap();
        theirs.write_all(&start).await.unwrap();
        assert!(matches!(
            channel.receive().await,
            Err(ChannelError::Malformed(_))
        ));
    }
}
