"""Functions that are called row by row.

A row goes in as plain Python values, one a parameter, or whole, as a dict. Calls
are made in loops of our own: `map` would take a StopIteration that user code
raises for the end of the rows.
"""

import collections.abc
import itertools

from .arguments import python_values
from .context import counted
from .failure import Refused, run
from .given import LASTING, SINGLE, batches_of_calls, batches_of_rows, copied, row_of
from .results import PLAIN, named
from .retry import begin


def values_of_rows(function, code, batch, takes_table, kind, changing):
    """What the function gives for each row, of the type `kind`. `changing`: the same, if such values can change."""
    columns = row_arguments(batch, takes_table)
    begin_rows(code, batch, takes_table)
    each, how = (_each, PLAIN.get(kind.id)) if changing is None else (_each_held, changing)
    return run(function, each, code, columns, batch.num_rows, how)


def rows_of_rows(function, code, batch, mode, schema):
    """The rows that the function makes of each row, in batches."""
    begin_rows(code, batch, True)
    [rows] = row_arguments(batch, True)
    if mode == "map":
        return batches_of_calls(function, code, rows, schema)
    return batches_of_rows(function, _flattened(function, code, rows), schema)


def begin_rows(code, batch, takes_table):
    """The next calls of `code` are for the rows of `batch`, one after the other."""

    def made(row):
        return tuple(column[0] for column in row_arguments(batch.slice(row, 1), takes_table))

    begin(code, made)


def row_arguments(batch, takes_table):
    """A list of Python values for each parameter, or of dicts for the only one."""
    columns = _python_columns(batch)
    if not takes_table:
        return columns
    names = batch.schema.names
    if not columns:
        return [[{} for _ in range(batch.num_rows)]]
    return [[dict(zip(names, values)) for values in zip(*columns)]]


def check_made(made):
    """Refuses what is no rows made of a row."""
    is_row = isinstance(row_of(made), (collections.abc.Mapping, str, bytes))
    if is_row or not isinstance(made, collections.abc.Iterable):
        raise Refused(f"returned {named(made)} for a row. Return a list of dicts, or yield dicts")


def _python_columns(batch):
    columns, given = [], batch.columns
    try:
        for column in given:
            columns.append(python_values(column))
    except MemoryError:
        raise
    except BaseException as error:
        name = batch.schema.names[len(columns)]
        raise Refused(
            f'cannot be given column "{name}" ({column.type}): Python has no such value: {error}.'
            " Leave those rows out, or CAST the column"
        ) from None
    return columns


def _each(code, columns, count, plain):
    """Values that cannot be changed, but for arrays without dimensions, of numpy or torch; most are `plain`."""
    last, single = LASTING, SINGLE
    if not columns:
        return [made if type(made := code()) is plain or type(made) in last else copied(made, single) for _ in counted(range(count))]
    if len(columns) == 1:
        return [made if type(made := code(value)) is plain or type(made) in last else copied(made, single) for value in counted(columns[0])]
    return [made if type(made := code(*values)) is plain or type(made) in last else copied(made, single) for values in counted(zip(*columns))]


def _each_held(code, columns, count, changing):
    made = []
    for values in counted(zip(*columns) if columns else itertools.repeat((), count)):
        made.append(changing.held([code(*values)], 0, True))
    return made


def _flattened(function, code, rows):
    for row in counted(rows):
        made = run(function, code, row)
        check_made(made)
        yield from made
