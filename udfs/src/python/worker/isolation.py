"""Rows that user code fails on, told one by one while the others go on.

A row function fails a row at a time. A batch that fails is halved down to the rows
that fail alone, if its function says the same when asked again; else all its rows
have failed, as have those of a group.
"""

import pyarrow as pa

from . import context
from .failure import Raised, Refused, TooMany, report, run, type_of
from .given import batches_of_rows
from .results import to_column, valid_batch, valid_column
from .rows import begin_rows, check_made, row_arguments

# What one frame of failures holds at most.
ROWS_OF_A_FRAME = 8192
BYTES_OF_A_FRAME = 200_000
TRACEBACK_CHARS_MAX = 4096


class Failures:
    """The rows of one block that failed, by their place in it."""

    def __init__(self, limit, in_words):
        self.limit = limit
        self.in_words = in_words
        # Where the rows stand that are counted from 0; None: they are the block.
        self.places = None
        self.count = 0
        self.rows = []
        # For each row, which report tells of it; of the first alone if not `in_words`.
        self.which = []
        self.reports = []
        self.last = None

    def add(self, row, error):
        """Row `row` failed with `error`; raises `TooMany` past the limit."""
        self.count += 1
        if self.limit is not None and self.count > self.limit:
            raise TooMany(report(error))
        self.rows.append(row if self.places is None else self.places[row])
        if not self.in_words and self.count > 1:
            return
        if error is not self.last:
            self.last = error
            self.reports.append(_told(error))
        self.which.append(len(self.reports) - 1)

    def take(self):
        """The bodies of frames that tell what was added since the last time."""
        rows, which, reports = self.rows, self.which, self.reports
        self.rows, self.which, self.reports, self.last = [], [], [], None
        start = 0
        while start < len(rows):
            first = known = which[start] if start < len(which) else len(reports)
            end, size = start, 0
            while end < len(rows) and end - start < ROWS_OF_A_FRAME and size < BYTES_OF_A_FRAME:
                if end < len(which) and which[end] >= known:
                    size += sum(map(len, reports[known].values()))
                    known += 1
                end += 1
            told = [number - first for number in which[start:end]]
            yield {"rows": rows[start:end], "which": told, "reports": reports[first:known]}
            start = end


def isolated_column(call, batch, kind, start, failures):
    """The values of a batch whose first row is row `start`; NULL where one failed."""
    context.at(start)
    if call.by_row:
        values = _values_of_rows(call, batch, start, failures)
        return converted_values(values, kind, start, failures)
    try:
        return valid_column(call.piece(batch, kind))
    except (Raised, Refused) as error:
        halves = _failed(call, batch, start, error, failures)
    if halves is None:
        return pa.nulls(batch.num_rows, kind)
    # The function may write to what it returned when it is called for the other half.
    return pa.concat_arrays([own(isolated_column(call, part, kind, at, failures)) for part, at in halves])


def own(column):
    """The same values in memory that user code knows nothing of."""
    # Of two arrays a new one is made; of one not.
    return pa.concat_arrays([column, column.slice(0, 0)])


def isolated_parts(call, batch, start, failures):
    """What a batch becomes without its rows that fail."""
    context.at(start)
    if call.by_row:
        groups = _groups_of_rows(call, batch, start, failures)
        return converted_groups(call, groups, failures)
    try:
        # All of them: a part that is sent cannot be taken back.
        parts = call.parts(batch)
        kept = own_batch if call.yields else valid_batch
        return [kept(part) for part in parts]
    except (Raised, Refused) as error:
        halves = _failed(call, batch, start, error, failures)
    return [own_batch(made) for part, at in halves or () for made in isolated_parts(call, part, at, failures)]


