"""Several functions that a block goes through without leaving the worker.

Functions of values each make a column of columns that came in or were made before;
what they made is sent back. Rows that a function of rows makes go on to functions
that are called row by row: `map`, `flat_map` and `filter`. Between two functions
values have the types that the first one declares, as if they had been sent back.
"""

import pyarrow as pa

from .failure import of_function
from .isolation import own


class Chain:
    """Loaded calls, in the order they run."""

    # Only `def`s are put together, and none that is async, or asks for its context.
    kind = "function"
    is_async = False
    asks = False
    keeper = None

    def __init__(self, steps, input):
        self.steps = steps
        self.input = input

    def forget(self):
        for step in self.steps:
            step.forget()

    def failures(self, _limit):
        """The first row that fails ends the call: others are not put together."""
        return None

    def take_retries(self):
        return sum(step.take_retries() for step in self.steps)

    def outputs(self, block, _failures):
        """Blocks of the last function's rows, or one of all values."""
        if self.steps[0].table:
            yield from self._rows(block, 0)
        else:
            yield self._values(block)

    def _values(self, block):
        made = []
        for step in self.steps:
            # One that comes twice may write to what it returned the first time.
            made.append(own(_column(step, block.columns, made)))
        return pa.RecordBatch.from_arrays(made, names=[step.output.names[0] for step in self.steps])

    def _rows(self, rows, place):
        """What `rows` become from the function at `place` on."""
        if place == len(self.steps):
            yield rows
            return
        for part in _passed(self.steps[place], rows):
            if part.num_rows:
                yield from self._rows(part, place + 1)


def _passed(step, rows):
    """What one function makes of rows."""
    if step.table:
        yield from _parts(step, rows if step.takes is None else _taken(step, rows.columns, []))
        return
    column = _column(step, rows.columns, [])
    if step.mode == "filter":
        # NULL drops the row, as in WHERE.
        yield rows.filter(column)
    else:
        names = [*rows.schema.names, step.output.names[0]]
        yield pa.RecordBatch.from_arrays([*rows.columns, column], names=names)


def _parts(step, rows):
    parts = step.outputs(rows, None)
    while True:
        with of_function(step.function):
            part = next(parts, None)
        if part is None:
            return
        yield part


def _column(step, columns, made):
    """The values of a function of values."""
    with of_function(step.function):
        (values,) = step.outputs(_taken(step, columns, made), None)
    return values.column(0)


def _taken(step, columns, made):
    arrays = []
    for take in step.takes:
        [(kind, place)] = take.items()
        arrays.append(columns[place] if kind == "in" else made[place])
    return pa.RecordBatch.from_arrays(arrays, schema=step.input)
