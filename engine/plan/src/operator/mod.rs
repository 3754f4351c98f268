//! Our operators, each with its node, exec, stream and message.
//!
//! Adding one is a module here, a line in [`OPERATORS`], a message in
//! `mobula_proto::plan` and an arm in the codec and the physical planner.

pub mod map_batches;

/// An operator's names: in SQL, as node, as exec.
#[derive(Debug, Clone, Copy)]
pub struct Operator {
    pub sql: &'static str,
    pub node: &'static str,
    pub exec: &'static str,
}

/// Every operator of ours.
pub static OPERATORS: &[Operator] = &[map_batches::OPERATOR];
