"""`zip`: rows of two datasets, paired by their places.

Rows of a query have no places but those that something gives them: a sort, a shuffle with a seed,
a series, or the process that they come from. There they are numbered, and the number goes along
as a column until the sides are joined by it. So nothing relies on the order in which rows happen
to come, which the engine is free to change.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from . import sql_text
from .drawn import PLACE, Drawn
from .errors import NotSupported, QueryFailed
from .orders import is_series
from .results import Results
from .steps import Local, Rendering, Renamed, Step, WithColumn, Wrapped

if TYPE_CHECKING:
    import pyarrow as pa

    from .connection import Connection
    from .dataset import Dataset


class Zipping(Results):
    """What of `Dataset` pairs rows."""

    def zip(self, *other: Dataset) -> Dataset:
        """The first row beside the first ones of the others, the second beside the second ones, and
        so on. Columns of a name that is taken get `_1`, `_2` behind it.

        It wants to know the places of rows: those of `sort`, `random_shuffle(seed=…)`, `range`,
        `from_items` and the like, also below `filter(expr=…)`, `limit`, and what chooses, renames
        and computes columns by SQL. Rows that `sort` holds for equal have them by all their columns.
        Each side is numbered in one stream; pairs come in no order in particular.

        Raises:
            NotSupported: rows of a side have no places. Give them an order by `sort`, or `join` by
                a column; a function can return its columns beside those it got.
            QueryFailed: when the rows are read, and one side has more than another.

        >>> names = mobula.from_items([{"name": "zero"}, {"name": "one"}])
        >>> mobula.range(2).zip(names).sort("id").take()
        [{'id': 0, 'name': 'zero'}, {'id': 1, 'name': 'one'}]
        """
        self._check_same_connection(*other)
        step = self._step
        for one in other:
            step = Zip(step, one._step, placed(step), placed(one._step))
        return self._then(step)

    def _check_same_connection(self, *other: Dataset) -> None:
        raise NotImplementedError

    def _then(self, step: Step) -> Dataset:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class Zip(Step):
    """Rows of two steps, side by side."""

    left: Step
    right: Step
    placed_left: Step
    placed_right: Step
    title: str = "zip"

    @property
    def inputs(self) -> tuple[Step, ...]:
        return (self.left, self.right)

    def sql(self, query: Rendering) -> str:
        return f"SELECT {', '.join(self._items(query))} {self._joined(query)}"

    def placed(self) -> Step:
        """The same with its places."""
        return _PlacedZip(self)

    def _items(self, query: Rendering) -> list[str]:
        left, right = (_columns(query, step) for step in (self.placed_left, self.placed_right))
        items = [f"l.{sql_text.name(column)}" for column in left]
        taken = set(left)
        for column in right:
            shown, n = column, 0
            while shown in taken:
                n += 1
                shown = f"{column}_{n}"
            taken.add(shown)
            items.append(f"r.{sql_text.name(column)} AS {sql_text.name(shown)}")
        return items

    def _joined(self, query: Rendering) -> str:
        left, right = query.name_of(self.placed_left), query.name_of(self.placed_right)
        # Only a cast fails for a row. All of it is computed for each, so that none can be pushed away.
        less, more = (f"concat('zip: row ', {one}.{PLACE}, ' of the {side} one has none beside it')" for one, side in _SIDES)
        check = f"CAST(CASE WHEN l.{PLACE} IS NULL THEN {more} WHEN r.{PLACE} IS NULL THEN {less} ELSE 'true' END AS BOOLEAN)"
        return f"FROM {left} AS l FULL JOIN {right} AS r ON l.{PLACE} = r.{PLACE} WHERE {check}"


_SIDES = (("l", "first"), ("r", "second"))


@dataclasses.dataclass(frozen=True, eq=False)
class _PlacedZip(Step):
    zipped: Zip
    title: str = "zip"

    def sql(self, query: Rendering) -> str:
        return f"SELECT {', '.join(self.zipped._items(query))}, l.{PLACE} {self.zipped._joined(query)}"


@dataclasses.dataclass(frozen=True, eq=False)
class _PlacedSort(Step):
    """Places in the order of an ORDER BY, and then of all columns."""

    source: Step
    order_by: str
    title: str = "places"

    def sql(self, query: Rendering) -> str:
        columns = sql_text.names(query.columns_of(self.source))
        return f"SELECT *, row_number() OVER ({self.order_by}, {columns}) AS {PLACE} FROM {query.name_of(self.source)}"


@dataclasses.dataclass(frozen=True, eq=False)
class _PlacedDraw(Step):
    """Places as a shuffle draws them."""

    draw: Drawn
    title: str = "places"

    def sql(self, query: Rendering) -> str:
        return self.draw.placed_sql(query)


@dataclasses.dataclass(frozen=True, eq=False)
class _PlacedLocal(Step):
    """Rows of this process, which is who knows their places."""

    local: Local
    rows: Local
    title: str = "places"

    def sql(self, query: Rendering) -> str:
        connection = query.connection
        uploads = connection._uploads
        is_first = id(self.rows) not in uploads
        place = connection._uploaded(self.rows, self.rows.read)
        if id(self.local) not in uploads:
            # Whoever wants them without places has them from here.
            uploads[id(self.local)] = (self.local, f"(SELECT * EXCEPT ({PLACE}) FROM {place})")
        elif is_first:
            _check_read_again(connection, place, uploads[id(self.local)][1])
        return f"SELECT * FROM {place}"


def placed(step: Step) -> Step:
    """A step with the rows of `step` and their places.

    Raises:
        NotSupported: they have none.
    """
    if is_series(step):
        return Wrapped(f"SELECT *, id + 1 AS {PLACE}", step, "", "places")
    if isinstance(step, Zip):
        return step.placed()
    if isinstance(step, Local):
        return _of_local(step)
    if isinstance(step, Drawn) and step.fraction is None and step.seed is not None:
        return _PlacedDraw(step)
    if isinstance(step, WithColumn):
        return dataclasses.replace(step, source=placed(step.source))
    if isinstance(step, Renamed):
        names = [*step.names, PLACE] if isinstance(step.names, list) else step.names
        return Renamed(placed(step.source), names)
    if isinstance(step, Wrapped) and step.order is not None:
        return _of_wrapped(step)
    raise NotSupported(
        f"rows have no places behind {step.label!r}, and zip pairs them by these."
        " Sort them, or use random_shuffle(seed=…), or join by a column"
    )


def _of_wrapped(step: Wrapped) -> Step:
    if step.order == "sort":
        return _PlacedSort(step.source, step.after)
    source = placed(step.source)
    if step.order == "project":
        chosen = step.before if step.before.startswith("SELECT * ") else f"{step.before}, {PLACE}"
        return dataclasses.replace(step, before=chosen, source=source)
    if step.order == "limit":
        return dataclasses.replace(step, after=f" WHERE {PLACE} <= {step.after.rpartition(' ')[2]}", source=source)
    anew = f"SELECT * EXCEPT ({PLACE}), row_number() OVER (ORDER BY {PLACE}) AS {PLACE}"
    return dataclasses.replace(step, before=anew, source=source)


# Rows of this process with places, as long as those without are there: they are sent once.
_locals: weakref.WeakKeyDictionary[Local, Local] = weakref.WeakKeyDictionary()


def _of_local(step: Local) -> _PlacedLocal:
    read, title = step.read, f"{step.title}, places"
    rows = _locals.setdefault(step, Local(lambda: _numbered(read()), title))
    return _PlacedLocal(step, rows)


def _numbered(rows: pa.RecordBatchReader) -> pa.RecordBatchReader:
    import pyarrow as pa
    import pyarrow.compute as pc

    # The stubs know an array by the type of its values, which may be any here.
    arrow, compute = cast(Any, pa), cast(Any, pc)
    schema: pa.Schema = arrow.schema([*rows.schema, (PLACE, pa.int64())])

    def batches() -> Iterator[pa.RecordBatch]:
        n_before = 0
        for batch in rows:
            places = compute.cumulative_sum(arrow.repeat(arrow.scalar(1, pa.int64()), batch.num_rows), start=n_before)
            yield arrow.RecordBatch.from_arrays([*cast(Any, batch).columns, places], schema=schema)
            n_before += batch.num_rows

    return pa.RecordBatchReader.from_batches(schema, batches())


def _check_read_again(connection: Connection, placed: str, read_before: str) -> None:
    """Raises QueryFailed where rows came from a stream, which has none left."""
    counts = connection._link.table(f"SELECT (SELECT count(*) FROM {placed}) = (SELECT count(*) FROM {read_before})")
    if not counts.column(0)[0].as_py():
        raise QueryFailed("these rows came from a stream, and have been read. Zip them first, or give a table")


def _columns(query: Rendering, step: Step) -> list[str]:
    return [column for column in query.columns_of(step) if column != PLACE]
