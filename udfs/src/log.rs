//! A worker's output streams: never the protocol, always logs.
//!
//! Both pipes are drained from the first moment, whatever the worker does, so
//! that a full pipe never blocks it. Lines go to `tracing`; the last bytes are
//! kept for the error of a worker that dies. Memory is bounded: one line buffer,
//! one tail.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Notify;

/// Longest line passed on in one piece, in bytes.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// Most lines of one stream passed on each second; the rest is counted.
const LINES_PER_SECOND: u32 = 1000;
const READ_BYTES: usize = 16 * 1024;

/// The last bytes of one stream.
#[derive(Debug)]
pub(crate) struct LogTail {
    kept: Mutex<Kept>,
    limit: usize,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: VecDeque<u8>,
    /// Bytes ever read.
    total: u64,
    closed: bool,
}

impl LogTail {
    /// Keeps at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            kept: Mutex::default(),
            limit,
            changed: Notify::new(),
        }
    }

    /// Bytes ever read: a mark for [`Self::since`].
    pub(crate) fn total(&self) -> u64 {
        self.kept.lock().total
    }

    /// What was kept of the bytes read after `mark`.
    pub(crate) fn since(&self, mark: u64) -> String {
        let kept = self.kept.lock();
        let new = usize::try_from(kept.total.saturating_sub(mark)).unwrap_or(usize::MAX);
        let skip = kept.bytes.len().saturating_sub(new);
        let bytes: Vec<u8> = kept.bytes.iter().skip(skip).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the stream is closed, at most `limit`.
    pub(crate) async fn closed(&self, limit: Duration) {
        self.wait(limit, |kept| kept.closed).await;
    }

    /// Waits until something came after `mark` and then nothing more for
    /// `quiet`, or the stream is closed; at most `limit`.
    pub(crate) async fn settled(&self, mark: u64, quiet: Duration, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.wait(limit, |kept| kept.closed || kept.total > mark)
            .await;
        loop {
            let seen = self.total();
            let left = deadline.saturating_duration_since(Instant::now());
            self.wait(quiet.min(left), |kept| kept.closed || kept.total > seen)
                .await;
            if self.total() == seen || Instant::now() >= deadline {
                return;
            }
        }
    }

    async fn wait(&self, limit: Duration, enough: impl Fn(&Kept) -> bool) {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if enough(&self.kept.lock()) {
                    return;
                }
                changed.await;
            }
        };
        // Running out of time is an answer too: the caller takes what is there.
        let _ = tokio::time::timeout(limit, waiting).await;
    }

    fn push(&self, bytes: &[u8]) {
        let mut kept = self.kept.lock();
        kept.total += bytes.len() as u64;
        let bytes = &bytes[bytes.len().saturating_sub(self.limit)..];
        let surplus = (kept.bytes.len() + bytes.len()).saturating_sub(self.limit);
        kept.bytes.drain(..surplus);
        kept.bytes.extend(bytes);
        drop(kept);
        self.changed.notify_waiters();
    }

    fn close(&self) {
        self.kept.lock().closed = true;
        self.changed.notify_waiters();
    }
}

/// Reads `stream` to its end, keeping its tail and giving its lines to `line`.
pub(crate) async fn drain(
    mut stream: impl AsyncRead + Unpin,
    tail: &LogTail,
    line: impl Fn(&str) + Send,
) {
    let mut lines = Lines::new(line);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                tail.push(&buffer[..n]);
                lines.push(&buffer[..n]);
            }
        }
    }
    lines.finish();
    tail.close();
}

/// Cuts bytes into lines and passes on no more than the limits allow.
struct Lines<F> {
    pass: F,
    pending: Vec<u8>,
    second: Instant,
    passed: u32,
    dropped: u64,
}

impl<F: Fn(&str)> Lines<F> {
    fn new(pass: F) -> Self {
        Self {
            pass,
            pending: Vec::new(),
            second: Instant::now(),
            passed: 0,
            dropped: 0,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for piece in piece.chunks(LINE_BYTES_MAX) {
                self.pending.extend_from_slice(piece);
                if piece.ends_with(b"\n") || self.pending.len() >= LINE_BYTES_MAX {
                    self.pass_pending();
                }
            }
        }
    }

    fn pass_pending(&mut self) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.say_dropped();
            self.second = Instant::now();
            self.passed = 0;
        }
        match self.passed < LINES_PER_SECOND {
            true => (self.pass)(String::from_utf8_lossy(&self.pending).trim_end()),
            false => self.dropped += 1,
        }
        self.passed = self.passed.saturating_add(1);
        self.pending.clear();
    }

    fn say_dropped(&mut self) {
        if self.dropped > 0 {
            (self.pass)(&format!(
                "[{} lines left out: too many in one second]",
                self.dropped
            ));
            self.dropped = 0;
        }
    }

    fn finish(&mut self) {
        if !self.pending.is_empty() {
            self.pass_pending();
        }
        self.say_dropped();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_the_tail_and_passes_lines() {
        let tail = LogTail::new(10);
        let lines = Mutex::new(Vec::new());
        drain(&b"first\nsecond\nlast"[..], &tail, |line| {
            lines.lock().push(line.to_owned())
        })
        .await;
        assert_eq!(*lines.lock(), ["first", "second", "last"]);
        assert_eq!(tail.since(0), "econd\nlast");
        assert_eq!(tail.since(13), "last");
        assert_eq!(tail.total(), 17);
        tail.closed(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn floods_are_cut_and_counted() {
        let tail = LogTail::new(100);
        let lines = Mutex::new(Vec::new());
        let flood = "x\n".repeat(5000) + &"y".repeat(3 * LINE_BYTES_MAX);
        drain(flood.as_bytes(), &tail, |line| {
            lines.lock().push(line.len())
        })
        .await;
        let lines = lines.lock();
        assert!(
            lines.len() <= 2 * LINES_PER_SECOND as usize + 2,
            "{}",
            lines.len()
        );
        assert!(lines.iter().all(|len| *len <= LINE_BYTES_MAX));
    }
}
