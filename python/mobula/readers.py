"""Calls of `read_csv`, `read_json` and `read_parquet` as SQL has them.

It is always a call and never a path alone behind FROM, which would be read by its ending. Options
are checked here: the server has texts for all of them.
"""

from __future__ import annotations

import glob
import os
import reprlib
from collections.abc import Mapping
from typing import Any

from . import arguments, sql_text
from .schemas import columns_of

_COMPRESSIONS = {"gzip": ".gz", "bzip2": ".bz2", "xz": ".xz", "zstd": ".zst", "uncompressed": ""}
_CHARACTERS = ("delimiter", "quote", "escape", "comment")


def call(reader: str, location: str, options: Mapping[str, str]) -> str:
    """The relation that has the rows of `location`."""
    words = "".join(f", {key} => {value}" for key, value in options.items())
    return f"{reader}({sql_text.string(location)}{words})"


def options(reader: str, given: Mapping[str, Any]) -> dict[str, str]:
    """Those that are said, as SQL has their values.

    Raises:
        TypeError: a value of another kind. ValueError: one that there is not.
    """
    return {key: _option(f"{key} of {reader}", key, value) for key, value in given.items() if value is not None}


def inside(directory: str, reader: str, compression: str | None) -> list[str]:
    """What to read of a directory, by each ending that the format's files have there: those that lie in
    it, else those below it. One without such files stays as it is.
    """
    kinds = [compression, "uncompressed"] if compression else list(_COMPRESSIONS)
    ends = [""] if reader == "read_parquet" else [*dict.fromkeys(_COMPRESSIONS[kind] for kind in kinds)]
    endings = [f"*.{reader.removeprefix('read_')}{end}" for end in ends]
    for below in ("", "**"):
        patterns = [os.path.join(glob.escape(directory), below, ending) for ending in endings]
        found = [pattern for pattern in patterns if next(glob.iglob(pattern, recursive=True), None)]
        if found:
            return found
    return [os.path.join(directory, "")]


def _option(argument: str, key: str, value: Any) -> str:
    if key == "schema":
        columns = columns_of(value)
        if not columns.strip():
            raise ValueError(f"{argument} is {value!r}, without a column. Say name and type of each, or leave it out")
        return sql_text.string(columns)
    if key == "compression":
        return sql_text.string(_compression(argument, value))
    if key in _CHARACTERS:
        return sql_text.string(_character(argument, value))
    if key == "infer_rows":
        return sql_text.literal(arguments.count(argument, value, 1))
    return sql_text.literal(arguments.truth(argument, value))


def _character(argument: str, value: Any) -> str:
    wanted = "Give one ASCII character, and no line break"
    if not isinstance(value, str):
        raise TypeError(f"{argument} is {reprlib.repr(value)}. {wanted}")
    if len(value) != 1 or not value.isascii() or value in "\r\n\0":
        raise ValueError(f"{argument} is {value!r}. {wanted}")
    return value


def _compression(argument: str, value: Any) -> str:
    if not isinstance(value, str) or value not in _COMPRESSIONS:
        raise ValueError(f"{argument} is {reprlib.repr(value)}. There are {', '.join(_COMPRESSIONS)}")
    return value
