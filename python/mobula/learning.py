"""Runs in workers: finds the types of what user code returns, by calling it.

The client asks for it where nobody declared a schema (`probe` in `functions`): the code is
called with the first rows, where it will run anyway, and what comes back says the types, as
in Ray Data. Few rows do not show all: a column that is named as one that came in is taken for
that one where its values go together, and decimals have the room that there is. Like `carried`,
the text of this file travels, and needs pyarrow alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import decimal
import inspect
import itertools
import numbers
import re
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeGuard, cast

import pyarrow as pa
import pyarrow.types as t

# A row at a time: until all types are known, and then as long as this, so that a whole
# number in the first row does not hide the fractions of the next.
ROW_SECONDS = 0.2
# Between calls that are made again: at first, and at most.
FIRST_WAIT, LONGEST_WAIT = 0.1, 60.0
# Units of numpy's times, and those of Arrow that have them.
_UNITS = {"": "D", "Y": "D", "M": "D", "W": "D", "D": "D", "h": "s", "m": "s", "s": "s", "ms": "ms", "us": "us", "ns": "ns"}
_FINER = ("s", "ms", "us", "ns")
_NUMPY_TIMES = ("datetime64", "timedelta64")
# What means that a value is missing, in pandas and numpy.
_MISSING = ("NAType", "NaTType", "MaskedConstant")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


class Teacher:
    """What a call of user code is to be, where it is called to learn from.

    `mode`: `map`, `flat_map` or `batches`; `input`: the columns that come in; `retried`: the
    names of exceptions after which it is called up to `retries` times more; `lenient`: rows
    on which it fails are none; `timeout`: of a call of an async function.
    """

    def __init__(
        self, mode: str, input: bytes, retried: Sequence[str] = (), retries: int = 0, lenient: bool = False, timeout: str = ""
    ) -> None:
        self.mode = mode
        self.input: dict[str, pa.DataType] = {}
        schema = pa.ipc.read_schema(pa.py_buffer(input))
        self.input.update(zip(schema.names, schema.types))
        self.retried, self.retries, self.lenient = frozenset(retried), retries, lenient
        said = re.fullmatch(r"([\d.]+) *(ms|s|m|h|)", timeout)
        self.timeout = None if said is None else float(said[1]) * _SECONDS[said[2]]
        self.loop: Any = None

    def learner(self, code: Callable[..., Any]) -> Callable[[Any], dict[str, Any]]:
        """What the worker calls instead of `code`: it gives one row with the schema."""

        def learn(batch: Any) -> dict[str, Any]:
            called = self._within_loop(code) if isinstance(code, type) else code
            in_rows = self.mode != "batches" or _is_list(batch)
            schema = self._of_batch(called, batch) if self.mode == "batches" else self._of_rows(called, batch)
            found = schema.serialize().to_pybytes()
            # Called with rows, a dict is one of them; else it is columns.
            return {"schema": found if in_rows else [found]}

        return learn

    # --- Calls

    def _of_rows(self, code: Callable[..., Any], rows: Iterable[Any]) -> pa.Schema:
        made: list[Mapping[Any, Any]] = []
        failed: Exception | None = None
        until: float | None = None
        for row in rows:
            try:
                made.extend(self._rows_of(self._result(code, row)))
            except Exception as error:
                if not self.lenient:
                    raise
                failed = error
                continue
            if made and until is None and not _open(self._of_dicts(made)):
                until = time.monotonic() + ROW_SECONDS
            if until is not None and time.monotonic() > until:
                break
        if failed is not None and not made:
            raise _noted(failed, "as did all of the first rows, so its columns are not known: say schema=")
        return self._of_dicts(made)

    def _rows_of(self, result: Any) -> list[Mapping[Any, Any]]:
        """The rows that came of one, with values of their own: code may use its dict again."""
        if self.mode == "map":
            row = _row(result)
            if not _is_mapping(row):
                raise TypeError(f"returned {_named(result)} for a row. Return a dict" + (", or call flat_map" if _is_several(result) else ""))
            return [row]
        if _is_mapping(_row(result)) or not _is_several(result):
            raise TypeError(f"returned {_named(result)} for a row. Return a list of dicts, or yield dicts")
        return [_row(one) for one in result]

    def _result(self, code: Callable[..., Any], given: Any) -> Any:
        """What it returns, also of an async function; after errors that are to be retried, called again."""
        for attempt in itertools.count():
            try:
                return self._called(code, copy.copy(given) if self.retried else given)
            except Exception as error:
                kinds = {name for kind in type(error).__mro__ for name in (kind.__name__, f"{kind.__module__}.{kind.__qualname__}")}
                if attempt >= self.retries or not self.retried & kinds:
                    raise
            time.sleep(min(FIRST_WAIT * 2**attempt, LONGEST_WAIT))

    def _called(self, code: Callable[..., Any], given: Any) -> Any:
        result = code(given)
        if inspect.isasyncgen(result):

            async def collected() -> list[Any]:
                return [_row(part) async for part in result]

            return self._waited(collected())
        if inspect.iscoroutine(result):
            return self._waited(cast(Coroutine[Any, Any, Any], result))
        # What a generator raises belongs to its call.
        if self.mode == "flat_map" and inspect.isgenerator(result):
            return [_row(part) for part in result]
        return result

    def _waited(self, made: Coroutine[Any, Any, Any]) -> Any:
        """On one loop for all calls, the worker's if it runs nothing else: clients that code keeps belong to theirs."""
        loop = self.loop
        if loop is None:
            worker = sys.modules.get("mobula_worker.overlap")
            is_free = worker is not None and worker._loop is None
            loop = self.loop = worker.loop() if worker is not None and is_free else asyncio.new_event_loop()
        return loop.run_until_complete(asyncio.wait_for(made, self.timeout))

    def _within_loop(self, code: type[Any]) -> Any:
        """An instance, built where a loop runs if its calls need one."""
        if not inspect.iscoroutinefunction(code.__call__) and not inspect.isasyncgenfunction(code.__call__):
            return code()

        async def built() -> Any:
            return code()

        return self._waited(built())

    def _of_batch(self, code: Callable[..., Any], batch: Any) -> pa.Schema:
        try:
            result = self._result(code, batch)
            row = _row(result) if _is_list(batch) else result
            if _is_list(batch) and not _is_table(result) and (_is_mapping(row) or _is_several(row)):
                return self._of_dicts([row] if _is_mapping(row) else [_row(one) for one in row])
            return self._of_parts(result)
        except Exception as error:
            if self.lenient:
                _noted(error, "while the columns that it gives were learned; schema= says them")
            raise

    # --- Types

    def _of_parts(self, value: Any) -> pa.Schema:
        """The schema of a relation, or of several that a generator yields."""
        if _is_relation(value):
            return self._of_relation(value)
        if not _is_several(value):
            raise TypeError(f"returned {_named(value)}. Return a dict of arrays, a RecordBatch, a Table, a DataFrame, or yield those")
        schemas: list[pa.Schema] = []
        for part in value:
            schemas.append(self._of_relation(part))
            if not _open(schemas[-1]):
                break
        return pa.unify_schemas(schemas, promote_options="permissive") if schemas else pa.schema([])

    def _of_relation(self, value: Any) -> pa.Schema:
        objects: dict[Any, Any] = _columns_of_objects(value)
        table = _frame(value.drop(columns=list(objects)) if objects else value)
        if table is not None:
            kinds = {name: self._meant(name, kind, column) for name, kind, column in zip(table.schema.names, table.schema.types, table.columns)}
            kinds |= {name: self._of_column(name, column) for name, column in objects.items()}
            return pa.schema([(_checked_name(name), kinds[name]) for name in (value.columns if objects else table.schema.names)])
        if not _is_mapping(value):
            raise TypeError(f"yielded {_named(value)}. Yield a dict of arrays, a RecordBatch, a Table or a DataFrame")
        return pa.schema([(_checked_name(name), self._of_column(name, values)) for name, values in value.items()])

    def _of_dicts(self, rows: Sequence[Any]) -> pa.Schema:
        for row in rows:
            if not _is_mapping(row):
                raise TypeError(f"gave {_named(row)} for a row. Give dicts")
            if not row:
                raise TypeError("gave a row without columns: an empty dict")
            if row.keys() != rows[0].keys():
                raise TypeError(
                    f"gave a row with the keys {_listed(rows[0])} and one with {_listed(row)}. Give all rows the same keys, with None for what is missing"
                )
        names: Iterable[Any] = rows[0] if rows else ()
        return pa.schema([(_checked_name(name), self._of_column(name, [row[name] for row in rows])) for name in names])

    def _of_column(self, name: Any, values: Any) -> pa.DataType:
        try:
            return self._meant(name, _of_values(values), values)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            text = " ".join(str(error).split())
            raise TypeError(f'returned column "{name}" with values of which no type is known: {text}. Say it by schema=') from None

    def _meant(self, name: Any, found: pa.DataType, values: Any = None) -> pa.DataType:
        if getattr(found, "extension_name", "") == "pandas.period":
            raise TypeError(f'returned column "{name}" of periods, which SQL does not have. Return its dt.to_timestamp(), or astype(str)')
        given: Any = self.input.get(name)
        is_array: bool = hasattr(values, "dtype")
        is_typed = is_array or isinstance(values, pa.ChunkedArray)
        if is_typed and given is not None and any(is_kind(found) and is_kind(given) for is_kind in (t.is_timestamp, t.is_duration)):
            # Arrays say their unit, and those of numpy no zone: they are in UTC, as what came in was.
            typed: Any = found
            finer = typed if _FINER.index(typed.unit) > _FINER.index(given.unit) else given
            if t.is_duration(found):
                return finer
            has_zone = is_array or typed.tz is not None
            return pa.timestamp(finer.unit, given.tz if has_zone else None)
        shape: tuple[int, ...] = ()
        if given is not None and t.is_fixed_size_list(given):
            shape = _shape_of(values.to_pylist() if isinstance(values, pa.ChunkedArray) else values)
        return _widened(found, given, shape)


