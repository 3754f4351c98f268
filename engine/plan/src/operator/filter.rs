//! `filter`: one call a row, which says whether it stays.
//!
//! ```text
//! SQL      SELECT * FROM filter(TABLE(t), big)    big(a, b) RETURNS BOOLEAN gets plain values
//!          SELECT * FROM filter(TABLE(t), good)   good(row TABLE) RETURNS BOOLEAN gets a dict
//! EXPLAIN  UdfFilterExec: udf=big, kind=scalar, concurrency=2
//! Rows     those for which it gave true, in order where it is asked for; the columns are the input's
//! After    Ray Data's filter
//! ```
//!
//! DataFusion's own operators have the names Filter and FilterExec. Planned and
//! run as `map_batches`; the worker makes the loop over the rows, the exec drops
//! those that go.

use mobula_udfs::CallMode;

use super::Operator;

pub(super) const OPERATOR: Operator = Operator {
    sql: "filter",
    node: "UdfFilter",
    exec: "UdfFilterExec",
    mode: CallMode::Filter,
};
