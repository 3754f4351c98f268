//! `map_batches`: hands blocks to workers that run a user's function.
//!
//! ```text
//! SQL      SELECT net(price, discount) FROM t                    one column is appended
//!          SELECT CASE WHEN ok THEN net(price, 0) END FROM t     with a mask: for some rows
//!          SELECT * FROM map_batches(TABLE(t), net)              the same
//!          SELECT * FROM map_batches(TABLE(t), chunks, batch_size => 64)
//!                                                                RETURNS TABLE: other rows
//! EXPLAIN  MapBatchesExec: udf=net, kind=scalar, batch_size=64, batch_format=numpy, concurrency=2, mask=ok@3
//! Rows     scalar: as many as the input's; table: any number
//! Order    within a partition, where it is asked for (`rule::order_where_asked`)
//! Parts    as the input's; asks for no distribution
//! Memory   per partition one block in flight, over all partitions of a task
//!          `concurrency` more, as far as `memory_limit` has room (`block_memory`); a block has udf_batch_rows rows or udf_batch_bytes bytes; beside
//!          it wait the rows that a mask keeps from the worker, four times as many rows
//!          or the same bytes at most
//! Cancel   dropping the stream drops the calls: their workers stop
//! Errors   UdfError, unchanged, inside DataFusionError::External; on_error lets rows
//!          that fail stay with NULL, go, or go and be listed in system.errors
//! After    Ray Data's map_batches over tasks and actor pools
//! ```
//!
//! `map`, `flat_map` and `filter` run here as well: they differ in what a worker
//! does with a block. `node` is planned, `exec` is placed, `stream` runs one partition with
//! `block_queue` before it (`piece` is what it cuts) and `shared_pool` beside it; `demand`
//! tells what its workers ask for. Where rows go to actors by key, a SpreadExec below has a
//! stream for each of them. Of an async function many blocks are open
//! (`open_blocks`), and values may come in any order (`scattered`). Blocks of named actors,
//! for which others wait, are cut by what they take (`pace`); `interactive` tells whose go
//! first.

mod block_memory;
mod block_names;
mod block_queue;
mod call;
mod demand;
mod display;
mod exec;
mod failures;
mod grouping;
mod in_flight;
mod interactive;
#[cfg(test)]
mod keyed_tests;
#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod mask_tests;
#[cfg(test)]
mod memory_tests;
mod node;
mod open_blocks;
mod pace;
mod piece;
#[cfg(test)]
mod row_tests;
mod scattered;
mod shared_pool;
mod stream;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod train_tests;
mod until_end;

use mobula_udfs::CallMode;

use super::Operator;
pub use call::FunctionCall;
pub use demand::{CallDemand, DemandingCall, actors_called, demanding_calls, demands};
pub use exec::{ExecShape, MapBatchesExec, map_batches_exec};
pub use grouping::{ExecGrouping, Grouping, SortWay};
pub use interactive::is_interactive;
pub use node::{MapBatchesNode, NodeShape};

pub(super) const OPERATOR: Operator = Operator {
    sql: "map_batches",
    node: "MapBatches",
    exec: "MapBatchesExec",
    mode: CallMode::Batches,
};
