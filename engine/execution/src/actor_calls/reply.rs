//! The answers to one block between the exchange and their reader.
//!
//! A reader that does not read must not stop the answers to other blocks of the
//! exchange, so they wait here, up to a number of bytes as those of an actor in this
//! process do beside it.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use mobula_block::size::block_bytes;
use mobula_udfs::{Answer, UdfError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// What a reader gets.
#[derive(Debug)]
pub enum Part {
    Answer(Answer),
    End(Result<(), UdfError>),
}

/// The exchange's end.
#[derive(Debug, Clone)]
pub struct Reply {
    parts: mpsc::UnboundedSender<(Part, Option<OwnedSemaphorePermit>)>,
    /// Bytes that may still wait.
    room: Arc<Semaphore>,
    keep_bytes: u32,
}

/// The reader's end.
#[derive(Debug)]
pub struct Parts(mpsc::UnboundedReceiver<(Part, Option<OwnedSemaphorePermit>)>);

/// Both ends; at most about `keep_bytes` wait between them.
pub fn channel(keep_bytes: usize) -> (Reply, Parts) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let keep_bytes = u32::try_from(keep_bytes).unwrap_or(u32::MAX).max(1);
    let reply = Reply {
        parts: sender,
        room: Arc::new(Semaphore::new(keep_bytes as usize)),
        keep_bytes,
    };
    (reply, Parts(receiver))
}

impl Reply {
    /// Hands `answer` over when there is room for it, or nobody reads any more.
    pub async fn push(&self, answer: Answer) {
        let bytes = match &answer {
            Answer::Rows(rows) => block_bytes(rows),
            Answer::Failed(_) => 0,
            Answer::Snapshot(state) => state.len(),
        };
        let bytes = u32::try_from(bytes)
            .unwrap_or(u32::MAX)
            .min(self.keep_bytes);
        let room = tokio::select! {
            biased;
            room = Arc::clone(&self.room).acquire_many_owned(bytes) => room.ok(),
            () = self.parts.closed() => return,
        };
        // A reader that has gone loses nothing.
        let _ = self.parts.send((Part::Answer(answer), room));
    }

    /// The last word.
    pub fn end(&self, how: Result<(), UdfError>) {
        let _ = self.parts.send((Part::End(how), None));
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.parts.is_closed()
    }
}

impl Parts {
    /// The next part; `None` where the exchange ended without a word.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Part>> {
        let next = ready!(self.0.poll_recv(cx));
        Poll::Ready(next.map(|(part, _room)| part))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};

    use super::*;

    async fn next(parts: &mut Parts) -> Option<Part> {
        std::future::poll_fn(|cx| parts.poll_next(cx)).await
    }

    fn answer() -> Answer {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![0; 100]));
        Answer::Rows(RecordBatch::try_from_iter([("n", column)]).unwrap())
    }

    #[tokio::test]
    async fn answers_wait_up_to_a_bound_and_for_nobody_that_has_gone() {
        let (reply, mut parts) = channel(1600);
        reply.push(answer()).await;
        reply.push(answer()).await;
        let third = tokio::time::timeout(Duration::from_millis(50), reply.push(answer()));
        assert!(third.await.is_err());
        assert!(matches!(next(&mut parts).await, Some(Part::Answer(_))));
        reply.push(answer()).await;
        assert!(!reply.is_closed());
        drop(parts);
        reply.push(answer()).await;
        assert!(reply.is_closed());
    }

    #[tokio::test]
    async fn an_answer_that_is_longer_than_the_bound_goes_alone() {
        let (reply, mut parts) = channel(10);
        reply.push(answer()).await;
        assert!(matches!(next(&mut parts).await, Some(Part::Answer(_))));
        reply.end(Ok(()));
        assert!(matches!(next(&mut parts).await, Some(Part::End(Ok(())))));
    }
}
