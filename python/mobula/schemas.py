"""Types of columns: of Arrow and of Python, as SQL says them.

A schema for user code is a `pyarrow.Schema`, a dict of names and types, a class with
annotations (`TypedDict`, dataclass, `NamedTuple`), or SQL text, `"a BIGINT, b VARCHAR"`.
"""

from __future__ import annotations

import collections.abc
import datetime
import decimal
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Union, cast

from . import sql_text
from .errors import CodeRefused
from .local_rows import is_mapping

if TYPE_CHECKING:
    import pyarrow as pa

Schema = Union["pa.Schema", Mapping[str, Any], type[Any], str]
"""What `schema=` takes."""

_OF_PYTHON = {
    bool: "BOOLEAN",
    int: "BIGINT",
    float: "DOUBLE",
    str: "VARCHAR",
    bytes: "BYTEA",
    # What Python has: microseconds. Alone, the word means nanoseconds, and the years 1678 to 2262.
    datetime.datetime: "TIMESTAMP(6)",
    datetime.date: "DATE",
    datetime.time: "TIME",
    datetime.timedelta: "DURATION",
    decimal.Decimal: "DECIMAL(38, 10)",
}
_OF_ARROW = {
    "bool": "BOOLEAN",
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INT",
    "int64": "BIGINT",
    "uint8": "TINYINT UNSIGNED",
    "uint16": "SMALLINT UNSIGNED",
    "uint32": "INT UNSIGNED",
    "uint64": "BIGINT UNSIGNED",
    "halffloat": "REAL",
    "float": "REAL",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "large_string": "VARCHAR",
    "string_view": "VARCHAR",
    "binary": "BYTEA",
    "large_binary": "BYTEA",
    "binary_view": "BYTEA",
    "date32[day]": "DATE",
    "date64[ms]": "DATE",
}
# Of numpy and pandas: they have nanoseconds.
_TIMES = {"datetime64": "TIMESTAMP(9)", "Timestamp": "TIMESTAMP(9)", "timedelta64": "DURATION(9)", "Timedelta": "DURATION(9)"}
_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}


def columns_of(schema: Schema) -> str:
    """What stands in `RETURNS TABLE(…)`.

    Raises:
        CodeRefused: a type that SQL does not have, or a schema without columns.
    """
    if isinstance(schema, str):
        return schema
    given: Any = schema
    if is_mapping(given):
        fields = [(column, sql_type(kind, column)) for column, kind in given.items()]
    elif isinstance(given, type):
        fields = [(column, sql_type(kind, column)) for column, kind in _hints(given).items()]
    elif _is_arrow(given) and hasattr(given, "names"):
        fields = [(column, of_arrow(kind, column)) for column, kind in zip(given.names, given.types)]
    else:
        raise CodeRefused(f"{given!r} is no schema. Give a dict of names and types, schema={{'name': int}}, a class with annotations, or SQL text")
    if not fields:
        raise CodeRefused("a schema without columns. Say what comes back: schema={'name': type}")
    return ", ".join(f"{sql_text.name(_checked_name(column))} {kind}" for column, kind in fields)


def _hints(kind: type[Any]) -> dict[str, Any]:
    """The fields of a class with their types."""
    try:
        hints = typing.get_type_hints(kind)
    except Exception as error:
        raise CodeRefused(f"the annotations of {kind.__name__} are not there at run time: {error}") from error
    return {name: hint for name, hint in hints.items() if typing.ClassVar not in (hint, typing.get_origin(hint))}


def _checked_name(column: Any) -> str:
    if not isinstance(column, str) or "\0" in column:
        raise CodeRefused(f"{column!r} is no name of a column. Names are texts: schema={{'name': type}}")
    return column


def sql_type(kind: Any, column: str) -> str:
    """A Python type, an Arrow type or SQL text as an SQL type."""
    if isinstance(kind, str):
        return _checked_type(kind, column)
    if is_mapping(kind):
        return _struct([(str(name), sql_type(inner, column)) for name, inner in kind.items()], column)
    arrow = _arrow_type(kind)
    if arrow is not None:
        return of_arrow(arrow, column)
    if isinstance(kind, type):
        if kind in _OF_PYTHON:
            return _OF_PYTHON[kind]
        if kind.__name__ in _TIMES and _library(kind) in ("numpy", "pandas"):
            return _TIMES[kind.__name__]
    origin: Any = typing.get_origin(kind)
    inner: tuple[Any, ...] = typing.get_args(kind)
    if origin in (list, collections.abc.Sequence) and inner:
        return sql_type(inner[0], column) + "[]"
    if origin is typing.Annotated:
        return sql_type(inner[0], column)
    if origin is typing.Literal:
        inner = tuple({cast(Any, type(value)) for value in inner})
    # `int | None`: every column may have NULL.
    known = [one for one in inner if one is not type(None)]
    if origin in (Union, types.UnionType, typing.Literal) and len(known) == 1:
        return sql_type(known[0], column)
    ways = f"{_known()}, list[…], a dict for a STRUCT, Arrow types, or SQL text"
    raise CodeRefused(f'column "{column}" has the type {kind!r}, which has no SQL type. Use {ways}')


