//! The words this process and a worker exchange over one Unix socket.
//!
//! ```text
//! frame   = len u32 | kind u8 | flags u8 | slot u16 | seq u64 | rest      little-endian
//! rest    = body                                             no flag
//!         | body_len u32 | body | zeros to a multiple of 64 | payload     flag 1
//!         | at u64 | payload_len u64 | body                               flag 2
//! flag 4  : a TRAIN whose answers may wait for each other
//! ```
//!
//! `len` counts the rest. Bodies are JSON: they are tiny, and the worker can read
//! them with Python's standard library alone, where MessagePack would need a
//! decoder of our own. The payload is Arrow IPC: with its frame, and aligned so that
//! both sides read it in place, or from the byte `at` on in the memory of the slot
//! that the header names. Schemas go once, with LOAD; blocks are bare record-batch
//! messages.
//!
//! ```text
//! → INIT limits             ← HELLO versions
//! → DESCRIBE source         ← READY object        | ERROR
//! → BUILD class, arguments  ← READY               | ERROR
//! → LOAD call, schemas      ← READY               | ERROR
//! → RESTORE part of a state ← READY               | ERROR
//! → PROCESS block           ← (FAILED | OUTPUT)* SNAPSHOT* DONE, or ERROR at any place
//! → TRAIN blocks            ← as to as many PROCESSes, numbered from its `seq` on
//! → SHUTDOWN                (the process ends)
//! ```
//!
//! An async function has several blocks at a time, and answers them as they come
//! (`overlap`): after an OUTPUT, a PART says which rows it is for. ALIVE says that its event
//! loop turns; CANCEL, that nobody waits for a block any more: DONE, and no more of it.
//!
//! BUILD makes the one instance of a named actor; LOADs of its methods name them, and
//! whatever else the process forgets, it keeps the instance.
//!
//! RESTORE is for keyed actors (`keyed`): who gets it speaks from then on for a state, from
//! which it goes on if there is one. SNAPSHOT tells that state as it is after the block.
//!
//! With a zygote, which says HELLO for its workers:
//!
//! ```text
//! → FORK env, three descriptors ← FORKED pid         | ERROR
//!                               ← EXITED pid, status   (at any time)
//! ```
//!
//! Else one request at a time; answers repeat its `seq`: the only sure way to stop
//! other user code is to end its process.
//!
//! Slots are memory that both sides map, made by this side (`slots`). Each is for
//! blocks in one direction, and in the hands of one side: its filler has it until a
//! frame names it, its reader until it gives it back. These words have no answer:
//!
//! ```text
//! → SLOT what it is, its descriptor      → DROP: it is gone
//! → FREE: an output's, which was copied  ← RELEASED: an input's, which nothing
//!                                          in the worker refers to any more
//! ```
//!
//! BOARD brings one page more, on which the worker notes the `seq` of the block that it is
//! at: where flag 4 is set it may keep all answers but the last for some milliseconds, to send
//! them with others.
//!
//! FREE goes with the next request, but from the second OUTPUT of an answer on at
//! once: the worker may wait for it.

use arrow::buffer::{Buffer, MutableBuffer};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

use crate::actor::DescribedMethod;
use crate::failed_rows::{FailedRow, RowFailure};
use crate::spec::ObjectKind;

/// Bumped when either side could misread the other.
pub(crate) const VERSION: u32 = 6;
pub(crate) const HEADER_BYTES: usize = 16;
/// Where payloads start, counted from the rest's first byte.
pub(crate) const ALIGNMENT: usize = 64;
const FLAG_PAYLOAD: u8 = 1;
const FLAG_SLOT: u8 = 2;
const FLAG_MORE: u8 = 4;
/// Where a frame's flags are.
const FLAGS_AT: usize = 5;
/// What stands before the body where the payload lies in a slot.
const SPAN_BYTES: usize = 16;

