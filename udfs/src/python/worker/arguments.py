"""Batches in the form user code asked for.

Arrow arrays pass as they are; polars has the same layout and shares them. As rows,
values are Python's own. As pandas, a column has the type that pandas gives it by
default, and where it has NULLs or NaN an Arrow type of pandas, which tells them
apart. So it has where pandas would change what is inside: NULLs among numbers in lists, which
would be NaN, nanoseconds in structs, plain numbers, and zones of times in lists, gone. As numpy, columns without NULL are read-only views
of the block where Arrow has the same layout, or copies of it where user code is to
write to them; with NULL they are masked arrays, so NaN stays NaN. What numpy has no type for comes as Python objects and None;
lists of numbers come as one small array each. A column of fixed-shape tensors is one array
with their shape; what other extension types mean, Arrow knows and numpy gets what they
are stored as, as polars does.
"""

import importlib
import sys

import pyarrow as pa
import pyarrow.types as t

from .failure import Refused
from .optional import np


def prepare(batch_format):
    """Imports now what batches of this format need."""
    if batch_format not in ("numpy", "pandas", "polars"):
        return
    try:
        importlib.import_module(batch_format)
    except ImportError as error:
        raise Refused(
            f"is called with batch_format '{batch_format}', which {sys.executable} cannot import: {error}."
            f" Install it: {sys.executable} -m pip install {batch_format}, or say batch_format 'pyarrow'"
        ) from None


def scalar_arguments(batch, batch_format, zero_copy):
    """One array per parameter."""
    made = _converted(lambda batch: [_ARRAYS[batch_format](column) for column in batch.columns], batch, batch_format)
    return made if zero_copy else [_writable(array) for array in made]


def table_argument(batch, batch_format, zero_copy):
    """The whole batch."""
    made = _converted(_TABLES[batch_format], batch, batch_format)
    return made if zero_copy else _writable(made)


def _converted(convert, batch, batch_format):
    try:
        return convert(batch)
    except (Refused, MemoryError):
        raise
    except BaseException as error:
        # A panic of polars is no Exception.
        columns = ", ".join(f'"{field.name}" {field.type}' for field in batch.schema)
        text = " ".join(str(error).split())
        raise Refused(
            f"cannot be given a batch of {columns} in batch_format '{batch_format}': {text}."
            " Use batch_format 'pyarrow', or CAST the column"
        ) from None


def _dict_of_numpy(batch):
    return {name: to_numpy(column) for name, column in zip(batch.schema.names, batch.columns)}


def _to_pandas(array):
    import pandas

    if array.null_count == 0 and not _holds_nan(array) and not _changes_times(array.type) and not _changes_nulls(array):
        return array.to_pandas()
    return pandas.Series(array, dtype=pandas.ArrowDtype(array.type))


def _holds_nan(array):
    return t.is_floating(array.type) and bool(np.isnan(array.to_numpy(zero_copy_only=True)).any())


def _changes_times(kind, is_in_struct=False, is_in_list=False):
    """Whether pandas would get times in structs as whole numbers, or in lists without their zone."""
    if t.is_timestamp(kind) or t.is_duration(kind):
        return (is_in_struct and kind.unit == "ns") or (is_in_list and t.is_timestamp(kind) and kind.tz is not None)
    is_in_struct = is_in_struct or t.is_struct(kind) or t.is_map(kind)
    is_in_list = _is_list(kind)
    return any(_changes_times(kind.field(place).type, is_in_struct, is_in_list) for place in range(kind.num_fields))


def _changes_nulls(array, is_in_list=False):
    """Whether pandas would get NULLs among numbers as NaN: those in lists are arrays of numpy."""
    kind = array.type
    if t.is_integer(kind) or t.is_floating(kind):
        return is_in_list and array.null_count > 0
    if t.is_struct(kind):
        # Where a struct is NULL, so is what is in it.
        return any(_changes_nulls(inner, is_in_list) for inner in array.flatten())
    return _is_list(kind) and _changes_nulls(array.flatten(), True)


def _is_list(kind):
    return t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind)


