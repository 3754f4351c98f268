"""Named actors under many clients: one process, one call at a time, exact counts, wherever
the calls come from."""

import os
import signal
import subprocess
import sys
import threading
import time

import adbc_driver_manager
import pytest
from servers import register

ACTOR = """CREATE FUNCTION counter(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$
import os, time
class counter:
    def __init__(self):
        self.n, self.intervals, self.pids = 0, [], set()
    def __call__(self, x):
        return x
    def _during(self, work):
        began = time.monotonic_ns()
        value = work()
        self.intervals.append((began, time.monotonic_ns()))
        self.pids.add(os.getpid())
        return value
    def add(self, x: int) -> int:
        def work():
            n = self.n
            time.sleep(0.0005)
            self.n = n + x
            return self.n
        return self._during(work)
    def twice(self, x: int) -> int:
        return self._during(lambda: self._set(self.n + 2 * x))
    def _set(self, n):
        self.n = n
        return n
    def get(self) -> int:
        return self.n
    def pid(self) -> int:
        return os.getpid()
    def slow(self, seconds: float) -> int:
        time.sleep(seconds)
        self.n += 1
        return self.n
    def starts(self) -> list[int]:
        return [began for began, _ in self.intervals]
    def ends(self) -> list[int]:
        return [ended for _, ended in self.intervals]
    def processes(self) -> int:
        return len(self.pids)
$$"""
CLIENTS, CALLS = 8, 125


def value(cursor, sql):
    cursor.execute(sql)
    return cursor.fetchone()[0]


@pytest.fixture(params=[0, 2], ids=["alone", "cluster"])
def server(request, start):
    server = start(executors=request.param, args=["--scan-bytes-per-task", "64KiB"])
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(ACTOR)
        cursor.execute("CREATE ACTOR c FROM counter")
    return server


def together(server, work):
    """Has each of the clients do `work(cursor, number)` at once."""
    failed = []

    def client(number):
        try:
            with server.connect() as connection, connection.cursor() as cursor:
                work(cursor, number)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failed, failed


def intervals(cursor, actor):
    found = zip(value(cursor, f"SELECT {actor}.starts()"), value(cursor, f"SELECT {actor}.ends()"))
    return sorted(found)


def test_a_thousand_concurrent_calls_count_exactly(server):
    seen = []

    def work(cursor, number):
        for at in range(CALLS):
            method = "add" if (number + at) % 2 else "twice"
            seen.append(value(cursor, f"SELECT c.{method}(1)"))

    together(server, work)
    assert len(seen) == CLIENTS * CALLS
    # Each call saw another state: none was lost, none ran beside another.
    assert len(set(seen)) == len(seen)
    with server.connect() as connection, connection.cursor() as cursor:
        assert value(cursor, "SELECT c.get()") == max(seen) == 500 * 1 + 500 * 2
        assert value(cursor, "SELECT c.processes()") == 1
        found = intervals(cursor, "c")
        assert len(found) == 1000
        assert not any(first[1] > second[0] for first, second in zip(found, found[1:]))
        cursor.execute("SELECT pid, calls, restarts, queue FROM system.actors")
        pid, calls, restarts, queue = cursor.fetchone()
        assert pid == value(cursor, "SELECT c.pid()")
        assert (restarts, queue) == (0, 0) and calls >= 1000


def test_two_actors_do_overlap(server):
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE ACTOR d FROM counter")
        assert value(cursor, "SELECT d.pid()") != value(cursor, "SELECT c.pid()")
        many = "SELECT count(*) FROM map(TABLE(SELECT value AS x FROM generate_series(1, 200)), {}.add)"
        together(server, lambda own, number: value(own, many.format("cd"[number % 2])))
        first, second = intervals(cursor, "c"), intervals(cursor, "d")
        assert len(first) == len(second) == 200 * CLIENTS // 2
        assert any(a[0] < b[1] and b[0] < a[1] for a in first for b in second)


def test_state_is_shared_over_sessions_and_methods(server):
    with server.connect() as one, server.connect() as two:
        with one.cursor() as first, two.cursor() as second:
            assert value(first, "SELECT c.add(4)") == 4
            assert value(second, "SELECT c.get()") == 4
            assert value(second, "SELECT c.twice(3)") == 10
    with server.connect() as three, three.cursor() as cursor:
        assert value(cursor, "SELECT c.get()") == 10


