"""Runs in workers: makes user code out of what the client packed (see `packing`).

The text of this file is part of the body of each function that the client declares, so it
needs nothing of the package and nothing but the standard library. Its frames are called
`<mobula carried>` there, which tracebacks leave out.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import marshal
import pickle
import sys
import types
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What a call has more: by place, and by name."""

PICKLER = "mobula_cloudpickle"


def load(text: bytes) -> Callable[..., Any]:
    """The object that the worker calls: a function, or a class that it builds."""
    packed: dict[str, Any] = pickle.loads(text)
    _check_version(packed["python"])
    install_pickler(packed["pickler"])
    _tell_lines(packed["sources"])
    code, construct, call = pickle.loads(packed["code"])
    if isinstance(code, type):
        return _Built.of(code, construct, call) if packed["wrapped"] else code
    return _with_arguments(code, call)


def is_async(code: Callable[..., Any]) -> bool:
    """Whether its calls give what is to be awaited, or an async generator."""
    return any(inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) for one in _calls_of(code))


def _calls_of(code: Any) -> Sequence[Any]:
    """What may say it: the code, or the method that its calls are."""
    while isinstance(code, functools.partial):
        code = code.func
    return (code,) if inspect.isroutine(code) else (code, code.__call__)


def _check_version(client: tuple[int, int]) -> None:
    if tuple(client) != sys.version_info[:2]:
        sent, here = ".".join(map(str, client)), "%d.%d" % sys.version_info[:2]
        raise RuntimeError(
            f"it was sent by Python {sent}, and this worker is Python {here} ({sys.executable}):"
            f" compiled code fits one minor version alone. Use Python {here} for the client,"
            f" or start the server with --python of a Python {sent}"
        )


def install_pickler(compiled: bytes) -> None:
    """Makes a module of cloudpickle, which is compiled already, if there is none yet."""
    if PICKLER in sys.modules:
        return
    module = types.ModuleType(PICKLER)
    sys.modules[PICKLER] = module
    try:
        exec(marshal.loads(compiled), module.__dict__)
    except BaseException:
        del sys.modules[PICKLER]
        raise


def _tell_lines(sources: Mapping[str, Sequence[tuple[int, str]]]) -> None:
    """Tracebacks show the lines of files that are not here; the worker names them."""
    worker = sys.modules.get("mobula_worker.failure")
    known: set[str] = getattr(worker, "carried", set[str]())
    for file, blocks in sources.items():
        entry = linecache.cache.get(file)
        # One of another length has yet to read its lines.
        lines = entry[2] if entry is not None and len(entry) == 4 else []
        for first, text in blocks:
            block = text.splitlines(keepends=True)
            lines = lines + ["\n"] * (first - 1 + len(block) - len(lines))
            lines[first - 1 : first - 1 + len(block)] = block
        linecache.cache[file] = (sum(map(len, lines)), None, lines, file)
        known.add(file)


def _with_arguments(code: Callable[..., Any], call: Arguments) -> Callable[..., Any]:
    """`code` with more arguments behind the batch or row."""
    args, kwargs = call
    # Of an object the worker would not see that its calls are async.
    if not args and not kwargs and (inspect.isroutine(code) or not is_async(code)):
        return code
    if any(map(inspect.isasyncgenfunction, _calls_of(code))):

        async def streamed(given: Any) -> AsyncIterator[Any]:
            async for part in code(given, *args, **kwargs):
                yield part

        return streamed
    if is_async(code):

        async def awaited(given: Any) -> Any:
            return await code(given, *args, **kwargs)

        return awaited

    def called(given: Any) -> Any:
        return code(given, *args, **kwargs)

    return called


class _Built:
    """Makes the class that the worker builds: its constructor has its arguments already."""

    @staticmethod
    def of(code: type[Any], construct: Arguments, call: Arguments) -> type[Any]:
        args, kwargs = construct

        class Actor:
            def __init__(self) -> None:
                self._instance = code(*args, **kwargs)
                self._call = _with_arguments(self._instance.__call__, call)

        asked = code.__call__
        if inspect.isasyncgenfunction(asked):

            async def streamed(self: Actor, *given: Any) -> AsyncIterator[Any]:
                async for part in self._call(*given):
                    yield part

            Actor.__call__ = streamed
        elif inspect.iscoroutinefunction(asked):

            async def awaited(self: Actor, *given: Any) -> Any:
                return await self._call(*given)

            Actor.__call__ = awaited
        else:

            def called(self: Actor, *given: Any) -> Any:
                return self._call(*given)

            Actor.__call__ = called
        Actor.__name__ = Actor.__qualname__ = code.__name__
        return Actor
