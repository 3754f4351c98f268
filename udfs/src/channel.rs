//! Frames over one Unix socket: bounded, one allocation each way.
//!
//! A frame is written with vectored writes straight from the arrays' buffers,
//! and read into one aligned buffer that the decoded block then shares. Large
//! payloads are copied to shared memory and from it instead, where a worker has
//! [`Slots`]. Neither direction may be cancelled half-way and then used again: the
//! owner ends the worker instead.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;

use arrow::buffer::{Buffer, MutableBuffer};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::descriptors::send_with;
use crate::protocol::{Frame, HEADER_BYTES, Header, Kind, NewSlot, Payload, Span};
use crate::slots::{News, OpenSlot, Slots, Tally};

/// Most pieces given to one vectored write: what Linux takes.
const PIECES_MAX: usize = 1024;
/// How much is copied to or from a slot before others may run.
const COPY_BYTES: usize = 4 << 20;

/// This process's end of a worker's socket.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: UnixStream,
    max_frame_bytes: usize,
    /// `None`: every payload goes with its frame.
    slots: Option<Box<Slots>>,
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
            slots: None,
        }
    }

    /// Shares memory with the other end, a worker.
    pub(crate) fn sharing(mut self, slots: Slots) -> Self {
        self.slots = Some(Box::new(slots));
        self
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

    /// What crossed in slots since the last time.
    pub(crate) fn take_tally(&mut self) -> Tally {
        let slots = self.slots.as_mut();
        slots.map(|slots| slots.take_tally()).unwrap_or_default()
    }

    /// Writes one frame; a large block to a slot, if there is one to be had.
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
            .ok_or_else(|| too_long(kind))?;
        let slots = self.slots.as_mut().filter(|_| kind == Kind::Process);
        let slot = slots.and_then(|slots| slots.open_input(payload_bytes));
        let mut head = self.tell_news().await?;
        if let Some(slots) = self.slots.as_mut().filter(|_| kind.has_answer()) {
            slots.begin_request();
        }
        match slot {
            None => {
                head.extend_from_slice(&start);
                self.write(&head, payload).await
            }
            Some(slot) => {
                let number = slot.number;
                self.fill(slot, payload).await?;
                let frame = Header::frame_with_slot(kind, seq, &body, number, payload_bytes);
                head.extend_from_slice(&frame.ok_or_else(|| too_long(kind))?);
                self.write(&head, &[]).await
            }
        }
    }

    /// Reads one frame.
    pub(crate) async fn receive(&mut self) -> Result<Frame, ChannelError> {
        loop {
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
            if header.kind == Kind::Released {
                let slots = self.slots.as_mut().ok_or_else(no_slots)?;
                slots
                    .release_input(header.slot)
                    .map_err(ChannelError::Malformed)?;
                continue;
            }
            let span = Frame::span(rest.as_slice());
            let mut frame = Frame::try_new(header, rest).map_err(ChannelError::Malformed)?;
            if let Some(span) = span.filter(|_| header.payload == Payload::Slot) {
                frame.payload = Some(self.empty(header.slot, span).await?);
            }
            self.note(&frame, header.payload).await?;
            return Ok(frame);
        }
    }

    /// Copies `payload` to a slot that is then the worker's.
    async fn fill(&mut self, mut slot: OpenSlot, payload: &[Buffer]) -> Result<(), ChannelError> {
        let mut at = 0;
        for chunk in payload.iter().flat_map(|piece| piece.chunks(COPY_BYTES)) {
            if !slot.memory.write(at, chunk) {
                return Err(ChannelError::Malformed("a slot is too small".into()));
            }
            let before = at;
            at += chunk.len();
            breathe(before, at).await;
        }
        if let Some(slots) = &mut self.slots {
            slots.close_input(slot, at);
        }
        Ok(())
    }

    /// Copies what the worker says is in a slot, which is then the worker's again.
    /// Only the copy may be checked and used: the worker can still change the slot.
    async fn empty(&mut self, number: u16, span: Span) -> Result<Buffer, ChannelError> {
        let slots = self.slots.as_mut().ok_or_else(no_slots)?;
        let slot = slots.open_output(number).map_err(ChannelError::Malformed)?;
        let Span { at, bytes } = span;
        let end = at
            .checked_add(bytes)
            .filter(|end| *end <= slot.memory.bytes());
        let Some(end) = end.filter(|_| bytes <= self.max_frame_bytes) else {
            let size = slot.memory.bytes();
            return Err(ChannelError::Malformed(format!(
                "{bytes} bytes from byte {at} on in slot {number}, which has {size}"
            )));
        };
        let mut copy = Vec::with_capacity(bytes);
        for from in (at..end).step_by(COPY_BYTES) {
            let until = end.min(from + COPY_BYTES);
            if !slot.memory.read(from, until - from, &mut copy) {
                return Err(ChannelError::Malformed("a slot is too small".into()));
            }
            breathe(from - at, until - at).await;
        }
        slots.close_output(slot, span);
        Ok(Buffer::from_vec(copy))
    }

    /// Keeps count of what the worker answers.
    async fn note(&mut self, frame: &Frame, payload: Payload) -> Result<(), ChannelError> {
        let Some(slots) = &mut self.slots else {
            return Ok(());
        };
        match frame.kind {
            Kind::Output => {
                if payload == Payload::Inline {
                    slots.note_inline_output(frame.payload.as_ref().map_or(0, Buffer::len));
                }
                if slots.note_output() {
                    let news = self.tell_news().await?;
                    self.socket.write_all(&news).await?;
                }
            }
            Kind::Ready | Kind::Done | Kind::Error => slots.end_request(),
            _ => {}
        }
        Ok(())
    }

    /// Tells what has become of slots; what may go with the next frame is
    /// returned.
    async fn tell_news(&mut self) -> Result<Vec<u8>, ChannelError> {
        let mut frames = Vec::new();
        let news = self.slots.as_mut().map(|slots| slots.take_news());
        for news in news.unwrap_or_default() {
            let about = |kind, slot, body: &[u8]| {
                Header::frame_about_slot(kind, slot, body).ok_or_else(|| too_long(kind))
            };
            match news {
                News::Free(number) => frames.extend(about(Kind::Free, number, &[])?),
                News::Drop(number) => frames.extend(about(Kind::Drop, number, &[])?),
                News::Slot {
                    number,
                    bytes,
                    output,
                    file,
                } => {
                    let body = serde_json::to_vec(&NewSlot { bytes, output });
                    let body = body.map_err(|_| too_long(Kind::Slot))?;
                    // Its descriptor travels with its own first byte.
                    self.socket.write_all(&std::mem::take(&mut frames)).await?;
                    let frame = about(Kind::Slot, number, &body)?;
                    send_with(&self.socket, &frame, &[file.as_fd()]).await?;
                }
            }
        }
        Ok(frames)
    }

    async fn write(&mut self, head: &[u8], payload: &[Buffer]) -> Result<(), ChannelError> {
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(payload.len() + 1);
        slices.push(IoSlice::new(head));
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
}

/// Lets others run each time that so much more has been copied.
async fn breathe(before: usize, after: usize) {
    if before / COPY_BYTES < after / COPY_BYTES {
        tokio::task::yield_now().await;
    }
}

fn too_long(kind: Kind) -> ChannelError {
    ChannelError::Malformed(format!("{kind:?} is too long to be sent"))
}

fn no_slots() -> ChannelError {
    ChannelError::Malformed("it names a slot, but was given none".into())
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