def _widened(found: Any, given: Any, shape: Sequence[int] = ()) -> Any:
    """The type of a column whose first values are of the type `found`; `given`: that of the column
    of this name which came in, `shape`: what lists in lists of all values have."""
    if t.is_null(found):
        return found if given is None else given
    if t.is_decimal(found):
        scale = max(found.scale, given.scale if given is not None and t.is_decimal(given) else 0)
        fits = max(scale, 0) + found.precision - found.scale <= 38
        return pa.decimal128(38, scale) if fits else pa.decimal256(76, scale)
    if t.is_list(found) or t.is_large_list(found) or t.is_fixed_size_list(found):
        inside = given.value_type if given is not None and hasattr(given, "value_type") else None
        kind = _widened(found.value_type, inside, shape[1:])
        sizes = given is not None and t.is_fixed_size_list(given) and len(shape) > 0 and shape[0] == given.list_size
        size = found.list_size if t.is_fixed_size_list(found) else shape[0] if sizes else -1
        return pa.list_(kind, size)
    if given is None:
        return found
    if t.is_struct(found) and t.is_struct(given):
        kinds = dict(_fields(given))
        return pa.struct([(name, _widened(kind, kinds.get(name))) for name, kind in _fields(found)])
    if t.is_timestamp(found) and t.is_timestamp(given):
        return given if (found.tz is None) == (given.tz is None) else found
    same = any(is_kind(found) and is_kind(given) for is_kind in (t.is_time, t.is_duration))
    return given if same else found


