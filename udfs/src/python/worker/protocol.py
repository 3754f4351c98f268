"""Frames over the socket; the other end is `protocol.rs`, which describes them.

Small frames are read many at a time, and their payloads copied out; a large one is read
into one aligned buffer that the decoded block shares, or its payload lies in a slot and is
seen there. A batch that user code keeps stays valid: no buffer that it sees is used twice, and
no slot before `slots` has seen the last of it.
"""

import _thread
import array
import collections
import json
import mmap
import os
import select
import socket
import struct
import sys
import time

import pyarrow as pa

from . import failure
from .slots import Slots

INIT, DESCRIBE, LOAD, PROCESS, SHUTDOWN, FORK, BUILD, CANCEL, RESTORE = 1, 2, 3, 4, 5, 6, 7, 8, 9
SLOT, FREE, DROP, BOARD = SHARED_MEMORY = 10, 11, 12, 13
TRAIN = 14
READY, OUTPUT, DONE, ERROR, FORKED, EXITED, FAILED, PART, ALIVE, SNAPSHOT = 18, 19, 20, 21, 22, 23, 24, 25, 26, 27
RELEASED = 32

VERSION = 6
HEADER = struct.Struct("<IBBHQ")
LENGTH = struct.Struct("<I")
ALIGNMENT = 64
FLAG_PAYLOAD, FLAG_SLOT, FLAG_MORE = 1, 2, 4
# Where in a slot a payload is, and how long it is.
SPAN = struct.Struct("<QQ")
# Room for the one descriptor that may come with a frame.
INT_BYTES = array.array("i").itemsize
ANCILLARY_BYTES = socket.CMSG_SPACE(INT_BYTES)
# Not everywhere; then user code's children inherit the slots.
CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
# What is read at once.
READ_BYTES = 64 << 10
# What a frame may need besides its payload.
OVERHEAD_BYTES = 4096
SEQ = struct.Struct("<Q")
# How long an answer is kept to go with others, and how many bytes of them. Longer where sending
# takes long, as it does where the engine gets this processor to hear it.
KEEP_NS, KEEP_NS_MAX, KEEP_SENDS, KEEP_BYTES = 1_000_000, 4_000_000, 10, 32 << 10
# Being woken takes this process and the engine about as long.
LOOK_NS = 100_000


class Frame:
    """A word from the engine: `body` is a dict, `payload` a buffer or None."""

    __slots__ = ("kind", "seq", "body", "payload", "more", "part", "made")

    def __init__(self, kind, seq, body, payload, more=False, part=None):
        self.kind = kind
        self.seq = seq
        self.body = body
        self.payload = payload
        # Whether the next request is right behind it.
        self.more = more
        # Of a block that came together with others: their rows, its first and how many it has.
        self.part = part
        # The call that it is for, its block and its arguments, where they are made ahead.
        self.made = None


class Together:
    """The rows of blocks that came as one; they are read once."""

    __slots__ = ("payload", "rows")

    def __init__(self, payload):
        self.payload = payload
        self.rows = None

    def block(self, schema, start, count):
        """Those of one block, which all have this schema."""
        if self.rows is None:
            self.rows = pa.ipc.read_record_batch(self.payload, schema)
        return self.rows.slice(start, count)


