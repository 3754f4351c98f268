//! Which slots there are on one side of a worker, and what each is doing.
//!
//! Decides only: who makes and maps the memory `S` is `slots`. On the input side
//! this process fills slots and the worker reads them; on the output side it is
//! the other way round.

/// Smallest slot; further sizes are its doubles.
const SLOT_BYTES_MIN: usize = 256 << 10;
/// Most slots of a side.
const SLOTS_MAX: usize = 4;

/// What is in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing; its filler may use it at any time.
    Free,
    /// A block, until its reader has no view of it any more.
    Full,
    /// Nothing, but its filler does not know yet.
    Emptied,
}

#[derive(Debug)]
struct Slot<S> {
    number: u16,
    bytes: usize,
    state: State,
    /// `None` while it is being written or read.
    memory: Option<S>,
    /// The most that was in it since the last round.
    peak_bytes: usize,
    /// Whether it may take memory beyond that.
    stretched: bool,
}

/// A slot that may be made, once those in its way are gone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) bytes: usize,
    pub(crate) instead_of: Vec<u16>,
}

/// The slots of one side.
#[derive(Debug)]
pub(crate) struct SlotTable<S> {
    slots: Vec<Slot<S>>,
    /// Most bytes of all of them together.
    budget_bytes: usize,
}

impl<S> SlotTable<S> {
    pub(crate) fn new(budget_bytes: usize) -> Self {
        Self {
            slots: Vec::new(),
            budget_bytes,
        }
    }

    /// Adds a free slot.
    pub(crate) fn add(&mut self, number: u16, bytes: usize, memory: S) {
        self.slots.push(Slot {
            number,
            bytes,
            state: State::Free,
            memory: Some(memory),
            peak_bytes: 0,
            stretched: false,
        });
    }

    /// Takes the smallest free slot for `bytes` bytes, to be filled.
    pub(crate) fn take_free(&mut self, bytes: usize) -> Option<(u16, S)> {
        let fitting = self.slots.iter_mut().filter(|slot| slot.bytes >= bytes);
        let free = fitting.filter(|slot| slot.state == State::Free && slot.memory.is_some());
        let slot = free.min_by_key(|slot| slot.bytes)?;
        slot.state = State::Full;
        slot.memory.take().map(|memory| (slot.number, memory))
    }

    /// Whether [`Self::take_free`] would find one.
    pub(crate) fn has_free(&self, bytes: usize) -> bool {
        let free = |slot: &&Slot<S>| slot.state == State::Free && slot.memory.is_some();
        self.slots
            .iter()
            .filter(free)
            .any(|slot| slot.bytes >= bytes)
    }

    /// Takes a slot that its filler says is full, to be read.
    pub(crate) fn take_full(&mut self, number: u16) -> Option<S> {
        let slot = self.slot(number)?;
        let memory = slot.memory.take_if(|_| slot.state == State::Free)?;
        slot.state = State::Full;
        Some(memory)
    }

    /// Puts back what was taken to be filled, with `bytes` bytes in it.
    pub(crate) fn put_full(&mut self, number: u16, memory: S, bytes: usize) {
        self.put(number, memory, bytes, State::Full);
    }

    /// Puts back what was taken to be read, `bytes` bytes of it.
    pub(crate) fn put_emptied(&mut self, number: u16, memory: S, bytes: usize) {
        self.put(number, memory, bytes, State::Emptied);
    }

    /// The reader is through with a slot; `false` if it had none of that number.
    pub(crate) fn release(&mut self, number: u16) -> bool {
        let full = |slot: &&mut Slot<S>| slot.state == State::Full && slot.memory.is_some();
        let slot = self.slot(number).filter(full);
        slot.map(|slot| slot.state = State::Free).is_some()
    }

    /// Emptied slots, of which the filler is told now.
    pub(crate) fn tell_emptied(&mut self) -> Vec<u16> {
        let emptied = self
            .slots
            .iter_mut()
            .filter(|slot| slot.state == State::Emptied);
        let told = emptied.map(|slot| {
            slot.state = State::Free;
            slot.number
        });
        told.collect()
    }

    /// How many slots are large enough for `bytes` bytes.
    pub(crate) fn fitting(&self, bytes: usize) -> usize {
        self.slots.iter().filter(|slot| slot.bytes >= bytes).count()
    }

    /// Whether one more slot for `bytes` bytes may be made, smaller ones going
    /// for it; `keep_free`: not those that may be in use.
    pub(crate) fn room_for(&self, bytes: usize, keep_free: bool) -> Option<Room> {
        let wanted = bytes.max(SLOT_BYTES_MIN).checked_next_power_of_two()?;
        let wanted = wanted.min(self.budget_bytes);
        if wanted < bytes {
            return None;
        }
        let mut droppable: Vec<_> = self
            .slots
            .iter()
            .filter(|slot| slot.bytes < bytes)
            .filter(|slot| match slot.state {
                State::Free => slot.memory.is_some() && !keep_free,
                State::Emptied => true,
                State::Full => false,
            })
            .map(|slot| (slot.bytes, slot.number))
            .collect();
        droppable.sort_unstable_by(|a, b| b.cmp(a));
        let mut count = self.slots.len();
        let mut total: usize = self.slots.iter().map(|slot| slot.bytes).sum();
        let mut instead_of = Vec::new();
        while count >= SLOTS_MAX || total + wanted > self.budget_bytes {
            // The smallest first.
            let (bytes, number) = droppable.pop()?;
            count -= 1;
            total -= bytes;
            instead_of.push(number);
        }
        Some(Room {
            bytes: wanted,
            instead_of,
        })
    }

