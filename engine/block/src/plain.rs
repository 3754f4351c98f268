//! The plain form of blocks, for readers that do not know every Arrow layout.
//!
//! User code gets texts with offsets instead of views (a slice of a view column
//! would drag its whole text along) and values instead of dictionaries or runs.
//! The UDF boundary converts to plain on the way in and back on the way out.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use crate::error::BlockError;

/// Metadata that names extension types, by Arrow's columnar format.
const EXTENSION_KEYS: [&str; 2] = ["ARROW:extension:name", "ARROW:extension:metadata"];

/// `schema` with every type plain, nested ones too. Of the metadata the names of
/// extension types stay.
pub fn plain_schema(schema: &Schema) -> Schema {
    let fields = schema.fields().iter().map(|field| plain_field(field));
    Schema::new(fields.collect::<Vec<_>>())
}

/// `block` with every column plain; a plain block comes back as it is.
///
/// # Errors
/// When a column cannot be converted, as more than 2 GiB of text in one.
pub fn plain_block(block: RecordBatch) -> Result<RecordBatch, BlockError> {
    let schema = Arc::new(plain_schema(&block.schema()));
    block_as(block, &schema)
}

/// `block` under `schema`: columns by position, layouts converted where they
/// differ, names and nullability taken from `schema`.
///
/// # Errors
/// When the number of columns differs, a column cannot be converted, or a
/// column that must not have NULLs has some.
pub fn block_as(block: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, BlockError> {
    if block.schema_ref() == schema {
        return Ok(block);
    }
    let (wanted, found) = (schema.fields().len(), block.num_columns());
    if wanted != found {
        return Err(BlockError::Columns { wanted, found });
    }
    let columns = schema
        .fields()
        .iter()
        .zip(block.columns())
        .map(|(field, column)| convert(column, field))
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(block.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(BlockError::Assemble)
}

fn convert(column: &ArrayRef, field: &Field) -> Result<ArrayRef, BlockError> {
    if column.data_type() == field.data_type() {
        return Ok(Arc::clone(column));
    }
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(column, field.data_type(), &strict).map_err(|source| BlockError::Convert {
        column: field.name().clone(),
        wanted: Box::new(field.data_type().clone()),
        source,
    })
}

fn plain_field(field: &Field) -> Field {
    let metadata = field.metadata().iter();
    let metadata = metadata.filter(|(key, _)| EXTENSION_KEYS.contains(&key.as_str()));
    let metadata = metadata.map(|(key, value)| (key.clone(), value.clone()));
    Field::new(
        field.name(),
        plain_type(field.data_type()),
        field.is_nullable(),
    )
    .with_metadata(metadata.collect())
}

fn plain_ref(field: &FieldRef) -> FieldRef {
    Arc::new(plain_field(field))
}

/// The plain counterpart of a type.
fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::RunEndEncoded(_, values) => plain_type(values.data_type()),
        DataType::List(item) | DataType::ListView(item) => DataType::List(plain_ref(item)),
        DataType::LargeList(item) | DataType::LargeListView(item) => {
            DataType::LargeList(plain_ref(item))
        }
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(plain_ref(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_ref).collect()),
        DataType::Map(entries, sorted) => DataType::Map(plain_ref(entries), *sorted),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Array, DictionaryArray, ListArray, StringArray, StringViewArray, StructArray,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::Int32Type;

    use super::*;

    fn nested_views() -> ArrayRef {
        let texts: ArrayRef = Arc::new(StringViewArray::from(vec!["a", "b", "c"]));
        let item = Arc::new(Field::new("text", DataType::Utf8View, true));
        let rows: ArrayRef = Arc::new(StructArray::from(vec![(item, texts)]));
        let entry = Arc::new(Field::new("item", rows.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths([2, 1]);
        Arc::new(ListArray::new(entry, offsets, rows, None))
    }

    #[test]
    fn views_and_dictionaries_become_plain_and_come_back() {
        let words: DictionaryArray<Int32Type> = ["x", "x"].into_iter().collect();
        let block = RecordBatch::try_from_iter([
            ("nested", nested_views()),
            ("word", Arc::new(words) as ArrayRef),
        ])
        .unwrap();
        let plain = plain_block(block.clone()).unwrap();
        assert_eq!(plain.schema().as_ref(), &plain_schema(&block.schema()));
        assert_eq!(plain.column(1).data_type(), &DataType::Utf8);
        assert!(!format!("{:?}", plain.schema()).contains("View"));
        assert_eq!(block_as(plain, &block.schema()).unwrap(), block);
    }

    #[test]
    fn plain_blocks_are_not_copied() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
        let block = RecordBatch::try_from_iter([("t", Arc::clone(&texts))]).unwrap();
        let plain = plain_block(block).unwrap();
        assert!(Arc::ptr_eq(plain.column(0), &texts));
    }

    #[test]
    fn a_column_too_many_is_an_error() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
        let block = RecordBatch::try_from_iter([("t", texts)]).unwrap();
        let none = Arc::new(Schema::empty());
        assert!(matches!(
            block_as(block, &none),
            Err(BlockError::Columns {
                wanted: 0,
                found: 1
            })
        ));
    }
}
