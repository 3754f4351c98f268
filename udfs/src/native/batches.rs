//! A block as the batches that a call asks for, and what they give as blocks.
//!
//! A function of values gets batches from every operator: it gives one value a row
//! whoever calls it. A function of a table gets one row at a time from `map` and
//! `flat_map`, because which rows belong to which is the operator's meaning, and one
//! group from `map_groups`. Where rows may fail, a batch that fails is halved down to
//! the rows that do, if the function says the same when asked again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array,
    new_empty_array, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{concat, concat_batches, filter_record_batch, take};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use tokio::sync::mpsc;

use super::pool::{Counters, add};
use super::worker::{Part, raised, refused};
use super::{NativeError, NativeInstance, told};
use crate::call::{CallMode, UdfCall};
use crate::error::{ErrorBound, UdfError, UserFailure};
use crate::failed_rows::{FailedRow, OnError, RowFailure};
use crate::pool::Answer;

/// Rows that one-row answers are joined to before they are passed on.
const ROWS_OF_A_PART: usize = 8192;

/// Why a block was not answered whole.
pub(super) enum Stop {
    Failed(UdfError),
    /// Nobody reads any more.
    Abandoned,
}

impl From<UdfError> for Stop {
    fn from(error: UdfError) -> Self {
        Self::Failed(error)
    }
}

/// The work on one block.
pub(super) struct Work<'a> {
    pub(super) call: &'a UdfCall,
    pub(super) counters: &'a Counters,
    pub(super) cancelled: &'a AtomicBool,
    pub(super) parts: &'a mpsc::Sender<Part>,
    pub(super) user_time: Duration,
    pub(super) failed: Vec<FailedRow>,
    /// Where in the block the rows are that are counted from 0; `None`: they are it.
    pub(super) places: Option<Vec<usize>>,
}