class Channel:
    """Our end of the socket: of this process, not of one that it forks."""

    def __init__(self, sock):
        self.sock = sock
        self.pid = os.getpid()
        self.max_frame_bytes = 1 << 20
        self.inline_bytes = 0
        self.slots = Slots()
        # Requests that came together, or while we looked for news of slots.
        self.waiting = collections.deque()
        # What was read, how many bytes are there of the next frame, and descriptors that its
        # frames bring.
        self.unread, self.unread_bytes = bytearray(READ_BYTES), 0
        self.descriptors = collections.deque()
        # A frame that is to go with the next one.
        self.held = []
        # Answers that are to go with others, since when, and their bytes.
        self.kept, self.kept_since, self.kept_bytes = [], 0, 0
        self.keep_ns = KEEP_NS
        # Answers that the other thread sends while user code is at work on the next block.
        self.deferred = collections.deque()
        # Held by whichever thread sends.
        self.sending = _thread.allocate_lock()
        # Where we note which block we are at.
        self.board = None
        # The body of the last request, and what it says: those of blocks are alike.
        self.body = b"", {}
        # The request that is being answered, and blocks sent for it.
        self.answering = None
        self.blocks_sent = 0
        self.incoming = select.poll()
        self.incoming.register(sock, select.POLLIN)
        # Held by whichever thread reads; whether there is more than one, see `ahead`.
        self.reading = _thread.allocate_lock()
        self.is_shared = False
        # What ended the other one.
        self.failure = None
        # Whether the last request came so soon that looking for it was worth it.
        self.is_quick = False

    def receive(self):
        """The next request, or None when the engine is gone."""
        self._end_a_copy()
        while True:
            # What another thread reads is there when it is prepared.
            with self.reading:
                if self.waiting:
                    return self.waiting.popleft()
            self._wait()
            with self.reading:
                if not self.is_shared or (not self.waiting and self.incoming.poll(0)):
                    self.read_some()

    def before_fork(self):
        # User code's child gets nothing that is half read, and may see what we see now.
        self.reading.acquire()
        self.slots.before_fork()

    def after_fork(self):
        self.reading.release()

    def hear(self):
        """Reads the words that there are."""
        self._end_a_copy()
        with self.reading:
            self.read_some()

    def _wait(self):
        """Waits for a word: awake for a moment, if the last came as soon."""
        if self.kept and not self.incoming.poll(0):
            self._send_all([])
        since = time.perf_counter_ns()
        while self.is_quick and not self.incoming.poll(0):
            self.is_quick = time.perf_counter_ns() - since < LOOK_NS
            # Whoever has work goes first.
            os.sched_yield()
        if not self.is_quick:
            self.incoming.poll()
            self.is_quick = time.perf_counter_ns() - since < LOOK_NS

    def read_some(self):
        """Reads a frame, and what came with it; news of slots are heard, requests wait."""
        if self.failure is not None:
            raise self.failure
        while not self._hear_unread():
            room = memoryview(self.unread)[self.unread_bytes :]
            count, ancillary, _, _ = self.sock.recvmsg_into([room], ANCILLARY_BYTES, CLOSE_ON_EXEC)
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    self.descriptors.extend(array.array("i", data[: len(data) - len(data) % INT_BYTES]))
            if not count:
                self.waiting.append(None)
                return
            self.unread_bytes += count

    def _hear_unread(self):
        """Hears the whole frames among what was read; whether there were some."""
        unread, end, at = self.unread, self.unread_bytes, 0
        try:
            while end - at >= HEADER.size:
                rest_bytes, kind, flags, slot, seq = HEADER.unpack_from(unread, at)
                if rest_bytes > self.max_frame_bytes:
                    raise ValueError(f"a frame of {rest_bytes} bytes where {self.max_frame_bytes} are allowed")
                start = at + HEADER.size
                if start + rest_bytes <= end:
                    rest = pa.py_buffer(bytes(memoryview(unread)[start : start + rest_bytes]))
                    at = start + rest_bytes
                elif rest_bytes <= READ_BYTES - HEADER.size:
                    break
                else:
                    rest, at = pa.allocate_buffer(rest_bytes), end
                    if not self._fill_large(rest, start, end):
                        self.waiting.append(None)
                        break
                self._heard(kind, flags, slot, seq, rest)
        finally:
            # Whatever went wrong, none is heard twice.
            if at:
                unread[: end - at] = unread[at:end]
                self.unread_bytes = end - at
        return at > 0

    def _fill_large(self, rest, start, end):
        view = memoryview(rest).cast("B")
        view[: end - start] = memoryview(self.unread)[start:end]
        return self._fill(view[end - start :])

    def _heard(self, kind, flags, slot, seq, rest):
        if kind == TRAIN:
            self._split(self._frame(kind, flags, slot, seq, rest))
        elif kind not in SHARED_MEMORY:
            frame = self._frame(kind, flags, slot, seq, rest)
            if kind == INIT:
                # The next one may be here already, and as large.
                self.max_frame_bytes = frame.body["max_frame_bytes"]
            self.waiting.append(frame)
        elif kind == SLOT:
            body = self._body(rest)
            self.slots.add(slot, body["bytes"], body["output"], self.descriptors.popleft())
        elif kind == FREE:
            self.slots.free.add(slot)
        elif kind == DROP:
            self.slots.drop(slot)
        else:
            self._pin_up(self.descriptors.popleft())

    def _frame(self, kind, flags, slot, seq, rest):
        if flags & FLAG_SLOT:
            payload = self.slots.view(slot, *SPAN.unpack_from(rest))
            return Frame(kind, seq, self._body(rest, SPAN.size), payload)
        if not flags & FLAG_PAYLOAD:
            return Frame(kind, seq, self._body(rest), None)
        (body_bytes,) = LENGTH.unpack_from(rest)
        body = self._body(rest, LENGTH.size, LENGTH.size + body_bytes)
        return Frame(kind, seq, body, rest.slice(_payload_start(body_bytes)), bool(flags & FLAG_MORE))

    def _split(self, train):
        """A request for each block of a train."""
        body, together, start = train.body, Together(train.payload), 0
        last = len(body["rows"]) - 1
        for at, count in enumerate(body["rows"]):
            request = {"call": body["call"], "max_errors": body["max_errors"], "block": body["blocks"][at]}
            part = together, start, count
            self.waiting.append(Frame(PROCESS, train.seq + at, request, train.payload, train.more and at < last, part))
            start += count

    def _pin_up(self, descriptor):
        try:
            self.board = mmap.mmap(descriptor, mmap.PAGESIZE)
        finally:
            os.close(descriptor)

    def note(self, seq):
        """Says where the engine looks if we end that this is the block we are at."""
        if self.board is not None:
            SEQ.pack_into(self.board, 0, seq)

    def _body(self, rest, start=0, end=None):
        text = bytes(memoryview(rest)[start:end])
        if text != self.body[0]:
            # Told that it is a text, the reader need not guess how it is encoded.
            self.body = text, json.loads(text.decode()) if text else {}
        return self.body[1]

    def send_block(self, kind, seq, block, size):
        """Sends a block of `size` bytes; in a slot, if it is large and there is one.

        It goes with what is sent next, for the engine is woken once then; or before
        user code is called again.
        """
        self.send_held()
        if seq != self.answering:
            self.answering, self.blocks_sent = seq, 0
        filled = self._fill_slot(block, size) if size > self.inline_bytes else None
        self.blocks_sent += 1
        if filled is not None:
            # At once: the engine copies it meanwhile.
            number, at, count = filled
            self._send_all([HEADER.pack(SPAN.size, kind, FLAG_SLOT, number, seq) + SPAN.pack(at, count)])
            return
        self.held = self._frame_with(kind, seq, b"{}", block.serialize())
        failure.first.append(self.send_held)

    def send_inline(self, kind, seq, block):
        """Sends a block with what is sent next, whatever its size."""
        self.send_held()
        self.held = self._frame_with(kind, seq, b"{}", block.serialize())

    def send_held(self):
        """Sends what was to go with the next frame."""
        if self.held:
            self._send_all([])

    def _fill_slot(self, block, size):
        self._end_a_copy()
        with self.reading:
            return self._fill_free_slot(block, size)

    def _fill_free_slot(self, block, size):
        # The engine may have given some back since the request.
        while self.incoming.poll(0) and None not in self.waiting:
            self.read_some()
        filled = self.slots.fill(block, size)
        # After the second block of an answer it tells at once which it has emptied.
        while filled is None and self.blocks_sent > 1 and self.slots.may_fit(block, size):
            if None in self.waiting:
                return None
            self.read_some()
            filled = self.slots.fill(block, size)
        return filled

    def send(self, kind, seq, body):
        """Sends one frame; raises OSError when the engine is gone."""
        self._send_text(kind, seq, json.dumps(body).encode())

    def send_snapshot(self, seq, generation, state):
        """Sends a state, in parts that fit frames."""
        state, most = memoryview(state), self.payload_bytes_max()
        for start in range(0, len(state), most):
            body = json.dumps({"generation": generation, "more": start + most < len(state)}).encode()
            self._send_all(self._frame_with(SNAPSHOT, seq, body, state[start : start + most]))

    def send_done(self, seq, user_us, retries, more=False, can_defer=False):
        """Sends the last word about a block; soon, if there is `more` to answer. `can_defer`:
        the other thread sends it once user code is called again."""
        body = b'{"user_us": %d, "retries": %d}' % (user_us, retries)
        # An answer of which some has gone cannot be lost and given again.
        is_whole = seq != self.answering or (self.blocks_sent == 1 and self.held)
        defers = can_defer and is_whole and self._is_next_prepared()
        if self.board is None or not (defers or more):
            self._send_text(DONE, seq, body)
            return
        frames, self.held = [*self.held, HEADER.pack(len(body), DONE, 0, 0, seq) + body], []
        if defers:
            frames, self.kept, self.kept_bytes = self.kept + frames, [], 0
            self.deferred.append(frames)
            return
        now = time.perf_counter_ns()
        if not self.kept:
            self.kept_since = now
        self.kept += frames
        self.kept_bytes += sum(len(frame) for frame in frames)
        # Whoever waits for the first of them has waited long enough.
        if now - self.kept_since > self.keep_ns or self.kept_bytes > KEEP_BYTES:
            self._send_all([])

    def _is_next_prepared(self):
        # Who prepared it put it where it is, and only we take it from there.
        return bool(self.waiting) and self.waiting[0] is not None and self.waiting[0].made is not None

    def _send_text(self, kind, seq, body):
        self._send_all([HEADER.pack(len(body), kind, 0, 0, seq) + body])

    def _frame_with(self, kind, seq, body, payload):
        start = _payload_start(len(body))
        head = HEADER.pack(start + len(payload), kind, FLAG_PAYLOAD, 0, seq)
        head += LENGTH.pack(len(body)) + body
        return [head.ljust(HEADER.size + start, b"\0"), memoryview(payload)]

    def payload_bytes_max(self):
        return self.max_frame_bytes - OVERHEAD_BYTES

    def _end_a_copy(self):
        # User code forked and came back in the child: two would answer.
        if os.getpid() != self.pid:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(0)

    def _fill(self, view):
        while view:
            count = self.sock.recv_into(view)
            if count == 0:
                return False
            view = view[count:]
        return True

    def _send_all(self, parts):
        self._end_a_copy()
        if self.failure is not None:
            # The other thread may have lost an answer that goes before.
            raise self.failure
        parts, self.held = self.kept + self.held + parts, []
        self.kept, self.kept_bytes = [], 0
        with self.sending:
            took = self._write(parts)
        self.keep_ns = min(max(KEEP_NS, KEEP_SENDS * took), KEEP_NS_MAX)

    def send_deferred(self):
        """Sends answers that were put off, in the other thread."""
        with self.sending:
            if self.deferred:
                self._write([])

    def _write(self, parts):
        """Sends `parts` behind what was put off; how long it took. Whoever calls holds `sending`."""
        before = []
        while self.deferred:
            before += self.deferred.popleft()
        parts = before + parts
        while self.slots.released:
            number = self.slots.released.popleft()
            parts.insert(0, HEADER.pack(0, RELEASED, 0, number, 0))
        if sum(map(len, parts)) <= KEEP_BYTES:
            # Faster than as many as they are.
            parts = [b"".join(parts)]
        parts = [memoryview(part).cast("B") for part in parts if len(part)]
        since = time.perf_counter_ns()
        while parts:
            count = self.sock.sendmsg(parts)
            while parts and count >= len(parts[0]):
                count -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][count:]
        return time.perf_counter_ns() - since


def _payload_start(body_bytes):
    return (4 + body_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
