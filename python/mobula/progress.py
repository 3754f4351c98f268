"""How far a statement is: a line in the terminal or notebook, while somebody waits for it.

The engine knows (`system.progress`); another connection asks it from when the statement has run
for two seconds. Streams that a loop reads show nothing: what the loop prints would be in its way.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol

from . import sql_text
from .errors import Error

if TYPE_CHECKING:
    from .link import Link

# What tells functions of one name apart on the server.
_DIGEST = re.compile(r"_[0-9a-f]{8}\b")
# What is over sooner needs no progress.
SHOWN_AFTER_S = 2.0
ASKED_EVERY_S = 1.0
# The engine knows no more of a statement.
_SQL_BYTES_MAX = 4096
# A last question on its way holds a result up no longer than this.
_LEFT_WITHIN_S = 1.0


def wanted(progress: bool | None) -> bool:
    """Whether progress is shown: as said, or where somebody can see it.

    `MOBULA_PROGRESS=0` says no for those who did not say, `1` yes.
    """
    if progress is not None:
        return progress
    said = os.environ.get("MOBULA_PROGRESS", "")
    if said:
        return said not in ("0", "off", "false")
    return _is_notebook() or (sys.stderr is not None and sys.stderr.isatty())


@contextlib.contextmanager
def shown(again: Callable[[], Link], sql: str) -> Generator[None, None, None]:
    """Shows how far `sql` is until the context ends. `again`: connects to the same server."""
    is_over = threading.Event()
    line: _Line = _NotebookLine() if _is_notebook() else _TerminalLine()
    asking = threading.Thread(target=_ask, args=(again, sql, line, is_over), name="mobula-progress", daemon=True)
    asking.start()
    try:
        yield
    finally:
        is_over.set()
        asking.join(_LEFT_WITHIN_S)
        line.clear()


def _ask(again: Callable[[], Link], sql: str, line: _Line, is_over: threading.Event) -> None:
    if is_over.wait(SHOWN_AFTER_S):
        return
    sql = sql.encode()[:_SQL_BYTES_MAX].decode(errors="ignore")
    # Of a long statement the engine knows how it begins.
    question = (
        f"SELECT message FROM system.progress WHERE sql <> '' AND starts_with({sql_text.string(sql)}, sql) ORDER BY elapsed_ms LIMIT 1"
    )
    # Who cannot see how far it is waits without.
    with contextlib.suppress(Error):
        link = again()
        try:
            while not is_over.is_set():
                for batch in link.stream(question)[1]:
                    for row in batch.to_pylist():
                        if not is_over.is_set():
                            line.show(_DIGEST.sub("", row["message"]))
                is_over.wait(ASKED_EVERY_S)
        finally:
            link.close()


class _Line(Protocol):
    def show(self, text: str) -> None: ...

    def clear(self) -> None: ...


class _TerminalLine:
    """The last line of standard error."""

    def __init__(self) -> None:
        self._is_there = False

    def show(self, text: str) -> None:
        self._write(text[: shutil.get_terminal_size().columns - 1])
        self._is_there = True

    def clear(self) -> None:
        if self._is_there:
            self._write("")

    def _write(self, text: str) -> None:
        # A closed standard error shows nothing.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"\r\x1b[2K{text}")
            sys.stderr.flush()


class _NotebookLine:
    """An output of the cell that runs."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        display: Callable[..., Any] = importlib.import_module("IPython.display").display
        shown = {"text/plain": text}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)

    def clear(self) -> None:
        if self._handle is not None:
            self._handle.update({"text/plain": ""}, raw=True)


def _is_notebook() -> bool:
    """Whether this Python is the kernel of a notebook."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})
