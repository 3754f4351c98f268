"""What processes have, who gets it, and who waits."""

import os
import signal
import threading
import time

import adbc_driver_manager
import pytest
from asking import rows, wait_until
from servers import Process

SEES = (
    "CREATE FUNCTION sees(x BIGINT) RETURNS VARCHAR LANGUAGE python WITH (num_gpus = 1) AS $$\n"
    "import os, time\n"
    "class sees:\n"
    "    def __call__(self, x):\n"
    "        time.sleep(0.05)\n"
    "        return [f\"{os.environ['CUDA_VISIBLE_DEVICES']} {os.getpid()} {time.time()}\"] * len(x)\n$$"
)
BLOCKS = "TABLE(SELECT value AS x FROM generate_series(1, {}))"
HOLDS = f"SELECT sees FROM map_batches({BLOCKS.format(100000)}, sees)"
HAS = (
    "SELECT executor_id, takes_tasks, runs_actors, cpus, gpus, gpu_ids, memory_bytes, resources, labels"
    " FROM system.executors ORDER BY executor_id"
)


def watch(server):
    """What `system.queries` says from now on, as it grows, until a query waits."""
    seen = set()

    def look():
        with server.connect() as connection, connection.cursor() as cursor:
            limit = time.monotonic() + 20
            while time.monotonic() < limit and not any(state == "waiting" for state, *_ in seen):
                seen.update(rows(cursor, "SELECT state, sql, waits_for, ahead FROM system.queries"))

    threading.Thread(target=look, daemon=True).start()
    return seen


@pytest.fixture
def two_gpus(start):
    """A server of one process, one row a block."""
    server = start(args=["--gpus", "2", "--udf-init-timeout", "30s"])
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(SEES)
    return server


@pytest.fixture
def cursor(two_gpus):
    with two_gpus.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET mobula.udf_batch_rows = 1")
        yield cursor


def test_flags_show_up(start):
    server = start()
    flags = ["executor", "--id", "gpu-host", "--coordinator", server.address("executors")]
    flags += ["--cluster-token-file", str(server.data_dir / "cluster-token")]
    flags += ["--cpus", "1.5", "--gpus", "2", "--memory", "1GiB", "--roles", "actors"]
    flags += ["--resource", "a=1", "--resource", "b=0.5", "--label", "zone=a", "--label", "disk=ssd"]
    executor = Process(flags)
    try:
        with server.connect() as connection, connection.cursor() as cursor:
            found = rows(cursor, HAS)
            assert found[1] == (
                "gpu-host", False, True, 1.5, 2.0, "0,1", 1 << 30, "a=1,b=0.5", "disk=ssd,zone=a",
            )
            id, tasks, actors, cpus, *_, memory, resources, labels = found[0]
            assert (id, tasks, actors, resources, labels) == ("coordinator", True, True, "", "")
            assert cpus >= 1 and memory > 1 << 20
            # Nobody but the coordinator takes tasks.
            assert rows(cursor, "SELECT count(*) FROM generate_series(1, 10)") == [(10,)]
    finally:
        executor.stop()


def test_gpus_are_dealt_out_to_own_executors(start):
    server = start(args=["--gpus", "GPU-a,GPU-b,GPU-c", "--executors", "2", "--resource", "slot=1"])
    with server.connect() as connection, connection.cursor() as cursor:
        found = [(id, gpus, slots) for id, _, _, _, _, gpus, _, slots, _ in rows(cursor, HAS)]
    assert found == [
        ("coordinator", "", "slot=1"),
        ("local-0", "GPU-a,GPU-c", "slot=1"),
        ("local-1", "GPU-b", "slot=1"),
    ]


def test_two_actors_have_two_gpus_also_when_they_die(two_gpus, cursor):
    sql = f"SELECT sees FROM map_batches({BLOCKS.format(300)}, sees, concurrency => 2)"
    workers = "SELECT pid, gpu_ids FROM system.workers WHERE function = 'sees' AND state = 'busy'"
    killed, waited = [], []

    def kill():
        with two_gpus.connect() as connection, connection.cursor() as other:
            # Between two looks a worker may have nothing to do.
            both = wait_until(lambda: len(found := rows(other, workers)) == 2 and found)
            os.kill(both[0][0], signal.SIGKILL)
            killed.extend(both)

    def wait():
        # It stands in line for a GPU all the while, and gets none in between.
        with two_gpus.connect() as connection, connection.cursor() as other:
            wait_until(lambda: len(killed) == 2)
            waited.extend(rows(other, "SELECT sees(1::BIGINT)"))

    threads = [threading.Thread(target=each) for each in (kill, wait)]
    for thread in threads:
        thread.start()
    seen = [tuple(text.split()) for (text,) in rows(cursor, sql)]
    for thread in threads:
        thread.join(60)
    assert len(seen) == 300 and {gpus for gpus, _, _ in seen} == {"0", "1"}
    # Three processes on two devices: the third has what the first had.
    by_pid = {int(pid): gpus for gpus, pid, _ in seen}
    assert sorted(gpus for _, gpus in killed) == ["0", "1"]
    new = [gpus for pid, gpus in by_pid.items() if pid not in dict(killed)]
    assert new == [killed[0][1]]
    gpu, _, at = waited[0][0].split()
    assert gpu in ("0", "1") and at > max(at for _, _, at in seen)


def test_a_query_that_waits_too_long_says_for_what(start):
    server = start(args=["--gpus", "1", "--udf-init-timeout", "3s"])
    with server.connect() as connection, connection.cursor() as holder:
        holder.execute(SEES)
        holder.execute("SET mobula.udf_batch_rows = 1")
        # Nobody reads the rest.
        holder.execute(HOLDS)
        holder.fetchone()
        with server.connect() as other, other.cursor() as waiting:
            seen = watch(server)
            with pytest.raises(adbc_driver_manager.Error, match=r'waited 3s for resources \("sees" for 1 GPU\)'):
                waiting.execute("SELECT sees(1::BIGINT)")
                waiting.fetchall()
            # Meanwhile others saw what it waits for, and who has it.
            assert ("waiting", "SELECT sees(1::BIGINT)", '"sees" for 1 GPU', 0) in seen
            assert ("running", HOLDS, None, None) in seen
            left = rows(waiting, "SELECT count(*) FROM system.queries WHERE state = 'waiting'")
            assert left == [(0,)]
            # Who asks for nothing does not wait.
            assert rows(waiting, "SELECT 1") == [(1,)]
    with server.connect() as connection, connection.cursor() as cursor:
        assert rows(cursor, "SELECT sees(1::BIGINT)")[0][0].startswith("0 ")


@pytest.mark.parametrize("executors", [0, 1])
def test_who_waits_for_what_a_pool_keeps_is_told_of_the_pool(start, executors):
    args = ["--gpus", "1", "--udf-init-timeout", "1s"]
    server = start(args=args, executors=executors)
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(SEES)
        cursor.execute("CREATE ACTOR POOL p FROM sees WITH (min = 1, max = 1)")
        wait_until(lambda: rows(cursor, "SELECT pool FROM system.actors WHERE pid IS NOT NULL") == [("p",)])
        with pytest.raises(adbc_driver_manager.Error) as refused:
            rows(cursor, f"SELECT sees FROM map_batches({BLOCKS.format(1)}, sees)")
        text = str(refused.value)
        assert 'that actor pool "p" kept' in text and "DROP ACTOR POOL" in text, text
        assert "cursors" not in text, text
