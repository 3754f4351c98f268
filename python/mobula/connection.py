"""`mobula.connect()`: an engine of one's own, or a server.

A `Connection` makes datasets, runs statements, and gives DB-API's and ADBC's objects of the
same session: settings made in one are seen in all.
"""

from __future__ import annotations

import importlib
import os
import re
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import alive, local_rows, sql_text
from .bound import Values
from .dataset import Dataset
from .declared import functions_of, in_scope, is_func
from .errors import NotSupported, QueryFailed
from .functions import Functions
from .link import Link
from .mending import Mending
from .sources import Sources
from .steps import Local, Query, Step

if TYPE_CHECKING:
    import adbc_driver_manager.dbapi
    import pyarrow as pa

    from .engine import Engine

# As the engine has them.
_EXECUTORS_MAX = 1024
_SETTING = re.compile("[a-z][a-z0-9_]*")


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
    _check(url, executors, settings or {})
    _check_progress(progress)
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


class Connection(Sources):
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
        """The rows of a query, which runs when they are read. SHOW, DESCRIBE and EXPLAIN run at once.

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
        if sql_text.tells(query):
            bound = Values()
            return self.from_arrow(self._table(bound.placed(query, values), bound))
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
        return Dataset(self, Query(sql_text.within(query), steps, scalars, functions))

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
        _check_progress(progress)
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

    # --- For the other modules

    def _dataset(self, step: Step) -> Dataset:
        return Dataset(self, step)

    def _path(self, path: str | os.PathLike[str]) -> str:
        text = os.fspath(path)
        if self._engine is None or "://" in text:
            return text
        absolute = os.path.abspath(os.path.expanduser(text))
        return absolute + "/" if text.endswith("/") else absolute

    def _relation(self, name: str, value: Any) -> Step | None:
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


def _check(url: object, executors: int, settings: object) -> None:
    """Says in Python's words what would otherwise be an argument of a program, or SQL."""
    if url is not None and not isinstance(url, str):
        raise ValueError(f"{url!r} is no address of a server. Write \"grpc://HOST:PORT\"")
    if not local_rows.is_mapping(settings):
        raise ValueError(f"settings are {settings!r}. Give a dict of names and values")
    if type(executors) is not int or not 0 <= executors <= _EXECUTORS_MAX:
        raise ValueError(f"executors is {executors!r}. Give a number from 0 to {_EXECUTORS_MAX}")
    for key in settings:
        if not _SETTING.fullmatch(str(key)):
            raise ValueError(f"{key!r} names no setting. Names are those of docs/settings.md, without mobula., as in udf_call_timeout")


def _check_progress(progress: object) -> None:
    if progress is not None and not isinstance(progress, bool):
        raise ValueError(f"progress is {progress!r}. Give True, False or None")


def _has_rows(value: Any) -> bool:
    return isinstance(value, Dataset) or local_rows.reader_of(value) is not None


def _close(link: Link, engine: Engine | None) -> None:
    link.close()
    if engine is not None:
        engine.close()
