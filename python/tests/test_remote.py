"""Rows of this process on a server of somebody else's: temporary tables, and when they go."""

import gc
import os
import pathlib
import signal
import subprocess
import sys
import time

import pyarrow
import pytest

import mobula
from mobula.engine import find_binary


class Remote:
    """A server that knows nothing of us."""

    def __init__(self, directory, executors):
        arguments = [find_binary(), "serve", "--listen", "127.0.0.1:0", "--cluster-listen", "127.0.0.1:0", "--python", sys.executable]
        arguments += ["--loaded-dir", str(directory)]
        if executors:
            arguments += ["--executors", str(executors), "--no-local-executor"]
        self.directory = pathlib.Path(directory)
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.url = None
        for line in self.process.stdout:
            if line.startswith("mobula: clients on "):
                self.url = line.removeprefix("mobula: clients on ").strip()
            if line.strip() == "mobula: ready":
                return
        raise RuntimeError("the server did not start")

    def folders(self):
        return list(self.directory.glob("*/*-*"))

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.process.stdout.close()


@pytest.fixture(scope="module", params=[0, 3], ids=["alone", "executors"])
def remote(request, tmp_path_factory):
    server = Remote(tmp_path_factory.mktemp("loaded"), request.param)
    yield server
    server.stop()
    assert list(server.directory.iterdir()) == []


@pytest.fixture
def con(remote):
    with mobula.connect(remote.url) as connection:
        yield connection
    soon(lambda: remote.folders() == [])


def soon(what):
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_rows_of_all_kinds(con, remote):
    pandas, polars, numpy = pytest.importorskip("pandas"), pytest.importorskip("polars"), pytest.importorskip("numpy")
    frame, lazy = pandas.DataFrame({"a": [1, 2]}), polars.LazyFrame({"a": [3], "c": ["x"]})
    table = pyarrow.table({"a": pyarrow.array(["y", "y"]).dictionary_encode()})
    assert con.sql("SELECT sum(a) AS s FROM frame").take() == [{"s": 3}]
    assert con.sql("SELECT c FROM lazy JOIN frame AS f ON f.a + 2 = lazy.a").take() == [{"c": "x"}]
    assert con.sql("SELECT count(*) AS n FROM t", t=table).take() == [{"n": 2}]
    assert con.from_items([{"a": 1}, {"a": None, "b": "x"}]).count() == 2
    assert con.from_numpy(numpy.arange(10)).sum("data") == 45
    assert con.from_arrow(pyarrow.table({"a": pyarrow.array([], "int64")})).count() == 0
    # Each use of a frame in a query of its own is sent.
    assert len(remote.folders()) == 7


def test_rows_are_sent_once_and_read_often(con, remote):
    rows = con.from_arrow(pyarrow.table({"id": range(300_000), "text": ["x" * 100] * 300_000}))
    assert remote.folders() == []
    assert rows.count() == 300_000 and rows.filter(expr="id % 2 = 0").count() == 150_000
    assert rows.map_batches(lambda batch: {"n": batch["id"][:1]}, batch_size=100_000).count() >= 3
    assert rows.union(rows).sum("id") == 2 * sum(range(300_000))
    assert len(remote.folders()) == 1


def test_a_reader_is_read_while_it_is_sent(con):
    taken = []

    def batches():
        for i in range(20):
            taken.append(i)
            yield pyarrow.record_batch({"i": [i] * 1000})

    reader = pyarrow.RecordBatchReader.from_batches(pyarrow.schema({"i": pyarrow.int64()}), batches())
    assert con.from_arrow(reader).groupby("i").count().count() == 20 and taken == list(range(20))


def test_rows_of_one_connection_are_not_another_s(con, remote):
    frame = pyarrow.table({"a": [1]})
    assert con.sql("SELECT a FROM frame").count() == 1
    with mobula.connect(remote.url) as other:
        assert other.sql("SELECT * FROM information_schema.tables WHERE table_schema = 'temp'").count() == 0
        assert other.sql("SELECT a FROM frame").count() == 1
        assert len(remote.folders()) == 2
    soon(lambda: len(remote.folders()) == 1)
    assert con.sql("SELECT a FROM frame").count() == 1


def test_rows_are_kept_by_the_server(con, remote):
    drawn = con.range(1_000).with_column("x", "random()")
    kept = drawn.materialize()
    assert kept.sum("x") == kept.sum("x") != drawn.sum("x")
    assert kept.schema() == drawn.schema() and kept.count() == 1_000
    derived = kept.filter(lambda row: row["id"] < 3)
    del kept
    tables = "SELECT DISTINCT name FROM system.temporary_tables"
    with mobula.connect(remote.url) as other:
        assert derived.count() == 3 and other.sql(tables).count() == 1
        del derived
        gc.collect()
        assert con.range(3).count() == 3 and other.sql(tables).count() == 0
    nothing = con.range(10).filter(expr="id > 10").materialize()
    assert nothing.columns() == ["id"] and nothing.take() == []
    rows = con.range(400_000).materialize().iter_batches(batch_size=1_000)
    assert len(next(rows)["id"]) == 1_000
    del nothing
    gc.collect()
    assert con.range(1).count() == 1
    assert sum(len(batch["id"]) for batch in rows) == 399_000
    del rows
    gc.collect()
    assert con.range(1).count() == 1
    soon(lambda: remote.folders() == [])


def test_parts_are_kept_by_the_server(con, remote):
    assert [part.count() for part in con.range(11).split(3)] == [4, 4, 3]
    train, test = con.range(10).train_test_split(0.2)
    assert (train.count(), test.count()) == (8, 2) and train.sum("id") + test.sum("id") == 45
    assert con.range(3).split(2)[1].schema() == con.range(3).schema()


def test_a_failure_keeps_nothing(con, remote):
    broken = con.range(10).map(lambda row: {"v": 1 // (row["id"] - 9)}, schema={"v": int})
    for run in (broken.materialize, lambda: broken.split(2), lambda: broken.train_test_split(0.5)):
        with pytest.raises(mobula.FunctionFailed, match="ZeroDivisionError"):
            run()
        soon(lambda: remote.folders() == [])


def test_rows_that_fail_leave_nothing(con, remote):
    def batches():
        yield pyarrow.record_batch({"a": [1]})
        raise OSError("the disk of the client")

    reader = pyarrow.RecordBatchReader.from_batches(pyarrow.schema({"a": pyarrow.int64()}), batches())
    with pytest.raises(Exception, match="the disk of the client"):
        con.from_arrow(reader).count()
    soon(lambda: remote.folders() == [])
    assert con.range(3).count() == 3


KILLED = """
import sys, time, pyarrow, mobula
con = mobula.connect(sys.argv[1])
assert con.from_arrow(pyarrow.table({"a": [1, 2]})).sum("a") == 3
print("there", flush=True)
time.sleep(600)
"""


def test_rows_of_a_killed_program_go(con, remote):
    killed = subprocess.Popen([sys.executable, "-c", KILLED, remote.url], stdout=subprocess.PIPE)
    assert killed.stdout.readline() == b"there\n" and len(remote.folders()) == 1
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    soon(lambda: remote.folders() == [])
