//! Messages of plan nodes.
