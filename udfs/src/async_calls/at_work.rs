//! The jobs that one worker has, and what it has said of them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema};
use mobula_block::BlockError;
use mobula_block::ipc::decode_block;
use mobula_block::plain::block_as;
use serde::Deserialize;
use tokio::time::Instant;

use super::block::Job;
use crate::call::UdfCall;
use crate::error::UdfError;
use crate::overlap::ROW_PLACES;
use crate::pool::Answer;
use crate::process_pool::CallOn;
use crate::protocol::{Done, Failed, Frame, Kind};
use crate::worker::Worker;

/// Jobs by the number of their request.
#[derive(Debug)]
pub(super) struct AtWork {
    jobs: HashMap<u64, Begun>,
    /// When the worker said something last, or got something to do.
    heard_at: Instant,
}

/// A job that a worker has.
#[derive(Debug)]
struct Begun {
    job: Job,
    answered: Vec<bool>,
    /// Rows that are not finished; of those that are, the answers may wait for the others.
    left: usize,
    /// Answers whose rows are not told yet.
    held: Vec<Answer>,
    cancelled: bool,
}

/// PART: rows that are finished. Where order is kept, their answers come with DONE.
#[derive(Debug, Deserialize)]
struct RowsMade {
    rows: Vec<usize>,
}

/// What is wrong with what a worker said.
#[derive(Debug)]
pub(super) enum Wrong {
    /// It does not speak the protocol.
    Protocol(String),
    /// It speaks of what it was not asked.
    Noise(String),
    Udf(UdfError),
}

impl AtWork {
    pub(super) fn new() -> Self {
        Self {
            jobs: HashMap::new(),
            heard_at: Instant::now(),
        }
    }

    /// A job that is about to be sent as request `seq`.
    pub(super) fn add(&mut self, seq: u64, job: Job) {
        if self.jobs.is_empty() {
            self.heard_at = Instant::now();
        }
        let left = job.places.len();
        let begun = Begun {
            answered: vec![false; left],
            left,
            held: vec![],
            cancelled: false,
            job,
        };
        self.jobs.insert(seq, begun);
    }

    /// Since when the worker has said nothing; `None`: it has nothing to do.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        (!self.jobs.is_empty()).then_some(self.heard_at)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Whether nobody reads what is at work.
    pub(super) fn is_abandoned(&self) -> bool {
        let mut jobs = self.jobs.values();
        jobs.all(|begun| begun.job.block.is_abandoned())
    }

    pub(super) fn has_suspect(&self) -> bool {
        self.jobs.values().any(|begun| begun.job.is_suspect)
    }

    /// Items that are not answered.
    pub(super) fn load(&self, call: &UdfCall) -> usize {
        let load = |begun: &Begun| if call.is_by_row() { begun.left } else { 1 };
        self.jobs.values().map(load).sum()
    }

    /// A job that nobody waits for, once.
    pub(super) fn abandoned(&mut self) -> Option<u64> {
        let mut jobs = self.jobs.iter_mut();
        let (seq, begun) =
            jobs.find(|(_, begun)| !begun.cancelled && begun.job.block.is_abandoned())?;
        begun.cancelled = true;
        Some(*seq)
    }

    /// What is not answered, each with its rows that are left, oldest first.
    pub(super) fn unanswered(self) -> Vec<Job> {
        let mut jobs: Vec<_> = self.jobs.into_iter().collect();
        jobs.sort_by_key(|(seq, _)| *seq);
        let left = jobs.into_iter().filter_map(|(_, begun)| begun.rest());
        left.filter(|job| !job.block.is_abandoned()).collect()
    }

    /// Takes a word of the worker; who reads is told what came.
    pub(super) fn hear(
        &mut self,
        call: &CallOn,
        worker: &Worker,
        frame: &Frame,
    ) -> Result<(), Wrong> {
        self.heard_at = Instant::now();
        if frame.kind == Kind::Alive {
            return Ok(());
        }
        let Some(begun) = self.jobs.get_mut(&frame.seq) else {
            let problem = format!("{:?} about request {}", frame.kind, frame.seq);
            return Err(Wrong::Noise(problem));
        };
        match frame.kind {
            Kind::Output => {
                let rows = decode(call, frame)?;
                begun.held.push(Answer::Rows(rows));
            }
            Kind::Failed => {
                let failed: Failed = frame.body().map_err(Wrong::Protocol)?;
                let mut failed = failed.rows(begun.job.places.len(), 0)?;
                failed
                    .iter_mut()
                    .for_each(|failed| failed.row = begun.job.places[failed.row]);
                begun.held.push(Answer::Failed(failed));
            }
            Kind::Part => begun.part(&call.order.call, frame)?,
            Kind::Done => {
                let done: Done = frame.body().map_err(Wrong::Protocol)?;
                call.counters.done(&done);
                if let Some(begun) = self.jobs.remove(&frame.seq) {
                    begun.end(&call.order.call)?;
                }
            }
            Kind::Error => {
                if let Some(begun) = self.jobs.remove(&frame.seq) {
                    let error = worker.failure(frame, call.order.function());
                    begun.job.block.fail(error.at_line(&call.order.call));
                }
            }
            other => return Err(Wrong::Protocol(format!("it answers {other:?} to a block"))),
        }
        Ok(())
    }
}

