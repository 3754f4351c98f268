"""One ADBC connection to a server: statements in, Arrow out.

Below DB-API on purpose: `adbc_driver_manager.dbapi` imports pyarrow.dataset and, where they
are installed, pandas and polars, which takes longer than an embedded engine takes to start
and to answer. Whoever asks for a cursor gets DB-API's objects over the same connection.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import threading
import urllib.parse
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar

import adbc_driver_flightsql
import adbc_driver_manager
from adbc_driver_manager import _lib

from . import progress as _progress
from .errors import ConnectionFailed, Error, QueryFailed, translating

if TYPE_CHECKING:
    import adbc_driver_manager.dbapi
    import pyarrow as pa

_SCHEMES = {"grpc": "grpc", "grpc+tcp": "grpc", "grpc+tls": "grpc+tls", "grpc+unix": "grpc+unix"}
# Rows come in messages of 2 MiB; one row may be longer.
_MESSAGE_BYTES_MAX = 1 << 30
# A ping may hang on a network that is gone; who closes waits no longer.
_PING_S = 5.0
_UPDATE_TIMEOUT = adbc_driver_flightsql.DatabaseOptions.TIMEOUT_UPDATE.value
_SESSION_OPTIONS = "adbc.flight.sql.session.options"
_TOKEN_HEADER = adbc_driver_flightsql.DatabaseOptions.RPC_CALL_HEADER_PREFIX.value + "x-mobula-token"


T = TypeVar("T")

# The process that has loaded the driver.
_driver_pid: int | None = None


class Link:
    """A connection. Closing it closes what is open on it."""

    def __init__(
        self, url: str, *, token: str | None = None, options: Mapping[str, str] | None = None, progress: bool | None = None
    ) -> None:
        target, where, credentials = _parsed(url)
        self.where: str = where
        # Makes good what a session has lost (`mending.py`), and how often that was done.
        self.mend: Callable[[Error, int], bool] = lambda _, __: False
        self.mended = 0
        # Names on the server of what this side has declared there: errors have the user's.
        self.functions: Mapping[str, object] = {}
        self.ended = threading.Event()
        self._pinging = threading.Lock()
        # Whether statements that are waited for show how far they are.
        self.progress = progress
        self._again = functools.partial(Link, url, token=token, options=options, progress=False)
        kwargs = {adbc_driver_flightsql.DatabaseOptions.WITH_MAX_MSG_SIZE.value: str(_MESSAGE_BYTES_MAX), **credentials}
        if token is not None:
            kwargs[_TOKEN_HEADER] = token
        kwargs.update(options or {})
        self._open: weakref.WeakSet[_Statement] = weakref.WeakSet()
        self._unused: collections.deque[str] = collections.deque()
        self._kept: list[object] = []
        self._dbapi: adbc_driver_manager.dbapi.Connection | None = None
        self._closed = False
        global _driver_pid
        _driver_pid = _driver_pid or os.getpid()
        self._pid = os.getpid()
        _check_not_forked(_driver_pid)
        with translating(self.where):
            self._database = adbc_driver_flightsql.connect(target, kwargs)
            try:
                self._connection = _lib.AdbcConnection(self._database)
            except BaseException:
                self._database.close()
                raise

    def dbapi(self) -> adbc_driver_manager.dbapi.Connection:
        """DB-API's connection over this one; made at the first call."""
        self._check_open()
        if self._dbapi is None:
            import adbc_driver_manager.dbapi

            self._dbapi = adbc_driver_manager.dbapi.Connection(self._database, self._connection, autocommit=True)
        return self._dbapi

    def stream(self, sql: str, values: pa.RecordBatch | None = None) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """The rows of a statement as they come. It has begun when this returns.

        `values`: one row, with a column for each `$name` of the statement.
        """
        return self._mended(lambda: self._stream(sql, values))

    def table(self, sql: str, values: pa.RecordBatch | None = None) -> pa.Table:
        """All rows of a statement. `values`: as of `stream`."""
        import pyarrow as pa

        with self._watched(sql):
            schema, batches = self.stream(sql, values)
            return pa.Table.from_batches(batches, schema)

    def schema(self, sql: str) -> pa.Schema:
        """The columns of a query, which is planned and not run."""
        return self._mended(lambda: self._schema(sql))

    def _stream(self, sql: str, values: pa.RecordBatch | None) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        statement = self._statement(sql)
        try:
            statement.bind(values)
            reader = statement.execute()
            with translating(self.where):
                schema = reader.schema
        except BaseException:
            statement.close()
            raise
        return schema, statement.batches(reader)

    def _schema(self, sql: str) -> pa.Schema:
        import pyarrow as pa

        statement = self._statement(sql)
        try:
            handle = statement.call(statement.handle.execute_schema)
            return pa.Schema._import_from_c(handle.address)
        finally:
            statement.close()

    def run(self, sql: str, values: pa.RecordBatch | None = None) -> int:
        """Runs a statement to its end: the rows it changed, or -1. `values`: as of `stream`."""
        return self._mended(lambda: self._run(sql, values))

    def _run(self, sql: str, values: pa.RecordBatch | None) -> int:
        statement = self._statement(sql)
        try:
            statement.bind(values)
            with self._watched(sql):
                return statement.call(statement.handle.execute_update)
        finally:
            statement.close()

    def load(self, table: str, rows: pa.RecordBatchReader) -> None:
        """Makes a temporary table of `rows`, which goes with this connection."""
        statement = self._statement(None)
        try:
            options = adbc_driver_manager.StatementOptions
            with translating(self.where):
                statement.handle.set_options(
                    **{
                        options.INGEST_TARGET_TABLE.value: table,
                        options.INGEST_MODE.value: "adbc.ingest.mode.create",
                        options.INGEST_TEMPORARY.value: "true",
                    }
                )
                statement.handle.bind_stream(rows)
            statement.call(statement.handle.execute_update)
        finally:
            statement.close()

    def run_later(self, statement: str) -> None:
        """Runs a statement before the next one, to let go of something: whoever calls may be the
        garbage collector, in the middle of one."""
        self._unused.append(statement)

    def keep(self, what: object) -> None:
        """Keeps something until this connection is closed."""
        if what not in self._kept:
            self._kept.append(what)

    def elsewhere(self) -> Callable[[], Link]:
        """What makes a connection of its own to the same server, in another process too."""
        return self._again

    def ping(self) -> bool:
        """Asks the server for something small. False: this connection is closed."""
        with self._pinging:
            if self._closed or self._pid != os.getpid():
                return False
            _quietly(lambda: self._connection.get_option(_SESSION_OPTIONS))
            return True

    def close(self) -> None:
        """Cancels what still runs. Twice does no harm."""
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        self.ended.set()
        if not self._pinging.acquire(timeout=_PING_S):
            # Its memory is in use, by a call to nobody.
            return
        try:
            self._release()
        finally:
            self._pinging.release()

    def _release(self) -> None:
        for statement in list(self._open):
            statement.close()
        # The driver says goodbye, perhaps to nobody.
        _quietly(lambda: self._connection.set_options(**{_UPDATE_TIMEOUT: str(_PING_S)}))
        if self._dbapi is not None:
            _quietly(self._dbapi.close)
            return
        _quietly(self._connection.close)
        _quietly(self._database.close)

    def _mended(self, attempt: Callable[[], T]) -> T:
        since = self.mended
        try:
            return attempt()
        except QueryFailed as error:
            if not self.mend(error, since):
                raise
        return attempt()

    def _watched(self, sql: str) -> contextlib.AbstractContextManager[None]:
        if not _progress.wanted(self.progress):
            return contextlib.nullcontext()
        return _progress.shown(self._again, sql)

    def _statement(self, sql: str | None) -> _Statement:
        self._check_open()
        while self._unused:
            self.run(self._unused.popleft())
        statement = _Statement(self, _lib.AdbcStatement(self._connection))
        self._open.add(statement)
        if sql is not None:
            statement.handle.set_sql_query(sql)
        return statement

    def _check_open(self) -> None:
        _check_not_forked(self._pid)
        if self._closed:
            raise ConnectionFailed("this connection is closed. Open another one: mobula.connect()")