/// What a frame says. The worker's `protocol.py` has the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Init = 1,
    Describe = 2,
    Load = 3,
    Process = 4,
    Shutdown = 5,
    Fork = 6,
    Build = 7,
    Cancel = 8,
    Restore = 9,
    Slot = 10,
    Free = 11,
    Drop = 12,
    Board = 13,
    Train = 14,
    Hello = 17,
    Ready = 18,
    Output = 19,
    Done = 20,
    Error = 21,
    Forked = 22,
    Exited = 23,
    Failed = 24,
    Part = 25,
    Alive = 26,
    Snapshot = 27,
    Released = 32,
}

impl Kind {
    /// Whether the worker answers it, and with its last word ends it.
    pub(crate) fn has_answer(self) -> bool {
        matches!(
            self,
            Self::Describe | Self::Build | Self::Load | Self::Restore | Self::Process | Self::Train
        )
    }

    /// Words a worker may say.
    fn from_worker(byte: u8) -> Option<Self> {
        [
            Self::Hello,
            Self::Ready,
            Self::Output,
            Self::Done,
            Self::Error,
            Self::Forked,
            Self::Exited,
            Self::Failed,
            Self::Part,
            Self::Alive,
            Self::Snapshot,
            Self::Released,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// The fixed start of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) seq: u64,
    pub(crate) slot: u16,
    pub(crate) rest_bytes: usize,
    pub(crate) payload: Payload,
}

/// Where a frame's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payload {
    None,
    Inline,
    Slot,
}

/// Where in a slot a payload is; as far as the sender tells the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) at: usize,
    pub(crate) bytes: usize,
}

impl Header {
    /// A frame's header and its start up to the payload, if it has one.
    ///
    /// `None` when the frame would not fit a 4-byte length.
    pub(crate) fn frame_start(
        kind: Kind,
        seq: u64,
        body: &[u8],
        payload_bytes: usize,
    ) -> Option<Vec<u8>> {
        let has_payload = payload_bytes > 0;
        let head = if has_payload {
            payload_start(body.len())
        } else {
            body.len()
        };
        let rest = u32::try_from(head.checked_add(payload_bytes)?).ok()?;
        let flags = if has_payload { FLAG_PAYLOAD } else { 0 };
        let mut bytes = Self::start(rest, kind, flags, 0, seq);
        if has_payload {
            bytes.extend_from_slice(&u32::try_from(body.len()).ok()?.to_le_bytes());
        }
        bytes.extend_from_slice(body);
        bytes.resize(HEADER_BYTES + head, 0);
        Some(bytes)
    }

    /// Says in the start of `frame` that the next request is right behind it.
    pub(crate) fn mark_more(frame: &mut [u8]) {
        if let Some(flags) = frame.get_mut(FLAGS_AT) {
            *flags |= FLAG_MORE;
        }
    }

    /// A whole frame whose payload starts the memory of `slot`.
    pub(crate) fn frame_with_slot(
        kind: Kind,
        seq: u64,
        body: &[u8],
        slot: u16,
        payload_bytes: usize,
    ) -> Option<Vec<u8>> {
        let rest = u32::try_from(SPAN_BYTES.checked_add(body.len())?).ok()?;
        let mut bytes = Self::start(rest, kind, FLAG_SLOT, slot, seq);
        bytes.extend_from_slice(&0_u64.to_le_bytes());
        bytes.extend_from_slice(&(payload_bytes as u64).to_le_bytes());
        bytes.extend_from_slice(body);
        Some(bytes)
    }

    /// A whole frame about `slot` itself.
    pub(crate) fn frame_about_slot(kind: Kind, slot: u16, body: &[u8]) -> Option<Vec<u8>> {
        let rest = u32::try_from(body.len()).ok()?;
        let mut bytes = Self::start(rest, kind, 0, slot, 0);
        bytes.extend_from_slice(body);
        Some(bytes)
    }

