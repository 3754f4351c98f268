//! `flat_map`: one call a row, any number of rows out.
//!
//! ```text
//! SQL      SELECT * FROM flat_map(TABLE(t), words)   words(row TABLE) RETURNS TABLE(…)
//!                                                    gets a dict, gives a list of dicts or yields them
//! EXPLAIN  FlatMapExec: udf=words, kind=table, concurrency=2
//! Rows     any number; a partition's keep the order of their blocks only with one worker
//! After    Ray Data's flat_map
//! ```
//!
//! Planned and run as `map_batches`; the worker makes the loop over the rows.

use mobula_udfs::CallMode;

use super::Operator;

pub(super) const OPERATOR: Operator = Operator {
    sql: "flat_map",
    node: "FlatMap",
    exec: "FlatMapExec",
    mode: CallMode::FlatMap,
};
