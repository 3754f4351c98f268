//! The first rows of JSON files, by which their columns are found.
//!
//! Rows may go over several lines, in lines as in arrays. Of a file no more is read than its first
//! rows need, and never more than [`MOST_BYTES`].

use std::io::Read;
use std::sync::Arc;

use arrow::datatypes::Schema;
use arrow::json::reader::infer_json_schema_from_iterator;
use bytes::Bytes;
use datafusion::common::{DataFusionError, Result, plan_datafusion_err, plan_err};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion_datasource_json::utils::JsonArrayToNdjsonReader;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use mobula_plan::JsonLayout;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde::de::IgnoredAny;
use serde_json::{Deserializer, Value};

/// Of a file that are read first.
const FIRST_BYTES: usize = 1 << 20;
/// Of a file that are read at most.
const MOST_BYTES: usize = 256 << 20;
/// More are read where those before were not enough: so many times as many.
const GROWTH: usize = 4;

/// The columns of the first `rows` rows of `files`.
///
/// # Errors
/// A file that cannot be read, or a row that is no object.
pub(crate) async fn columns(
    store: &Arc<dyn ObjectStore>,
    files: &[ObjectMeta],
    compression: FileCompressionType,
    rows: usize,
) -> Result<Schema> {
    if rows == 0 {
        return plan_err!(
            "columns of JSON cannot be found by 0 rows: say schema, or how many to look at"
        );
    }
    let mut all = vec![];
    for file in files {
        if all.len() == rows {
            break;
        }
        let text = text(store, file, compression).await?;
        all.extend(first_rows(file, text, rows - all.len()).await?);
    }
    Ok(infer_json_schema_from_iterator(all.iter().map(Ok))?)
}

/// How the rows of `file` follow each other, by its first line; `None`: it has none.
///
/// # Errors
/// A file that cannot be read.
pub(crate) async fn layout(
    store: &Arc<dyn ObjectStore>,
    file: &ObjectMeta,
    compression: FileCompressionType,
) -> Result<Option<JsonLayout>> {
    let mut text = text(store, file, compression).await?;
    let mut head = vec![];
    loop {
        let chunk = text.try_next().await?;
        let is_all = chunk.is_none() || head.len() >= FIRST_BYTES;
        head.extend_from_slice(&chunk.unwrap_or_default());
        let rows = head.trim_ascii_start();
        let Some(first) = rows.first() else {
            if is_all {
                return Ok(None);
            }
            continue;
        };
        let line_end = rows.iter().position(|byte| *byte == b'\n');
        if *first == b'[' || is_all || line_end.is_some() {
            let line = &rows[..line_end.unwrap_or(rows.len())];
            // What is wrong in another way is told when it is read.
            let goes_on = serde_json::from_slice::<IgnoredAny>(line).is_err_and(|e| e.is_eof());
            return Ok(Some(match goes_on && line_end.is_some() {
                true => JsonLayout::Array,
                false => JsonLayout::beginning(Some(*first)),
            }));
        }
    }
}

pub(crate) type Chunks = BoxStream<'static, Result<Bytes>>;

/// The bytes of `file`, as they were before they were compressed.
///
/// # Errors
/// A file that cannot be read.
pub(crate) async fn text(
    store: &Arc<dyn ObjectStore>,
    file: &ObjectMeta,
    compression: FileCompressionType,
) -> Result<Chunks> {
    let chunks = store.get(&file.location).await?.into_stream();
    let text = compression.convert_stream(chunks.map_err(DataFusionError::from).boxed())?;
    let path = file.location.clone();
    // What cannot be decompressed is told without the file.
    let named = text.map_err(move |error| match error {
        DataFusionError::IoError(e) => {
            std::io::Error::new(e.kind(), format!("{e}, in the file /{path}")).into()
        }
        other => other,
    });
    Ok(named.boxed())
}

async fn first_rows(file: &ObjectMeta, mut chunks: Chunks, rows: usize) -> Result<Vec<Value>> {
    let mut head = vec![];
    let mut wanted = FIRST_BYTES;
    let mut found = Found::default();
    loop {
        let mut is_all = true;
        while let Some(chunk) = chunks.try_next().await? {
            head.extend_from_slice(&chunk);
            if head.len() >= wanted {
                is_all = false;
                break;
            }
        }
        let first = head.iter().find(|byte| !byte.is_ascii_whitespace());
        let layout = JsonLayout::beginning(first.copied());
        let fault = found.more(&head, layout, rows)?;
        let is_cut = !is_all && fault.as_ref().is_none_or(serde_json::Error::is_eof);
        if let Some(fault) = fault
            && !is_cut
        {
            // Where in the file, the row says: the reader counts from where it went on.
            let fault = fault.to_string();
            let what = fault.split(" at line").next().unwrap_or(&fault);
            let (row, file) = (found.rows.len() + 1, &file.location);
            return plan_err!("row {row} of the JSON file /{file} cannot be read: {what}");
        }
        if wanted >= MOST_BYTES && found.rows.is_empty() && !is_all {
            return plan_err!(
                "the first row of the JSON file /{} is longer than {} MB, by which no columns are found: say schema",
                file.location,
                MOST_BYTES >> 20
            );
        }
        if is_all || found.rows.len() == rows || wanted >= MOST_BYTES {
            return objects(file, found.rows);
        }
        wanted = MOST_BYTES.min(wanted * GROWTH);
    }
}

