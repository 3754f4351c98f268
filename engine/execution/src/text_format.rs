//! CSV and JSON of which nothing is lost behind their first rows.
//!
//! Columns and their types are those of the first rows where nobody says them. So types have room
//! for what may come later: a column that is empty so far is text, and timestamps have
//! microseconds. What does not fit all the same is an error (`mobula_plan::TextSource`).
//!
//! JSON that begins with `[` has its rows in an array.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::config::CsvOptions;
use datafusion::common::{GetExt, Result, Statistics, plan_datafusion_err};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory, FileMeta};
use datafusion::datasource::physical_plan::{
    CsvSource, FileScanConfig, FileSinkConfig, FileSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::{LexOrdering, LexRequirement};
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;
use mobula_plan::{JsonLayout, TextFormat, TextSource, TypesFrom};
use object_store::{ObjectMeta, ObjectStore};

use crate::json_rows;

/// Most rows by which columns are found, and fewest, unless a table says another number.
const ROWS_LOOKED_AT: std::ops::RangeInclusive<usize> = 1_000..=10_000;
/// Of rows by which columns are found, about: fewer rows where they are long.
const BYTES_LOOKED_AT: usize = 4 << 20;
/// Of a file, by which the length of rows is found.
const HEAD_BYTES: usize = 64 << 10;
/// How a table says another number.
const ROWS_OPTION: &str = "format.schema_infer_max_rec";
/// How a table says whether rows of JSON are lines.
const LINES_OPTION: &str = "format.newline_delimited";

/// Makes [`ExactText`] of the formats of another factory; see the head of this file.
#[derive(Debug)]
pub(crate) struct ExactTextFactory(Arc<dyn FileFormatFactory>);

impl ExactTextFactory {
    /// `inner` makes CSV or JSON.
    pub(crate) fn new(inner: Arc<dyn FileFormatFactory>) -> Self {
        Self(inner)
    }

    fn exact_text(
        &self,
        inner: Arc<dyn FileFormat>,
        options: HashMap<String, String>,
    ) -> Result<Arc<dyn FileFormat>> {
        let rows = options.get(ROWS_OPTION).map(|rows| {
            rows.parse().map_err(|_| {
                plan_datafusion_err!("{ROWS_OPTION} is {rows}. It takes a number of rows")
            })
        });
        let is_said = options.contains_key(LINES_OPTION);
        let text = ExactText {
            inner,
            rows: rows.transpose()?,
            rows_looked_at: OnceLock::new(),
            layout: OnceLock::new(),
            factory: Arc::clone(&self.0),
            options,
        };
        if let Some(said) = text.said_layout().filter(|_| is_said) {
            text.layout.get_or_init(|| said);
        }
        Ok(Arc::new(text))
    }
}

impl FileFormatFactory for ExactTextFactory {
    fn create(
        &self,
        state: &dyn Session,
        options: &HashMap<String, String>,
    ) -> Result<Arc<dyn FileFormat>> {
        self.exact_text(self.0.create(state, options)?, options.clone())
    }

    fn default(&self) -> Arc<dyn FileFormat> {
        let inner = self.0.default();
        // Without options, none is wrong.
        let exact = self.exact_text(Arc::clone(&inner), HashMap::new());
        exact.unwrap_or(inner)
    }
}

impl GetExt for ExactTextFactory {
    fn get_ext(&self) -> String {
        self.0.get_ext()
    }
}

/// CSV or JSON, read by [`TextSource`].
#[derive(Debug)]
struct ExactText {
    inner: Arc<dyn FileFormat>,
    /// By which columns are found, where a table says it.
    rows: Option<usize>,
    /// By which columns were found; none: they were declared.
    rows_looked_at: OnceLock<usize>,
    /// Of JSON, once it is said or seen.
    layout: OnceLock<JsonLayout>,
    /// What made `inner`, by `options`.
    factory: Arc<dyn FileFormatFactory>,
    options: HashMap<String, String>,
}

impl ExactText {
    fn compression(&self) -> FileCompressionType {
        let compression = self.inner.compression_type();
        compression.unwrap_or(FileCompressionType::UNCOMPRESSED)
    }

    /// What the format of JSON takes rows for; `None`: it is CSV.
    fn said_layout(&self) -> Option<JsonLayout> {
        let json = self.inner.downcast_ref::<JsonFormat>()?;
        Some(match json.is_newline_delimited() {
            true => JsonLayout::Lines,
            false => JsonLayout::Array,
        })
    }

    /// How rows of JSON follow each other in `files`, by the first that has any.
    async fn json_layout(
        &self,
        store: &Arc<dyn ObjectStore>,
        files: impl Iterator<Item = &ObjectMeta>,
    ) -> Result<JsonLayout> {
        if let Some(layout) = self.layout.get() {
            return Ok(*layout);
        }
        for file in files {
            if let Some(seen) = json_rows::layout(store, file, self.compression()).await? {
                return Ok(*self.layout.get_or_init(|| seen));
            }
        }
        Ok(JsonLayout::Lines)
    }

    fn types(&self) -> TypesFrom {
        let rows = self.rows_looked_at.get();
        rows.map_or(TypesFrom::Declaration, |rows| TypesFrom::FirstRows(*rows))
    }

    /// The columns of the first `rows` rows of `files`.
    async fn columns(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        files: &[ObjectMeta],
        rows: usize,
    ) -> Result<Schema> {
        if self.said_layout().is_some() {
            return json_rows::columns(store, files, self.compression(), rows).await;
        }
        let mut options = self.options.clone();
        options.insert(ROWS_OPTION.to_owned(), rows.to_string());
        let format = self.factory.create(state, &options)?;
        let found = format.infer_schema(state, store, files).await?;
        Ok(Schema::clone(&found))
    }

    /// By how many rows the columns of `files` are found.
    async fn rows_to_look_at(
        &self,
        store: &Arc<dyn ObjectStore>,
        files: &[ObjectMeta],
    ) -> Result<usize> {
        let (fewest, most) = ROWS_LOOKED_AT.into_inner();
        let Some(file) = files.iter().find(|file| file.size > 0) else {
            return Ok(self.rows.unwrap_or(most));
        };
        if let Some(rows) = self.rows {
            return Ok(rows);
        }
        let mut text = json_rows::text(store, file, self.compression()).await?;
        let (mut bytes, mut lines) = (0, 0);
        while bytes < HEAD_BYTES
            && let Some(chunk) = text.try_next().await?
        {
            bytes += chunk.len();
            lines += chunk.iter().filter(|byte| **byte == b'\n').count();
        }
        let rows = BYTES_LOOKED_AT.saturating_mul(lines) / bytes.max(1);
        Ok(rows.clamp(fewest, most))
    }

    /// How the files of `scan` are written; `None`: it is no scan of text.
    async fn text_format(
        &self,
        state: &dyn Session,
        scan: &dyn ExecutionPlan,
    ) -> Result<Option<TextFormat>> {
        let scan = scan
            .downcast_ref::<DataSourceExec>()
            .map(DataSourceExec::data_source);
        let Some(scan) = scan.and_then(|scan| scan.downcast_ref::<FileScanConfig>()) else {
            return Ok(None);
        };
        if let Some(csv) = scan.file_source().downcast_ref::<CsvSource>() {
            let options = Box::new(csv_options(csv));
            return Ok(Some(TextFormat::Csv(options)));
        }
        let store = state.runtime_env().object_store(&scan.object_store_url)?;
        let files = scan.file_groups.iter().flat_map(|group| group.iter());
        let files = files.map(|file| &file.object_meta);
        let layout = self.json_layout(&store, files).await?;
        Ok(Some(TextFormat::Json(layout)))
    }
}

/// All options by which `csv` reads.
fn csv_options(csv: &CsvSource) -> CsvOptions {
    CsvOptions {
        has_header: Some(csv.has_header()),
        delimiter: csv.delimiter(),
        quote: csv.quote(),
        terminator: csv.terminator(),
        escape: csv.escape(),
        comment: csv.comment(),
        newlines_in_values: Some(csv.newlines_in_values()),
        truncated_rows: Some(csv.truncate_rows()),
        ..CsvOptions::default()
    }
}

/// `schema`, with room for what may come behind the rows that it was found by.
fn roomy(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter();
    let fields: Vec<_> = fields.map(roomy_field).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn roomy_field(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Null => DataType::Utf8,
        DataType::Timestamp(TimeUnit::Second | TimeUnit::Millisecond, zone) => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
        }
        DataType::List(item) => DataType::List(roomy_field(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(roomy_field).collect()),
        other => other.clone(),
    };
    Arc::new(Field::clone(field).with_data_type(data_type))
}

#[async_trait]
impl FileFormat for ExactText {
    fn get_ext(&self) -> String {
        self.inner.get_ext()
    }

    fn get_ext_with_compression(&self, kind: &FileCompressionType) -> Result<String> {
        self.inner.get_ext_with_compression(kind)
    }

    fn compression_type(&self) -> Option<FileCompressionType> {
        self.inner.compression_type()
    }

    async fn infer_schema(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        objects: &[ObjectMeta],
    ) -> Result<SchemaRef> {
        let rows = self.rows_to_look_at(store, objects).await?;
        let schema = self.columns(state, store, objects, rows).await?;
        self.rows_looked_at.get_or_init(|| rows);
        Ok(roomy(&schema))
    }

    async fn infer_stats(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        table_schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<Statistics> {
        let found = self.inner.infer_stats(state, store, table_schema, object);
        found.await
    }

    async fn infer_ordering(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        table_schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<Option<LexOrdering>> {
        let found = self
            .inner
            .infer_ordering(state, store, table_schema, object);
        found.await
    }

    async fn infer_stats_and_ordering(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        table_schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<FileMeta> {
        let found = self
            .inner
            .infer_stats_and_ordering(state, store, table_schema, object);
        found.await
    }

    async fn create_physical_plan(
        &self,
        state: &dyn Session,
        scan: FileScanConfig,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let scan = self.inner.create_physical_plan(state, scan).await?;
        match self.text_format(state, scan.as_ref()).await? {
            Some(format) => TextSource::in_place(&scan, format, self.types()),
            None => Ok(scan),
        }
    }

    async fn create_writer_physical_plan(
        &self,
        input: Arc<dyn ExecutionPlan>,
        state: &dyn Session,
        sink: FileSinkConfig,
        order: Option<LexRequirement>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = self
            .inner
            .create_writer_physical_plan(input, state, sink, order);
        plan.await
    }

    fn file_source(&self, table_schema: TableSchema) -> Arc<dyn FileSource> {
        self.inner.file_source(table_schema)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_room_for_later_rows() {
        let seconds = DataType::Timestamp(TimeUnit::Second, None);
        let inside = DataType::new_list(DataType::Null, true);
        let nested = DataType::Struct(vec![Field::new("l", inside, true)].into());
        let found = Schema::new(vec![
            Field::new("empty", DataType::Null, true),
            Field::new("at", seconds, true),
            Field::new("s", nested, true),
            Field::new("n", DataType::Int64, true),
        ]);
        let types: Vec<_> = roomy(&found)
            .fields()
            .iter()
            .map(|f| f.data_type().to_string())
            .collect();
        let nested = DataType::Struct(
            vec![Field::new(
                "l",
                DataType::new_list(DataType::Utf8, true),
                true,
            )]
            .into(),
        );
        assert_eq!(
            types,
            ["Utf8", "Timestamp(µs)", &nested.to_string(), "Int64"]
        );
    }
}
