//! The one schema a client sees of a result, and blocks cast to it.
//!
//! Drivers compare what a statement announces with what its stream carries, in
//! names, types and nullability, nested too, and fail on a difference. What a
//! plan announces and what runs differ in just these points (views, nullability,
//! metadata), so both go through here: [`wire_schema`] for Prepare,
//! GetFlightInfo, GetSchema and GetTables, [`wire_block`] for DoGet.
//!
//! Invariants: every field is nullable, nested too (the entries and keys of a
//! map cannot be, by Arrow's rules); views, dictionaries, run-end encoding and
//! large lists, which some drivers cannot read, become their plain forms; no
//! metadata. Applying it twice changes nothing.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, ListArray, MapArray,
    OffsetSizeTrait, StructArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

/// What clients are told of a result with `schema`.
pub fn wire_schema(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(wire_fields(schema.fields())))
}

/// Casts `block` to `schema`, which [`wire_schema`] made. Columns go by place:
/// names may differ, as a plan's do from its statement's.
///
/// # Errors
/// Another number of columns, a type that cannot become the announced one, or a
/// column of more than 2 GiB of text in one block.
pub fn wire_block(schema: &SchemaRef, block: RecordBatch) -> Result<RecordBatch, ArrowError> {
    if block.num_columns() != schema.fields().len() {
        return Err(ArrowError::SchemaError(format!(
            "a result of {} columns was announced and a block of {} came",
            schema.fields().len(),
            block.num_columns()
        )));
    }
    let columns = block
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| wire_array(column, field.data_type()))
        .collect::<Result<Vec<_>, _>>()?;
    // A block without columns still has a number of rows.
    let options = RecordBatchOptions::new().with_row_count(Some(block.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

fn wire_fields(fields: &Fields) -> Fields {
    fields.iter().map(wire_field).collect()
}

fn wire_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), wire_type(field.data_type()), true))
}

fn wire_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => wire_type(values),
        DataType::RunEndEncoded(_, values) => wire_type(values.data_type()),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => DataType::List(wire_field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(wire_field(item), *size),
        DataType::Struct(fields) => DataType::Struct(wire_fields(fields)),
        DataType::Map(entries, sorted) => DataType::Map(wire_entries(entries), *sorted),
        other => other.clone(),
    }
}

/// The entries of a map, whose keys Arrow wants non-null.
fn wire_entries(entries: &FieldRef) -> FieldRef {
    let DataType::Struct(fields) = entries.data_type() else {
        return Arc::clone(entries);
    };
    let fields: Fields = fields
        .iter()
        .enumerate()
        .map(|(place, field)| {
            let data_type = wire_type(field.data_type());
            Field::new(field.name(), data_type, place > 0)
        })
        .collect();
    Arc::new(Field::new(entries.name(), DataType::Struct(fields), false))
}

/// Brings `array` to `target`, going down into nested arrays: Arrow's own cast
/// renames and checks fields by rules of its own, and copies what need not be.
fn wire_array(array: &ArrayRef, target: &DataType) -> Result<ArrayRef, ArrowError> {
    let source = array.data_type();
    if source == target {
        return Ok(Arc::clone(array));
    }
    match (source, target) {
        (DataType::List(_), DataType::List(item)) => {
            Ok(Arc::new(rewrap_list(array.as_list::<i32>(), item)?))
        }
        (DataType::LargeList(_), DataType::List(item)) => {
            Ok(Arc::new(rewrap_list(array.as_list::<i64>(), item)?))
        }
        (DataType::FixedSizeList(_, _), DataType::FixedSizeList(item, size)) => {
            let list = array.as_fixed_size_list();
            let values = wire_array(list.values(), item.data_type())?;
            let (item, nulls) = (Arc::clone(item), list.nulls().cloned());
            Ok(Arc::new(FixedSizeListArray::try_new(
                item, *size, values, nulls,
            )?))
        }
        (DataType::Struct(from), DataType::Struct(to)) if from.len() == to.len() => {
            Ok(Arc::new(rewrap_struct(array.as_struct(), to)?))
        }
        (DataType::Map(_, _), DataType::Map(entries, sorted)) => {
            Ok(Arc::new(rewrap_map(array.as_map(), entries, *sorted)?))
        }
        (DataType::ListView(item) | DataType::LargeListView(item), DataType::List(_)) => {
            let list = cast(array, &DataType::List(Arc::clone(item)))?;
            wire_array(&list, target)
        }
        (DataType::Dictionary(_, values), _) if values.as_ref() != target => {
            wire_array(&cast(array, values)?, target)
        }
        (DataType::RunEndEncoded(_, values), _) if values.data_type() != target => {
            wire_array(&cast(array, values.data_type())?, target)
        }
        _ => {
            // A value that does not fit is an error and not NULL.
            let strict = CastOptions {
                safe: false,
                ..CastOptions::default()
            };
            cast_with_options(array, target, &strict)
        }
    }
}

fn rewrap_list<O: OffsetSizeTrait>(
    list: &GenericListArray<O>,
    item: &FieldRef,
) -> Result<ListArray, ArrowError> {
    // A slice keeps the values of its parent: take only those it points at.
    let (first, last) = match (list.offsets().first(), list.offsets().last()) {
        (Some(first), Some(last)) => (first.as_usize(), last.as_usize()),
        _ => (0, 0),
    };
    let too_long = || ArrowError::OffsetOverflowError(last - first);
    if i32::try_from(last - first).is_err() {
        return Err(too_long());
    }
    let offsets = list
        .offsets()
        .iter()
        .map(|offset| i32::try_from(offset.as_usize() - first).map_err(|_| too_long()))
        .collect::<Result<Vec<i32>, _>>()?;
    let values = wire_array(&list.values().slice(first, last - first), item.data_type())?;
    ListArray::try_new(
        Arc::clone(item),
        OffsetBuffer::new(offsets.into()),
        values,
        list.nulls().cloned(),
    )
}