impl Work<'_> {
    /// Answers `block`; gives the outputs that were not passed on.
    pub(super) fn run(
        mut self,
        instance: &mut dyn NativeInstance,
        block: RecordBatch,
    ) -> Result<Vec<Answer>, Stop> {
        let (since, mut waited) = (Instant::now(), Duration::ZERO);
        add(&self.counters.rows_in, block.num_rows() as u64);
        let outcome = match (self.call.spec.is_table(), self.call.mode) {
            (false, _) => self.values(instance, block).map(Some),
            (true, CallMode::Map | CallMode::FlatMap) => {
                self.rows(instance, &block, &mut waited).map(|()| None)
            }
            (true, _) => self.batches(instance, &block, &mut waited).map(|()| None),
        };
        let other = since.elapsed().saturating_sub(self.user_time + waited);
        add(&self.counters.user_us, self.user_time.as_micros() as u64);
        add(&self.counters.other_us, other.as_micros() as u64);
        let failed = std::mem::take(&mut self.failed);
        let failed = (!failed.is_empty()).then_some(Answer::Failed(failed));
        outcome.map(|values| failed.into_iter().chain(values.map(Answer::Rows)).collect())
    }

    /// One value a row.
    fn values(
        &mut self,
        instance: &mut dyn NativeInstance,
        block: RecordBatch,
    ) -> Result<RecordBatch, Stop> {
        let rows = block.num_rows();
        let known = match self.call.spec.strict {
            true => known_rows(&block),
            false => None,
        };
        let passed = match &known {
            None => block,
            Some(known) => {
                let known = BooleanArray::new(known.inner().clone(), None);
                filter_record_batch(&block, &known).map_err(|e| self.unfit(e.to_string()))?
            }
        };
        self.places = known.as_ref().map(|known| {
            let known = known.iter().enumerate().filter(|(_, is_known)| *is_known);
            known.map(|(place, _)| place).collect()
        });
        let mut pieces: Vec<ArrayRef> = vec![];
        for (start, batch) in cut(&passed, self.call.batch_size) {
            self.values_of(instance, start, batch, &mut pieces)?;
        }
        let column = joined(&pieces, self.call.output.field(0).data_type());
        let column = column.map_err(|e| self.unfit(e.to_string()))?;
        let column = match &known {
            None => column,
            Some(known) => {
                take(&column, &places(known), None).map_err(|e| self.unfit(e.to_string()))?
            }
        };
        add(&self.counters.rows_out, rows as u64);
        let schema = Arc::clone(&self.call.output);
        let values = RecordBatch::try_new(schema, vec![column]);
        values.map_err(|e| self.unfit(e.to_string()).into())
    }

    /// The values of one batch, whose first row is row `start`.
    fn values_of(
        &mut self,
        instance: &mut dyn NativeInstance,
        start: usize,
        batch: RecordBatch,
        pieces: &mut Vec<ArrayRef>,
    ) -> Result<(), Stop> {
        let wanted = batch.num_rows();
        let first = pieces.len();
        let asked = self.each_answer(instance, batch.clone(), |work, part| {
            pieces.push(work.value_column(part)?);
            Ok(())
        });
        let found: usize = pieces.iter().skip(first).map(|p| p.len()).sum();
        let error = match asked {
            Ok(()) if found == wanted => return Ok(()),
            Ok(()) => {
                let text = format!("gave {found} values for {wanted} rows. Give one value per row");
                refused(&self.call.spec.name, text).into()
            }
            Err(error) => error,
        };
        pieces.truncate(first);
        match self.after(error, start, wanted)? {
            Some(half) => {
                self.values_of(instance, start, batch.slice(0, half), pieces)?;
                let later = batch.slice(half, wanted - half);
                self.values_of(instance, start + half, later, pieces)
            }
            None => {
                let data_type = self.call.output.field(0).data_type();
                pieces.push(new_null_array(data_type, wanted));
                Ok(())
            }
        }
    }

    /// What to do after `rows` rows from row `start` on failed: where to cut them, to
    /// try again; `None` when they are noted.
    fn after(&mut self, error: Stop, start: usize, rows: usize) -> Result<Option<usize>, Stop> {
        let policy = self.call.errors.on_error;
        let error = match error {
            Stop::Failed(error @ (UdfError::Raised(_) | UdfError::Refused(_)))
                if policy != OnError::Raise =>
            {
                error
            }
            other => return Err(other),
        };
        if rows > 1 && self.call.mode == CallMode::Batches && self.call.may_ask_again() {
            return Ok(Some(rows / 2));
        }
        let reason = RowFailure {
            error_type: match error {
                UdfError::Raised(_) => "NativeError".to_owned(),
                _ => "Refused".to_owned(),
            },
            message: error.to_string(),
            traceback: String::new(),
        };
        for row in start..start + rows {
            let row = self.places.as_ref().map_or(row, |places| places[row]);
            let is_told = policy == OnError::DeadLetter || self.failed.is_empty();
            let reason = is_told.then(|| reason.clone());
            self.failed.push(FailedRow { row, reason });
        }
        let count = self.failed.len() as u64;
        match self.call.max_errors {
            Some(most) if count > most => Err(too_many(&self.call.spec.name, &error).into()),
            _ => Ok(None),
        }
    }

    /// The one column of an answer, as declared.
    fn value_column(&self, part: RecordBatch) -> Result<ArrayRef, Stop> {
        let wanted = self.call.output.field(0).data_type();
        let [column] = part.columns() else {
            let found = part.num_columns();
            let text = format!("gave {found} columns where one column of values is declared");
            return Err(refused(&self.call.spec.name, text).into());
        };
        match column.data_type() == wanted {
            true => Ok(Arc::clone(column)),
            false => {
                let found = column.data_type();
                let text = format!("gave {found}, but {wanted} is declared");
                Err(refused(&self.call.spec.name, text).into())
            }
        }
    }

    /// Any rows for each batch.
    fn batches(
        &mut self,
        instance: &mut dyn NativeInstance,
        block: &RecordBatch,
        waited: &mut Duration,
    ) -> Result<(), Stop> {
        let units: Vec<_> = match self.call.mode {
            CallMode::Groups => groups(block).map_err(|e| self.unfit(e.to_string()))?,
            _ => cut(block, self.call.batch_size).collect(),
        };
        for (start, batch) in units {
            match self.call.errors.on_error {
                OnError::Raise => self.each_answer(instance, batch, |work, part| {
                    let part = work.declared(part)?;
                    work.pass_on(part, waited)
                })?,
                _ => self.isolated(instance, start, batch, waited)?,
            }
        }
        Ok(())
    }

    /// The rows of one batch but for those that fail.
    fn isolated(
        &mut self,
        instance: &mut dyn NativeInstance,
        start: usize,
        batch: RecordBatch,
        waited: &mut Duration,
    ) -> Result<(), Stop> {
        // All of them: a part that is passed on cannot be taken back.
        let mut parts = vec![];
        let asked = self.each_answer(instance, batch.clone(), |work, part| {
            parts.push(work.declared(part)?);
            Ok(())
        });
        let rows = batch.num_rows();
        let half = match asked {
            Ok(()) => {
                let mut parts = parts.into_iter();
                return parts.try_for_each(|part| self.pass_on(part, waited));
            }
            Err(error) => self.after(error, start, rows)?,
        };
        if let Some(half) = half {
            self.isolated(instance, start, batch.slice(0, half), waited)?;
            self.isolated(
                instance,
                start + half,
                batch.slice(half, rows - half),
                waited,
            )?;
        }
        Ok(())
    }

    /// Rows for each row: exactly one for `map`, any number for `flat_map`.
    fn rows(
        &mut self,
        instance: &mut dyn NativeInstance,
        block: &RecordBatch,
        waited: &mut Duration,
    ) -> Result<(), Stop> {
        let mut held: Vec<RecordBatch> = vec![];
        let mut held_rows = 0;
        for (start, row) in cut(block, Some(1)) {
            let mut made = 0;
            let first = held.len();
            let asked = self.each_answer(instance, row, |work, part| {
                made += part.num_rows();
                held.push(work.declared(part)?);
                Ok(())
            });
            let asked = asked.and_then(|()| match self.call.mode {
                CallMode::Map if made != 1 => {
                    let text =
                        format!("gave {made} rows for one row. map takes one: call it by flat_map");
                    Err(refused(&self.call.spec.name, text).into())
                }
                _ => Ok(()),
            });
            if let Err(error) = asked {
                held.truncate(first);
                self.after(error, start, 1)?;
                made = 0;
                if self.call.errors.on_error == OnError::Null {
                    held.push(self.row_of_nulls()?);
                    made = 1;
                }
            }
            held_rows += made;
            if held_rows >= ROWS_OF_A_PART {
                self.pass_on_joined(&mut held, waited)?;
                held_rows = 0;
            }
        }
        self.pass_on_joined(&mut held, waited)
    }

    fn row_of_nulls(&self) -> Result<RecordBatch, UdfError> {
        let fields = self.call.output.fields().iter();
        let nulls = fields.map(|field| new_null_array(field.data_type(), 1));
        RecordBatch::try_new(Arc::clone(&self.call.output), nulls.collect())
            .map_err(|e| self.unfit(e.to_string()))
    }

    fn pass_on_joined(
        &self,
        held: &mut Vec<RecordBatch>,
        waited: &mut Duration,
    ) -> Result<(), Stop> {
        let joined = concat_batches(&self.call.output, held.iter());
        held.clear();
        self.pass_on(joined.map_err(|e| self.unfit(e.to_string()))?, waited)
    }

    /// Calls the code with one batch and hands each part of its answer on.
    fn each_answer(
        &mut self,
        instance: &mut dyn NativeInstance,
        batch: RecordBatch,
        mut with: impl FnMut(&Self, RecordBatch) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Stop::Abandoned);
        }
        let name = self.call.spec.name.as_str();
        let failed = |error: NativeError| raised(name, told(error.as_ref()));
        let since = Instant::now();
        let parts = instance.call(batch);
        self.user_time += since.elapsed();
        let mut parts = parts.map_err(failed)?;
        loop {
            let since = Instant::now();
            let part = parts.next();
            self.user_time += since.elapsed();
            match part {
                Some(part) => with(self, part.map_err(failed)?)?,
                None => return Ok(()),
            }
        }
    }

    /// `part` with the declared columns in their order.
    fn declared(&self, part: RecordBatch) -> Result<RecordBatch, UdfError> {
        let wanted = &self.call.output;
        let schema = part.schema();
        let names = |fields: &arrow::datatypes::Fields| {
            let names: Vec<_> = fields.iter().map(|f| f.name().as_str()).collect();
            names.join(", ")
        };
        let mut columns = Vec::with_capacity(wanted.fields().len());
        for field in wanted.fields() {
            let Some(column) = part.column_by_name(field.name()) else {
                return Err(self.unfit(format!(
                    "there is no column \"{}\" in {}",
                    field.name(),
                    names(schema.fields())
                )));
            };
            if column.data_type() != field.data_type() {
                let (name, found) = (field.name(), column.data_type());
                let declared = field.data_type();
                return Err(self.unfit(format!(
                    "column \"{name}\" is {found}, but {declared} is declared"
                )));
            }
            columns.push(Arc::clone(column));
        }
        if part.num_columns() != columns.len() {
            let (found, declared) = (names(schema.fields()), names(wanted.fields()));
            return Err(self.unfit(format!("columns are {found}, but {declared} are declared")));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(part.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(wanted), columns, &options)
            .map_err(|e| self.unfit(e.to_string()))
    }

    fn pass_on(&self, part: RecordBatch, waited: &mut Duration) -> Result<(), Stop> {
        if part.num_rows() == 0 {
            return Ok(());
        }
        add(&self.counters.rows_out, part.num_rows() as u64);
        let since = Instant::now();
        let sent = self.parts.blocking_send(Part::Rows(part));
        *waited += since.elapsed();
        sent.map_err(|_| Stop::Abandoned)
    }

    fn unfit(&self, problem: String) -> UdfError {
        let text = format!("gave what it does not declare: {problem}");
        refused(&self.call.spec.name, text)
    }
}

