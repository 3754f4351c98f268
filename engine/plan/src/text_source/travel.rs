//! Scans of text on their way to another executor.
//!
//! The files go along in a scan of DataFusion's, in which this format is not known, and beside it
//! all that says how they are read.

use std::sync::Arc;

use datafusion::common::config::CsvOptions;
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::common::{DataFusionError, Result, internal_datafusion_err, internal_err};
use datafusion::datasource::physical_plan::{FileScanConfig, FileSource, JsonSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf;
use mobula_proto::plan::{CsvDialect, TextScanExecNode};
use prost::Message;

use super::{JsonLayout, TextFormat, TextSource, TypesFrom};

/// `scan`, if it is one of text.
pub(crate) fn encode(
    scan: &dyn ExecutionPlan,
    codec: &dyn PhysicalExtensionCodec,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Option<Result<TextScanExecNode>> {
    let config = scan.downcast_ref::<DataSourceExec>()?.data_source();
    let config = config.downcast_ref::<FileScanConfig>()?;
    let source = config.file_source().downcast_ref::<TextSource>()?;
    Some(encode_text(config, source, codec, converter))
}

fn encode_text(
    config: &FileScanConfig,
    source: &TextSource,
    codec: &dyn PhysicalExtensionCodec,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<TextScanExecNode> {
    let carrier = JsonSource::new(source.table_schema.clone());
    let carrier = carrier.try_pushdown_projection(&source.projection.source)?;
    let mut files = config.clone();
    files.file_source = carrier.ok_or_else(unreadable)?;
    let files: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(files);
    let files = converter.execution_plan_to_proto(&files, codec)?;
    let compression = CompressionTypeVariant::from(config.file_compression_type);
    Ok(TextScanExecNode {
        files: files.encode_to_vec(),
        compression: compression.to_string(),
        csv: match &source.format {
            TextFormat::Csv(options) => Some(dialect(options)),
            TextFormat::Json(_) => None,
        },
        is_array: source.format == TextFormat::Json(JsonLayout::Array),
        rows_looked_at: match source.types {
            TypesFrom::Declaration => None,
            TypesFrom::FirstRows(rows) => Some(rows as u64),
        },
    })
}

/// The scan that `message` is of.
///
/// # Errors
/// A message that this version does not understand.
pub(crate) fn decode(
    message: &TextScanExecNode,
    context: &TaskContext,
    codec: &dyn PhysicalExtensionCodec,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<Arc<dyn ExecutionPlan>> {
    let files = protobuf::PhysicalPlanNode::decode(message.files.as_slice());
    let files = files.map_err(|_| unreadable())?;
    let context = PhysicalPlanDecodeContext::new(context, codec);
    let files = converter.proto_to_execution_plan(&files, &context)?;
    let layout = match message.is_array {
        true => JsonLayout::Array,
        false => JsonLayout::Lines,
    };
    let format = match &message.csv {
        Some(dialect) => TextFormat::Csv(Box::new(csv_options(dialect)?)),
        None => TextFormat::Json(layout),
    };
    let types = match message.rows_looked_at {
        Some(rows) => TypesFrom::FirstRows(usize::try_from(rows).unwrap_or(usize::MAX)),
        None => TypesFrom::Declaration,
    };
    let scan = TextSource::in_place(&files, format, types)?;
    compressed(&scan, &message.compression)
}

fn dialect(options: &CsvOptions) -> CsvDialect {
    CsvDialect {
        has_header: options.has_header.unwrap_or(true),
        delimiter: options.delimiter.into(),
        quote: options.quote.into(),
        terminator: options.terminator.map(u32::from),
        escape: options.escape.map(u32::from),
        comment: options.comment.map(u32::from),
        newlines_in_values: options.newlines_in_values.unwrap_or(false),
        truncated_rows: options.truncated_rows.unwrap_or(false),
    }
}

fn csv_options(dialect: &CsvDialect) -> Result<CsvOptions> {
    let byte = |character: u32| u8::try_from(character).map_err(|_| unreadable());
    Ok(CsvOptions {
        has_header: Some(dialect.has_header),
        delimiter: byte(dialect.delimiter)?,
        quote: byte(dialect.quote)?,
        terminator: dialect.terminator.map(byte).transpose()?,
        escape: dialect.escape.map(byte).transpose()?,
        comment: dialect.comment.map(byte).transpose()?,
        newlines_in_values: Some(dialect.newlines_in_values),
        truncated_rows: Some(dialect.truncated_rows),
        ..CsvOptions::default()
    })
}

/// `scan`, whose files are compressed so.
fn compressed(scan: &Arc<dyn ExecutionPlan>, compression: &str) -> Result<Arc<dyn ExecutionPlan>> {
    let config = scan.downcast_ref::<DataSourceExec>();
    let config = config.and_then(|s| s.data_source().downcast_ref::<FileScanConfig>());
    let Some(config) = config else {
        return internal_err!("{} is no scan of files", scan.name());
    };
    let mut config = config.clone();
    config.file_compression_type = compression.parse()?;
    Ok(DataSourceExec::from_data_source(config))
}

fn unreadable() -> DataFusionError {
    internal_datafusion_err!("a scan of text that this version does not understand")
}
