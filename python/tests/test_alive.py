"""Sessions of connections that ask for nothing, and functions of sessions that are gone."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import mobula
from mobula import alive
from mobula.engine import find_binary


@pytest.fixture(scope="module")
def server():
    """One that ends sessions which are idle for three seconds."""
    arguments = [find_binary(), "serve", "--listen", "127.0.0.1:0", "--session-ttl", "3s", "--python", sys.executable]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for line in process.stdout:
            if line.startswith("mobula: clients on "):
                process.url = line.removeprefix("mobula: clients on ").strip()
            if line.strip() == "mobula: ready":
                break
        yield process
        process.terminate()


@pytest.fixture
def url(server):
    return server.url



@mobula.func
def one_more(x: int) -> int:
    return x + 1


def test_idle_connections_keep_their_sessions(url, monkeypatch):
    monkeypatch.setattr(alive, "EVERY_S", 0.3)
    with mobula.connect(url) as con:
        con.execute("CREATE TEMP TABLE kept AS SELECT 41 AS a")
        time.sleep(5)
        assert con.sql("SELECT a FROM kept").take() == [{"a": 41}]


def test_functions_of_a_lost_session_are_declared_anew(url, monkeypatch):
    monkeypatch.setattr(alive, "EVERY_S", 3600)
    with mobula.connect(url) as con:
        doubled = con.range(3).map(lambda row: {"n": 2 * row["id"]})
        more = con.sql("SELECT one_more(20) AS n")
        rows = [{"n": 0}, {"n": 2}, {"n": 4}]
        assert (doubled.sort("n").take(), more.take()) == (rows, [{"n": 21}])
        con.execute("CREATE TEMP TABLE gone AS SELECT 1 AS a")
        time.sleep(5)
        with pytest.raises(mobula.QueryFailed, match="gone"):
            con.sql("SELECT * FROM gone").take()
        # Rows, columns and statements alike.
        assert doubled.sort("n").take() == rows
        time.sleep(5)
        assert [name for name in more.schema().names] == ["n"]
        time.sleep(5)
        assert con.sql("SELECT one_more(1) AS n").materialize().take() == [{"n": 2}]


def test_others_do_not_see_functions_and_they_end_with_their_client(url):
    program = f"""
import mobula, os, signal
@mobula.func
def twice(x: int) -> int:
    return 2 * x
con = mobula.connect({url!r})
assert con.sql("SELECT twice(2) AS n").take() == [{{"n": 4}}]
cursor = con.cursor()
cursor.execute("SHOW FUNCTIONS LIKE 'twice%'")
assert len(cursor.fetchall()) == 1
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == -9, ended.stderr
    with mobula.connect(url) as con:
        with con.cursor() as cursor:
            cursor.execute("SHOW FUNCTIONS LIKE 'twice%'")
            assert cursor.fetchall() == []
        assert con.sql("SELECT count(*) AS n FROM system.functions").take() == [{"n": 0}]


def test_threads_of_one_connection_mend_together(url, monkeypatch):
    monkeypatch.setattr(alive, "EVERY_S", 3600)
    with mobula.connect(url) as con:
        rows, more = con.range(3).map(lambda row: {"n": row["id"]}), con.sql("SELECT one_more(20) AS n")
        assert (rows.count(), more.take()) == (3, [{"n": 21}])
        time.sleep(5)
        found = []

        def read(dataset):
            try:
                found.append(dataset.count())
            except mobula.Error as error:
                found.append(error)

        threads = [threading.Thread(target=read, args=(dataset,)) for dataset in (rows, more) * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == [1] * 4 + [3] * 4


def test_settings_and_rows_are_there_again_and_what_is_not_says_so(url, monkeypatch):
    monkeypatch.setattr(alive, "EVERY_S", 3600)

    def setting(con):
        with con.cursor() as cursor:
            cursor.execute("SHOW mobula.udf_call_timeout")
            return cursor.fetchone()[1]

    with mobula.connect(url, settings={"udf_call_timeout": "77s"}) as con:
        own = con.from_items([{"a": 1}, {"a": 2}])
        kept = con.range(4).materialize()
        assert (own.count(), kept.count(), setting(con)) == (2, 4, "77s")
        time.sleep(5)
        assert own.count() == 2
        assert setting(con) == "77s"
        with pytest.raises(mobula.QueryFailed, match="Materialize them again"):
            kept.count()


def test_calls_that_fail_by_themselves_are_made_once(url, tmp_path):
    calls = tmp_path / "calls"

    def fails(batch):
        with open(calls, "a") as file:
            file.write("called\n")
        raise ValueError("no")

    with mobula.connect(url) as con:
        with pytest.raises(mobula.FunctionFailed):
            con.range(3).map_batches(fails, schema={"n": int}).take()
    assert calls.read_text() == "called\n"


def test_what_a_close_cancels_says_so(url):
    def slow(batch):
        time.sleep(0.2)
        return batch

    con = mobula.connect(url)
    batches = con.range(1000).map_batches(slow, batch_size=1, schema={"id": int}).iter_batches(batch_size=1)
    next(batches)
    con.close()
    with pytest.raises(mobula.ConnectionFailed, match="closed"):
        list(batches)


def test_close_ends_where_the_server_does_not_answer(server):
    con = mobula.connect(server.url)
    assert con.range(2).map(lambda row: {"n": row["id"]}).count() == 2
    os.kill(server.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        con.close()
        assert time.monotonic() - began < 30
    finally:
        os.kill(server.pid, signal.SIGCONT)
