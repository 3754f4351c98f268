"""What user code returned, as Arrow of the declared type.

None, masks and what pandas calls NaT or NA become NULL, NaN stays NaN except as a value of a
column of pandas, where it means missing; in a list or dict there it is NaN too. Casts must lose nothing, and stay in one kind of types: text is
never turned into numbers, or numbers into dates.
"""

import collections.abc
import datetime
import decimal
import re
import warnings
from array import array as packed

import pyarrow as pa
import pyarrow.types as t

from .exact import USUAL, as_meant, check_values, in_known_unit, readable, without_masks
from .failure import Refused, run, text_of
from .leaves import as_intervals, check_kept, has_ranges, infinities, may_become_infinite
from .optional import HAS_NUMPY, np
from .views import decoded, without_views

_SINGLE = (bool, int, float, complex, str, bytes, decimal.Decimal, datetime.date, datetime.time)
_SINGLE += (datetime.timedelta, np.generic, pa.Scalar)
_END = object()
# Of short lists what they hold is seen at once. Of long ones pyarrow finds it faster.
FEW = 64
# Python's types whose values pyarrow reads as they are meant.
PLAIN = {pa.int64().id: int, pa.float64().id: float, pa.string().id: str, pa.bool_().id: bool}
# What `array` calls those that lie in memory as Arrow has them: pyarrow looks longer at a list.
_CODES = {pa.int64().id: "q", pa.float64().id: "d"}
# Asking a schema makes new objects each time.
_last = None, set(), [], []

# pyarrow reads single complex numbers of numpy as real ones, and only a warning says so;
# as an error it makes pyarrow refuse them. Those of user code's own lines stay warnings.
if HAS_NUMPY:
    warnings.filterwarnings("error", category=getattr(np, "exceptions", np).ComplexWarning, module=re.escape(__name__) + r"\Z")


class Misfit(Exception):
    """Values of another kind than declared; its text is their type."""


def to_column(value, rows, data_type, has_params):
    """One value a row; without parameters one value stands for every row."""
    if type(value) is list and len(value) == rows <= FEW and (short := _short(value, data_type)) is not None:
        return short
    if _is_single(value):
        if has_params or value is None:
            raise Refused(f"returned {named(value)} for {_rows(rows)}. Return one value per row")
        value = [value.as_py() if isinstance(value, pa.Scalar) else value] * rows
    array = _to_arrow(value, data_type, "returned")
    if len(array) != rows:
        raise Refused(f"returned {_values(len(array))} for {_rows(rows)}. Return one value per row")
    return array


def to_batches(function, value, schema):
    """The parts of a relation; generators are run one part at a time."""
    if is_table(value):
        yield to_batch(value, schema)
        return
    if not isinstance(value, (collections.abc.Iterator, list, tuple)):
        raise Refused(f"returned {named(value)}, but a relation is declared. Return a dict of arrays, a RecordBatch, a Table, a DataFrame, or yield those")
    parts = iter(value)
    while (part := run(function, next, parts, _END)) is not _END:
        if not is_table(part):
            raise Refused(f"yielded {named(part)}, but a relation is declared. Yield a dict of arrays, a RecordBatch, a Table or a DataFrame")
        yield to_batch(part, schema)


