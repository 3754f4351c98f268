//! The header that says which task a plan is for.
//!
//! The base keeps that from sessions. Here the coordinator adds it to each plan, and the
//! executor reads it where the plan's session is built ([`super::worker`]), and where the
//! call that brought it ends ([`super::plan_watch`]).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use datafusion::common::{DataFusionError, Result};
use datafusion_distributed::{SetPlanRequest, TaskKey};
use http::{HeaderMap, HeaderName, HeaderValue};
use mobula_proto::cluster::{HEADER_TASK, TaskHeader};
use prost::Message;

use crate::executor::task_run::TaskId;

/// Adds the header of `plan` to `headers`.
///
/// # Errors
/// None: base64 is always a header value.
pub fn add(headers: &mut HeaderMap, plan: &SetPlanRequest) -> Result<()> {
    let id = task_id(&plan.task_key);
    let header = TaskHeader {
        attempt_id: id.attempt_id,
        stage_id: id.stage_id,
        task_idx: id.task_idx,
        n_tasks: plan.task_count as u64,
        url: plan.target_worker_url.to_string(),
    };
    let encoded = STANDARD.encode(header.encode_to_vec());
    let value = HeaderValue::from_str(&encoded)
        .map_err(|e| DataFusionError::Internal(format!("task header: {e}")))?;
    headers.insert(HeaderName::from_static(HEADER_TASK), value);
    Ok(())
}

/// The header of a plan, if there is one that can be read.
pub fn read(headers: &HeaderMap) -> Option<TaskHeader> {
    let value = headers.get(HEADER_TASK)?;
    let bytes = STANDARD.decode(value.as_bytes()).ok()?;
    TaskHeader::decode(bytes.as_slice()).ok()
}

/// The task that a header names.
pub fn named(header: &TaskHeader) -> TaskId {
    TaskId {
        attempt_id: header.attempt_id.clone(),
        stage_id: header.stage_id,
        task_idx: header.task_idx,
    }
}

/// The task that the base names.
pub fn task_id(key: &TaskKey) -> TaskId {
    TaskId {
        attempt_id: key.query_id.as_bytes().to_vec(),
        stage_id: key.stage_id as u64,
        task_idx: key.task_number as u64,
    }
}
