//! The rows of a block whose values come in any order.
//!
//! Values of an async function whose rows keep no order come as they are finished, with
//! the places of the rows that they are for. Pure; used by `in_flight`.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{SchemaRef, UInt64Type};
use datafusion::common::{Result, internal_err};

use super::exec::ExecShape;
use super::piece::Passed;

/// Rows that wait for their values.
pub(super) struct Scattered {
    /// Those that the worker is asked about, as it counts them.
    asked: RecordBatch,
    /// Of those, the ones without a value yet.
    owed: usize,
    /// To be left out when their values come.
    dropped: HashSet<u64>,
}

/// Rows with the values that came for them.
struct Gathered {
    rows: RecordBatch,
    values: Vec<ArrayRef>,
}

impl Scattered {
    /// The rows of `waiting` that are asked about; those that are not come back, to leave
    /// as they are.
    ///
    /// # Errors
    /// None of its own.
    pub fn of(waiting: Vec<Passed>) -> Result<(Self, Vec<Passed>)> {
        let (mut asked, mut others) = (vec![], vec![]);
        let schema = match waiting.first() {
            Some(first) => first.rows().schema(),
            None => return internal_err!("a block without rows"),
        };
        for passed in waiting {
            let (rows, rest) = passed.parted()?;
            asked.push(rows);
            others.extend(rest);
        }
        let asked = concat_batches(&schema, &asked)?;
        let owed = asked.num_rows();
        let dropped = HashSet::new();
        let scattered = Self {
            asked,
            owed,
            dropped,
        };
        Ok((scattered, others))
    }

    /// Whether all values have come.
    pub fn is_whole(&self) -> bool {
        self.owed == 0
    }

    /// These rows are left out.
    pub fn leave_out(&mut self, rows: Vec<usize>) {
        self.dropped.extend(rows.into_iter().map(|row| row as u64));
    }

    /// What comes out of the rows that `answer` has values for.
    ///
    /// # Errors
    /// When there are no such rows, or the values are not of `schema`.
    pub fn made(
        &mut self,
        answer: &RecordBatch,
        shape: &ExecShape,
        schema: &SchemaRef,
    ) -> Result<RecordBatch> {
        let Gathered { rows, values } = self.gather(answer)?;
        match (shape, values.as_slice()) {
            (ExecShape::Filter { .. }, [stays]) => {
                // NULL drops the row, as in WHERE.
                let kept = filter_record_batch(&rows, stays.as_boolean())?;
                Ok(kept.with_schema(Arc::clone(schema))?)
            }
            _ => {
                let columns = rows.columns().iter().cloned().chain(values);
                Ok(RecordBatch::try_new(Arc::clone(schema), columns.collect())?)
            }
        }
    }

    /// The rows that `answer` has values for; its last column says which they are.
    ///
    /// # Errors
    /// When there are no such rows.
    fn gather(&mut self, answer: &RecordBatch) -> Result<Gathered> {
        let Some((places, values)) = answer.columns().split_last() else {
            return internal_err!("values without their rows");
        };
        let Some(places) = places.as_primitive_opt::<UInt64Type>() else {
            return internal_err!("values without their rows");
        };
        let all = self.asked.num_rows() as u64;
        if places.len() > self.owed || places.values().iter().any(|place| *place >= all) {
            return internal_err!("values for more rows than there are");
        }
        self.owed -= places.len();
        let stays = self.staying(places);
        let Some(stays) = stays else {
            return Ok(Gathered {
                rows: take_record_batch(&self.asked, places)?,
                values: values.to_vec(),
            });
        };
        let answer = filter_record_batch(answer, &stays)?;
        let columns = answer.columns();
        let places = columns[columns.len() - 1].as_primitive::<UInt64Type>();
        Ok(Gathered {
            rows: take_record_batch(&self.asked, places)?,
            values: columns[..columns.len() - 1].to_vec(),
        })
    }

    /// Which of the rows stay; `None`: all.
    fn staying(&self, places: &UInt64Array) -> Option<BooleanArray> {
        let stays = |place: &u64| !self.dropped.contains(place);
        let places = places.values();
        (!places.iter().all(stays)).then(|| places.iter().map(|p| Some(stays(p))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::piece::Piece;
    use super::*;
    use arrow::array::Int64Array;
    use arrow::datatypes::Int64Type;

    fn ints(name: &str, values: &[i64]) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        RecordBatch::try_from_iter([(name, column)]).unwrap()
    }

    fn answer(values: &[i64], places: &[u64]) -> RecordBatch {
        let values: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        let places: ArrayRef = Arc::new(UInt64Array::from(places.to_vec()));
        RecordBatch::try_from_iter([("v", values), ("p", places)]).unwrap()
    }

    fn pairs(gathered: Gathered) -> Vec<(i64, i64)> {
        let rows = gathered.rows.column(0).as_primitive::<Int64Type>();
        let values = gathered.values[0].as_primitive::<Int64Type>();
        rows.values()
            .iter()
            .copied()
            .zip(values.values().iter().copied())
            .collect()
    }

    #[test]
    fn values_find_their_rows_over_pieces_and_masks() {
        let whole = ints("a", &[10, 11]);
        let masked = ints("a", &[20, 21, 22]);
        let mask = BooleanArray::from(vec![true, false, true]);
        let pieces = vec![
            Piece::whole(whole.clone(), whole).passed,
            Piece::masked(masked.clone(), &masked, &mask)
                .unwrap()
                .passed,
        ];
        let (mut scattered, others) = Scattered::of(pieces).unwrap();
        let [unasked] = others.as_slice() else {
            panic!("{} parts", others.len());
        };
        assert_eq!((unasked.asked(), unasked.rows().num_rows()), (0, 1));
        let first = scattered.gather(&answer(&[7, 8], &[3, 0])).unwrap();
        assert_eq!(pairs(first), [(22, 7), (10, 8)]);
        assert!(!scattered.is_whole());
        scattered.leave_out(vec![2]);
        let second = scattered.gather(&answer(&[9, 6], &[2, 1])).unwrap();
        assert_eq!(pairs(second), [(11, 6)]);
        assert!(scattered.is_whole());
        assert!(scattered.gather(&answer(&[1], &[0])).is_err());
    }

    #[test]
    fn rows_that_are_not_there_are_refused() {
        let rows = ints("a", &[1]);
        let (mut scattered, _) =
            Scattered::of(vec![Piece::whole(rows.clone(), rows).passed]).unwrap();
        assert!(scattered.gather(&answer(&[1], &[1])).is_err());
        assert!(scattered.gather(&ints("v", &[1])).is_err());
    }
}
