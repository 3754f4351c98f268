//! What names a block: the same wherever, and however often, it is sent.
//!
//! User code that writes elsewhere can tell by it that it has seen a block before. An
//! operator names the blocks of each of its streams, and the name goes with a block in the
//! metadata of its schema; where that is lost, on the way to another process, it travels
//! beside it. A part of a block that is sent by itself keeps the name, and says at which row it
//! begins.

use std::fmt;

use arrow::array::RecordBatch;
use serde::Serialize;

/// In the metadata of a block's schema.
const ID: &str = "mobula.block_id";
const FIRST_ROW: &str = "mobula.block_row";

/// Names one block of a stream of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockId {
    stream: u128,
    number: u64,
}

impl BlockId {
    /// The first of the blocks that operator `call_id` of `query` makes in task
    /// `task_idx` of `partition`, when that is run for the `run`-th time.
    pub fn first_of(query: &str, [call_id, task_idx, partition, run]: [u64; 4]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for number in [call_id, task_idx, partition, run] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(query.as_bytes());
        let mut stream = [0; 16];
        hasher.finalize_xof().fill(&mut stream);
        Self {
            stream: u128::from_le_bytes(stream),
            number: 0,
        }
    }

    /// What it has in common with the other blocks of its stream.
    pub(crate) fn stream(self) -> u128 {
        self.stream
    }

    /// The one `blocks` behind it.
    pub fn plus(self, blocks: u64) -> Self {
        Self {
            number: self.number.wrapping_add(blocks),
            ..self
        }
    }

    /// As a message carries it.
    pub fn to_parts(self) -> [u64; 3] {
        let high = (self.stream >> 64) as u64;
        [high, self.stream as u64, self.number]
    }

    /// What [`Self::to_parts`] made; `None` of zeros.
    pub fn from_parts([high, low, number]: [u64; 3]) -> Option<Self> {
        let stream = (u128::from(high) << 64) | u128::from(low);
        (stream != 0).then_some(Self { stream, number })
    }

    /// `block` with this name.
    pub fn name(self, mut block: RecordBatch) -> RecordBatch {
        let metadata = block.schema_metadata_mut();
        metadata.insert(ID.to_owned(), self.to_string());
        block
    }

    /// The name of `block`, if it has one.
    pub fn of(block: &RecordBatch) -> Option<Self> {
        let text = block.schema_ref().metadata().get(ID)?;
        let (stream, number) = text.split_once('-')?;
        Some(Self {
            stream: u128::from_str_radix(stream, 16).ok()?,
            number: number.parse().ok()?,
        })
    }
}

/// As user code sees it.
impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{}", self.stream, self.number)
    }
}

/// The name of what is sent to a worker, as PROCESS says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Named {
    id: String,
    rows: RowsOf,
}

/// Which rows of the block they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum RowsOf {
    /// Those from there on.
    From(usize),
    Each(Vec<usize>),
}

impl Named {
    /// Of a block, or a part of one.
    pub(crate) fn of(block: &RecordBatch) -> Option<Self> {
        Some(Self {
            id: block.schema_ref().metadata().get(ID)?.clone(),
            rows: RowsOf::From(first_row(block)),
        })
    }

    /// Of some of its rows.
    pub(crate) fn at(self, places: &[usize]) -> Self {
        let first = places.first().copied().unwrap_or_default();
        let follow = places
            .iter()
            .enumerate()
            .all(|(n, place)| *place == first + n);
        let rows = match follow {
            true => RowsOf::From(first),
            false => RowsOf::Each(places.to_vec()),
        };
        Self { rows, ..self }
    }
}

fn first_row(block: &RecordBatch) -> usize {
    let row = block.schema_ref().metadata().get(FIRST_ROW);
    row.and_then(|row| row.parse().ok()).unwrap_or_default()
}

/// `block`, which was made of `original`, with its name.
pub(crate) fn as_named(original: Option<BlockId>, block: RecordBatch) -> RecordBatch {
    match original {
        Some(id) => id.name(block),
        None => block,
    }
}

/// Some rows of `block`, which know where in it they were.
pub(crate) fn part_of(block: &RecordBatch, start: usize, rows: usize) -> RecordBatch {
    let mut part = block.slice(start, rows);
    if start > 0 && BlockId::of(block).is_some() {
        let first = first_row(block) + start;
        let metadata = part.schema_metadata_mut();
        metadata.insert(FIRST_ROW.to_owned(), first.to_string());
    }
    part
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn block(rows: i64) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        RecordBatch::try_from_iter([("a", column)]).unwrap()
    }

    #[test]
    fn a_name_is_of_one_block_alone_and_the_same_every_time() {
        let mut seen = HashSet::new();
        for query in ["q", "p", ""] {
            for place in [
                [1, 0, 0, 0],
                [2, 0, 0, 0],
                [1, 2, 0, 0],
                [1, 0, 2, 0],
                [1, 0, 0, 2],
            ] {
                let first = BlockId::first_of(query, place);
                assert_eq!(first, BlockId::first_of(query, place));
                for id in [first, first.plus(1), first.plus(2)] {
                    assert!(seen.insert(id.to_string()), "{id}");
                    assert_eq!(BlockId::from_parts(id.to_parts()), Some(id));
                }
            }
        }
        assert_eq!(BlockId::from_parts([0; 3]), None);
    }

    #[test]
    fn a_name_goes_with_a_block_and_its_parts() {
        let id = BlockId::first_of("q", [1, 2, 3, 4]).plus(7);
        let named = id.name(block(10));
        assert_eq!(BlockId::of(&named), Some(id));
        assert_eq!(BlockId::of(&block(1)), None);
        assert_eq!(Named::of(&block(1)), None);
        let part = part_of(&part_of(&named, 2, 8), 3, 5);
        assert_eq!(BlockId::of(&part), Some(id));
        let said = |named: Option<Named>| serde_json::to_string(&named.unwrap()).unwrap();
        assert_eq!(
            said(Named::of(&part)),
            format!("{{\"id\":\"{id}\",\"rows\":5}}")
        );
        let of_some = Named::of(&named).map(|named| named.at(&[1, 4]));
        assert!(said(of_some).ends_with("\"rows\":[1,4]}"));
        let of_some = Named::of(&named).map(|named| named.at(&[3, 4]));
        assert!(said(of_some).ends_with("\"rows\":3}"));
        assert_eq!(as_named(BlockId::of(&named), block(3)).num_rows(), 3);
    }
}
