//! Rows that a call failed on: counted, bounded, and told to the host.
//!
//! One for all partitions of an exec in a task. Bounds in rows hold over the whole
//! query where the host can tell (it counts for everyone); a bound in shares holds
//! for the rows of one task, from [`ROWS_OF_A_SHARE`] on and at its end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrowPrimitiveType, AsArray, PrimitiveArray, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{DataType, FieldRef, Float16Type, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow::json::writer::{
    Encoder, EncoderFactory, EncoderOptions, LineDelimited, NullableEncoder, WriterBuilder,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use mobula_udfs::{ErrorBound, FailedRow, OnError, RowFailure, UdfCall, UdfError, UserFailure};

use crate::operator::Operator;
use crate::task_host::{FailedRows, ListedRow, TaskHost};

/// Rows of which a share says something.
const ROWS_OF_A_SHARE: u64 = 1000;

/// What becomes of the rows that fail.
#[derive(Debug)]
pub(super) struct Failures {
    host: Arc<dyn TaskHost>,
    context: Arc<TaskContext>,
    call: Arc<UdfCall>,
    rows: AtomicU64,
    failed: AtomicU64,
    /// Why one of them did, as an example.
    reason: Mutex<Option<RowFailure>>,
    rows_failed: Count,
}

impl Failures {
    pub fn new(
        host: Arc<dyn TaskHost>,
        context: Arc<TaskContext>,
        call: Arc<UdfCall>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Self {
        Self {
            host,
            context,
            call,
            rows: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            reason: Mutex::default(),
            rows_failed: MetricBuilder::new(metrics).global_counter("rows_failed"),
        }
    }

    /// The rows of a block, if they may have to be listed.
    pub fn kept<'a>(&self, rows: impl Iterator<Item = &'a RecordBatch>) -> Vec<RecordBatch> {
        match self.call.errors.on_error {
            OnError::DeadLetter => rows.cloned().collect(),
            _ => vec![],
        }
    }

    /// Takes note of those rows that `failed` in a block of `count` rows, `kept` if
    /// they are listed.
    ///
    /// # Errors
    /// When more failed than may, or they cannot be listed.
    pub async fn note(
        &self,
        count: usize,
        kept: &[RecordBatch],
        failed: Vec<FailedRow>,
    ) -> Result<(), UdfError> {
        let (count, new) = (count as u64, failed.len() as u64);
        let rows = self.rows.fetch_add(count, Ordering::Relaxed) + count;
        let all = self.failed.fetch_add(new, Ordering::Relaxed) + new;
        if new == 0 {
            return Ok(());
        }
        self.rows_failed.add(failed.len());
        let last = failed.iter().rev().find_map(|row| row.reason.clone());
        if let Some(reason) = &last {
            let mut example = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
            *example = Some(reason.clone());
        }
        if rows >= ROWS_OF_A_SHARE {
            self.check_share(rows, all)?;
        }
        let lists = self.call.errors.on_error == OnError::DeadLetter;
        if !lists && self.call.max_errors.is_none() {
            return Ok(());
        }
        let listed = match lists {
            true => listed(kept, failed).map_err(|problem| self.unlisted(&problem))?,
            false => vec![],
        };
        let report = FailedRows {
            function: self.call.spec.name.clone(),
            operator: Operator::of(self.call.mode).sql,
            count: new,
            rows: listed,
        };
        let total = self.host.report_failed_rows(&self.context, report).await?;
        let total = total.max(all);
        match self.call.max_errors {
            Some(most) if total > most => Err(UdfError::TooManyErrors {
                bound: ErrorBound::Unknown,
                last: Box::new(self.example(last, total)),
            }),
            _ => Ok(()),
        }
    }

    /// The last look at the share of the rows that failed.
    ///
    /// # Errors
    /// When it is larger than it may be.
    pub fn check_end(&self) -> Result<(), UdfError> {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        self.check_share(read(&self.rows), read(&self.failed))
    }

    fn check_share(&self, rows: u64, failed: u64) -> Result<(), UdfError> {
        match self.call.errors.max_error_ratio {
            Some(ratio) if failed as f64 > ratio * rows as f64 => {
                let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
                Err(UdfError::ErrorRatio {
                    last: Box::new(self.example(reason.clone(), failed)),
                    failed,
                    rows,
                    ratio,
                })
            }
            _ => Ok(()),
        }
    }

