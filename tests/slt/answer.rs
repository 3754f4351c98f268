//! Rows as text, one function for both modes.
//!
//! `NULL` and `(empty)` are told apart, a newline inside a value is written
//! `\n`, everything else is as Arrow shows it. Column types are `I` for
//! integers, `R` for floats and decimals, `T` for the rest, so that a changed
//! type fails a file even where its text looks the same.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use sqllogictest::{DBOutput, DefaultColumnType};

/// `blocks` of `schema` as an answer.
///
/// # Errors
/// A value that Arrow cannot show.
pub fn rows(
    schema: &Schema,
    blocks: &[RecordBatch],
) -> Result<DBOutput<DefaultColumnType>, ArrowError> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for block in blocks {
        let columns = block.columns().iter();
        let columns: Vec<_> = columns
            .map(|column| ArrayFormatter::try_new(column, &options))
            .collect::<Result<_, _>>()?;
        for row in 0..block.num_rows() {
            rows.push(
                columns
                    .iter()
                    .map(|c| cell(&c.value(row).to_string()))
                    .collect(),
            );
        }
    }
    let types = schema
        .fields()
        .iter()
        .map(|field| column_type(field.data_type()));
    Ok(DBOutput::Rows {
        types: types.collect(),
        rows,
    })
}

fn cell(text: &str) -> String {
    match text {
        "" => "(empty)".to_owned(),
        text => text.replace('\n', "\\n"),
    }
}

fn column_type(data_type: &DataType) -> DefaultColumnType {
    match data_type {
        t if t.is_integer() => DefaultColumnType::Integer,
        t if t.is_floating() || t.is_decimal() => DefaultColumnType::FloatingPoint,
        _ => DefaultColumnType::Text,
    }
}

#[test]
fn null_empty_and_newlines_are_told_apart() {
    use arrow::array::{ArrayRef, Int8Array, StringArray};
    use std::sync::Arc;
    let texts = StringArray::from(vec![Some(""), None, Some("a\nb")]);
    let block = RecordBatch::try_from_iter([
        ("t", Arc::new(texts) as ArrayRef),
        ("n", Arc::new(Int8Array::from(vec![1, 2, 3])) as ArrayRef),
    ])
    .unwrap();
    let DBOutput::Rows { types, rows } = rows(&block.schema(), &[block]).unwrap() else {
        unreachable!("rows are rows");
    };
    assert_eq!(types, [DefaultColumnType::Text, DefaultColumnType::Integer]);
    assert_eq!(rows, [["(empty)", "1"], ["NULL", "2"], ["a\\nb", "3"]]);
}
