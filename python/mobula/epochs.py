"""`repeat`: the rows of a query again and again, each epoch a run of it of its own.

Nothing is kept between them, so this is no step of a query: what is done with the rows comes
before it, and is done anew.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from . import arguments
from .errors import QueryFailed
from .orders import unordered
from .positions import Position, Reading, Resumable, check_state, rest
from .results import Count, Results, Streamed
from .steps import tree

if TYPE_CHECKING:
    import pyarrow as pa


class Repeating(Results):
    """What of `Dataset` is read several times over."""

    def repeat(self, times: int | None = None) -> Epochs:
        """The rows `times` times, or without end: each epoch is a run of the query, so that what is
        drawn without a seed is drawn anew.

        >>> for epoch in mobula.range(1000).repeat(2).iter_epochs():
        ...     sum(len(batch["id"]) for batch in epoch.iter_batches())
        1000
        1000
        """
        return Epochs(self, None if times is None else arguments.count("times of repeat", times, 1, ", or None"))


class Epochs(Resumable):
    """What `repeat` gives. Read as a whole it is one stream: a batch may have the last rows of an
    epoch and the first ones of the next, which begins when the last one has been read.

    >>> [batch["id"].tolist() for batch in mobula.range(3).repeat(2).iter_batches(batch_size=4)]
    [[0, 1, 2, 0], [1, 2]]
    """

    def __init__(self, dataset: Results, times: int | None) -> None:
        super().__init__()
        self._dataset = dataset
        self._times = times
        self._unordered = unordered(dataset._step)

    def iter_epochs(self) -> Iterator[Epoch]:
        """Each epoch by itself: no batch has rows of two, and `drop_last` is about each of them.

        >>> [epoch.number for epoch in mobula.range(10).repeat(2).iter_epochs()]
        [0, 1]
        """
        start, self._next = self._next, Position()
        for number in self._numbers(start):
            epoch = Epoch(self, start if number == start.epoch else Position(number))
            epoch.begin()
            yield epoch
            # Whoever goes on has left this one.
            self._reading = Reading(Position(number + 1), number + 1)

    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._dataset.schema()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        check_state(state_dict, "epoch")
        if self._times is not None and state_dict["epoch"] > self._times:
            raise ValueError(f"there are {self._times} epochs, and the state is of epoch {state_dict['epoch']}, from 0")
        super().load_state_dict(state_dict)

    def _read(self, is_exact: bool) -> tuple[Iterator[pa.RecordBatch], Count]:
        start, self._next = self._next, Position()
        reading = self._reading = Reading(start, self._times, is_exact)
        return self._batches(start, reading), reading

    def _batches(self, start: Position, reading: Reading) -> Iterator[pa.RecordBatch]:
        for number in self._numbers(start):
            position = start if number == start.epoch else Position(number)
            n_rows = 0
            with contextlib.closing(_run(self._dataset)) as batches:
                for batch in rest(batches, position):
                    n_rows += batch.num_rows
                    yield batch
            if self._times is None and n_rows + position.rows == 0:
                raise QueryFailed("the query has no rows, and repeat() would wait for some without end")
            reading.ended(position.rows + n_rows)

    def _numbers(self, start: Position) -> Iterator[int]:
        return itertools.count(start.epoch) if self._times is None else iter(range(start.epoch, self._times))

    def __repr__(self) -> str:
        times = "without end" if self._times is None else f"{self._times} times"
        return f"Epochs, {times}\n{tree(self._dataset._step, 1)}"


class Epoch(Streamed):
    """One run of a query that is repeated."""

    def __init__(self, epochs: Epochs, start: Position) -> None:
        self.number: int = start.epoch
        """Which one it is, from 0."""
        self._epochs = epochs
        self._start = start

    def begin(self, is_exact: bool = True) -> Reading:
        """Where `Epochs` is, is in here from now on."""
        self._epochs._reading = Reading(self._start, self.number + 1, is_exact)
        return self._epochs._reading

    def _read(self, is_exact: bool) -> tuple[Iterator[pa.RecordBatch], Count]:
        return rest(_run(self._epochs._dataset), self._start), self.begin(is_exact)

    def __repr__(self) -> str:
        return f"<mobula.Epoch {self.number}>"


def _run(dataset: Results) -> Generator[pa.RecordBatch, None, None]:
    yield from dataset._stream()[1]
