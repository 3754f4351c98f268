"""List views as lists, at every depth.

The engine knows no list views of pyarrow's, and pyarrow's own cast of them to lists
gives wrong values without a word: so they are taken apart here.
"""

import numpy as np
import pyarrow as pa
import pyarrow.types as t

from .exact import types_inside


def holds_views(kind):
    """Whether values of this type are list views, or have some inside."""
    if _is_view(kind):
        return True
    return any(map(holds_views, types_inside(kind)))


def without_views(array):
    """The same values; raises pyarrow's error where a view leads astray."""
    kind = array.type
    if not holds_views(kind):
        return array
    if _is_view(kind):
        return _list_of_views(array)
    if t.is_struct(kind):
        children = [without_views(array.field(place)) for place in range(kind.num_fields)]
        fields = [field.with_type(child.type) for field, child in zip(kind, children)]
        return pa.StructArray.from_arrays(children, fields=fields, mask=array.is_null())
    inner = without_views(array.values)
    if t.is_map(kind):
        kind = pa.map_(inner.type.field(0), inner.type.field(1), kind.keys_sorted)
    elif t.is_fixed_size_list(kind):
        kind = pa.list_(kind.value_field.with_type(inner.type), kind.list_size)
    elif t.is_large_list(kind):
        kind = pa.large_list(kind.value_field.with_type(inner.type))
    elif t.is_list(kind):
        kind = pa.list_(kind.value_field.with_type(inner.type))
    else:
        raise pa.ArrowNotImplementedError(f"{kind} has list views inside. Return lists")
    own = array.buffers()[: 1 if t.is_fixed_size_list(kind) else 2]
    return pa.Array.from_buffers(kind, len(array), own, offset=array.offset, children=[inner])


def _list_of_views(array):
    hidden = array.is_null().to_numpy(zero_copy_only=False)
    sizes = np.where(hidden, 0, array.sizes.to_numpy()).astype("i8")
    ends = np.cumsum(sizes)
    # For each value that is seen, where it lies; `take` looks whether that is inside.
    shifts = array.offsets.to_numpy() - (ends - sizes)
    places = np.repeat(shifts, sizes) + np.arange(ends[-1] if len(ends) else 0)
    values = without_views(array.values.take(pa.array(places)))
    offsets = pa.array(np.concatenate([[0], ends]).astype("i8"))
    kind = pa.large_list(array.type.value_field.with_type(values.type))
    return pa.LargeListArray.from_arrays(offsets, values, type=kind, mask=pa.array(hidden))


def _is_view(kind):
    return t.is_list_view(kind) or t.is_large_list_view(kind)
