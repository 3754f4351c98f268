//! One block on its way through an actor that is called from elsewhere.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use futures::FutureExt;
use futures::future::BoxFuture;
use mobula_udfs::{AnswerStream, UdfError};

/// A block: in line, then at work, then over.
pub(super) struct Call {
    pub(super) seq: u64,
    pub(super) state: CallState,
    /// Answers of a scalar function: they go in one piece.
    pub(super) held: Vec<RecordBatch>,
    came: Instant,
    /// In the actor's line.
    pub(super) waited: Duration,
}

/// Where it is.
pub(super) enum CallState {
    InLine(BoxFuture<'static, Result<AnswerStream, UdfError>>),
    Answering(AnswerStream),
    Over(Option<UdfError>),
}

impl Call {
    /// Block `seq`, which stands in line by `turn` from now on.
    pub(super) fn new(
        seq: u64,
        turn: impl Future<Output = Result<AnswerStream, UdfError>> + Send + 'static,
    ) -> Self {
        Self {
            seq,
            state: CallState::InLine(turn.boxed()),
            held: vec![],
            came: Instant::now(),
            waited: Duration::ZERO,
        }
    }

    /// Waits for its turn; whether it has come.
    pub(super) fn poll_line(&mut self, cx: &mut Context<'_>) -> bool {
        let CallState::InLine(turn) = &mut self.state else {
            return false;
        };
        let Poll::Ready(turn) = turn.poll_unpin(cx) else {
            return false;
        };
        self.waited = self.came.elapsed();
        self.state = match turn {
            Ok(answers) => CallState::Answering(answers),
            Err(error) => CallState::Over(Some(error)),
        };
        true
    }
}
