"""`mobula.connect()`: an engine of one's own, or a server.

A `Connection` makes datasets, runs statements, and gives DB-API's and ADBC's objects of the
same session: settings made in one are seen in all.
"""

from __future__ import annotations

import glob
import importlib
import os
import re
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

from . import alive, files, local_rows, sql_text
from .bound import Values
from .dataset import Dataset
from .declared import functions_of, in_scope, is_func
from .errors import NotSupported, QueryFailed
from .functions import Functions
from .link import Link
from .local_rows import ArrowStream
from .mending import Mending
from .schemas import Schema, columns_of
from .steps import Local, Query, Step

if TYPE_CHECKING:
    import adbc_driver_manager.dbapi
    import numpy as np
    import pandas
    import polars
    import pyarrow as pa

    from .engine import Engine

# As the engine has them.
_EXECUTORS_MAX = 1024
_SETTING = re.compile("[a-z][a-z0-9_]*")

Paths = Union[str, "os.PathLike[str]", "Sequence[str | os.PathLike[str]]"]


def connect(
    url: str | None = None,
    *,
    executors: int = 0,
    data_dir: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
    progress: bool | None = None,
) -> Connection:
    """Starts an engine of one's own, or connects to a server.

    Args:
        url: `grpc://HOST:PORT` or `grpc+tls://USER:PASSWORD@HOST:PORT`. Without it an engine
            starts, which ends with this connection or this process.
        executors: of an engine of one's own: processes that do the work, as on a cluster;
            0: one process does all.
        data_dir: of an engine of one's own: where tables and functions are kept.
        settings: as in docs/settings.md, without `mobula.`; of a server those of a session.
        options: of the ADBC driver, such as certificates.
        progress: whether a line shows how far a statement is that takes longer than two seconds;
            `None`: in notebooks, and where standard error is a terminal.

    Raises:
        ValueError: a number of executors or the name of a setting that there cannot be.
        EngineFailed: the engine does not start.
        ConnectionFailed: no server answers.
        LoginFailed: it does not know the user.

    >>> with mobula.connect() as con:
    ...     con.sql("SELECT 6 * $n AS answer", n=7).take()
    [{'answer': 42}]
    """
    _check(executors, settings or {})
    if url is None:
        from .engine import Engine

        engine = Engine(executors, settings, data_dir)
        # While it starts, what the first query needs is imported.
        importlib.import_module("pyarrow")
        return Connection(Link(engine.wait(), token=engine.token, options=options, progress=progress), engine)
    if executors or data_dir is not None:
        raise ValueError("executors and data_dir are of an engine of one's own. A server has what it was started with")
    changes = [f"SET mobula.{key} = {sql_text.string(str(value))}" for key, value in (settings or {}).items()]
    made = Connection(Link(url, options=options, progress=progress), None, changes)
    try:
        # The driver connects at the first call: say now what is wrong with the URL.
        made._table("SELECT 1")
        for change in changes:
            made.execute(change)
    except BaseException:
        made.close()
        raise
    return made


