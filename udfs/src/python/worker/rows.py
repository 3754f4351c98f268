"""Functions that are called row by row.

A row goes in as plain Python values, one a parameter, or whole, as a dict. Calls
are made in loops of our own: `map` would take a StopIteration that user code
raises for the end of the rows.
"""

import collections.abc

from .failure import Refused, run
from .results import named


def values_of_rows(function, code, batch, takes_table):
    """What the function gives for each row."""
    return run(function, _each, code, batch, takes_table)


def rows_of_rows(function, code, batch, mode):
    """The rows that the function makes of each row."""
    if mode == "map":
        return run(function, _each, code, batch, True)
    return _flattened(function, code, batch.to_pylist())


def _each(code, batch, takes_table):
    if takes_table:
        return [code(row) for row in batch.to_pylist()]
    columns = [column.to_pylist() for column in batch.columns]
    if not columns:
        return [code() for _ in range(batch.num_rows)]
    if len(columns) == 1:
        return [code(value) for value in columns[0]]
    return [code(*values) for values in zip(*columns)]


def _flattened(function, code, rows):
    for row in rows:
        made = run(function, code, row)
        is_row = isinstance(made, (collections.abc.Mapping, str, bytes))
        if is_row or not isinstance(made, collections.abc.Iterable):
            raise Refused(f"returned {named(made)} for a row. Return a list of dicts, or yield dicts")
        yield from made
