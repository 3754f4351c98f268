//! `map`: one call a row, one row out.
//!
//! ```text
//! SQL      SELECT * FROM map(TABLE(t), net)      net(a, b) gets plain values: one column more
//!          SELECT * FROM map(TABLE(t), clean)    clean(row TABLE) RETURNS TABLE(…) gets a dict, gives one
//! EXPLAIN  MapExec: udf=net, kind=scalar, concurrency=2
//! Rows     as many as the input's, in order where it is asked for
//! After    Ray Data's map
//! ```
//!
//! Planned and run as `map_batches`; the worker makes the loop over the rows.

use mobula_udfs::CallMode;

use super::Operator;

pub(super) const OPERATOR: Operator = Operator {
    sql: "map",
    node: "Map",
    exec: "MapExec",
    mode: CallMode::Map,
};