def test_rows_of_a_table_reach_the_one_instance(server, tpch):
    with server.connect() as connection, connection.cursor() as cursor:
        register(cursor, tpch)
        rows = value(cursor, "SELECT count(*) FROM orders")
        assert value(cursor, "SELECT count(DISTINCT o_orderkey) FROM orders") == rows
        before = started(cursor)
        # Without an actor it is spread.
        assert (sum(before.values()) > 0) == (len(before) > 1), before
        # Every value from 1 on, each once: no second instance has counted.
        added = "SELECT add FROM map_batches(TABLE(SELECT 1 AS x FROM nation, region), c.add)"
        found = f"SELECT count(DISTINCT add), min(add), max(add) FROM ({added})"
        cursor.execute(found)
        assert cursor.fetchone() == (125, 1, 125)
        assert value(cursor, "SELECT count(c.get()) FROM orders") == rows
        # Scans are spread all the same; their blocks go to where the actor is.
        after = started(cursor)
        assert all(after[name] > before[name] for name in before if name.startswith("e-")), after


def started(cursor):
    """Tasks by executor, as heartbeats tell them."""
    time.sleep(1.2)
    cursor.execute("SELECT executor_id, tasks_started FROM system.executors")
    return dict(cursor.fetchall())


def test_cancel_and_limit_leave_the_actor_alive(server):
    with server.connect() as connection, connection.cursor() as cursor:
        pid = value(cursor, "SELECT c.pid()")
        # A block takes a few milliseconds, all of them hours.
        forever = "SELECT * FROM map(TABLE(SELECT 1e-6::DOUBLE AS seconds FROM range(100000000)), c.slow)"
        small = "SET mobula.udf_batch_rows = 64"
        cursor.execute(small)
        with server.connect() as other:
            reader = other.cursor()
            reader.execute(small)
            reader.execute(forever)
            assert reader.fetchone()
            reader.close()
        # What it had begun it finishes.
        n = value(cursor, "SELECT c.get()")
        killed_in(server, "SELECT c.slow(1.5)", cursor)
        assert value(cursor, "SELECT c.get()") == n + 1
        n += 1
        assert value(cursor, f"SELECT count(*) FROM ({forever} LIMIT 3)") == 3
        assert value(cursor, "SELECT c.get()") > n
        assert value(cursor, "SELECT c.pid()") == pid
        assert value(cursor, "SELECT restarts FROM system.actors") == 0


CLIENT = """
import sys
import adbc_driver_flightsql.dbapi as flightsql
with flightsql.connect(sys.argv[1], autocommit=True) as connection, connection.cursor() as cursor:
    cursor.execute(sys.argv[2])
    cursor.fetchone()
"""


def killed_in(server, sql, cursor):
    """A client of its own that is killed while the actor is at work for it."""
    client = subprocess.Popen([sys.executable, "-c", CLIENT, server.address("clients"), sql])
    until(cursor, "SELECT count(*) FROM system.actors WHERE state = 'busy'", 1)
    client.kill()
    client.wait(10)


def until(cursor, sql, wanted):
    deadline = time.monotonic() + 30
    while value(cursor, sql) != wanted:
        assert time.monotonic() < deadline, sql
        time.sleep(0.05)


def test_an_actor_that_is_killed_is_built_anew_and_counted(server):
    with server.connect() as connection, connection.cursor() as cursor:
        assert value(cursor, "SELECT c.add(9)") == 9
        pid = value(cursor, "SELECT pid FROM system.actors")
        os.kill(pid, signal.SIGKILL)
        # At once, before anybody calls it.
        until(cursor, "SELECT count(*) FROM system.actors WHERE restarts = 1 AND state = 'idle'", 1)
        assert value(cursor, "SELECT pid FROM system.actors") != pid
        assert value(cursor, "SELECT c.get()") == 0


def test_who_waits_for_an_actor_that_is_dropped_is_told(server):
    said = []

    def work(cursor, number):
        if number == 0:
            until(cursor, "SELECT queue FROM system.actors", CLIENTS - 2)
            cursor.execute("DROP ACTOR c")
            return
        with pytest.raises(adbc_driver_manager.Error) as caught:
            value(cursor, "SELECT c.slow(60.0)")
        said.append(str(caught.value))

    began = time.monotonic()
    together(server, work)
    assert time.monotonic() - began < 30
    assert len(said) == CLIENTS - 1
    assert all('actor "c" was dropped or replaced' in text for text in said), said


