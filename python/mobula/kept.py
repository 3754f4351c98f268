"""Rows that were computed once and are kept: `materialize`, and the parts of a split.

`materialize` makes a temporary table, whose blocks stay with the processes that made them. Parts
of a split lie on disk: as Parquet in the directory of an engine of one's own, as loaded tables of
a server. They go when no dataset over them is left, or with the connection.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from . import local_rows, sql_text
from .results import Results
from .steps import Rendering, Step

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from .connection import Connection
    from .dataset import Dataset
    from .engine import Engine
    from .link import Link


@dataclasses.dataclass(frozen=True, eq=False)
class Kept(Step):
    """A directory of Parquet files, which ends with this step."""

    directory: str
    title: str

    def __post_init__(self) -> None:
        weakref.finalize(self, _remove, self.directory, os.getpid())

    def sql(self, query: Rendering) -> str:
        return f"SELECT * FROM {sql_text.string(os.path.join(self.directory, '*.parquet'))}"


@dataclasses.dataclass(frozen=True, eq=False)
class KeptTable(Step):
    """A temporary table, which ends with this step."""

    link: Link
    table: str
    title: str

    def __post_init__(self) -> None:
        weakref.finalize(self, self.link.run_later, f"DROP TABLE IF EXISTS temp.{self.table}")

    def sql(self, query: Rendering) -> str:
        return f"SELECT * FROM temp.{self.table}"


class Keeping(Results):
    """What of `Dataset` computes its rows now."""

    def materialize(self) -> Dataset:
        """Computes the rows now, once; the new dataset reads what was kept, where it was made: in
        the memory of the engine's processes (`kept_memory_max` of each), then on their disks.

        Its rows come in no order in particular. Those of an executor are lost with it; what reads
        them then fails, and says so.

        >>> drawn = mobula.range(1000).random_sample(0.5).materialize()
        >>> drawn.count() == drawn.count()
        True
        """
        with Rendering(self._connection) as query:
            rows = query.query(self._step)
            table = f"mobula_kept_{uuid.uuid4().hex}"
            self._connection._link.run(f"CREATE TEMP TABLE {table} AS {rows}", query.values.row())
            return self._then(KeptTable(self._connection._link, table, "materialized"))

    def split(self, n: int, *, equal: bool = False) -> list[Dataset]:
        """Computes the rows now, and deals them out to `n` datasets.

        Rows go in turn, so that sizes differ by one at most. `equal`: not at all; up to `n - 1`
        rows are left out.

        >>> [part.count() for part in mobula.range(11).split(3)]
        [4, 4, 3]
        >>> [part.count() for part in mobula.range(11).split(3, equal=True)]
        [3, 3, 3]
        """
        if n < 1:
            raise ValueError(f"split into {n} parts")
        schema, batches = self._stream()
        return self._parts(schema, n, _dealt(schema, batches, n, equal), "split")

    def split_at_indices(self, indices: Sequence[int]) -> list[Dataset]:
        """Computes the rows now, and cuts them before these places, in the order they come.

        >>> first, rest = mobula.range(5).sort("id").split_at_indices([2])
        >>> first.count(), rest.min("id")
        (2, 2)
        """
        places = list(indices)
        if not places or places != sorted(places) or places[0] < 0:
            raise ValueError(f"split_at_indices {places}. Give places that rise, from 0")
        schema, batches = self._stream()
        return self._parts(schema, len(places) + 1, _cut(batches, places), "split_at_indices")

    def train_test_split(
        self, test_size: int | float, *, shuffle: bool = False, seed: int | None = None
    ) -> tuple[Dataset, Dataset]:
        """Computes the rows now: those to train with, and `test_size` of them (a share below
        1, or a number of rows) to test with.

        `shuffle`: which is which is drawn, with a `seed` the same way for the same rows; otherwise
        the last ones in the order they come.

        >>> train, test = mobula.range(10).train_test_split(0.2, shuffle=True)
        >>> train.count(), test.count()
        (8, 2)
        """
        is_share = isinstance(test_size, float)
        if not 0 < test_size < (1 if is_share else math.inf):
            raise ValueError(f"test_size is {test_size}. Give a share between 0 and 1, or a number of rows")
        if seed is not None and not shuffle:
            raise ValueError("seed is for shuffle=True")
        import pyarrow.parquet as pq

        # How many rows there are shows only after the last one.
        with _passing(self._connection) as directory:
            path = os.path.join(directory, "0.parquet")
            _written(*(self.random_shuffle(seed=seed) if shuffle else self)._stream(), path)
            with pq.ParquetFile(path) as file:
                n_rows = file.metadata.num_rows
                n_test = int(n_rows * test_size) if is_share else int(test_size)
                if n_test > n_rows:
                    raise ValueError(f"test_size is {test_size}, and there are {n_rows} rows")
                parts = self._parts(file.schema_arrow, 2, _cut(_batches(file), [n_rows - n_test]), "train_test_split")
        return parts[0], parts[1]

    def random_shuffle(self, *, seed: int | None = None) -> Dataset:
        raise NotImplementedError

    def _then(self, step: Step) -> Dataset:
        raise NotImplementedError

    def _parts(self, schema: pa.Schema, n: int, rows: Iterator[tuple[int, pa.RecordBatch]], label: str) -> list[Dataset]:
        """Datasets of `n` parts; `rows` says which part each batch is for."""
        engine = self._connection._engine
        labels = [f"part {place + 1} of {n}, {label}" for place in range(n)]
        if engine is not None:
            steps = [Kept(_new_directory(engine), label) for label in labels]
            _deal_out(schema, [os.path.join(step.directory, "0.parquet") for step in steps], rows)
            return [self._then(step) for step in steps]
        with _passing(self._connection) as directory:
            paths = [os.path.join(directory, f"{place}.parquet") for place in range(n)]
            _deal_out(schema, paths, rows)
            return [self._then(_loaded(self._connection, path, label)) for path, label in zip(paths, labels)]


def _remove(directory: str, owner: int) -> None:
    # A fork of ours has it no longer than we.
    if os.getpid() == owner:
        shutil.rmtree(directory, ignore_errors=True)


def _new_directory(engine: Engine) -> str:
    directory = os.path.join(engine.directory, uuid.uuid4().hex)
    os.mkdir(directory)
    return directory


def _passing(connection: Connection) -> tempfile.TemporaryDirectory[str]:
    """A directory of ours, which goes at the end of the context."""
    return tempfile.TemporaryDirectory(prefix="mobula-", dir=connection._engine and connection._engine.directory)


def _deal_out(schema: pa.Schema, paths: Sequence[str], rows: Iterator[tuple[int, pa.RecordBatch]]) -> None:
    """Writes each batch to the file of the part it is for."""
    with contextlib.ExitStack() as open_files:
        writers = [open_files.enter_context(local_rows.Writer(schema, path)) for path in paths]
        for place, batch in rows:
            writers[place].write(batch)


def _loaded(connection: Connection, path: str, label: str) -> KeptTable:
    """The rows of a file of ours, on a server."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = f"mobula_kept_{uuid.uuid4().hex}"
    with pq.ParquetFile(path) as file:
        rows = pa.RecordBatchReader.from_batches(file.schema_arrow, _batches(file))
        connection._link.load(table, local_rows.sendable(rows))
    return KeptTable(connection._link, table, label)


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    # Its stub says `list`, of no type.
    return file.iter_batches()  # pyright: ignore[reportUnknownMemberType]


