//! What EXPLAIN says of each scan of files: how much there is to read, how it is cut
//! into tasks, partitions and blocks, and which limit decided.
//!
//! ```text
//! data/orders.parquet: 1 file, 52.0 MB, 49 row groups, 1500000 rows
//!   3 tasks: as many as there are processes to take them; scan_bytes_per_task=16.0 MB asks for 4
//!   6 partitions: target_partitions=2 in each task
//!   at least 24 blocks for a function, of up to 65536 rows (udf_batch_rows)
//! ```
//!
//! Numbers are those before filters leave out files and row groups.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::SessionState;
use datafusion::execution::memory_pool::human_readable_size;
use datafusion::physical_plan::ExecutionPlan;
use futures::{StreamExt, stream};
use mobula_plan::{MobulaOptions, TaskLimit};
use object_store::ObjectMeta;

use crate::base::planner::CutScan;

/// Most files of a scan whose footers EXPLAIN looks at.
const MAX_FOOTERS: usize = 64;
/// Footers that are read at the same time.
const FOOTERS_AT_ONCE: usize = 8;

/// The scans of files in `plan`, as text; empty without any.
///
/// # Errors
/// None of its own: what cannot be read is left out.
pub async fn text(plan: &Arc<dyn ExecutionPlan>, state: &SessionState) -> Result<String> {
    let mut scans = vec![];
    plan.apply(|node| {
        scans.extend(Scan::of(node));
        Ok(TreeNodeRecursion::Continue)
    })?;
    let limits = Limits::of(state);
    let mut text = String::new();
    for scan in &scans {
        let footers = footers(scan, state).await;
        // Writing to a String cannot fail.
        let _ = scan.write(&mut text, &limits, footers);
    }
    Ok(text)
}

/// One scan, over all its tasks.
struct Scan {
    config: FileScanConfig,
    tasks: usize,
    /// Over all tasks.
    partitions: usize,
    /// By path.
    files: BTreeMap<String, ObjectMeta>,
    bytes: u64,
}

/// Row groups and rows of all files.
#[derive(Default, Clone, Copy)]
struct Footers {
    row_groups: usize,
    rows: u64,
}

/// What cuts scans.
struct Limits {
    /// `None`: there are no executors.
    tasks: Option<usize>,
    max_tasks_per_stage: usize,
    bytes_per_task: usize,
    target_partitions: usize,
    cuts_files: bool,
    min_bytes_to_cut: usize,
    block_rows: usize,
}

impl Limits {
    fn of(state: &SessionState) -> Self {
        let config = state.config();
        let options = config.options();
        let ours = options.extensions.get::<MobulaOptions>();
        let ours = ours.cloned().unwrap_or_default();
        Self {
            tasks: config.get_extension::<TaskLimit>().map(|limit| limit.0),
            max_tasks_per_stage: ours.max_tasks_per_stage(),
            bytes_per_task: ours.scan_bytes_per_task(),
            target_partitions: config.target_partitions().max(1),
            cuts_files: options.optimizer.repartition_file_scans,
            min_bytes_to_cut: options.optimizer.repartition_file_min_size,
            block_rows: ours.udf_batch_rows(),
        }
    }
}

impl Scan {
    /// The scan behind `node`, if it is one of files.
    fn of(node: &Arc<dyn ExecutionPlan>) -> Option<Self> {
        let (original, tasks) = match CutScan::of(node.as_ref()) {
            Some(CutScan { original, parts }) => (original, parts),
            None => (node, std::slice::from_ref(node)),
        };
        let config = |plan: &Arc<dyn ExecutionPlan>| -> Option<FileScanConfig> {
            let source = plan.downcast_ref::<DataSourceExec>()?.data_source();
            source.downcast_ref::<FileScanConfig>().cloned()
        };
        let groups = |plan| config(plan).map_or(0, |config| config.file_groups.len());
        let (partitions, tasks) = (tasks.iter().map(groups).sum(), tasks.len());
        let config = config(original)?;
        let parts = config.file_groups.iter().flat_map(|group| group.files());
        let bytes = parts.clone().map(|part| part.effective_size()).sum();
        let metas = parts.map(|part| (part.path().to_string(), part.object_meta.clone()));
        Some(Self {
            files: metas.collect(),
            config,
            tasks,
            partitions,
            bytes,
        })
    }

    fn write(
        &self,
        out: &mut String,
        limits: &Limits,
        footers: Option<Footers>,
    ) -> std::fmt::Result {
        self.write_input(out, footers)?;
        writeln!(out, "  {}", self.tasks_text(limits))?;
        writeln!(out, "  {}", self.partitions_text(limits, footers))?;
        let Some(footers) = footers else {
            return Ok(());
        };
        let streams = self.partitions.min(footers.row_groups).max(1) as u64;
        let blocks = streams
            * footers
                .rows
                .div_ceil(streams)
                .div_ceil(limits.block_rows as u64);
        writeln!(
            out,
            "  {} for a function, of up to {} rows (udf_batch_rows)",
            counted(blocks, "block"),
            limits.block_rows
        )
    }

