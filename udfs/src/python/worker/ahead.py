"""The next block, read and prepared while user code is at work on this one; the last one's
answer, sent meanwhile.

A thread does it: user code that waits, for a device or for somebody else, leaves it the
interpreter, and is called again as soon as it returns. User code that keeps the interpreter
is asked for it no more than a few times a block, and finds the next block where it would
have been without us; its answers the main thread sends. All that user code sees it sees in the
main thread, as ever.
"""

import _thread
import select
import time

from . import protocol

# Shorter calls are not worth the thread's waking.
WORTH_NS = 2_000_000
# Of longer ones nobody notices how their answers are sent.
LONG_NS = 100_000_000
# User code that left the thread the interpreter so soon is expected to do so again. A call that
# kept it for longer than Python asks to be kept waiting is remembered for many.
PROMPT_NS, KEPT_NS, WARY_CALLS = 1_000_000, 10_000_000, 100


class Ahead:
    """Reads what comes while user code is at work; `prepare` is given each block."""

    def __init__(self, channel, prepare):
        self.channel = channel
        self.prepare = prepare
        # Of our own: one cannot be asked by two threads at once.
        self.incoming = select.poll()
        self.incoming.register(channel.sock, select.POLLIN)
        # Held while there is nothing to do.
        self.gate = _thread.allocate_lock()
        self.gate.acquire()
        self.is_busy = False
        # Whether the thread is at the gate, whether that was opened for it, and when.
        self.at_gate, self.is_open, self.opened_ns = False, False, 0
        # Calls that still have to leave it the interpreter soon before it sends answers.
        self.wary = 1

    def begin(self, last_ns):
        """User code is about to be called; its last call took so long."""
        if last_ns < WORTH_NS:
            return
        if not self.channel.is_shared:
            self.channel.is_shared = True
            # Not one of `threading`'s: user code may count those.
            _thread.start_new_thread(self._serve, ())
        self.is_busy = True
        # Elsewhere it sees that we are busy.
        if self._is_waiting():
            self.is_open, self.opened_ns = True, time.perf_counter_ns()
            self.gate.release()

    def can_send(self, spent_ns):
        """Whether the thread will be there for an answer to a call that took so long, when user
        code is at work on the next block."""
        return not self.wary and self._is_waiting() and WORTH_NS <= spent_ns <= LONG_NS

    def _is_waiting(self):
        # It may be through the gate and not have the interpreter yet.
        return self.at_gate and not self.is_open

    def end(self):
        """User code has returned: who wants the next word reads it."""
        self.is_busy = False

    def _serve(self):
        try:
            while True:
                while self.is_busy and not self._read():
                    pass
                self._pass_gate()
                self.channel.send_deferred()
        except BaseException as error:
            # For the main thread, which reads next: half a word may be read.
            self.channel.failure = error

    def _pass_gate(self):
        self.at_gate = True
        self.gate.acquire()
        self.at_gate = self.is_open = False
        waited_ns = time.perf_counter_ns() - self.opened_ns
        if waited_ns < PROMPT_NS:
            self.wary = max(self.wary - 1, 0)
        else:
            self.wary = max(self.wary, WARY_CALLS if waited_ns > KEPT_NS else 1)

    def _read(self):
        """Reads the next words; whether they were the last that we should."""
        channel = self.channel
        self.incoming.poll()
        with channel.reading:
            if not self.is_busy:
                return True
            if not self.incoming.poll(0):
                return False
            channel.read_some()
            frame = channel.waiting[0] if channel.waiting else None
            if frame is None:
                # Of slots, or that there will be none.
                return bool(channel.waiting)
            if frame.kind == protocol.PROCESS:
                self.prepare(frame)
            return True
