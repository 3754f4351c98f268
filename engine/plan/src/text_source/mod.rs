//! Scans of CSV and JSON that lose nothing of what files hold.
//!
//! DataFusion's readers cut what the type of a column has no room for: the time of day behind a
//! date, fractions of seconds, fractions of whole numbers in JSON. Keys of JSON that the schema
//! does not have are left out. As types are often those of a file's first rows, later rows would
//! come wrong, and nobody would be told. Here such values are read as text and then made exactly
//! what the column is (`exact`), or an error names them.
//!
//! On its way to another executor a scan takes all its options along (`travel`), where those of
//! DataFusion 55 lose compression, arrays of JSON and ends of rows.

mod exact;
mod faults;
mod json;
mod travel;

use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::config::CsvOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    CsvSource, FileOpenFuture, FileOpener, FileScanConfig, FileScanConfigBuilder, FileSource,
};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan, apply_expression_roots};
use futures::{FutureExt, StreamExt};
use object_store::ObjectStore;

use exact::{as_read, made_exact, schema_as_read};
use faults::Faults;
use json::JsonOpener;
pub(crate) use travel::{decode, encode};

/// How rows are written in a file.
#[derive(Debug, Clone, PartialEq)]
pub enum TextFormat {
    Csv(Box<CsvOptions>),
    Json(JsonLayout),
}

/// How rows of JSON follow each other: in most files of a scan, for each is read as it begins. Only
/// lines are read in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonLayout {
    /// A row a line.
    Lines,
    /// All rows are in one array, or go over several lines.
    Array,
}

impl JsonLayout {
    /// That of a file whose first byte but for spaces is this; `None`: it has none.
    pub fn beginning(first: Option<u8>) -> Self {
        match first {
            Some(b'[') => Self::Array,
            _ => Self::Lines,
        }
    }
}

/// Where the types of columns come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypesFrom {
    /// Somebody has said them.
    Declaration,
    /// So many first rows of the files.
    FirstRows(usize),
}

/// What a scan of CSV or JSON reads; see the head of this file.
#[derive(Debug, Clone)]
pub struct TextSource {
    format: TextFormat,
    types: TypesFrom,
    table_schema: TableSchema,
    projection: SplitProjection,
    batch_size: Option<usize>,
    metrics: ExecutionPlanMetricsSet,
}

impl TextSource {
    fn new(table_schema: TableSchema, format: TextFormat, types: TypesFrom) -> Self {
        Self {
            format,
            types,
            projection: SplitProjection::unprojected(&table_schema),
            table_schema,
            batch_size: None,
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// `scan` of DataFusion's, which reads its files by this instead.
    ///
    /// # Errors
    /// Where it is no scan of files.
    pub fn in_place(
        scan: &Arc<dyn ExecutionPlan>,
        format: TextFormat,
        types: TypesFrom,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let source = scan.downcast_ref::<DataSourceExec>();
        let config = source.and_then(|s| s.data_source().downcast_ref::<FileScanConfig>());
        let Some(config) = config else {
            return internal_err!("{} is no scan of files", scan.name());
        };
        let before = config.file_source();
        let source = Self::new(before.table_schema().clone(), format, types);
        let source = match before.projection() {
            Some(projection) => source.projected(projection)?,
            None => source,
        };
        let config = FileScanConfigBuilder::from(config.clone()).with_source(Arc::new(source));
        Ok(DataSourceExec::from_data_source(config.build()))
    }

    fn projected(&self, projection: &ProjectionExprs) -> Result<Self> {
        let merged = self.projection.source.try_merge(projection)?;
        Ok(Self {
            projection: SplitProjection::new(self.table_schema.file_schema(), &merged),
            ..self.clone()
        })
    }

    /// Whether all keys of JSON have to be known: those of rows that were not looked at, where all
    /// columns are asked for, or one that has keys itself.
    fn is_strict(&self, read: &SchemaRef) -> bool {
        let all = self.table_schema.file_schema().fields().len();
        let nested = read.fields().iter().any(|f| has_keys(f.data_type()));
        let is_inferred = matches!(self.types, TypesFrom::FirstRows(_));
        is_inferred && (nested || read.fields().len() == all)
    }

    fn rows_at_once(&self) -> Result<usize> {
        match self.batch_size {
            Some(rows) => Ok(rows),
            None => internal_err!("a scan is opened before its batch size is known"),
        }
    }

    /// DataFusion's reader of CSV, of the columns at `places` as texts where they are to be exact.
    fn csv(
        &self,
        options: &CsvOptions,
        store: Arc<dyn ObjectStore>,
        scan: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let schema = schema_as_read(self.table_schema.file_schema(), &self.format);
        let columns = ProjectionExprs::from_indices(&self.projection.file_indices, &schema);
        let csv = CsvSource::new(schema).with_csv_options(options.clone());
        let csv = csv.with_batch_size(self.rows_at_once()?);
        match csv.try_pushdown_projection(&columns)? {
            Some(csv) => csv.create_file_opener(store, scan, partition),
            None => internal_err!("a scan of CSV takes no columns"),
        }
    }

    fn json(
        &self,
        store: Arc<dyn ObjectStore>,
        scan: &FileScanConfig,
        columns: &SchemaRef,
    ) -> Result<Arc<dyn FileOpener>> {
        let file_schema = self.table_schema.file_schema();
        let is_strict = self.is_strict(columns);
        let read = if is_strict { file_schema } else { columns };
        Ok(Arc::new(JsonOpener {
            store,
            schema: schema_as_read(read, &self.format),
            columns: is_strict.then(|| self.projection.file_indices.clone()),
            batch_size: self.rows_at_once()?,
            compression: scan.file_compression_type,
        }))
    }
}

fn has_keys(data_type: &DataType) -> bool {
    match data_type {
        DataType::Struct(_) => true,
        DataType::List(item) | DataType::LargeList(item) => has_keys(item.data_type()),
        _ => false,
    }
}

impl FileSource for TextSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        scan: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let file_schema = self.table_schema.file_schema();
        let columns = Arc::new(file_schema.project(&self.projection.file_indices)?);
        let inner = match &self.format {
            TextFormat::Csv(options) => self.csv(options, store, scan, partition)?,
            TextFormat::Json(_) => self.json(store, scan, &columns)?,
        };
        let exact = Arc::new(ExactOpener {
            inner,
            format: self.format.clone(),
            types: self.types,
            columns,
        });
        ProjectionOpener::try_new(self.projection.clone(), exact, file_schema)
    }

