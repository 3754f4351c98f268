//! A block as the batches that a call asks for, and what they give as blocks.
//!
//! A function of values gets batches from every operator: it gives one value a row
//! whoever calls it. A function of a table gets one row at a time from `map` and
//! `flat_map`, because which rows belong to which is the operator's meaning.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{
    Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, new_empty_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{concat, concat_batches, filter_record_batch, take};
use arrow::datatypes::DataType;
use tokio::sync::mpsc;

use super::pool::{Counters, add};
use super::worker::{Part, raised, refused};
use super::{NativeError, NativeInstance, told};
use crate::call::{CallMode, UdfCall};
use crate::error::UdfError;

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
}

impl Work<'_> {
    /// Answers `block`; gives the outputs that were not passed on.
    pub(super) fn run(
        mut self,
        instance: &mut dyn NativeInstance,
        block: RecordBatch,
    ) -> Result<Vec<RecordBatch>, Stop> {
        let (since, mut waited) = (Instant::now(), Duration::ZERO);
        add(&self.counters.rows_in, block.num_rows() as u64);
        let outcome = match (self.call.spec.is_table(), self.call.mode) {
            (false, _) => self.values(instance, block).map(|values| vec![values]),
            (true, CallMode::Map | CallMode::FlatMap) => {
                self.rows(instance, &block, &mut waited).map(|()| vec![])
            }
            (true, _) => self.batches(instance, &block, &mut waited).map(|()| vec![]),
        };
        let other = since.elapsed().saturating_sub(self.user_time + waited);
        add(&self.counters.user_us, self.user_time.as_micros() as u64);
        add(&self.counters.other_us, other.as_micros() as u64);
        outcome
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
        let mut pieces: Vec<ArrayRef> = vec![];
        for batch in cut(&passed, self.call.batch_size) {
            let wanted = batch.num_rows();
            let first = pieces.len();
            self.each_answer(instance, batch, |work, part| {
                pieces.push(work.value_column(part)?);
                Ok(())
            })?;
            let found: usize = pieces.iter().skip(first).map(|p| p.len()).sum();
            if found != wanted {
                let text = format!("gave {found} values for {wanted} rows. Give one value per row");
                return Err(refused(&self.call.spec.name, text).into());
            }
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
        for batch in cut(block, self.call.batch_size) {
            self.each_answer(instance, batch, |work, part| {
                let part = work.declared(part)?;
                work.pass_on(part, waited)
            })?;
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
        for row in cut(block, Some(1)) {
            let mut made = 0;
            self.each_answer(instance, row, |work, part| {
                made += part.num_rows();
                held.push(work.declared(part)?);
                Ok(())
            })?;
            if self.call.mode == CallMode::Map && made != 1 {
                let text =
                    format!("gave {made} rows for one row. map takes one: call it by flat_map");
                return Err(refused(&self.call.spec.name, text).into());
            }
            held_rows += made;
            if held_rows >= ROWS_OF_A_PART {
                self.pass_on_joined(&mut held, waited)?;
                held_rows = 0;
            }
        }
        self.pass_on_joined(&mut held, waited)
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
        let sent = self.parts.blocking_send(Part::Block(part));
        *waited += since.elapsed();
        sent.map_err(|_| Stop::Abandoned)
    }

    fn unfit(&self, problem: String) -> UdfError {
        let text = format!("gave what it does not declare: {problem}");
        refused(&self.call.spec.name, text)
    }
}

/// `block` in slices of `batch_size` rows.
fn cut(block: &RecordBatch, batch_size: Option<usize>) -> impl Iterator<Item = RecordBatch> {
    let rows = block.num_rows();
    let step = batch_size.unwrap_or(rows).max(1);
    (0..rows)
        .step_by(step)
        .map(move |start| block.slice(start, step.min(rows - start)))
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
