//! `repartition`: the same rows in other streams, or in other blocks.
//!
//! ```text
//! SQL      SELECT * FROM repartition(TABLE(t), 8)                   8 streams, equally long
//!          SELECT * FROM repartition(TABLE(t), by => (a, b))        equal keys in one stream
//!          SELECT * FROM repartition(TABLE(t), 8, by => a)          both
//!          SELECT * FROM repartition(TABLE(t), rows_per_block => 100)
//!                                                                   blocks of 100 rows
//! EXPLAIN  SpreadExec: partitions=8, by=[a, b]                      above a RepartitionExec
//!          BlocksExec: rows_per_block=100
//! Rows     the input's
//! Order    among streams none; rows_per_block alone keeps it
//! Parts    those asked for; over executors as many for each, rounded up
//! Memory   streams: DataFusion's RepartitionExec, which spills; blocks: one for each stream,
//!          counted in the memory pool
//! After    Ray Data's repartition
//! ```
//!
//! `node` is planned; `spread` and `blocks` are its execs, one for streams and one for
//! blocks. DataFusion removes each RepartitionExec that nobody requires, so `spread`
//! gets one below it by the last physical rule, `rule::lower_spread`. Without keys
//! `route` numbers the rows, since only hashes move rows between executors. Where the same key
//! must have the same stream in all queries, keys of one kind are made `alike` first.

mod alike;
mod blocks;
mod node;
mod route;
mod spread;
#[cfg(test)]
mod tests;

pub use blocks::BlocksExec;
pub use node::{Repartition, RepartitionNode};
pub use route::RouteExec;
pub use spread::{Spread, SpreadExec, TaskLimit};

/// Its name in SQL.
pub const SQL_NAME: &str = "repartition";
/// Most streams, and so most channels that each input stream writes to.
pub const MAX_PARTITIONS: usize = 1024;
/// Most rows of a block that can be asked for.
pub const MAX_ROWS_PER_BLOCK: usize = 1 << 24;