def to_batch(value, schema):
    """A table, in whatever form, as a batch of the schema."""
    _, names, fields, ranged = _declared(schema)
    if isinstance(value, pa.RecordBatch) and value.schema.equals(schema):
        for name in ranged:
            valid_column(value.column(name), f'returned column "{name}" as')
        return value
    columns = _columns(value, fields)
    if columns.keys() != names:
        missing = [name for name in schema.names if name not in columns]
        extra = [name for name in columns if name not in names]
        problem = f'without column "{missing[0]}"' if missing else f'with a column "{extra[0]}" that is not declared'
        raise Refused(f"returned a relation {problem}. Declared: {', '.join(schema.names)}; returned: {', '.join(map(str, columns)) or 'none'}")
    arrays = []
    for name, kind in fields:
        value = columns[name]
        if _is_single(value):
            raise Refused(f'returned {named(value)} as column "{name}". Return an array of one value per row')
        arrays.append(_to_arrow(value, kind, f'returned column "{name}" as'))
        if len(arrays[-1]) != len(arrays[0]):
            raise Refused(f'returned {_values(len(arrays[0]))} in column "{schema.names[0]}" but {len(arrays[-1])} in column "{name}"')
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _declared(schema):
    """The names, each with its type, and those with ranges; of the last schema they are known."""
    global _last
    if _last[0] is not schema:
        fields = [(field.name, field.type) for field in schema]
        _last = schema, set(schema.names), fields, [name for name, kind in fields if has_ranges(kind)]
    return _last


def valid_column(column, verb="returned"):
    """`column`, whose values are looked at: where rows may fail, these must be found here."""
    try:
        column.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        text = " ".join(str(error).split())
        raise Refused(f"{verb} values that are no valid {column.type}: {text}") from None
    return column


def valid_batch(batch):
    """`batch` after the same look at each column."""
    for name, column in zip(batch.schema.names, batch.columns):
        valid_column(column, f'returned column "{name}" as')
    return batch


def is_table(value):
    """Whether it is rows in columns: a dict of arrays, Arrow's, or a frame."""
    # Most are: of others more has to be asked.
    if type(value) is dict or isinstance(value, (pa.RecordBatch, pa.Table, collections.abc.Mapping)):
        return True
    return _is_frame(value) or (hasattr(value, "__arrow_c_stream__") and hasattr(value, "columns"))


def _is_frame(value):
    return _is_pandas(value) and hasattr(value, "columns")


def _is_pandas(value):
    return type(value).__module__.partition(".")[0] == "pandas"


def _columns(value, fields):
    try:
        if isinstance(value, collections.abc.Mapping):
            return dict(value)
        if _is_frame(value):
            return _columns_of_frame(value, fields)
        if not isinstance(value, (pa.RecordBatch, pa.Table)):
            value = pa.table(value)
    except (Refused, MemoryError):
        raise
    except BaseException as error:
        raise unreadable(value, error) from None
    _refuse_twice(value.schema.names)
    return dict(zip(value.schema.names, value.columns))


def _columns_of_frame(frame, fields):
    """Arrow's, but for columns of objects whose values must be looked at before Arrow has them."""
    names = list(frame.columns)
    _refuse_twice(names)
    odd = {name for name, kind in fields if kind.id not in USUAL}
    odd = [name for name in names if name in odd and frame[name].dtype == object]
    table = pa.Table.from_pandas(frame.drop(columns=odd) if odd else frame, preserve_index=False)
    return {name: frame[name] for name in odd} | dict(zip(table.schema.names, table.columns))


def _refuse_twice(names):
    for name in names:
        if names.count(name) > 1:
            raise Refused(f'returned two columns named "{name}"')


def unreadable(value, error):
    """Objects of user code may do anything when they are read."""
    text = " ".join(text_of(error).split())
    return Refused(f"returned {named(value)} that cannot be read: {type(error).__name__}: {text}")


def _to_arrow(value, data_type, verb):
    try:
        array = _array(value, data_type)
        if array is None:
            raise Refused(f"{verb} {named(value)}. Return a numpy or Arrow array or a list")
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        if isinstance(array.type, pa.BaseExtensionType):
            if array.type.extension_name == "pandas.period":
                raise ValueError("a period is stored as a number. Return values.dt.to_timestamp(), or values.astype(str)")
            array = array.storage
        if t.is_dictionary(array.type):
            array = decoded(array)
        if array.type != data_type:
            array = without_views(array)
            if _misfits(array.type, data_type):
                raise Misfit(array.type)
            array = _cast(array, data_type)
        return array if data_type.id in USUAL or not has_ranges(data_type) else valid_column(array, verb)
    except Misfit as misfit:
        raise Refused(f"{verb} {misfit}, but {data_type} is declared") from None
    except (Refused, MemoryError):
        raise
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        text = " ".join(str(error).split())
        raise Refused(f"{verb} values that are not {data_type}: {text}") from None
    except BaseException as error:
        raise unreadable(value, error) from None


