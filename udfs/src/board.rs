//! Where a worker notes which request it is at: memory that it writes and we read.
//!
//! A worker may keep its answers to the blocks of a train until it is through with
//! several, since being woken for each costs more than the block. If it dies, or takes
//! too long, over one of them, those before it are not to blame, though they have no
//! answer either. What is noted is a hint: user code can write there as well, and whoever
//! reads it takes only what makes sense.

use std::io;
use std::os::fd::OwnedFd;

use crate::segment::Segment;

/// A page; the `seq` of the request at work stands at its start, little-endian.
const BYTES: usize = 4096;

/// The board of one worker.
#[derive(Debug)]
pub(crate) struct Board(Segment);

impl Board {
    /// An empty one for process `pid`, and what the worker maps.
    ///
    /// # Errors
    /// When the system has no such memory.
    pub(crate) fn create(pid: u32) -> io::Result<(Self, OwnedFd)> {
        let segment = Segment::create(&format!("mobula-{pid}-board"), BYTES)?;
        let descriptor = segment.descriptor(true)?;
        Ok((Self(segment), descriptor))
    }

    /// The request that the worker says it is at; 0 before the first.
    pub(crate) fn at(&self) -> u64 {
        let mut seq = Vec::with_capacity(8);
        let is_read = self.0.read(0, 8, &mut seq);
        let seq = <[u8; 8]>::try_from(seq).unwrap_or_default();
        if is_read { u64::from_le_bytes(seq) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_worker_notes_is_read() {
        let Ok((board, page)) = Board::create(1) else {
            // Where no memory is shared there are no boards.
            return;
        };
        assert_eq!(board.at(), 0);
        rustix::io::pwrite(&page, &7_000_000_000_u64.to_le_bytes(), 0).unwrap();
        assert_eq!(board.at(), 7_000_000_000);
    }
}