def _fields(struct: Any) -> list[tuple[str, Any]]:
    return [(field.name, field.type) for field in struct]


def _of_values(values: Any) -> Any:
    if hasattr(values, "to_arrow"):
        return values.to_arrow().type
    values = _array_of(values)
    if getattr(values, "ndim", 0) == 1 and str(getattr(values, "dtype", "")) == "object":
        # In a column of pandas a value that is NaN is missing.
        is_missing = hasattr(values, "index")
        values = [None if is_missing and isinstance(value, float) and value != value else value for value in values.tolist()]
    if _is_list(values):
        values = [_array_of(value) for value in values]
    arrays = values if _is_list(values) else [values]
    arrays = [value for value in arrays if value is not None]
    if arrays and all(getattr(value, "ndim", 0) > 1 and hasattr(value, "dtype") for value in arrays):
        # Rows of arrays: of a batch the first dimension is the rows.
        shapes = {value.shape if _is_list(values) else value.shape[1:] for value in arrays}
        return _of_arrays(arrays[0].dtype, shapes.pop() if len(shapes) == 1 else (None,) * (arrays[0].ndim - (not _is_list(values))))
    if not _is_list(values):
        return pa.array(values).type
    values = [_readable(value) for value in values]
    times = [value for value in values if value is not None]
    if times and all(type(value).__name__ in _NUMPY_TIMES and hasattr(value, "dtype") for value in times):
        return _of_times(max((value.dtype for value in times), key=lambda dtype: list(_UNITS).index(_unit(dtype))))
    return _checked(inferred(values), values)


