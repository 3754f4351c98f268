"""Batches in the form user code asked for.

Arrow arrays pass as they are. As numpy, columns without NULL are read-only views
of the block where Arrow has the same layout; with NULL they are masked arrays,
so NaN stays NaN. What numpy has no type for comes as Python objects and None;
lists of numbers come as one small array each.
"""

import numpy as np
import pyarrow as pa
import pyarrow.types as t


def scalar_arguments(batch, batch_format):
    """One array per parameter."""
    if batch_format == "pyarrow":
        return batch.columns
    return [to_numpy(column) for column in batch.columns]


def table_argument(batch, batch_format):
    """The whole batch: a RecordBatch, or a dict of numpy arrays."""
    if batch_format == "pyarrow":
        return batch
    names = batch.schema.names
    return {name: to_numpy(column) for name, column in zip(names, batch.columns)}


def to_numpy(array):
    kind = array.type
    if t.is_integer(kind) or t.is_floating(kind):
        values = _without_nulls(array).to_numpy(zero_copy_only=True)
    elif t.is_boolean(kind):
        values = _without_nulls(array).to_numpy(zero_copy_only=False)
    elif t.is_date(kind) or t.is_timestamp(kind) or t.is_duration(kind):
        values = array.to_numpy(zero_copy_only=False)
    elif t.is_fixed_size_list(kind):
        return _vectors(array)
    elif t.is_string(kind) or t.is_binary(kind) or t.is_large_string(kind) or t.is_large_binary(kind):
        return array.to_numpy(zero_copy_only=False)
    elif t.is_list(kind) or t.is_large_list(kind):
        return _objects([None if item is None else _item(item) for item in _items(array)])
    else:
        return _objects(array.to_pylist())
    if array.null_count == 0:
        return values
    return np.ma.MaskedArray(values, mask=array.is_null().to_numpy(zero_copy_only=False))


def _without_nulls(array):
    """The same values; where they are NULL, whatever lies there."""
    if array.null_count == 0:
        return array
    buffers = [None, array.buffers()[1]]
    return pa.Array.from_buffers(array.type, len(array), buffers, 0, array.offset)


def _vectors(array):
    """Fixed-size lists as the rows of a matrix, where that says everything."""
    values = array.type.value_type
    size = array.type.list_size
    numbers = t.is_integer(values) or t.is_floating(values)
    flat = array.flatten()
    if numbers and size and array.null_count == 0 and flat.null_count == 0:
        return flat.to_numpy(zero_copy_only=True).reshape(len(array), size)
    return _objects([None if item is None else _item(item) for item in _items(array)])


def _items(array):
    for scalar in array:
        yield scalar.values if scalar.is_valid else None


def _item(values):
    """One list as an array if numpy has its type, else as a Python list."""
    kind = values.type
    numbers = t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind)
    return to_numpy(values) if numbers else values.to_pylist()


def _objects(values):
    # One element at a time: numpy must not look into lists.
    array = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        array[place] = value
    return array