class Connection:
    """A session of an engine or a server. Closes what it opened when it is closed, when
    nobody has it any more, and when Python ends."""

    def __init__(self, link: Link, engine: Engine | None, settings: Sequence[str] = ()) -> None:
        self._link = link
        self._engine = engine
        self._mending = Mending(link, settings)
        self._functions = Functions(link, self._mending)
        alive.keep(link)
        self._uploads: dict[int, tuple[Step, str]] = {}
        self._end = weakref.finalize(self, _close, link, engine)

    # --- Statements

    def sql(self, query: str, /, **values: Any) -> Dataset:
        """The rows of a query, which runs when they are read.

        Args:
            values: what `$name` is in the query: a value, which travels beside the text and
                never becomes SQL. Of a dataset, DataFrame or Arrow table what stands for the
                relation `name`; of a `mobula.func` the function of that name. Those that the
                caller has as variables are found without being named here.

        >>> import pandas
        >>> prices = pandas.DataFrame({"item": ["a", "b"], "price": [1.5, 20.0]})
        >>> mobula.sql("SELECT item FROM prices WHERE price > $least", least=10).take()
        [{'item': 'b'}]
        """
        if not sql_text.is_query(query):
            raise QueryFailed("sql() is for queries, which give rows. Run other statements by execute()")
        relations = {name: value for name, value in values.items() if self._relation(name, value) is not None}
        functions = {name: value for name, value in values.items() if is_func(value)}
        scalars = {name: value for name, value in values.items() if name not in relations and name not in functions}
        for name, value in in_scope(sql_text.read_names(query) - relations.keys(), _has_rows).items():
            relations[name] = value
        functions = functions_of(query) | functions
        steps = {name: step for name, value in relations.items() if (step := self._relation(name, value)) is not None}
        # What is wrong with values is said now.
        Values().placed(query, scalars)
        return Dataset(self, Query(query.strip().rstrip(";"), steps, scalars, functions))

    def execute(self, statement: str, /, **values: Any) -> int:
        """Runs a statement now: DDL, SET, INSERT, COPY. Returns the rows it changed, or -1.

        >>> con = mobula.connect()
        >>> con.execute("CREATE VIEW few AS SELECT value FROM generate_series(1, 3)")
        -1
        >>> con.sql("SELECT sum(value) AS total FROM few").take()
        [{'total': 6}]
        >>> con.close()
        """
        bound = Values()
        text = bound.placed(statement, values) if values else statement
        return self._link.run(text, bound.row())

    def cursor(self) -> adbc_driver_manager.dbapi.Cursor:
        """A DB-API 2.0 cursor of this session."""
        return self._link.dbapi().cursor()

    @property
    def adbc(self) -> adbc_driver_manager.dbapi.Connection:
        """The ADBC connection: for `pandas.read_sql`, `polars.read_database` and others."""
        return self._link.dbapi()

    def commit(self) -> None:
        """Does nothing: every statement commits by itself."""

    def rollback(self) -> None:
        """Not there.

        Raises:
            NotSupported: always.
        """
        raise NotSupported("there are no transactions: every statement commits by itself")

    @property
    def progress(self) -> bool | None:
        """As `connect` has it; may be set."""
        return self._link.progress

    @progress.setter
    def progress(self, progress: bool | None) -> None:
        self._link.progress = progress

    def close(self) -> None:
        """Ends the session, its queries, and an engine of one's own."""
        self._end()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        kind = "embedded engine" if self._engine else self._link.where
        return f"<mobula.Connection to {kind}{'' if self._end.alive else ', closed'}>"

    # --- Datasets

    def table(self, name: str) -> Dataset:
        """A table or view of the server, by its name as SQL has it."""
        return Dataset(self, Query(f"SELECT * FROM {name}"))

    def read_parquet(self, paths: Paths, *, columns: Sequence[str] | None = None) -> Dataset:
        """The rows of Parquet files: paths or URLs of files, directories or patterns.

        The server reads them: relative paths are made absolute here if it is of one's own.
        """
        return self._read(paths, ".parquet", columns)

    def read_csv(
        self,
        paths: Paths,
        *,
        columns: Sequence[str] | None = None,
        schema: Schema | None = None,
        header: bool | None = None,
        delimiter: str | None = None,
        quote: str | None = None,
        escape: str | None = None,
        comment: str | None = None,
        newlines_in_values: bool | None = None,
        compression: str | None = None,
    ) -> Dataset:
        """The rows of CSV files; paths as those of `read_parquet`.

        Args:
            columns: those that are read, by name.
            schema: names and types of all columns of the files; otherwise the header and the first
                rows say them.
            header: whether the first line has names; without, columns are `column_1`, …
            delimiter, quote, escape, comment: one character each; `,` and `"` unless said.
            newlines_in_values: quoted values may have line breaks.
            compression: `"gzip"`, `"bzip2"`, `"xz"`, `"zstd"`; otherwise the file's ending says it.
        """
        options = dict(header=header, delimiter=delimiter, quote=quote, escape=escape, comment=comment)
        more = dict(newlines_in_values=newlines_in_values, compression=compression)
        return self._read(paths, ".csv", columns, {**options, **more, "schema": schema})

    def read_json(
        self,
        paths: Paths,
        *,
        columns: Sequence[str] | None = None,
        schema: Schema | None = None,
        compression: str | None = None,
    ) -> Dataset:
        """The rows of files with a JSON object a line; arguments as those of `read_csv`."""
        return self._read(paths, ".json", columns, {"compression": compression, "schema": schema})

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
        return Dataset(self, Query(f"SELECT value AS id FROM generate_series(0, {max(n - 1, 0)}){limit}"))

    def from_arrow(self, tables: ArrowStream | Sequence[ArrowStream]) -> Dataset:
        """Rows of a pyarrow Table, RecordBatch or reader, or of anything with an Arrow C
        stream, or of a list of those."""
        return self._of_tables(tables)

    def from_pandas(self, dfs: pandas.DataFrame | Sequence[pandas.DataFrame]) -> Dataset:
        """Rows of pandas DataFrames, without their index."""
        return self._of_tables(dfs)

    def from_polars(self, dfs: polars.DataFrame | polars.LazyFrame | Sequence[polars.DataFrame]) -> Dataset:
        """Rows of polars DataFrames."""
        return self._of_tables(dfs)

    def from_huggingface(self, dataset: Any) -> Dataset:
        """Rows of a `datasets.Dataset` or `datasets.IterableDataset` of Hugging Face: of one split."""
        step = self._relation("from_huggingface", dataset)
        if step is None:
            splits = f": choose one of its splits, {', '.join(map(repr, dataset))}" if local_rows.is_mapping(dataset) else ""
            raise TypeError(f"{type(dataset).__name__} is no dataset of Hugging Face{splits}")
        return Dataset(self, step)

    def from_items(self, items: Sequence[Any]) -> Dataset:
        """A row for each dict, or for each value in a column `item`.

        >>> mobula.from_items([{"a": 1}, {"a": None, "b": "x"}]).take()
        [{'a': 1, 'b': None}, {'a': None, 'b': 'x'}]
        """
        return self.from_arrow(local_rows.of_items(items))

    def from_numpy(self, ndarrays: np.ndarray | Mapping[str, np.ndarray]) -> Dataset:
        """Rows of an array, in a column `data`, or of a dict of arrays."""
        return self.from_arrow(local_rows.of_numpy(ndarrays))

    # --- For the other modules

    def _of_tables(self, tables: Any) -> Dataset:
        if sql_text.is_list(tables):
            return _united([self._of_tables(table) for table in tables])
        step = self._relation("from_arrow", tables)
        if step is None:
            raise TypeError(f"{type(tables).__name__} is no Arrow table and has no __arrow_c_stream__")
        return Dataset(self, step)

    def _read(
        self, paths: Paths, suffix: str, columns: Sequence[str] | None, options: Mapping[str, Any] | None = None
    ) -> Dataset:
        given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        if not given:
            raise ValueError("no paths to read")
        chosen = sql_text.names(list(columns)) if columns else "*"
        found: list[Dataset] = []
        for path in given:
            location = self._path(path)
            if self._engine is not None and os.path.isdir(location):
                location = _inside(location, suffix)
            text = f"SELECT {chosen} FROM {_reader(location, suffix, options or {})}"
            found.append(Dataset(self, Query(text)))
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
        given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        if not given:
            raise ValueError("no paths to read")
        asked = (f"({sql_text.string(self._path(path))})" for path in given)
        rows = Dataset(self, Query(f"SELECT path FROM (VALUES {', '.join(asked)}) AS asked(path)"))
        found = rows.flat_map(files.finder(endings), schema={"path": str}).repartition(files.STREAMS)
        return found.map_batches(read, batch_format="pyarrow", batch_size=files_at_once, concurrency=concurrency, schema=schema)

    def _path(self, path: str | os.PathLike[str]) -> str:
        text = os.fspath(path)
        if self._engine is None:
            # What has no mark of a path would be the name of a table.
            return text if set(text) & set("/.*?") else text + "/"
        if "://" in text:
            return text
        absolute = os.path.abspath(os.path.expanduser(text))
        return absolute + "/" if text.endswith("/") else absolute

    def _relation(self, name: str, value: Any) -> Step | None:
        """What a value stands for in FROM, if it holds rows."""
        if isinstance(value, Dataset):
            if value._connection is not self:
                raise QueryFailed(f"{name} is a dataset of another connection. Read both through one")
            return value._step
        read = local_rows.reader_of(value)
        return None if read is None else Local(read, f"{name}: {type(value).__module__.partition('.')[0]} {type(value).__name__}")

    def _uploaded(self, step: Local, read: Callable[[], pa.RecordBatchReader]) -> str:
        """What has the rows of `step` in FROM: a file beside an engine of one's own, a temporary
        table of a server. It is written at its first use, and goes with this connection."""
        if id(step) not in self._uploads:
            if self._engine is None:
                table = f"mobula_rows_{uuid.uuid4().hex}"
                link = self._link

                def load() -> None:
                    link.load(table, local_rows.sendable(read()))

                load()
                self._mending.rows[table] = load
                place = f"temp.{table}"
            else:
                path = os.path.join(self._engine.directory, f"{uuid.uuid4().hex}.parquet")
                local_rows.write(read(), path)
                place = sql_text.string(path)
            # The step is kept, so that its id names no other one.
            self._uploads[id(step)] = (step, place)
        return self._uploads[id(step)][1]

    def _table(self, sql: str, values: Values | None = None) -> pa.Table:
        return self._link.table(sql, values and values.row())

    def _value(self, sql: str, values: Values) -> Any:
        return self._table(sql, values).column(0)[0].as_py()


