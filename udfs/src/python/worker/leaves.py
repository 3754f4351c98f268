"""Arrow arrays beside the type that they become, down to what is in lists and structs.

pyarrow's casts drop the time of day of a date and the zone of a timestamp without a
word, make infinities of large numbers, and know none from a duration to an interval.
"""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as t

from .exact import USUAL, holds
from .views import with_inner


def check_kept(array, data_type):
    """Raises ArrowInvalid where the cast of `array` to the type would drop a part of a time."""
    if data_type.id in USUAL or not holds(data_type, _is_point_in_time):
        return
    for leaf, kind in _leaves(array, data_type):
        if not t.is_timestamp(leaf.type):
            continue
        if t.is_date(kind):
            local = leaf if leaf.type.tz is None else pc.local_timestamp(leaf)
            if not local.cast(pa.date32(), safe=False).cast(local.type).equals(local):
                raise pa.ArrowInvalid("a date has no time of day")
        elif t.is_timestamp(kind) and kind.tz is None and leaf.type.tz is not None:
            raise pa.ArrowInvalid(f"they have the time zone {leaf.type.tz}. Declare TIMESTAMP WITH TIME ZONE, or return them without")


def infinities(array):
    """How many there are."""
    return sum(_infinities(leaf) for leaf, _ in _leaves(array, array.type))


def may_become_infinite(data_type):
    """Whether it holds floats without room for all numbers, as float64 has it."""
    return holds(data_type, _is_narrow_float)


def has_ranges(data_type):
    """Whether arrays of the type may hold values that are none of it, which the engine does not see."""
    return data_type.id not in USUAL and holds(data_type, _is_ranged)


def as_intervals(array, data_type):
    """`array` with intervals where it has durations and the type has intervals."""
    if t.is_duration(array.type) and t.is_interval(data_type):
        return _intervals(array)
    if not holds(data_type, t.is_interval) or not holds(array.type, t.is_duration):
        return array
    if t.is_struct(array.type) and t.is_struct(data_type):
        kinds = {field.name: field.type for field in data_type}
        return with_inner(array, lambda inner, field: as_intervals(inner, kinds.get(field.name, field.type)))
    if _is_list(array.type) and _is_list(data_type):
        return with_inner(array, lambda inner, _field: as_intervals(inner, data_type.value_type))
    return array


def _leaves(array, data_type):
    """The arrays inside that are no lists and no structs, each with what it becomes."""
    if _is_list(array.type) and _is_list(data_type):
        yield from _leaves(array.flatten(), data_type.value_type)
    elif t.is_struct(array.type) and t.is_struct(data_type):
        kinds = {field.name: field.type for field in data_type}
        for field, inner in zip(array.type, array.flatten()):
            if field.name in kinds:
                yield from _leaves(inner, kinds[field.name])
    else:
        yield array, data_type


def _intervals(array):
    """Durations without days: those of an interval are no 24 hours where clocks are changed."""
    nanos = array.cast(pa.duration("ns")).cast(pa.int64())
    made = bytearray(16 * len(array))
    # Months and days of 4 bytes each, then nanoseconds of 8.
    memoryview(made).cast("q")[1::2] = memoryview(nanos.buffers()[1]).cast("q")[nanos.offset : nanos.offset + len(nanos)]
    kind = pa.month_day_nano_interval()
    intervals = pa.Array.from_buffers(kind, len(array), [None, pa.py_buffer(made)])
    return pc.if_else(array.is_valid(), intervals, pa.scalar(None, kind)) if array.null_count else intervals


def _infinities(leaf):
    if not t.is_floating(leaf.type):
        return 0
    if t.is_float16(leaf.type):
        leaf = leaf.cast(pa.float32())
    return pc.sum(pc.is_inf(leaf)).as_py() or 0


def _is_list(kind):
    return t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind)


def _is_point_in_time(kind):
    return t.is_date(kind) or t.is_timestamp(kind)


def _is_narrow_float(kind):
    return t.is_float32(kind) or t.is_float16(kind)


def _is_ranged(kind):
    return t.is_decimal(kind) or t.is_time(kind) or t.is_date64(kind)
