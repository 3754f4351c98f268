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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Schema};
    use mobula_udfs::{FunctionSpec, ObjectKind};

    use super::super::call::FunctionCall;
    use super::*;
    use crate::sql::call_options::CallOptions;

    /// Open blocks, and the rows and bytes of one.
    fn sizes(
        mode: CallMode,
        in_flight: usize,
        batch_size: Option<usize>,
        batch_rows: &str,
    ) -> [usize; 3] {
        let mut spec = FunctionSpec::native_scalar("f", [("x", DataType::Int64)], DataType::Int64);
        spec.object = ObjectKind::AsyncFunction;
        spec.defaults.overlap.max_in_flight = Some(in_flight);
        let asked = CallOptions {
            batch_size: Some(batch_size),
            ..CallOptions::default()
        };
        let call = FunctionCall::new(Arc::new(spec), mode, vec![], &asked);
        let call = call.over(&Schema::empty(), "v");
        let mut options = MobulaOptions::default();
        options.set_value("udf_batch_rows", batch_rows).unwrap();
        let open = open_blocks(&call, &options).unwrap();
        let limits = limits(&call, &options, open);
        [open, limits.rows, limits.bytes]
    }

    #[test]
    fn all_that_are_open_are_no_more_than_one_block_of_others() {
        let all = MobulaOptions::default().udf_batch_bytes();
        for (in_flight, batch_rows, open, rows) in [
            (64, "65536", 66, 64),
            (1, "65536", 3, 1),
            (1000, "65536", 1002, 65),
            (64, "1000", 66, 15),
            (64, "4", 4, 1),
            (64, "1", 1, 1),
        ] {
            let found = sizes(CallMode::Map, in_flight, None, batch_rows);
            assert_eq!(found, [open, rows, all / open], "{in_flight} {batch_rows}");
        }
        // Rows of a block as they are asked for, and a batch a block.
        assert_eq!(sizes(CallMode::Map, 64, Some(10), "65536")[1], 10);
        assert_eq!(sizes(CallMode::Batches, 8, Some(100), "65536")[1], 100);
        assert_eq!(sizes(CallMode::Batches, 8, None, "65536")[1], 6553);
    }

    #[test]
    fn others_have_none() {
        let spec = FunctionSpec::native_scalar("f", [("x", DataType::Int64)], DataType::Int64);
        let options = CallOptions::default();
        let call = FunctionCall::new(Arc::new(spec), CallMode::Map, vec![], &options);
        let call = call.over(&Schema::empty(), "v");
        assert_eq!(open_blocks(&call, &MobulaOptions::default()), None);
    }
}