fn rewrap_struct(array: &StructArray, fields: &Fields) -> Result<StructArray, ArrowError> {
    let columns = array
        .columns()
        .iter()
        .zip(fields)
        .map(|(column, field)| wire_array(column, field.data_type()))
        .collect::<Result<Vec<_>, _>>()?;
    let nulls = array.nulls().cloned();
    StructArray::try_new_with_length(fields.clone(), columns, nulls, array.len())
}

fn rewrap_map(map: &MapArray, entries: &FieldRef, sorted: bool) -> Result<MapArray, ArrowError> {
    let DataType::Struct(fields) = entries.data_type() else {
        return Err(ArrowError::SchemaError(
            "the entries of a map are no struct".to_owned(),
        ));
    };
    MapArray::try_new(
        Arc::clone(entries),
        map.offsets().clone(),
        rewrap_struct(map.entries(), fields)?,
        map.nulls().cloned(),
        sorted,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        DictionaryArray, Int32Array, LargeListArray, ListViewArray, MapBuilder, StringArray,
        StringBuilder, StringViewArray, StringViewBuilder,
    };
    use arrow::datatypes::{Int8Type, Int64Type};

    fn nested() -> RecordBatch {
        let views: ArrayRef = Arc::new(StringViewArray::from(vec![
            Some("short"),
            None,
            Some("a text that is longer than twelve bytes"),
        ]));
        let dictionary: DictionaryArray<Int8Type> = vec!["x", "y", "x"].into_iter().collect();
        let inner = StructArray::from(vec![
            (
                Arc::new(Field::new("v", DataType::Utf8View, false)),
                Arc::new(StringViewArray::from(vec!["p", "q", "r"])) as ArrayRef,
            ),
            (
                Arc::new(Field::new("n", DataType::Int32, false)),
                Arc::new(Int32Array::from(vec![1, 2, 3])) as ArrayRef,
            ),
        ]);
        let lists = LargeListArray::from_iter_primitive::<Int64Type, _, _>(vec![
            Some(vec![Some(1), None]),
            None,
            Some(vec![]),
        ]);
        let list_views = ListViewArray::from_iter_primitive::<Int64Type, _, _>(vec![
            Some(vec![Some(7)]),
            Some(vec![]),
            None,
        ]);
        let mut map = MapBuilder::new(None, StringBuilder::new(), StringViewBuilder::new());
        for key in ["a", "b", "c"] {
            map.keys().append_value(key);
            map.values().append_value("value");
            map.append(true).unwrap();
        }
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("view", views),
            ("dictionary", Arc::new(dictionary)),
            ("struct", Arc::new(inner)),
            ("large_list", Arc::new(lists)),
            ("list_view", Arc::new(list_views)),
            ("map", Arc::new(map.finish())),
        ];
        let plain = RecordBatch::try_from_iter(columns).unwrap();
        let marked = plain
            .schema()
            .as_ref()
            .clone()
            .with_metadata([("k".to_owned(), "v".to_owned())].into());
        plain.with_schema(Arc::new(marked)).unwrap()
    }

    fn assert_plain(field: &Field) {
        assert!(field.metadata().is_empty());
        match field.data_type() {
            DataType::Utf8View
            | DataType::BinaryView
            | DataType::Dictionary(_, _)
            | DataType::LargeList(_)
            | DataType::ListView(_) => panic!("{field} is not plain"),
            DataType::List(item) => {
                assert!(item.is_nullable());
                assert_plain(item);
            }
            DataType::Struct(fields) => {
                for inner in fields {
                    assert!(inner.is_nullable());
                    assert_plain(inner);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn schemas_are_plain_nullable_and_stable() {
        let wire = wire_schema(&nested().schema());
        assert!(wire.metadata().is_empty());
        for field in wire.fields() {
            assert!(field.is_nullable());
            assert_plain(field);
        }
        assert_eq!(wire_schema(&wire), wire);
    }

    #[test]
    fn blocks_keep_their_values() {
        let block = nested();
        let wire = wire_schema(&block.schema());
        let cast = wire_block(&wire, block.clone()).unwrap();
        assert_eq!(cast.schema(), wire);
        let show = |block: &RecordBatch| {
            arrow::util::pretty::pretty_format_batches(std::slice::from_ref(block))
                .unwrap()
                .to_string()
        };
        assert_eq!(show(&cast), show(&block));
    }

    #[test]
    fn slices_are_cast_as_what_they_show() {
        let block = nested();
        let wire = wire_schema(&block.schema());
        let whole = wire_block(&wire, block.clone()).unwrap().slice(1, 2);
        let part = wire_block(&wire, block.slice(1, 2)).unwrap();
        assert_eq!(part, whole);
    }

    #[test]
    fn a_block_without_columns_keeps_its_rows() {
        let schema = wire_schema(&Schema::empty());
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let block = RecordBatch::try_new_with_options(Arc::clone(&schema), vec![], &options);
        assert_eq!(wire_block(&schema, block.unwrap()).unwrap().num_rows(), 3);
    }

    #[test]
    fn another_number_of_columns_is_refused() {
        let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
        let block = RecordBatch::try_from_iter(vec![("a", text)]).unwrap();
        let error = wire_block(&wire_schema(&Schema::empty()), block).unwrap_err();
        assert!(error.to_string().contains("0 columns was announced"));
    }
}