def test_actors_are_there_again_after_a_restart(start, tmp_path):
    server = start(data_dir=tmp_path / "kept")
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(ACTOR)
        cursor.execute("CREATE ACTOR c FROM counter")
        cursor.execute("CREATE ACTOR gone FROM counter")
        cursor.execute("DROP ACTOR gone")
        assert value(cursor, "SELECT c.add(3)") == 3
        pid = value(cursor, "SELECT c.pid()")
    server.stop()
    server = start(data_dir=tmp_path / "kept")
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT name FROM system.actors")
        assert cursor.fetchall() == [("c",)]
        # The name and the class are kept, the state is not.
        assert value(cursor, "SELECT c.get()") == 0
        assert value(cursor, "SELECT c.pid()") != pid


@pytest.fixture
def scans(start, tmp_path):
    """Three executors, a table of 125 rows that each of them reads a part of."""
    server = start(executors=3, args=["--scan-bytes-per-task", "1"])
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(ACTOR)
        cursor.execute("CREATE ACTOR c FROM counter")
        for part in range(5):
            rows = f"SELECT value + {25 * part} AS x FROM generate_series(1, 25)"
            cursor.execute(f"COPY ({rows}) TO '{tmp_path}/t/{part}.parquet'")
        cursor.execute(f"CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{tmp_path}/t/'")
        assert value(cursor, "SELECT count(*) FROM t") == CALLS
    return server


def test_a_thousand_concurrent_calls_from_scans_count_exactly(scans):
    with scans.connect() as connection, connection.cursor() as cursor:
        before = started(cursor)

    def work(cursor, number):
        cursor.execute("SET mobula.udf_batch_rows = 2")
        method = "add" if number % 2 else "twice"
        cursor.execute(f"SELECT count(*), count(DISTINCT n) FROM (SELECT c.{method}(1) AS n FROM t)")
        assert cursor.fetchone() == (CALLS, CALLS)

    together(scans, work)
    with scans.connect() as connection, connection.cursor() as cursor:
        assert value(cursor, "SELECT c.get()") == 500 * 1 + 500 * 2
        assert value(cursor, "SELECT c.processes()") == 1
        found = intervals(cursor, "c")
        assert len(found) == 1000
        assert not any(first[1] > second[0] for first, second in zip(found, found[1:]))
        after = started(cursor)
        workers = [name for name in after if name != "coordinator"]
        assert len(workers) == 3 and all(after[name] > before[name] for name in workers), after
        assert nothing_is_open(cursor)
        assert value(cursor, "SELECT restarts FROM system.actors") == 0


def nothing_is_open(cursor):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        streams = value(cursor, "SELECT sum(streams) FROM system.executors")
        if streams + value(cursor, "SELECT queue FROM system.actors") == 0:
            return True
        time.sleep(0.05)
    return False


def test_an_executor_that_is_killed_while_it_waits_leaves_the_actor_alone(scans):
    said = []

    def wait():
        with scans.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SET mobula.udf_batch_rows = 1")
            with pytest.raises(adbc_driver_manager.Error) as caught:
                value(cursor, "SELECT sum(c.slow(x * 0 + 0.2)) FROM t")
            said.append(str(caught.value))

    with scans.connect() as connection, connection.cursor() as cursor:
        pid = value(cursor, "SELECT c.pid()")
        waiting = threading.Thread(target=wait)
        waiting.start()
        deadline = time.monotonic() + 30
        # Blocks of several executors stand in line.
        while value(cursor, "SELECT queue FROM system.actors") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        scans.executors[0].kill()
        waiting.join(10)
        assert said and "lost" in said[0], said
        assert nothing_is_open(cursor)
        n = value(cursor, "SELECT c.get()")
        time.sleep(0.5)
        # What had not begun never does.
        assert value(cursor, "SELECT c.get()") == n < CALLS
        assert value(cursor, "SELECT c.pid()") == pid
        # The others go on.
        assert value(cursor, "SELECT count(c.add(1)) FROM t") == CALLS