    fn start(rest: u32, kind: Kind, flags: u8, slot: u16, seq: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + rest.min(4096) as usize);
        bytes.extend_from_slice(&rest.to_le_bytes());
        bytes.push(kind as u8);
        bytes.push(flags);
        bytes.extend_from_slice(&slot.to_le_bytes());
        bytes.extend_from_slice(&seq.to_le_bytes());
        bytes
    }

    /// Reads what a worker sent; the error says what is wrong.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, String> {
        let [l0, l1, l2, l3, kind, flags, s0, s1, seq @ ..] = *bytes;
        let kind = Kind::from_worker(kind).ok_or_else(|| format!("unknown frame kind {kind}"))?;
        let payload = match flags {
            0 => Payload::None,
            FLAG_PAYLOAD => Payload::Inline,
            FLAG_SLOT => Payload::Slot,
            _ => return Err(format!("unknown frame flags {flags:#x}")),
        };
        Ok(Self {
            kind,
            seq: u64::from_le_bytes(seq),
            slot: u16::from_le_bytes([s0, s1]),
            rest_bytes: u32::from_le_bytes([l0, l1, l2, l3]) as usize,
            payload,
        })
    }
}

/// Where the payload starts after a body of `body_bytes`.
fn payload_start(body_bytes: usize) -> usize {
    (4 + body_bytes).next_multiple_of(ALIGNMENT)
}

/// A frame from a worker; body and inline payload share the memory it was read
/// into.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) seq: u64,
    body: Buffer,
    pub(crate) payload: Option<Buffer>,
}

impl Frame {
    /// Cuts `rest` into body and payload; the error says what is wrong.
    pub(crate) fn try_new(header: Header, rest: MutableBuffer) -> Result<Self, String> {
        let rest = Buffer::from(rest);
        let (body, payload) = match header.payload {
            Payload::None => (rest, None),
            // What is in the slot is read by who owns it.
            Payload::Slot => match rest.len() < SPAN_BYTES {
                true => return Err("a frame without the place of its payload".into()),
                false => (rest.slice(SPAN_BYTES), None),
            },
            Payload::Inline => {
                let Some((length, _)) = rest.split_first_chunk::<4>() else {
                    return Err("a frame without the length of its body".into());
                };
                let body_bytes = u32::from_le_bytes(*length) as usize;
                let start = payload_start(body_bytes);
                if rest.len() < start {
                    return Err("a frame shorter than its body".into());
                }
                (
                    rest.slice_with_length(4, body_bytes),
                    Some(rest.slice(start)),
                )
            }
        };
        Ok(Self {
            kind: header.kind,
            seq: header.seq,
            body,
            payload,
        })
    }

    /// Where `rest` says that the payload is in its slot.
    pub(crate) fn span(rest: &[u8]) -> Option<Span> {
        let (at, rest) = rest.split_first_chunk()?;
        let (bytes, _) = rest.split_first_chunk()?;
        Some(Span {
            at: usize::try_from(u64::from_le_bytes(*at)).ok()?,
            bytes: usize::try_from(u64::from_le_bytes(*bytes)).ok()?,
        })
    }

    /// The body as `T`; the error says what is wrong.
    pub(crate) fn body<'a, T: Deserialize<'a>>(&'a self) -> Result<T, String> {
        serde_json::from_slice(&self.body)
            .map_err(|e| format!("the body of {:?} cannot be read: {e}", self.kind))
    }
}

/// INIT.
#[derive(Debug, Serialize)]
pub(crate) struct Init {
    pub(crate) protocol: u32,
    pub(crate) max_frame_bytes: usize,
    /// Payloads up to this go with their frame, if there is a slot or not.
    pub(crate) inline_bytes: usize,
    /// What it may take beyond what it has; 0: as much as there is.
    pub(crate) memory_bytes: usize,
    /// What says so, for errors.
    pub(crate) memory_by: &'static str,
    /// Of pyarrow's own.
    pub(crate) threads: usize,
}

/// SLOT.
#[derive(Debug, Serialize)]
pub(crate) struct NewSlot {
    pub(crate) bytes: usize,
    /// Whether the worker fills it.
    pub(crate) output: bool,
}

