//! How many bytes a block holds.
//!
//! A block is often a slice of a larger one, and its columns often share
//! buffers. Budgets need what *this* block adds: a slice counts its share, a
//! range of memory counts once. Used wherever blocks are counted.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, OffsetSizeTrait, RecordBatch, make_array};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::DataType;

/// Bytes of the values in `block`: buffers cut to the slice, each range once.
///
/// Views count their 16 bytes a row plus the text they point at outside of
/// themselves; dictionaries count keys plus the whole dictionary.
pub fn block_bytes(block: &RecordBatch) -> usize {
    let mut seen = Seen::default();
    block
        .columns()
        .iter()
        .map(|c| array_bytes(c, &mut seen))
        .sum()
}

/// Ranges of memory already counted, as (address, length).
#[derive(Default)]
struct Seen(HashSet<(usize, usize)>);

impl Seen {
    /// `len` bytes at `start` of `buffer`, or 0 if counted before.
    fn count(&mut self, buffer: &Buffer, start: usize, len: usize) -> usize {
        let len = len.min(buffer.len().saturating_sub(start));
        match len > 0 && self.0.insert((buffer.as_ptr() as usize + start, len)) {
            true => len,
            false => 0,
        }
    }

    fn count_all(&mut self, buffer: &Buffer) -> usize {
        self.count(buffer, 0, buffer.len())
    }
}

/// Nested arrays are cut as arrays: their data, cut, says its offset and has cut children as
/// well.
fn array_bytes(array: &ArrayRef, seen: &mut Seen) -> usize {
    let nulls = array.nulls().map_or(0, |nulls| {
        seen.count(nulls.buffer(), nulls.offset() / 8, nulls.len().div_ceil(8))
    });
    nulls + values_bytes(array, seen)
}

fn values_bytes(array: &ArrayRef, seen: &mut Seen) -> usize {
    match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            list_bytes(list.offsets(), list.values(), seen)
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            list_bytes(list.offsets(), list.values(), seen)
        }
        DataType::Map(_, _) => {
            let map = array.as_map();
            let entries: ArrayRef = Arc::new(map.entries().clone());
            list_bytes(map.offsets(), &entries, seen)
        }
        // Both have no more than what belongs to the slice.
        DataType::FixedSizeList(_, _) => {
            let list = array.as_fixed_size_list();
            array_bytes(list.values(), seen)
        }
        DataType::Struct(_) => {
            let columns = array.as_struct().columns().iter();
            columns.map(|column| array_bytes(column, seen)).sum()
        }
        _ => flat_bytes(&array.to_data(), seen),
    }
}

fn list_bytes<O: OffsetSizeTrait>(
    offsets: &OffsetBuffer<O>,
    values: &ArrayRef,
    seen: &mut Seen,
) -> usize {
    let (start, end) = (offsets[0].as_usize(), offsets[offsets.len() - 1].as_usize());
    let values = values.slice(start, end - start);
    seen.count_all(offsets.inner().inner()) + array_bytes(&values, seen)
}

fn flat_bytes(data: &ArrayData, seen: &mut Seen) -> usize {
    let (offset, len, buffers) = (data.offset(), data.len(), data.buffers());
    match data.data_type() {
        DataType::Null => 0,
        DataType::Boolean => seen.count(&buffers[0], offset / 8, len.div_ceil(8)),
        DataType::Utf8 | DataType::Binary => {
            let range = ends::<i32>(data);
            seen.count(&buffers[0], offset * 4, (len + 1) * 4)
                + seen.count(&buffers[1], range.0, range.1)
        }
        DataType::LargeUtf8 | DataType::LargeBinary => {
            let range = ends::<i64>(data);
            seen.count(&buffers[0], offset * 8, (len + 1) * 8)
                + seen.count(&buffers[1], range.0, range.1)
        }
        DataType::Utf8View | DataType::BinaryView => view_bytes(data, seen),
        other => match width(other) {
            Some(width) => {
                seen.count(&buffers[0], offset * width, len * width) + children_bytes(data, seen)
            }
            None => {
                buffers.iter().map(|b| seen.count_all(b)).sum::<usize>()
                    + children_bytes(data, seen)
            }
        },
    }
}

fn children_bytes(data: &ArrayData, seen: &mut Seen) -> usize {
    let children = data.child_data().iter();
    children
        .map(|child| array_bytes(&make_array(child.clone()), seen))
        .sum()
}

