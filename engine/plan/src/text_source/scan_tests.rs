//! Scans of files that come in chunks, as those of object stores do.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::util::pretty::pretty_format_batches;
use datafusion::common::Result;
use datafusion::common::config::CsvOptions;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::listing::{FileRange, PartitionedFile};
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, JsonSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};
use datafusion::prelude::SessionContext;
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec,
};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};

use super::{JsonLayout, TextFormat, TextSource, TypesFrom};
use crate::MobulaCodec;

const STORE: &str = "memory://store";

fn schema() -> Arc<Schema> {
    let seconds = DataType::Timestamp(TimeUnit::Second, None);
    Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("at", seconds, true),
    ]))
}

/// A scan of a file with so many bytes, cut at `cuts`, each part in a stream of its own.
fn scan(
    format: TextFormat,
    types: TypesFrom,
    columns: &[usize],
    bytes: usize,
    cuts: &[usize],
) -> Arc<dyn ExecutionPlan> {
    let url = ObjectStoreUrl::parse(STORE).unwrap();
    let starts = [&[0], cuts].concat();
    let ends = [cuts, &[bytes]].concat();
    let part = |(start, end): (&usize, &usize)| {
        let mut file = PartitionedFile::new("file", bytes as u64);
        file.range = (!cuts.is_empty()).then_some(FileRange {
            start: *start as i64,
            end: *end as i64,
        });
        FileGroup::new(vec![file])
    };
    let parts = starts.iter().zip(&ends).map(part);
    let files = FileScanConfigBuilder::new(url, Arc::new(JsonSource::new(schema())))
        .with_file_groups(parts.collect())
        .with_projection_indices(Some(columns.to_vec()))
        .unwrap();
    let files = DataSourceExec::from_data_source(files.build());
    TextSource::in_place(&(files as _), format, types).unwrap()
}

async fn rows(text: &str, plan: Arc<dyn ExecutionPlan>) -> Result<String> {
    let store = InMemory::new();
    let payload = PutPayload::from(text.as_bytes().to_vec());
    store.put(&Path::from("file"), payload).await.unwrap();
    let context = SessionContext::new();
    let url = ObjectStoreUrl::parse(STORE).unwrap();
    context.register_object_store(url.as_ref(), Arc::new(store));
    let batches: Vec<RecordBatch> = collect(plan, context.task_ctx()).await?;
    Ok(pretty_format_batches(&batches)?.to_string())
}

const JSON: &str = r#"{"n": 1, "at": "2024-01-01T00:00:01"}
{"n": 2, "b": 5}
{"n": 3}
"#;

#[tokio::test]
async fn json_is_read_in_lines_parts_and_arrays() {
    let declared = TypesFrom::Declaration;
    let lines = TextFormat::Json(JsonLayout::Lines);
    let whole = scan(lines.clone(), declared, &[1, 0], JSON.len(), &[]);
    let read = rows(JSON, whole).await.unwrap();
    assert!(read.contains("| 2024-01-01T00:00:01 | 1 |"), "{read}");
    assert_eq!(read.lines().count(), 3 + 4);
    for cut in 1..JSON.len() {
        let plan = scan(lines.clone(), declared, &[1, 0], JSON.len(), &[cut]);
        let read = rows(JSON, plan).await.unwrap();
        assert_eq!(read.lines().count(), 3 + 4, "cut at {cut}: {read}");
    }
    let array = format!(" [{}]", JSON.trim().replace('\n', ", "));
    let plan = |text: &str| {
        let format = TextFormat::Json(JsonLayout::Array);
        scan(format, declared, &[0], text.len(), &[])
    };
    let read = rows(&array, plan(&array)).await.unwrap();
    assert_eq!(read.lines().count(), 3 + 4, "{read}");
    for (text, error) in [
        (
            array.trim_end_matches(']').to_owned(),
            "Incomplete JSON array",
        ),
        (array.clone() + "7", "unexpected trailing content"),
    ] {
        let failed = rows(&text, plan(&text)).await.unwrap_err().to_string();
        assert!(
            failed.contains(error) && failed.ends_with("in the file /file"),
            "{failed}"
        );
    }
    // An array among files of lines has all its rows in its first part.
    for cut in [1, 2, array.len() / 2, array.len() - 1] {
        let plan = scan(lines.clone(), declared, &[0], array.len(), &[cut]);
        let read = rows(&array, plan).await.unwrap();
        assert_eq!(read.lines().count(), 3 + 4, "cut at {cut}: {read}");
    }
    // Each file is read as it begins.
    let read = rows(JSON, plan(JSON)).await.unwrap();
    assert_eq!(read.lines().count(), 3 + 4, "{read}");
}

#[tokio::test]
async fn keys_have_to_be_known_where_all_columns_are_read() {
    let lines = TextFormat::Json(JsonLayout::Lines);
    let found = TypesFrom::FirstRows(1);
    let plan = |columns: &[usize]| scan(lines.clone(), found, columns, JSON.len(), &[]);
    assert!(rows(JSON, plan(&[0])).await.is_ok());
    assert!(rows(JSON, plan(&[])).await.is_ok());
    let failed = rows(JSON, plan(&[1, 0])).await.unwrap_err().to_string();
    assert!(
        failed.contains("the key \"b\" of the JSON file /file"),
        "{failed}"
    );
}

#[tokio::test]
async fn scans_arrive_with_all_they_say() {
    let csv = CsvOptions {
        has_header: Some(false),
        delimiter: b';',
        terminator: Some(b'~'),
        escape: Some(b'\\'),
        comment: Some(b'#'),
        newlines_in_values: Some(true),
        truncated_rows: Some(true),
        ..CsvOptions::default()
    };
    for (format, types) in [
        (TextFormat::Csv(Box::new(csv)), TypesFrom::FirstRows(7)),
        (TextFormat::Json(JsonLayout::Array), TypesFrom::Declaration),
    ] {
        let sent = scan(format.clone(), types, &[1], 9, &[]);
        let mut config = config(&sent);
        config.file_compression_type = FileCompressionType::ZSTD;
        let sent = DataSourceExec::from_data_source(config) as Arc<dyn ExecutionPlan>;
        let bytes = physical_plan_to_bytes_with_extension_codec(Arc::clone(&sent), &MobulaCodec);
        let context = SessionContext::new().task_ctx();
        let arrived =
            physical_plan_from_bytes_with_extension_codec(&bytes.unwrap(), &context, &MobulaCodec)
                .unwrap();
        let shown =
            |plan: &Arc<dyn ExecutionPlan>| displayable(plan.as_ref()).one_line().to_string();
        assert_eq!(shown(&sent), shown(&arrived));
        assert_eq!(sent.schema(), arrived.schema());
        let arrived = self::config(&arrived);
        assert_eq!(arrived.file_compression_type, FileCompressionType::ZSTD);
        let source = arrived.file_source().downcast_ref::<TextSource>().unwrap();
        assert_eq!((&source.format, source.types), (&format, types));
    }
}

fn config(scan: &Arc<dyn ExecutionPlan>) -> FileScanConfig {
    let scan = scan.downcast_ref::<DataSourceExec>().unwrap();
    let config = scan.data_source().downcast_ref::<FileScanConfig>();
    config.unwrap().clone()
}