    fn table_schema(&self) -> &TableSchema {
        &self.table_schema
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(Self {
            batch_size: Some(batch_size),
            ..self.clone()
        })
    }

    fn try_pushdown_projection(
        &self,
        projection: &ProjectionExprs,
    ) -> Result<Option<Arc<dyn FileSource>>> {
        Ok(Some(Arc::new(self.projected(projection)?)))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        Some(&self.projection.source)
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        &self.metrics
    }

    fn file_type(&self) -> &str {
        match &self.format {
            TextFormat::Csv(_) => "csv",
            TextFormat::Json(_) => "json",
        }
    }

    /// Whether rows begin behind every line break.
    fn supports_repartitioning(&self) -> bool {
        match &self.format {
            TextFormat::Csv(options) => !options.newlines_in_values.unwrap_or(false),
            TextFormat::Json(layout) => *layout == JsonLayout::Lines,
        }
    }

    fn fmt_extra(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.format, t) {
            (_, DisplayFormatType::TreeRender) | (TextFormat::Json(JsonLayout::Lines), _) => Ok(()),
            (TextFormat::Json(JsonLayout::Array), _) => write!(f, ", not by lines"),
            (TextFormat::Csv(options), _) => {
                write!(f, ", has_header={}", options.has_header.unwrap_or(true))
            }
        }
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(self.projection.source.iter(), f)
    }
}

/// Makes what `inner` reads exactly what `columns` are.
struct ExactOpener {
    inner: Arc<dyn FileOpener>,
    format: TextFormat,
    types: TypesFrom,
    columns: SchemaRef,
}

impl FileOpener for ExactOpener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let (columns, format) = (Arc::clone(&self.columns), self.format.clone());
        let mut fields = columns.fields().iter();
        let is_exact = fields.all(|f| as_read(f.data_type(), &format) == *f.data_type());
        let faults = Faults::new(&file, &format, self.types);
        let opening = self.inner.open(file)?;
        Ok(async move {
            let stream = opening.await.map_err(|error| faults.explain(error))?;
            let stream = stream.map(move |read| match read {
                Ok(read) if is_exact => Ok(read),
                Ok(read) => exact_batch(&read, &columns, &format, &faults),
                Err(error) => Err(faults.explain(error)),
            });
            Ok(stream.boxed())
        }
        .boxed())
    }
}

fn exact_batch(
    read: &RecordBatch,
    columns: &SchemaRef,
    format: &TextFormat,
    faults: &Faults,
) -> Result<RecordBatch> {
    let each = read.columns().iter().zip(columns.fields());
    let each = each.map(|(values, column)| {
        let made = made_exact(values, column.data_type(), format);
        made.map_err(|lost| faults.lost(column, &lost))
    });
    let each = each.collect::<Result<_>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(read.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(columns), each, &rows)
        .map_err(|error| DataFusionError::ArrowError(Box::new(error), None))
}

#[cfg(test)]
mod scan_tests;
#[cfg(test)]
mod tests;