def _check(executors: int, settings: Mapping[str, Any]) -> None:
    """Says in Python's words what would otherwise be an argument of a program, or SQL."""
    if type(executors) is not int or not 0 <= executors <= _EXECUTORS_MAX:
        raise ValueError(f"executors is {executors!r}. Give a number from 0 to {_EXECUTORS_MAX}")
    for key in settings:
        if not _SETTING.fullmatch(str(key)):
            raise ValueError(f"{key!r} names no setting. Names are those of docs/settings.md, without mobula., as in udf_call_timeout")


def _has_rows(value: Any) -> bool:
    return isinstance(value, Dataset) or local_rows.reader_of(value) is not None


def _united(datasets: list[Dataset]) -> Dataset:
    if not datasets:
        raise ValueError("an empty list has no rows and no columns")
    return datasets[0].union(*datasets[1:])


def _reader(location: str, suffix: str, options: Mapping[str, Any]) -> str:
    """A relation: files by their path, or as their options say."""
    said = {key: value for key, value in options.items() if value is not None}
    path = sql_text.string(location)
    if not said:
        return path
    if "schema" in said:
        said["schema"] = columns_of(said["schema"])
    words = "".join(f", {key} => {sql_text.literal(value)}" for key, value in said.items())
    return f"read_{suffix[1:]}({path}{words})"


def _inside(directory: str, suffix: str) -> str:
    """All files of a directory, if they lie in it, else those below it."""
    deep = not glob.glob(os.path.join(glob.escape(directory), f"*{suffix}"))
    return os.path.join(directory, "**" if deep else "", f"*{suffix}")


def _close(link: Link, engine: Engine | None) -> None:
    link.close()
    if engine is not None:
        engine.close()
