"""Actors that take no calls: on their way out, being built, not to be built, with nowhere to
live. They are seen, and DROP ends them, wherever they are."""

import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import adbc_driver_manager
import pytest
from asking import rows, value, wait_until
from servers import Process

# Waits for ever where it is told to: to be built, and with a row that is 0.
WAITS = """CREATE FUNCTION waits(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$
import os, time
class waits:
    def __init__(self):
        if os.path.exists('{folder}/hang'):
            time.sleep(1000)
        if os.path.exists('{folder}/fail'):
            raise ValueError('the model file is gone')
    def __call__(self, x):
        if x[0] == 0:
            time.sleep(1000)
        return x
$$"""
# With row 77 it dies, once; from then on it takes long to be built, or fails.
DIES = """CREATE FUNCTION dies(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$
import os, time
class dies:
    def __init__(self, fails=False):
        if os.path.exists('{folder}/died'):
            if fails:
                raise ValueError('the model file is gone')
            time.sleep(2)
    def __call__(self, x):
        time.sleep(0.005)
        if 77 in x and not os.path.exists('{folder}/died'):
            open('{folder}/died', 'w').close()
            os.kill(os.getpid(), 9)
        return x
$$"""
STATES = "SELECT state FROM system.actors WHERE pool = 'p' AND pid IS NOT NULL"
POOL = "SELECT actors, starting, last_change FROM system.actor_pools WHERE name = 'p'"
FAILED = "SELECT failed, last_change FROM system.actor_pools"
DEMAND = "SELECT resource, amount, actors FROM system.demand"
GPUS = 4


def add_host(server, id, *flags):
    command = ["executor", "--id", id, "--coordinator", server.address("executors"), *flags]
    token = str(server.data_dir / "cluster-token")
    return Process([*command, "--cluster-token-file", token])


@pytest.fixture(params=["alone", "cluster"])
def server(request, start, tmp_path):
    """A server with room for four actors: its own, or that of an executor."""
    grace = ["--udf-kill-grace", "300ms"]
    if request.param == "alone":
        yield start(args=["--gpus", str(GPUS), *grace])
        return
    server = start(args=["--no-local-executor", *grace])
    host = add_host(server, "host", "--gpus", str(GPUS), *grace)
    yield server
    host.stop()


@pytest.fixture
def cursor(server, tmp_path):
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(WAITS.format(folder=tmp_path))
        yield cursor


def ask(server, sql):
    """What `sql` gives, in a session of its own."""
    with server.connect() as connection, connection.cursor() as cursor:
        return rows(cursor, sql)


def states(cursor):
    return sorted(state for (state,) in rows(cursor, STATES))


def check_nothing_is_left(cursor):
    """What the pool had is free, in the coordinator's book and at its host, and can be had."""
    free = "SELECT sum(gpus_free) FROM system.executors"
    wait_until(lambda: value(cursor, free) == GPUS)
    assert rows(cursor, "SELECT name FROM system.actors") == []
    assert rows(cursor, "SELECT pid FROM system.workers WHERE state <> 'idle'") == []
    cursor.execute(f"CREATE ACTOR POOL p FROM waits WITH (min = {GPUS}, num_gpus = 1)")
    assert states(cursor) == ["idle"] * GPUS
    cursor.execute("DROP ACTOR POOL p")


def test_drop_ends_actors_that_are_on_their_way_out(server, cursor):
    cursor.execute("CREATE ACTOR POOL p FROM waits WITH (min = 2, num_gpus = 1)")
    failures = []

    def call():
        with server.connect() as connection, connection.cursor() as cursor:
            try:
                rows(cursor, "SELECT p(0)")
            except adbc_driver_manager.Error as error:
                failures.append(str(error))

    callers = [threading.Thread(target=call, daemon=True) for _ in range(3)]
    for caller in callers:
        caller.start()
    wait_until(lambda: states(cursor) == ["busy", "busy"])
    cursor.execute("ALTER ACTOR POOL p SET (min = 1, max = 1)")
    wait_until(lambda: states(cursor) == ["busy", "retiring"])
    cursor.execute("DROP ACTOR POOL p")
    for caller in callers:
        caller.join(30)
    assert len(failures) == 3, failures
    check_nothing_is_left(cursor)


