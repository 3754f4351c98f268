//! The half of a worker's socket that requests go out by.
//!
//! Its own, so that a block can be sent while the worker still answers the one
//! before. A frame is written with vectored writes straight from the arrays'
//! buffers; a large payload is copied to shared memory instead, where a worker has
//! [`Slots`](crate::slots::Slots). A write may not be cut off half-way and the
//! socket then used again: the owner ends the worker instead.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use mobula_block::BlockError;
use mobula_block::ipc::BlockEncoder;
use mobula_block::size::block_bytes;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;

use crate::block_id::Named;
use crate::channel::{ChannelError, SharedSlots, breathe, too_long};
use crate::descriptors::send_with;
use crate::order::CallOrder;
use crate::protocol::{Header, Kind, NewSlot, Process, Train};
use crate::slots::{COPY_BYTES, INLINE_BYTES, News, OpenSlot};
use crate::train::TRAIN_BYTES;

/// Most pieces given to one vectored write: what Linux takes.
const PIECES_MAX: usize = 1024;
/// Calls a worker keeps loaded; the oldest goes first.
const CALLS_MAX: usize = 32;
/// Bytes of a frame that are not the block: the header and the body.
const OVERHEAD_BYTES: usize = 4096;

/// This process's outgoing half of a worker's socket.
#[derive(Debug)]
pub(crate) struct Sender {
    socket: OwnedWriteHalf,
    max_frame_bytes: usize,
    /// `None`: every payload goes with its frame.
    slots: Option<SharedSlots>,
    /// Whether the worker notes what it is at.
    has_board: bool,
    /// Of the last request.
    seq: u64,
    loaded: VecDeque<Loaded>,
}

/// A call the process has compiled and built.
#[derive(Debug)]
struct Loaded {
    key: blake3::Hash,
    id: u64,
    encoder: BlockEncoder,
}

/// A block as it goes out.
#[derive(Debug)]
pub(crate) struct Encoded {
    call: u64,
    pieces: Vec<Buffer>,
    pub(crate) bytes: usize,
    /// What it is called, if it has a name.
    named: Option<Named>,
}

/// A block that is on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SentBlock {
    pub(crate) seq: u64,
    pub(crate) bytes: usize,
}

impl Encoded {
    /// As those of its block's rows.
    pub(crate) fn at(mut self, places: &[usize]) -> Self {
        self.named = self.named.map(|named| named.at(places));
        self
    }

    /// Whether it goes into a frame of so many bytes.
    pub(crate) fn fits(&self, max_frame_bytes: usize) -> bool {
        self.bytes + OVERHEAD_BYTES <= max_frame_bytes
    }
}

impl Sender {
    pub(crate) fn new(socket: OwnedWriteHalf, max_frame_bytes: usize) -> Self {
        Self {
            socket,
            max_frame_bytes,
            slots: None,
            has_board: false,
            seq: 0,
            loaded: VecDeque::new(),
        }
    }

    pub(crate) fn share(&mut self, slots: SharedSlots) {
        self.slots = Some(slots);
    }

    /// Gives the worker a page to note on what it is at.
    pub(crate) async fn send_board(&mut self, page: &OwnedFd) -> Result<(), ChannelError> {
        let frame = Header::frame_about_slot(Kind::Board, 0, &[]);
        let frame = frame.ok_or_else(|| too_long(Kind::Board))?;
        send_with(self.socket.as_ref(), &frame, &[page.as_fd()]).await?;
        self.has_board = true;
        Ok(())
    }