impl Begun {
    /// The rows that are not answered.
    fn rest(self) -> Option<Job> {
        if !self.answered.contains(&true) {
            return Some(self.job);
        }
        let left: BooleanArray = self
            .answered
            .iter()
            .map(|answered| Some(!answered))
            .collect();
        let places = self.job.places.iter().zip(&self.answered);
        let places = places.filter(|(_, answered)| !**answered);
        let places: Vec<_> = places.map(|(place, _)| *place).collect();
        // The mask is as long as the rows, so this cannot fail.
        let rows = filter_record_batch(&self.job.rows, &left).ok()?;
        if places.is_empty() {
            self.job.block.settle();
            return None;
        }
        Some(Job {
            rows,
            places,
            ..self.job
        })
    }

    /// Some rows are answered by what is held.
    fn part(&mut self, call: &UdfCall, frame: &Frame) -> Result<(), Wrong> {
        let RowsMade { rows } = frame.body().map_err(Wrong::Protocol)?;
        if call.keeps_order() {
            self.left = self.left.saturating_sub(rows.len());
            return Ok(());
        }
        for row in &rows {
            match self.answered.get_mut(*row) {
                Some(answered) if !*answered => *answered = true,
                _ => return Err(Wrong::Protocol(format!("it answers row {row} again"))),
            }
        }
        self.left -= rows.len();
        let held = std::mem::take(&mut self.held);
        let places: Vec<_> = rows.iter().map(|row| self.job.places[*row]).collect();
        let answers = match call.spec.is_table() {
            true => held,
            false => with_places(call, held, &places)?,
        };
        self.job.block.pass(answers, rows.len());
        Ok(())
    }

    /// The worker is through with the job.
    fn end(self, call: &UdfCall) -> Result<(), Wrong> {
        if self.cancelled {
            return Ok(());
        }
        let rows = self.job.places.len();
        if !call.keeps_order() {
            return match self.left {
                0 => {
                    self.job.block.settle();
                    Ok(())
                }
                left => Err(Wrong::Protocol(format!(
                    "it left {left} of {rows} rows out"
                ))),
            };
        }
        let given = self.held.iter().map(|answer| match answer {
            Answer::Rows(rows) => rows.num_rows(),
            Answer::Failed(_) | Answer::Snapshot(_) => 0,
        });
        let given: usize = given.sum();
        if !call.spec.is_table() && given != rows {
            let problem = format!("it gave {given} values for {rows} rows");
            return Err(Wrong::Protocol(problem));
        }
        let first = self.job.places.first().copied().unwrap_or_default();
        self.job.block.keep(first, self.held, rows);
        Ok(())
    }
}

/// Values with a last column that says which rows of the block they are for.
pub(super) fn with_places(
    call: &UdfCall,
    held: Vec<Answer>,
    places: &[usize],
) -> Result<Vec<Answer>, Wrong> {
    let (mut answers, mut values) = (vec![], vec![]);
    for answer in held {
        match answer {
            Answer::Rows(rows) => values.push(rows),
            failed => answers.push(failed),
        }
    }
    let wrong = |error: arrow::error::ArrowError| Wrong::Protocol(error.to_string());
    let values = concat_batches(&call.output, &values).map_err(wrong)?;
    let places: ArrayRef = Arc::new(UInt64Array::from_iter_values(
        places.iter().map(|place| *place as u64),
    ));
    let field = Arc::new(Field::new(ROW_PLACES, DataType::UInt64, false));
    let fields = call.output.fields().iter().cloned().chain([field]);
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let columns = values.columns().iter().cloned().chain([places]);
    // Fails where there are not as many values as rows.
    let rows = RecordBatch::try_new(schema, columns.collect()).map_err(wrong)?;
    answers.push(Answer::Rows(rows));
    Ok(answers)
}

fn decode(call: &CallOn, frame: &Frame) -> Result<RecordBatch, Wrong> {
    let Some(payload) = &frame.payload else {
        return Err(Wrong::Protocol("it sent an Output without a block".into()));
    };
    let bad = |source: BlockError| {
        Wrong::Udf(UdfError::Block {
            function: call.function(),
            source,
        })
    };
    let rows = decode_block(payload, &call.order.output).map_err(bad)?;
    let rows = block_as(rows, &call.order.call.output).map_err(bad)?;
    call.counters.given(rows.num_rows(), payload.len());
    Ok(rows)
}

impl From<String> for Wrong {
    fn from(problem: String) -> Self {
        Self::Protocol(problem)
    }
}