def _checked_type(text: str, column: str) -> str:
    """`text` where it is one type, and not the end of one or the next column."""
    depth, is_one = 0, text.strip() != ""
    for kind, token in sql_text.tokens(text):
        depth += (token in ("(", "<", "[")) - (token in (")", ">", "]"))
        is_one = is_one and depth >= 0 and kind in ("word", "quoted", "blank", "other") and token != ";" and (token != "," or depth > 0)
    if not is_one or depth:
        raise CodeRefused(f'column "{column}" has the type {text!r}, which is not one SQL type. Give each column its own: schema={{\'name\': \'BIGINT\'}}')
    return text


def _library(kind: type[Any]) -> str:
    return kind.__module__.partition(".")[0]


def _is_arrow(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "pyarrow"


def _arrow_type(kind: Any) -> Any:
    """A type of Arrow or numpy as one of Arrow; None for others."""
    module = type(kind).__module__.partition(".")[0]
    if module == "pyarrow":
        # A `Field` has a name of its own, which says nothing here.
        return kind if hasattr(kind, "num_fields") else getattr(kind, "type", None)
    if module == "numpy" or getattr(kind, "__module__", None) == "numpy":
        import pyarrow as pa

        try:
            return pa.from_numpy_dtype(kind)
        except (pa.ArrowException, TypeError):
            return None
    return None


def _struct(fields: list[tuple[str, str]], column: str) -> str:
    if not fields:
        raise CodeRefused(f'column "{column}" has dicts without keys, and SQL has no such type. Say schema=')
    return f"STRUCT<{', '.join(f'{sql_text.name(name)} {kind}' for name, kind in fields)}>"


def _known() -> str:
    return ", ".join(kind.__name__ for kind in _OF_PYTHON)


def of_arrow(kind: pa.DataType, column: str) -> str:
    """An Arrow type as an SQL type."""
    import pyarrow.types as t

    known = _OF_ARROW.get(str(kind))
    if known:
        return known
    if t.is_decimal(kind):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    if t.is_timestamp(kind):
        return f"TIMESTAMP({_DIGITS[kind.unit]})" + (" WITH TIME ZONE" if kind.tz else "")
    if t.is_time(kind):
        return "TIME"
    if t.is_duration(kind):
        return f"DURATION({_DIGITS[kind.unit]})"
    if t.is_interval(kind):
        return "INTERVAL"
    if t.is_dictionary(kind):
        return of_arrow(kind.value_type, column)
    if t.is_fixed_size_list(kind):
        return of_arrow(kind.value_type, column) + f"[{kind.list_size}]"
    if t.is_list(kind) or t.is_large_list(kind):
        return of_arrow(kind.value_type, column) + "[]"
    if t.is_struct(kind):
        fields: list[pa.Field[Any]] = list(kind)
        return _struct([(field.name, of_arrow(field.type, column)) for field in fields], column)
    if t.is_null(kind):
        return "NULL"
    raise CodeRefused(f'column "{column}" has the Arrow type {kind}, which SQL does not have. Cast it, and say schema=')


def check_learned(found: pa.Schema, given: pa.Schema) -> None:
    """Raises CodeRefused where the first rows do not say a type, but for columns that came in without one."""
    came_in = dict(zip(given.names, given.types))
    for column, kind in zip(found.names, found.types):
        if _has_null(kind) and came_in.get(column) != kind:
            problem = f'column "{column}" has only None or empty lists in the first rows, so its type is not known'
            raise CodeRefused(f"{problem}. Say it: schema={{'{column}': str, …}}")


def _has_null(kind: Any) -> bool:
    import pyarrow.types as t

    return t.is_null(kind) or any(_has_null(kind.field(place).type) for place in range(kind.num_fields))


def annotated(code: Any) -> Schema | None:
    """The schema that the return annotation of a function of rows says, if it does.

    A class with annotated fields, or an `Iterator`, `Iterable`, `Generator` or `list` of one.
    """
    called = code.__call__ if isinstance(code, type) else code
    called = getattr(called, "func", called)
    try:
        returned = typing.get_type_hints(called).get("return")
    except Exception:  # Annotations may name what is not there at run time.
        return None
    if typing.get_origin(returned) is not None:
        returned = next(iter(typing.get_args(returned)), None)
    has_fields = isinstance(returned, type) and getattr(returned, "__annotations__", None)
    return returned if has_fields else None
