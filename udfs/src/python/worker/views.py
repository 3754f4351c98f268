"""List views as lists, and the words of dictionaries in place of their numbers, at every depth.

The engine knows no list views of pyarrow's, and pyarrow's own cast of them to lists
gives wrong values without a word: so they are taken apart here. Nor can it take values
out of string views, which polars has in its dictionaries.
"""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as t

from .exact import holds


def holds_views(kind):
    """Whether values of this type are such views or dictionaries, or have some inside."""
    return holds(kind, _is_taken_apart)


def without_views(array):
    """The same values; raises pyarrow's error where a view leads astray."""
    kind = array.type
    if not holds_views(kind):
        return array
    if _is_view(kind):
        return _list_of_views(array)
    if t.is_dictionary(kind):
        return decoded(array)
    return with_inner(array, lambda inner, _field: without_views(inner))


def decoded(array):
    """The words of a dictionary array."""
    kind = array.type
    if _is_text_view(kind.value_type):
        array = pa.DictionaryArray.from_arrays(array.indices, _without_text_views(array.dictionary))
    return array.dictionary_decode()


def with_inner(array, change):
    """A nested array with `change` of what is in it; told of each the field that it is."""
    kind = array.type
    if t.is_struct(kind):
        children = [change(array.field(place), field) for place, field in enumerate(kind)]
        fields = [field.with_type(child.type) for field, child in zip(kind, children)]
        return pa.StructArray.from_arrays(children, fields=fields, mask=array.is_null())
    inner = change(array.values, None if t.is_map(kind) else kind.value_field)
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
    hidden = array.is_null()
    sizes = pc.if_else(hidden, 0, array.sizes.cast(pa.int64()))
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(sizes)])
    starts, n_values = offsets[:-1], offsets[-1].as_py()
    # For each value that is seen, where it lies; `take` looks whether that is inside.
    rows = pc.list_parent_indices(pa.LargeListArray.from_arrays(offsets, pa.nulls(n_values)))
    shifts = pc.subtract(array.offsets.cast(pa.int64()), starts).take(rows)
    places = pc.add(shifts, pa.array(range(n_values), pa.int64()))
    values = array.values
    if holds(values.type, _is_text_view):
        values = _without_text_views(without_views(values))
    values = without_views(values.take(places))
    kind = pa.large_list(array.type.value_field.with_type(values.type))
    return pa.LargeListArray.from_arrays(offsets, values, type=kind, mask=hidden)


def _without_text_views(array):
    """Texts and bytes as arrays that values can be taken out of."""
    if _is_text_view(array.type):
        return array.cast(pa.large_string() if t.is_string_view(array.type) else pa.large_binary())
    if not holds(array.type, _is_text_view):
        return array
    return with_inner(array, lambda inner, _field: _without_text_views(inner))


def _is_taken_apart(kind):
    return _is_view(kind) or (t.is_dictionary(kind) and _is_text_view(kind.value_type))


def _is_text_view(kind):
    return t.is_string_view(kind) or t.is_binary_view(kind)


def _is_view(kind):
    return t.is_list_view(kind) or t.is_large_list_view(kind)