    /// One of the `failed` rows, to stand for all.
    fn example(&self, reason: Option<RowFailure>, failed: u64) -> UserFailure {
        let (message, traceback) = match reason {
            Some(reason) => (reason.message, Some(reason.traceback)),
            None => (format!("{failed} rows failed"), None),
        };
        UserFailure {
            function: self.call.spec.name.clone(),
            message,
            traceback: traceback.filter(|text| !text.is_empty()),
        }
    }

    fn unlisted(&self, problem: &impl ToString) -> UdfError {
        UdfError::DeadLetter {
            function: self.call.spec.name.clone(),
            problem: problem.to_string(),
        }
    }
}

/// The failed rows of a block with what the query knows of each.
fn listed(block: &[RecordBatch], mut failed: Vec<FailedRow>) -> Result<Vec<ListedRow>, ArrowError> {
    failed.sort_by_key(|failed| failed.row);
    let mut places = Vec::with_capacity(failed.len());
    let (mut piece, mut before) = (0, 0);
    for row in &failed {
        while block
            .get(piece)
            .is_some_and(|rows| row.row >= before + rows.num_rows())
        {
            before += block[piece].num_rows();
            piece += 1;
        }
        places.push((piece, row.row - before));
    }
    let rows = interleave_record_batch(&block.iter().collect::<Vec<_>>(), &places)?;
    let texts = json_lines(&rows)?;
    let listed = failed.into_iter().zip(texts).map(|(failed, row)| {
        let reason = failed.reason;
        let (error_type, message, traceback) = match reason {
            Some(reason) => (reason.error_type, reason.message, reason.traceback),
            None => Default::default(),
        };
        ListedRow {
            row,
            error_type,
            message,
            traceback,
        }
    });
    Ok(listed.collect())
}

/// NaN and infinities as texts, at every depth: JSON would have null for them.
#[derive(Debug)]
struct FloatsInWords;

impl EncoderFactory for FloatsInWords {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Float16 => Box::new(Floats(array.as_primitive::<Float16Type>())),
            DataType::Float32 => Box::new(Floats(array.as_primitive::<Float32Type>())),
            DataType::Float64 => Box::new(Floats(array.as_primitive::<Float64Type>())),
            _ => return Ok(None),
        };
        let nulls = array.nulls().cloned();
        Ok(Some(NullableEncoder::new(encoder, nulls)))
    }
}

struct Floats<'a, T: ArrowPrimitiveType>(&'a PrimitiveArray<T>);

impl<T: ArrowPrimitiveType<Native: Into<f64>>> Encoder for Floats<'_, T> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = self.0.value(row);
        let text = match value.into().is_finite() {
            true => format!("{value:?}"),
            false => format!("\"{value:?}\""),
        };
        out.extend_from_slice(text.as_bytes());
    }
}

/// Each row as a JSON object with all columns.
fn json_lines(rows: &RecordBatch) -> Result<Vec<String>, ArrowError> {
    let mut bytes = Vec::new();
    let builder = WriterBuilder::new()
        .with_explicit_nulls(true)
        .with_encoder_factory(Arc::new(FloatsInWords));
    let mut writer = builder.build::<_, LineDelimited>(&mut bytes);
    let written = writer.write(rows).and_then(|()| writer.finish());
    drop(writer);
    let lines = match (written, String::from_utf8(bytes)) {
        (Ok(()), Ok(text)) => text.lines().map(str::to_owned).collect::<Vec<_>>(),
        // JSON has no words for some types: then all values are texts.
        _ => text_lines(rows)?,
    };
    match lines.len() == rows.num_rows() {
        true => Ok(lines),
        false => text_lines(rows),
    }
}

fn text_lines(rows: &RecordBatch) -> Result<Vec<String>, ArrowError> {
    let options = FormatOptions::default();
    let columns = rows.columns().iter();
    let columns = columns
        .map(|column| ArrayFormatter::try_new(column, &options))
        .collect::<Result<Vec<_>, _>>()?;
    let schema = rows.schema();
    let line = |row: usize| {
        let values = schema.fields().iter().zip(&columns).enumerate();
        let values = values.map(|(at, (field, column))| {
            let value = match rows.column(at).is_null(row) {
                true => "null".to_owned(),
                false => format!("{:?}", column.value(row).to_string()),
            };
            format!("{:?}:{value}", field.name())
        });
        format!("{{{}}}", values.collect::<Vec<_>>().join(","))
    };
    Ok((0..rows.num_rows()).map(line).collect())
}