class _Handle(Protocol):
    """What is called of `AdbcStatement`, whose stub says no types of it."""

    def bind(self, data: pa.RecordBatch, /) -> None: ...

    def bind_stream(self, stream: pa.RecordBatchReader, /) -> None: ...

    def cancel(self) -> None: ...

    def close(self) -> None: ...

    def execute_query(self) -> tuple[_lib.ArrowArrayStreamHandle, int]: ...

    def execute_schema(self) -> _lib.ArrowSchemaHandle: ...

    def execute_update(self) -> int: ...

    def prepare(self) -> None: ...

    def set_options(self, **options: str) -> None: ...

    def set_sql_query(self, query: str, /) -> None: ...


class _Statement:
    """A statement that runs, and is cancelled by Ctrl-C."""

    def __init__(self, link: Link, handle: _Handle) -> None:
        self.where = link.where
        self._link = link
        self.handle = handle
        self._is_open = True

    def call(self, function: Callable[[], T]) -> T:
        # Waits outside of Python; an interrupt cancels, which the driver tells as an error.
        interrupted = False

        def cancel() -> None:
            nonlocal interrupted
            interrupted = True
            self.handle.cancel()

        try:
            with translating(self.where, self._link.functions):
                # Its stub says `tuple` and `dict`, of no types.
                return _lib._blocking_call(function, (), {}, cancel)  # pyright: ignore[reportUnknownMemberType]
        except Error as error:
            if interrupted:
                raise KeyboardInterrupt from error
            if self._link.ended.is_set():
                raise ConnectionFailed("this connection was closed while a statement of it ran") from error
            raise

    def bind(self, values: pa.RecordBatch | None) -> None:
        """Says what the parameters are, if there are some."""
        if values is not None:
            self.call(self.handle.prepare)
            with translating(self.where):
                self.handle.bind(values)

    def execute(self) -> pa.RecordBatchReader:
        from adbc_driver_manager import _reader

        stream, _ = self.call(self.handle.execute_query)
        with translating(self.where):
            return _reader.AdbcRecordBatchReader._import_from_c(stream.address)

    def batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        try:
            while True:
                try:
                    batch = self.call(reader.read_next_batch)
                except StopIteration:
                    return
                yield batch
        finally:
            _quietly(reader.close)
            self.close()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            _quietly(self.handle.close)