    pub(crate) fn remove(&mut self, number: u16) {
        self.slots.retain(|slot| slot.number != number);
    }

    /// Calls `give_back` for the memory of empty slots, with the bytes that were
    /// in use since the last round and are to be kept.
    pub(crate) fn round(&mut self, mut give_back: impl FnMut(&mut S, usize)) {
        for slot in &mut self.slots {
            let Some(memory) = slot.memory.as_mut().filter(|_| slot.state != State::Full) else {
                continue;
            };
            if slot.stretched {
                give_back(memory, slot.peak_bytes);
            }
            slot.stretched = slot.peak_bytes > 0;
            slot.peak_bytes = 0;
        }
    }

    fn put(&mut self, number: u16, memory: S, bytes: usize, state: State) {
        if let Some(slot) = self.slot(number) {
            slot.memory = Some(memory);
            slot.state = state;
            slot.peak_bytes = slot.peak_bytes.max(bytes);
            slot.stretched = true;
        }
    }

    fn slot(&mut self, number: u16) -> Option<&mut Slot<S>> {
        self.slots.iter_mut().find(|slot| slot.number == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: usize = 1 << 20;

    fn table(sizes: &[usize]) -> SlotTable<()> {
        let mut table = SlotTable::new(16 * MB);
        for (number, bytes) in (1..).zip(sizes) {
            table.add(number, *bytes, ());
        }
        table
    }

    fn fill(table: &mut SlotTable<()>, bytes: usize) -> Option<u16> {
        let (number, ()) = table.take_free(bytes)?;
        table.put_full(number, (), bytes);
        Some(number)
    }

    fn room(bytes: usize, instead_of: &[u16]) -> Option<Room> {
        let instead_of = instead_of.to_vec();
        Some(Room { bytes, instead_of })
    }

    #[test]
    fn a_slot_is_used_again_when_its_reader_is_through() {
        let mut table = table(&[4 * MB, MB]);
        assert_eq!(fill(&mut table, 100), Some(2), "the smallest that fits");
        assert_eq!(fill(&mut table, 100), Some(1));
        assert_eq!(fill(&mut table, 100), None);
        assert!(table.release(2));
        assert!(!table.release(2), "once");
        assert!(!table.release(3), "no such slot");
        assert_eq!(fill(&mut table, 2 * MB), None, "too small");
        assert_eq!(fill(&mut table, MB), Some(2));
    }

    #[test]
    fn an_output_is_read_once_and_its_filler_told() {
        let mut table = table(&[MB]);
        assert!(table.take_full(7).is_none());
        assert!(table.take_full(1).is_some());
        assert!(table.take_full(1).is_none(), "it is being read");
        table.put_emptied(1, (), 10);
        assert!(table.take_full(1).is_none(), "nobody may have filled it");
        assert_eq!(table.tell_emptied(), [1]);
        assert!(table.tell_emptied().is_empty());
        assert!(table.take_full(1).is_some());
    }

    #[test]
    fn slots_grow_by_doubles_within_count_and_budget() {
        assert_eq!(table(&[]).room_for(1, false), room(MB / 4, &[]));
        assert_eq!(table(&[]).room_for(3 * MB, false), room(4 * MB, &[]));
        // 9 MB would be 16 MB: the budget.
        assert_eq!(table(&[]).room_for(9 * MB, false), room(16 * MB, &[]));
        assert_eq!(table(&[]).room_for(17 * MB, false), None);
        // The count, then the budget: the smallest go.
        let four = table(&[MB, MB / 4, MB / 2, MB]);
        assert_eq!(four.room_for(MB, false), room(MB, &[2]));
        assert_eq!(four.room_for(16 * MB, false), room(16 * MB, &[2, 3, 1, 4]));
        assert_eq!(four.room_for(MB / 4, false), None, "they would do");
        assert_eq!(four.room_for(MB, true), None, "they may be in use");
        let mut full = table(&[MB, MB, MB, MB]);
        for _ in 0..4 {
            fill(&mut full, 1).unwrap();
        }
        assert_eq!(full.room_for(1, false), None);
        full.release(3);
        assert_eq!(full.room_for(2 * MB, false), room(2 * MB, &[3]));
    }

    #[test]
    fn a_round_keeps_what_was_used_since_the_last() {
        let mut table = table(&[MB, MB]);
        let mut kept = Vec::new();
        table.round(|(), bytes| kept.push(bytes));
        assert!(kept.is_empty(), "never used");
        let number = fill(&mut table, 5000).unwrap();
        table.round(|(), bytes| kept.push(bytes));
        assert!(kept.is_empty(), "full");
        table.release(number);
        for _ in 0..3 {
            table.round(|(), bytes| kept.push(bytes));
        }
        assert_eq!(kept, [5000, 0], "and then nothing is left to give");
    }
}
