"""`import mobula` in user code: what it may ask about the call that it is in.

    mobula.context().block_id   names the block: the same when it is sent again
    mobula.context().row        the first of its rows that the call is for
    mobula.context().call_id    both in one text: the same when the call is made again

There is no file to install: the module comes from here, in workers alone. A block is cut
in the same way whenever it is sent, so the calls that are made for it have the same rows.
"""

import contextvars
import importlib.machinery
import re
import sys
import types

# The block of functions that are called one after the other.
_now = None
# That of a call which runs beside others.
_of_task = contextvars.ContextVar("mobula_context", default=None)
# Whether anybody has imported the module: then rows are counted everywhere.
_asked = False
# The module's name, and not that of a file which the Python package sends along. To count
# rows costs a tenth of a short function.
_NAME = re.compile(r"(?<![<\w])mobula(?!\w)")


class Place:
    """Where in a block a call is."""

    __slots__ = ("block_id", "rows", "row", "counts")

    def __init__(self, named, counts):
        self.block_id = named["id"]
        # Of the block, where these are only some of them: from which on, or each.
        self.rows = named["rows"]
        self.row = 0
        self.counts = counts

    def row_of_block(self):
        return self.rows + self.row if isinstance(self.rows, int) else self.rows[self.row]


class Context:
    """What is known of one call."""

    __slots__ = ("block_id", "row")

    def __init__(self, block_id, row):
        self.block_id = block_id
        self.row = row

    @property
    def call_id(self):
        return f"{self.block_id}.{self.row}"

    def __repr__(self):
        return f"Context(block_id={self.block_id!r}, row={self.row})"


def may_be_asked(text):
    """Whether user code with this text may ask for the row that it is called for."""
    return _NAME.search(text) is not None


def context():
    """What is known of the call that this is in."""
    place = _of_task.get() or _now
    if place is None:
        raise RuntimeError("mobula.context() is for code that is called for rows. There are none now")
    return Context(place.block_id, place.row_of_block())


def begin(named, asks):
    """From now on calls are for a block, of a function that may ask for each row."""
    global _now
    _now = None if named is None else Place(named, asks)


def begin_task(named, row):
    """This task is for a block, from this one of its rows on."""
    if named is not None:
        place = Place(named, False)
        place.row = int(row)
        _of_task.set(place)


def end():
    global _now
    _now = None


def at(row):
    """The next call is for rows from `row` on."""
    if _now is not None:
        _now.row = row


def counted(rows):
    """`rows`, each of which a call is for, from the present one on."""
    place = _now
    return rows if place is None or not (place.counts or _asked) else _counted(rows, place)


def _counted(rows, place):
    for place.row, row in enumerate(rows, place.row):
        yield row


def _not_here(name):
    raise AttributeError(f"mobula.{name} is not there where functions run: workers have mobula.context() and mobula.Context alone")


class _Finder:
    """Finds the module and nothing else."""

    def __init__(self):
        self.module = types.ModuleType("mobula", "What a function may ask about the call that it is in.")
        self.module.context = context
        self.module.Context = Context
        self.module.__getattr__ = _not_here

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == "mobula" else None

    def create_module(self, spec):
        global _asked
        _asked = True
        return self.module

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, _Finder())
