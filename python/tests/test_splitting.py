"""Rows that several readers share: each once an epoch, in threads and in processes."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest

import mobula

ROWS = 20_000
SPAWN = multiprocessing.get_context("spawn")
pytestmark = pytest.mark.usefixtures("no_splits_left")


@pytest.fixture
def rows(con, tmp_path):
    """In files, so that tasks on executors have some each."""
    numbers = con.range(ROWS)
    for part in range(4):
        chosen = numbers.filter(expr=f"id % 4 = {part}").with_column("text", "'row ' || id")
        chosen.write_parquet(tmp_path / "rows" / f"{part}.parquet")
    return con.read_parquet(tmp_path / "rows")


def splits(con):
    """Those that are listed, once what nobody has any more is gone."""
    gc.collect()
    return con.sql("SELECT reader, epochs, rows, state FROM system.splits ORDER BY name, reader").take_all()


def read_epochs(reader, epochs, told):
    """In a process of its own."""
    for _ in range(epochs):
        told.put((os.getpid(), [row["id"] for row in reader.iter_rows()]))


def test_two_processes_get_each_row_once_in_each_of_ten_epochs(con, rows):
    doubled = rows.map_batches(lambda batch: {"id": batch["id"]}, batch_size=500)
    told, epochs = SPAWN.Queue(), 10
    readers = doubled.streaming_split(2)
    processes = [SPAWN.Process(target=read_epochs, args=(reader, epochs, told)) for reader in readers]
    for process in processes:
        process.start()
    by_process = {process.pid: [] for process in processes}
    for _ in range(2 * epochs):
        pid, ids = told.get(timeout=120)
        by_process[pid].append(ids)
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    for one, other in zip(*by_process.values()):
        assert sorted(one + other) == list(range(ROWS))
    assert [reader["epochs"] for reader in splits(con)] == [epochs, epochs]
    assert sum(reader["rows"] for reader in splits(con)) == epochs * ROWS
    # They were sent: they may be read for as long as there is this connection.
    del readers
    assert len(splits(con)) == 2


def test_a_slow_reader_holds_up_nobody(con):
    # More than what is on its way to one that reads nothing.
    many = 10_000_000
    quick, slow = con.range(many).streaming_split(2)
    batches = slow.iter_batches(batch_size=None)
    found = [next(batches)["id"]]
    rest = [batch["id"] for batch in quick.iter_batches(batch_size=None)]
    assert sum(map(len, rest)) > many / 2
    found += rest + [batch["id"] for batch in batches]
    ids = numpy.concatenate(found)
    assert len(ids) == many and numpy.array_equal(numpy.sort(ids), numpy.arange(many))


def test_equal_readers_get_as_many_rows(con, rows):
    uneven = rows.limit(10_001)
    readers = uneven.streaming_split(3, equal=True)
    with ThreadPoolExecutor(3) as threads:
        for _ in range(2):
            found = list(threads.map(lambda reader: [row["id"] for row in reader.iter_rows()], readers))
            assert [len(ids) for ids in found] == [3_333] * 3
            assert len({id for ids in found for id in ids}) == 9_999
    # One that stops early does not stop the others.
    with ThreadPoolExecutor(2) as threads:
        rest = [threads.submit(lambda reader: len(list(reader.iter_rows())), reader) for reader in readers[:2]]
        batches = readers[2].iter_batches(batch_size=10)
        next(batches)
        batches.close()
        assert [one.result(60) for one in rest] == [3_333] * 2


def read_for_ever(reader, told):
    for batch in reader.iter_batches(batch_size=100):
        told.put(os.getpid())
        time.sleep(0.05)


@pytest.mark.parametrize("equal", [False, True])
def test_a_killed_reader_takes_nobody_along(con, equal):
    many = con.range(3_000_000)
    reader, doomed = many.streaming_split(2, equal=equal)
    told = SPAWN.Queue()
    process = SPAWN.Process(target=read_for_ever, args=(doomed, told))
    process.start()
    rows = []
    reading = threading.Thread(target=lambda: rows.extend(len(b["id"]) for b in reader.iter_batches(batch_size=None)))
    told.get(timeout=60)
    reading.start()
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    reading.join(60)
    assert not reading.is_alive()
    assert 0 < sum(rows) <= 3_000_000 and (not equal or sum(rows) == 1_500_000)
    assert {one["state"] for one in splits(con)} == {"idle"}


def test_all_readers_are_told_what_failed(rows):
    def fails(batch):
        raise ValueError("no such model")

    readers = rows.map_batches(fails, schema={"id": int}).streaming_split(2)
    for reader in readers:
        with pytest.raises(mobula.FunctionFailed, match="no such model"):
            list(reader.iter_rows())
    with pytest.raises(ValueError, match="n of streaming_split is 0"):
        rows.streaming_split(0)
    with pytest.raises(mobula.QueryFailed, match="not_there"):
        rows.filter(expr="not_there > 1").streaming_split(2)


def test_readers_end_with_their_split(con, rows):
    readers = rows.materialize().streaming_split(2)
    assert readers[0].schema().names == ["id", "text"] and "1 of 2" in repr(readers[0])
    # What was kept is there as long as it may be read.
    gc.collect()
    assert sum(len(list(reader.iter_rows())) for reader in readers) == ROWS
    reader = readers.pop()
    name = reader._name
    assert len(splits(con)) == 2
    con.execute(f"DROP SPLIT {name}")
    with pytest.raises(mobula.QueryFailed, match=f'no split "{name}"'):
        list(reader.iter_rows())
    del reader, readers
    assert splits(con) == []


def test_a_forked_process_is_told_so_at_once(con):
    """The driver would wait there for threads that stayed behind."""
    program = textwrap.dedent("""
        import os, sys, mobula
        with mobula.connect() as con:
            kept = con.range(10).materialize()
            reader, = kept.streaming_split(1)
            pid = os.fork()
            if pid == 0:
                said = []
                for use in (lambda: list(reader.iter_rows()), kept.count, mobula.connect):
                    try:
                        use()
                    except mobula.ConnectionFailed as error:
                        said.append("forked" in str(error) and "spawn" in str(error))
                sys.exit(0 if said == [True] * 3 else 1)
            assert os.waitpid(pid, 0)[1] == 0
            # What the child had and let go of is still here.
            assert kept.count() == 10 and len(list(reader.iter_rows())) == 10
    """)
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
