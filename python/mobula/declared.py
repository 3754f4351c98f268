"""`@mobula.func` and `@mobula.actor`: Python that SQL calls by its name in an expression.

Type hints say the SQL types. What is called gets an array for each argument, with one value
a row, and returns one: docs/guide/functions.md. `batch_format` says whose arrays: numpy's, or a
Series of `"pandas"` or `"polars"`, an Array of `"pyarrow"`, a list for `"rows"`. It travels as other code does (`packing`),
at its first use on a connection.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, ParamSpec, TypeGuard, TypeVar, overload

from . import calls, formats, schemas, sql_text
from .compute import call_options
from .errors import CodeRefused
from .packing import Packed, pack

P = ParamSpec("P")
T = TypeVar("T")

_HERE = os.path.dirname(__file__)
# Code that has no name of its own, in the function around it.
_NAMELESS = {"<lambda>", "<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>"}


class Func(Generic[P, T]):
    """Python code that SQL can call. In Python it is what it was before."""

    # As SQL has them.
    parameters: str
    returns: str

    def __init__(self, code: Callable[P, T], words: str, options: Mapping[str, str], construct: Mapping[str, Any]) -> None:
        functools.update_wrapper(self, code, updated=())
        self._code = code
        self._construct = construct
        self.parameters, self.returns = _types(code)
        given = ", ".join(f"{key} = {value}" for key, value in options.items())
        self._clauses = words + (f" WITH ({given})" if given else "")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._code(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<mobula function {_name(self._code)}({self.parameters}) RETURNS {self.returns}>"

    def __reduce__(self) -> Any:
        # Others may call it in workers, which do not have this package.
        return functools.partial, (self._code,)

    @functools.cached_property
    def packed(self) -> Packed:
        """What travels: the code as it is at its first use."""
        return pack(self._code, **self._construct)

    @functools.cached_property
    def digest(self) -> str:
        """Names it with its types and options: equal ones have equal digests."""
        text = f"{self.packed.digest} {self.parameters} {self.returns}{self._clauses}"
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

    def statement(self, function: str) -> str:
        """What declares it under the name `function`."""
        head = f"CREATE OR REPLACE TEMP FUNCTION {function}({self.parameters}) RETURNS {self.returns} LANGUAGE python{self._clauses}"
        return f"{head} AS $${self.packed.body(function)}$$"


@overload
def func(code: Callable[P, T], *, immutable: bool = False, strict: bool = False, **options: Any) -> Func[P, T]: ...


@overload
def func(
    code: None = None, *, immutable: bool = False, strict: bool = False, **options: Any
) -> Callable[[Callable[P, T]], Func[P, T]]: ...


def func(code: Callable[..., Any] | None = None, *, immutable: bool = False, strict: bool = False, **options: Any) -> Any:
    """Makes a function one that SQL can call, in `sql`, `filter(expr=…)` and `with_column`.

    A partial and an object with `__call__` may stand for a function. SQL gives all parameters
    that have type hints, by their places; others keep their defaults, and so do those that a
    partial gives and those behind a `*`. What its globals and closures hold at its first use is
    what it has from then on.

    Args:
        immutable: equal arguments give equal results, so that calls may be shared and moved.
        strict: rows with a NULL argument give NULL, without a call.
        options: `batch_size`, `batch_format`, `concurrency`, `num_cpus`, `timeout` and others of calls.

    Raises:
        CodeRefused: an argument, or what it returns, has no type hint that SQL knows.

    >>> @mobula.func(immutable=True)
    ... def net(price: float, discount: float) -> float:
    ...     return price * (1 - discount)
    >>> mobula.sql("SELECT net(10, 0.25) AS n").take()
    [{'n': 7.5}]
    """
    if code is None:
        return functools.partial(func, immutable=immutable, strict=strict, **options)
    if isinstance(code, type):
        raise CodeRefused(f"{_name(code)} is a class. Write @mobula.actor")
    return Func(code, _words(immutable, strict), _options(False, options), {})


@overload
def actor(
    code: type[T],
    *,
    fn_constructor_args: Iterable[Any] | None = None,
    fn_constructor_kwargs: Mapping[str, Any] | None = None,
    immutable: bool = False,
    strict: bool = False,
    **options: Any,
) -> Func[..., T]: ...


@overload
def actor(
    code: None = None,
    *,
    fn_constructor_args: Iterable[Any] | None = None,
    fn_constructor_kwargs: Mapping[str, Any] | None = None,
    immutable: bool = False,
    strict: bool = False,
    **options: Any,
) -> Callable[[type[T]], Func[..., T]]: ...


def actor(
    code: Callable[..., Any] | None = None,
    *,
    fn_constructor_args: Iterable[Any] | None = None,
    fn_constructor_kwargs: Mapping[str, Any] | None = None,
    immutable: bool = False,
    strict: bool = False,
    **options: Any,
) -> Any:
    """Makes a class one whose actors SQL calls: each is built once, and called for its rows.

    Arguments as those of `func`; hints are those of `__call__`.

    >>> @mobula.actor(fn_constructor_args=[100])
    ... class Above:
    ...     def __init__(self, least):
    ...         self.least = least
    ...     def __call__(self, value: int) -> bool:
    ...         return value > self.least
    >>> mobula.range(200).filter(expr="Above(id)").count()
    99
    """
    if code is None:
        given = dict(fn_constructor_args=fn_constructor_args, fn_constructor_kwargs=fn_constructor_kwargs)
        return functools.partial(actor, immutable=immutable, strict=strict, **given, **options)
    if not isinstance(code, type):
        raise CodeRefused(f"{_name(code)} is no class. Write @mobula.func")
    construct = dict(fn_constructor_args=fn_constructor_args, fn_constructor_kwargs=fn_constructor_kwargs)
    return Func(code, _words(immutable, strict), _options(True, options), construct)


def is_func(value: object) -> TypeGuard[Func[..., Any]]:
    """Whether it is Python code that SQL can call."""
    return isinstance(value, Func)


def functions_of(text: str) -> dict[str, Func[..., Any]]:
    """The functions that SQL text calls by the names of the caller's variables."""
    return in_scope(calls.called_names(text), is_func)