/// HELLO.
#[derive(Debug, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u32,
    /// As `3.12.1`.
    pub(crate) python: String,
    /// Whether the interpreter is as young as the worker needs.
    pub(crate) python_ok: bool,
    /// Packages that cannot be imported, each with the reason.
    pub(crate) missing: Vec<String>,
}

/// DESCRIBE: look into a body without building anything.
#[derive(Debug, Serialize)]
pub(crate) struct Describe<'a> {
    #[serde(flatten)]
    pub(crate) source: Source<'a>,
    /// Whether the methods of a class are told as well.
    pub(crate) methods: bool,
}

/// BUILD.
#[derive(Debug, Serialize)]
pub(crate) struct Build<'a> {
    /// The actor: what errors and tracebacks name.
    pub(crate) actor: &'a str,
    #[serde(flatten)]
    pub(crate) source: Source<'a>,
    /// Constructor arguments, as in [`LoadStep`].
    pub(crate) args: Vec<Argument<'a>>,
}

/// A constructor's argument: name, kind and text.
pub(crate) type Argument<'a> = (&'a str, &'static str, String);

/// A function's text and what its declaration says about it.
#[derive(Debug, Serialize)]
pub(crate) struct Source<'a> {
    pub(crate) function: &'a str,
    pub(crate) body: &'a str,
    pub(crate) params: Vec<&'a str>,
    /// Whether it takes a relation and gives one.
    pub(crate) table: bool,
}

/// LOAD; the payload is the message of the schema of blocks, then those of the input
/// and the output of each step.
#[derive(Debug, Serialize)]
pub(crate) struct Load<'a> {
    /// Names the loaded call in PROCESS.
    pub(crate) call: u64,
    /// Loaded calls to forget first.
    pub(crate) forget: Vec<u64>,
    pub(crate) input_schema_bytes: usize,
    /// Functions, in the order they run; one, unless the call is fused.
    pub(crate) steps: Vec<LoadStep<'a>>,
}

/// A function of a call, and how it is called.
#[derive(Debug, Serialize)]
pub(crate) struct LoadStep<'a> {
    #[serde(flatten)]
    pub(crate) source: Source<'a>,
    /// Of the built instance, instead of the source; `None`: there is none.
    pub(crate) method: Option<&'a str>,
    /// Constructor arguments.
    pub(crate) args: Vec<Argument<'a>>,
    pub(crate) mode: crate::call::CallMode,
    /// Whether a row, or a batch, goes in whole.
    pub(crate) takes_table: bool,
    /// As in [`crate::Step`].
    pub(crate) takes: Option<&'a [crate::fused::Take]>,
    pub(crate) batch_size: Option<usize>,
    pub(crate) batch_format: crate::spec::BatchFormat,
    pub(crate) strict: bool,
    pub(crate) on_error: crate::failed_rows::OnError,
    /// Whether a batch that fails may be tried again in halves.
    pub(crate) bisect: bool,
    /// Exceptions on which user code is called again, how often at most, and the
    /// seconds that a block may take.
    pub(crate) retry: Option<(&'a [String], u32, Option<f64>)>,
    /// Of an async function.
    pub(crate) overlap: Option<crate::overlap::LoadOverlap>,
    /// Of a keyed call: after how many blocks, or bytes of them, its state is told.
    pub(crate) keyed: Option<(u64, u64)>,
    /// Whether batches are seen where they lie, and cannot be written to.
    pub(crate) zero_copy: bool,
    /// Of the messages of its input and of its output.
    pub(crate) schema_bytes: [usize; 2],
}

/// RESTORE; the payload is a part of a state. Without any: it is as the constructor made it.
#[derive(Debug, Serialize)]
pub(crate) struct Restore {
    pub(crate) call: u64,
    /// What it says in SNAPSHOT from then on.
    pub(crate) generation: u64,
    /// Whether other parts follow.
    pub(crate) more: bool,
}

/// SNAPSHOT; the payload is a part of a state.
#[derive(Debug, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) generation: u64,
    pub(crate) more: bool,
}