/// Rows of the head of a file.
#[derive(Default)]
struct Found {
    rows: Vec<Value>,
    /// Where the next one begins, in the text of all rows without an array around them.
    next: usize,
}

impl Found {
    /// Adds the rows of a longer `head`, up to the first that is none: what is wrong with that.
    fn more(
        &mut self,
        head: &[u8],
        layout: JsonLayout,
        most: usize,
    ) -> std::io::Result<Option<serde_json::Error>> {
        let mut lines = vec![];
        let lines = match layout {
            JsonLayout::Lines => head,
            JsonLayout::Array => {
                JsonArrayToNdjsonReader::new(head).read_to_end(&mut lines)?;
                &lines
            }
        };
        let mut values = Deserializer::from_slice(&lines[self.next..]).into_iter();
        let start = self.next;
        while self.rows.len() < most {
            match values.next() {
                Some(Ok(mut value)) => {
                    made_inferable(&mut value);
                    self.rows.push(value);
                }
                Some(Err(fault)) => return Ok(Some(fault)),
                None => break,
            }
            self.next = start + values.byte_offset();
        }
        Ok(None)
    }
}

/// Makes `value` one by which columns are found: with no NULL in arrays, beside which Arrow takes a list or
/// an object for neither, and with numbers that only BIGINT UNSIGNED has room for as texts, as CSV
/// has them; they would be rounded.
fn made_inferable(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.retain(|item| !item.is_null());
            items.iter_mut().for_each(made_inferable);
        }
        Value::Object(fields) => fields.values_mut().for_each(made_inferable),
        Value::Number(number) if number.is_u64() && !number.is_i64() => {
            *value = Value::String(number.to_string());
        }
        _ => {}
    }
}

fn objects(file: &ObjectMeta, rows: Vec<Value>) -> Result<Vec<Value>> {
    match rows.iter().position(|row| !row.is_object()) {
        None => Ok(rows),
        Some(at) => Err(plan_datafusion_err!(
            "row {} of the JSON file /{} is {}, not an object such as {{\"a\": 1}}",
            at + 1,
            file.location,
            rows[at]
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;
    use object_store::path::Path;

    async fn found(files: &[&str], rows: usize) -> Result<String> {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let mut metas = vec![];
        for (i, text) in files.iter().enumerate() {
            let path = Path::from(format!("{i}.json"));
            store.put(&path, text.as_bytes().to_vec().into()).await?;
            metas.push(store.head(&path).await?);
        }
        let plain = FileCompressionType::UNCOMPRESSED;
        let schema = columns(&store, &metas, plain, rows).await?;
        let fields = schema.fields().iter();
        let fields: Vec<_> = fields
            .map(|f| format!("{} {}", f.name(), f.data_type()))
            .collect();
        Ok(fields.join(", "))
    }

    #[tokio::test]
    async fn columns_are_those_of_the_first_rows() {
        let lines = "{\"a\": 1}\n\n{\n\"a\": 2.5,\n\"b\": null}\n{\"c\": 1}";
        let files = [lines];
        let of = |rows| found(&files, rows);
        assert_eq!(of(1).await.unwrap(), "a Int64");
        assert_eq!(of(2).await.unwrap(), "a Float64, b Null");
        assert_eq!(of(9).await.unwrap(), "a Float64, b Null, c Int64");
        let both = found(&["{\"a\": 1}", "", "{\"a\": \"x\"}"], 9);
        assert_eq!(both.await.unwrap(), "a Utf8");
        let array = found(&["[{\"a\": [[1], null, [null, 2]]},\n {\"a\": null}]"], 9);
        assert_eq!(array.await.unwrap(), "a List(List(Int64))");
        let large = found(&["{\"a\": 1}{\"a\": 18446744073709551615}"], 9);
        assert_eq!(large.await.unwrap(), "a Utf8");
    }

    #[tokio::test]
    async fn long_files_are_read_as_far_as_needed() {
        let long = "x".repeat(FIRST_BYTES);
        let text = format!("{{\"a\": \"{long}\"}}\n{{\"b\": \"{long}\"}}\n{{\"c\": ");
        let files = [text.as_str()];
        let of = |rows| found(&files, rows);
        assert_eq!(of(2).await.unwrap(), "a Utf8, b Utf8");
        let cut = of(3).await.unwrap_err().to_string();
        assert!(
            cut.contains("row 3 of the JSON file /0.json cannot be read: EOF"),
            "{cut}"
        );
    }

    #[tokio::test]
    async fn what_is_no_row_is_told() {
        for (text, error) in [
            (
                "{\"a\": 1}\n7",
                "row 2 of the JSON file /0.json is 7, not an object",
            ),
            (
                "{\"a\": 1}\nx",
                "row 2 of the JSON file /0.json cannot be read: expected value",
            ),
            ("[\"a\"]", "row 1 of the JSON file /0.json is \"a\""),
        ] {
            let failed = found(&[text], 9).await.unwrap_err().to_string();
            assert!(failed.contains(error), "{failed}");
        }
        assert!(found(&["{}"], 0).await.is_err());
    }
}