def _array(value, data_type):
    """An Arrow array of some type, or None for what is no array at all."""
    if type(value) is list and len(value) <= FEW and (short := _short(value, data_type)) is not None:
        return short
    if isinstance(value, (pa.Array, pa.ChunkedArray)):
        return value
    if isinstance(value, np.ndarray):
        return _from_numpy(value, data_type)
    if _is_pandas(value):
        if data_type.id not in USUAL and getattr(value, "dtype", None) == object:
            # What is in lists and dicts is no column, so NaN is not missing there.
            present = [None if isinstance(one, float) and one != one else one for one in value.tolist()]
            return _from_sequence(present, data_type)
        return pa.array(value, from_pandas=True)
    if hasattr(value, "__arrow_c_stream__"):
        return pa.chunked_array(value)
    if hasattr(value, "__arrow_c_array__") or hasattr(value, "__arrow_array__"):
        return pa.array(value)
    if isinstance(value, collections.abc.Sequence) and not isinstance(value, (str, bytes)):
        return _from_sequence(value, data_type)
    if HAS_NUMPY and hasattr(value, "__array__"):
        return _from_numpy(np.asarray(value), data_type)
    return None


def _short(values, data_type):
    """An array of values that are all of the one type of Python's that means `data_type`, or None."""
    kind, code = PLAIN.get(data_type.id), _CODES.get(data_type.id)
    for value in values:
        if type(value) is not kind:
            return None
    try:
        if code is not None:
            buffer = pa.py_buffer(packed(code, values))
            return pa.Array.from_buffers(data_type, len(values), [None, buffer], 0)
        return pa.array(values, type=data_type)
    except (pa.ArrowException, OverflowError, ValueError):
        return None


def _from_sequence(values, data_type):
    values = _without_tensors(values, data_type)
    if isinstance(values, np.ndarray):
        return _from_matrix(values, None, data_type)
    return _from_objects(without_masks(values, data_type), data_type)


def _from_numpy(value, data_type):
    mask, values = None, value
    if isinstance(value, np.ma.MaskedArray):
        mask, values = np.ma.getmaskarray(value), np.ma.getdata(value)
    kind = values.dtype.kind
    if kind == "m":
        values = in_known_unit(values)
    elif not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if values.ndim > 1:
        return _from_matrix(values, mask, data_type)
    if kind == "O":
        values = _without_tensors(values, data_type)
        if isinstance(values, np.ndarray) and values.ndim > 1:
            if mask is None:
                return _from_matrix(values, None, data_type)
            values = values.tolist()
        return _from_objects(without_masks(values, data_type), data_type, mask)
    if kind in "US":
        # pyarrow reads these up to their first NUL.
        values = values.astype(object)
    return pa.array(values, mask=mask, from_pandas=False)


def _from_objects(values, data_type, mask=None, are_known=False):
    values = as_meant(values, data_type, mask)
    try:
        found = pa.array(values, mask=mask, from_pandas=False)
    except Exception:
        present = None if are_known else readable(values, data_type)
        if present is not None:
            return _from_objects(present, data_type, mask, are_known=True)
        # Mixed values: only the declared type holds them all.
        check_values(values, data_type)
        return pa.array(values, type=data_type, mask=mask, from_pandas=False)
    if found.type == data_type:
        return found
    if t.is_decimal(data_type) and (t.is_integer(found.type) or t.is_floating(found.type)):
        return _cast(found, data_type)
    if t.is_null(data_type):
        raise Misfit(found.type)
    try:
        array = pa.array(values, type=data_type, mask=mask, from_pandas=False)
    except pa.ArrowException:
        check_values(values, data_type)
        raise
    if _misfits(found.type, data_type):
        raise Misfit(found.type)
    # Told the type, pyarrow cuts 1.5 to 1 without a word; a cast does not.
    try:
        _cast(found, data_type)
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError):
        pass  # There is no such cast.
    return array