def _written(schema: pa.Schema, batches: Iterator[pa.RecordBatch], path: str) -> None:
    with local_rows.Writer(schema, path) as writer:
        for batch in batches:
            writer.write(batch)


def _dealt(schema: pa.Schema, batches: Iterator[pa.RecordBatch], n: int, equal: bool) -> Iterator[tuple[int, pa.RecordBatch]]:
    """As many rows of each batch for each part; fewer than `n` wait for the next one."""
    import pyarrow as pa

    waiting = pa.Table.from_batches([], schema)
    for batch in batches:
        rows = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
        each = rows.num_rows // n
        for place in range(n) if each else ():
            yield from ((place, piece) for piece in rows.slice(place * each, each).to_batches())
        waiting = rows.slice(each * n)
    for place in range(0 if equal else waiting.num_rows):
        yield from ((place, piece) for piece in waiting.slice(place, 1).to_batches())


def _cut(batches: Iterator[pa.RecordBatch], places: Sequence[int]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Rows before the first place for the first part, and so on."""
    part, n_before = 0, 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            while part < len(places) and places[part] <= n_before + start:
                part += 1
            end = batch.num_rows if part == len(places) else min(batch.num_rows, places[part] - n_before)
            yield part, batch.slice(start, end - start)
            start = end
        n_before += batch.num_rows
