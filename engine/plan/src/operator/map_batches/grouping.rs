//! Groups of rows that must reach one call together, and keys whose rows go to one actor.
//!
//! The exec asks for its input partitioned by the keys and sorted, so that a group
//! is one run of rows; [`GroupMarker`] tells where runs start.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, make_comparator};
use arrow::compute::{SortOptions, partition};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{Column, Result};
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use mobula_udfs::GROUP_STARTS;

/// Keys and order of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd)]
pub struct Grouping {
    /// Never empty.
    pub keys: Vec<Column>,
    pub order: Vec<(Column, SortWay)>,
}

/// The direction of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd)]
pub struct SortWay {
    pub descending: bool,
    pub nulls_first: bool,
}

impl Grouping {
    /// The keys, then the columns of the order.
    pub fn columns(&self) -> impl Iterator<Item = &Column> {
        let order = self.order.iter().map(|(column, _)| column);
        self.keys.iter().chain(order)
    }
}

impl Grouping {
    /// The same of `columns`: as many, the keys first.
    pub(super) fn of(&self, mut columns: Vec<Column>) -> Self {
        let order = columns
            .split_off(self.keys.len().min(columns.len()))
            .into_iter();
        let order = order.zip(&self.order);
        Self {
            order: order.map(|(column, (_, way))| (column, *way)).collect(),
            keys: columns,
        }
    }
}

/// What follows a column in ORDER BY; nothing where it is the default.
impl fmt::Display for SortWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.descending, self.nulls_first) {
            (false, false) => "",
            (false, true) => " NULLS FIRST",
            (true, true) => " DESC",
            (true, false) => " DESC NULLS LAST",
        })
    }
}

impl From<SortWay> for SortOptions {
    fn from(way: SortWay) -> Self {
        Self {
            descending: way.descending,
            nulls_first: way.nulls_first,
        }
    }
}

/// Keys and order of an exec, as columns of its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecGrouping {
    pub keys: Vec<usize>,
    pub order: Vec<(usize, SortWay)>,
}

impl ExecGrouping {
    /// The keys as expressions over `input`.
    pub fn key_exprs(&self, input: &Schema) -> Vec<Arc<dyn PhysicalExpr>> {
        self.keys.iter().map(|key| column(input, *key)).collect()
    }

    /// Rows of a group next to each other, and in order within.
    pub fn ordering(&self, input: &Schema) -> Option<LexOrdering> {
        let keys = self.keys.iter().map(|key| (*key, SortOptions::default()));
        let all = keys.chain(self.order_options());
        LexOrdering::new(all.map(|(at, options)| PhysicalSortExpr::new(column(input, at), options)))
    }

    /// Rows of all keys in their order; `None` if there is none.
    pub fn order_of_keys(&self, input: &Schema) -> Option<LexOrdering> {
        let order = self.order_options();
        LexOrdering::new(
            order.map(|(at, options)| PhysicalSortExpr::new(column(input, at), options)),
        )
    }

    fn order_options(&self) -> impl Iterator<Item = (usize, SortOptions)> {
        let order = self.order.iter();
        order.map(|(at, way)| (*at, SortOptions::from(*way)))
    }

    /// `, partition_by=[a], order_by=[b DESC]`.
    pub fn write(
        &self,
        f: &mut fmt::Formatter<'_>,
        input: &Schema,
        separator: &str,
    ) -> fmt::Result {
        let name = |at: &usize| input.field(*at).name().as_str();
        let keys: Vec<_> = self.keys.iter().map(name).collect();
        write!(f, "{separator}partition_by=[{}]", keys.join(", "))?;
        if self.order.is_empty() {
            return Ok(());
        }
        let order = self
            .order
            .iter()
            .map(|(at, way)| format!("{}{way}", name(at)));
        let order: Vec<_> = order.collect();
        write!(f, "{separator}order_by=[{}]", order.join(", "))
    }
}

fn column(input: &Schema, at: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(PhysicalColumn::new(input.field(at).name(), at))
}

/// The column that tells a worker where groups start.
pub(super) fn starts_field() -> Field {
    Field::new(GROUP_STARTS, DataType::Boolean, true)
}

/// Finds the first rows of groups in rows that come piece by piece.
#[derive(Debug)]
pub(super) struct GroupMarker {
    keys: Vec<usize>,
    /// The keys of the last row that came.
    last: Option<Vec<ArrayRef>>,
}

