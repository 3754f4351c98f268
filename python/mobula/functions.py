"""User code on a server: declared once a connection, its schema found where none is given.

A piece of code becomes an SQL function of this session, `CREATE TEMP FUNCTION name(rows TABLE) …`,
whose body carries it (see `packing`). SQL has to know the columns that come back before a query runs.
They are, in this order: those of `schema=`; those of the return annotation; those that the
code gives for the first rows of its input, run by a worker once (see `learning`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import schemas
from .errors import CodeRefused
from .packing import Packed

if TYPE_CHECKING:
    import pyarrow as pa

    from .declared import Func
    from .link import Link
    from .mending import Mending

# Rows that a schema is learned from.
ROWS = 100
# Calls that are made again, where `max_retries` does not say.
RETRIES = 3
# That one connection keeps; before a query begins, those go that were used longest ago and by none that goes on.
FUNCTIONS_MAX = 256
# Options of a call that its probe has too: what the worker needs to be able to run the code.
_OF_PROBES = ("zero_copy_batch", "num_cpus", "num_gpus", "memory", "resources", "label_selector", "init_timeout", "timeout")


@dataclasses.dataclass(frozen=True)
class Code:
    """User code as one step of a dataset calls it."""

    packed: Packed
    operator: str
    """`map`, `flat_map`, `filter`, `map_batches` or `map_groups`."""
    options: dict[str, str]
    """Of the call, as SQL has them."""
    schema: schemas.Schema | None = None
    """What comes back, as `schemas.columns_of` takes it."""


class Functions:
    """What one connection has declared."""

    def __init__(self, link: Link, mending: Mending) -> None:
        self._link = link
        self._mending = mending
        # The name on the server, and when it was last used: they are in this order.
        self._declared: dict[str, tuple[str, int]] = {}
        self._learned: dict[str, str] = {}
        self._times = itertools.count()
        # When the queries began that are made now, until they run.
        self._queries: set[int] = set()
        # What is declared is not dropped at the same time.
        self._lock = threading.Lock()

    def call(self, code: Code, source: str, alone: str) -> str:
        """A query that calls `code` for the rows of the query `source`; `alone` is the same
        as a query that needs nothing around it."""
        if code.operator == "filter":
            returns = "BOOLEAN"
        elif code.schema is not None:
            returns = f"TABLE({schemas.columns_of(code.schema)})"
        else:
            returns = f"TABLE({self._learn(code, alone)})"
        function = self._declare(code.packed, returns)
        return _query(code.operator, source, function, code.options)

    def named(self, func: Func[..., Any]) -> str:
        """The name of a function of expressions on the server."""
        function = f"{func.packed.name}_{func.digest}"
        self._create(func.digest, function, lambda: func.statement(function))
        return function

    def begin(self) -> int:
        """What is used from now on stays until the time that this returns is given to `end`. Drops
        what is too many: code that is new each time, in a long loop, is no end of functions."""
        with self._lock:
            oldest = min(self._queries, default=math.inf)
            while len(self._declared) > FUNCTIONS_MAX:
                key, (function, used) = next(iter(self._declared.items()))
                if used > oldest:
                    break
                self._link.run(f"DROP FUNCTION IF EXISTS {function}")
                self._mending.functions.pop(function, None)
                del self._declared[key]
            while len(self._learned) > FUNCTIONS_MAX:
                self._learned.pop(next(iter(self._learned)), None)
            began = next(self._times)
            self._queries.add(began)
            return began

    def end(self, began: int) -> None:
        """The query that began then runs, or will not."""
        with self._lock:
            self._queries.discard(began)

    def _create(self, key: str, function: str, statement: Callable[[], str]) -> None:
        """Declares it if it is not; then it is the last one to go."""
        with self._lock:
            if self._declared.pop(key, None) is None:
                text = statement()
                self._link.run(text)
                self._mending.functions[function] = text
            self._declared[key] = function, next(self._times)

    def _declare(self, packed: Packed, returns: str, probe: tuple[Any, ...] | None = None) -> str:
        key = hashlib.blake2b(f"{packed.digest} {returns} {probe}".encode(), digest_size=4).hexdigest()
        function = f"{packed.name}_{key}"
        # The columns of the answer may be named like options, so they are quoted.
        create = f"CREATE OR REPLACE TEMP FUNCTION {function}(rows TABLE) RETURNS {returns}"
        self._create(key, function, lambda: f"{create} LANGUAGE python AS $${packed.body(function, probe)}$$")
        return function

    def _learn(self, code: Code, source: str) -> str:
        """The columns that the code gives for the first rows of `source`."""
        key = f"{code.packed.digest} {code.operator} {code.options} {source}"
        learned = self._learned.get(key)
        if learned is None:
            given = self._link.schema(source)
            found = self._ask(code, source, given)
            if found is None:
                # No rows come out of none. By the next query there may be some.
                return schemas.columns_of(given)
            schemas.check_learned(found, given)
            learned = self._learned[key] = schemas.columns_of(found)
        return learned

    def _ask(self, code: Code, source: str, given: pa.Schema) -> pa.Schema | None:
        """None where there are no rows to call it with."""
        import pyarrow as pa

        in_rows = code.operator in ("map", "flat_map")
        asked = code.options
        lenient = asked.get("on_error", "'raise'") != "'raise'"
        retried = tuple(name.strip() for name in asked.get("retry_exceptions", "").strip("'").split(",") if name.strip())
        # Of an async function it is that of a call.
        timeout = asked["timeout"].strip("'") if code.packed.is_async and "timeout" in asked else ""
        taught = code.operator if in_rows else "batches"
        probe = (taught, given.serialize().to_pybytes(), retried, int(asked.get("max_retries", RETRIES)), lenient, timeout)
        function = self._declare(code.packed, "TABLE(schema BYTEA)", probe)
        options = {key: asked[key] for key in _OF_PROBES if key in asked and (key != "timeout" or not timeout)}
        options["concurrency"] = "1"
        options["batch_format"] = "'rows'" if in_rows else asked.get("batch_format", "'numpy'")
        operator, n_rows = "map_batches", ROWS
        if code.operator == "map_groups":
            operator, options["partition_by"] = "map_groups", asked["partition_by"]
        else:
            size = asked.get("batch_size", "NULL")
            n_rows = ROWS if size == "NULL" else min(ROWS, int(size))
            options["batch_size"] = str(n_rows)
        rows = f"SELECT * FROM ({source}) LIMIT {n_rows}"
        query = _query(operator, rows, function, options)
        _, batches = self._link.stream(f"SELECT schema FROM ({query}) LIMIT 1")
        found: list[bytes] = [row["schema"] for batch in batches for row in batch.to_pylist()]
        if not found:
            return None
        schema = pa.ipc.read_schema(pa.py_buffer(found[0]))
        if not len(schema):
            raise CodeRefused(f"{code.packed.name} gives nothing for the first rows, so its columns are not known. Say them: schema={{'column': type}}")
        return schema


def _query(operator: str, source: str, function: str, options: dict[str, str]) -> str:
    words = "".join(f", {key} => {value}" for key, value in options.items())
    return f"SELECT * FROM {operator}(TABLE({source}), {function}{words})"
