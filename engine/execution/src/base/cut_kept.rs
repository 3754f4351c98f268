//! Cuts a scan of kept blocks over the tasks of its stage, and says where these run.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_distributed::{
    DistributedLeafExec, ScaleUpLeafNodeEvent, ScaleUpLeafNodeEventResponse,
};
use mobula_plan::{KeptScanExec, PlacedPart};
use url::Url;

use crate::kept::deal::{by_process, evenly, most_at};

/// Cuts a scan of kept blocks; None for others.
pub fn cut_kept(event: ScaleUpLeafNodeEvent<'_>) -> Option<Result<ScaleUpLeafNodeEventResponse>> {
    let scan = event.plan.downcast_ref::<KeptScanExec>()?;
    let streams = event.session_config.target_partitions();
    Some(cut(scan, event.task_count, streams).and_then(|parts| {
        let leaf = DistributedLeafExec::try_new(Arc::clone(event.plan), parts)?;
        Ok(ScaleUpLeafNodeEventResponse::new(Arc::new(leaf)))
    }))
}

/// The scan of each of `tasks`, with up to `streams` streams each.
fn cut(scan: &KeptScanExec, tasks: usize, streams: usize) -> Result<Vec<Arc<dyn ExecutionPlan>>> {
    let parts = by_process(scan.parts().cloned().collect(), tasks);
    let most = parts.iter().map(Vec::len).max().unwrap_or(0);
    let streams = streams.min(most).max(1);
    let scans = parts.into_iter().map(|parts| {
        let scan = scan.of_parts(evenly(parts, streams))?;
        Ok(Arc::new(scan) as Arc<dyn ExecutionPlan>)
    });
    scans.collect()
}

/// Tasks that a scan of `parts` should have, of up to `bytes_per_task`: one where each has its
/// blocks, at least.
pub fn wanted_tasks<'a>(parts: impl Iterator<Item = &'a PlacedPart>, bytes_per_task: u64) -> usize {
    let parts: Vec<_> = parts.collect();
    let mut urls: Vec<_> = parts.iter().map(|part| &part.url).collect();
    urls.sort_unstable();
    urls.dedup();
    let bytes: u64 = parts.iter().map(|part| part.kept.bytes).sum();
    let by_bytes = usize::try_from(bytes.div_ceil(bytes_per_task.max(1)));
    let by_bytes = by_bytes.unwrap_or(usize::MAX).min(parts.len());
    urls.len().max(by_bytes).max(1)
}

/// Where each of `tasks` tasks of the stage `plan` has most of what it reads of kept blocks;
/// `None`: nowhere.
pub fn hosts(plan: &Arc<dyn ExecutionPlan>, tasks: usize) -> Result<Vec<Option<Url>>> {
    let mut hosts = vec![None; tasks];
    plan.apply(|node| {
        let leaf = node.downcast_ref::<DistributedLeafExec>();
        let leaf = leaf.filter(|leaf| leaf.variants().len() == tasks);
        for (host, scan) in hosts
            .iter_mut()
            .zip(leaf.map_or(&[][..], |leaf| leaf.variants()))
        {
            let scan = scan.downcast_ref::<KeptScanExec>();
            let url = scan.and_then(|scan| most_at(scan.parts()));
            *host = host.take().or_else(|| Url::parse(url?).ok());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(hosts)
}
