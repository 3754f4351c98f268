//! CSV that is cut only where its rows begin.
//!
//! DataFusion reads a large file in parts, and lets a part begin after any line break. In a quoted
//! value that is in the middle of a row: rows come wrong, and nobody is told. A table may say that
//! its values have line breaks (`format.newlines_in_values`), and then no file of it is cut. Of one
//! that says nothing, files are looked through before they are cut, and what was found is
//! remembered. They are not looked through, and not cut, where that is of little use: for a LIMIT,
//! where there are files enough for all, and where looking means to fetch them.
//!
//! Headers are held against the columns that are read (`csv_header`), and columns found by rows that
//! are looked at together (`csv_columns`).

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{GetExt, Result, Statistics};
use datafusion::config::CsvOptions;
use datafusion::datasource::file_format::csv::{CsvFormat, CsvFormatFactory};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory, FileMeta};
use datafusion::datasource::physical_plan::{FileScanConfig, FileSinkConfig, FileSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_expr::{LexOrdering, LexRequirement};
use datafusion::physical_plan::ExecutionPlan;
use object_store::{ObjectMeta, ObjectStore};

use crate::csv_columns;
use crate::csv_header::Headers;
use crate::csv_rows::{Dialect, Looked};

/// Files for each stream of a scan from which on none need be cut.
const FILES_A_STREAM: usize = 4;

/// Makes [`WholeRows`]; see the head of this file.
#[derive(Debug, Default)]
pub(crate) struct WholeRowsFactory {
    csv: CsvFormatFactory,
    looked: Arc<Looked>,
    headers: Arc<Headers>,
}

impl FileFormatFactory for WholeRowsFactory {
    fn create(
        &self,
        state: &dyn Session,
        options: &HashMap<String, String>,
    ) -> Result<Arc<dyn FileFormat>> {
        Ok(self.whole_rows(self.csv.create(state, options)?))
    }

    fn default(&self) -> Arc<dyn FileFormat> {
        self.whole_rows(FileFormatFactory::default(&self.csv))
    }
}

impl WholeRowsFactory {
    fn whole_rows(&self, csv: Arc<dyn FileFormat>) -> Arc<dyn FileFormat> {
        Arc::new(WholeRows {
            csv,
            looked: Arc::clone(&self.looked),
            headers: Arc::clone(&self.headers),
        })
    }
}

impl GetExt for WholeRowsFactory {
    fn get_ext(&self) -> String {
        self.csv.get_ext()
    }
}

/// DataFusion's CSV, but for which files are cut.
#[derive(Debug)]
struct WholeRows {
    csv: Arc<dyn FileFormat>,
    looked: Arc<Looked>,
    headers: Arc<Headers>,
}

impl WholeRows {
    /// The format, where files have headers.
    fn with_header(&self, state: &dyn Session) -> Option<&CsvFormat> {
        let csv = self.csv.downcast_ref::<CsvFormat>()?;
        let is_set = state.config_options().catalog.has_header;
        csv.options().has_header.unwrap_or(is_set).then_some(csv)
    }

    /// Fails where a header has columns of the table at other places.
    async fn check_headers(&self, state: &dyn Session, scan: &FileScanConfig) -> Result<()> {
        let Some(csv) = self.with_header(state) else {
            return Ok(());
        };
        let files = scan.file_groups.iter().flat_map(|group| group.iter());
        let files: Vec<_> = files.map(|file| file.object_meta.clone()).collect();
        let store = state.runtime_env().object_store(&scan.object_store_url)?;
        let columns = scan.file_schema().fields().iter();
        let columns: Vec<_> = columns.map(|field| field.name().as_str()).collect();
        let headers = &self.headers;
        headers
            .check_places(state, &store, &files, csv, &columns)
            .await
    }

    /// What is to be found out before the files of `scan` are cut; `None`: somebody has said it,
    /// or they are not cut.
    fn in_question(&self, state: &dyn Session, scan: &FileScanConfig) -> Option<CsvOptions> {
        let options = self.csv.downcast_ref::<CsvFormat>()?.options();
        let is_said = options.newlines_in_values.is_some();
        let is_set = state.config_options().catalog.newlines_in_values;
        let is_whole = scan.file_compression_type.is_compressed();
        (!is_said && !is_set && !is_whole).then(|| options.clone())
    }

    /// Whether the files of `scan` stay whole.
    async fn stay_whole(
        &self,
        state: &dyn Session,
        scan: &FileScanConfig,
        options: &CsvOptions,
    ) -> Result<bool> {
        let files = scan.file_groups.iter().flat_map(|group| group.iter());
        let files: Vec<_> = files.map(|file| file.object_meta.clone()).collect();
        let streams = state.config_options().execution.target_partitions;
        let is_local = scan.object_store_url == ObjectStoreUrl::local_filesystem();
        if !is_local || scan.limit.is_some() || files.len() >= FILES_A_STREAM * streams {
            return Ok(true);
        }
        let store = state.runtime_env().object_store(&scan.object_store_url)?;
        let dialect = Dialect::of(options);
        self.looked.have_breaks(&store, files, dialect).await
    }
}

#[async_trait]
impl FileFormat for WholeRows {
    fn get_ext(&self) -> String {
        self.csv.get_ext()
    }

    fn get_ext_with_compression(&self, kind: &FileCompressionType) -> Result<String> {
        self.csv.get_ext_with_compression(kind)
    }

    fn compression_type(&self) -> Option<FileCompressionType> {
        self.csv.compression_type()
    }

    async fn infer_schema(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        objects: &[ObjectMeta],
    ) -> Result<SchemaRef> {
        if let Some(csv) = self.with_header(state) {
            let checked = self.headers.check_alike(state, store, objects, csv);
            checked.await?;
        }
        match self.csv.downcast_ref::<CsvFormat>().map(CsvFormat::options) {
            // Which values are NULL, only DataFusion's knows then.
            Some(options) if options.null_regex.is_none() => {
                let has_header = self.with_header(state).is_some();
                let found = csv_columns::columns(store, objects, options, has_header);
                Ok(Arc::new(found.await?))
            }
            _ => self.csv.infer_schema(state, store, objects).await,
        }
    }

    async fn infer_stats(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        table_schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<Statistics> {
        let found = self.csv.infer_stats(state, store, table_schema, object);
        found.await
    }

    async fn infer_ordering(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        table_schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<Option<LexOrdering>> {
        let found = self.csv.infer_ordering(state, store, table_schema, object);
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
            .csv
            .infer_stats_and_ordering(state, store, table_schema, object);
        found.await
    }

    async fn create_physical_plan(
        &self,
        state: &dyn Session,
        scan: FileScanConfig,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.check_headers(state, &scan).await?;
        let Some(options) = self.in_question(state, &scan) else {
            return self.csv.create_physical_plan(state, scan).await;
        };
        let whole = self.stay_whole(state, &scan, &options).await?;
        let csv = CsvFormat::default().with_options(options);
        let csv = csv.with_newlines_in_values(whole);
        csv.create_physical_plan(state, scan).await
    }

    async fn create_writer_physical_plan(
        &self,
        input: Arc<dyn ExecutionPlan>,
        state: &dyn Session,
        sink: FileSinkConfig,
        order: Option<LexRequirement>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = self
            .csv
            .create_writer_physical_plan(input, state, sink, order);
        plan.await
    }

    fn file_source(&self, table_schema: TableSchema) -> Arc<dyn FileSource> {
        self.csv.file_source(table_schema)
    }
}
