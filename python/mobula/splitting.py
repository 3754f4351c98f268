"""`streaming_split`: rows that several readers share, each in a process of its own if it likes.

The server has the query, under a name, and deals its rows out to whoever reads (docs/guide/splits.md):
nothing passes through this process, and nothing is kept.
"""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from . import arguments, sql_text
from .orders import unordered
from .positions import Position, Reading, Resumable, check_state, rest
from .results import Count, Results

if TYPE_CHECKING:
    import pyarrow as pa

    from .link import Link

_AS_THEY_COME = "who gets which rows differs at each run, unless they are dealt out: streaming_split(equal=True)"


class Splitting(Results):
    """What of `Dataset` is read by several."""

    def streaming_split(self, n: int, *, equal: bool = False) -> list[DataIterator]:
        """`n` readers that share the rows, each row for one of them.

        They can be sent to other processes, and read there at the same time. What all of them read
        the first time is one run of the query together, the second time is another: an epoch each.
        They end with this connection; those that were sent nowhere, when the last one is gone.

        Args:
            equal: all get as many rows, and wait for one another; up to `n - 1` rows are left out.
                Otherwise each gets the next block when it asks: a slow reader gets fewer rows and
                holds up nobody.

        >>> left, right = mobula.range(1000).streaming_split(2)
        >>> sum(1 for reader in (left, right) for row in reader.iter_rows())
        1000
        """
        n_readers = arguments.count("n of streaming_split", n, 1)
        split = _Split(self, n_readers, arguments.truth("equal of streaming_split", equal))
        return [DataIterator(split, place) for place in range(n_readers)]


class _Split:
    """A query that the server has for its readers, until this goes."""

    def __init__(self, dataset: Results, n: int, equal: bool) -> None:
        self.name: str = f"mobula_split_{uuid.uuid4().hex}"
        self.n = n
        self.equal = equal
        link = dataset._connection._link
        options = f"readers = {n}, equal = {'true' if equal else 'false'}"
        link.run(f"CREATE SPLIT {self.name} WITH ({options}) AS {dataset.to_sql()}")
        self.connect: Callable[[], Link] = link.elsewhere()
        # Rows that are kept are there as long as it is.
        self.dataset = dataset
        self._link = link
        weakref.finalize(self, link.run_later, f"DROP SPLIT IF EXISTS {self.name}")

    def sent(self) -> None:
        """A reader goes elsewhere: nobody here knows any more when it is through."""
        self._link.keep(self)


class DataIterator(Resumable):
    """One reader of a `streaming_split`.

    Each time that it is read is its next epoch; what it leaves unread of one is dropped if all do.
    A state is for the same reader of another split of the same query into as many; each of them
    has its own.
    """

    def __init__(self, split: _Split, place: int) -> None:
        super().__init__()
        self._unordered = unordered(split.dataset._step) if split.equal else _AS_THEY_COME
        self._split: _Split | None = split
        self._name, self._n, self._place, self._connect = split.name, split.n, place, split.connect
        self._link: Link | None = None

    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._connected().schema(self._sql())

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "reader": self._place, "readers": self._n}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        check_state(state_dict, "reader", "readers")
        reader, readers = state_dict["reader"], state_dict["readers"]
        if (reader, readers) != (self._place, self._n):
            raise ValueError(f"the state is that of reader {reader} of {readers}, and this is {self._place} of {self._n}, from 0")
        super().load_state_dict(state_dict)

    def _begin(self) -> Position:
        """Where the next reading begins: the one before had its epoch, to the end or not."""
        return self._next if self._reading is None else Position(self._reading.start.epoch + 1)

    def _read(self, is_exact: bool) -> tuple[Iterator[pa.RecordBatch], Count]:
        start = self._begin()
        reading = self._reading = Reading(start, start.epoch + 1, is_exact)
        return rest(self._stream()[1], start), reading

    def _stream(self) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        return self._connected().stream(self._sql())

    def _sql(self) -> str:
        return f"SELECT * FROM read_split({sql_text.string(self._name)}, {self._place})"

    def _connected(self) -> Link:
        """A connection of its own, in the process that reads."""
        if self._link is None:
            self._link = self._connect()
            weakref.finalize(self, self._link.close)
        return self._link

    def __getstate__(self) -> dict[str, Any]:
        if self._split is not None:
            self._split.sent()
        return {**self.__dict__, "_next": self._begin(), "_reading": None, "_split": None, "_link": None}

    def __repr__(self) -> str:
        return f"<mobula.DataIterator {self._place + 1} of {self._n}>"
