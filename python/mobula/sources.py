"""Where datasets come from: files, tables and rows of this process.

Files are read where the engine or its workers run; rows of this process are brought there at
their first use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

from . import arguments, files, local_rows, readers, sql_text
from .local_rows import ArrowStream
from .schemas import Schema
from .steps import Query, Step

if TYPE_CHECKING:
    import numpy as np
    import pandas
    import polars

    from .dataset import Dataset
    from .engine import Engine

Paths = Union[str, "os.PathLike[str]", "Sequence[str | os.PathLike[str]]"]


class Sources:
    """What of `Connection` makes datasets."""

    _engine: Engine | None

    def table(self, name: str) -> Dataset:
        """A table or view of the server, by its name as SQL has it."""
        return self._dataset(Query(f"SELECT * FROM {name}"))

    def read_parquet(self, paths: Paths, *, columns: str | Sequence[str] | None = None) -> Dataset:
        """The rows of Parquet files: paths or URLs of files, directories or patterns.

        The server reads them: relative paths are made absolute here if it is of one's own.
        """
        return self._read("read_parquet", paths, columns, {})

    def read_csv(
        self,
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
        infer_rows: int | None = None,
    ) -> Dataset:
        """The rows of CSV files, whatever they end in; paths as those of `read_parquet`. Of a
        directory it is those that end in `.csv`, or so and as compressed files do.

        Args:
            columns: those that are read, by name.
            schema: names and types of all columns of the files, in their order; otherwise the header
                and the first rows say them. Values that do not fit are errors, never cut.
            header: whether the first line has names; without, columns are `column_1`, …
            delimiter, quote, escape, comment: one ASCII character each; `,` and `"` unless said.
            newlines_in_values: quoted values may have line breaks.
            compression: `"gzip"`, `"bzip2"`, `"xz"`, `"zstd"`, `"uncompressed"`; otherwise the file's
                ending says it.
            infer_rows: by how many first rows columns are found; unless said 10,000, or the first 4 MB, but
                not less than 1,000.

        Raises:
            TypeError, ValueError: an option has no such value.
        """
        options = dict(header=header, delimiter=delimiter, quote=quote, escape=escape, comment=comment)
        more = dict(newlines_in_values=newlines_in_values, compression=compression, infer_rows=infer_rows)
        return self._read("read_csv", paths, columns, {**options, **more, "schema": schema})

    def read_json(
        self,
        paths: Paths,
        *,
        columns: str | Sequence[str] | None = None,
        schema: Schema | None = None,
        compression: str | None = None,
        infer_rows: int | None = None,
    ) -> Dataset:
        """The rows of files with a JSON object a line, or one array of them; arguments as those of
        `read_csv`. Keys that are not in `schema` are left out; without it they are errors where they
        come after the first rows and all columns are asked for."""
        options = {"compression": compression, "schema": schema, "infer_rows": infer_rows}
        return self._read("read_json", paths, columns, options)

    def read_text(
        self, paths: Paths, *, encoding: str = "utf-8", drop_empty_lines: bool = True, concurrency: int | None = None
    ) -> Dataset:
        """The lines of text files, in a column `text`, those of a file in their order.

        Workers read them, where they run: paths of files, directories and all below them, or
        patterns. No URLs.
        """
        return self._of_files(paths, concurrency, files.line_reader(encoding, drop_empty_lines), {"text": str})

    def read_binary_files(self, paths: Paths, *, include_paths: bool = False, concurrency: int | None = None) -> Dataset:
        """A row for each file, with its `bytes` and, if asked for, its `path`; paths as those of
        `read_text`."""
        schema = {"bytes": bytes, "path": str} if include_paths else {"bytes": bytes}
        return self._of_files(paths, concurrency, files.file_reader(include_paths), schema)

    def read_images(
        self,
        paths: Paths,
        *,
        size: tuple[int, int],
        mode: str = "RGB",
        include_paths: bool = False,
        concurrency: int | None = None,
    ) -> Dataset:
        """A row for each image file, with its `image` and, if asked for, its `path`; paths as those
        of `read_text`, where of directories only files count that end as images do.

        An image has `size`, its height and width in pixels, to which larger and smaller ones are
        brought, and a mode of Pillow's whose numbers are bytes. A batch of them is an array of
        shape (rows, height, width, channels), without channels where there is one (`"L"`).
        Pillow and NumPy have to be there where workers run.

        Raises:
            ValueError: no such size or mode. FunctionFailed, when it runs: a file is no image.
        """
        schema = {"image": files.image_type(size, mode)}
        read = files.image_reader(size, mode, include_paths)
        columns = schema | {"path": str} if include_paths else schema
        return self._of_files(paths, concurrency, read, columns, files.IMAGES, files.IMAGE_ENDINGS)

    def range(self, n: int) -> Dataset:
        """The numbers from 0 to `n - 1` in a column `id`.

        >>> mobula.range(2).take()
        [{'id': 0}, {'id': 1}]
        """
        if n < 0:
            raise ValueError(f"range of {n} rows")
        # A series cannot be empty.
        limit = " LIMIT 0" if n == 0 else ""
        return self._dataset(Query(f"SELECT value AS id FROM generate_series(0, {max(n - 1, 0)}){limit}"))

    def from_arrow(self, tables: ArrowStream | Sequence[ArrowStream]) -> Dataset:
        """Rows of a pyarrow Table, RecordBatch or reader, or of anything with an Arrow C
        stream, or of a list of those."""
        return self._of_tables(tables)

    def from_pandas(self, dfs: pandas.DataFrame | Sequence[pandas.DataFrame]) -> Dataset:
        """Rows that pandas DataFrames have now, without their index."""
        return self._of_tables(local_rows.copied(dfs))

    def from_polars(self, dfs: polars.DataFrame | polars.LazyFrame | Sequence[polars.DataFrame]) -> Dataset:
        """Rows of polars DataFrames."""
        return self._of_tables(dfs)

    def from_huggingface(self, dataset: Any) -> Dataset:
        """Rows of a `datasets.Dataset` or `datasets.IterableDataset` of Hugging Face: of one split."""
        step = self._relation("from_huggingface", dataset)
        if step is None:
            splits = f": choose one of its splits, {', '.join(map(repr, dataset))}" if local_rows.is_mapping(dataset) else ""
            raise TypeError(f"{type(dataset).__name__} is no dataset of Hugging Face{splits}")
        return self._dataset(step)

    def from_items(self, items: Sequence[Any]) -> Dataset:
        """A row for each dict, or for each value in a column `item`.

        >>> mobula.from_items([{"a": 1}, {"a": None, "b": "x"}]).take()
        [{'a': 1, 'b': None}, {'a': None, 'b': 'x'}]
        """
        return self.from_arrow(local_rows.of_items(items))

    def from_numpy(self, ndarrays: np.ndarray | Mapping[str, np.ndarray]) -> Dataset:
        """Rows of an array, in a column `data`, or of a dict of arrays."""
        return self.from_arrow(local_rows.of_numpy(ndarrays))

    def _of_tables(self, tables: Any) -> Dataset:
        if sql_text.is_list(tables):
            return _united([self._of_tables(table) for table in tables])
        step = self._relation("from_arrow", tables)
        if step is None:
            raise TypeError(f"{type(tables).__name__} is no Arrow table and has no __arrow_c_stream__")
        return self._dataset(step)

    def _read(
        self, reader: str, paths: Paths, columns: str | Sequence[str] | None, options: Mapping[str, Any]
    ) -> Dataset:
        chosen = "*" if columns is None else sql_text.names(arguments.column_names(f"columns of {reader}", columns))
        said = readers.options(reader, options)
        found: list[Dataset] = []
        for path in arguments.paths(f"paths of {reader}", paths):
            location = self._path(path)
            is_folder = self._engine is not None and os.path.isdir(location)
            for place in readers.inside(location, reader, options.get("compression")) if is_folder else [location]:
                found.append(self._dataset(Query(f"SELECT {chosen} FROM {readers.call(reader, place, said)}")))
        return _united(found)

    def _of_files(
        self,
        paths: Paths,
        concurrency: int | None,
        read: Callable[..., Any],
        schema: Mapping[str, Any],
        files_at_once: int = 1,
        endings: tuple[str, ...] = (),
    ) -> Dataset:
        asked = (f"({sql_text.string(self._path(path))})" for path in arguments.paths("paths", paths))
        rows = self._dataset(Query(f"SELECT path FROM (VALUES {', '.join(asked)}) AS asked(path)"))
        found = rows.flat_map(files.finder(endings), schema={"path": str}).repartition(files.STREAMS)
        return found.map_batches(read, batch_format="pyarrow", batch_size=files_at_once, concurrency=concurrency, schema=schema)

    def _dataset(self, step: Step) -> Dataset:
        raise NotImplementedError

    def _path(self, path: str | os.PathLike[str]) -> str:
        """A path as the server has it."""
        raise NotImplementedError

    def _relation(self, name: str, value: Any) -> Step | None:
        """What a value stands for in FROM, if it holds rows."""
        raise NotImplementedError


def _united(datasets: list[Dataset]) -> Dataset:
    if not datasets:
        raise ValueError("an empty list has no rows and no columns")
    return datasets[0].union(*datasets[1:])
