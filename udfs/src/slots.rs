//! The memory that this process shares with one worker.
//!
//! Two sets of slots, one for blocks to the worker and one for blocks from it.
//! A slot is made when a block finds none and used again for later ones; how
//! many there are and how large they get is bounded, and what finds no room goes
//! with its frame. Memory that nobody used for a while goes back to the system.
//! Owned by `channel`, which says on the socket what is where.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::protocol::Span;
use crate::segment::Segment;
use crate::slot_table::{Room, SlotTable};
use crate::spawn::{OwnedTask, spawn_named};

/// Payloads up to this go with their frame: looking after a slot costs what the
/// socket costs for so few bytes (`cargo run --release --example transport`).
pub(crate) const INLINE_BYTES: usize = 64 << 10;
/// How much is copied to or from a slot before others may run.
pub(crate) const COPY_BYTES: usize = 4 << 20;
/// Slots for outputs: the worker fills one while we empty the other.
const OUTPUTS_AHEAD: usize = 2;
/// How often memory is given back that was not used since the last time.
const ROUND: Duration = Duration::from_secs(10);

/// What the worker has to be told before the next frame.
#[derive(Debug)]
pub(crate) enum News {
    Slot {
        number: u16,
        bytes: usize,
        /// Whether the worker fills it.
        output: bool,
        file: OwnedFd,
    },
    /// It is gone.
    Drop(u16),
    /// The worker may fill it again.
    Free(u16),
}

/// What a worker's slots did since they were last asked.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) slots_created: u64,
    /// Bytes of blocks that crossed in slots, both ways.
    pub(crate) bytes_shared: u64,
}

/// A slot out of its table, to be written or read.
#[derive(Debug)]
pub(crate) struct OpenSlot {
    pub(crate) number: u16,
    pub(crate) memory: Segment,
}

/// The slots of one worker.
#[derive(Debug)]
pub(crate) struct Slots {
    tables: Arc<Mutex<Tables>>,
    /// What the memory is called where processes are looked into.
    name: String,
    numbers: u16,
    news: Vec<News>,
    /// An output of so many bytes found no slot.
    wanted_output: Option<usize>,
    /// Outputs of the request that is being answered.
    outputs: usize,
    tally: Tally,
    /// The system has refused.
    refused: bool,
    rounds: Option<OwnedTask>,
}

#[derive(Debug)]
struct Tables {
    inputs: SlotTable<Segment>,
    outputs: SlotTable<Segment>,
    /// Requests that the worker has not answered to the end. Without one it
    /// writes nowhere.
    requests: usize,
}

impl Slots {
    /// None yet; each side will have at most `max_bytes`.
    pub(crate) fn new(pid: u32, max_bytes: usize) -> Self {
        let tables = Tables {
            inputs: SlotTable::new(max_bytes),
            outputs: SlotTable::new(max_bytes),
            requests: 0,
        };
        Self {
            tables: Arc::new(Mutex::new(tables)),
            name: format!("mobula-{pid}"),
            numbers: 0,
            news: Vec::new(),
            wanted_output: None,
            outputs: 0,
            tally: Tally::default(),
            refused: false,
            rounds: None,
        }
    }

    /// What happened since the last time.
    pub(crate) fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// A request goes out; after this the worker may write.
    pub(crate) fn begin_request(&mut self) {
        self.tables.lock().requests += 1;
    }

    /// A request has its last answer.
    pub(crate) fn end_request(&mut self) {
        let mut tables = self.tables.lock();
        tables.requests = tables.requests.saturating_sub(1);
        drop(tables);
        self.outputs = 0;
    }

    /// Whether [`Self::open_input`] would find a slot.
    pub(crate) fn has_input(&self, bytes: usize) -> bool {
        let tables = self.tables.lock();
        let inputs = &tables.inputs;
        !self.refused && (inputs.has_free(bytes) || inputs.room_for(bytes, false).is_some())
    }

    /// A slot to write `bytes` bytes to, if they are to have one.
    pub(crate) fn open_input(&mut self, bytes: usize) -> Option<OpenSlot> {
        if bytes <= INLINE_BYTES || self.refused {
            return None;
        }
        if let Some(free) = self.tables.lock().inputs.take_free(bytes) {
            return Some(free.into());
        }
        let room = self.tables.lock().inputs.room_for(bytes, false)?;
        self.make(room, false)?;
        self.tables.lock().inputs.take_free(bytes).map(Into::into)
    }

