"""Rows of this process as Arrow, whatever library holds them."""

from __future__ import annotations

import datetime
import numbers
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, cast

from . import sql_text
from .errors import QueryFailed

if TYPE_CHECKING:
    import pyarrow as pa

# Rows of a part of the file that the server reads: each can be a task's.
ROWS_OF_GROUP = 1 << 17
# About as many bytes travel to a server at once.
BYTES_OF_MESSAGE = 16 << 20
# Readers of pyarrow that were read.
_read: weakref.WeakSet[pa.RecordBatchReader] = weakref.WeakSet()


def reader_of(value: Any) -> Callable[[], pa.RecordBatchReader] | None:
    """What reads `value` as Arrow, if it holds rows; else `None`.

    pandas and polars frames, datasets of Hugging Face, and whatever has an Arrow C stream: pyarrow
    tables, batches and readers, DuckDB relations, other libraries.
    """
    kind = type(value).__module__.partition(".")[0]
    if kind == "pandas" and type(value).__name__ == "DataFrame":
        return lambda: _of_pandas(value)
    if kind == "polars" and type(value).__name__ == "LazyFrame":
        return lambda: _of_polars(value.collect())
    if kind == "polars" and type(value).__name__ == "DataFrame":
        return lambda: _of_polars(value)
    if kind == "pyarrow" and type(value).__name__ == "RecordBatch":
        return lambda: _of_batch(value)
    if kind == "pyarrow" and type(value).__name__ == "RecordBatchReader":
        return lambda: _of_reader(value)
    if kind == "datasets" and hasattr(value, "with_format") and hasattr(value, "iter"):
        return lambda: _of_huggingface(value)
    if hasattr(value, "__arrow_c_stream__") and not isinstance(value, type):
        return lambda: _of_stream(value)
    return None


def of_items(items: Sequence[Any]) -> pa.Table:
    """A table of dicts, or of single values in a column `item`, as Ray Data has it."""
    import pyarrow as pa

    rows = list(items)
    if not rows:
        raise QueryFailed("from_items without items: no columns are known. Give from_arrow an empty table")
    if not all(isinstance(row, Mapping) for row in rows):
        return pa.table({"item": _column("item", rows)})
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column(name, [row.get(name) for row in rows]) for name in names})


def _column(name: str, values: Sequence[Any]) -> pa.Array[Any]:
    import pyarrow as pa

    try:
        return of_values(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        kinds = ", ".join(sorted({type(value).__name__ for value in values if value is not None}))
        raise QueryFailed(
            f'the values of "{name}" have no type of Arrow in common: {error}. They are {kinds}: give one kind, or from_arrow a table'
        ) from error


def of_values(values: Sequence[Any]) -> pa.Array[Any]:
    """An Arrow array of Python's values. Times keep their nanoseconds, of which pyarrow does not look for those
    of pandas, and whole numbers beyond BIGINT have a type with room for them.

    Raises:
        QueryFailed: values among times that pyarrow would count or cut.
    """
    import pyarrow as pa

    arrow = cast(Any, pa)
    try:
        array = arrow.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        from .learning import inferred

        values = _plain_values(values)
        array = arrow.array(values, inferred(values))
    exact = _exact(array.type, values)
    return array if exact == array.type else arrow.array(values, exact)


def _plain_values(value: Any) -> Any:
    """None for what is missing in pandas, and Python's times for those of numpy whose unit Arrow has not."""
    if is_mapping(value):
        return {key: _plain_values(inner) for key, inner in value.items()}
    return [_plain_values(inner) for inner in value] if sql_text.is_list(value) else sql_text.plain(value)


def _exact(kind: Any, values: Iterable[Any]) -> Any:
    """The type that `values`, for which pyarrow found `kind`, have with all digits of their times."""
    import pyarrow as pa
    import pyarrow.types as t

    if t.is_list(kind):
        return pa.list_(_exact(kind.value_type, (inner for value in values if sql_text.is_list(value) for inner in value)))
    if t.is_struct(kind):
        rows = [value for value in values if is_mapping(value)]
        struct = cast(Any, kind)
        fields: list[Any] = [struct.field(place) for place in range(struct.num_fields)]
        return pa.struct([(field.name, _exact(field.type, (row.get(field.name) for row in rows))) for field in fields])
    if not t.is_temporal(kind) or t.is_interval(kind):
        return kind
    has_nanoseconds = False
    for value in values:
        if isinstance(value, numbers.Number) and type(value).__name__ != "timedelta64":
            raise QueryFailed(f"{value!r} stands among dates or times. Give values of one type")
        if isinstance(value, datetime.datetime) and t.is_date(kind) and (value.time() != datetime.time() or getattr(value, "nanosecond", 0)):
            raise QueryFailed(f"{value!r} stands among dates, which have no time of day. Give values of one type")
        if isinstance(value, datetime.time) and value.tzinfo is not None:
            raise QueryFailed(f"{value!r} has a zone, which times of day have not in SQL. Give it without")
        has_nanoseconds = has_nanoseconds or bool(getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0))
    if not has_nanoseconds or not (t.is_timestamp(kind) or t.is_duration(kind)):
        return kind
    return pa.timestamp("ns", kind.tz) if t.is_timestamp(kind) else pa.duration("ns")


