//! A scan of compressed files on its way to another executor.
//!
//! DataFusion's plan of a scan does not say on the way that its files are compressed. This node
//! stands above it as long as it travels, and says so; what arrives is the scan alone.

use std::fmt;
use std::sync::Arc;

use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

/// The rows of a scan of compressed files.
#[derive(Debug)]
pub struct CompressedScanExec {
    scan: Arc<dyn ExecutionPlan>,
    compression: FileCompressionType,
}

impl CompressedScanExec {
    /// `scan`, with this above it if it reads compressed files.
    pub fn above(scan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        let compression = files(&scan).map(|files| files.file_compression_type);
        match compression {
            Some(compression) if compression.is_compressed() => {
                Arc::new(Self { scan, compression })
            }
            _ => scan,
        }
    }

    /// How its files are compressed, as `CREATE EXTERNAL TABLE` has it.
    pub fn compression(&self) -> String {
        CompressionTypeVariant::from(self.compression).to_string()
    }
}

/// `scan`, as it came, of files that are compressed so.
///
/// # Errors
/// When it is no scan of files, or the word is not known.
pub fn arrived(scan: &Arc<dyn ExecutionPlan>, compression: &str) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(files) = files(scan) else {
        return internal_err!("{} is no scan of files", scan.name());
    };
    let mut files = files.clone();
    files.file_compression_type = compression.parse()?;
    Ok(DataSourceExec::from_data_source(files))
}

fn files(scan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    let source = scan.downcast_ref::<DataSourceExec>()?.data_source();
    source.downcast_ref::<FileScanConfig>()
}

impl DisplayAs for CompressedScanExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match t {
            DisplayFormatType::TreeRender => Ok(()),
            // Where a part of it is shown, its input is not shown below it.
            _ => {
                write!(f, "CompressedScanExec: {}, ", self.compression())?;
                self.scan.fmt_as(t, f)
            }
        }
    }
}

impl ExecutionPlan for CompressedScanExec {
    fn name(&self) -> &'static str {
        "CompressedScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.scan.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.scan]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Ok([scan]) = <[Arc<dyn ExecutionPlan>; 1]>::try_from(children) else {
            return internal_err!("CompressedScanExec has one input");
        };
        Ok(Arc::new(Self {
            scan,
            compression: self.compression,
        }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.scan.execute(partition, context)
    }
}