/// READY.
#[derive(Debug, Deserialize)]
pub(crate) struct Ready {
    pub(crate) object: FoundObject,
    /// Where they were asked for.
    #[serde(default)]
    pub(crate) methods: Vec<DescribedMethod>,
    /// Whether the class of a keyed call can tell its state.
    #[serde(default)]
    pub(crate) keeps_state: bool,
}

/// What a body was found to define.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FoundObject {
    Function,
    Class,
    AsyncFunction,
    AsyncClass,
}

impl From<FoundObject> for ObjectKind {
    fn from(found: FoundObject) -> Self {
        match found {
            FoundObject::Function => Self::Function,
            FoundObject::Class => Self::Class,
            FoundObject::AsyncFunction => Self::AsyncFunction,
            FoundObject::AsyncClass => Self::AsyncClass,
        }
    }
}

/// READY of a zygote.
#[derive(Debug, Deserialize)]
pub(crate) struct Warm {
    /// Threads it runs; it cannot fork safely with more than one.
    pub(crate) threads: usize,
}

/// FORK.
#[derive(Debug, Serialize)]
pub(crate) struct Fork<'a> {
    /// Variables of the worker's environment.
    pub(crate) env: HashMap<&'a str, &'a str>,
}

/// FORKED.
#[derive(Debug, Deserialize)]
pub(crate) struct ForkedPid {
    pub(crate) pid: u32,
}

/// EXITED.
#[derive(Debug, Deserialize)]
pub(crate) struct Exited {
    pub(crate) pid: u32,
    /// As `waitpid` gives it.
    pub(crate) status: i32,
}

/// PROCESS; the payload is the block.
#[derive(Debug, Serialize)]
pub(crate) struct Process<'a> {
    pub(crate) call: u64,
    /// Rows that may fail before the call does.
    pub(crate) max_errors: Option<u64>,
    /// What the block is called, for user code that asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) block: Option<&'a crate::block_id::Named>,
}

/// TRAIN; the payload is the rows of all its blocks, one after another.
#[derive(Debug, Serialize)]
pub(crate) struct Train {
    pub(crate) call: u64,
    /// Of each block, as in [`Process`].
    pub(crate) max_errors: Option<u64>,
    pub(crate) rows: Vec<usize>,
    pub(crate) blocks: Vec<Option<crate::block_id::Named>>,
}

/// DONE.
#[derive(Debug, Deserialize)]
pub(crate) struct Done {
    /// Time in user code and in converting batches for it.
    pub(crate) user_us: u64,
    /// How often user code was called again.
    #[serde(default)]
    pub(crate) retries: u64,
}

/// FAILED: rows of the block that failed, told before the rows that come instead.
#[derive(Debug, Deserialize)]
pub(crate) struct Failed {
    pub(crate) rows: Vec<usize>,
    /// For each of the first rows, which of `reports`; all, or the first of a block.
    pub(crate) which: Vec<usize>,
    pub(crate) reports: Vec<RowFailure>,
}

impl Failed {
    /// The rows of a block of `rows` that `offset` rows went before; the error
    /// says what is wrong.
    pub(crate) fn rows(self, rows: usize, offset: usize) -> Result<Vec<FailedRow>, String> {
        let reason = |at: usize| match self.which.get(at) {
            None => Ok(None),
            Some(which) => match self.reports.get(*which) {
                Some(report) => Ok(Some(report.clone())),
                None => Err(format!("it tells of a failed row by report {which}")),
            },
        };
        let failed = self.rows.iter().enumerate().map(|(at, row)| {
            if *row >= rows {
                return Err(format!("it tells of row {row} of {rows}"));
            }
            let (row, reason) = (row + offset, reason(at)?);
            Ok(FailedRow { row, reason })
        });
        failed.collect()
    }
}

