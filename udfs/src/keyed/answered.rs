//! What an exchange of a keyed call does besides: it takes snapshots, and has blocks kept.

use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;

use crate::error::{UdfError, UserFailure};
use crate::exchange::Exchange;
use crate::order::CallOrder;
use crate::protocol::{Frame, Snapshot};
use crate::worker::Worker;

/// A snapshot that comes in parts, none longer than a frame.
#[derive(Debug, Default)]
pub(crate) struct SnapshotParts {
    bytes: Vec<u8>,
    is_whole: bool,
}

impl SnapshotParts {
    /// Takes the part that `frame` of `worker` is.
    ///
    /// # Errors
    /// When it is too long, no part, or of an older owner.
    pub(crate) fn take(
        &mut self,
        worker: &Worker,
        frame: &Frame,
        order: &CallOrder,
    ) -> Result<(), UdfError> {
        let function = order.function();
        let keyed = order.call.handling.keyed.unwrap_or_default();
        let Snapshot { generation, more } = worker.read(frame, function)?;
        if generation != worker.restored {
            return Err(worker.fenced(function));
        }
        let (Some(part), false) = (&frame.payload, self.is_whole) else {
            let problem = "it sent a snapshot without bytes, or after its end".to_owned();
            return Err(worker.broken(function, problem));
        };
        let limit = usize::try_from(keyed.snapshot_max_bytes).unwrap_or(usize::MAX);
        let bytes = self.bytes.len() + part.len();
        if bytes > limit {
            return Err(UdfError::Refused(Box::new(UserFailure {
                function: function.to_owned(),
                message: format!(
                    "gave a snapshot of {bytes} bytes or more, where {limit} are allowed. Keep less, use more actors, or raise udf_snapshot_max_bytes"
                ),
                traceback: None,
            })));
        }
        self.bytes.extend_from_slice(part);
        self.is_whole = !more;
        Ok(())
    }

    /// All of it; `None`: there was none.
    pub(crate) fn whole(self) -> Option<Buffer> {
        self.is_whole.then(|| Buffer::from_vec(self.bytes))
    }
}

/// How much of a block its actor has answered, and has in its state.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Answered {
    pub(crate) rows: usize,
    /// Answers that wait, up to those to these rows.
    pub(crate) held: usize,
}

impl Exchange<'_> {
    /// Takes a part of a snapshot; nobody has asked one of another call.
    pub(crate) fn take_snapshot(
        &self,
        frame: &Frame,
        parts: &mut SnapshotParts,
    ) -> Result<(), UdfError> {
        let worker = &self.lease.worker;
        match self.keeper {
            Some(_) => parts.take(worker, frame, self.order),
            None => {
                let problem = "it sent a snapshot that nobody asked for".to_owned();
                Err(worker.broken(self.order.function(), problem))
            }
        }
    }

    /// `block` is answered whole, and this is the state after it, if it was told.
    pub(crate) fn note_answered(
        &mut self,
        block: &RecordBatch,
        parts: SnapshotParts,
    ) -> Result<(), UdfError> {
        let Some(keeper) = self.keeper else {
            return Ok(());
        };
        let (worker, snapshot) = (&self.lease.worker, parts.whole());
        if snapshot.is_some() {
            self.counters.snapshots.fetch_add(1, Ordering::Relaxed);
        }
        // Those of a named actor come by several calls.
        let order = self.order.call.spec.is_method().then_some(self.order);
        let kept = keeper.answered(worker.generation, (block, order), snapshot);
        kept.map_err(|_| worker.fenced(self.order.function()))?;
        if keeper.keeps_state() {
            self.answered.rows += block.num_rows();
            self.answered.held = self.held.len();
        }
        Ok(())
    }
}