@pytest.mark.parametrize("on_error", ["raise", "drop"])
def test_blocks_go_to_who_is_there(tmp_path, server, cursor, on_error):
    cursor.execute("CREATE ACTOR POOL p FROM waits WITH (min = 2, num_gpus = 1)")
    pids = rows(cursor, "SELECT pid FROM system.actors")
    (tmp_path / "hang").touch()
    os.kill(pids[0][0], signal.SIGKILL)
    # It is built for as long as the file is there.
    wait_until(lambda: states(cursor) != ["idle", "idle"])
    source = "TABLE(SELECT value AS x FROM generate_series(1, 200))"
    call = f"map_batches({source}, p, batch_size => 5, on_error => '{on_error}')"
    assert value(cursor, f"SELECT sum(p) FROM {call}") == 200 * 201 // 2
    (tmp_path / "hang").unlink()
    wait_until(lambda: states(cursor) == ["idle", "idle"])


@pytest.mark.parametrize("block_rows", [1, 5])
@pytest.mark.parametrize("on_error", ["raise", "null", "dead_letter"])
def test_blocks_of_an_actor_that_cannot_be_built_go_to_others(tmp_path, server, cursor, on_error, block_rows):
    cursor.execute(DIES.format(folder=tmp_path))
    cursor.execute("CREATE ACTOR POOL p FROM dies(fails => true) WITH (min = 2, num_gpus = 1)")
    cursor.execute(f"SET mobula.udf_batch_rows = {block_rows}")
    source = "TABLE(SELECT value AS x FROM generate_series(1, 200))"
    call = f"map_batches({source}, p, batch_size => 5, on_error => '{on_error}')"
    assert rows(cursor, f"SELECT count(p), sum(p) FROM {call}") == [(200, 200 * 201 // 2)]
    assert (tmp_path / "died").exists()
    # One has failed, and then the other one as well.
    wait_until(lambda: rows(cursor, FAILED)[0][0] == 1)
    ((pid,),) = rows(cursor, "SELECT pid FROM system.actors WHERE pid IS NOT NULL")
    os.kill(pid, signal.SIGKILL)
    failed, change = wait_until(lambda: (found := rows(cursor, FAILED)[0])[0] == 2 and found)
    assert change.startswith("none of 2 actors is there"), change
    (tmp_path / "died").unlink()
    wait_until(lambda: rows(cursor, FAILED) == [(0, "it is there")])
    wait_until(lambda: states(cursor) == ["idle", "idle"])


def test_an_actor_that_is_waited_for_is_one_retry(tmp_path, server, cursor):
    cursor.execute(DIES.format(folder=tmp_path))
    cursor.execute("CREATE ACTOR POOL p FROM dies WITH (min = 1, num_gpus = 1)")
    cursor.execute("SET mobula.udf_batch_rows = 5")
    source = "TABLE(SELECT value AS x FROM generate_series(1, 200))"
    plan = rows(cursor, f"EXPLAIN ANALYZE SELECT sum(p) FROM map_batches({source}, p, batch_size => 5)")
    assert (tmp_path / "died").exists()
    retries = [int(number) for number in re.findall(r"retries=(\d+)", str(plan))]
    assert sum(retries) == 1, plan


def test_drop_ends_actors_that_are_being_built(tmp_path, server, cursor):
    cursor.execute("CREATE ACTOR POOL p FROM waits WITH (min = 1, num_gpus = 1)")
    (tmp_path / "hang").touch()
    cursor.execute(f"ALTER ACTOR POOL p SET (min = {GPUS}, max = {GPUS})")
    wait_until(lambda: states(cursor) == ["idle"] + ["starting"] * (GPUS - 1))
    assert value(cursor, "SELECT p(7)") == 7
    cursor.execute("DROP ACTOR POOL p")
    (tmp_path / "hang").unlink()
    check_nothing_is_left(cursor)


def test_drop_ends_actors_that_are_built_after_a_restart(start, tmp_path):
    server = start(args=["--gpus", str(GPUS)])
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(WAITS.format(folder=tmp_path))
        cursor.execute("CREATE ACTOR POOL p FROM waits WITH (min = 2, num_gpus = 1)")
    server.stop()
    (tmp_path / "hang").touch()
    server = start(args=["--gpus", str(GPUS)])
    with server.connect() as connection, connection.cursor() as cursor:
        wait_until(lambda: states(cursor) == ["starting", "starting"])
        cursor.execute("DROP ACTOR POOL p")
        (tmp_path / "hang").unlink()
        check_nothing_is_left(cursor)


def test_what_cannot_be_built_after_a_restart_says_why(start, tmp_path):
    server = start(args=["--gpus", str(GPUS)])
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(WAITS.format(folder=tmp_path))
        cursor.execute("CREATE ACTOR POOL p FROM waits WITH (min = 2, num_gpus = 1)")
        cursor.execute("CREATE ACTOR one FROM waits WITH (num_gpus = 1)")
    server.stop()
    (tmp_path / "fail").touch()
    server = start(args=["--gpus", str(GPUS)])
    with server.connect() as connection, connection.cursor() as cursor:
        failed = "SELECT DISTINCT coalesce(pool, name), last_error FROM system.actors WHERE state = 'failed' ORDER BY 1"
        found = wait_until(lambda: len(found := rows(cursor, failed)) == 2 and found)
        assert [name for name, _ in found] == ["one", "p"]
        assert all("the model file is gone" in error for _, error in found), found
        ((actors, _, change),) = rows(cursor, POOL)
        assert actors == 0 and "the model file is gone" in change, change
        # They are tried again and again: each has one row, and says why.
        until, placed = time.monotonic() + 3, 0
        while time.monotonic() < until:
            found = rows(cursor, "SELECT name, state, last_error, executor_id FROM system.actors")
            assert len({name for name, *_ in found}) == len(found), found
            assert {name.split("#")[0] for name, *_ in found} == {"one", "p"}, found
            assert len(found) == 2 or "p" not in {name for name, *_ in found}, found
            assert all(state == "failed" and "is gone" in error for _, state, error, _ in found), found
            placed += any(executor for *_, executor in found)
        assert placed, "nobody was seen while it was built"
        for name in ("p", "one"):
            with pytest.raises(adbc_driver_manager.Error, match="the model file is gone"):
                rows(cursor, f"SELECT {name}(1)")
        (tmp_path / "fail").unlink()
        wait_until(lambda: not rows(cursor, failed))
        assert [value(cursor, f"SELECT {name}(7)") for name in ("p", "one")] == [7, 7]
        change = "SELECT last_change FROM system.actor_pools"
        wait_until(lambda: value(cursor, change) == "it is there")


def test_what_has_nowhere_to_live_after_a_restart_is_demanded(start, tmp_path):
    flags = ["--no-local-executor"]
    server = start(args=flags)
    host = add_host(server, "host", "--gpus", "2")
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(WAITS.format(folder=tmp_path))
        cursor.execute("CREATE ACTOR POOL p FROM waits WITH (min = 2, num_gpus = 1)")
    host.stop()
    server.stop()
    server = start(args=flags)
    other = add_host(server, "other")
    host = None
    try:
        with server.connect() as connection, connection.cursor() as cursor:
            wait_until(lambda: rows(cursor, DEMAND) == [("gpus", 2.0, 2)])
            ((actors, _, change),) = rows(cursor, POOL)
            assert actors == 0 and "waits for room" in change and "num_gpus" in change, change
            states = "SELECT state FROM system.actors WHERE pool = 'p'"
            assert rows(cursor, states) == [("starting",)]
            # It is altered although nobody has what it asks for.
            cursor.execute("ALTER ACTOR POOL p SET (min = 3, max = 3)")
            wait_until(lambda: rows(cursor, DEMAND) == [("gpus", 3.0, 3)])
            cursor.execute("ALTER ACTOR POOL p SET (min = 1, max = 2)")
            wait_until(lambda: rows(cursor, DEMAND) == [("gpus", 1.0, 1)])
            # A query says what it waits for.
            with ThreadPoolExecutor(1) as asking:
                asked = asking.submit(ask, server, "SELECT p(7)")
                waits = "SELECT sql, waits_for FROM system.queries WHERE waits_for LIKE 'actor%'"
                wait_until(lambda: rows(cursor, waits) == [("SELECT p(7)", 'actor pool "p"')])
                host = add_host(server, "host", "--gpus", "2")
                assert asked.result() == [(7,)]
            wait_until(lambda: not rows(cursor, DEMAND))
            assert rows(cursor, "SELECT last_error FROM system.actors") == [("",)]
            with pytest.raises(adbc_driver_manager.Error, match="3 actors, its min, .* there is room for 2"):
                cursor.execute("ALTER ACTOR POOL p SET (min = 3, max = 3)")
    finally:
        for process in filter(None, (host, other)):
            process.stop()
