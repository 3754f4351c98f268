"""The functions of the module itself, on a connection that is made at the first use."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .connection import Connection, connect
from .dataset import Dataset
from .sources import Paths

if TYPE_CHECKING:
    import numpy as np
    import pandas
    import polars

    from .local_rows import ArrowStream
    from .schemas import Schema

_lock = threading.Lock()
_made: tuple[int, Connection] | None = None


def default_connection() -> Connection:
    """The connection of `mobula.sql`, `mobula.read_parquet` and the like.

    An embedded engine, started at the first call and again after it was closed. `MOBULA_URL`
    names a server instead.
    """
    global _made
    with _lock:
        # A forked child must not speak over its parent's connection.
        if _made is None or _made[0] != os.getpid() or not _made[1]._end.alive:
            _made = (os.getpid(), connect(os.environ.get("MOBULA_URL")))
        return _made[1]


def sql(query: str, /, **values: Any) -> Dataset:
    """`Connection.sql` of the default connection."""
    return default_connection().sql(query, **values)


def read_parquet(paths: Paths, *, columns: str | Sequence[str] | None = None) -> Dataset:
    """`Connection.read_parquet` of the default connection."""
    return default_connection().read_parquet(paths, columns=columns)


def read_csv(
    paths: Paths,
    *,
    columns: str | Sequence[str] | None = None,
    schema: Schema | None = None,
    header: bool | None = None,
    delimiter: str | None = None,
    quote: str | None = None,
    escape: str | None = None,
    comment: str | None = None,
    newlines_in_values: bool | None = None,
    compression: str | None = None,
) -> Dataset:
    """`Connection.read_csv` of the default connection."""
    return default_connection().read_csv(
        paths,
        columns=columns,
        schema=schema,
        header=header,
        delimiter=delimiter,
        quote=quote,
        escape=escape,
        comment=comment,
        newlines_in_values=newlines_in_values,
        compression=compression,
    )


def read_json(
    paths: Paths,
    *,
    columns: str | Sequence[str] | None = None,
    schema: Schema | None = None,
    compression: str | None = None,
) -> Dataset:
    """`Connection.read_json` of the default connection."""
    return default_connection().read_json(paths, columns=columns, schema=schema, compression=compression)


def read_text(
    paths: Paths, *, encoding: str = "utf-8", drop_empty_lines: bool = True, concurrency: int | None = None
) -> Dataset:
    """`Connection.read_text` of the default connection."""
    return default_connection().read_text(paths, encoding=encoding, drop_empty_lines=drop_empty_lines, concurrency=concurrency)


def read_binary_files(paths: Paths, *, include_paths: bool = False, concurrency: int | None = None) -> Dataset:
    """`Connection.read_binary_files` of the default connection."""
    return default_connection().read_binary_files(paths, include_paths=include_paths, concurrency=concurrency)


def read_images(
    paths: Paths, *, size: tuple[int, int], mode: str = "RGB", include_paths: bool = False, concurrency: int | None = None
) -> Dataset:
    """`Connection.read_images` of the default connection."""
    return default_connection().read_images(paths, size=size, mode=mode, include_paths=include_paths, concurrency=concurrency)


def range(n: int) -> Dataset:
    """`Connection.range` of the default connection."""
    return default_connection().range(n)


def from_arrow(tables: ArrowStream | Sequence[ArrowStream]) -> Dataset:
    """`Connection.from_arrow` of the default connection."""
    return default_connection().from_arrow(tables)


def from_pandas(dfs: pandas.DataFrame | Sequence[pandas.DataFrame]) -> Dataset:
    """`Connection.from_pandas` of the default connection."""
    return default_connection().from_pandas(dfs)


def from_polars(dfs: polars.DataFrame | polars.LazyFrame | Sequence[polars.DataFrame]) -> Dataset:
    """`Connection.from_polars` of the default connection."""
    return default_connection().from_polars(dfs)


def from_huggingface(dataset: Any) -> Dataset:
    """`Connection.from_huggingface` of the default connection."""
    return default_connection().from_huggingface(dataset)


def from_items(items: Sequence[Any]) -> Dataset:
    """`Connection.from_items` of the default connection."""
    return default_connection().from_items(items)


def from_numpy(ndarrays: np.ndarray | Mapping[str, np.ndarray]) -> Dataset:
    """`Connection.from_numpy` of the default connection."""
    return default_connection().from_numpy(ndarrays)
