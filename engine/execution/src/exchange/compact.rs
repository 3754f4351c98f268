//! Drops what a block references but does not use, before it is encoded.
//!
//! A filter leaves view columns pointing into whole data buffers and
//! dictionaries holding values nobody names; IPC would ship all of it. Columns
//! that use most of what they hold pass untouched: copying them would cost more
//! than it saves.

use std::sync::Arc;

use arrow::array::types::{BinaryViewType, ByteViewType, StringViewType};
use arrow::array::{
    Array, ArrayRef, AsArray, GenericByteViewArray, RecordBatch, RecordBatchOptions,
};
use arrow::datatypes::DataType;
use arrow_select::dictionary::garbage_collect_any_dictionary;
use datafusion::common::Result;

/// Buffers up to this many times the used bytes are shipped as they are.
const SLACK: usize = 2;

/// The same rows, holding little more than what they use.
///
/// # Errors
/// Only when Arrow cannot rebuild a dictionary.
pub fn compact_block(block: RecordBatch) -> Result<RecordBatch> {
    let compactable = |t: &DataType| {
        matches!(
            t,
            DataType::Utf8View | DataType::BinaryView | DataType::Dictionary(_, _)
        )
    };
    let schema = block.schema();
    if !schema.fields().iter().any(|f| compactable(f.data_type())) {
        return Ok(block);
    }
    let rows = block.num_rows();
    let columns = block
        .columns()
        .iter()
        .map(compact_column)
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        schema, columns, &options,
    )?)
}

fn compact_column(column: &ArrayRef) -> Result<ArrayRef> {
    if let Some(dictionary) = column.as_any_dictionary_opt() {
        return match dictionary.values().len() > column.len() {
            true => Ok(garbage_collect_any_dictionary(dictionary)?),
            false => Ok(Arc::clone(column)),
        };
    }
    if let Some(views) = column.as_byte_view_opt::<StringViewType>() {
        return Ok(compact_views(column, views));
    }
    if let Some(views) = column.as_byte_view_opt::<BinaryViewType>() {
        return Ok(compact_views(column, views));
    }
    Ok(Arc::clone(column))
}

fn compact_views<T: ByteViewType>(column: &ArrayRef, views: &GenericByteViewArray<T>) -> ArrayRef {
    let held: usize = views.data_buffers().iter().map(|b| b.len()).sum();
    match held > views.total_buffer_bytes_used().saturating_mul(SLACK) {
        true => Arc::new(views.gc()),
        false => Arc::clone(column),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::StringViewArray;

    fn block(rows: usize) -> RecordBatch {
        let text = StringViewArray::from_iter_values(
            (0..rows).map(|i| format!("a long enough value {i}")),
        );
        RecordBatch::try_from_iter([("t", Arc::new(text) as ArrayRef)]).unwrap()
    }

    fn held(block: &RecordBatch) -> usize {
        let views = block.column(0).as_string_view();
        views.data_buffers().iter().map(|b| b.len()).sum()
    }

    #[test]
    fn a_small_slice_drops_the_rest_of_its_buffers() {
        let slice = block(10_000).slice(5, 3);
        let compact = compact_block(slice.clone()).unwrap();
        assert_eq!(compact, slice);
        assert!(held(&compact) < 200 && held(&slice) > 100_000);
    }

    #[test]
    fn a_block_in_full_use_is_not_copied() {
        let full = block(100);
        let compact = compact_block(full.clone()).unwrap();
        let address = |b: &RecordBatch| b.column(0).as_string_view().data_buffers()[0].as_ptr();
        assert_eq!(address(&compact), address(&full));
    }
}
