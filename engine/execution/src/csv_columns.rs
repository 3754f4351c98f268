//! Columns of CSV files, found by their first rows.
//!
//! DataFusion looks for them in the pieces in which a file arrives, each by itself: where one ends
//! in a quoted value it is refused, where days are in one and times in another the column is text,
//! and a file whose rows do not end by line breaks is one piece. Here the first rows are looked
//! at together, and those of several files are brought together.

use std::sync::Arc;

use arrow::csv::reader::Format;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{Result, plan_datafusion_err, plan_err};
use datafusion::config::CsvOptions;
use datafusion::datasource::file_format::DEFAULT_SCHEMA_INFER_MAX_RECORD;
use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore};

use crate::json_rows;

/// Of a file that are read first: for its header, and for rows.
const FIRST_BYTES: (usize, usize) = (64 << 10, 5 << 20);
/// Of a file that are read at most.
const MOST_BYTES: usize = 256 << 20;
/// More are read where those before were not enough: so many times as many.
const GROWTH: usize = 4;

/// The columns of the first rows of `files`, as many as `options` say.
///
/// # Errors
/// A file that cannot be read, or whose header names a column twice.
pub(crate) async fn columns(
    store: &Arc<dyn ObjectStore>,
    files: &[ObjectMeta],
    options: &CsvOptions,
    has_header: bool,
) -> Result<Schema> {
    let said = options.schema_infer_max_rec;
    let rows = said.unwrap_or(DEFAULT_SCHEMA_INFER_MAX_RECORD);
    let (mut columns, mut left) = (vec![], rows);
    for file in files {
        let (found, read) = of_file(store, file, options, has_header, left).await?;
        if let Some(twice) = twice(&found) {
            return plan_err!(
                "the header of the CSV file /{} has the column \"{twice}\" more than once: say other names by schema",
                file.location
            );
        }
        add(&mut columns, &found);
        left = left.saturating_sub(read);
        if left == 0 {
            break;
        }
    }
    if rows == 0 {
        columns = columns
            .into_iter()
            .map(|column| column.with_data_type(DataType::Utf8))
            .collect();
    }
    Ok(Schema::new(columns))
}

/// The names of the columns of `file`, as its header has them.
///
/// # Errors
/// A file that cannot be read.
pub(crate) async fn header(
    store: &Arc<dyn ObjectStore>,
    file: &ObjectMeta,
    options: &CsvOptions,
) -> Result<Vec<String>> {
    let (found, _) = of_file(store, file, options, true, 0).await?;
    Ok(found.fields().iter().map(|f| f.name().clone()).collect())
}

/// The columns of the first `rows` rows of `file`, and how many it has of these.
async fn of_file(
    store: &Arc<dyn ObjectStore>,
    file: &ObjectMeta,
    options: &CsvOptions,
    has_header: bool,
    rows: usize,
) -> Result<(Schema, usize)> {
    let format = format(options, has_header);
    let mut chunks = json_rows::text(store, file, options.compression.into()).await?;
    // A header is all there once a row behind it is.
    let wanted_rows = rows.max(1);
    let (mut head, mut fault) = (vec![], None);
    let mut wanted = match rows {
        0 => FIRST_BYTES.0,
        _ => FIRST_BYTES.1,
    };
    loop {
        while head.len() < wanted
            && let Some(chunk) = chunks.try_next().await?
        {
            head.extend_from_slice(&chunk);
        }
        let is_all = head.len() < wanted;
        let is_last = is_all || wanted >= MOST_BYTES;
        match format.infer_schema(head.as_slice(), Some(wanted_rows)) {
            Ok((found, read)) if is_all || read == wanted_rows => {
                return Ok((found, read.min(rows)));
            }
            // The last row may be cut.
            Ok((_, read)) if is_last => {
                return Ok(format.infer_schema(head.as_slice(), Some(read.saturating_sub(1)))?);
            }
            Ok(_) => {}
            // What is wrong at the same place in a longer head is no row that is cut.
            Err(now) if is_last || fault.as_ref() == Some(&now.to_string()) => {
                return Err(plan_datafusion_err!(
                    "the CSV file /{} cannot be read: {now}",
                    file.location
                ));
            }
            Err(now) => fault = Some(now.to_string()),
        }
        wanted = MOST_BYTES.min(wanted * GROWTH);
    }
}

fn format(options: &CsvOptions, has_header: bool) -> Format {
    let mut format = Format::default()
        .with_header(has_header)
        .with_delimiter(options.delimiter)
        .with_quote(options.quote)
        .with_truncated_rows(options.truncated_rows.unwrap_or(false));
    if let Some(terminator) = options.terminator {
        format = format.with_terminator(terminator);
    }
    if let Some(escape) = options.escape {
        format = format.with_escape(escape);
    }
    if let Some(comment) = options.comment {
        format = format.with_comment(comment);
    }
    format
}

