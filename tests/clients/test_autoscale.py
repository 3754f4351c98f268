"""Pools that follow a bursty load, named ones and those of queries: over a real cluster of
processes, over restarts."""

import os
import signal
import threading
import time

import pytest
from asking import rows, wait_until
from servers import Process

CLASS = """CREATE FUNCTION naps(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$
import os, time
class naps:
    def __call__(self, x):
        time.sleep(0.05)
        return [os.getpid()] * len(x)
    def pid(self, x: int) -> int:
        return os.getpid()
$$"""
POOL = "SELECT actors, queue, last_change FROM system.actor_pools WHERE name = 'p'"
BLOCKS = 400
# As many blocks as rows, 20 s for one actor.
JOB = f"SELECT count(*), count(DISTINCT p) FROM map_batches(TABLE(SELECT value AS x FROM generate_series(1, {BLOCKS})), p)"
# What the pool must follow within: 3 s on a machine that has nothing else to do, as the
# benchmark `burst` measures.
FOLLOWS_S = 12


# Passes on half of the rows, and after a pause the others.
GATE = """CREATE FUNCTION gate(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$
import time
class gate:
    def __call__(self, x):
        if x[0] == 151:
            time.sleep(7)
        return x
$$"""
TWO_BURSTS = (
    "SELECT count(*), sum(x), count(DISTINCT naps) FROM map_batches(TABLE(SELECT gate AS x FROM"
    " map_batches(TABLE(SELECT value AS x FROM generate_series(1, 300)), gate)), naps,"
    " concurrency => '1..4', num_gpus => 1)"
)
QUERY_POOL = "SELECT actors, last_change FROM system.actor_pools WHERE query_id IS NOT NULL"


@pytest.fixture(params=["alone", "cluster"])
def server(request, start):
    """A server with room for four actors: its own, or that of executors."""
    yield from serve(request.param, start)


@pytest.fixture(params=["alone", "cluster"])
def quick_server(request, start):
    """The same, where nobody is idle for long."""
    yield from serve(request.param, start, ["--pool-idle-ttl", "500ms"])


def serve(kind, start, args=()):
    if kind == "alone":
        yield start(args=["--gpus", "4", *args])
        return
    server = start(args=["--no-local-executor", *args])
    hosts = []
    for id in ("a", "b"):
        command = ["executor", "--id", id, "--coordinator", server.address("executors"), "--gpus", "2"]
        hosts.append(Process([*command, "--cluster-token-file", str(server.data_dir / "cluster-token")]))
    yield server
    for host in hosts:
        host.stop()


def burst(server):
    """Runs the job; how the size of the pool went meanwhile, by seconds since its start."""
    found, sizes = [], []

    def job():
        with server.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SET mobula.udf_batch_rows = 1")
            found.extend(rows(cursor, JOB))

    thread = threading.Thread(target=job)
    began = time.monotonic()
    thread.start()
    with server.connect() as connection, connection.cursor() as cursor:
        while thread.is_alive():
            sizes.append((time.monotonic() - began, rows(cursor, POOL)[0][0]))
            time.sleep(0.05)
    thread.join()
    assert found and found[0][0] == BLOCKS, found
    return found[0][1], sizes


def test_a_pool_follows_a_bursty_job(server):
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(CLASS)
        cursor.execute("CREATE ACTOR POOL p FROM naps WITH (min = 1, max = 4, num_gpus = 1, idle_ttl = '1s')")
        for _ in range(2):
            assert rows(cursor, POOL)[0][0] == 1
            actors, sizes = burst(server)
            grown = [at for at, size in sizes if size == 4]
            assert grown and grown[0] <= FOLLOWS_S, sizes
            # It never turned round while there was something to do.
            assert [size for _, size in sizes] == sorted(size for _, size in sizes), sizes
            assert actors == 4
            wait_until(lambda: rows(cursor, POOL)[0][0] == 1)
            assert "nothing to do for" in rows(cursor, POOL)[0][2]
        wait_until(lambda: rows(cursor, "SELECT sum(gpus) - sum(gpus_free) FROM system.executors")[0][0] == 1)


def test_what_is_altered_holds_over_a_restart(start):
    server = start(args=["--gpus", "4"])
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(CLASS)
        cursor.execute("CREATE ACTOR POOL p FROM naps WITH (min = 1, max = 2, num_gpus = 1)")
        cursor.execute("ALTER ACTOR POOL p SET (min = 3, max = 4, idle_ttl = '7s')")
        wait_until(lambda: rows(cursor, POOL)[0][0] == 3)
        assert rows(cursor, POOL)[0][2] == "grew by 2: it was below its min"
    server.stop()
    server = start(args=["--gpus", "4"])
    with server.connect() as connection, connection.cursor() as cursor:
        # Known at once, and built in the background.
        shown = "SELECT min, max, idle_ttl_ms FROM system.actor_pools"
        assert rows(cursor, shown) == [(3, 4, 7000)]
        wait_until(lambda: rows(cursor, POOL)[0][0] == 3)
        assert len(rows(cursor, "SELECT p.pid(1)")) == 1


def test_an_actor_that_dies_idle_is_built_anew_at_once(server):
    pids = "SELECT pid FROM system.actors WHERE pool = 'p' AND state = 'idle'"
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(CLASS)
        cursor.execute("CREATE ACTOR POOL p FROM naps WITH (min = 2, num_gpus = 1)")
        before = {pid for (pid,) in rows(cursor, pids)}
        assert len(before) == 2
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        # Nobody calls it.
        after = wait_until(lambda: len(found := {pid for (pid,) in rows(cursor, pids)}) == 2 and killed not in found and found)
        assert before - {killed} < after


def test_a_pool_of_a_query_follows_two_bursts(quick_server):
    """Blocks of the second one are first sent to actors that have left meanwhile."""
    found, sizes = [], []

    def job():
        with quick_server.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SET mobula.udf_batch_rows = 1")
            found.extend(rows(cursor, TWO_BURSTS))

    with quick_server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(CLASS)
        cursor.execute(GATE)
        thread = threading.Thread(target=job)
        thread.start()
        while thread.is_alive():
            sizes += [size for size, _ in rows(cursor, QUERY_POOL)]
            time.sleep(0.05)
        thread.join()
        assert found and found[0][:2] == (300, sum(range(1, 301))), (found, sizes)
        # One for all the time, and three for each burst.
        turns = [size for at, size in enumerate(sizes) if size in (1, 4) and (at == 0 or size != sizes[at - 1])]
        turns = [size for at, size in enumerate(turns) if at == 0 or size != turns[at - 1]]
        assert turns[:4] == [1, 4, 1, 4], (turns, sizes)
        assert found[0][2] >= 6, found
        assert not rows(cursor, QUERY_POOL)
        wait_until(lambda: rows(cursor, "SELECT sum(gpus) - sum(gpus_free) FROM system.executors")[0][0] == 0)


def test_a_pool_makes_room_for_who_waits(server):
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(CLASS)
        # An hour idle, unless others wait.
        cursor.execute("CREATE ACTOR POOL p FROM naps WITH (min = 1, max = 4, num_gpus = 1, idle_ttl = '1h')")
        burst(server)
        assert rows(cursor, POOL)[0][0] == 4
        other = "SELECT count(*) FROM map_batches(TABLE(SELECT 1 AS x), naps, num_gpus => 1)"
        assert rows(cursor, other) == [(1,)]
        assert rows(cursor, POOL)[0][0] < 4
