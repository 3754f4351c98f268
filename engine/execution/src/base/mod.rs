//! The only module that names `datafusion-distributed`.
//!
//! `planner` cuts stages, `channel` carries plans and opens block streams,
//! `worker` runs tasks, `handlers` decide how many tasks a stage gets, `route` where they
//! run. Its API is young and breaks often; everything above sees only what is exported
//! here.

pub mod channel;
pub mod handlers;
pub mod planner;
mod route;
pub mod worker;
