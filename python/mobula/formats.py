"""Batches of rows in the form that was asked for: what workers get, the client gets alike.

`"numpy"` (the default): a dict of arrays, masked where there are NULLs and a number cannot
say so. `"pyarrow"`: a Table. `"pandas"`, `"polars"`: a DataFrame.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from .errors import QueryFailed

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

FORMATS = ("default", "numpy", "pandas", "pyarrow", "polars")


def check(batch_format: str | None, *, of_workers: bool = False) -> str:
    """The format by its own name. Workers have `"rows"` too, a list of dicts.

    Raises:
        ValueError: there is no such format.
    """
    if batch_format in (None, "default"):
        return "numpy"
    there = (*FORMATS, "rows") if of_workers else FORMATS
    if batch_format not in there:
        raise ValueError(f"batch_format is {batch_format!r}. There are {', '.join(there)}")
    return batch_format


def converted(table: pa.Table, batch_format: str) -> Any:
    """A table in another form."""
    if batch_format == "pyarrow":
        return table
    check_installed(batch_format)
    if batch_format == "pandas":
        # Its stub says `list`, of no type.
        return table.to_pandas()  # pyright: ignore[reportUnknownMemberType]
    if batch_format == "polars":
        import polars

        # Its hints speak of Arrow's arrays, of no type.
        return polars.from_arrow(table)  # pyright: ignore[reportUnknownMemberType]
    return {name: to_numpy(column) for name, column in zip(table.schema.names, table.columns)}


def rows_of(table: Any) -> list[dict[str, Any]]:
    """Rows as dicts of Python's own values. Nanoseconds are pandas', where it is installed, and else cut.

    Raises:
        QueryFailed: there is no such value, such as a day after the year 9999.
    """
    try:
        return table.to_pylist()
    except (ValueError, OverflowError):
        names: list[str] = table.schema.names
        values = [values_of(table.column(place), name) for place, name in enumerate(names)]
        return [dict(zip(names, row)) for row in zip(*values)]


def values_of(column: Any, name: str) -> list[Any]:
    """The values of one column, as `rows_of` has them."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError) as error:
        kind = _in_microseconds(column.type)
        failed: Exception = error
        if kind != column.type:
            try:
                return column.cast(kind, safe=False).to_pylist()
            except (ValueError, OverflowError) as still:
                failed = still
        raise QueryFailed(f'column "{name}" ({column.type}) has a value that Python has not: {failed}. Read it with to_arrow(), or CAST it') from None


def _in_microseconds(kind: Any) -> Any:
    import pyarrow
    import pyarrow.types as t

    # Its stub knows lists by the type of their values, which may be any here.
    pa = cast(Any, pyarrow)
    if t.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if t.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if t.is_struct(kind):
        fields: list[Any] = list(kind)
        return pa.struct([field.with_type(_in_microseconds(field.type)) for field in fields])
    if t.is_fixed_size_list(kind):
        return pa.list_(_in_microseconds(kind.value_type), kind.list_size)
    return pa.list_(_in_microseconds(kind.value_type)) if t.is_list(kind) else kind


def check_installed(package: str) -> None:
    """Imports what rows of this format need, before a query runs for them.

    Raises:
        ImportError: it is not installed.
    """
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"rows in the form of {package} need it: {error}. Install it: {sys.executable} -m pip install {package},"
            ' or take Arrow\'s: batch_format="pyarrow", to_arrow()'
        ) from error


def to_numpy(column: pa.ChunkedArray[Any]) -> np.ndarray:
    """A column as an array; where numbers, truths or times are NULL it is masked. Lists of one
    length by their type, with all their numbers there, are the rows of a matrix."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.types as t

    kind = column.type
    plain = t.is_integer(kind) or t.is_boolean(kind) or t.is_floating(kind)
    if t.is_fixed_size_list(kind) and column.null_count == 0:
        return _matrix(column)
    if column.null_count == 0 or not plain:
        return column.to_numpy()
    filled = column.fill_null(pa.scalar(False if t.is_boolean(kind) else 0, kind))
    return np.ma.MaskedArray(filled.to_numpy(), mask=column.is_null().to_numpy())


def _matrix(column: pa.ChunkedArray[Any]) -> np.ndarray:
    import numpy as np
    import pyarrow.types as t

    kind: pa.DataType = column.type
    chunks: list[Any] = column.chunks
    shape: list[int] = [len(column)]
    while t.is_fixed_size_list(kind) and not any(chunk.null_count for chunk in chunks):
        shape.append(kind.list_size)
        kind, chunks = kind.value_type, [chunk.flatten() for chunk in chunks]
    numbers = t.is_integer(kind) or t.is_floating(kind)
    if not numbers or 0 in shape[1:] or any(chunk.null_count for chunk in chunks):
        return column.to_numpy()
    parts = [chunk.to_numpy() for chunk in chunks] or [np.empty(0, kind.to_pandas_dtype())]
    return np.reshape(np.concatenate(parts), shape)


def shuffled(batches: Iterator[pa.RecordBatch], buffer_rows: int, seed: int | None) -> Iterator[pa.RecordBatch]:
    """The same rows, each drawn from at least `buffer_rows` that are held, until the end comes.

    Twice as many are held before some are given, so that each row is moved twice on average.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    draw = random.Random(seed)

    def drawn(held: list[pa.RecordBatch]) -> pa.Table:
        rows = pa.Table.from_batches(held)
        numbers = pc.random(rows.num_rows, initializer=draw.getrandbits(63))
        # Its stub speaks of arrays, of no type.
        order = pc.sort_indices(numbers)  # pyright: ignore[reportUnknownMemberType]
        return rows.take(order)

    held: list[pa.RecordBatch] = []
    n_held = 0
    for batch in batches:
        held.append(batch)
        n_held += batch.num_rows
        if n_held >= 2 * buffer_rows:
            rows = drawn(held)
            yield from rows.slice(0, n_held - buffer_rows).to_batches()
            held, n_held = rows.slice(n_held - buffer_rows).to_batches(), buffer_rows
    if held:
        yield from drawn(held).to_batches()


def rebatched(batches: Iterator[pa.RecordBatch], rows: int | None, drop_last: bool) -> Iterator[pa.Table]:
    """Tables of `rows` rows, the last one perhaps with fewer; `None`: as the rows come."""
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    n_held = 0
    for batch in batches:
        if rows is None:
            if batch.num_rows:
                yield pa.Table.from_batches([batch])
            continue
        start = 0
        while n_held + batch.num_rows - start >= rows:
            taken = rows - n_held
            held.append(batch.slice(start, taken))
            yield pa.Table.from_batches(held)
            start, held, n_held = start + taken, [], 0
        if start < batch.num_rows:
            held.append(batch.slice(start))
            n_held += batch.num_rows - start
    if held and not drop_last:
        yield pa.Table.from_batches(held)
