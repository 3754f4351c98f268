//! Parquet whose columns of text are alike, whoever wrote the files.
//!
//! Arrow has three types for text and two for bytes besides, and a writer notes which one it had.
//! DataFusion 55 asks that all files of a table have the same before it makes them alike for reading,
//! so that a table into which it has inserted rows itself could not be opened again. Here each file's
//! are made alike before they are compared.
//!
//! Minima and maxima that Parquet notes of floating-point numbers leave NaN out, which may be there all
//! the same. DataFusion would take a column for one number where both are equal, and a NaN for that;
//! here they are no more than hints.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{GetExt, Result, Statistics};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::parquet::ParquetFormatFactory;
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory, FileMeta};
use datafusion::datasource::physical_plan::{FileScanConfig, FileSinkConfig, FileSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::{LexOrdering, LexRequirement};
use datafusion::physical_plan::ExecutionPlan;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, ObjectStore};

/// Makes [`AlikeParquet`]; see the head of this file.
#[derive(Debug, Default)]
pub(crate) struct AlikeParquetFactory(ParquetFormatFactory);

impl FileFormatFactory for AlikeParquetFactory {
    fn create(
        &self,
        state: &dyn Session,
        options: &HashMap<String, String>,
    ) -> Result<Arc<dyn FileFormat>> {
        Ok(Arc::new(AlikeParquet(self.0.create(state, options)?)))
    }

    fn default(&self) -> Arc<dyn FileFormat> {
        Arc::new(AlikeParquet(FileFormatFactory::default(&self.0)))
    }
}

impl GetExt for AlikeParquetFactory {
    fn get_ext(&self) -> String {
        self.0.get_ext()
    }
}

/// DataFusion's Parquet, but for how it finds the columns of several files.
#[derive(Debug)]
struct AlikeParquet(Arc<dyn FileFormat>);

#[async_trait]
impl FileFormat for AlikeParquet {
    fn get_ext(&self) -> String {
        self.0.get_ext()
    }

    fn get_ext_with_compression(&self, kind: &FileCompressionType) -> Result<String> {
        self.0.get_ext_with_compression(kind)
    }

    fn compression_type(&self) -> Option<FileCompressionType> {
        self.0.compression_type()
    }

    async fn infer_schema(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        objects: &[ObjectMeta],
    ) -> Result<SchemaRef> {
        let at_once = state.config_options().execution.meta_fetch_concurrency;
        // By name, so that columns have one order wherever files are listed.
        let mut objects: Vec<_> = objects.iter().collect();
        objects.sort_unstable_by(|a, b| a.location.cmp(&b.location));
        let schemas = stream::iter(objects)
            .map(|object| {
                self.0
                    .infer_schema(state, store, std::slice::from_ref(object))
            })
            .boxed()
            .buffered(at_once.get());
        let schemas: Vec<SchemaRef> = schemas.try_collect().await?;
        let schemas = schemas.into_iter().map(Arc::unwrap_or_clone);
        Ok(Arc::new(Schema::try_merge(schemas)?))
    }

    async fn infer_stats(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        table_schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<Statistics> {
        let schema = Arc::clone(&table_schema);
        let found = self.0.infer_stats(state, store, table_schema, object);
        Ok(without_float_bounds(found.await?, &schema))
    }

    async fn infer_ordering(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        table_schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<Option<LexOrdering>> {
        let found = self.0.infer_ordering(state, store, table_schema, object);
        found.await
    }

    async fn infer_stats_and_ordering(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        table_schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<FileMeta> {
        let schema = Arc::clone(&table_schema);
        let found = self
            .0
            .infer_stats_and_ordering(state, store, table_schema, object);
        let mut found = found.await?;
        found.statistics = without_float_bounds(found.statistics, &schema);
        Ok(found)
    }

    async fn create_physical_plan(
        &self,
        state: &dyn Session,
        conf: FileScanConfig,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.0.create_physical_plan(state, conf).await
    }

    async fn create_writer_physical_plan(
        &self,
        input: Arc<dyn ExecutionPlan>,
        state: &dyn Session,
        conf: FileSinkConfig,
        order: Option<LexRequirement>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = self
            .0
            .create_writer_physical_plan(input, state, conf, order);
        plan.await
    }

    fn file_source(&self, table_schema: TableSchema) -> Arc<dyn FileSource> {
        self.0.file_source(table_schema)
    }
}

/// `statistics`, whose minima and maxima of floating-point numbers are inexact.
fn without_float_bounds(mut statistics: Statistics, schema: &Schema) -> Statistics {
    let columns = statistics.column_statistics.iter_mut();
    for (column, field) in columns.zip(schema.fields()) {
        if field.data_type().is_floating() {
            column.min_value = std::mem::take(&mut column.min_value).to_inexact();
            column.max_value = std::mem::take(&mut column.max_value).to_inexact();
        }
    }
    statistics
}
