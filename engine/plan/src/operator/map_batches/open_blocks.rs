//! How many blocks of an async call there may be, and how large they are.
//!
//! A row that takes long keeps its block open while those after it go on, so as many
//! blocks may be open as rows are in flight, and two besides. They are small: together, those
//! of one worker have no more rows and bytes than a block of another call.

use mobula_udfs::{CallMode, UdfCall};

use super::block_queue::BlockLimits;
use crate::config::MobulaOptions;

/// Blocks beside those that wait for a row: one that is begun, and the next.
const BESIDE: usize = 2;

/// Blocks that may be open for each worker; `None`: the call is not async.
pub(super) fn open_blocks(call: &UdfCall, options: &MobulaOptions) -> Option<usize> {
    let most = call.handling.overlap.in_flight() + BESIDE;
    call.is_async()
        .then(|| most.min(options.udf_batch_rows().max(1)))
}

/// How large a block gets where so many may be open.
pub(super) fn limits(call: &UdfCall, options: &MobulaOptions, open: usize) -> BlockLimits {
    let share = (options.udf_batch_rows() / open).max(1);
    let (rows, batch_size) = match (call.mode, call.batch_size) {
        // Each batch is an item, and a block.
        (CallMode::Batches, Some(rows)) => (rows, Some(rows)),
        (CallMode::Batches | CallMode::Groups, _) => (share, None),
        (_, asked) => {
            let most = share.min(call.handling.overlap.in_flight());
            (most.min(asked.unwrap_or(most)), None)
        }
    };
    BlockLimits {
        rows,
        bytes: (options.udf_batch_bytes() / open).max(1),
        batch_size,
    }
}
