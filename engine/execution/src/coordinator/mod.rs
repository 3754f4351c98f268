//! The coordinator's part: who is alive, and what runs where.
//!
//! `membership` decides purely (values in, values out, the clock as an
//! argument), `control` is its mouth and ears on the cluster listener, `query`
//! starts a plan and ends it when an executor it uses is lost, `queries` lists those that
//! run or wait, `reports` asks all executors what they do, `routing` decides purely which
//! executor runs which task.

pub mod control;
pub mod membership;
pub mod queries;
pub mod query;
pub mod reports;
pub mod routing;
