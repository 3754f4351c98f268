"""Rows that user code gives, read as soon as it gives them.

It may use its memory again for the next row: a dict that it fills anew, a list in it, an array.
What only the row holds cannot change any more; what others hold too is copied.
"""

import collections.abc
import copy
import datetime
import decimal
import itertools
import sys

import pyarrow as pa
import pyarrow.types as t

from .context import counted
from .exact import types_inside
from .failure import Refused, run
from .optional import HAS_NUMPY, array_of, np
from .results import PLAIN, is_table, named, to_batch, unreadable

_END = object()
_BINARY = (t.is_binary, t.is_large_binary, t.is_binary_view, t.is_fixed_size_binary)
# What nobody can change.
_FIXED = (str, bytes, int, float, pa.Array, pa.Scalar, pa.ChunkedArray)
# Types of single values that nobody can change; what is of none of them is looked at.
LASTING = {bool, int, float, str, bytes, decimal.Decimal, datetime.date, datetime.datetime, datetime.time, datetime.timedelta, type(None)}
if HAS_NUMPY:
    LASTING |= {kind for kind in np.sctypeDict.values() if kind not in (np.void, np.object_)}
# What has its values in itself, and not in another object that may change.
_OWNING = {list, tuple, dict, bytearray, np.ndarray}
_VIEWS = (collections.abc.KeysView, collections.abc.ValuesView, collections.abc.ItemsView)
_ARRAY = np.ndarray
_holders = sys.getrefcount
# Of a list or dict that its row alone has, so many values are looked at: they may be arrays that others have.
_LOOKED_AT = 8
# A type of single values, whatever they are.
SINGLE = pa.null()
# Rows that are read before they are sent on.
ROWS_OF_A_PART = 8192


class Rows:
    """The rows of a relation, as they come."""

    def __init__(self, schema):
        self.schema = schema
        self.names = set(schema.names)
        self.kinds = {field.name: Changing.of(field.type) for field in schema}
        self.plain = {field.name: PLAIN.get(field.type.id) for field in schema}
        self.may_change = any(self.kinds.values())
        self._begin()

    def _begin(self):
        self.count = 0
        self.columns = {name: [] for name in self.schema.names}
        # How each column is read: by its type where values may change later.
        self.readers = [(name, column.append, self.kinds[name], self.plain[name]) for name, column in self.columns.items()]

    def add(self, row, holders=None):
        """Reads one; raises `Refused` for what is none of the schema. `holders`: of a row that only this call has."""
        if type(row) is not dict and not isinstance(row := row_of(row), collections.abc.Mapping):
            raise Refused(f"gave {named(row)} where a row is declared. Give dicts with the keys {', '.join(self.schema.names)}")
        try:
            if row.keys() != self.names:
                hint = "" if row.keys() - self.names else ". Give None for what is missing"
                raise Refused(f"gave a row with the keys {', '.join(map(str, row)) or 'none'}. Declared: {', '.join(self.schema.names)}{hint}")
            is_alone = self.may_change and holders is not None and sys.getrefcount(row) <= holders
            for name, append, kind, plain in self.readers:
                if kind is not None:
                    append(kind.held(row, name, is_alone))
                elif type(value := row[name]) is plain or type(value) in LASTING:
                    append(value)
                else:
                    append(copied(value, SINGLE))
        except (Refused, MemoryError):
            raise
        except BaseException as error:
            raise unreadable(row, error) from None
        self.count += 1

    def take(self):
        """What was read since the last time, as a batch."""
        columns = self.columns
        self._begin()
        return to_batch(columns, self.schema)


def batches_of_calls(function, code, rows, schema):
    """What `code` returns for each of `rows`, a row each time."""
    rows, given = iter(counted(rows)), Rows(schema)
    while run(function, _call_for_some, code, rows, given):
        yield given.take()


def _call_for_some(code, rows, given):
    add, alone = given.add, _ALONE
    for row in itertools.islice(rows, ROWS_OF_A_PART):
        add(code(row), alone)
    return given.count


def batches_of_rows(function, value, schema):
    """The rows that user code returned or goes on to yield: one, several, or a table."""
    if isinstance(row_of(value), collections.abc.Mapping):
        value = [value]
    if is_table(value):
        yield to_batch(value, schema)
        return
    if not isinstance(value, collections.abc.Iterable) or isinstance(value, (str, bytes)):
        raise Refused(f"returned {named(value)}, but rows are declared. Return a list of dicts, or yield dicts")
    rows, given = iter(value), Rows(schema)
    while (row := run(function, next, rows, _END)) is not _END:
        given.add(row)
        if given.count == ROWS_OF_A_PART:
            yield given.take()
    if given.count:
        yield given.take()


def row_of(value):
    """The fields of a dataclass or NamedTuple by their names; other values are left as they are."""
    kind = type(value)
    if hasattr(kind, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in kind.__dataclass_fields__}
    return value._asdict() if isinstance(value, tuple) and hasattr(kind, "_fields") else value


