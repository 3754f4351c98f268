//! `map_groups`: all rows of a group at a time, any number of rows out.
//!
//! ```text
//! SQL      SELECT * FROM map_groups(TABLE(t), f, partition_by => (a, b), order_by => 'ts DESC')
//! EXPLAIN  MapGroupsExec: udf=f, kind=table, partition_by=[a, b], order_by=[ts DESC], …
//! Rows     any number; a group's rows reach one call, in the order asked for
//! Order    none among groups
//! Parts    hash partitioned by the keys, each part sorted by keys and order
//! Memory   as map_batches; a group is sent whole, so it must fit `udf_max_frame_bytes`
//! After    Ray Data's groupby().map_groups()
//! ```
//!
//! Run as a table call of `map_batches`: blocks are cut between groups, and a last
//! column tells the worker where groups start.

use mobula_udfs::CallMode;

use super::Operator;

pub(super) const OPERATOR: Operator = Operator {
    sql: "map_groups",
    node: "MapGroups",
    exec: "MapGroupsExec",
    mode: CallMode::Groups,
};