    /// Writes bytes that are no frame; only the worker's own source is sent so.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        Ok(self.socket.write_all(bytes).await?)
    }

    /// The number of the last request.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// The number for the next request.
    pub(crate) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// Whether a call is loaded; if so, it is the current one now.
    pub(crate) fn choose(&mut self, key: blake3::Hash) -> bool {
        let at = self.loaded.iter().position(|loaded| loaded.key == key);
        // The last one used is the last to go.
        match at.and_then(|at| self.loaded.remove(at)) {
            Some(loaded) => {
                self.loaded.push_back(loaded);
                true
            }
            None => false,
        }
    }

    /// The call last loaded or chosen.
    pub(crate) fn current(&self) -> Option<u64> {
        self.loaded.back().map(|loaded| loaded.id)
    }

    /// Makes room for one more call: the ids of those to forget.
    pub(crate) fn forget_oldest(&mut self) -> Vec<u64> {
        let surplus = (self.loaded.len() + 1).saturating_sub(CALLS_MAX);
        self.loaded
            .drain(..surplus)
            .map(|loaded| loaded.id)
            .collect()
    }

    /// The worker has loaded a call as `id`: the current one now.
    pub(crate) fn add_loaded(&mut self, key: blake3::Hash, id: u64, encoder: BlockEncoder) {
        self.loaded.push_back(Loaded { key, id, encoder });
    }

    /// `block` for the current call; `None` if there is none.
    pub(crate) fn encode(&mut self, block: &RecordBatch) -> Option<Result<Encoded, BlockError>> {
        let loaded = self.loaded.back_mut()?;
        let call = loaded.id;
        Some(loaded.encoder.encode(block).map(|pieces| Encoded {
            call,
            bytes: pieces.iter().map(Buffer::len).sum(),
            pieces,
            named: Named::of(block),
        }))
    }

    /// Sends a block that fits.
    pub(crate) async fn send_block(
        &mut self,
        block: &Encoded,
        order: &CallOrder,
    ) -> Result<SentBlock, ChannelError> {
        let Encoded { call, bytes, .. } = *block;
        let max_errors = order.call.max_errors;
        let seq = self.next_seq();
        let request = Process {
            call,
            max_errors,
            block: block.named.as_ref(),
        };
        self.send(Kind::Process, seq, &request, &block.pieces)
            .await?;
        Ok(SentBlock { seq, bytes })
    }

    /// Encodes and sends the first of `blocks` while the worker is at work on another,
    /// if it need not read any of it before it is through with that; and those that go
    /// with it.
    pub(crate) async fn send_ahead(
        &mut self,
        blocks: &[RecordBatch],
        order: &CallOrder,
    ) -> Option<VecDeque<SentBlock>> {
        if blocks.len() > 1
            && let Some(sent) = self.send_train(blocks, order).await
        {
            return Some(sent);
        }
        // What is wrong is told when it is sent again.
        let block = self.encode(blocks.first()?)?.ok()?;
        let slots = self.slots.as_ref();
        let has_slot = || slots.is_some_and(|slots| slots.lock().has_input(block.bytes));
        if !block.fits(self.max_frame_bytes) || !(block.bytes <= INLINE_BYTES || has_slot()) {
            return None;
        }
        let sent = self.send_block(&block, order).await.ok()?;
        Some(VecDeque::from([sent]))
    }

    /// Writes the first of `blocks` at once, as many as go together: their rows as those of
    /// one block, which it says where to cut. `None` where they are not two, or what is wrong
    /// shows when each is sent by itself.
    pub(crate) async fn send_train(
        &mut self,
        blocks: &[RecordBatch],
        order: &CallOrder,
    ) -> Option<VecDeque<SentBlock>> {
        let mut sent = Vec::with_capacity(blocks.len());
        let mut bytes = 0;
        for block in blocks {
            let of_block = block_bytes(block);
            bytes += of_block;
            if bytes > TRAIN_BYTES {
                break;
            }
            sent.push(of_block);
        }
        let blocks = &blocks[..sent.len()];
        let schema = blocks.get(1)?.schema_ref();
        let all = concat_batches(schema, blocks).ok()?;
        let all = self.encode(&all)?.ok()?;
        let train = Train {
            call: all.call,
            max_errors: order.call.max_errors,
            rows: blocks.iter().map(RecordBatch::num_rows).collect(),
            blocks: blocks.iter().map(Named::of).collect(),
        };
        let body = serde_json::to_vec(&train).ok()?;
        let first = self.seq + 1;
        let mut start = Header::frame_start(Kind::Train, first, &body, all.bytes)?;
        if start.len() + all.bytes > self.max_frame_bytes {
            return None;
        }
        self.seq += blocks.len() as u64;
        if self.has_board {
            Header::mark_more(&mut start);
        }
        let mut head = self.take_news().await.ok()?;
        head.extend(start);
        if let Some(slots) = &self.slots {
            let mut slots = slots.lock();
            blocks.iter().for_each(|_| slots.begin_request());
        }
        self.write(&head, &all.pieces).await.ok()?;
        // What they share is shared out.
        let total = sent.iter().sum::<usize>().max(1);
        let of_block = |(seq, bytes)| SentBlock {
            seq,
            bytes: all.bytes * bytes / total,
        };
        Some((first..).zip(sent).map(of_block).collect())
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
        let slots = self.slots.as_ref().filter(|_| kind == Kind::Process);
        let slot = slots.and_then(|slots| slots.lock().open_input(payload_bytes));
        let mut head = self.take_news().await?;
        if let Some(slots) = self.slots.as_ref().filter(|_| kind.has_answer()) {
            slots.lock().begin_request();
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

    /// Tells now what has become of slots.
    pub(crate) async fn tell_news(&mut self) -> Result<(), ChannelError> {
        let news = self.take_news().await?;
        Ok(self.socket.write_all(&news).await?)
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
        if let Some(slots) = &self.slots {
            slots.lock().close_input(slot, at);
        }
        Ok(())
    }

    /// Tells what has become of slots; what may go with the next frame is
    /// returned.
    async fn take_news(&mut self) -> Result<Vec<u8>, ChannelError> {
        let mut frames = Vec::new();
        let news = self.slots.as_ref().map(|slots| slots.lock().take_news());
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
                    send_with(self.socket.as_ref(), &frame, &[file.as_fd()]).await?;
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
