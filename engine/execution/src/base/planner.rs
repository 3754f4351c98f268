//! Turns a session into one that plans for a fixed set of executors.
//!
//! Called once per query, on a copy of the session's state: the set of
//! executors, their channels and the query header belong to that query alone.
//! Our extension planner is already set on the state; the base wraps it.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{
    DistributedConfig, DistributedExec, DistributedExt, DistributedLeafExec,
    SessionStateBuilderExt as BaseSessionStateBuilderExt, WorkerResolver, display_plan_ascii,
};
use http::{HeaderMap, HeaderValue};
use mobula_plan::{MobulaCodec, MobulaOptions, PlanningOptions, TaskLimit};
use mobula_proto::cluster::{HEADER_QUERY, QueryHeader};
use prost::Message;
use url::Url;

use super::channel::PeerChannels;
use super::cut_kept::cut_kept;
use super::cut_scan::cut_scan;
use super::handlers::operator_task_count;
use super::route::Router;

/// The executors of one query: a snapshot, so that planning and routing agree.
struct Snapshot(Vec<Url>);

impl WorkerResolver for Snapshot {
    fn get_urls(&self) -> Result<Vec<Url>> {
        Ok(self.0.clone())
    }
}

/// A copy of `state` that cuts stages over `executors`.
///
/// # Errors
/// When an option is out of range for the base.
pub fn distributed_state(
    state: &SessionState,
    executors: Vec<Url>,
    channels: PeerChannels,
    header: &QueryHeader,
) -> Result<SessionState> {
    let mut config = state.config().clone();
    let mut planning = PlanningOptions::default();
    planning.is_distributed = true;
    config.options_mut().extensions.insert(planning);
    let base = base_options(&config)?;
    let tasks = match base.max_tasks_per_stage {
        0 => executors.len(),
        most => most,
    };
    config.set_extension(Arc::new(TaskLimit(tasks.max(1))));
    config.set_distributed_option_extension(base);
    let skew_max = ours(&config)?.task_skew_max();
    let router = Router::new(&header.query_id, executors.clone(), skew_max);
    config.set_distributed_route_tasks_handler(router);
    config.set_distributed_worker_resolver(Snapshot(executors));
    config.set_distributed_channel_resolver(channels);
    config.set_distributed_user_codec(MobulaCodec);
    config.set_distributed_desired_task_count_handler(operator_task_count);
    config.set_distributed_scale_up_leaf_node_handler(cut_scan);
    config.set_distributed_scale_up_leaf_node_handler(cut_kept);
    set_header(&mut config, header)?;
    Ok(SessionStateBuilder::new_from_existing(state.clone())
        .with_config(config)
        .with_distributed_planner()
        .build())
}

fn ours(config: &SessionConfig) -> Result<&MobulaOptions> {
    match config.options().extensions.get::<MobulaOptions>() {
        Some(ours) => Ok(ours),
        None => datafusion::common::internal_err!("the session has no mobula options"),
    }
}

/// Our settings in the base's terms.
fn base_options(config: &SessionConfig) -> Result<DistributedConfig> {
    let ours = ours(config)?;
    // The base counts bytes for each partition of a task.
    let per_task = ours.scan_bytes_per_task();
    let partitions = config.target_partitions().max(1);
    let mut base = DistributedConfig::default();
    base.file_scan_config_bytes_per_partition = (per_task / partitions).max(1);
    base.max_tasks_per_stage = ours.max_tasks_per_stage();
    ours.exchange_compression()
        .clone_into(&mut base.compression);
    Ok(base)
}

/// Has the tasks of a query that is planned get `header`.
///
/// # Errors
/// None that a header of ours has.
pub fn set_header(config: &mut SessionConfig, header: &QueryHeader) -> Result<()> {
    config.set_distributed_passthrough_headers(headers(header)?)
}

fn headers(header: &QueryHeader) -> Result<HeaderMap> {
    let encoded = STANDARD.encode(header.encode_to_vec());
    let value = HeaderValue::from_str(&encoded)
        .map_err(|e| DataFusionError::Internal(format!("query header: {e}")))?;
    Ok(HeaderMap::from_iter([(
        http::HeaderName::from_static(HEADER_QUERY),
        value,
    )]))
}

/// True when `plan` runs on more than this process.
pub fn is_distributed(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<DistributedExec>()
}

/// A scan that was cut over tasks.
pub struct CutScan<'a> {
    /// As it was.
    pub original: &'a Arc<dyn ExecutionPlan>,
    /// The part of each task.
    pub parts: &'a [Arc<dyn ExecutionPlan>],
}

impl<'a> CutScan<'a> {
    /// The scan behind `plan`, if it is one.
    pub fn of(plan: &'a dyn ExecutionPlan) -> Option<Self> {
        let leaf = plan.downcast_ref::<DistributedLeafExec>()?;
        Some(Self {
            original: leaf.original(),
            parts: leaf.variants(),
        })
    }
}

/// The stages of a distributed plan as text, one box a stage.
pub fn stages_text(plan: &dyn ExecutionPlan) -> String {
    display_plan_ascii(plan, false)
}