def _cast(array, data_type):
    """`array` as `data_type`; raises pyarrow's error where a value would change."""
    if t.is_decimal(data_type) and t.is_integer(array.type):
        # Whole numbers are asked for the room of their type, not of their value.
        array = array.cast(pa.decimal256(76, data_type.scale))
    array = as_intervals(array, data_type)
    check_kept(array, data_type)
    cast = array.cast(data_type, safe=True)
    if may_become_infinite(data_type) and infinities(cast) > infinities(array):
        raise pa.ArrowInvalid("a value is too large")
    return cast


def _misfits(found, declared):
    """Whether values of the one type are never values of the other."""
    if t.is_null(found):
        return False
    if t.is_null(declared):
        return True
    if _is_list(found) and _is_list(declared):
        return _misfits(found.value_type, declared.value_type)
    if t.is_struct(found) and t.is_struct(declared):
        names = {field.name: field.type for field in declared}
        return any(field.name not in names or _misfits(field.type, names[field.name]) for field in found)
    kinds = _kind(found), _kind(declared)
    if kinds == ("truth", "number"):
        return False
    return None not in kinds and kinds[0] != kinds[1]


def _kind(data_type):
    """Types among which values may change; None: of no kind."""
    for kind, is_kind in _KINDS.items():
        if is_kind(data_type):
            return kind
    return None


def _without_tensors(values, data_type):
    """`values`, where arrays of several dimensions, one a row, are one array, or lists where they
    are not all alike: Arrow reads neither."""
    if not (_is_list(data_type) and _is_list(data_type.value_type)):
        return values
    shapes = {(value.shape, value.dtype) for value in values if _is_tensor(value)}
    if not shapes:
        return values
    if len(shapes) == 1 and all(map(_is_tensor, values)):
        return np.stack(list(values))
    return [value.tolist() if _is_tensor(value) else value for value in values]


def _is_tensor(value):
    return type(value) is np.ndarray and value.ndim > 1


def _from_matrix(values, mask, data_type):
    """A matrix is one vector a row."""
    if not _is_list(data_type):
        raise Refused(f"returned an array of shape {values.shape}, but {data_type} is declared")
    if mask is not None or 0 in values.shape or values.dtype == object:
        masked = np.ma.MaskedArray(values, mask=False if mask is None else mask)
        return _from_objects(masked.tolist(), data_type)
    array = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _is_single(value):
    return value is None or isinstance(value, _SINGLE) or (isinstance(value, np.ndarray) and value.ndim == 0)


def _is_list(data_type):
    return t.is_list(data_type) or t.is_large_list(data_type) or t.is_fixed_size_list(data_type)


def _is_text(data_type):
    return any(
        is_kind(data_type)
        for is_kind in (t.is_string, t.is_large_string, t.is_string_view, t.is_binary, t.is_large_binary, t.is_binary_view, t.is_fixed_size_binary)
    )


_KINDS = {
    "text": _is_text,
    "number": lambda kind: t.is_integer(kind) or t.is_floating(kind) or t.is_decimal(kind),
    "truth": t.is_boolean,
    "date": lambda kind: t.is_date(kind) or t.is_timestamp(kind),
    "time of day": t.is_time,
    "duration": t.is_duration,
    "list": _is_list,
    "struct": t.is_struct,
}


def named(value):
    """A value in a sentence."""
    if value is None:
        return "None"
    return f"1 value ({type(value).__name__})" if _is_single(value) else f"a {type(value).__name__}"


def _rows(count):
    return "1 row" if count == 1 else f"{count} rows"


def _values(count):
    return "1 value" if count == 1 else f"{count} values"
