//! Cuts what the input gives into the blocks that workers get.
//!
//! Small pieces are gathered, large ones sliced, without copying: a block is a
//! list of slices. Rows stay in order. A block has the rows the limits allow
//! and, when the user asked for a batch size, a whole number of batches, except
//! the last. Limits are of rows sent; where a mask keeps rows from the worker, a
//! block ends before too many of those wait beside it, and it may have no row to
//! send at all. Pure; used by the stream of one partition.

use std::collections::VecDeque;

use mobula_block::size::block_bytes;

use super::piece::Piece;

/// Batches of a block when the user gave a batch size: enough to hide the way
/// to the worker, few enough to spread over workers and to stop early.
const BATCHES_PER_BLOCK: usize = 16;

/// Rows under a mask that wait beside a block, per row that it may send.
const PASSED_PER_ROW: usize = 4;

/// Most bytes of a block that is small.
const SMALL_BYTES: usize = 4 << 10;

/// How large a block may get.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockLimits {
    /// At least 1.
    pub rows: usize,
    /// Of the columns sent; one batch may exceed it.
    pub bytes: usize,
    pub batch_size: Option<usize>,
}

impl BlockLimits {
    /// Rows of a block whose rows have `row_bytes` on average; at least 1.
    fn block_rows(&self, row_bytes: usize) -> usize {
        let most = self.rows.min(self.bytes / row_bytes.max(1)).max(1);
        match self.batch_size {
            None => most,
            Some(batch) => {
                let most = most.min(batch.saturating_mul(BATCHES_PER_BLOCK));
                (most - most % batch).max(batch)
            }
        }
    }
}

/// Consecutive rows for one call; never empty.
#[derive(Debug)]
pub(super) struct Block {
    pub pieces: VecDeque<Piece>,
    /// Rows to send.
    pub rows: usize,
    /// About as many bytes are sent.
    pub bytes: usize,
    /// Of its rows as they came, if that is counted.
    pub bytes_beside: usize,
}

/// Rows that wait to become a block.
#[derive(Debug)]
pub(super) struct BlockQueue {
    limits: BlockLimits,
    pieces: VecDeque<Piece>,
    /// To send.
    rows: usize,
    bytes: usize,
    /// Of all rows as they came; `None`: not counted.
    bytes_beside: Option<usize>,
    /// Under a mask.
    passed_rows: usize,
    passed_bytes: usize,
    finished: bool,
    /// Where blocks may end, counted from the first row that waits: between
    /// groups, or between blocks as they came. `None`: anywhere.
    ends: Option<VecDeque<usize>>,
    /// Rows that a block should have at most now, whatever `limits` allow.
    cut: usize,
}

impl BlockQueue {
    pub fn new(limits: BlockLimits) -> Self {
        Self {
            limits,
            pieces: VecDeque::new(),
            rows: 0,
            bytes: 0,
            bytes_beside: None,
            passed_rows: 0,
            passed_bytes: 0,
            finished: false,
            ends: None,
            cut: usize::MAX,
        }
    }

    /// The same, which counts bytes of rows that wait beside their block, if it `counts`.
    pub fn counting(mut self, counts: bool) -> Self {
        self.bytes_beside = counts.then_some(0);
        self
    }

    /// From now on a block has no more than `rows` to send, but for whole batches.
    pub fn cut_to(&mut self, rows: usize) {
        self.cut = rows.max(1);
    }

    /// Rows of the next block.
    fn wanted(&self) -> usize {
        let row_bytes = self.bytes.checked_div(self.rows).unwrap_or(0);
        let rows = self.limits.rows.min(self.cut);
        BlockLimits {
            rows,
            ..self.limits
        }
        .block_rows(row_bytes)
    }

    /// As [`Self::push`], of rows in which groups start at `starts`: no block cuts
    /// one. A queue gets groups only, or none.
    pub fn push_groups(&mut self, piece: Piece, starts: &[usize]) {
        let before = self.rows;
        let ends = self.ends.get_or_insert_default();
        ends.extend(
            starts
                .iter()
                .map(|start| before + start)
                .filter(|end| *end > 0),
        );
        self.push(piece);
    }

    /// As [`Self::push`], of rows that are a block: neither cut nor joined with others.
    pub fn push_block(&mut self, piece: Piece) {
        let ends_block = piece.asked() > 0;
        self.push(piece);
        let ends = self.ends.get_or_insert_default();
        if ends_block {
            ends.push_back(self.rows);
        }
    }

