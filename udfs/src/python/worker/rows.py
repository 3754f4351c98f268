"""Functions that are called row by row.

A row goes in as plain Python values, one a parameter, or whole, as a dict.
"""

import collections.abc

from .failure import Refused, run
from .results import named


def values_of_rows(function, code, batch, takes_table):
    """What the function gives for each row."""
    return run(function, list, _calls(code, batch, takes_table))


def rows_of_rows(function, code, batch, mode):
    """The rows that the function makes of each row."""
    calls = _calls(code, batch, True)
    return run(function, list, calls) if mode == "map" else _flattened(calls)


def _calls(code, batch, takes_table):
    """An iterator that makes the calls."""
    if takes_table:
        return map(code, batch.to_pylist())
    if not batch.num_columns:
        return (code() for _ in range(batch.num_rows))
    return map(code, *(column.to_pylist() for column in batch.columns))


def _flattened(results):
    for rows in results:
        is_row = isinstance(rows, (collections.abc.Mapping, str, bytes))
        if is_row or not isinstance(rows, collections.abc.Iterable):
            raise Refused(f"returned {named(rows)} for a row. Return a list of dicts, or yield dicts")
        yield from rows
