//! Trains: small blocks of one call that travel together and are answered one by one.
//!
//! Where a block takes its worker less time than the way there and back, the way is
//! what counts. So several go in one write, while each stays a call of its own: with a
//! request, a time limit and an answer, in their order, and sent again by itself when
//! the worker is lost. What keeps a train short: the time that all of it takes, since
//! its worker is nobody else's meanwhile, and its bytes, which the socket must hold
//! while the worker listens to none of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;

use crate::crew::Lease;
use crate::error::UdfError;
use crate::exchange::{Ahead, Exchange};
use crate::manager::leaves_worker_usable;
use crate::order::CallOrder;
use crate::protocol::Kind;
use crate::sender::SentBlock;
use crate::worker::Deadline;

/// What all blocks of a train take together, about.
const TRAIN_TIME: Duration = Duration::from_millis(2);
/// Most blocks of a train.
pub const TRAIN_BLOCKS: usize = 64;
/// Most bytes of its blocks, as they are sent.
pub(crate) const TRAIN_BYTES: usize = 32 << 10;
/// Of how many blocks, about, the mean is.
const MEAN_OF: u64 = 8;

/// What a block takes lately.
#[derive(Debug, Default)]
pub(crate) struct Mean {
    /// 0 before the first.
    us: AtomicU64,
}

impl Mean {
    pub(crate) fn get(&self) -> Option<Duration> {
        let mean = self.us.load(Ordering::Relaxed);
        (mean > 0).then(|| Duration::from_micros(mean))
    }

    /// Takes in what one more block took.
    pub(crate) fn add(&self, block: Duration) {
        let took = u64::try_from(block.as_micros()).unwrap_or(u64::MAX).max(1);
        // Two at a time may forget one of them.
        let mean = match self.us.load(Ordering::Relaxed) {
            0 => took,
            mean => mean - mean / MEAN_OF + took / MEAN_OF,
        };
        self.us.store(mean.max(1), Ordering::Relaxed);
    }

    /// How many blocks a train may have now; at least 1.
    pub(crate) fn train(&self) -> usize {
        let Some(mean) = self.get() else {
            return 1;
        };
        let blocks = TRAIN_TIME.as_micros() / mean.as_micros().max(1);
        usize::try_from(blocks).map_or(1, |blocks| blocks.clamp(1, TRAIN_BLOCKS))
    }
}

impl Exchange<'_> {
    /// Sees to it that the worker has `blocks` where they go together, or what was sent
    /// `ahead` of them; `sent` are those that it has and has not answered.
    pub(crate) async fn send_together(
        &mut self,
        blocks: &[RecordBatch],
        ahead: Option<Ahead>,
        sent: &mut VecDeque<SentBlock>,
    ) -> Result<(), UdfError> {
        if !sent.is_empty() {
            return Ok(());
        }
        let (order, deadline) = (self.order, self.deadline_from_now());
        let worker = &mut self.lease.worker;
        let found = match ahead {
            Some(ahead) => {
                let sending = async { ahead.await.ok().flatten() };
                let found = worker.sent(sending, order.function(), deadline).await?;
                let count = found.as_ref().map_or(0, VecDeque::len) as u64;
                let blocks_ahead = &self.counters.blocks_ahead;
                blocks_ahead.fetch_add(count, Ordering::Relaxed);
                found
            }
            None if blocks.len() > 1 => {
                let sender = Arc::clone(worker.channel.sender());
                let sending = async move { sender.lock().await.send_train(blocks, order).await };
                worker.sent(sending, order.function(), deadline).await?
            }
            None => None,
        };
        *sent = found.unwrap_or_default();
        Ok(())
    }
}

/// Reads what a worker answers to `block`, which nobody wants any more; whether it may be
/// given others after that.
pub(crate) async fn drain(
    lease: &mut Lease,
    order: &CallOrder,
    deadline: Deadline,
    block: SentBlock,
) -> bool {
    loop {
        let answer = lease.worker.answer(order.function(), block.seq, deadline);
        match answer.await {
            Ok(frame) if frame.kind == Kind::Done => return true,
            Ok(_) => {}
            // The last word about it, too.
            Err(error) => return leaves_worker_usable(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_train_is_as_long_as_its_blocks_are_short() {
        let us = Duration::from_micros;
        for (block, train) in [
            (None, 1),
            (Some(us(0)), 64),
            (Some(us(20)), 64),
            (Some(us(50)), 40),
            (Some(us(900)), 2),
            (Some(us(1_001)), 1),
            (Some(us(10_000)), 1),
            (Some(Duration::MAX), 1),
        ] {
            let mean = Mean::default();
            if let Some(block) = block {
                mean.add(block);
            }
            assert_eq!(mean.train(), train, "{block:?}");
        }
    }

    #[test]
    fn the_mean_is_of_the_last_blocks() {
        let mean = Mean::default();
        assert_eq!(mean.get(), None);
        mean.add(Duration::from_micros(8_000));
        assert_eq!(mean.get(), Some(Duration::from_micros(8_000)));
        (0..100).for_each(|_| mean.add(Duration::from_micros(80)));
        let found = mean.get().unwrap();
        assert!(found < Duration::from_micros(100), "{found:?}");
    }
}
