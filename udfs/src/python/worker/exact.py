"""Python's own values that pyarrow would change without a word, or refuse in its own.

Told a type, pyarrow cuts a Fraction to an integer, a datetime to its day and a dict to the
fields that it knows, forgets the zone of a time, splits the hours of a duration into days
and reads the data of masked arrays.
"""

import collections.abc
import datetime
import decimal
import itertools
import numbers
import operator
import sys

import pyarrow as pa
import pyarrow.types as t

from .optional import array_of, np


# The usual ones, whose values need no look: pyarrow reads them as they are meant.
USUAL = {kind.id for kind in (pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.bool_(), pa.string(), pa.binary())}
_TIME_KINDS = {kind.id for kind in (pa.date32(), pa.date64(), pa.time32("s"), pa.time64("us"), pa.timestamp("s"), pa.duration("s"))}
# Python's, of which pyarrow reads all as they are meant.
_PLAIN = {pa.date32().id: datetime.date, pa.duration("us").id: datetime.timedelta}
_DAYS = {datetime.date, type(None)}
_MIDNIGHT = datetime.time()
# Of what means that a value is missing; identity decides.
_MISSING_TYPES = {"NaTType", "NAType", "MaskedConstant"}
_NANOSECONDS = {"W": 604_800 * 10**9, "D": 86_400 * 10**9, "h": 3_600 * 10**9, "m": 60 * 10**9}
_NANOSECONDS |= {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


def as_meant(values, data_type, mask=None):
    """`values` for pyarrow, at every depth; raises ValueError where they are not of the type."""
    if data_type.id in USUAL or not holds(data_type, _is_read):
        return values
    if _are_usual(values, data_type):
        return values
    hidden = [False] * len(values) if mask is None else mask
    times = _Times()
    made = [value if hides else _walk(value, data_type, times.read) for value, hides in zip(values, hidden)]
    times.check()
    return made


def readable(values, data_type):
    """`values` as pyarrow reads them: None for what means missing in pandas or numpy, lists for arrays
    and tensors that it does not read; None if there are none of these."""
    return [_walk(value, data_type, _same) for value in values] if _is_unread(values) else None


def without_masks(values, data_type):
    """`values` with lists for the masked arrays inside, whose masks Arrow would not see."""
    if data_type.num_fields == 0:
        return values if isinstance(values, np.ndarray) else list(values)
    if any(holds(kind, _is_list) for kind in types_inside(data_type)):
        values = list(values)
        return [_walk(value, data_type, _same) for value in values] if _has_masks(values, data_type) else values
    if _is_list(data_type):
        return [_walk(value, data_type, _same) if isinstance(value, np.ma.MaskedArray) else value for value in values]
    return values if isinstance(values, np.ndarray) else list(values)


def check_values(values, data_type):
    """Raises ValueError for the first that would lose something, or is of no type that fits."""
    for value in values:
        _walk(value, data_type, _check, _check_keys)


def in_known_unit(values):
    """Durations of numpy in a unit that pyarrow has; raises OverflowError where they are too long."""
    unit, steps = np.datetime_data(values.dtype)
    if unit not in _NANOSECONDS or (steps == 1 and unit not in "WDhm"):
        return values
    made = values.astype("m8[s]" if unit in "WDhm" else f"m8[{unit}]")
    if not np.array_equal(made.astype(values.dtype).view("i8"), values.view("i8")):
        raise OverflowError("a duration is too long")
    return made


def types_inside(data_type):
    """The types that a nested type is made of."""
    if t.is_struct(data_type):
        return [field.type for field in data_type]
    if t.is_map(data_type):
        return [data_type.key_type, data_type.item_type]
    return [data_type.value_type] if data_type.num_fields == 1 and hasattr(data_type, "value_type") else []


def holds(data_type, wanted):
    """Whether `wanted` is true of the type, or of one that it is made of."""
    if wanted(data_type):
        return True
    return any(holds(kind, wanted) for kind in types_inside(data_type))


def _walk(value, data_type, leaf, look=None):
    """`value` with `leaf` of all values that are none of others, None for what means missing.

    `look` is called with each dict and the fields that it may have.
    """
    if value is None or (type(value).__name__ in _MISSING_TYPES and _is_missing(value)):
        return None
    if hasattr(type(value), "detach"):
        value = array_of(value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        # A single value, of which pyarrow reads none.
        single = value[()]
        return value if isinstance(single, np.ndarray) and single is not np.ma.masked else _walk(single, data_type, leaf, look)
    if data_type.num_fields == 0:
        return leaf(value, data_type)
    if t.is_map(data_type):
        if isinstance(value, collections.abc.Mapping):
            value = list(value.items())
        if isinstance(value, (list, tuple)):
            kinds = data_type.key_type, data_type.item_type
            return [tuple(_walk(*pair, leaf, look) for pair in zip(entry, kinds)) for entry in value]
    elif t.is_struct(data_type):
        if isinstance(value, collections.abc.Mapping):
            kinds = {field.name: field.type for field in data_type}
            if look:
                look(value, kinds)
            # A field too many stays, to be refused.
            return {name: _walk(value[name], kinds[name], leaf, look) if name in kinds else value[name] for name in value}
    elif data_type.num_fields == 1:
        if isinstance(value, np.ndarray):
            value = _elements(value, data_type.value_type)
        if isinstance(value, (list, tuple)):
            return [_walk(inner, data_type.value_type, leaf, look) for inner in value]
    return value


def _same(value, _data_type):
    return value


def _is_list(data_type):
    return t.is_list(data_type) or t.is_large_list(data_type) or t.is_fixed_size_list(data_type)


def _has_masks(values, data_type):
    """Whether a masked array is anywhere in them; looks at types, which is quick."""
    kinds = set(map(type, values))
    if _is_list(data_type):
        if any(issubclass(kind, np.ma.MaskedArray) for kind in kinds):
            return True
        if not holds(data_type.value_type, _is_list):
            return False
        if not kinds <= {list, tuple, type(None)}:
            values = [value for value in values if isinstance(value, (list, tuple)) or _is_array_of_objects(value)]
        return _has_masks(list(itertools.chain.from_iterable(value for value in values if value is not None)), data_type.value_type)
    if t.is_struct(data_type):
        fields = [field for field in data_type if holds(field.type, _is_list)]
        rows = [value for value in values if type(value) is dict or isinstance(value, collections.abc.Mapping)]
        return any(_has_masks([row.get(field.name) for row in rows], field.type) for field in fields)
    return t.is_map(data_type)


def _is_array_of_objects(value):
    return isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1


def _elements(array, data_type):
    """An array in a list, as a list where pyarrow does not read it as values of the type."""
    is_masked = isinstance(array, np.ma.MaskedArray)
    if array.ndim == 1 and array.dtype.kind in "mM" and _is_time(data_type):
        if is_masked:
            array = np.where(np.ma.getmaskarray(array), np.array("NaT", array.dtype), np.ma.getdata(array))
        return _in_unit_of(array, data_type)
    if is_masked:
        return array.tolist()
    is_read = array.dtype.kind not in "mMO" and array.dtype.isnative and not _is_time(data_type)
    return array if array.ndim == 1 and is_read else list(array)


def _is_unread(value):
    """Whether anything in it is missing in pandas or numpy, or an array that pyarrow does not read."""
    if isinstance(value, collections.abc.Mapping):
        return any(map(_is_unread, value.values()))
    if isinstance(value, (list, tuple)) or _is_array_of_objects(value):
        return any(map(_is_unread, value))
    if type(value).__name__ in _MISSING_TYPES and _is_missing(value):
        # Of numpy, an array as well.
        return True
    if isinstance(value, np.ndarray):
        return value.ndim != 1 or not value.dtype.isnative
    return hasattr(type(value), "detach")


def _is_missing(value):
    # Who has such a value of pandas has imported it.
    pandas = sys.modules.get("pandas")
    return value is np.ma.masked or value is getattr(pandas, "NaT", None) or value is getattr(pandas, "NA", None)


def _check_keys(value, kinds):
    for name in value:
        if name not in kinds:
            raise ValueError(f"{value!r} has a field {name!r} that is not declared")


def _are_usual(values, data_type):
    """Whether pyarrow reads them all as they are meant, as far as that is quickly told."""
    if t.is_date(data_type):
        return _DAYS.issuperset(map(type, values))
    if t.is_duration(data_type):
        return all(value is None or type(value) is datetime.timedelta for value in values)
    if t.is_timestamp(data_type) and data_type.tz is not None:
        return all(value is None or type(value) is datetime.datetime for value in values)
    usual = datetime.time if t.is_time(data_type) else datetime.datetime
    return all(value is None or (type(value) is usual and value.tzinfo is None) for value in values)


def _is_read(data_type):
    return _is_time(data_type) or t.is_interval(data_type)


class _Times:
    """Reads times, and finds numbers among them. Those alone are refused by their type."""

    def __init__(self):
        self.has_times, self.number = False, None

    def read(self, value, data_type):
        if type(value) is _PLAIN.get(data_type.id):
            self.has_times = True
            return value
        if not _is_read(data_type):
            return value
        if not _is_counted(value):
            self.has_times = True
        elif self.number is None:
            self.number = value
        return _read(value, data_type)

    def check(self):
        if self.has_times and self.number is not None:
            raise ValueError(f"{self.number!r} is of type {type(self.number).__name__}")


def _read(value, data_type):
    if isinstance(value, datetime.datetime):
        if t.is_date(data_type) and (value.time() != _MIDNIGHT or getattr(value, "nanosecond", 0)):
            raise ValueError(f"{value!r} has a time of day, and a date has none. Return value.date()")
        # Those of pandas have nanoseconds, too.
        if t.is_timestamp(data_type) and data_type.unit != "ns" and getattr(value, "nanosecond", 0):
            raise ValueError(f"{value!r} has nanoseconds. Return value.floor('us')")
        if value.tzinfo is not None and t.is_timestamp(data_type) and data_type.tz is None:
            raise ValueError(
                f"{value!r} has a time zone. Return value.replace(tzinfo=None), or declare TIMESTAMP WITH TIME ZONE"
            )
    elif isinstance(value, datetime.time):
        if t.is_time(data_type) and value.tzinfo is not None:
            raise ValueError(f"{value!r} has a time zone. Return value.replace(tzinfo=None)")
    elif isinstance(value, (datetime.timedelta, np.timedelta64)) and t.is_interval(data_type):
        return _interval(value)
    elif isinstance(value, datetime.timedelta) and t.is_duration(data_type):
        if data_type.unit != "ns" and getattr(value, "nanoseconds", 0):
            raise ValueError(f"{value!r} has nanoseconds. Return value.floor('us')")
    elif isinstance(value, (np.datetime64, np.timedelta64)):
        return _in_unit_of(value, data_type)
    elif isinstance(value, datetime.date) and t.is_timestamp(data_type):
        return datetime.datetime.combine(value, _MIDNIGHT)
    return value


def _in_unit_of(value, data_type):
    """A time of numpy, or an array of times, in the unit of the type: pyarrow reads no other."""
    kind = value.dtype.kind
    if not (t.is_duration(data_type) if kind == "m" else t.is_timestamp(data_type) or t.is_date(data_type)):
        return value
    unit = "D" if t.is_date(data_type) else data_type.unit
    made = value.astype(f"{kind}8[{unit}]")
    if np.any((made.astype(value.dtype) != value) & ~np.isnat(value)):
        raise ValueError(f"{value!r} has more digits than {data_type}, or is out of its range")
    if value.ndim == 0 and np.isnat(value):
        return None
    return made.tolist() if unit == "D" else made


def _interval(value):
    """A duration, without days: those of an interval are no 24 hours where clocks are changed."""
    if isinstance(value, datetime.timedelta):
        seconds = value.days * 86_400 + value.seconds
        # Those of pandas have nanoseconds.
        rest = value.microseconds * 1_000 + getattr(value, "nanoseconds", 0)
        return pa.MonthDayNano([0, 0, seconds * 1_000_000_000 + rest])
    unit, steps = np.datetime_data(value.dtype)
    if np.isnat(value):
        return None
    if unit not in _NANOSECONDS:
        return value
    return pa.MonthDayNano([0, 0, int(value.astype("i8")) * steps * _NANOSECONDS[unit]])


def _is_number(data_type):
    return t.is_integer(data_type) or t.is_floating(data_type) or t.is_decimal(data_type)


def _is_time(data_type):
    return data_type.id in _TIME_KINDS


def _is_counted(value):
    """Whether pyarrow would take it for a number of days or of parts of a second."""
    return hasattr(type(value), "__int__") and not _is_time_of_numpy(value)


def _is_time_of_numpy(value):
    return isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind in "mM"


def _check(value, data_type):
    if _is_time(data_type):
        if _is_counted(value):
            raise ValueError(f"{value!r} is of type {type(value).__name__}")
    elif t.is_integer(data_type):
        if not _is_whole(value):
            raise ValueError(f"{value!r} is not a whole number. Return int(value) to cut it")
    elif _is_number(data_type) and isinstance(value, numbers.Number) and not isinstance(value, _kinds_of(data_type)):
        wanted = "float(value)" if t.is_floating(data_type) else "decimal.Decimal values"
        raise ValueError(f"{value!r} is a {type(value).__name__}. Return {wanted}")
    return value


def _kinds_of(data_type):
    kinds = int, float, np.integer, np.floating
    return kinds if t.is_floating(data_type) else (*kinds, decimal.Decimal)


def _is_whole(value):
    if isinstance(value, np.complexfloating):
        return False
    if not hasattr(type(value), "__int__"):
        # No number: pyarrow says so.
        return True
    try:
        operator.index(value)
        return True
    except TypeError:
        return bool(value == int(value))