def copied(frames: Any) -> Any:
    """Frames of their own: what is written into these later is not in their rows."""
    if sql_text.is_list(frames):
        return [copied(frame) for frame in frames]
    return frames.copy() if hasattr(frames, "copy") else frames


def of_numpy(arrays: Any) -> pa.Table:
    """A table of a dict of arrays, or of one array as the column `data`."""
    import pyarrow as pa

    columns: Mapping[str, Any] = arrays if is_mapping(arrays) else {"data": arrays}
    return pa.table({name: _array(values) for name, values in columns.items()})


class ArrowStream(Protocol):
    """What other libraries read as Arrow: tables and readers of pyarrow, frames of polars and pandas,
    relations of DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Whether it is a dict or the like, of whatever."""
    return isinstance(value, Mapping)


class Writer:
    """Writes rows where the server reads them. A context, whose end completes the file."""

    def __init__(self, schema: pa.Schema, path: str) -> None:
        import pyarrow.parquet as pq

        import pyarrow.types as t

        self._schema = _storable(schema)
        # Those of numbers leave out NaN, and readers pass over parts that have it.
        told: Any = [name for name, kind in zip(self._schema.names, self._schema.types) if not t.is_floating(kind)]
        self._file = pq.ParquetWriter(path, self._schema, compression="lz4", write_statistics=told)
        self._held: list[pa.RecordBatch] = []
        self._n_held = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Some rows more, which may wait until they fill a part of the file."""
        self._held.append(batch)
        self._n_held += batch.num_rows
        if self._n_held >= ROWS_OF_GROUP:
            self._flush()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._flush()
        finally:
            self._file.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._held:
            table = pa.Table.from_batches(self._held)
            self._held, self._n_held = [], 0
            self._file.write_table(table if table.schema.equals(self._schema) else table.cast(self._schema), ROWS_OF_GROUP)


def write(reader: pa.RecordBatchReader, path: str) -> None:
    """Writes all rows of `reader`."""
    with Writer(reader.schema, path) as writer:
        for batch in reader:
            writer.write(batch)


def sendable(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """The rows of `reader` in batches that fit the messages to a server."""
    import pyarrow as pa

    def pieces() -> Iterator[pa.RecordBatch]:
        # Of no batches the driver would send nothing, not even columns.
        yield pa.RecordBatch.from_pylist([], reader.schema)
        for batch in reader:
            n_pieces = max(batch.nbytes // BYTES_OF_MESSAGE, batch.num_rows // ROWS_OF_GROUP) + 1
            each = max(1, -(-batch.num_rows // n_pieces))
            for start in range(0, batch.num_rows, each):
                yield batch.slice(start, each)

    return pa.RecordBatchReader.from_batches(reader.schema, pieces())


def _storable(schema: pa.Schema) -> pa.Schema:
    """Types that a Parquet file keeps: no views, and dictionaries as what they hold."""
    import pyarrow as pa
    import pyarrow.types as t

    fields: list[tuple[str, pa.DataType]] = []
    for name, kind in zip(schema.names, schema.types):
        if t.is_dictionary(kind):
            kind = kind.value_type
        if t.is_string_view(kind):
            kind = pa.string()
        elif t.is_binary_view(kind):
            kind = pa.binary()
        fields.append((name, kind))
    return pa.schema(fields)


def _array(values: Any) -> pa.Array[Any]:
    import pyarrow as pa

    # The stubs know an array by the type of its values, which may be any here.
    arrow = cast(Any, pa)
    dtype: Any = getattr(values, "dtype", None)
    if getattr(dtype, "kind", "") in ("U", "S") and hasattr(values, "astype"):
        # pyarrow reads these up to their first NUL.
        values = values.astype(object)
    elif hasattr(dtype, "newbyteorder"):
        # A copy: what is written into the array later is not in these rows.
        values = values.astype(dtype.newbyteorder("="))
    if getattr(values, "ndim", 1) < 2:
        values = values.tolist() if dtype == object and not hasattr(values, "mask") else values
        return of_values(values) if sql_text.is_list(values) else arrow.array(values)
    if 0 in values.shape or values.dtype == object:
        return arrow.array(values.tolist())
    array = arrow.array(values.reshape(-1))
    for size in reversed(values.shape[1:]):
        array = arrow.FixedSizeListArray.from_arrays(array, size)
    return array


def _of_pandas(frame: Any) -> pa.RecordBatchReader:
    import pyarrow as pa

    for name, kind in frame.dtypes.items():
        if str(kind).startswith("period"):
            raise QueryFailed(f'column "{name}" has periods, which SQL does not have. Give its dt.to_timestamp(), or astype(str)')
    return pa.Table.from_pandas(frame, preserve_index=False).to_reader()


def _of_huggingface(dataset: Any) -> pa.RecordBatchReader:
    """Its rows in their order, as they are read; what is chosen and mapped of them, too."""
    import pyarrow as pa

    tables: Iterator[pa.Table] = iter(dataset.with_format("arrow").iter(batch_size=ROWS_OF_GROUP))
    first = next(tables, None)
    features = dataset.features
    if first is None and features is None:
        raise QueryFailed("a dataset without rows and without features: no columns are known")
    schema: pa.Schema = first.schema if first is not None else features.arrow_schema
    schema = _plain(schema)

    def batches() -> Iterator[pa.RecordBatch]:
        for table in [] if first is None else [first]:
            yield from table.cast(schema).to_batches()
        for table in tables:
            yield from table.cast(schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())


def _plain(schema: pa.Schema) -> pa.Schema:
    """Without notes of a library, and with values in place of types of its own."""
    import pyarrow as pa

    return pa.schema([(name, getattr(kind, "storage_type", kind)) for name, kind in zip(schema.names, schema.types)])


def _of_polars(frame: Any) -> pa.RecordBatchReader:
    """Categories are texts: those of polars are views, which pyarrow does not take out of dictionaries."""
    polars: Any = sys.modules["polars"]
    chosen = [polars.col(name).cast(polars.String) for name, kind in frame.schema.items() if kind in (polars.Categorical, polars.Enum)]
    return _of_stream(frame.with_columns(chosen))


def _of_reader(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """It can be read once: later it would have no rows, and nobody would be told."""
    if reader in _read:
        raise QueryFailed("this RecordBatchReader was read before, and has no rows any more. Give reader.read_all(), a table")
    _read.add(reader)
    return reader


def _of_batch(batch: pa.RecordBatch) -> pa.RecordBatchReader:
    import pyarrow as pa

    return pa.RecordBatchReader.from_batches(batch.schema, [batch])


def _of_stream(value: Any) -> pa.RecordBatchReader:
    import pyarrow as pa

    return pa.RecordBatchReader.from_stream(value)