/// Bytes per row of what lies in one buffer.
fn width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::FixedSizeBinary(size) => usize::try_from(*size).ok(),
        DataType::Dictionary(key, _) => key.primitive_width(),
        other => other.primitive_width(),
    }
}

/// The views, and the text outside of them, which is never more than the data
/// buffers hold.
fn view_bytes(data: &ArrayData, seen: &mut Seen) -> usize {
    let (views, texts) = (&data.buffers()[0], &data.buffers()[1..]);
    let own = seen.count(views, data.offset() * 16, data.len() * 16);
    if own == 0 || texts.is_empty() {
        return own;
    }
    let views = views.typed_data::<u128>();
    let outside: usize = views[data.offset()..data.offset() + data.len()]
        .iter()
        .map(|view| (*view & 0xFFFF_FFFF) as usize)
        .filter(|len| *len > 12)
        .sum();
    own + outside.min(texts.iter().map(Buffer::len).sum())
}

/// Start and length of what the offsets of `data` point at.
fn ends<O: arrow::datatypes::ArrowNativeType>(data: &ArrayData) -> (usize, usize) {
    if data.is_empty() {
        return (0, 0);
    }
    let offsets = data.buffers()[0].typed_data::<O>();
    let start = offsets[data.offset()].as_usize();
    let end = offsets[data.offset() + data.len()].as_usize();
    (start, end.saturating_sub(start))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, ListArray, StringArray, StringViewArray, StructArray};
    use arrow::datatypes::{Field, Int32Type};

    use super::*;

    fn block(columns: Vec<ArrayRef>) -> RecordBatch {
        let named = columns
            .into_iter()
            .enumerate()
            .map(|(i, c)| (format!("c{i}"), c));
        RecordBatch::try_from_iter(named).unwrap()
    }

    #[test]
    fn a_slice_counts_its_share() {
        let numbers = block(vec![Arc::new(Int64Array::from_iter_values(0..1000))]);
        assert_eq!(block_bytes(&numbers), 8000);
        assert_eq!(block_bytes(&numbers.slice(10, 5)), 40);
        let texts = block(vec![Arc::new(StringArray::from(vec!["aa"; 100]))]);
        assert_eq!(block_bytes(&texts), 101 * 4 + 200);
        assert_eq!(block_bytes(&texts.slice(3, 10)), 11 * 4 + 20);
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(
            (0..10).map(|_| Some(vec![Some(1), Some(2)])),
        );
        let lists = block(vec![Arc::new(lists)]);
        let sliced = block_bytes(&lists.slice(2, 3));
        assert!(
            (3 * 8..4 * 4 + 6 * 4 + 2).contains(&sliced) || sliced == 4 * 4 + 6 * 4 + 2,
            "{sliced}"
        );
    }

    #[test]
    fn shared_memory_counts_once() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        assert_eq!(
            block_bytes(&block(vec![Arc::clone(&numbers), numbers])),
            8000
        );
    }

    #[test]
    fn a_slice_of_views_does_not_count_the_whole_text() {
        let long = "a text that is longer than twelve bytes";
        let views = block(vec![Arc::new(StringViewArray::from(vec![long; 1000]))]);
        assert_eq!(block_bytes(&views.slice(0, 1)), 16 + long.len());
        assert_eq!(block_bytes(&views.slice(0, 0)), 0);
    }

    #[test]
    fn slices_of_lists_of_structs_count_their_share() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
        let field = Arc::new(Field::new("x", DataType::Int64, true));
        let rows = StructArray::from(vec![(field, numbers)]);
        let item = Arc::new(Field::new_list_field(rows.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths([10; 10]);
        let lists = ListArray::new(item, offsets, Arc::new(rows), None);
        let whole = block(vec![Arc::new(lists.clone())]);
        assert_eq!(block_bytes(&whole), 11 * 4 + 100 * 8);
        // From the middle: what a struct's data says of itself then is true of its rows alone.
        let part = block(vec![Arc::new(lists.slice(4, 3))]);
        assert_eq!(block_bytes(&part), 4 * 4 + 30 * 8);
        let nested = ListArray::new(
            Arc::new(Field::new_list_field(lists.data_type().clone(), true)),
            OffsetBuffer::from_lengths([5, 5]),
            Arc::new(lists),
            None,
        );
        let part = block(vec![Arc::new(nested.slice(1, 1))]);
        assert_eq!(block_bytes(&part), 2 * 4 + 6 * 4 + 50 * 8);
    }
}