fn twice(found: &Schema) -> Option<&str> {
    let names: Vec<_> = found.fields().iter().map(|f| f.name().as_str()).collect();
    let again = names
        .iter()
        .enumerate()
        .find(|(at, name)| names[..*at].contains(name));
    again.map(|(_, name)| *name)
}

/// Brings the columns of a further file to those of the files before it.
fn add(columns: &mut Vec<Field>, found: &Schema) {
    for field in found.fields() {
        match columns
            .iter_mut()
            .find(|column| column.name() == field.name())
        {
            Some(column) => {
                let both = of_both(column.data_type(), field.data_type());
                *column = column.clone().with_data_type(both);
            }
            None => columns.push(Field::clone(field)),
        }
    }
}

/// The type of a column that has values of both, as within one file.
fn of_both(one: &DataType, other: &DataType) -> DataType {
    use DataType::{Date32, Float64, Int64, Null, Timestamp, Utf8};
    match (one, other) {
        (one, other) if one == other => one.clone(),
        (Null, some) | (some, Null) => some.clone(),
        (Int64, Float64) | (Float64, Int64) => Float64,
        (Date32, time @ Timestamp(..)) | (time @ Timestamp(..), Date32) => time.clone(),
        (Timestamp(one, zone), Timestamp(other, _)) => Timestamp(*one.max(other), zone.clone()),
        _ => Utf8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;
    use object_store::path::Path;

    async fn found(files: &[&str], options: &CsvOptions) -> Result<String> {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let mut metas = vec![];
        for (i, text) in files.iter().enumerate() {
            let path = Path::from(format!("{i}.csv"));
            store.put(&path, text.as_bytes().to_vec().into()).await?;
            metas.push(store.head(&path).await?);
        }
        let schema = columns(&store, &metas, options, true).await?;
        let fields = schema.fields().iter();
        let fields: Vec<_> = fields
            .map(|f| format!("{} {}", f.name(), f.data_type()))
            .collect();
        Ok(fields.join(", "))
    }

    fn options(rows: usize) -> CsvOptions {
        CsvOptions {
            schema_infer_max_rec: Some(rows),
            ..CsvOptions::default()
        }
    }

    #[tokio::test]
    async fn columns_are_those_of_the_first_rows_of_all_files() {
        let of = async |files: &[&str], rows| found(files, &options(rows)).await.unwrap();
        assert_eq!(
            of(&["a,b\n1,2024-01-01\n1.5,\n"], 1).await,
            "a Int64, b Date32"
        );
        assert_eq!(of(&["a,b\n1,\n1.5,\n"], 2).await, "a Float64, b Null");
        assert_eq!(of(&["a\n1\n", "a\n1.5\n"], 9).await, "a Float64");
        assert_eq!(of(&["a\n1\n", "a\nx\n"], 1).await, "a Int64");
        let times = ["a\n2024-01-01\n", "a\n2024-01-01T10:00:00.5\n", "a\n\n"];
        assert_eq!(of(&times, 9).await, "a Timestamp(ms)");
        assert_eq!(of(&["a\ntrue\n", "a\n1\n"], 9).await, "a Utf8");
        assert_eq!(of(&["a,b\n1,2\n"], 0).await, "a Utf8, b Utf8");
        assert_eq!(of(&["", "a\n1"], 9).await, "a Int64");
    }

    #[tokio::test]
    async fn values_go_over_lines_and_rows_end_as_they_are_said_to() {
        let row = "7,\"one\ntwo, \"\"2\"\"\nthree\"\n";
        let text = format!("a,b\n{}", row.repeat(FIRST_BYTES.1 / row.len() + 9));
        let all = found(&[&text], &options(usize::MAX)).await.unwrap();
        assert_eq!(all, "a Int64, b Utf8");
        let terminator = Some(b'|');
        let ends = CsvOptions {
            terminator,
            ..options(9)
        };
        let text = format!("a,b|{}", "7,x|".repeat(FIRST_BYTES.1));
        assert_eq!(found(&[&text], &ends).await.unwrap(), "a Int64, b Utf8");
    }

    #[tokio::test]
    async fn what_is_wrong_is_told_by_the_file() {
        let fault = async |text: &str| {
            let found = found(&["a,b\n1,2\n", text], &options(usize::MAX)).await;
            found.unwrap_err().strip_backtrace()
        };
        let twice = fault("a,b,a\n").await;
        assert!(
            twice.contains("/1.csv has the column \"a\" more than once"),
            "{twice}"
        );
        let long = format!("a,b\n1\n{}", "1,2\n".repeat(FIRST_BYTES.1));
        let uneven = fault(&long).await;
        assert!(
            uneven.contains("the CSV file /1.csv cannot be read"),
            "{uneven}"
        );
        assert!(uneven.contains("line 2"), "{uneven}");
    }
}
