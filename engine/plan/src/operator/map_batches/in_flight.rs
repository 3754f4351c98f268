//! One call between its block and its last answer: answers beside their rows.
//!
//! Used by `stream`, whose tasks send the replies.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::{AsArray, BooleanArray, RecordBatch, new_empty_array};
use arrow::compute::filter_record_batch;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::{DataFusionError, Result, internal_datafusion_err};
use mobula_block::size::block_bytes;
use mobula_udfs::UdfCall;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::block_memory::Room;
use super::exec::ExecShape;
use super::piece::Passed;
use super::scattered::Scattered;
use super::stream::{Setup, StreamMetrics};
use crate::error::PlanError;

/// What a call's task sends back.
pub(super) enum Reply {
    Rows(RecordBatch),
    /// Rows of the block that are left out, told before them.
    Dropped(Vec<usize>),
    /// Tells a task that finished from one that died.
    End,
}

impl Reply {
    fn bytes(&self) -> usize {
        match self {
            Self::Rows(rows) => block_bytes(rows),
            Self::Dropped(_) | Self::End => 0,
        }
    }
}

/// One call, sent and not yet answered whole.
pub(super) struct InFlight {
    pub(super) answers: mpsc::Receiver<Reply>,
    /// Answers that were read before it was this call's turn.
    pub(super) kept: VecDeque<Reply>,
    /// Rows of the block that wait for their new column; empty for a table.
    pub(super) waiting: VecDeque<Passed>,
    /// Rows sent, and those not answered yet.
    pub(super) sent: i64,
    pub(super) owed: i64,
    /// Instead of `waiting`: rows whose values come in any order.
    pub(super) scattered: Option<Scattered>,
    /// An answer longer than the first of `waiting`.
    pub(super) rest: Option<RecordBatch>,
    /// Rows of the block that are left out and have not come yet, in their order.
    pub(super) dropped: VecDeque<usize>,
    /// Rows of the block that have come.
    pub(super) come: usize,
    /// `None` when it was over at once.
    pub(super) _task: Option<SpawnedTask<()>>,
    /// `None`: the one call that its partition may have in any case.
    pub(super) permit: Option<OwnedSemaphorePermit>,
    pub(super) _room: Room,
}

impl InFlight {
    /// Reads what there is for later, as long as it may be kept.
    pub(super) fn read_ahead(&mut self, cx: &mut Context<'_>, room: &mut usize) {
        while *room > 0 {
            let Poll::Ready(Some(reply)) = self.answers.poll_recv(cx) else {
                return;
            };
            self.kept.push_back(reply);
            *room = room.saturating_sub(self.kept.back().map_or(0, Reply::bytes));
        }
    }

