//! Rows on their way past a worker: what it is sent of them, what it is not.
//!
//! Without a mask the worker is asked about every row. With one it is sent the
//! rows for which the mask is true, and [`Passed::filled`] puts its answers back
//! beside them, NULL beside the others. Pure; cut by `block_queue`, put together
//! again by `stream`.

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{filter_record_batch, not, prep_null_mask_filter, take_arrays};
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;

/// Rows as they came, and the part of them that the worker gets.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub passed: Passed,
    /// Columns that go in, of the rows asked about.
    pub sent: RecordBatch,
}

/// Rows as they came, and which of them a worker is asked about.
#[derive(Debug, Clone)]
pub(super) struct Passed {
    rows: RecordBatch,
    /// Without NULL; `None`: all rows.
    mask: Option<BooleanArray>,
    asked: usize,
}

impl Piece {
    /// Rows that are all asked about.
    pub fn whole(rows: RecordBatch, sent: RecordBatch) -> Self {
        let asked = rows.num_rows();
        let mask = None;
        Self {
            passed: Passed { rows, mask, asked },
            sent,
        }
    }

    /// Rows of which those are asked about for which `mask` is true.
    ///
    /// # Errors
    /// When the mask is not as long as the rows.
    pub fn masked(rows: RecordBatch, sent: &RecordBatch, mask: &BooleanArray) -> Result<Self> {
        let mask = match mask.null_count() {
            0 => mask.clone(),
            _ => prep_null_mask_filter(mask),
        };
        let sent = filter_record_batch(sent, &mask)?;
        let passed = Passed {
            rows,
            mask: Some(mask),
            asked: sent.num_rows(),
        };
        Ok(Self { passed, sent })
    }

    /// Rows asked about.
    pub fn asked(&self) -> usize {
        self.passed.asked
    }

    /// The rows up to the `asked`th that is asked about, and those after it.
    pub fn split(self, asked: usize) -> (Self, Self) {
        let rest = self.asked() - asked;
        let (first, second) = self.passed.split(asked);
        let sent = self.sent.slice(0, asked);
        let later = self.sent.slice(asked, rest);
        let piece = |passed, sent| Self { passed, sent };
        (piece(first, sent), piece(second, later))
    }
}

impl Passed {
    pub fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    /// Rows asked about.
    pub fn asked(&self) -> usize {
        self.asked
    }

    pub fn is_masked(&self) -> bool {
        self.mask.is_some()
    }

    /// The rows up to the `asked`th that is asked about, and those after it.
    pub fn split(self, asked: usize) -> (Self, Self) {
        let all = self.rows.num_rows();
        let at = match &self.mask {
            None => asked,
            // The next one that is asked about begins the second part.
            Some(mask) => mask.values().set_indices().nth(asked).unwrap_or(all),
        };
        let part = |from: usize, rows: usize, asked: usize| Self {
            rows: self.rows.slice(from, rows),
            mask: self.mask.as_ref().map(|mask| mask.slice(from, rows)),
            asked,
        };
        let rest = self.asked - asked;
        (part(0, at, asked), part(at, all - at, rest))
    }

    /// The rows asked about, and the others, if there are, of which nobody is.
    ///
    /// # Errors
    /// None of its own.
    pub fn parted(self) -> Result<(RecordBatch, Option<Self>)> {
        let Some(mask) = &self.mask else {
            return Ok((self.rows, None));
        };
        let asked = filter_record_batch(&self.rows, mask)?;
        let others = filter_record_batch(&self.rows, &not(mask)?)?;
        let rest = (others.num_rows() > 0).then(|| Self {
            mask: Some(BooleanArray::from(vec![false; others.num_rows()])),
            rows: others,
            asked: 0,
        });
        Ok((asked, rest))
    }

    /// The rows with their answers, one for each row asked about, as last columns.
    ///
    /// # Errors
    /// When there are more or fewer answers.
    pub fn filled(&self, answers: &[ArrayRef], schema: &SchemaRef) -> Result<RecordBatch> {
        let last = match &self.mask {
            None => answers.to_vec(),
            Some(mask) if self.asked == 0 => {
                let nulls = answers.iter();
                let nulls = nulls.map(|column| new_null_array(column.data_type(), mask.len()));
                nulls.collect()
            }
            Some(mask) => {
                let mut next = 0..;
                let places = mask.values().iter().map(|asked| match asked {
                    true => next.next(),
                    false => None,
                });
                take_arrays(answers, &places.collect::<UInt32Array>(), None)?
            }
        };
        let columns = self.rows.columns().iter().cloned().chain(last);
        let schema = SchemaRef::clone(schema);
        Ok(RecordBatch::try_new(schema, columns.collect())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    fn schema(names: &[&str]) -> SchemaRef {
        let fields = names.iter().map(|n| Field::new(*n, DataType::Int64, true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    fn rows(values: std::ops::Range<i64>) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
        RecordBatch::try_new(schema(&["a"]), vec![column]).unwrap()
    }

    fn piece(mask: &[Option<bool>]) -> Piece {
        let rows = rows(0..mask.len() as i64);
        Piece::masked(rows.clone(), &rows, &BooleanArray::from(mask.to_vec())).unwrap()
    }

    /// What comes out when the worker answers with what it was sent.
    fn filled(piece: &Piece) -> Vec<Option<i64>> {
        let out = piece
            .passed
            .filled(piece.sent.columns(), &schema(&["a", "r"]));
        out.unwrap()
            .column(1)
            .as_primitive::<Int64Type>()
            .iter()
            .collect()
    }

    #[test]
    fn answers_go_where_the_mask_is_true() {
        let (yes, no) = (Some(true), Some(false));
        let piece = piece(&[no, yes, None, yes, yes, no]);
        assert_eq!(piece.asked(), 3);
        let expected = [None, Some(1), None, Some(3), Some(4), None];
        assert_eq!(filled(&piece), expected);
        for asked in 0..=3 {
            let (first, second) = piece.clone().split(asked);
            assert_eq!((first.asked(), second.asked()), (asked, 3 - asked));
            assert_eq!([filled(&first), filled(&second)].concat(), expected);
        }
        // Rows after the last one asked about stay with it.
        assert_eq!(piece.split(3).1.passed.rows().num_rows(), 0);
    }

    #[test]
    fn nobody_asked_gives_nulls_and_no_mask_gives_all() {
        let nobody = piece(&[Some(false), None]);
        assert_eq!((nobody.asked(), filled(&nobody)), (0, vec![None, None]));
        let all = Piece::whole(rows(0..3), rows(0..3));
        assert_eq!(filled(&all), [Some(0), Some(1), Some(2)]);
        let (first, second) = all.split(1);
        assert_eq!((filled(&first), filled(&second).len()), (vec![Some(0)], 2));
    }
}