def _pandas_frame(batch):
    import pandas

    columns = {name: _to_pandas(column) for name, column in zip(batch.schema.names, batch.columns)}
    return pandas.DataFrame(columns, index=pandas.RangeIndex(batch.num_rows), copy=False)


def _from_arrow(value):
    import polars

    if isinstance(value, pa.RecordBatch):
        value = pa.RecordBatch.from_arrays([_stored(column) for column in value.columns], names=value.schema.names)
    return polars.from_arrow(_stored(value))


def _stored(value):
    """An array of an extension type as what it is stored as, and none that polars cannot read."""
    if isinstance(value, pa.ExtensionArray):
        value = value.storage
    # Of a part of a longer array, polars counts the values of the whole.
    is_vectors = t.is_fixed_size_list(value.type) if isinstance(value, pa.Array) else False
    if is_vectors and value.null_count and len(value.values) != len(value) * value.type.list_size:
        value = pa.concat_arrays([value])
    return value


def _same(value):
    return value


def to_numpy(array):
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        values = to_numpy(array.storage)
        return _shaped(values, kind.shape) if isinstance(kind, pa.FixedShapeTensorType) else values
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
    """Fixed-size lists as the rows of a matrix, and lists of those as tensors, where that says
    everything."""
    flat, shape = array, [len(array)]
    while t.is_fixed_size_list(flat.type) and flat.null_count == 0:
        shape.append(flat.type.list_size)
        flat = flat.flatten()
    numbers = t.is_integer(flat.type) or t.is_floating(flat.type)
    if numbers and 0 not in shape[1:] and flat.null_count == 0:
        return flat.to_numpy(zero_copy_only=True).reshape(shape)
    return _objects([None if item is None else _item(item) for item in _items(array)])


def _shaped(tensors, shape):
    """The rows of a matrix, or arrays and None, as tensors of `shape`."""
    if tensors.dtype != object:
        return tensors.reshape(len(tensors), *shape)
    return _objects([None if item is None else np.reshape(item, shape) for item in tensors])


def python_values(array):
    """Python's own values. Without pandas, whose types have nanoseconds, those are cut: Python's have none."""
    try:
        return array.to_pylist()
    except ValueError:
        kind = _in_microseconds(array.type)
        if kind == array.type:
            raise
        return array.cast(kind, safe=False).to_pylist()


def _in_microseconds(kind):
    if t.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if t.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if t.is_struct(kind):
        return pa.struct([field.with_type(_in_microseconds(field.type)) for field in kind])
    if t.is_fixed_size_list(kind):
        return pa.list_(_in_microseconds(kind.value_type), kind.list_size)
    return pa.list_(_in_microseconds(kind.value_type)) if t.is_list(kind) else kind


def _rows(batch):
    columns = [python_values(column) for column in batch.columns]
    return [dict(zip(batch.schema.names, values)) for values in zip(*columns)] if columns else [{} for _ in range(batch.num_rows)]


def _items(array):
    for scalar in array:
        yield scalar.values if scalar.is_valid else None


def _item(values):
    """One list as an array if numpy has its type, else as a Python list."""
    kind = values.type
    numbers = t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind)
    return to_numpy(values) if numbers else values.to_pylist()


def _writable(made):
    """The same, in memory that is user code's alone."""
    if isinstance(made, dict):
        return {name: _writable(array) for name, array in made.items()}
    if not isinstance(made, np.ndarray):
        # Those of pandas can be written to; the others cannot, or are copies.
        return made.copy() if type(made).__module__.partition(".")[0] == "pandas" else made
    if made.dtype == object:
        return _objects([_writable(item) if isinstance(item, np.ndarray) else item for item in made])
    return made if made.flags.writeable and not isinstance(made, np.ma.MaskedArray) else made.copy()


def _objects(values):
    # One element at a time: numpy must not look into lists.
    array = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        array[place] = value
    return array


_ARRAYS = {
    "numpy": to_numpy,
    "pyarrow": _same,
    "pandas": _to_pandas,
    "polars": _from_arrow,
    "rows": python_values,
}
_TABLES = {
    "numpy": _dict_of_numpy,
    "pyarrow": _same,
    "pandas": _pandas_frame,
    "polars": _from_arrow,
    "rows": _rows,
}
