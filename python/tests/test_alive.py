"""Sessions of connections that ask for nothing, and functions of sessions that are gone."""

import subprocess
import sys
import time

import pytest

import mobula
from mobula import alive
from mobula.engine import find_binary


@pytest.fixture(scope="module")
def url():
    """Of a server that ends sessions which are idle for two seconds."""
    arguments = [find_binary(), "serve", "--listen", "127.0.0.1:0", "--session-ttl", "2s", "--python", sys.executable]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        found = None
        for line in server.stdout:
            if line.startswith("mobula: clients on "):
                found = line.removeprefix("mobula: clients on ").strip()
            if line.strip() == "mobula: ready":
                break
        yield found
        server.terminate()



@mobula.func
def one_more(x: int) -> int:
    return x + 1


def test_idle_connections_keep_their_sessions(url, monkeypatch):
    monkeypatch.setattr(alive, "EVERY_S", 0.3)
    with mobula.connect(url) as con:
        con.execute("CREATE TEMP TABLE kept AS SELECT 41 AS a")
        time.sleep(4)
        assert con.sql("SELECT a FROM kept").take() == [{"a": 41}]


def test_functions_of_a_lost_session_are_declared_anew(url, monkeypatch):
    monkeypatch.setattr(alive, "EVERY_S", 3600)
    with mobula.connect(url) as con:
        doubled = con.range(3).map(lambda row: {"n": 2 * row["id"]})
        more = con.sql("SELECT one_more(20) AS n")
        rows = [{"n": 0}, {"n": 2}, {"n": 4}]
        assert (doubled.sort("n").take(), more.take()) == (rows, [{"n": 21}])
        con.execute("CREATE TEMP TABLE gone AS SELECT 1 AS a")
        time.sleep(4)
        with pytest.raises(mobula.QueryFailed, match="gone"):
            con.sql("SELECT * FROM gone").take()
        # Rows, columns and statements alike.
        assert doubled.sort("n").take() == rows
        time.sleep(4)
        assert [name for name in more.schema().names] == ["n"]
        time.sleep(4)
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