def own_batch(batch):
    """As `own`, of all columns of what is valid."""
    columns = [own(column) for column in valid_batch(batch).columns]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _failed(call, batch, start, error, failures):
    """The halves to try again, with their first rows; None if all is told."""
    raise_if_not_a_rows(error)
    if batch.num_rows > 1 and call.bisect and call.mode == "batches":
        half = batch.num_rows // 2
        return [(batch.slice(0, half), start), (batch.slice(half), start + half)]
    for row in range(start, start + batch.num_rows):
        failures.add(row, error)
    return None


def _values_of_rows(call, batch, start, failures):
    """What the function gives for each row; None where it failed."""
    context.at(start)
    try:
        columns = row_arguments(batch, call.takes_table)
    except Refused as error:
        if batch.num_rows == 1:
            failures.add(start, error)
            return [None]
        half = batch.num_rows // 2
        first = _values_of_rows(call, batch.slice(0, half), start, failures)
        return first + _values_of_rows(call, batch.slice(half), start + half, failures)
    begin_rows(call.code, batch, call.takes_table)
    rows = zip(*columns) if len(columns) > 1 else iter(columns[0] if columns else range(batch.num_rows))
    values, rows = [], iter(context.counted(rows))
    while True:
        try:
            _go_on(call.code, rows, len(columns), values, call.keeping.made)
            return values
        except BaseException as raised:
            error = Raised(raised, call.function)
        raise_if_not_a_rows(error)
        failures.add(start + len(values), error)
        values.append(None)


def _go_on(code, rows, params, values, kept):
    """Appends what `code` gives for the rows that are left; stops where it raises."""
    if params == 1:
        for value in rows:
            values.append(kept(code(value)))
    elif params:
        for row in rows:
            values.append(kept(code(*row)))
    else:
        for _ in rows:
            values.append(kept(code()))


def converted_values(values, kind, start, failures):
    try:
        return valid_column(to_column(values, len(values), kind, True))
    except Refused as error:
        if len(values) == 1:
            failures.add(start, error)
            return pa.nulls(1, kind)
    half = len(values) // 2
    first = converted_values(values[:half], kind, start, failures)
    return pa.concat_arrays([first, converted_values(values[half:], kind, start + half, failures)])


def _groups_of_rows(call, batch, start, failures):
    """For each row that did not fail: its place, and the rows it became."""
    known = len(failures.rows)
    values = _values_of_rows(call, batch, start, failures)
    failed = set(failures.rows[known:])
    groups = []
    for row, made in enumerate(values, start):
        if row in failed:
            groups.append((row, row_of_nulls(call)))
        elif call.mode == "map":
            groups.append((row, [made]))
        else:
            groups.append((row, _made_of(call, row, made, failures)))
    return groups


def _made_of(call, row, made, failures):
    """All rows that one row becomes."""
    try:
        check_made(made)
        return run(call.function, call.keeping.rows, made)
    except (Raised, Refused) as error:
        raise_if_not_a_rows(error)
        failures.add(row, error)
        return []


def converted_groups(call, groups, failures):
    rows = [row for _, made in groups for row in made]
    try:
        made = batches_of_rows(call.function, rows, call.output) if rows else ()
        return [valid_batch(part) for part in made]
    except Refused as error:
        if len(groups) == 1:
            failures.add(groups[0][0], error)
            nulls = row_of_nulls(call)
            return list(batches_of_rows(call.function, nulls, call.output)) if nulls else []
    half = len(groups) // 2
    return converted_groups(call, groups[:half], failures) + converted_groups(call, groups[half:], failures)


def row_of_nulls(call):
    return [dict.fromkeys(call.output.names)] if call.on_error == "null" else []


def raise_if_not_a_rows(error):
    """Lets through what is no fault of a row: an end that user code asked for."""
    ends = (SystemExit, KeyboardInterrupt, GeneratorExit)
    if isinstance(error, Raised) and isinstance(error.error, ends):
        raise error


def _told(error):
    told = report(error)
    traceback = told["traceback"] or ""
    return {"type": type_of(error), "message": told["message"], "traceback": traceback[-TRACEBACK_CHARS_MAX:]}