class Changing:
    """A type of which Python has values that can be changed: lists, dicts, arrays, bytearrays."""

    def __init__(self, kind):
        self.kind = kind
        inside = types_inside(kind)
        self.is_flat = not any(map(may_change, inside))
        # What most of the values inside are.
        self.plain = PLAIN.get(inside[0].id) if inside else None

    @staticmethod
    def of(kind):
        """None for a type whose values cannot be changed."""
        return Changing(kind) if may_change(kind) else None

    def held(self, holder, key, is_alone):
        """The value at `key`; a copy if others than `holder` hold it, or hold that."""
        value = holder[key]
        made = type(value)
        if made in _OWNING and is_alone and self.is_flat and _holders(value) <= _INSIDE:
            if made is _ARRAY:
                return copied(value, self.kind) if value.base is not None or value.dtype == object else value
            plain = self.plain
            for one in value.values() if made is dict else value if len(value) <= _LOOKED_AT else value[:_LOOKED_AT]:
                if type(one) is not plain and type(one) not in LASTING:
                    break
            else:
                return value
        return value if made in LASTING else copied(value, self.kind)


def may_change(kind):
    """Whether there is a `Changing` of it."""
    return kind.num_fields > 0 or any(is_kind(kind) for is_kind in _BINARY)


def copied(value, kind):
    """The same value in memory that user code knows nothing of, as far as it is of the type."""
    if type(value) in LASTING:
        return value
    if hasattr(type(value), "detach"):
        value = array_of(value)
    if isinstance(value, np.ndarray):
        # Also one without dimensions, for a single value.
        return value.copy() if value.dtype != object else copy.deepcopy(value)
    if not may_change(kind):
        return value
    inside = types_inside(kind)
    if isinstance(value, _VIEWS):
        value = list(value)
    elif isinstance(value, memoryview):
        return value.tolist() if inside else bytes(value)
    elif isinstance(value, bytearray):
        return bytes(value)
    if t.is_struct(kind) and isinstance(value, collections.abc.Mapping):
        kinds = {field.name: field.type for field in kind}
        return {key: copied(value[key], kinds[key]) if key in kinds else value[key] for key in value}
    if t.is_map(kind):
        if isinstance(value, collections.abc.Mapping):
            return {key: copied(one, inside[1]) for key, one in value.items()}
    elif type(value) in (list, tuple) and len(inside) == 1:
        return list(value) if LASTING.issuperset(map(type, value)) else [copied(one, inside[0]) for one in value]
    if isinstance(value, _FIXED):
        return value
    try:
        return copy.deepcopy(value)
    except Exception:
        return value  # It has no copies.


class Keeping:
    """Has what a call gives in memory of its own, where that is converted later.

    `mode`: what is given for a row is a value, a `truth`, a row (`map`) or rows (`flat_map`); None: it is
    given for a batch.
    """

    def __init__(self, schema, is_table, mode):
        self.kinds = {field.name: field.type for field in schema}
        if mode is None:
            self.made, self.part = _same, self.batch
        elif mode == "truth":
            self.made = self.part = truth
        elif not is_table:
            [kind] = schema.types
            self.made = self.part = lambda value: copied(value, kind)
        else:
            self.made, self.part = self.row if mode == "map" else self.several, self.row

    def row(self, row):
        """What is no row is left as it is, to be refused."""
        row = row_of(row)
        if not isinstance(row, collections.abc.Mapping):
            return row
        return {name: copied(row[name], self.kinds[name]) if name in self.kinds else row[name] for name in row}

    def rows(self, rows):
        """Those that a generator makes, each as it comes."""
        return [self.row(row) for row in rows]

    def several(self, made):
        """The rows made of one; those of a generator are read later."""
        return self.rows(made) if isinstance(row_of(made), (list, tuple)) else made

    @staticmethod
    def batch(columns):
        """A part that a generator of batches gives: Arrow's and what is none stays."""
        if isinstance(columns, collections.abc.Mapping):
            return {name: _copied_column(columns[name]) for name in columns}
        return columns.copy() if is_table(columns) and hasattr(columns, "copy") else columns


def _copied_column(column):
    if isinstance(column, (np.ndarray, list)):
        return copy.deepcopy(column) if isinstance(column, list) or column.dtype == object else column.copy()
    return column


def _same(made):
    return made


def truth(value):
    """What Python takes it for: a row that is kept, or not."""
    return value if value is None or type(value) is bool else bool(value)


def truths(values):
    """The same of several."""
    return list(map(truth, values))


class _Probe:
    """Counts holders where `Rows` and `Changing` do: versions of Python have other numbers there."""

    count = 0

    def add(self, row, _holders):
        self.row = sys.getrefcount(row)
        self.inside = self.held(row, "", True)

    def held(self, holder, key, _is_alone):
        value = holder[key]
        return sys.getrefcount(value)


# Those of a row that nobody else has, and of a value that only its row has.
_ALONE, _probe = 0, _Probe()
_call_for_some(lambda _: {"": []}, iter((0,)), _probe)
_ALONE, _INSIDE = _probe.row, _probe.inside
