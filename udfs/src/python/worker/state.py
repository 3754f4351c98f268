"""The state of a keyed actor: told as bytes now and then, and taken over from another.

What `snapshot()` returns goes as it is, if it is bytes, and else pickled. The engine
keeps it with the blocks that came after it.
"""

import io
import pickle

from .failure import Refused, run, text_of

# What the first byte of a state says of the others.
_BYTES, _PICKLED = b"\0", b"\1"
# The body of a function is a module of its own, with another number in each process.
_OWN_MODULE = "mobula_function_"


class Keeper:
    """Counts what an actor has seen since it last told its state, whichever of its methods saw it."""

    def __init__(self, source, function, code):
        self.module = source.module.__name__
        self.function = function
        self.snapshot, self.restore = (getattr(code, name, None) for name in ("snapshot", "restore"))
        if (self.snapshot is None) != (self.restore is None):
            has, lacks = ("snapshot()", "restore(state)") if self.restore is None else ("restore(state)", "snapshot()")
            raise Refused(f"has a method {has} and no {lacks}. Add it: state is kept by both")
        self.generation = 0
        self.blocks = self.bytes = 0
        # Parts of a state that has not come whole.
        self.parts = []

    @property
    def keeps_state(self):
        return self.snapshot is not None

    def seen(self, size, every, most_bytes):
        """One more block of `size` bytes is through; the state, if it is to be told now: after `every` blocks, or so many bytes."""
        if not self.keeps_state:
            return None
        self.blocks += 1
        self.bytes += size
        if self.blocks < every and self.bytes < most_bytes:
            return None
        self.blocks = self.bytes = 0
        state = run(self.function, self.snapshot)
        return _BYTES + state if isinstance(state, bytes) else _PICKLED + self._pickled(state)

    def _pickled(self, state):
        try:
            return pickle.dumps(state, protocol=5)
        except Exception as error:
            raise Refused(
                f"returned from snapshot() what cannot be pickled: {type(error).__name__}: {text_of(error)}."
                " Return bytes, or plain values"
            ) from None

    def take(self, generation, more, part):
        """From here on it speaks as owner `generation`, from the state that it is given."""
        self.generation = generation
        if part is not None:
            self.parts.append(part.to_pybytes())
        if more or not self.parts:
            return
        state = b"".join(self.parts)
        self.parts = []
        if state[:1] == _PICKLED:
            state = run(self.function, _Unpickler(io.BytesIO(state[1:]), self.module).load)
        else:
            state = state[1:]
        run(self.function, self.restore, state)


class _Unpickler(pickle.Unpickler):
    """Finds classes of the body in the body as it is here."""

    def __init__(self, file, module):
        super().__init__(file)
        self.module = module

    def find_class(self, module, name):
        return super().find_class(self.module if module.startswith(_OWN_MODULE) else module, name)