    /// Back with a slot that was filled: the worker may read it.
    pub(crate) fn close_input(&mut self, slot: OpenSlot, bytes: usize) {
        let OpenSlot { number, memory } = slot;
        self.tables.lock().inputs.put_full(number, memory, bytes);
        self.tally.bytes_shared += bytes as u64;
    }

    /// The worker has no view of a slot any more; the error says what is wrong.
    pub(crate) fn release_input(&mut self, number: u16) -> Result<(), String> {
        match self.tables.lock().inputs.release(number) {
            true => Ok(()),
            false => Err(format!(
                "it gives back slot {number}, which it does not have"
            )),
        }
    }

    /// A slot that the worker says it filled; the error says what is wrong.
    pub(crate) fn open_output(&mut self, number: u16) -> Result<OpenSlot, String> {
        let memory = self.tables.lock().outputs.take_full(number);
        let memory = memory.ok_or_else(|| format!("it filled slot {number}, which it may not"))?;
        Ok(OpenSlot { number, memory })
    }

    /// Back with a slot that was emptied.
    pub(crate) fn close_output(&mut self, slot: OpenSlot, span: Span) {
        let OpenSlot { number, memory } = slot;
        let end = span.at.saturating_add(span.bytes);
        self.tables.lock().outputs.put_emptied(number, memory, end);
        self.tally.bytes_shared += span.bytes as u64;
    }

    /// An output of `bytes` bytes came with its frame: maybe for want of a slot.
    pub(crate) fn note_inline_output(&mut self, bytes: usize) {
        if bytes > INLINE_BYTES && !self.refused {
            self.wanted_output = self.wanted_output.max(Some(bytes));
        }
    }

    /// Counts an output; whether the worker should hear at once what there is to
    /// tell, for it gives several for one request.
    pub(crate) fn note_output(&mut self) -> bool {
        self.outputs += 1;
        self.outputs > 1
    }

    /// What the worker has to be told, in this order.
    pub(crate) fn take_news(&mut self) -> Vec<News> {
        if let Some(bytes) = self.wanted_output {
            self.make_output(bytes);
        }
        let emptied = self.tables.lock().outputs.tell_emptied();
        self.news.extend(emptied.into_iter().map(News::Free));
        std::mem::take(&mut self.news)
    }

    fn make_output(&mut self, bytes: usize) {
        let room = {
            let tables = self.tables.lock();
            // At work it may be filling any slot that it believes to be free.
            let at_work = tables.requests > 0;
            match tables.outputs.fitting(bytes) < OUTPUTS_AHEAD {
                true => match tables.outputs.room_for(bytes, at_work) {
                    None if at_work => return,
                    room => room,
                },
                false => None,
            }
        };
        self.wanted_output = None;
        if let Some(room) = room {
            self.make(room, true);
        }
    }

    /// Makes a slot; `None`, and inline from then on, if the system refuses.
    fn make(&mut self, room: Room, output: bool) -> Option<()> {
        let made = self.numbers.checked_add(1).map(|number| {
            let memory = Segment::create(&self.name, room.bytes)?;
            let file = memory.descriptor(output)?;
            Ok((number, memory, file))
        });
        let (number, memory, file) = match made? {
            Ok(made) => made,
            Err(error) => {
                self.refused = true;
                tell_once(&error);
                return None;
            }
        };
        self.numbers = number;
        self.tally.slots_created += 1;
        let bytes = memory.bytes();
        let mut tables = self.tables.lock();
        let table = match output {
            true => &mut tables.outputs,
            false => &mut tables.inputs,
        };
        for gone in room.instead_of {
            table.remove(gone);
            self.news.push(News::Drop(gone));
        }
        table.add(number, bytes, memory);
        drop(tables);
        self.news.push(News::Slot {
            number,
            bytes,
            output,
            file,
        });
        tracing::debug!(name = self.name, number, bytes, output, "slot made");
        if self.rounds.is_none() {
            let tables = Arc::downgrade(&self.tables);
            self.rounds = Some(spawn_named("udf-slots", give_back(tables)));
        }
        Some(())
    }
}

