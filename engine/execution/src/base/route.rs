//! Where the tasks of each stage run: asks `coordinator/routing` with what is known here.
//!
//! The base routes stages bottom up, so that the exchanges of a stage know already where
//! the tasks run that they read. It says neither which stage it asks for nor, for a stage
//! routed before, how much comes out of it: both follow from the order of its questions,
//! which is that of the stages' numbers. Where an answer of before does not fit, nothing is
//! taken from it.
//!
//! A task that reads kept blocks runs where these are.
//!
//! Actors on hosts count as input: what a task sends there it need not send if it is there
//! itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion_distributed::{
    NetworkBoundaryExt, RouteTasksEvent, RouteTasksEventResponse, RouteTasksHandler, Stage,
};
use mobula_plan::operator::map_batches::map_batches_exec;
use parking_lot::Mutex;
use url::Url;

use super::cut_kept::hosts as hosts_of_kept;
use crate::coordinator::routing::{Host, Input, input_bytes, route};

/// Routes the stages of one query.
pub struct Router {
    hosts: Vec<Url>,
    skew_max: usize,
    routed: Mutex<Vec<RoutedStage>>,
}

struct RoutedStage {
    urls: Vec<Url>,
    /// What comes out of it, as far as statistics tell.
    bytes: Option<u64>,
}

impl Router {
    /// For query `query_id` over `hosts`. Of two queries with a task each, the second shall
    /// not always go where the first went: the id says who comes first.
    pub fn new(query_id: &str, mut hosts: Vec<Url>, skew_max: usize) -> Self {
        let id = query_id.bytes();
        let number = id.fold(0_usize, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        });
        let first = number.checked_rem(hosts.len()).unwrap_or(0);
        hosts.rotate_left(first);
        Self {
            hosts,
            skew_max,
            routed: Mutex::default(),
        }
    }

    fn route(&self, event: &RouteTasksEvent<'_>) -> Result<Vec<Url>> {
        let mut routed = self.routed.lock();
        let mut read = inputs(event.plan, &routed)?;
        read.extend(fed_actors(event)?);
        let inputs = input_bytes(&read);
        let mut tasks = BTreeMap::<&Url, usize>::new();
        for url in routed.iter().flat_map(|stage| &stage.urls) {
            *tasks.entry(url).or_default() += 1;
        }
        let hosts = self.hosts.iter().map(|url| Host {
            url: url.clone(),
            tasks: tasks.get(url).copied().unwrap_or(0),
        });
        let hosts: Vec<_> = hosts.collect();
        let mut urls = route(event.task_count, &inputs, &hosts, self.skew_max);
        let kept = hosts_of_kept(event.plan, event.task_count)?;
        for (url, kept) in urls.iter_mut().zip(kept) {
            // It may have ended, or take no tasks: then it is read from.
            if let Some(kept) = kept.filter(|kept| self.hosts.contains(kept)) {
                *url = kept;
            }
        }
        routed.push(RoutedStage {
            urls: urls.clone(),
            bytes: bytes_out(event.plan),
        });
        Ok(urls)
    }
}

impl RouteTasksHandler for Router {
    fn handle(&self, event: RouteTasksEvent) -> Option<Result<RouteTasksEventResponse>> {
        Some(self.route(&event).map(RouteTasksEventResponse::new))
    }
}

/// The stages that `plan` reads. Of a UNION whose branches are dealt out to tasks, those of
/// all branches: the base tells nobody which task gets which.
fn inputs(plan: &Arc<dyn ExecutionPlan>, routed: &[RoutedStage]) -> Result<Vec<Input>> {
    let mut inputs = vec![];
    plan.apply(|node| {
        if let Some(boundary) = node.as_network_boundary()
            && let Stage::Remote(stage) = boundary.input_stage()
        {
            let before = stage.num.checked_sub(1).and_then(|idx| routed.get(idx));
            let before = before.filter(|before| before.urls == stage.workers);
            inputs.push(Input {
                hosts: stage.workers.clone(),
                bytes: before.and_then(|before| before.bytes),
            });
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(inputs)
}

/// The hosts of actors that `event`'s stage feeds, one for each actor, with what goes to
/// them.
fn fed_actors(event: &RouteTasksEvent<'_>) -> Result<Vec<Input>> {
    let mut fed = vec![];
    event.plan.apply(|node| {
        let call = map_batches_exec(node.as_ref());
        let placed = call.and_then(|call| Some((call, call.placed(&event.task_ctx)?)));
        if let Some((call, placed)) = placed {
            let urls = placed.hosts.iter().flat_map(|host| {
                let url = Url::parse(&host.url).ok();
                url.into_iter()
                    .flat_map(|url| std::iter::repeat_n(url, host.actors))
            });
            fed.push(Input {
                hosts: urls.collect(),
                bytes: bytes_out(call.input()),
            });
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(fed)
}

fn bytes_out(plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
    let statistics = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new());
    let bytes = statistics.ok()?.total_byte_size;
    bytes.get_value().map(|bytes| *bytes as u64)
}