    /// Bytes that are kept.
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept.iter().map(Reply::bytes).sum()
    }

    /// The next rows of this call's output; `None` when it is answered whole.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        setup: &Setup,
        metrics: &StreamMetrics,
    ) -> Poll<Result<Option<RecordBatch>>> {
        // Rows at the front that nobody is asked about wait for nothing.
        if let Some(passed) = self.waiting.pop_front_if(|passed| passed.asked() == 0) {
            let made = setup.call.output.fields().iter();
            let none: Vec<_> = made
                .map(|field| new_empty_array(field.data_type()))
                .collect();
            return Poll::Ready(passed.filled(&none, &setup.schema).map(Some));
        }
        let answer = match self.rest.take() {
            Some(rest) => rest,
            None => loop {
                let kept = self.kept.pop_front();
                let reply = match kept {
                    None => ready!(self.answers.poll_recv(cx)),
                    kept => kept,
                };
                match reply {
                    Some(Reply::Rows(rows)) => {
                        self.owed -= rows.num_rows() as i64;
                        break rows;
                    }
                    Some(Reply::Dropped(rows)) => self.leave_out(rows, setup),
                    Some(Reply::End) => return Poll::Ready(self.end(setup)),
                    None => return Poll::Ready(Err(lost_task(&setup.call))),
                }
            },
        };
        let _timer = metrics.output.elapsed_compute().timer();
        if let Some(scattered) = &mut self.scattered {
            let rows = scattered.made(&answer, &setup.shape, &setup.schema)?;
            return Poll::Ready(Ok(Some(rows)));
        }
        Poll::Ready(match &setup.shape {
            ExecShape::Column { .. } => {
                let (passed, answer) = self.zip(answer, setup)?;
                let whole = passed.filled(answer.columns(), &setup.schema)?;
                Ok(Some(self.without_dropped(whole)?))
            }
            ExecShape::Filter { .. } => {
                let (passed, answer) = self.zip(answer, setup)?;
                // NULL drops the row, as in WHERE.
                let kept = filter_record_batch(passed.rows(), answer.column(0).as_boolean())?;
                Ok(Some(kept.with_schema(Arc::clone(&setup.schema))?))
            }
            ExecShape::Table { .. } => Ok(Some(answer.with_schema(Arc::clone(&setup.schema))?)),
        })
    }

    /// The rows of the first waiting piece and what the answer says of them, as
    /// far as both go; keeps the rest.
    fn zip(&mut self, answer: RecordBatch, setup: &Setup) -> Result<(Passed, RecordBatch)> {
        let Some(waiting) = self.waiting.pop_front() else {
            return Err(wrong_rows(&setup.call, "more"));
        };
        let rows = waiting.asked().min(answer.num_rows());
        if answer.num_rows() > rows {
            self.rest = Some(answer.slice(rows, answer.num_rows() - rows));
        }
        let answer = answer.slice(0, rows);
        if waiting.asked() == rows {
            return Ok((waiting, answer));
        }
        let (waiting, later) = waiting.split(rows);
        self.waiting.push_front(later);
        Ok((waiting, answer))
    }

    /// Takes note of rows to leave out, where rows are not left out by themselves.
    fn leave_out(&mut self, rows: Vec<usize>, setup: &Setup) {
        let is_column = matches!(setup.shape, ExecShape::Column { .. });
        if !is_column || !setup.call.errors.on_error.drops_rows() {
            return;
        }
        if let Some(scattered) = &mut self.scattered {
            scattered.leave_out(rows);
        } else {
            self.dropped.extend(rows);
            self.dropped.make_contiguous().sort_unstable();
        }
    }

    /// The next `rows` without those to leave out.
    fn without_dropped(&mut self, rows: RecordBatch) -> Result<RecordBatch> {
        let (start, end) = (self.come, self.come + rows.num_rows());
        self.come = end;
        let mut mask: Option<Vec<bool>> = None;
        while let Some(row) = self.dropped.pop_front_if(|row| *row < end) {
            let mask = mask.get_or_insert_with(|| vec![true; rows.num_rows()]);
            // Told before its rows, so it is not behind `start`.
            if let Some(stays) = row.checked_sub(start).and_then(|at| mask.get_mut(at)) {
                *stays = false;
            }
        }
        match mask {
            Some(mask) => Ok(filter_record_batch(&rows, &BooleanArray::from(mask))?),
            None => Ok(rows),
        }
    }

    fn end(&self, setup: &Setup) -> Result<Option<RecordBatch>> {
        let is_whole = self.scattered.as_ref().is_none_or(Scattered::is_whole);
        if !self.waiting.is_empty() || !is_whole {
            return Err(wrong_rows(&setup.call, "fewer"));
        }
        match setup.shape {
            ExecShape::Table { keeps_rows: true } if self.owed != 0 => {
                let count = |rows: i64| format!("{rows} row{}", if rows == 1 { "" } else { "s" });
                Err(PlanError::RowsNotPreserved {
                    function: setup.call.function_names(),
                    sent: count(self.sent),
                    given: count(self.sent - self.owed),
                }
                .into())
            }
            _ => Ok(None),
        }
    }
}

fn wrong_rows(call: &UdfCall, how: &str) -> DataFusionError {
    let name = call.function_names();
    internal_datafusion_err!("the worker of \"{name}\" answered {how} rows than it was sent")
}

fn lost_task(call: &UdfCall) -> DataFusionError {
    let name = call.function_names();
    internal_datafusion_err!("a call of \"{name}\" ended without an answer")
}