    /// Bytes of rows whose group may go on.
    pub fn open_bytes(&self) -> usize {
        let ends = self.ends.as_ref().and_then(VecDeque::back);
        let open = self.rows - ends.copied().unwrap_or(0).min(self.rows);
        (self.bytes as u128 * open as u128 / self.rows.max(1) as u128) as usize
    }

    /// Adds rows at the end.
    pub fn push(&mut self, piece: Piece) {
        let passed = piece.passed.rows();
        if passed.num_rows() == 0 {
            return;
        }
        if piece.passed.is_masked() {
            self.passed_rows += passed.num_rows();
            self.passed_bytes += block_bytes(passed);
        }
        if let Some(beside) = &mut self.bytes_beside {
            *beside += block_bytes(passed);
        }
        self.rows += piece.asked();
        self.bytes += block_bytes(&piece.sent);
        self.pieces.push_back(piece);
    }

    /// No more rows will come: what is left may leave as a smaller block.
    pub fn finish(&mut self) {
        self.finished = true;
        if let Some(ends) = &mut self.ends {
            ends.push_back(self.rows);
        }
    }

    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// The next block, if enough rows wait.
    pub fn pop(&mut self) -> Option<Block> {
        let wanted = self.wanted();
        if self.rows > 0 && self.ends.is_some() {
            return self.pop_groups(wanted);
        }
        match self.rows {
            rows if rows >= wanted => Some(self.take(wanted)),
            _ if self.pieces.is_empty() => None,
            _ if self.finished || self.is_crowded() => Some(self.take_all()),
            _ => None,
        }
    }

    /// As [`Self::pop`], if the block will be small.
    pub fn pop_small(&mut self) -> Option<Block> {
        let row_bytes = self.bytes.checked_div(self.rows).unwrap_or(0);
        let rows = match self.ends.as_ref().and_then(VecDeque::front) {
            Some(end) => *end,
            None => self.wanted().min(self.rows),
        };
        match row_bytes.saturating_mul(rows) <= SMALL_BYTES {
            true => self.pop(),
            false => None,
        }
    }

    /// As many whole groups as `wanted` rows hold, but one at least.
    fn pop_groups(&mut self, wanted: usize) -> Option<Block> {
        if self.rows < wanted && !self.finished {
            return None;
        }
        let ends = self.ends.as_mut()?;
        let mut end = ends.pop_front()?;
        while let Some(next) = ends.pop_front_if(|next| *next <= wanted) {
            end = next;
        }
        ends.iter_mut().for_each(|next| *next -= end);
        Some(self.take(end))
    }

    /// Whether too many rows wait that are kept from the worker.
    fn is_crowded(&self) -> bool {
        let most = self.limits.rows.saturating_mul(PASSED_PER_ROW);
        self.passed_rows >= most || self.passed_bytes >= self.limits.bytes
    }

    fn take_all(&mut self) -> Block {
        let block = Block {
            pieces: std::mem::take(&mut self.pieces),
            rows: self.rows,
            bytes: self.bytes,
            bytes_beside: self.bytes_beside.unwrap_or(0),
        };
        self.bytes_beside = self.bytes_beside.map(|_| 0);
        (self.rows, self.bytes) = (0, 0);
        (self.passed_rows, self.passed_bytes) = (0, 0);
        block
    }

    fn take(&mut self, rows: usize) -> Block {
        let mut block = Block {
            pieces: VecDeque::new(),
            rows: 0,
            bytes: 0,
            bytes_beside: 0,
        };
        while block.rows < rows {
            let Some(piece) = self.pieces.pop_front() else {
                break;
            };
            let missing = rows - block.rows;
            let piece = match piece.asked() > missing {
                true => {
                    let (piece, rest) = piece.split(missing);
                    self.pieces.push_front(rest);
                    piece
                }
                false => piece,
            };
            block.rows += piece.asked();
            if piece.passed.is_masked() {
                self.passed_rows -= piece.passed.rows().num_rows();
            }
            block.pieces.push_back(piece);
        }
        // Bytes are an average anyway: take the block's share.
        let (taken, all) = (block.rows as u128, self.rows.max(1) as u128);
        let share = |bytes: usize| (bytes as u128 * taken / all) as usize;
        block.bytes = share(self.bytes);
        block.bytes_beside = share(self.bytes_beside.unwrap_or(0));
        self.bytes -= block.bytes;
        self.bytes_beside = self.bytes_beside.map(|all| all - block.bytes_beside);
        self.rows -= block.rows;
        let left = self.pieces.iter().filter(|p| p.passed.is_masked());
        self.passed_bytes = left.map(|p| block_bytes(p.passed.rows())).sum();
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};