impl GroupMarker {
    pub fn new(keys: Vec<usize>) -> Self {
        Self { keys, last: None }
    }

    /// The places in `rows` at which groups start.
    ///
    /// # Errors
    /// When keys of this type cannot be compared.
    pub fn starts(&mut self, rows: &RecordBatch) -> Result<Vec<usize>> {
        if rows.num_rows() == 0 {
            return Ok(vec![]);
        }
        let keys = self.keys.iter().map(|key| Arc::clone(rows.column(*key)));
        let keys: Vec<ArrayRef> = keys.collect();
        let row =
            |at: usize| -> Vec<ArrayRef> { keys.iter().map(|key| key.slice(at, 1)).collect() };
        let mut starts = match keys.iter().any(|key| key.data_type().is_nested()) {
            false => partition(&keys)?.ranges().iter().map(|r| r.start).collect(),
            true => nested_starts(&keys)?,
        };
        if let Some(last) = &self.last
            && equal(last, &row(0))?
        {
            starts.remove(0);
        }
        self.last = Some(row(rows.num_rows() - 1));
        Ok(starts)
    }
}

/// Where runs of equal keys start; of types that Arrow's kernels do not compare.
fn nested_starts(keys: &[ArrayRef]) -> Result<Vec<usize>> {
    let compare = keys
        .iter()
        .map(|key| make_comparator(key, key, SortOptions::default()));
    let compare = compare.collect::<Result<Vec<_>, _>>()?;
    let rows = keys.first().map_or(0, |key| key.len());
    let differs =
        |row: &usize| *row == 0 || compare.iter().any(|compare| compare(row - 1, *row).is_ne());
    Ok((0..rows).filter(differs).collect())
}

/// Whether two rows have the same keys.
fn equal(left: &[ArrayRef], right: &[ArrayRef]) -> Result<bool> {
    for (left, right) in left.iter().zip(right) {
        let compare = make_comparator(left, right, SortOptions::default())?;
        if compare(0, 0).is_ne() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `rows` with the column that tells where groups start.
///
/// # Errors
/// None that could happen: the column is as long as the rows.
pub(super) fn with_starts(rows: &RecordBatch, starts: &[usize]) -> Result<RecordBatch> {
    let mut marks = vec![false; rows.num_rows()];
    for start in starts {
        if let Some(mark) = marks.get_mut(*start) {
            *mark = true;
        }
    }
    let schema = rows.schema();
    let fields = schema.fields().iter().cloned();
    let fields: Vec<_> = fields.chain([Arc::new(starts_field())]).collect();
    let marks: ArrayRef = Arc::new(BooleanArray::from(marks));
    let columns = rows.columns().iter().cloned().chain([marks]).collect();
    Ok(RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        columns,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, StringArray};

    fn rows(a: Vec<Option<f64>>, b: Vec<Option<&str>>) -> RecordBatch {
        let a: ArrayRef = Arc::new(Float64Array::from(a));
        let b: ArrayRef = Arc::new(StringArray::from(b));
        RecordBatch::try_from_iter_with_nullable([("a", a, true), ("b", b, true)]).unwrap()
    }

    #[test]
    fn groups_go_on_in_the_next_piece() {
        let mut marker = GroupMarker::new(vec![0, 1]);
        let first = rows(
            vec![None, None, Some(1.0), Some(1.0)],
            vec![Some("x"), Some("x"), Some("x"), None],
        );
        assert_eq!(marker.starts(&first).unwrap(), [0, 2, 3]);
        assert_eq!(marker.starts(&first.slice(0, 0)).unwrap(), [0; 0]);
        let second = rows(
            vec![Some(1.0), Some(f64::NAN), Some(f64::NAN)],
            vec![None, None, None],
        );
        assert_eq!(marker.starts(&second).unwrap(), [1]);
        assert_eq!(marker.starts(&second.slice(2, 1)).unwrap(), [0; 0]);
        let marked = with_starts(&second, &[1]).unwrap();
        assert_eq!(marked.num_columns(), 3);
        let marks = marked.column(2).as_any().downcast_ref::<BooleanArray>();
        assert_eq!(
            marks.unwrap().values().iter().collect::<Vec<_>>(),
            [false, true, false]
        );
    }
}
