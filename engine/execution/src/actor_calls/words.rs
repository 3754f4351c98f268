//! What is read from the words of an exchange, and what is said in them.

use arrow::array::RecordBatch;
use mobula_proto::actor::{self as wire_actor, BlockTag};
use mobula_udfs::{BlockId, Down, TRAIN_BLOCKS, UdfError};
use tonic::Status;

pub(super) fn malformed(problem: impl Into<String>) -> Status {
    Status::invalid_argument(format!("this is no call of an actor: {}", problem.into()))
}

pub(super) fn down_of(error: &UdfError) -> wire_actor::Down {
    match error {
        UdfError::ActorDown { down, .. } => match down {
            Down::Begun(_) => wire_actor::Down::Begun,
            Down::NotBegun => wire_actor::Down::NotBegun,
            Down::Failed(_) => wire_actor::Down::Failed,
        },
        _ => wire_actor::Down::No,
    }
}

/// The blocks that `block` is: one, or several of `rows` rows each.
pub(super) fn blocks_of(block: RecordBatch, rows: u64) -> Result<Vec<RecordBatch>, Status> {
    let Some(rows) = usize::try_from(rows).ok().filter(|rows| *rows > 0) else {
        return Ok(vec![block]);
    };
    let (all, count) = (block.num_rows(), block.num_rows().div_ceil(rows));
    if count > TRAIN_BLOCKS {
        let most = format!("{count} blocks come as one, more than {TRAIN_BLOCKS}");
        return Err(malformed(most));
    }
    let starts = (0..all).step_by(rows);
    Ok(starts
        .map(|start| block.slice(start, rows.min(all - start)))
        .collect())
}

/// `blocks` of a message, with the names that it says.
pub(super) fn named(blocks: Vec<RecordBatch>, tag: &BlockTag) -> Vec<RecordBatch> {
    let Some(first) = BlockId::from_parts([tag.stream_high, tag.stream_low, tag.number]) else {
        return blocks;
    };
    let numbered = (0..).zip(blocks);
    numbered
        .map(|(number, block)| first.plus(number).name(block))
        .collect()
}
