"""What reads a dataset: rows to Python, Arrow, pandas, polars, NumPy and files.

Nothing runs before one of these is called, and nothing is kept: each call runs the query
anew. Rows stream; only what is named `to_…` or `take…` holds all that it returns.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

from . import formats, pictures, sql_text, tensors
from .errors import NotSupported
from .steps import Rendering, Step, tree

if TYPE_CHECKING:
    import numpy as np
    import pandas
    import polars
    import pyarrow as pa

    from .connection import Connection
    from .local_rows import ArrowStream

_COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}

class Text(str):
    """A text that shows itself as it is, in a notebook too."""

    def __repr__(self) -> str:
        return str(self)


class Count:
    """Who is told which rows a reader has been given; here nobody."""

    def given(self, rows: pa.Table | pa.RecordBatch, start: int, stop: int) -> None:
        """Those of `rows` from `start` on, before `stop`."""

    def through(self) -> None:
        """There are no more."""


class Streamed:
    """What has rows that can be streamed, again and again."""

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        """Rows as dicts, as they come."""
        batches, count = self._read(True)
        for batch in batches:
            for at, row in enumerate(formats.rows_of(batch)):
                count.given(batch, at, at + 1)
                yield row
        count.through()

    def iter_batches(
        self,
        *,
        prefetch_batches: int = 1,
        batch_size: int | None = 256,
        batch_format: str | None = "default",
        drop_last: bool = False,
        local_shuffle_buffer_size: int | None = None,
        local_shuffle_seed: int | None = None,
    ) -> Iterator[Any]:
        """Batches of `batch_size` rows as they come; `None`: as the engine cuts them.

        No more is held than a batch and what is on its way: the query waits for a slow reader.
        Leaving the loop ends the query.

        Args:
            prefetch_batches: means nothing here: what is on its way is prefetched.
            batch_format: `"numpy"` (a dict of arrays), `"pandas"`, `"polars"` or `"pyarrow"`.
            drop_last: leave out a last batch with fewer rows.
            local_shuffle_buffer_size: draw each row from at least so many, as they come. With
                `local_shuffle_seed` it draws the same way for rows that come the same way.

        >>> [len(batch["id"]) for batch in mobula.range(5).iter_batches(batch_size=2)]
        [2, 2, 1]
        """
        kind = formats.check(batch_format)
        formats.check_installed(kind)
        return self._made(
            lambda table: formats.converted(table, kind), 0, batch_size, drop_last, local_shuffle_buffer_size, local_shuffle_seed
        )

    def iter_torch_batches(
        self,
        *,
        prefetch_batches: int = 1,
        batch_size: int | None = 256,
        dtypes: Any = None,
        device: Any = "auto",
        collate_fn: Callable[[dict[str, np.ndarray]], Any] | None = None,
        drop_last: bool = False,
        local_shuffle_buffer_size: int | None = None,
        local_shuffle_seed: int | None = None,
        pin_memory: bool = False,
    ) -> Iterator[Any]:
        """Batches as dicts of torch tensors, one a column; lists of one length are the rows of a matrix.

        Args:
            prefetch_batches: so many are read, and made by a thread, before they are asked for; 0 gives
                each as it comes.
            dtypes: a torch dtype for all columns, or a dict of them by name.
            device: where tensors go; `"auto"` is torch's default device.
            collate_fn: called with a dict of NumPy arrays in place of all that: what it returns is
                given as it is.
            pin_memory: in memory that is copied to a GPU without waiting.

        The others are those of `iter_batches`.

        Raises:
            NotSupported: torch is not installed.
            ValueError: a column has NULLs, texts or lists of several lengths, and there is no `collate_fn`.
        """
        if prefetch_batches < 0:
            raise ValueError(f"prefetch_batches is {prefetch_batches}. Give 0 or more")
        if collate_fn is not None and (dtypes is not None or device != "auto" or pin_memory):
            raise ValueError("dtypes, device and pin_memory are for batches without a collate_fn")
        collate = tensors.of_arrays(collate_fn) if collate_fn else tensors.to_tensors(dtypes, device, pin_memory)
        return self._made(collate, prefetch_batches, batch_size, drop_last, local_shuffle_buffer_size, local_shuffle_seed)

    def _made(
        self,
        make: Callable[[pa.Table], Any],
        prefetch_batches: int,
        batch_size: int | None,
        drop_last: bool,
        buffer_size: int | None,
        seed: int | None,
    ) -> Iterator[Any]:
        """What `make` makes of each batch."""
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}. Give 1 or more, or None")
        if buffer_size is not None and (batch_size is None or buffer_size < 1):
            raise ValueError("local_shuffle_buffer_size is a number of rows, from 1, and needs a batch_size")
        batches, count = self._read(buffer_size is None)
        if buffer_size is not None:
            batches = formats.shuffled(batches, buffer_size, seed)
        tables = formats.rebatched(batches, batch_size, drop_last)
        with contextlib.closing(tensors.made_ahead(tables, lambda table: (table, make(table)), prefetch_batches)) as ahead:
            for table, batch in ahead:
                count.given(table, 0, table.num_rows)
                yield batch
        count.through()

    def _read(self, is_exact: bool) -> tuple[Iterator[pa.RecordBatch], Count]:
        """The rows, and who counts those that are given. Not `is_exact`: these come in another order."""
        return self._stream()[1], Count()

    def _stream(self) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        raise NotImplementedError


class Results(Streamed):
    """The reading half of `Dataset`."""

    _connection: Connection
    _step: Step

    def to_sql(self) -> str:
        """The query that reading this runs, with values as literals. Declares its functions
        on the server, which has the last 256 of a connection."""
        with Rendering(self._connection) as query:
            return query.values.as_literals(query.query(self._step))

    # --- Rows in Python

    def take(self, limit: int = 20) -> list[dict[str, Any]]:
        """The first `limit` rows, as dicts. Scans and workers stop when they are there.

        >>> mobula.range(1_000_000).take(2)
        [{'id': 0}, {'id': 1}]
        """
        return formats.rows_of(self._limited(limit).to_arrow())

    def take_all(self, limit: int | None = None) -> list[dict[str, Any]]:
        """All rows as dicts. `limit`: more rows than this are a `ValueError`."""
        rows = (self if limit is None else self._limited(limit + 1)).to_arrow()
        if limit is not None and rows.num_rows > limit:
            raise ValueError(f"the dataset has more than {limit} rows. Use take({limit}), or a higher limit")
        return formats.rows_of(rows)

    def take_batch(self, batch_size: int = 20, *, batch_format: str | None = "default") -> Any:
        """The first `batch_size` rows as one batch.

        >>> mobula.range(3).take_batch(2)
        {'id': array([0, 1])}
        """
        kind = formats.check(batch_format)
        formats.check_installed(kind)
        return formats.converted(self._limited(batch_size).to_arrow(), kind)

    def show(self, limit: int = 20) -> None:
        """Prints the first `limit` rows, one a line."""
        for row in self.take(limit):
            print(row)

    # --- All rows at once

    def to_arrow(self) -> pa.Table:
        """All rows as an Arrow table."""
        with Rendering(self._connection) as query:
            return self._connection._table(query.query(self._step), query.values)

    def to_pandas(self, limit: int | None = None) -> pandas.DataFrame:
        """All rows as a pandas DataFrame. `limit`: more rows than this are a `ValueError`."""
        formats.check_installed("pandas")
        rows = (self if limit is None else self._limited(limit + 1)).to_arrow()
        if limit is not None and rows.num_rows > limit:
            raise ValueError(f"the dataset has more than {limit} rows. Use limit({limit}), or a higher limit")
        return formats.converted(rows, "pandas")

    def to_polars(self) -> polars.DataFrame:
        """All rows as a polars DataFrame."""
        formats.check_installed("polars")
        return formats.converted(self.to_arrow(), "polars")

    def to_numpy(self) -> dict[str, np.ndarray]:
        """All rows as one array a column; masked where numbers are NULL."""
        formats.check_installed("numpy")
        return formats.converted(self.to_arrow(), "numpy")

    def to_arrow_reader(self) -> pa.RecordBatchReader:
        """The rows as a stream that other libraries read: DuckDB, polars, pyarrow.dataset."""
        import pyarrow as pa

        return pa.RecordBatchReader.from_batches(*self._stream())

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The Arrow C stream: `polars.DataFrame(ds)`, `pyarrow.table(ds)`, `duckdb.sql("FROM ds")`."""
        # Its stub says no types of it.
        return cast("ArrowStream", self.to_arrow_reader()).__arrow_c_stream__(requested_schema)

    # --- About it

    def count(self) -> int:
        """How many rows there are.

        >>> mobula.range(7).count()
        7
        """
        with Rendering(self._connection) as query:
            name = query.name_of(self._step)
            return self._connection._value(query.over(f"SELECT count(*) FROM {name}"), query.values)

    def schema(self) -> pa.Schema:
        """Names and types of the columns. Runs nothing, but for code whose types nobody said."""
        return self._connection._link.schema(self.to_sql())

    def columns(self) -> list[str]:
        """Names of the columns."""
        return self.schema().names

    def explain(self, *, analyze: bool = False, format: Literal["text", "svg"] = "text") -> str:
        """The plan as the server makes it.

        Args:
            analyze: runs it, with rows and times.
            format: `"svg"` is a picture of the physical plan, which a notebook shows; each of its
                operators says all that the text has where the mouse rests on it.
        """
        if format not in ("text", "svg"):
            raise ValueError(f'format={format!r}: there are "text" and "svg"')
        words = "EXPLAIN ANALYZE" if analyze else "EXPLAIN"
        table = self._connection._table(f"{words} {self.to_sql()}")
        rows = table.to_pylist()
        if format == "svg":
            # The logical plan comes before it, how files are read after it.
            physical = next(row["plan"] for row in rows if row["plan_type"] in ("physical_plan", "Plan with Metrics"))
            return pictures.drawn(physical)
        return Text("\n".join(f"{row['plan_type']}\n{row['plan']}" for row in rows))

    def stats(self) -> str:
        """What each operator did: runs the query, and drops its rows."""
        return self.explain(analyze=True)

    # --- Files

    def write_parquet(self, path: str | os.PathLike[str]) -> int:
        """Writes the rows as Parquet, and returns how many.

        `path`: a file if it ends in `.parquet`, else a directory, which gets several. The
        server writes, and reads the path where it runs.
        """
        return self._write(path, "PARQUET")

    def write_csv(self, path: str | os.PathLike[str]) -> int:
        """Writes the rows as CSV with a header; otherwise as `write_parquet`. A file whose name
        ends in `.gz`, `.bz2`, `.xz` or `.zst` is compressed so."""
        return self._write(path, "CSV")

    def write_json(self, path: str | os.PathLike[str]) -> int:
        """Writes the rows as JSON, one a line; otherwise as `write_csv`."""
        return self._write(path, "JSON")

    def _write(self, path: str | os.PathLike[str], kind: str) -> int:
        target = self._connection._path(path)
        if not os.path.splitext(target)[1] and not target.endswith("/"):
            target += "/"
        with Rendering(self._connection) as query:
            rows = query.query(self._step)
            compression = _COMPRESSIONS.get(os.path.splitext(target)[1]) if kind != "PARQUET" else None
            options = f" OPTIONS ('format.compression' '{compression}')" if compression else ""
            copy = f"COPY ({rows}) TO {sql_text.string(target)} STORED AS {kind}{options}"
            return self._connection._link.run(copy, query.values.row())

    def __repr__(self) -> str:
        return f"Dataset\n{tree(self._step, 1)}"

    def __iter__(self) -> Iterator[Any]:
        raise NotSupported("a dataset has rows and batches. Use iter_rows() or iter_batches()")

    def _limited(self, limit: int) -> Results:
        raise NotImplementedError

    def _stream(self) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        with Rendering(self._connection) as query:
            schema, batches = self._connection._link.stream(query.query(self._step), query.values.row())
            return schema, _held(self, batches)


def _held(dataset: Results, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Rows that were kept for a dataset are there until they are read."""
    yield from batches
    del dataset