    fn write_input(&self, out: &mut String, footers: Option<Footers>) -> std::fmt::Result {
        let path = self.files.keys().next().map_or("", String::as_str);
        let more = match self.files.len() {
            0 | 1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        write!(
            out,
            "{path}{more}: {}, {}",
            counted(self.files.len() as u64, "file"),
            human_readable_size(self.bytes as usize)
        )?;
        if let Some(Footers { row_groups, rows }) = footers {
            let groups = counted(row_groups as u64, "row group");
            write!(out, ", {groups}, {}", counted(rows, "row"))?;
        }
        writeln!(out)
    }

    fn tasks_text(&self, limits: &Limits) -> String {
        let tasks = counted(self.tasks as u64, "task");
        let Some(most) = limits.tasks else {
            return format!("{tasks}: one process runs the query");
        };
        // As the distributed planner counts.
        let per_partition = (limits.bytes_per_task / limits.target_partitions).max(1);
        let partitions = (self.bytes as usize).div_ceil(per_partition);
        let wanted = partitions.div_ceil(limits.target_partitions).max(1);
        let per_task = human_readable_size(limits.bytes_per_task);
        let asks = format!("scan_bytes_per_task={per_task} asks for {wanted}");
        match self.tasks {
            tasks_now if tasks_now == wanted => {
                format!("{tasks}: one for each {per_task} (scan_bytes_per_task)")
            }
            tasks_now if tasks_now > wanted => {
                format!("{tasks}: another input of the same stage needs them; {asks}")
            }
            tasks_now if tasks_now == most && limits.max_tasks_per_stage != 0 => {
                format!("{tasks}: max_tasks_per_stage; {asks}")
            }
            tasks_now if tasks_now == most => {
                format!("{tasks}: as many as there are processes to take them; {asks}")
            }
            _ => format!("{tasks}: what is above it in the same stage takes no more; {asks}"),
        }
    }

    fn is_whole_csv(&self) -> bool {
        let source = &self.config.file_source;
        source.file_type() == "csv" && !source.supports_repartitioning()
    }

    fn partitions_text(&self, limits: &Limits, footers: Option<Footers>) -> String {
        let partitions = counted(self.partitions as u64, "partition");
        let each = self.config.file_groups.len();
        let target = limits.target_partitions;
        let in_each = if self.tasks > 1 { " in each task" } else { "" };
        let min = human_readable_size(limits.min_bytes_to_cut);
        let why = match () {
            () if each >= target => format!("target_partitions={target}{in_each}"),
            () if !limits.cuts_files => "whole files (repartition_file_scans=false)".to_owned(),
            () if (self.bytes as usize) < limits.min_bytes_to_cut => {
                format!("whole files, of less than {min} together (repartition_file_min_size)")
            }
            () if self.is_whole_csv() => {
                "whole files, as a row may have several lines (format.newlines_in_values)"
                    .to_owned()
            }
            () => format!("as the files can be cut{in_each}"),
        };
        match footers {
            Some(Footers { row_groups, .. }) if row_groups < self.partitions => {
                let with_rows = counted(row_groups as u64, "partition");
                format!(
                    "{partitions}: {why}; rows in {with_rows} at most, a row group is read whole"
                )
            }
            _ => format!("{partitions}: {why}"),
        }
    }
}

/// `1 file`, `2 files`.
fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Of Parquet files, if they can be read and are not too many.
async fn footers(scan: &Scan, state: &SessionState) -> Option<Footers> {
    let is_parquet = scan.config.file_source().file_type() == "parquet";
    if !is_parquet || scan.files.len() > MAX_FOOTERS {
        return None;
    }
    let runtime = state.runtime_env();
    let store = runtime.object_store(&scan.config.object_store_url).ok()?;
    let cache = runtime.cache_manager.get_file_metadata_cache();
    let files: Vec<ObjectMeta> = scan.files.values().cloned().collect();
    let footers = stream::iter(files).map(|file| {
        let (store, cache) = (Arc::clone(&store), Arc::clone(&cache));
        async move {
            let reader = DFParquetMetadata::new(store.as_ref(), &file);
            let reader = reader.with_file_metadata_cache(Some(cache));
            reader.fetch_metadata().await.ok()
        }
    });
    let mut all = Footers::default();
    let mut footers = footers.buffer_unordered(FOOTERS_AT_ONCE);
    while let Some(footer) = footers.next().await {
        let footer = footer?;
        all.row_groups += footer.num_row_groups();
        all.rows += u64::try_from(footer.file_metadata().num_rows()).ok()?;
    }
    Some(all)
}