    fn piece(values: std::ops::Range<i64>) -> Piece {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
        let batch = RecordBatch::try_from_iter([("a", column)]).unwrap();
        Piece::whole(batch.clone(), batch)
    }

    fn limits(rows: usize, bytes: usize, batch_size: Option<usize>) -> BlockLimits {
        BlockLimits {
            rows,
            bytes,
            batch_size,
        }
    }

    /// Block sizes made of pieces of the given sizes, and that order is kept.
    fn cut(limits: BlockLimits, pieces: &[i64]) -> Vec<usize> {
        let mut queue = BlockQueue::new(limits);
        let mut blocks = Vec::new();
        let mut start = 0;
        for rows in pieces {
            queue.push(piece(start..start + rows));
            start += rows;
            while let Some(block) = queue.pop() {
                blocks.push(block);
            }
        }
        queue.finish();
        while let Some(block) = queue.pop() {
            blocks.push(block);
        }
        let values: Vec<i64> = blocks
            .iter()
            .flat_map(|block| &block.pieces)
            .flat_map(|p| {
                p.sent
                    .column(0)
                    .as_any()
                    .downcast_ref::<Int64Array>()
                    .unwrap()
                    .values()
                    .to_vec()
            })
            .collect();
        assert_eq!(values, (0..start).collect::<Vec<_>>());
        blocks.iter().map(|block| block.rows).collect()
    }

    #[test]
    fn a_block_is_cut_by_what_blocks_take_but_not_within_a_batch() {
        let sizes = |batch_size| {
            let mut queue = BlockQueue::new(limits(1000, 1 << 20, batch_size));
            queue.push(piece(0..700));
            let mut sizes = vec![];
            for rows in [0, 5, 100, 64, 2000] {
                queue.cut_to(rows);
                sizes.extend(queue.pop().map(|block| block.rows));
            }
            sizes
        };
        assert_eq!(sizes(None), [1, 5, 100, 64]);
        assert_eq!(sizes(Some(30)), [30, 30, 90, 60, 480]);
    }

    #[test]
    fn blocks_come_out_as_they_went_in() {
        let mut queue = BlockQueue::new(limits(1, 1, None));
        let mut start = 0;
        let mut popped = Vec::new();
        for rows in [3, 1, 5, 0, 2] {
            queue.push_block(piece(start..start + rows));
            start += rows;
            popped.extend(queue.pop().map(|block| block.rows));
        }
        queue.finish();
        assert!(queue.pop().is_none());
        assert_eq!(popped, [3, 1, 5, 2]);
    }

    #[test]
    fn blocks_under_a_mask_wait_for_rows_to_send() {
        let mut queue = BlockQueue::new(limits(1, 1 << 20, None));
        for sends in [[false, false], [true, false], [false, false]] {
            let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
            let rows = RecordBatch::try_from_iter([("a", column)]).unwrap();
            let mask = BooleanArray::from(sends.to_vec());
            let sent = rows.clone();
            queue.push_block(Piece::masked(rows, &sent, &mask).unwrap());
        }
        queue.finish();
        let blocks: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        let sizes: Vec<_> = blocks.iter().map(|b| (b.rows, b.pieces.len())).collect();
        assert_eq!(sizes, [(1, 2), (0, 1)]);
    }

    #[test]
    fn small_pieces_gather_and_large_ones_are_sliced() {
        assert_eq!(
            cut(limits(10, 1 << 20, None), &[3, 3, 3, 3, 0, 25]),
            [10, 10, 10, 7]
        );
        assert_eq!(cut(limits(10, 1 << 20, None), &[0, 0]), [0; 0]);
        assert_eq!(cut(limits(1, 1 << 20, None), &[3]), [1, 1, 1]);
    }

    /// Block sizes made of groups of the given sizes, in pieces of `piece_rows`.
    fn cut_groups(wanted: usize, groups: &[usize], piece_rows: usize) -> Vec<usize> {
        let mut queue = BlockQueue::new(limits(wanted, 1 << 20, None));
        let starts = groups.iter().scan(0, |next, rows| {
            let start = *next;
            *next += rows;
            Some(start)
        });
        let starts: Vec<usize> = starts.collect();
        let total: usize = groups.iter().sum();
        let mut blocks = Vec::new();
        for start in (0..total).step_by(piece_rows) {
            let end = total.min(start + piece_rows);
            let here = starts.iter().filter(|at| (start..end).contains(at));
            let here: Vec<_> = here.map(|at| at - start).collect();
            queue.push_groups(piece(start as i64..end as i64), &here);
            blocks.extend(std::iter::from_fn(|| queue.pop()).map(|block| block.rows));
        }
        queue.finish();
        blocks.extend(std::iter::from_fn(|| queue.pop()).map(|block| block.rows));
        blocks
    }