def inferred(values: Sequence[Any]) -> Any:
    """The type of Python's values; whole numbers have one with room for them."""
    arrow = cast(Any, pa)
    try:
        return arrow.array(values).type
    except OverflowError:
        found = arrow.array([_with_decimals(value) for value in values]).type
        kind = _unsigned(found)
        with contextlib.suppress(pa.ArrowException, OverflowError, TypeError, ValueError):
            return arrow.array(values, kind).type
        return found


def _with_decimals(value: Any) -> Any:
    """`value` with decimals for the whole numbers that are too large for 64 bits."""
    if _is_mapping(value):
        return {key: _with_decimals(inner) for key, inner in value.items()}
    if _is_list(value):
        return [_with_decimals(inner) for inner in value]
    is_large = isinstance(value, numbers.Integral) and not -(2**63) <= int(value) < 2**63
    return decimal.Decimal(int(value)) if is_large else value


def _unsigned(found: Any) -> Any:
    """`found` with whole numbers of 64 bits without a sign where decimals are as short as these."""
    if t.is_decimal(found) and found.scale == 0 and found.precision <= 20:
        return pa.uint64()
    if t.is_struct(found):
        return pa.struct([(name, _unsigned(kind)) for name, kind in _fields(found)])
    return pa.list_(_unsigned(found.value_type)) if t.is_list(found) else found


def _checked(found: Any, values: list[Any]) -> Any:
    """`found`, where no number is taken for a date or a time: pyarrow counts those beside one."""
    worker = sys.modules.get("mobula_worker.exact")
    if worker is not None and _has_times(found):
        worker.check_values(values, found)
    return found


def _has_times(kind: Any) -> bool:
    return t.is_temporal(kind) or any(_has_times(inner) for inner in _inside(kind))


def _array_of(value: Any) -> Any:
    """What numpy has for a tensor of torch, an array of it in this machine's order of bytes, and None for
    what means missing."""
    if type(value).__name__ in _MISSING:
        return None
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if not hasattr(value, "ndim") or not hasattr(getattr(value, "dtype", None), "newbyteorder"):
        return value
    if value.ndim == 0:
        # A single value of numpy stays: its texts are Python's, which have no such index.
        return _array_of(value[()]) if type(value).__name__ in ("ndarray", "MaskedArray") else value
    return value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))


def _readable(value: Any) -> Any:
    """`value` as pyarrow reads it: lists for arrays of several dimensions, at every depth."""
    value = _array_of(value)
    if isinstance(value, pa.MonthDayNano):
        # An interval, which is a tuple too.
        return value
    if _is_mapping(value):
        return {key: _single(_readable(inner)) for key, inner in value.items()}
    dtype = getattr(value, "dtype", None)
    if _is_list(value) or getattr(value, "ndim", 0) > 1 or (getattr(value, "ndim", 0) == 1 and dtype == object):
        return [_single(_readable(inner)) for inner in value]
    if getattr(value, "ndim", 0) == 1 and getattr(dtype, "kind", "") in ("m", "M"):
        kind = _of_times(dtype)
        return value.astype("M8[D]").tolist() if t.is_date(kind) else value.astype(f"{cast(Any, dtype).kind}8[{kind.unit}]")
    return value


def _single(value: Any) -> Any:
    """A day of numpy as Python's, as pyarrow reads it inside of lists and dicts, too."""
    if type(value).__name__ != "datetime64" or not t.is_date(_of_times(value.dtype)):
        return value
    return value.astype("M8[D]").item()


