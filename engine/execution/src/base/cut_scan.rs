//! Cuts a scan of files over the tasks of its stage.
//!
//! As the base does, but for two things. A scan of few or small files, or of files in order, comes
//! apart into fewer parts than there are streams of tasks: here some streams have no file then, where
//! the base refuses the plan. And files that cannot be read from their middle stay whole: compressed ones,
//! CSV with line breaks in values, arrays of JSON, Arrow streams.

use std::sync::Arc;

use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::Result;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use datafusion::physical_plan::ExecutionPlanProperties;
use datafusion_distributed::{
    DistributedLeafExec, ScaleUpLeafNodeEvent, ScaleUpLeafNodeEventResponse,
};

/// Cuts a scan of files; None for others, and for one that says which rows its streams have.
pub fn cut_scan(event: ScaleUpLeafNodeEvent<'_>) -> Option<Result<ScaleUpLeafNodeEventResponse>> {
    let source = event.plan.downcast_ref::<DataSourceExec>()?;
    let scan = source.data_source().downcast_ref::<FileScanConfig>()?;
    if scan.output_partitioning.is_some() {
        return None;
    }
    let streams = event.plan.output_partitioning().partition_count();
    Some(cut(scan, streams, event.task_count).and_then(|parts| {
        let parts = parts.into_iter();
        let parts = parts.map(|part| DataSourceExec::from_data_source(part) as _);
        let leaf = DistributedLeafExec::try_new(Arc::clone(event.plan), parts)?;
        Ok(ScaleUpLeafNodeEventResponse::new(Arc::new(leaf)))
    }))
}

/// The scan of each of `tasks`, all with as many streams, about `streams`.
fn cut(scan: &FileScanConfig, streams: usize, tasks: usize) -> Result<Vec<FileScanConfig>> {
    let order = scan.output_ordering.first().cloned();
    let source = &scan.file_source;
    let apart = source.repartitioned(streams * tasks, 0, order, scan)?;
    let groups = apart.map_or_else(|| scan.file_groups.clone(), |apart| apart.file_groups);
    let each = groups.len().div_ceil(tasks).max(1);
    let mut template = scan.clone();
    template.file_groups.clear();
    let mut parts = vec![template; tasks];
    for (i, group) in groups.into_iter().enumerate() {
        parts[i % tasks].file_groups.push(group);
    }
    for part in &mut parts {
        part.file_groups
            .resize_with(each, || FileGroup::new(vec![]));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
    use datafusion::datasource::listing::PartitionedFile;
    use datafusion::datasource::physical_plan::{CsvSource, FileScanConfigBuilder};
    use datafusion::execution::object_store::ObjectStoreUrl;
    use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr, expressions};

    use super::*;

    /// Files of these sizes in `streams` streams.
    fn scan(sizes: &[u64], streams: usize, in_order: bool) -> FileScanConfig {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let a = expressions::col("a", &schema).unwrap();
        let source = Arc::new(CsvSource::new(schema));
        let mut groups = vec![vec![]; streams];
        for (i, size) in sizes.iter().enumerate() {
            groups[i % streams].push(PartitionedFile::new(format!("{i}.csv"), *size));
        }
        let groups = groups.into_iter().map(FileGroup::new);
        let scan = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source)
            .with_file_groups(groups.collect());
        match in_order {
            true => {
                let order = LexOrdering::new([PhysicalSortExpr::new_default(a)]);
                scan.with_output_ordering(order.into_iter().collect())
                    .build()
            }
            false => scan.build(),
        }
    }

    #[test]
    fn a_compressed_file_stays_whole() {
        let mut scan = scan(&[1 << 20, 1 << 20], 2, false);
        scan.file_compression_type = FileCompressionType::GZIP;
        for (tasks, each) in [(1, 2), (2, 1), (3, 1)] {
            let parts = cut(&scan, 2, tasks).unwrap();
            let groups: Vec<_> = parts.iter().flat_map(|part| &part.file_groups).collect();
            assert_eq!(groups.len(), tasks * each);
            let mut files = groups.into_iter().flat_map(FileGroup::iter);
            assert!(files.all(|file| file.range.is_none()));
        }
    }

    #[test]
    fn tasks_have_as_many_streams_and_each_byte_once() {
        for (sizes, streams, in_order) in [
            (vec![1, 1, 1], 2, false),
            (vec![3; 8], 8, false),
            (vec![3; 8], 8, true),
            (vec![1 << 20; 8], 2, true),
            (vec![5, 0, 900], 4, true),
            (vec![0], 1, false),
            (vec![], 1, false),
            (vec![1 << 20; 8], 2, false),
        ] {
            for tasks in 1..5 {
                let parts = cut(&scan(&sizes, streams, in_order), streams, tasks).unwrap();
                assert_eq!(parts.len(), tasks);
                let each = parts[0].file_groups.len();
                assert!(each > 0);
                assert!(parts.iter().all(|part| part.file_groups.len() == each));
                let files = parts.iter().flat_map(|part| &part.file_groups);
                let bytes: u64 = files
                    .flat_map(FileGroup::iter)
                    .map(|file| file.effective_size())
                    .sum();
                assert_eq!(bytes, sizes.iter().sum::<u64>(), "{sizes:?} over {tasks}");
            }
        }
    }
}