def _check_not_forked(pid: int) -> None:
    """The driver's threads stay behind in a fork, and calls would wait for them for ever."""
    if pid != os.getpid():
        raise ConnectionFailed(
            "this process was forked from one with a connection, which neither its connections nor the driver survive. "
            'Start it anew: multiprocessing.get_context("spawn")'
        )


def _quietly(end: Callable[[], object]) -> None:
    """What ends anyway may have lost its server already."""
    try:
        end()
    except (adbc_driver_manager.Error, RuntimeError, ValueError):
        pass


def _parsed(url: str) -> tuple[str, str, dict[str, str]]:
    """What the driver connects to, what errors call it, and its user and password."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConnectionFailed(f'"{url}" is no URL: {error}. Write grpc://HOST:PORT') from None
    scheme = _SCHEMES.get(parts.scheme)
    has_place = bool(parts.hostname and port) or scheme == "grpc+unix"
    if scheme is None or not has_place:
        raise ConnectionFailed(f'"{url}" is no address of a server. Write grpc://HOST:PORT, or grpc+tls://USER:PASSWORD@HOST:PORT')
    credentials: dict[str, str] = {}
    if parts.username is not None:
        credentials["username"] = urllib.parse.unquote(parts.username)
        credentials["password"] = urllib.parse.unquote(parts.password or "")
    place = parts.netloc.rpartition("@")[2]
    target = f"{scheme}://{place}{parts.path if scheme == 'grpc+unix' else ''}"
    return target, f"the server at {target}", credentials
