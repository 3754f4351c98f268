"""Makes again what a session has lost.

A connection that broke, by a server that started again or a network that was gone, is replaced by
another one with a session of its own, which the driver does not tell. What this side still knows
is said anew when a statement misses some of it: settings of `connect`, functions, rows of this
process. Tables that only the server had are gone, which is an error.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import sql_text
from .errors import Error, FunctionFailed, QueryFailed

if TYPE_CHECKING:
    from .link import Link

_NO_TABLE = re.compile(r'table "temp\.(\w+)" does not exist')


class Mending:
    """What one connection has told its session."""

    def __init__(self, link: Link, settings: Sequence[str]) -> None:
        self._link = link
        self._settings = settings
        self.functions: dict[str, str] = {}
        """Their statements by name."""
        self.rows: dict[str, Callable[[], None]] = {}
        """What loads a temporary table, by name."""
        self._lock = threading.Lock()
        self._mender: int | None = None
        link.mend, link.functions = self.mend, self.functions

    def mend(self, error: Error, since: int) -> bool:
        """Whether a statement is to be tried again that failed with `error`, and began when `since`
        losses had been made good.

        Raises:
            QueryFailed: what is lost cannot be made again.
        """
        # The server's own words: ours have other names for functions.
        text = str(error.__cause__ or error)
        function = next((name for name in self.functions if name in text), None)
        table = _NO_TABLE.search(text)
        if isinstance(error, FunctionFailed) or self._mender == threading.get_ident() or not (function or table):
            return False
        with self._lock:
            if self._link.mended != since:
                return True
            self._mender = threading.get_ident()
            try:
                return self._again(function, table[1] if table else None, error)
            finally:
                self._mender = None

    def _again(self, function: str | None, table: str | None, error: Error) -> bool:
        if table is not None and table in self.rows:
            self.rows[table]()
        elif table is not None and table.startswith("mobula_"):
            problem = "rows that the server kept for this dataset are gone: the connection broke. Materialize them again"
            raise QueryFailed(problem) from error
        elif function is None or self._knows(function):
            return False
        for statement in (*self._settings, *self.functions.values()):
            self._link.run(statement)
        self._link.mended += 1
        return True

    def _knows(self, function: str) -> bool:
        return self._link.table(f"SHOW FUNCTIONS LIKE {sql_text.string(function)}").num_rows > 0