def in_scope(names: set[str], wanted: Callable[[Any], bool]) -> dict[str, Any]:
    """Variables of the code that called the package, if they are what is wanted."""
    frame = inspect.currentframe()
    while frame is not None and os.path.dirname(frame.f_code.co_filename) == _HERE:
        frame = frame.f_back
    if frame is None:
        return {}
    frames = list(_around(frame))
    found: dict[str, Any] = {}
    for name in names:
        value = next((one.f_locals[name] for one in frames if _may_have(one, name) and name in one.f_locals), frame.f_globals.get(name))
        if wanted(value):
            found[name] = value
    return found


def _around(frame: types.FrameType) -> Iterator[types.FrameType]:
    """It and those whose variables its code sees: a lambda or comprehension holds of the function
    that it stands in what it mentions, and names in SQL are no mention."""
    yield frame
    inner, outer = frame, frame.f_back
    while outer is not None and inner.f_code.co_name in _NAMELESS:
        if inner.f_code in outer.f_code.co_consts:
            yield outer
            inner = outer
        outer = outer.f_back


def _may_have(frame: types.FrameType, name: str) -> bool:
    # Asking a function for its variables keeps them alive until it ends, before Python 3.13.
    code = frame.f_code
    return not code.co_flags & inspect.CO_OPTIMIZED or name in (*code.co_varnames, *code.co_cellvars, *code.co_freevars)


def _words(immutable: bool, strict: bool) -> str:
    return (" IMMUTABLE" if immutable else "") + (" STRICT" if strict else "")


def _options(is_class: bool, given: dict[str, Any]) -> dict[str, str]:
    size, batch_format = given.pop("batch_size", None), given.pop("batch_format", None)
    of_calls = ("compute", "concurrency", "num_cpus", "num_gpus", "memory", "resources", "label_selector")
    named = {key: given.pop(key) for key in of_calls if key in given}
    made = call_options(is_class=is_class, **named, engine=given)
    if size is not None:
        made["batch_size"] = str(int(size))
    if batch_format is not None:
        made["batch_format"] = sql_text.string(formats.check(batch_format, of_workers=True))
    return made


def _types(code: Any) -> tuple[str, str]:
    """Parameters and result as SQL says them."""
    hints = _hints(code)
    called = _call_of(code) if isinstance(code, type) else code
    parameters = list(inspect.signature(called).parameters.values())[1 if isinstance(code, type) else 0 :]
    made: list[str] = []
    left_out = ""
    for one in parameters:
        if one.kind is one.KEYWORD_ONLY:
            if one.default is one.empty:
                raise CodeRefused(f"{_name(code)} needs {one.name} by its name, and SQL gives arguments by their places")
        elif one.name in hints:
            if left_out:
                raise CodeRefused(f"{_name(code)} has no type hint for {left_out}, which stands before {one.name}. Give it one")
            made.append(f"{sql_text.name(one.name)} {_type(hints[one.name], one.name, code)}")
        elif one.default is one.empty or one.kind is one.VAR_POSITIONAL:
            raise CodeRefused(f"{_name(code)} has no type hint for {one.name}. Write {one.name}: float, or another type of its values")
        else:
            left_out = one.name
    if "return" not in hints:
        raise CodeRefused(f"{_name(code)} has no type hint for what it returns. Write -> float, or another type of its values")
    return ", ".join(made), _type(hints["return"], "return", code)


def _hints(code: Any) -> dict[str, Any]:
    told = code
    while isinstance(told, (functools.partial, Func)):
        told = told.func if isinstance(told, functools.partial) else told._code
    if isinstance(told, type) or not inspect.isroutine(told):
        told = _call_of(told if isinstance(told, type) else type(told))
    if not callable(told):
        raise CodeRefused(f"{_name(code)} cannot be called. Add a method __call__")
    try:
        return typing.get_type_hints(told)
    except Exception as error:
        raise CodeRefused(f"the type hints of {_name(code)} are not there at run time: {error}") from error


def _call_of(kind: type[Any]) -> Any:
    """The method of its objects, not that of its metaclass, which builds them."""
    return next((vars(base)["__call__"] for base in kind.__mro__[:-1] if "__call__" in vars(base)), None)


def _type(hint: Any, place: str, code: Any) -> str:
    try:
        return schemas.sql_type(hint, place)
    except CodeRefused as error:
        raise CodeRefused(f"{_name(code)}, {str(error).removeprefix('column ')}") from None


def _name(code: Any) -> str:
    while isinstance(code, functools.partial):
        code = code.func
    return getattr(code, "__name__", type(code).__name__)
