"""Arguments of callers, checked before they become SQL.

What is wrong with one is said in Python's words: a TypeError or ValueError with the name of the
argument, its value, and what to give instead.
"""

from __future__ import annotations

import operator
import os
import reprlib
from collections.abc import Iterable
from typing import Any, SupportsIndex, cast

from .local_rows import is_mapping


def column_names(argument: str, given: object) -> list[str]:
    """The names in `given`: one, or several, each once."""
    names = [given] if isinstance(given, str) else _listed(given)
    if names is None or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{argument} is {reprlib.repr(given)}. Give the name of a column, or a list of names")
    if not names:
        raise ValueError(f"{argument} is {given!r}, without a column. Give the name of one, or a list of names")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{argument} has {twice!r} twice. Name each column once")
    return names


def paths(argument: str, given: object) -> list[str]:
    """The paths in `given`: one, or several."""
    several = [cast(object, given)] if isinstance(given, (str, os.PathLike)) else _listed(given)
    texts = None if several is None else [_path(one) for one in several]
    if texts is None or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{argument} is {reprlib.repr(cast(object, given))}. Give a path, a str or os.PathLike, or a list of those")
    if not texts:
        raise ValueError(f"no paths to read: {argument} is {given!r}")
    if "" in texts:
        raise ValueError(f"{argument} has an empty path. A directory of its own is '.'")
    return texts


def count(argument: str, given: object, least: int, way_out: str = "") -> int:
    """The whole number that `given` is, from `least` on."""
    wanted = f"Give a whole number from {least}{way_out}"
    if isinstance(given, bool) or not hasattr(given, "__index__"):
        raise TypeError(f"{argument} is {reprlib.repr(given)}. {wanted}")
    number = operator.index(cast(SupportsIndex, given))
    if number < least:
        raise ValueError(f"{argument} is {number}. {wanted}")
    return number


def deviation(ddof: object) -> str:
    """The function of SQL for a standard deviation with so many fewer degrees of freedom than values."""
    if isinstance(ddof, bool) or ddof not in (0, 1):
        raise ValueError(f"ddof is {ddof!r}. Give 1 for the deviation of a sample, 0 for that of all there is")
    return "stddev" if ddof else "stddev_pop"


def truth(argument: str, given: object) -> bool:
    """`given`, if it is True or False."""
    if not isinstance(given, bool):
        raise TypeError(f"{argument} is {reprlib.repr(given)}. Give True or False")
    return given


def _path(given: object) -> Any:
    return os.fspath(cast("os.PathLike[Any]", given)) if isinstance(given, os.PathLike) else given


def _listed(given: object) -> list[Any] | None:
    """Its elements. Bytes are no numbers here, and a dict is no list of its keys."""
    if isinstance(given, (bytes, bytearray)) or is_mapping(given) or not isinstance(given, Iterable):
        return None
    return list(cast("Iterable[Any]", given))
