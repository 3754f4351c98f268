"""What can go wrong, as exceptions that say what to do.

All derive from DB-API's (PEP 249) `Error` as the ADBC driver defines it, so that
`except adbc_driver_manager.Error` catches them as well.

    Error
      ConnectionFailed     OperationalError   no server there, or it is gone
        EngineFailed                          the embedded engine does not start
      LoginFailed          OperationalError   wrong user or password
      QueryFailed          ProgrammingError   the server refused or failed a statement
        FunctionFailed                        user code raised, or gave what was not declared
      CodeRefused          ProgrammingError   a function cannot travel, or has no known schema
      NotSupported         NotSupportedError
"""

from __future__ import annotations

import builtins
import contextlib
import re
from collections.abc import Generator, Iterable
from typing import Any

import adbc_driver_manager
from adbc_driver_manager import AdbcStatusCode


class Error(adbc_driver_manager.Error):
    """Anything that Mobula says no to. `str()` is one line that names the way out."""

    def __init__(self, message: str, *, status_code: int = AdbcStatusCode.UNKNOWN) -> None:
        adbc_driver_manager.Error.__init__(self, message, status_code=status_code)


class ConnectionFailed(Error, adbc_driver_manager.OperationalError):
    """No server answers at the URL, or it went away."""


class EngineFailed(ConnectionFailed):
    """The embedded engine is not there or does not start."""


class LoginFailed(Error, adbc_driver_manager.OperationalError):
    """The server does not know this user, password or token."""


class QueryFailed(Error, adbc_driver_manager.ProgrammingError):
    """The server refused a statement, or failed while it ran."""


class FunctionFailed(QueryFailed):
    """User code raised an exception, or returned what does not fit its schema.

    `function` is its name. If what was raised is one of Python's own exceptions, an equal one
    is the `__cause__`.
    """

    function: str = ""


class CodeRefused(Error, adbc_driver_manager.ProgrammingError):
    """A function cannot be sent, or what it returns is not known without `schema=`."""


class NotSupported(Error, adbc_driver_manager.NotSupportedError):
    """The server, or this package, cannot do this (yet)."""

    def __init__(self, message: str) -> None:
        Error.__init__(self, message, status_code=AdbcStatusCode.NOT_IMPLEMENTED)


# What the driver puts around the server's own sentence.
_BEFORE = re.compile(r"^(?:[A-Z_]+: )?(?:\[FlightSQL\] )?")
_BEHIND = re.compile(r" \((?:Unauthenticated|[A-Z][A-Za-z]+); [A-Z][A-Za-z]+(?:: endpoint \d+: \[[^]]*\])?\)$")
_VENDOR = re.compile(r"\. Vendor code: \d+$")
# Functions of Python have a digest behind their names, which says nothing to who wrote them.
_DIGEST = re.compile(r'(?<=^function ")(\w+)_[0-9a-f]{8}(?=")')
# What fails where sides of a `zip` differ is a cast, and what it cannot cast says why.
_ZIP = re.compile(r"^.*'(zip: row \d+ of [^']*)'.*$", re.DOTALL)
_FUNCTION = re.compile(r'^function "([^"]+)" (.*)$', re.DOTALL)
_RAISED = re.compile(r"^failed: ([A-Za-z_]\w*)(?:: (.*?))?(?: \((?:in \w+\(\), )?(?:[^(),]+, )?line \d+(?:[:;] .*)?\))?(?:\. It was tried \d+ times in a row)?(?: \(on executor .*\))?$", re.DOTALL)


def sentence(error: BaseException) -> str:
    """The server's own words, without what the driver adds."""
    text = _VENDOR.sub("", str(error))
    return _BEHIND.sub("", _BEFORE.sub("", text, count=1))


def translated(error: adbc_driver_manager.Error, where: str, functions: Iterable[str] = ()) -> Error:
    """The exception of ours that says what the driver's says. `where`: the server; `functions`:
    names of those that this side has declared there, which are called what the user calls them."""
    text, status = _DIGEST.sub(r"\1", _ZIP.sub(r"\1", sentence(error))), error.status_code
    for function in list(functions):
        text = text.replace(function, function.rpartition("_")[0])
    if status in (AdbcStatusCode.UNAUTHENTICATED, AdbcStatusCode.UNAUTHORIZED):
        return LoginFailed(f"{where} does not let us in: {text}", status_code=status)
    if status in (AdbcStatusCode.IO, AdbcStatusCode.TIMEOUT) and _is_transport(text):
        problem = f"{where} does not answer: {text}. Is it running, and is the address right?"
        return ConnectionFailed(problem, status_code=status)
    if status == AdbcStatusCode.NOT_IMPLEMENTED:
        return NotSupported(text)
    of_function = _FUNCTION.match(text)
    if of_function:
        failed = FunctionFailed(text, status_code=status)
        failed.function = of_function[1]
        failed.__cause__ = _raised(of_function[2])
        return failed
    return QueryFailed(text, status_code=status)


@contextlib.contextmanager
def translating(where: str, functions: Iterable[str] = ()) -> Generator[None, None, None]:
    """What the driver raises inside leaves as one of ours. Arguments as those of `translated`."""
    try:
        yield
    except Error:
        raise
    except adbc_driver_manager.Error as error:
        ours = translated(error, where, functions)
        raise ours from (ours.__cause__ or error)


def _is_transport(text: str) -> bool:
    signs = ("connection error", "error reading from server", "connection reset", "transport", "dial tcp", "EOF", "connection refused", "name resolver", "no such host")
    return any(sign in text for sign in signs)


def _raised(problem: str) -> BaseException | None:
    found = _RAISED.match(problem)
    kind = getattr(builtins, found[1], None) if found else None
    if found is None or not isinstance(kind, type) or not issubclass(kind, Exception):
        return None
    try:
        return kind(_key(found[2]) if kind is KeyError else found[2] or "")
    except Exception:  # Some need more than a text, such as UnicodeDecodeError.
        return None


def _key(text: str | None) -> Any:
    """What was not found: the text of a KeyError is its `repr`."""
    import ast

    try:
        return ast.literal_eval(text or "")
    except (SyntaxError, TypeError, ValueError):
        return text
