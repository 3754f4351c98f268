"""The public methods of a class, and their SQL types as its hints say.

Used where a named actor is created: what SQL can call is known before it is built.
"""

import datetime
import inspect
import types
import typing

# A hint's own name is what users know it by.
_TYPES = {
    bool: "BOOLEAN",
    int: "BIGINT",
    float: "DOUBLE",
    str: "VARCHAR",
    bytes: "BYTEA",
    datetime.date: "DATE",
    datetime.datetime: "TIMESTAMP",
    datetime.time: "TIME",
}
# Of whole batches, by the package of their type.
_FORMATS = {"numpy": "numpy", "pyarrow": "pyarrow", "pandas": "pandas", "polars": "polars"}
# Words of the engine to an actor, not of its users.
_RESERVED = ("snapshot", "restore")
_ADVICE = "Write a type as int, str or list[float], any SQL type as 'DECIMAL(10,2)', or Annotated[numpy.ndarray, 'DOUBLE'] for whole batches"


class Unknown(Exception):
    """A hint that is no SQL type; its text is the hint."""


def described(code):
    """What READY says of the class `code`."""
    found = {}
    for name in dir(code):
        if name.startswith("_") or name in _RESERVED:
            continue
        kind = inspect.getattr_static(code, name)
        if isinstance(kind, (staticmethod, classmethod)) or inspect.isfunction(kind):
            # SQL makes names lower case: of two alike the first counts.
            found.setdefault(name.lower(), _method(name, getattr(code, name), inspect.isfunction(kind)))
    return list(found.values())


def _method(name, code, has_self):
    method = {"name": name, "params": [], "returns": None, "batches": None, "problem": None}
    try:
        signature = inspect.signature(code)
    except (TypeError, ValueError):
        return method | {"problem": "has no signature that Python knows. Write a method around it"}
    parameters = list(signature.parameters.values())[1 if has_self else 0 :]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    # What has a default and no type is not for SQL.
    named = [p for p in named if p.annotation is not p.empty or p.default is p.empty]
    method["params"] = [{"name": p.name, "type": None} for p in named]
    try:
        _fill(method, code, parameters, named, signature.return_annotation)
    except Unknown as problem:
        method["problem"] = str(problem)
    return method


def _fill(method, code, parameters, named, returned):
    if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
        raise Unknown("is async, which is not supported. Use a plain def")
    keyword = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY and p.default is p.empty]
    if keyword:
        raise Unknown(f"has the parameter {keyword[0]} that needs a keyword, but arguments are given by position")
    formats = []
    for parameter, told in zip(named, method["params"]):
        if parameter.annotation is parameter.empty:
            raise Unknown(f'says no type of "{parameter.name}". {_ADVICE}')
        told["type"], batches = _sql(code, parameter.annotation, f'for "{parameter.name}"')
        formats.append(batches)
    if returned is inspect.Signature.empty:
        raise Unknown(f"says no type of what it returns. {_ADVICE}; -> None where it returns nothing")
    # What returns nothing is called for what it does.
    method["returns"], batches = _sql(code, returned, "for what it returns") if returned is not None else ("VARCHAR", None)
    formats = [batches for batches in formats or [batches] if batches]
    takes_table = any(told["type"].upper() == "TABLE" for told in method["params"])
    if formats:
        method["batches"] = formats[0]
    elif takes_table:
        method["batches"] = "numpy"
    if inspect.isgeneratorfunction(code) and not takes_table:
        raise Unknown("yields, but returns one value a row. Return it, or take a 'TABLE' and return 'TABLE(x BIGINT)'")


def _sql(code, hint, where):
    """The SQL type of a hint, and the format of batches that it speaks of."""
    hint = _resolved(code, hint)
    batches = None
    if typing.get_origin(hint) is typing.Annotated:
        base, *said = typing.get_args(hint)
        batches = _FORMATS.get(getattr(base, "__module__", "").partition(".")[0])
        said = [text for text in said if isinstance(text, str)]
        hint = said[0] if said else base
    text = _text(hint)
    if text is None:
        raise Unknown(f"has the type hint {_named(hint)} {where}, which is no SQL type. {_ADVICE}")
    return text, batches


def _text(hint):
    if isinstance(hint, str):
        return hint
    if hint is None or hint is type(None):
        return "VARCHAR"
    try:
        if hint in _TYPES:
            return _TYPES[hint]
    except TypeError:
        return None
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is list and len(inner) == 1:
        element = _text(inner[0])
        return element and f"{element}[]"
    if origin in (typing.Union, getattr(types, "UnionType", None)):
        inner = [kind for kind in inner if kind is not type(None)]
        return _text(inner[0]) if len(inner) == 1 else None
    return None


def _resolved(code, hint):
    """A hint that is a text may be Python, put off by `from __future__`, or SQL."""
    for _ in range(2):
        if not isinstance(hint, str):
            break
        try:
            meant = eval(hint, dict(vars(typing), **getattr(code, "__globals__", {})))
        except Exception:
            break
        is_hint = isinstance(meant, (type, str)) or meant is None or typing.get_origin(meant) is not None
        if not is_hint:
            break
        hint = meant
    return hint


def _named(hint):
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        inside = hint.__module__ in ("builtins", "__main__") or hint.__module__.startswith("mobula_function")
        return hint.__qualname__ if inside else f"{hint.__module__}.{hint.__qualname__}"
    return str(hint)
