"""Where somebody is in rows that are read again and again: `state_dict` and `load_state_dict`.

A position is an epoch, and how many rows of it were given to whoever reads; what was read ahead
does not count. It means the same rows only where a query gives them in the same order each time:
where none is known there is no position inside of an epoch. The last row that was given is part
of it, as a digest, so that a query which gives others after all is found out.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .errors import NotSupported, QueryFailed
from .local_rows import is_mapping
from .results import Count, Streamed

if TYPE_CHECKING:
    import pyarrow as pa

_SHUFFLED = "rows of a local shuffle have no position in the query: local_shuffle_buffer_size draws them anew. Use random_shuffle(seed=…)"


@dataclasses.dataclass(frozen=True)
class Position:
    """An epoch, how many of its rows were given, and the digest of the last of these."""

    epoch: int = 0
    rows: int = 0
    last: str | None = None


class Reading(Count):
    """Counts the rows of one reading, which began at `start`; it is through at the epoch `until`."""

    def __init__(self, start: Position, until: int | None, is_exact: bool = True) -> None:
        self.start = start
        self._until = until
        self._epoch, self._rows, self._digest = start.epoch, start.rows, start.last
        self._is_exact = is_exact
        self._last: tuple[pa.Table | pa.RecordBatch, int] | None = None
        # How many rows those epochs have that were read to their end, not all of which were given.
        self._lengths: collections.deque[int] = collections.deque()

    def given(self, rows: pa.Table | pa.RecordBatch, start: int, stop: int) -> None:
        self._rows += stop - start
        self._last = rows, stop - 1
        self._advance()

    def through(self) -> None:
        if self._until is not None:
            self._begin(self._until)

    def ended(self, length: int) -> None:
        """All rows of an epoch came, so many; another one comes."""
        self._lengths.append(length)
        self._advance()

    def position(self) -> Position:
        """Where it is.

        Raises:
            NotSupported: rows come as a local shuffle drew them.
        """
        if self._rows == 0:
            return Position(self._epoch)
        if not self._is_exact:
            raise NotSupported(_SHUFFLED)
        if self._last is not None:
            self._digest, self._last = _digest(*self._last), None
        return Position(self._epoch, self._rows, self._digest)

    def _advance(self) -> None:
        while self._is_exact and self._lengths and self._rows >= self._lengths[0]:
            rows = self._rows - self._lengths.popleft()
            last = self._last
            self._begin(self._epoch + 1)
            self._rows, self._last = rows, last if rows else None

    def _begin(self, epoch: int) -> None:
        self._epoch, self._rows, self._digest, self._last = epoch, 0, None, None


class Resumable(Streamed):
    """What is read again and again, and goes on elsewhere from where it was here."""

    # Why there is no position inside of an epoch.
    _unordered: str | None = None

    def __init__(self) -> None:
        self._next = Position()
        self._reading: Reading | None = None

    def state_dict(self) -> dict[str, Any]:
        """Where the reading that began last is: its epoch, and the rows of it that were given; of a
        batch all, as soon as the loop has it. Small, and fit for `json` and `torch.save`.

        Raises:
            NotSupported: it is inside of an epoch, and the query does not say in which order rows
                come, or a local shuffle drew them.

        >>> numbers = mobula.range(5).repeat(3)
        >>> batches = numbers.iter_batches(batch_size=2)
        >>> next(batches), next(batches), next(batches)["id"].tolist()
        ({'id': array([0, 1])}, {'id': array([2, 3])}, [4, 0])
        >>> state = numbers.state_dict()
        >>> state["epoch"], state["rows"]
        (1, 1)
        """
        position = self._next if self._reading is None else self._reading.position()
        self._check_order(position)
        return dataclasses.asdict(position)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The next reading goes on from there: rows that were given are left out as they come. The
        query has to be the same, over the same rows, with the same settings.

        >>> first, second = mobula.range(4).repeat(1), mobula.range(4).repeat(1)
        >>> next(first.iter_rows())
        {'id': 0}
        >>> second.load_state_dict(first.state_dict())
        >>> [row["id"] for row in second.iter_rows()]
        [1, 2, 3]
        """
        check_state(state_dict, "epoch", "rows", "last")
        position = Position(state_dict["epoch"], state_dict["rows"], state_dict["last"])
        if position.epoch < 0 or position.rows < 0:
            raise ValueError(f"there is no position {dict(state_dict)}")
        self._check_order(position)
        self._next, self._reading = position, None

    def _check_order(self, position: Position) -> None:
        if position.rows and self._unordered is not None:
            raise NotSupported(f"no position inside of an epoch: {self._unordered}")


def check_state(state: object, *keys: str) -> None:
    """Raises `ValueError` for what no `state_dict()` gave."""
    if not is_mapping(state) or any(key not in state for key in keys):
        raise ValueError(f"{state!r} is no state of these rows. Give what state_dict() gave")


def rest(batches: Iterator[pa.RecordBatch], position: Position) -> Iterator[pa.RecordBatch]:
    """What comes behind the rows that were given.

    Raises:
        QueryFailed: these are others than they were.
    """
    n_rows = 0
    for batch in batches:
        n_old = min(batch.num_rows, position.rows - n_rows)
        n_rows += n_old
        if n_old and n_rows == position.rows and position.last not in (None, _digest(batch, n_old - 1)):
            raise QueryFailed(
                f"row {n_rows} of the query is another one than when its state was taken: it has no order, or not the"
                " same rows or settings. Sort by what tells rows apart, or use random_shuffle(seed=…)"
            )
        if n_old < batch.num_rows or not n_old:
            yield batch.slice(n_old) if n_old else batch
    if n_rows < position.rows:
        raise QueryFailed(f"the query has {n_rows} rows, and {position.rows} were given when its state was taken")


def _digest(rows: pa.Table | pa.RecordBatch, at: int) -> str:
    row = repr(rows.slice(at, 1).to_pylist()).encode()
    return hashlib.blake2b(row, digest_size=8).hexdigest()