impl From<(u16, Segment)> for OpenSlot {
    fn from((number, memory): (u16, Segment)) -> Self {
        Self { number, memory }
    }
}

impl Tables {
    /// Gives back what was not used since the last round. Not while the worker is
    /// at work: it may be writing.
    fn round(&mut self) {
        if self.requests > 0 {
            return;
        }
        let give_back = |memory: &mut Segment, keep: usize| {
            if let Err(error) = memory.give_back(keep) {
                tracing::debug!(%error, "a slot keeps its memory");
            }
        };
        self.inputs.round(give_back);
        self.outputs.round(give_back);
    }
}

/// Runs rounds until the slots are gone.
async fn give_back(tables: Weak<Mutex<Tables>>) {
    loop {
        tokio::time::sleep(ROUND).await;
        match tables.upgrade() {
            Some(tables) => tables.lock().round(),
            None => return,
        }
    }
}

/// Tells the log, once for all workers, why no memory is shared.
fn tell_once(error: &io::Error) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if cfg!(target_os = "linux") && !TOLD.swap(true, Ordering::Relaxed) {
        tracing::warn!(%error, "no memory can be shared with workers: blocks go through sockets, which is slower");
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    const MB: usize = 1 << 20;

    fn fill(slots: &mut Slots, bytes: usize) -> u16 {
        let mut slot = slots.open_input(bytes).unwrap();
        assert!(slot.memory.write(0, &vec![1; bytes]));
        let number = slot.number;
        slots.close_input(slot, bytes);
        number
    }

    fn resident(slots: &Slots) -> usize {
        let mut tables = slots.tables.lock();
        let (number, memory) = tables.inputs.take_free(0).unwrap();
        let bytes = memory.resident_bytes();
        tables.inputs.put_full(number, memory, 0);
        tables.inputs.release(number);
        bytes
    }

    #[tokio::test]
    async fn memory_that_nobody_used_is_given_back_while_the_worker_rests() {
        let mut slots = Slots::new(1, 64 * MB);
        slots.begin_request();
        let number = fill(&mut slots, 3 * MB);
        slots.release_input(number).unwrap();
        slots.tables.lock().round();
        assert_eq!(resident(&slots), 3 * MB, "it is at work");
        slots.end_request();
        slots.tables.lock().round();
        assert_eq!(resident(&slots), 3 * MB, "just used");
        let number = fill(&mut slots, MB);
        slots.release_input(number).unwrap();
        slots.tables.lock().round();
        assert_eq!(resident(&slots), MB);
        slots.tables.lock().round();
        assert_eq!(resident(&slots), 0);
        // And it is as good as new.
        assert_eq!(fill(&mut slots, 3 * MB), number);
        assert_eq!(slots.take_tally().slots_created, 1);
    }

    #[tokio::test]
    async fn outputs_get_a_slot_for_the_next_time() {
        let mut slots = Slots::new(1, 64 * MB);
        slots.begin_request();
        slots.note_inline_output(INLINE_BYTES);
        assert!(slots.take_news().is_empty(), "small ones need none");
        for _ in 0..3 {
            slots.note_inline_output(MB);
            slots.take_news();
        }
        assert_eq!(slots.take_tally().slots_created, OUTPUTS_AHEAD as u64);
        // Larger ones take the place of slots only when the worker fills none.
        slots.note_inline_output(64 * MB);
        assert!(slots.take_news().is_empty());
        slots.end_request();
        let news = slots.take_news();
        assert!(
            matches!(
                news[..],
                [News::Drop(1), News::Drop(2), News::Slot { number: 3, .. }]
            ),
            "{news:?}"
        );
        assert!(slots.open_output(1).is_err());
        assert!(slots.open_output(3).is_ok());
    }

    #[tokio::test]
    async fn what_the_system_refuses_goes_with_the_frame() {
        let mut slots = Slots::new(1, 64 * MB);
        // Longer than a memfd's name may be.
        slots.name = "x".repeat(300);
        for _ in 0..2 {
            assert!(slots.open_input(MB).is_none());
            slots.note_inline_output(MB);
            assert!(slots.take_news().is_empty());
        }
        assert_eq!(slots.take_tally().slots_created, 0);
    }
}
