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
use serde_json::{Deserializer, Value};

/// Of a file that are read first.
const FIRST_BYTES: usize = 1 << 20;
/// Of a file that are read at most.
const MOST_BYTES: usize = 64 << 20;
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
    layout: JsonLayout,
    rows: usize,
) -> Result<Schema> {
    if rows == 0 {
        return plan_err!("columns of JSON cannot be found by 0 rows: say schema, or how many to look at");
    }
    let mut all = vec![];
    for file in files {
        if all.len() == rows {
            break;
        }
        let text = text(store, file, compression).await?;
        all.extend(first_rows(file, text, layout, rows - all.len()).await?);
    }
    Ok(infer_json_schema_from_iterator(all.iter().map(Ok))?)
}

/// How the rows of `file` follow each other; `None`: it has none.
///
/// # Errors
/// A file that cannot be read.
pub(crate) async fn layout(
    store: &Arc<dyn ObjectStore>,
    file: &ObjectMeta,
    compression: FileCompressionType,
) -> Result<Option<JsonLayout>> {
    let mut text = text(store, file, compression).await?;
    while let Some(chunk) = text.try_next().await? {
        match chunk.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'[') => return Ok(Some(JsonLayout::Array)),
            Some(_) => return Ok(Some(JsonLayout::Lines)),
            None => {}
        }
    }
    Ok(None)
}

type Chunks = BoxStream<'static, Result<Bytes>>;

async fn text(
    store: &Arc<dyn ObjectStore>,
    file: &ObjectMeta,
    compression: FileCompressionType,
) -> Result<Chunks> {
    let chunks = store.get(&file.location).await?.into_stream();
    compression.convert_stream(chunks.map_err(DataFusionError::from).boxed())
}

async fn first_rows(
    file: &ObjectMeta,
    mut chunks: Chunks,
    layout: JsonLayout,
    rows: usize,
) -> Result<Vec<Value>> {
    let mut head = vec![];
    let mut wanted = FIRST_BYTES;
    loop {
        let mut is_all = true;
        while let Some(chunk) = chunks.try_next().await? {
            head.extend_from_slice(&chunk);
            if head.len() >= wanted {
                is_all = false;
                break;
            }
        }
        let (found, fault) = parsed(&head, layout, rows)?;
        let is_cut = !is_all && fault.as_ref().is_none_or(serde_json::Error::is_eof);
        if let Some(fault) = fault
            && !is_cut
        {
            return plan_err!("the JSON file /{} cannot be read: {fault}", file.location);
        }
        if is_all || found.len() == rows || wanted >= MOST_BYTES {
            return objects(file, found);
        }
        wanted = MOST_BYTES.min(wanted * GROWTH);
    }
}

/// Rows at the beginning of `head`, up to the first that is none.
fn parsed(
    head: &[u8],
    layout: JsonLayout,
    rows: usize,
) -> std::io::Result<(Vec<Value>, Option<serde_json::Error>)> {
    let mut lines = vec![];
    let lines = match layout {
        JsonLayout::Lines => head,
        JsonLayout::Array => {
            JsonArrayToNdjsonReader::new(head).read_to_end(&mut lines)?;
            &lines
        }
    };
    let mut found = vec![];
    for value in Deserializer::from_slice(lines).into_iter().take(rows) {
        match value {
            Ok(value) => found.push(value),
            Err(fault) => return Ok((found, Some(fault))),
        }
    }
    Ok((found, None))
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
