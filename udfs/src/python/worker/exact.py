"""Python's own values that pyarrow would change without a word, or refuse in its own.

Told a type, pyarrow cuts a Fraction to an integer, forgets the zone of a time of day and
splits the hours of a duration into days.
"""

import collections.abc
import datetime
import decimal
import numbers
import operator

import numpy as np
import pyarrow as pa
import pyarrow.types as t


# The usual ones, which pyarrow reads as they are meant.
_UNREAD = {kind.id for kind in (pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.bool_(), pa.string(), pa.binary())}


def as_meant(values, data_type, mask=None):
    """`values` for pyarrow, at every depth; raises ValueError where they are not of the type."""
    if data_type.id in _UNREAD or not _holds(data_type, _is_read):
        return values
    hidden = [False] * len(values) if mask is None else mask
    return [value if hides else _walk(value, data_type, _read) for value, hides in zip(values, hidden)]


def check_numbers(values, data_type):
    """Raises ValueError for the first number that would lose something, or is of no type that fits."""
    if _holds(data_type, _is_number):
        for value in values:
            _walk(value, data_type, _check_number)


def types_inside(data_type):
    """The types that a nested type is made of."""
    if t.is_struct(data_type):
        return [field.type for field in data_type]
    if t.is_map(data_type):
        return [data_type.key_type, data_type.item_type]
    return [data_type.value_type] if data_type.num_fields == 1 and hasattr(data_type, "value_type") else []


def _holds(data_type, wanted):
    if wanted(data_type):
        return True
    return any(_holds(kind, wanted) for kind in types_inside(data_type))


def _walk(value, data_type, leaf):
    """`value` with `leaf` of all values that are none of others."""
    if value is None:
        return None
    if t.is_map(data_type):
        if isinstance(value, collections.abc.Mapping):
            value = list(value.items())
        if isinstance(value, (list, tuple)):
            kinds = data_type.key_type, data_type.item_type
            return [tuple(_walk(*pair, leaf) for pair in zip(entry, kinds)) for entry in value]
    elif t.is_struct(data_type):
        if isinstance(value, collections.abc.Mapping):
            kinds = {field.name: field.type for field in data_type}
            # pyarrow reads no other keys.
            return {name: _walk(value[name], kind, leaf) for name, kind in kinds.items() if name in value}
    elif data_type.num_fields == 1:
        is_array = isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1
        if isinstance(value, (list, tuple)) or is_array:
            return [_walk(inner, data_type.value_type, leaf) for inner in value]
    else:
        return leaf(value, data_type)
    return value


def _is_read(data_type):
    return t.is_time(data_type) or t.is_interval(data_type)


def _read(value, data_type):
    if t.is_time(data_type) and isinstance(value, datetime.time) and value.tzinfo is not None:
        raise ValueError(f"{value!r} has a time zone. Return value.replace(tzinfo=None)")
    if t.is_interval(data_type) and isinstance(value, datetime.timedelta):
        # Days of an interval are no 24 hours where clocks are changed.
        seconds = value.days * 86_400 + value.seconds
        # Those of pandas have them.
        rest = value.microseconds * 1_000 + getattr(value, "nanoseconds", 0)
        return pa.MonthDayNano([0, 0, seconds * 1_000_000_000 + rest])
    return value


def _is_number(data_type):
    return t.is_integer(data_type) or t.is_floating(data_type) or t.is_decimal(data_type)


def _check_number(value, data_type):
    if t.is_integer(data_type):
        if not _is_whole(value):
            raise ValueError(f"{value!r} is not a whole number. Return int(value) to cut it")
    elif isinstance(value, numbers.Number) and not isinstance(value, _kinds_of(data_type)):
        wanted = "float(value)" if t.is_floating(data_type) else "decimal.Decimal values"
        raise ValueError(f"{value!r} is a {type(value).__name__}. Return {wanted}")
    return value


def _kinds_of(data_type):
    kinds = int, float, np.number
    return kinds if t.is_floating(data_type) else (*kinds, decimal.Decimal)


def _is_whole(value):
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if not hasattr(type(value), "__int__"):
        # No number: pyarrow says so.
        return True
    try:
        operator.index(value)
        return True
    except TypeError:
        return bool(value == int(value))

