//! Frames over one Unix socket: bounded, one allocation each way.
//!
//! A frame is read into one aligned buffer that the decoded block then shares; a
//! large payload is copied from shared memory, where a worker has [`Slots`]. Reading
//! may not be cut off half-way and the channel then used again: the owner ends the
//! worker instead. [`Sender`] is the way out.

use std::io;
use std::sync::Arc;

use arrow::buffer::{Buffer, MutableBuffer};
use parking_lot::Mutex;
use rustix::net::RecvFlags;
use serde::Serialize;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;

use crate::protocol::{Frame, HEADER_BYTES, Header, Kind, Payload, Span};
use crate::sender::Sender;
use crate::slots::{COPY_BYTES, Slots, Tally};
use crate::spawn::spawn_detached;

/// How much is read at a time, if it is there; what is longer is read to its place.
const READ_BYTES: usize = 16 << 10;

/// A worker's slots, as both halves of its channel see them.
pub(crate) type SharedSlots = Arc<Mutex<Slots>>;

/// This process's end of a worker's socket.
#[derive(Debug)]
pub(crate) struct Channel {
    /// One read often gets an answer and the last word about it.
    socket: BufReader<OwnedReadHalf>,
    sender: Arc<tokio::sync::Mutex<Sender>>,
    max_frame_bytes: usize,
    /// `None`: every payload goes with its frame.
    slots: Option<SharedSlots>,
}