def _unit(dtype: Any) -> str:
    return str(dtype).partition("[")[2].rstrip("]").lstrip("0123456789")


def _of_times(finest: Any) -> Any:
    """The type of single times of numpy, in the finest unit that there is."""
    unit: Any = _UNITS[_unit(finest)]
    if finest.kind == "m":
        return pa.duration("s" if unit == "D" else unit)
    return pa.date32() if unit == "D" else pa.timestamp(unit)


def _of_arrays(dtype: Any, shape: Sequence[int | None]) -> pa.DataType:
    """The type of a row that is an array: vectors are lists, which may have other lengths in the
    next batch; matrices and images are taken for what they are."""
    kind: Any = pa.from_numpy_dtype(dtype)
    for size in reversed(shape):
        # SQL has no arrays of no elements.
        kind = pa.list_(kind, size if size and len(shape) > 1 else -1)
    return kind


def _shape_of(values: Any) -> tuple[int, ...]:
    """The lengths of the lists, of lists in them and so on, where those of all values begin alike."""
    if values is None or not _is_list(values):
        return tuple(getattr(values, "shape", (0,)))[1:]
    shapes = {_shape(value) for value in values if value is not None}
    return shapes.pop() if len(shapes) == 1 else ()


def _shape(value: Any) -> tuple[int, ...]:
    if hasattr(value, "shape"):
        return tuple(value.shape)
    return (len(value), *(_shape(value[0]) if value else ())) if _is_list(value) else ()


def _open(schema: pa.Schema) -> bool:
    """Whether a type is not known yet: only None, or no element of a list, has been seen."""
    return not len(schema) or any(_unknown(kind) for kind in schema.types)


def _unknown(kind: pa.DataType) -> bool:
    return t.is_null(kind) or any(_unknown(inner) for inner in _inside(kind))


def _inside(kind: pa.DataType) -> list[pa.DataType]:
    """The types that a nested type is made of."""
    places = range(kind.num_fields)
    # Its stub says `Field`, of no type.
    inner: list[pa.Field[Any]] = [kind.field(place) for place in places]  # pyright: ignore[reportUnknownMemberType]
    return [field.type for field in inner]


# --- Values


def _frame(value: Any) -> pa.Table | None:
    """An Arrow table of a RecordBatch, Table or DataFrame; else None."""
    kind = _library(value)
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value])
    if isinstance(value, pa.Table):
        return value
    if kind == "pandas" and hasattr(value, "columns"):
        return pa.Table.from_pandas(value, preserve_index=False)
    if kind == "polars" and hasattr(value, "columns"):
        return value.to_arrow()
    return None


def _columns_of_objects(value: Any) -> dict[Any, Any]:
    """Those of a frame of pandas: its values may be lists with NaN, which pyarrow would take for missing."""
    if _library(value) != "pandas" or not hasattr(value, "columns") or not value.columns.is_unique:
        return {}
    return {name: value[name] for name in value.columns if str(value[name].dtype) == "object"}


def _is_relation(value: Any) -> bool:
    return _is_mapping(value) or _is_table(value)


def _is_table(value: Any) -> bool:
    return isinstance(value, (pa.RecordBatch, pa.Table)) or (_library(value) in ("pandas", "polars") and hasattr(value, "columns"))


def _library(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def _is_mapping(value: Any) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _row(value: Any) -> Any:
    """A row as a dict of its own: a dict, a dataclass or a NamedTuple; other values are left as they are."""
    if _is_mapping(value):
        return dict(value)
    if not isinstance(value, type) and hasattr(value, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    named: Any = getattr(value, "_asdict", None) if _is_list(value) else None
    return value if named is None else named()


def _noted(error: Exception, text: str) -> Exception:
    """`error`, whose report says `text` too."""
    with contextlib.suppress(Exception):
        error.__mobula_note__ = text  # pyright: ignore
    return error


def _is_several(value: Any) -> TypeGuard[Iterable[Any]]:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes))


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, (list, tuple))


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or "\0" in name:
        raise TypeError(f"gave the key {name!r}. Keys are the names of columns: texts without NUL")
    return name


def _named(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _listed(row: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, row)) or "none"