/// ERROR.
#[derive(Debug, Deserialize)]
pub(crate) struct Failure {
    pub(crate) reason: FailureReason,
    pub(crate) message: String,
    pub(crate) traceback: Option<String>,
    /// Whose failure it is, of several functions; `None`: the call's.
    #[serde(default)]
    pub(crate) function: Option<String>,
    /// For `row_too_large`: what the row needs.
    #[serde(default)]
    pub(crate) bytes: usize,
}

/// Which kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureReason {
    /// User code raised.
    Raised,
    /// What user code is or returned does not fit its declaration.
    Refused,
    /// More rows failed than may; the message is the last one's.
    TooMany,
    /// One row of the result does not fit a frame.
    RowTooLarge,
    /// The worker itself failed.
    Internal,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<Frame, String> {
        let header = Header::decode(bytes[..HEADER_BYTES].try_into().unwrap())?;
        let mut rest = MutableBuffer::new(0);
        rest.extend_from_slice(&bytes[HEADER_BYTES..]);
        assert_eq!(header.rest_bytes, rest.len());
        Frame::try_new(header, rest)
    }

    #[test]
    fn frames_round_trip() {
        for body_bytes in [0, 1, 59, 60, 61, 500] {
            let body = vec![b' '; body_bytes];
            let mut bytes = Header::frame_start(Kind::Done, 7, &body, 3).unwrap();
            assert_eq!((bytes.len() - HEADER_BYTES) % ALIGNMENT, 0);
            bytes.extend_from_slice(b"abc");
            let frame = decode(&bytes).unwrap();
            assert_eq!((frame.kind, frame.seq), (Kind::Done, 7));
            assert_eq!(frame.body.as_slice(), body);
            assert_eq!(frame.payload.unwrap().as_slice(), b"abc");
        }
        let frame = decode(&Header::frame_start(Kind::Done, 1, b"{\"user_us\":5}", 0).unwrap());
        let frame = frame.unwrap();
        assert!(frame.payload.is_none());
        assert_eq!(frame.body::<Done>().unwrap().user_us, 5);
        assert!(frame.body::<Hello>().is_err());
    }

    #[test]
    fn frames_name_a_slot() {
        let mut bytes = Header::frame_with_slot(Kind::Done, 7, b"{}", 513, 1 << 40).unwrap();
        let header = Header::decode(bytes[..HEADER_BYTES].try_into().unwrap()).unwrap();
        assert_eq!((header.slot, header.payload), (513, Payload::Slot));
        let span = Frame::span(&bytes[HEADER_BYTES..]).unwrap();
        assert_eq!((span.at, span.bytes), (0, 1 << 40));
        let frame = decode(&bytes).unwrap();
        assert_eq!((frame.body.as_slice(), frame.payload), (&b"{}"[..], None));
        bytes = Header::frame_about_slot(Kind::Released, 2, b"").unwrap();
        assert_eq!(bytes.len(), HEADER_BYTES);
        let header = Header::decode(bytes[..].try_into().unwrap()).unwrap();
        assert_eq!((header.kind, header.slot), (Kind::Released, 2));
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(Header::decode(&[0; HEADER_BYTES]).is_err());
        let mut bytes = Header::frame_start(Kind::Done, 1, b"x", 1).unwrap();
        bytes[5] = FLAG_PAYLOAD | FLAG_SLOT;
        assert!(Header::decode(bytes[..HEADER_BYTES].try_into().unwrap()).is_err());
        let header = Header {
            kind: Kind::Done,
            seq: 0,
            slot: 0,
            rest_bytes: 4,
            payload: Payload::Inline,
        };
        let in_slot = Header {
            payload: Payload::Slot,
            ..header
        };
        for (header, rest) in [
            (header, vec![1, 0]),
            (header, vec![200, 0, 0, 0]),
            (in_slot, vec![0_u8; 15]),
        ] {
            let mut buffer = MutableBuffer::new(0);
            buffer.extend_from_slice(&rest);
            assert!(Frame::try_new(header, buffer).is_err());
        }
        assert!(Frame::span(&[0; 15]).is_none());
        assert!(Header::frame_start(Kind::Process, 1, b"", usize::MAX).is_none());
    }
}
