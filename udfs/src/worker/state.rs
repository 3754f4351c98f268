//! The words by which a worker takes over the state of another.

use arrow::buffer::Buffer;

use super::Worker;
use crate::activity::WorkerState;
use crate::error::UdfError;
use crate::manager::TimeLimit;
use crate::protocol::{Kind, Restore};

/// What of a frame is not the state.
const OVERHEAD_BYTES: usize = 4096;

impl Worker {
    /// Has the call last loaded go on from `snapshot`, as owner `generation`; `None`: from
    /// what its constructor made.
    ///
    /// # Errors
    /// What `restore` raised, or that it has none.
    pub(crate) async fn restore(
        &mut self,
        function: &str,
        generation: u64,
        snapshot: Option<&Buffer>,
        limit: TimeLimit,
    ) -> Result<(), UdfError> {
        let Some(call) = self.channel.sender().lock().await.current() else {
            return Err(self.broken(function, "it has nothing loaded".into()));
        };
        self.process.enter(WorkerState::Loading, Some(function));
        let deadline = limit.deadline();
        let most = self
            .channel
            .max_frame_bytes()
            .saturating_sub(OVERHEAD_BYTES)
            .max(1);
        let bytes = snapshot.map_or(0, Buffer::len);
        let mut at = 0;
        loop {
            let part = most.min(bytes - at);
            let payload = snapshot.map(|all| all.slice_with_length(at, part));
            at += part;
            let body = Restore {
                call,
                generation,
                more: at < bytes,
            };
            let seq = self
                .request(function, Kind::Restore, &body, payload.as_slice(), deadline)
                .await?;
            let ready = self.answer(function, seq, deadline).await?;
            self.ready(&ready, function)?;
            if at >= bytes {
                break;
            }
        }
        self.restored = generation;
        self.process.enter(WorkerState::Idle, None);
        Ok(())
    }

    /// It says something as if it were still the owner of a state.
    pub(crate) fn fenced(&self, function: &str) -> UdfError {
        self.broken(
            function,
            "it speaks for a state that another has taken over".into(),
        )
    }
}
