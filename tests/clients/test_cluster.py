"""Executors as processes of their own: spread, bytes, losses, orphans."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import adbc_driver_manager
import pytest
from asking import is_alive, rows
from servers import register

WHERE = (
    "CREATE FUNCTION place(x BIGINT) RETURNS VARCHAR LANGUAGE python AS $$\n"
    "import os\n"
    "def place(x):\n"
    "    here = os.environ['MOBULA_EXECUTOR_ID'] + ' ' + str(os.getpid())\n"
    "    return [here] * len(x)\n$$"
)
SLOW = (
    "CREATE FUNCTION slow(x BIGINT) RETURNS BIGINT LANGUAGE python WITH (concurrency = 3) AS $$\n"
    "import os, pathlib, time\n"
    "def slow(x):\n"
    "    pathlib.Path('{dir}', str(os.getpid())).touch()\n"
    "    time.sleep(60)\n"
    "    return x\n$$"
)
CLIENT = (
    "import sys, adbc_driver_flightsql.dbapi as flightsql\n"
    "cursor = flightsql.connect(sys.argv[1], autocommit=True).cursor()\n"
    "cursor.execute(sys.argv[2])\n"
    "cursor.fetchall()\n"
)
# What user code does, and what the error says of it.
FAULTS = {
    "ctypes.string_at(0)": r'"faulty" lost its worker .*SIGSEGV.*line 5: ctypes.string_at\(0\)',
    "os._exit(3)": r'"faulty" lost its worker .*exit code 3',
    "os.kill(os.getpid(), signal.SIGKILL)": r'"faulty" lost its worker .*SIGKILL',
    "while True: pass": r'"faulty" did not answer within 2s \(line 5: while True: pass\)',
    "return x[1:]": r'"faulty" returned .* values for .* rows',
}
FAULTY = (
    "CREATE OR REPLACE FUNCTION faulty(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$\n"
    "import ctypes, os, pathlib, signal\n"
    "def faulty(x):\n"
    "    pathlib.Path('{dir}', str(os.getpid())).touch()\n"
    "    {fault}\n"
    "    return x\n$$"
)
SMALL_SCANS = ["--scan-bytes-per-task", "64KiB"]


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def run_slow(server, directory, outcome):
    """Runs a query whose workers sleep; puts its error into `outcome`."""
    # Closing fails too where the server is gone.
    with contextlib.suppress(adbc_driver_manager.Error):
        with server.connect() as connection, connection.cursor() as cursor:
            try:
                rows(cursor, "SELECT sum(slow(l_orderkey)) FROM lineitem")
            except adbc_driver_manager.Error as error:
                outcome.append(str(error))


def workers_in(directory):
    return [int(name) for name in os.listdir(directory)]


@pytest.fixture
def slow_query(start, tpch, tmp_path):
    """A cluster in the middle of a query that only ends when stopped."""
    server = start(3, args=SMALL_SCANS)
    directory = tmp_path / "workers"
    directory.mkdir()
    with server.connect() as connection, connection.cursor() as cursor:
        register(cursor, tpch)
        cursor.execute(SLOW.replace("{dir}", str(directory)))
    outcome = []
    thread = threading.Thread(target=run_slow, args=(server, directory, outcome), daemon=True)
    thread.start()
    assert wait_until(lambda: len(workers_in(directory)) >= 3, 30), "no worker started"
    yield server, workers_in(directory), thread, outcome
    thread.join(10)


def test_functions_run_on_several_executors_and_bytes_add_up(start, tpch):
    server = start(3, args=SMALL_SCANS)
    with server.connect() as connection, connection.cursor() as cursor:
        register(cursor, tpch)
        cursor.execute(WHERE)
        places = rows(cursor, "SELECT DISTINCT place(l_orderkey) FROM lineitem")
        assert len({place.split()[0] for (place,) in places}) >= 2

        def bytes_agree():
            sql = "SELECT sum(bytes_sent), sum(bytes_received) FROM system.executors"
            ((sent, received),) = rows(cursor, sql)
            return sent > 0 and sent == received

        assert wait_until(bytes_agree), rows(cursor, "SELECT * FROM system.executors")


def test_without_executors_scans_are_unavailable_and_the_rest_works(start, tpch):
    server = start(1)
    with server.connect() as connection, connection.cursor() as cursor:
        register(cursor, tpch)
        server.executors[0].stop()
        with pytest.raises(adbc_driver_manager.Error) as caught:
            rows(cursor, "SELECT count(*) FROM lineitem")
        assert "no executor" in str(caught.value)
        assert rows(cursor, "SELECT 1 + 1") == [(2,)]
        assert len(rows(cursor, "SELECT * FROM system.executors")) == 1
        cursor.execute("CREATE VIEW v AS SELECT 1 AS one")


def test_a_killed_executor_is_named_and_leaves_no_workers(slow_query):
    server, workers, thread, outcome = slow_query
    victim = server.executors[0]
    url = victim.address(victim_name(victim)).replace("grpc", "http")
    victim.kill()
    thread.join(5)
    assert outcome, "the query must fail within 5 s"
    assert "lost" in outcome[0] and url in outcome[0], outcome[0]
    with server.connect() as connection, connection.cursor() as cursor:
        # At once: plans do not count on it, though its silence is not noticed yet.
        assert rows(cursor, "SELECT count(*) > 0 FROM lineitem") == [(True,)]
        alive = "SELECT count(*) FROM system.executors WHERE role = 'executor'"
        assert wait_until(lambda: rows(cursor, alive) == [(2,)])
    assert wait_until(lambda: not any(map(is_alive, workers)), 3), "orphans"


def test_operators_and_workers_of_all_executors_are_listed(slow_query):
    server, workers, _thread, _outcome = slow_query
    victim = server.executors[0]
    name = victim_name(victim).removeprefix("executor ")
    running = (
        "SELECT DISTINCT executor_id FROM system.operators "
        "WHERE function = 'slow' AND state = 'running'"
    )
    with server.connect() as connection, connection.cursor() as cursor:
        assert wait_until(lambda: len(rows(cursor, running)) >= 2), rows(cursor, running)
        busy = rows(cursor, "SELECT executor_id, pid FROM system.workers WHERE state = 'busy'")
        assert set(workers) <= {pid for _, pid in busy}, busy
        assert (name,) in {(executor,) for executor, _ in busy}, busy
        victim.kill()
        # At once: nobody waits for who is dead, though its silence is not noticed yet.
        since = time.monotonic()
        assert (name,) not in rows(cursor, "SELECT DISTINCT executor_id FROM system.workers")
        assert time.monotonic() - since < 5


def victim_name(process):
    line = next(line for line in process.log if line.startswith("mobula: executor "))
    return line.split("mobula: ")[1].split(" on ")[0]


def test_after_faults_of_user_code_executors_live_and_nothing_is_left(start, tpch, tmp_path):
    server = start(3, args=SMALL_SCANS)
    with server.connect() as connection, connection.cursor() as cursor:
        register(cursor, tpch)
        before = rows(cursor, "SELECT executor_id, pid FROM system.executors ORDER BY 1")
        assert len(before) == 4
        for number, (fault, said) in enumerate(FAULTS.items()):
            directory = tmp_path / str(number)
            directory.mkdir()
            cursor.execute(FAULTY.format(dir=directory, fault=fault))
            limit = "2s" if "while" in fault else "0"
            cursor.execute(f"SET mobula.udf_call_timeout = '{limit}'")
            with pytest.raises(adbc_driver_manager.Error, match=said):
                rows(cursor, "SELECT sum(faulty(o_orderkey)) FROM orders")
            lost = workers_in(directory)
            assert lost
            if not fault.startswith("return"):
                assert wait_until(lambda: not any(map(is_alive, lost))), fault
            assert rows(cursor, "SELECT executor_id, pid FROM system.executors ORDER BY 1") == before
        cursor.execute(FAULTY.format(dir=directory, fault="pass"))
        [(difference,)] = rows(cursor, "SELECT sum(faulty(o_orderkey)) - sum(o_orderkey) FROM orders")
        assert difference == 0


def test_workers_killed_again_and_again_are_named_with_their_signal(slow_query, tmp_path):
    _server, _workers, thread, outcome = slow_query

    def all_killed():
        # The block of a killed one goes to another worker, once.
        for pid in filter(is_alive, workers_in(tmp_path / "workers")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(outcome)

    assert wait_until(all_killed, 20), "the query goes on"
    thread.join(5)
    assert "slow" in outcome[0] and "SIGKILL" in outcome[0], outcome
    assert wait_until(lambda: not any(map(is_alive, workers_in(tmp_path / "workers"))), 3), "orphans"


def test_a_killed_coordinator_leaves_nothing_running(slow_query):
    server, workers, thread, outcome = slow_query
    server.kill()
    assert wait_until(lambda: not any(map(is_alive, workers)), 5), "orphans"


def test_own_executors_end_with_a_killed_server(start):
    server = start(args=["--executors", "2"])
    with server.connect() as connection, connection.cursor() as cursor:
        pids = rows(cursor, "SELECT pid FROM system.executors WHERE role = 'executor'")
    assert len(pids) == 2
    server.kill()
    assert wait_until(lambda: not any(is_alive(pid) for (pid,) in pids), 3), "orphans"


def test_closing_the_cursor_stops_the_work(start, tpch, tmp_path):
    server = start(3, args=SMALL_SCANS)
    directory = tmp_path / "workers"
    directory.mkdir()
    with server.connect() as connection, connection.cursor() as cursor:
        register(cursor, tpch)
        cursor.execute(SLOW.replace("{dir}", str(directory)).replace("sleep(60)", "sleep(0.2)"))
        cursor.execute(
            "SELECT * FROM map_batches(TABLE(SELECT l_orderkey AS x FROM lineitem), slow, "
            "batch_size => 100)"
        )
        cursor.fetchone()

    def touched():
        return {file.name: file.stat().st_mtime_ns for file in directory.iterdir()}

    def is_quiet():
        # A worker between two blocks lives on, for others; at work, it touches its file.
        before = touched()
        time.sleep(1)
        return touched() == before

    assert wait_until(is_quiet, 10), "workers go on"


@pytest.mark.parametrize("executors", [0, 3])
def test_a_killed_client_stops_the_work(start, tpch, tmp_path, executors):
    server = start(executors, args=SMALL_SCANS)
    directory = tmp_path / "workers"
    directory.mkdir()
    with server.connect() as connection, connection.cursor() as cursor:
        register(cursor, tpch)
        cursor.execute(SLOW.replace("{dir}", str(directory)))
    query = "SELECT sum(slow(l_orderkey)) FROM lineitem"
    client = subprocess.Popen([sys.executable, "-c", CLIENT, server.address("clients"), query])
    try:
        assert wait_until(lambda: workers_in(directory), 30), "no worker started"
    finally:
        client.kill()
        client.wait(10)
    assert wait_until(lambda: not any(map(is_alive, workers_in(directory))), 3), "orphans"
    with server.connect() as connection, connection.cursor() as cursor:
        busy = "SELECT count(*) FROM system.workers WHERE state = 'busy'"
        assert wait_until(lambda: rows(cursor, busy) == [(0,)], 3)
        assert rows(cursor, "SELECT count(*) > 0 FROM lineitem") == [(True,)]


def test_small_blocks_of_a_killed_client_call_nobody_any_more(start):
    """Where thousands of them would go into one batch, whose readers have gone."""
    server = start(executors=2, args=["--udf-batch-rows", "2"])
    few = (
        "CREATE FUNCTION few(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$\n"
        "import time\n"
        "def few(x):\n    time.sleep(0.02)\n    return x\n$$"
    )
    spread = "SELECT * FROM repartition(TABLE(SELECT value AS x FROM generate_series(1, 1000000000)), 2)"
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(few)
        counted = f"SELECT count(few) FROM map_batches(TABLE({spread}), few, preserve_order => false)"
        cursor.execute(f"EXPLAIN {counted}")
        assert "RoundRobinBatch" in str(cursor.fetchall())
        client = subprocess.Popen([sys.executable, "-c", CLIENT, server.address("clients"), counted])
        running = "SELECT calls FROM system.operators WHERE state = 'running'"
        assert wait_until(lambda: len(found := rows(cursor, running)) == 2 and min(found) > (3,))
        client.kill()
        client.wait(10)
        assert wait_until(lambda: rows(cursor, running) == []), rows(cursor, running)
        tasks = "SELECT DISTINCT state FROM system.tasks WHERE stage > 0"
        assert rows(cursor, tasks) == [("dropped",)]