/// `block` in slices of `batch_size` rows, each with its first row's place.
fn cut(
    block: &RecordBatch,
    batch_size: Option<usize>,
) -> impl Iterator<Item = (usize, RecordBatch)> {
    let rows = block.num_rows();
    let step = batch_size.unwrap_or(rows).max(1);
    (0..rows)
        .step_by(step)
        .map(move |start| (start, block.slice(start, step.min(rows - start))))
}

/// The groups of `block`, without the column that tells where they start.
fn groups(block: &RecordBatch) -> Result<Vec<(usize, RecordBatch)>, ArrowError> {
    let (rows, last) = (block.num_rows(), block.num_columns().saturating_sub(1));
    let inside = block.project(&(0..last).collect::<Vec<_>>())?;
    let starts = block.column(last).as_boolean_opt();
    let starts = starts
        .into_iter()
        .flat_map(|starts| starts.values().set_indices());
    let starts: Vec<_> = starts.collect();
    let ends = starts.iter().skip(1).copied().chain([rows]);
    let groups = starts.iter().zip(ends);
    Ok(groups
        .map(|(start, end)| (*start, inside.slice(*start, end - start)))
        .collect())
}

fn too_many(function: &str, last: &UdfError) -> UdfError {
    UdfError::TooManyErrors {
        bound: ErrorBound::Unknown,
        last: Box::new(UserFailure {
            function: function.to_owned(),
            message: last.to_string(),
            traceback: None,
        }),
    }
}

fn joined(pieces: &[ArrayRef], data_type: &DataType) -> Result<ArrayRef, arrow::error::ArrowError> {
    match pieces {
        [] => Ok(new_empty_array(data_type)),
        [one] => Ok(Arc::clone(one)),
        many => concat(&many.iter().map(|piece| piece.as_ref()).collect::<Vec<_>>()),
    }
}

/// The rows without a NULL in any column; `None` if that is all of them.
fn known_rows(block: &RecordBatch) -> Option<NullBuffer> {
    let columns = block.columns().iter();
    let known = columns.fold(None, |known: Option<NullBuffer>, column| {
        NullBuffer::union(known.as_ref(), column.logical_nulls().as_ref())
    });
    known.filter(|known| known.null_count() > 0)
}

/// For each row the place of its value among those of the known rows.
fn places(known: &NullBuffer) -> UInt32Array {
    let mut next = 0;
    let places = known.iter().map(|is_known| {
        let place = is_known.then_some(next);
        next += u32::from(is_known);
        place
    });
    places.collect()
}