    #[test]
    fn small_blocks_are_told_from_large_ones() {
        let mut queue = BlockQueue::new(limits(100, 1 << 20, None));
        queue.push(piece(0..250));
        assert_eq!(queue.pop_small().unwrap().rows, 100);
        let mut queue = BlockQueue::new(limits(1000, 1 << 20, None));
        queue.push(piece(0..2500));
        assert!(queue.pop_small().is_none());
        assert_eq!(queue.pop().unwrap().rows, 1000);
        // Groups as large as they are, whatever a block may have.
        let mut queue = BlockQueue::new(limits(1, 1 << 20, None));
        queue.push_groups(piece(0..2000), &[0, 10, 1500]);
        assert_eq!(queue.pop_small().unwrap().rows, 10);
        assert!(queue.pop_small().is_none());
        // What is not there yet is no block.
        let mut queue = BlockQueue::new(limits(100, 1 << 20, None));
        queue.push(piece(0..20));
        assert!(queue.pop_small().is_none());
        queue.finish();
        assert_eq!(queue.pop_small().unwrap().rows, 20);
    }

    #[test]
    fn no_group_is_cut() {
        for piece_rows in [1, 2, 7, 100] {
            let groups = [3, 3, 3, 12, 1, 1, 1];
            assert_eq!(
                cut_groups(7, &groups, piece_rows),
                [6, 3, 12, 3],
                "{piece_rows}"
            );
        }
        assert_eq!(cut_groups(1, &[2, 1], 2), [2, 1]);
        assert_eq!(cut_groups(100, &[], 2), [0; 0]);
    }

    #[test]
    fn wide_rows_make_shorter_blocks() {
        // 8 bytes a row (and maybe some for the header): at most 4 rows in 40 bytes.
        let sizes = cut(limits(1000, 40, None), &[20]);
        assert!(sizes.iter().all(|rows| (1..=5).contains(rows)), "{sizes:?}");
        assert!(
            cut(limits(1000, 1, None), &[3])
                .iter()
                .all(|rows| *rows == 1)
        );
    }

    #[test]
    fn a_block_is_whole_batches_except_the_last() {
        assert_eq!(cut(limits(100, 1 << 20, Some(30)), &[250]), [90, 90, 70]);
        assert_eq!(cut(limits(1 << 20, 1 << 20, Some(2)), &[70]), [32, 32, 6]);
        // A batch larger than the limit is what the user asked for.
        assert_eq!(cut(limits(10, 1, Some(50)), &[30, 30, 30]), [50, 40]);
    }

    /// Rows to send and rows in all of the blocks made of pieces of 10 rows, of
    /// which the given ones are asked about.
    fn cut_masked(limits: BlockLimits, pieces: &[&[usize]]) -> Vec<(usize, usize)> {
        let mut queue = BlockQueue::new(limits);
        let mut blocks = vec![];
        for asked in pieces {
            let rows = piece(0..10).sent;
            let mask: BooleanArray = (0..10).map(|i| Some(asked.contains(&i))).collect();
            queue.push(Piece::masked(rows.clone(), &rows, &mask).unwrap());
            blocks.extend(std::iter::from_fn(|| queue.pop()));
        }
        queue.finish();
        blocks.extend(std::iter::from_fn(|| queue.pop()));
        let all = |block: &Block| {
            block
                .pieces
                .iter()
                .map(|p| p.passed.rows().num_rows())
                .sum()
        };
        blocks
            .iter()
            .map(|block| (block.rows, all(block)))
            .collect()
    }

    #[test]
    fn masked_rows_are_gathered_and_the_others_bounded() {
        let most = 1 << 20;
        // Blocks of 3 rows sent; the next one begins with a row to send.
        assert_eq!(
            cut_masked(limits(3, most, None), &[&[0, 5], &[2, 4, 9], &[]]),
            [(3, 14), (2, 16)]
        );
        // Nobody asks: blocks of 4 times as many rows, none of them sent.
        assert_eq!(
            cut_masked(limits(5, most, None), &[&[], &[], &[], &[]]),
            [(0, 20), (0, 20)]
        );
        // Whole batches unless rows pile up.
        assert_eq!(
            cut_masked(limits(10, most, Some(2)), &[&[1], &[1], &[1], &[1], &[1]]),
            [(4, 40), (1, 10)]
        );
        // Wide rows pile up sooner.
        let blocks = cut_masked(limits(1000, 100, None), &[&[1], &[1], &[1], &[1]]);
        assert_eq!(blocks.len(), 2, "{blocks:?}");
    }
}
