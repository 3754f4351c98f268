"""Memory that the engine shares with this worker, in slots.

The engine makes them, `slots.rs` there. Blocks to us lie in memory that can only
be read, and are never copied: the engine gets a slot back when the last view of
it is gone, Arrow's or numpy's, however long user code keeps one. Blocks from us
are written straight to memory that the engine copies them from.
"""

import collections
import mmap
import os

import pyarrow as pa

# Columns shorter than that are cheaper copied than written in place.
COLUMN_BYTES_MIN = 8 << 10


class View:
    """Stands behind everything that refers to a block in a slot."""

    __slots__ = ("slots", "number", "memory")

    def __init__(self, slots, number, memory):
        self.slots = slots
        self.number = number
        # Mapped as long as it is seen.
        self.memory = memory

    def __del__(self):
        # In whatever thread lets go last.
        self.slots.unseen(self.number)


class Slots:
    """The slots of this worker, by their numbers."""

    def __init__(self):
        self.inputs = {}
        self.outputs = {}
        # Outputs that the engine does not have.
        self.free = set()
        # Inputs that something here refers to.
        self.seen = set()
        # Of those, the ones that a child of ours may refer to as well.
        self.shared = set()
        # Inputs that the engine may have back and does not know yet.
        self.released = collections.deque()

    def add(self, number, size, output, descriptor):
        try:
            access = mmap.PROT_READ | mmap.PROT_WRITE if output else mmap.PROT_READ
            memory = pa.py_buffer(mmap.mmap(descriptor, size, prot=access))
        finally:
            os.close(descriptor)
        if output:
            self.outputs[number] = memory
            self.free.add(number)
        else:
            self.inputs[number] = memory

    def drop(self, number):
        self.inputs.pop(number, None)
        self.outputs.pop(number, None)
        self.free.discard(number)

    def view(self, number, at, count):
        """The bytes of an input, as a buffer that gives it back at its end."""
        memory = self.inputs[number]
        if at + count > memory.size:
            raise ValueError(f"{count} bytes from byte {at} on in slot {number}, which has {memory.size}")
        self.seen.add(number)
        return pa.foreign_buffer(memory.address + at, count, base=View(self, number, memory))

    def unseen(self, number):
        self.seen.discard(number)
        if number not in self.shared:
            self.released.append(number)

    def before_fork(self):
        """What the child will see must stay as it is: we cannot tell for how long."""
        self.shared |= self.seen

    def fill(self, block, size):
        """Writes a block of `size` bytes to the smallest free output that it fits.

        Returns its number, and where in it how many bytes are; None if there is
        none.
        """
        at = _head_bytes(block, size)
        fitting = [number for number in self.free if self.outputs[number].size >= at + size]
        if not fitting:
            return None
        number = min(fitting, key=lambda number: self.outputs[number].size)
        memory = self.outputs[number]
        if at:
            sink = pa.FixedSizeBufferWriter(memory)
            pa.ipc.new_stream(sink, block.schema).write_batch(block)
            count = sink.tell() - at
        else:
            message = memoryview(block.serialize()).cast("B")
            count = len(message)
            memoryview(memory).cast("B")[:count] = message
        self.free.remove(number)
        return number, at, count

    def may_fit(self, block, size):
        """Whether `fill` would find room if all outputs were free."""
        needed = _head_bytes(block, size) + size
        return any(memory.size >= needed for memory in self.outputs.values())


def _head_bytes(block, size):
    """What stands before a block that is written straight to a slot.

    That is as a stream, and a stream starts with the schema, which the engine has.
    0 where columns are so short that writing it takes longer than one more copy.
    """
    if size < block.num_columns * COLUMN_BYTES_MIN:
        return 0
    return block.schema.serialize().size
