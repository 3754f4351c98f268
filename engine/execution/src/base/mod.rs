//! The only module that names `datafusion-distributed`.
//!
//! `planner` cuts stages, `channel` carries plans and opens block streams,
//! `worker` runs tasks, `handlers` decide how many tasks a stage gets, `route` where they
//! run; `task_header` and `plan_watch` tell executors which task a plan is for and when it
//! is over. Its API is young and breaks often; everything above sees only what is exported
//! here.

pub mod channel;
mod cut_kept;
mod cut_scan;
pub mod handlers;
mod plan_watch;
pub mod planner;
mod route;
mod task_header;
pub mod worker;