/// Why a frame did not pass.
#[derive(Debug)]
pub(crate) enum ChannelError {
    /// The other end is closed.
    Closed,
    Io(io::Error),
    /// What the other end said is no frame.
    Noise(String),
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
        let (socket, outgoing) = socket.into_split();
        let sender = Sender::new(outgoing, max_frame_bytes);
        Self {
            socket: BufReader::with_capacity(READ_BYTES, socket),
            sender: Arc::new(tokio::sync::Mutex::new(sender)),
            max_frame_bytes,
            slots: None,
        }
    }

    /// Shares memory with the other end, a worker.
    pub(crate) async fn sharing(mut self, slots: Slots) -> Self {
        let slots = Arc::new(Mutex::new(slots));
        self.sender.lock().await.share(Arc::clone(&slots));
        self.slots = Some(slots);
        self
    }

    /// Whether the other end has memory that this one has as well.
    pub(crate) fn shares_memory(&self) -> bool {
        self.slots.is_some()
    }

    /// Most bytes of a frame.
    pub(crate) fn max_frame_bytes(&self) -> usize {
        self.max_frame_bytes
    }

    /// What frames travel over, to send descriptors.
    pub(crate) fn socket(&self) -> &UnixStream {
        self.socket.get_ref().as_ref()
    }

    /// Waits until there is something to receive.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self.socket.buffer().is_empty() {
            true => self.socket().readable().await,
            false => Ok(()),
        }
    }

    /// The way out.
    pub(crate) fn sender(&self) -> &Arc<tokio::sync::Mutex<Sender>> {
        &self.sender
    }

    /// What crossed in slots since the last time.
    pub(crate) fn take_tally(&mut self) -> Tally {
        let slots = self.slots.as_ref();
        slots
            .map(|slots| slots.lock().take_tally())
            .unwrap_or_default()
    }

    /// Writes bytes that are no frame; only the worker's own source is sent so.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        self.sender.lock().await.send_raw(bytes).await
    }

    /// Writes one frame; its `seq` is a new one.
    pub(crate) async fn request(
        &mut self,
        kind: Kind,
        body: &impl Serialize,
        payload: &[Buffer],
    ) -> Result<u64, ChannelError> {
        let mut sender = self.sender.lock().await;
        let seq = sender.next_seq();
        sender.send(kind, seq, body, payload).await?;
        Ok(seq)
    }

    /// Whether the other end has said nothing that is still to be read, and is there.
    pub(crate) fn is_quiet(&self) -> bool {
        if !self.socket.buffer().is_empty() {
            return false;
        }
        let mut byte = [0; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let found = rustix::net::recv(self.socket(), &mut byte, flags);
        matches!(found, Err(rustix::io::Errno::AGAIN))
    }

    /// Reads one frame.
    pub(crate) async fn receive(&mut self) -> Result<Frame, ChannelError> {
        loop {
            let mut header = [0; HEADER_BYTES];
            self.socket.read_exact(&mut header).await?;
            let header = Header::decode(&header).map_err(ChannelError::Noise)?;
            if header.rest_bytes > self.max_frame_bytes {
                return Err(ChannelError::Noise(format!(
                    "a frame of {} bytes where {} are allowed",
                    header.rest_bytes, self.max_frame_bytes
                )));
            }
            let mut rest = MutableBuffer::from_len_zeroed(header.rest_bytes);
            self.socket.read_exact(rest.as_slice_mut()).await?;
            if header.kind == Kind::Released {
                let slots = self.slots.as_ref().ok_or_else(no_slots)?;
                let released = slots.lock().release_input(header.slot);
                released.map_err(ChannelError::Malformed)?;
                continue;
            }
            let span = Frame::span(rest.as_slice());
            let mut frame = Frame::try_new(header, rest).map_err(ChannelError::Noise)?;
            if let Some(span) = span.filter(|_| header.payload == Payload::Slot) {
                frame.payload = Some(self.empty(header.slot, span).await?);
            }
            self.note(&frame, header.payload).await?;
            return Ok(frame);
        }
    }

    /// Copies what the worker says is in a slot, which is then the worker's again.
    /// Only the copy may be checked and used: the worker can still change the slot.
    async fn empty(&mut self, number: u16, span: Span) -> Result<Buffer, ChannelError> {
        let slots = self.slots.as_ref().ok_or_else(no_slots)?;
        let slot = slots.lock().open_output(number);
        let slot = slot.map_err(ChannelError::Malformed)?;
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
        slots.lock().close_output(slot, span);
        Ok(Buffer::from_vec(copy))
    }

    /// Keeps count of what the worker answers.
    async fn note(&self, frame: &Frame, payload: Payload) -> Result<(), ChannelError> {
        let Some(slots) = &self.slots else {
            return Ok(());
        };
        match frame.kind {
            Kind::Output => {
                let has_more = {
                    let mut slots = slots.lock();
                    if payload == Payload::Inline {
                        slots.note_inline_output(frame.payload.as_ref().map_or(0, Buffer::len));
                    }
                    slots.note_output()
                };
                if has_more {
                    self.tell_news().await?;
                }
            }
            Kind::Ready | Kind::Done | Kind::Error => slots.lock().end_request(),
            _ => {}
        }
        Ok(())
    }

    /// Tells the worker what has become of slots. Reading does not wait where the way
    /// out is in use: maybe the worker listens only when it was heard.
    async fn tell_news(&self) -> Result<(), ChannelError> {
        if let Ok(mut sender) = self.sender.try_lock() {
            return sender.tell_news().await;
        }
        let sender = Arc::clone(&self.sender);
        // A worker that cannot hear has ended, which its reader is told.
        let tell = async move { drop(sender.lock().await.tell_news().await) };
        drop(spawn_detached("udf-news", tell));
        Ok(())
    }
}

/// Lets others run each time that so much more has been copied.
pub(crate) async fn breathe(before: usize, after: usize) {
    if before / COPY_BYTES < after / COPY_BYTES {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn too_long(kind: Kind) -> ChannelError {
    ChannelError::Malformed(format!("{kind:?} is too long to be sent"))
}

fn no_slots() -> ChannelError {
    ChannelError::Malformed("it names a slot, but was given none".into())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

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
            .request(Kind::Done, &serde_json::json!({"user_us": 1}), &pieces)
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
        let sent = channel.request(Kind::Process, &(), &long).await;
        assert!(matches!(sent, Err(ChannelError::Malformed(_))));
        let start = Header::frame_start(Kind::Done, 1, &[b' '; 101], 0).unwrap();
        theirs.write_all(&start).await.unwrap();
        assert!(matches!(
            channel.receive().await,
            Err(ChannelError::Noise(_))
        ));
    }
}
