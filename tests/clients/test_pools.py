"""Actors of queries on executors: where the GPUs are, fed by scans elsewhere, and what
becomes of them when a process dies or a client goes."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import adbc_driver_manager
import pytest
from asking import is_alive, rows, value, wait_until
from servers import Process

# Says where it is, and takes its time for a block.
SEES = """CREATE OR REPLACE FUNCTION sees(x BIGINT) RETURNS VARCHAR LANGUAGE python AS $$
import os, time
class sees:
    def __call__(self, x):
        time.sleep(0.02)
        here = [os.environ['MOBULA_EXECUTOR_ID'], os.environ['CUDA_VISIBLE_DEVICES'], str(os.getpid())]
        return [' '.join(here)] * len(x)
$$"""
# The one whose child its worker is.
ENDS_HOST = """import os, time

def ends_host():
    time.sleep(0.3)
    os.kill(os.getppid(), 9)
    time.sleep(30)
"""
ROWS, FILES = 600, 6
BLOCK_ROWS = 2
# As many blocks as rows by BLOCK_ROWS: 3 s for two actors.
CALL = "map_batches(TABLE(SELECT x FROM t), sees, concurrency => 2, num_gpus => 1)"
ALL = f"SELECT x, sees FROM {CALL}"
# For an hour.
ENDLESS = ALL.replace("FROM t", "FROM (SELECT a.x FROM t a, t b)")
CLIENT = (
    "import sys, adbc_driver_flightsql.dbapi as flightsql\n"
    "cursor = flightsql.connect(sys.argv[1], autocommit=True).cursor()\n"
    "cursor.execute(sys.argv[2])\n"
    "cursor.fetchall()\n"
)
HOSTED = "SELECT pid, gpu_ids FROM system.workers WHERE executor_id = 'host' AND function = 'sees'"
TWO_GPUS = ["--gpus", "2", "--roles", "actors"]


class Cluster:
    """A coordinator, and executors that are added and may be lost."""

    def __init__(self, server):
        self.server = server
        self.executors = []

    def add(self, id, *flags):
        command = ["executor", "--id", id, "--coordinator", self.server.address("executors")]
        command += ["--cluster-token-file", str(self.server.data_dir / "cluster-token")]
        executor = Process([*command, *flags])
        self.executors.append(executor)
        return executor

    def connect(self):
        return self.server.connect()

    @contextlib.contextmanager
    def cursor(self):
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"SET mobula.udf_batch_rows = {BLOCK_ROWS}")
            yield cursor

    def stop(self):
        for executor in reversed(self.executors):
            executor.stop()

    def in_use(self, cursor):
        return value(cursor, "SELECT sum(gpus) - sum(gpus_free) FROM system.executors")

    def wait_until_free(self, cursor):
        """All that queries had is free, and none of their actors is left."""
        wait_until(lambda: self.in_use(cursor) == 0)
        wait_until(lambda: not rows(cursor, HOSTED))


@pytest.fixture
def cluster(start, tmp_path):
    """A coordinator that takes no tasks, two executors that do, and a table in files."""
    cluster = Cluster(start(args=["--no-local-executor", "--scan-bytes-per-task", "1"]))
    try:
        for id in ("a", "b"):
            cluster.add(id)
        with cluster.cursor() as cursor:
            cursor.execute(SEES)
            for part in range(FILES):
                each = ROWS // FILES
                part_rows = f"SELECT value + {part * each} AS x FROM generate_series(1, {each})"
                cursor.execute(f"COPY ({part_rows}) TO '{tmp_path}/t/{part}.parquet'")
            cursor.execute(f"CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{tmp_path}/t/'")
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def host(cluster):
    """The one with GPUs, which takes no tasks."""
    return cluster.add("host", *TWO_GPUS)


def check_exact(found):
    """Every row has come out once; where the actors were."""
    assert sorted(x for x, _ in found) == list(range(1, ROWS + 1))
    return {tuple(text.split()) for _, text in found}


def busy_actors(cluster):
    """The processes of both actors, once both are at work."""
    at_work = f"{HOSTED} AND state = 'busy'"
    with cluster.cursor() as cursor:
        return dict(wait_until(lambda: len(found := rows(cursor, at_work)) == 2 and found))


def test_a_pool_lives_where_the_gpus_are_and_is_fed_by_scans_elsewhere(cluster, host):
    traffic = "SELECT executor_id, tasks_started, bytes_sent, bytes_received FROM system.executors"

    def by_executor(cursor):
        time.sleep(1.2)  # They tell it with their heartbeats.
        return {id: figures for id, *figures in rows(cursor, traffic)}

    with cluster.cursor() as cursor:
        plan = "\n".join(text for _, text in rows(cursor, f"EXPLAIN {ALL}"))
        assert "tasks=2" in plan and "num_gpus=1" in plan, plan
        before = by_executor(cursor)
        places = check_exact(rows(cursor, ALL))
        assert {(id, gpu) for id, gpu, _ in places} == {("host", "0"), ("host", "1")}
        assert len({pid for *_, pid in places}) == 2
        after = by_executor(cursor)
        grown = {id: [a - b for a, b in zip(after[id], before[id])] for id in before}
        # Scans on both others, whose blocks went there and back.
        for id in ("a", "b"):
            tasks, sent, received = grown[id]
            assert tasks > 0 and sent > 8 * ROWS // 4 and received > 0, grown
        assert grown["host"][0] == 0 and grown["host"][1] > ROWS and grown["host"][2] > 8 * ROWS
        cluster.wait_until_free(cursor)
        with pytest.raises(adbc_driver_manager.Error) as caught:
            rows(cursor, ALL.replace("num_gpus => 1", "num_gpus => 3"))
        said = str(caught.value)
        for part in ("num_gpus => 3", "a has no GPU", "b has no GPU", "host has 2 GPUs"):
            assert part in said, said
        with pytest.raises(adbc_driver_manager.Error, match="there is room for 2"):
            rows(cursor, ALL.replace("concurrency => 2", "concurrency => 3"))


def test_an_actor_that_is_killed_loses_no_row(cluster, host):
    with cluster.cursor() as cursor:
        cursor.execute(ALL)
        killed = busy_actors(cluster)
        pid = next(iter(killed))
        os.kill(pid, signal.SIGKILL)
        places = check_exact(cursor.fetchall())
        # Three processes on two devices: the third has what the first had.
        by_pid = {int(pid): gpu for _, gpu, pid in places}
        new = [gpu for other, gpu in by_pid.items() if other not in killed]
        assert new == [killed[pid]], (places, killed)
        cluster.wait_until_free(cursor)


@pytest.mark.parametrize("pause, is_same_port", [(3, True), (1, False)])
def test_a_host_that_is_killed_and_comes_again_loses_no_row(cluster, host, pause, is_same_port):
    with cluster.cursor() as cursor:
        cursor.execute(ALL)
        killed = busy_actors(cluster)
        host.kill()
        began = time.monotonic()
        wait_until(lambda: not any(is_alive(pid) for pid in killed))
        time.sleep(max(0, pause - (time.monotonic() - began)))
        flags = list(TWO_GPUS)
        if is_same_port:
            flags += ["--listen", host.address("executor host").removeprefix("grpc://")]
        cluster.add("host", *flags)
        places = check_exact(cursor.fetchall())
        assert time.monotonic() - began < 30
        # Actors of before, if they came to answer, and two of after.
        new = {gpu for _, gpu, pid in places if int(pid) not in killed}
        assert new == {"0", "1"} and {id for id, *_ in places} == {"host"}, (places, killed)
        cluster.wait_until_free(cursor)
        # As if nothing had been.
        assert len(check_exact(rows(cursor, ALL))) == 2


def test_blocks_of_a_lost_host_go_to_the_one_that_is_left(cluster, host):
    other = cluster.add("other", "--gpus", "1", "--roles", "actors")
    both = ALL.replace("concurrency => 2", "concurrency => 3")
    with cluster.cursor() as cursor:
        cursor.execute(both)
        busy_actors(cluster)
        # Some of what it did has been answered by then.
        time.sleep(0.3)
        host.kill()
        began = time.monotonic()
        ids = [id for id, *_ in check_exact(cursor.fetchall())]
        assert set(ids) == {"host", "other"}, ids
        # Nobody waited until the loss was noticed by silence alone.
        assert time.monotonic() - began < 20
        assert value(cursor, "SELECT count(*) FROM system.executors WHERE executor_id = 'other'") == 1
        other.stop()


def test_hosts_that_are_lost_while_they_build_cost_a_query_only_time(cluster, tmp_path):
    """No block was begun there, so none is to blame, however many of them go."""
    hold, seen = tmp_path / "hold", set()
    hold.touch()
    waits = f"def __init__(self):\n        while os.path.exists('{hold}'):\n            time.sleep(0.05)\n    def"
    building = f"{HOSTED} AND state = 'loading'"
    with cluster.cursor() as cursor, cluster.cursor() as other, ThreadPoolExecutor(1) as asking:
        cursor.execute(SEES.replace("def", waits, 1))
        host = cluster.add("host", *TWO_GPUS)
        asked = asking.submit(rows, other, ALL)
        for _ in range(4):
            pids = wait_until(
                lambda: len(new := {pid for pid, _ in rows(cursor, building)} - seen) == 2 and new
            )
            seen |= pids
            host.kill()
            host = cluster.add("host", *TWO_GPUS)
        hold.unlink()
        places = check_exact(asked.result(60))
        assert not {int(pid) for *_, pid in places} & seen
        cluster.wait_until_free(cursor)


def test_hosts_that_are_lost_with_a_block_at_work_fail_its_query(cluster):
    deadly = ALL.replace("sees", "deadly")
    with cluster.cursor() as cursor, cluster.cursor() as other, ThreadPoolExecutor(1) as asking:
        ends = SEES.replace("sees", "deadly").replace("time.sleep(0.02)", "ends_host()")
        cursor.execute(ends.replace("import os, time", ENDS_HOST, 1))
        host = cluster.add("host", *TWO_GPUS)
        asked = asking.submit(rows, other, deadly)
        for _ in range(2):
            host.popen.wait(30)
            host = cluster.add("host", *TWO_GPUS)
        host.popen.wait(30)
        with pytest.raises(adbc_driver_manager.Error) as caught:
            asked.result(60)
    said = str(caught.value)
    for part in ('"deadly" has lost 3 hosts', "0 of them while actors were built", "udf_hosts_lost_max"):
        assert part in said, said


def test_a_host_that_stands_still_for_a_while_keeps_no_block(cluster):
    """Its connections stay, and what it wakes up to is not its own any more."""
    still = cluster.add("host", "--gpus", "1", "--roles", "actors")
    cluster.add("other", "--gpus", "1", "--roles", "actors")
    at_work = "SELECT count(*) FROM system.workers WHERE state = 'busy' AND function = 'sees'"
    with cluster.cursor() as cursor:
        cursor.execute(ALL)
        with cluster.cursor() as looking:
            wait_until(lambda: value(looking, at_work) == 2)
        still.popen.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        wakes = threading.Timer(8, still.popen.send_signal, [signal.SIGCONT])
        wakes.start()
        try:
            assert "other" in {id for id, *_ in check_exact(cursor.fetchall())}
        finally:
            wakes.join()
        assert time.monotonic() - began < 25
        # It is there again, with all that it has.
        alive = "SELECT count(*) FROM system.executors WHERE executor_id = 'host'"
        wait_until(lambda: value(cursor, alive) == 1)
        cluster.wait_until_free(cursor)
        assert {id for id, *_ in check_exact(rows(cursor, ALL))} == {"host", "other"}


def test_actors_end_with_their_coordinator(cluster, host):
    # Closing fails, too, where the server is gone.
    with contextlib.suppress(adbc_driver_manager.Error, RuntimeError), cluster.cursor() as cursor:
        cursor.execute(ENDLESS)
        pids = busy_actors(cluster)
        cluster.server.kill()
        began = time.monotonic()
        wait_until(lambda: not any(is_alive(pid) for pid in pids))
        # heartbeat_timeout, and some for the last heartbeat and for their end.
        assert time.monotonic() - began < 3 + 5
        assert host.popen.poll() is None


def test_a_client_that_goes_takes_its_actors_along(cluster, host):
    with cluster.connect() as connection:
        reader = connection.cursor()
        reader.execute(f"SET mobula.udf_batch_rows = {BLOCK_ROWS}")
        reader.execute(ENDLESS)
        assert reader.fetchone()
        pids = busy_actors(cluster)
        reader.close()
    began = time.monotonic()
    with cluster.cursor() as cursor:
        cluster.wait_until_free(cursor)
        assert not any(is_alive(pid) for pid in pids)
        assert time.monotonic() - began < 10
        assert len(check_exact(rows(cursor, ALL))) == 2


def test_a_client_that_goes_while_it_waits_holds_nobody_up(cluster, host):
    waiting = "SELECT count(*) FROM system.queries WHERE state = 'waiting' AND waits_for LIKE '%sees%'"
    with cluster.cursor() as holder, cluster.cursor() as cursor:
        holder.execute(ENDLESS)
        holder.fetchone()
        client = subprocess.Popen([sys.executable, "-c", CLIENT, cluster.server.address("clients"), ALL])
        try:
            wait_until(lambda: value(cursor, waiting) == 1)
        finally:
            client.kill()
            client.wait(10)
        wait_until(lambda: value(cursor, waiting) == 0)
        assert cluster.in_use(cursor) == 2
        holder.close()
        assert len(check_exact(rows(cursor, ALL))) == 2
        cluster.wait_until_free(cursor)


SLOW = """CREATE OR REPLACE FUNCTION slow(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$
import time
class slow:
    def __init__(self, seconds=0):
        time.sleep(seconds)
    def __call__(self, x):
        return x
$$"""
ACTORS = "SELECT count(*) FROM system.actors"
IN_LINE = "SELECT count(*) FROM system.queries WHERE state = 'waiting' AND sql LIKE '%never%' AND waits_for LIKE '%never%'"


def left_while(cluster, sql, condition):
    """A client of its own that is killed while its statement runs."""
    client = subprocess.Popen([sys.executable, "-c", CLIENT, cluster.server.address("clients"), sql])
    try:
        wait_until(condition)
    finally:
        client.kill()
        client.wait(10)


def test_an_actor_that_nobody_waits_for_any_more_is_not_made(cluster, host):
    with cluster.cursor() as cursor:
        cursor.execute(SLOW)
        cursor.execute("CREATE ACTOR first FROM slow WITH (num_gpus = 2)")
        wait_until(lambda: cluster.in_use(cursor) == 2)
        # In line: another that comes later is not behind it.
        sql = "CREATE ACTOR POOL never FROM slow WITH (min = 2, max = 2, num_gpus = 1, init_timeout = '600s')"
        left_while(cluster, sql, lambda: value(cursor, IN_LINE) == 1)
        wait_until(lambda: value(cursor, IN_LINE) == 0)
        cursor.execute("DROP ACTOR first")
        cursor.execute("CREATE ACTOR second FROM slow WITH (num_gpus = 2, init_timeout = '10s')")
        assert value(cursor, ACTORS) == 1
        cursor.execute("DROP ACTOR second")
        # While it is built: it ends when it is there, and gives back what it had.
        sql = "CREATE ACTOR never FROM slow(seconds => 1) WITH (num_gpus = 2)"
        left_while(cluster, sql, lambda: cluster.in_use(cursor) == 2)
        cluster.wait_until_free(cursor)
        assert value(cursor, ACTORS) == 0
        cursor.execute("CREATE ACTOR never FROM slow WITH (num_gpus = 2, init_timeout = '10s')")
        assert value(cursor, "SELECT never(1)") == 1


def test_queries_that_each_want_all_gpus_all_end(cluster, host):
    found, failed = [], []
    two_calls = (
        "SELECT x, sees FROM map_batches(TABLE(SELECT x, sees AS first FROM map_batches("
        "TABLE(SELECT x FROM t WHERE x <= 100), sees, concurrency => 1, num_gpus => 1)), sees,"
        " concurrency => 1, num_gpus => 1)"
    )
    small = ALL.replace("FROM t", "FROM t WHERE x <= 100")

    def client(number):
        try:
            with cluster.cursor() as cursor:
                found.append(len(rows(cursor, (two_calls, small)[number % 2])))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    limit = time.monotonic() + 90
    for thread in threads:
        thread.join(max(0, limit - time.monotonic()))
    assert not failed, failed
    assert found == [100] * 10
    with cluster.cursor() as cursor:
        assert value(cursor, "SELECT count(*) FROM system.queries WHERE state = 'waiting'") == 0
        cluster.wait_until_free(cursor)


def test_labels_pick_the_executor(cluster):
    cluster.add("far", "--label", "zone=b", "--cpus", "4", "--roles", "actors")
    cluster.add("near", "--label", "zone=a", "--cpus", "1", "--roles", "actors")
    ask = "SELECT x, sees FROM map_batches(TABLE(SELECT x FROM t WHERE x <= 60), sees, {})"

    def ids(cursor, options):
        return sorted({text.split()[0] for _, text in rows(cursor, ask.format(options))})

    with cluster.cursor() as cursor:
        cursor.execute(SEES.replace("os.environ['CUDA_VISIBLE_DEVICES']", "'none'"))
        assert ids(cursor, "concurrency => 2, label_selector => 'zone=b'") == ["far"]
        assert ids(cursor, "concurrency => 1, num_cpus => 1, label_selector => 'zone=a'") == ["near"]
        # The first that is liked, then the next one.
        either = "concurrency => {}, num_cpus => 1, label_selector => 'zone=a | zone=b'"
        assert ids(cursor, either.format(1)) == ["near"]
        assert ids(cursor, either.format(3)) == ["far", "near"]
        # Whoever has no such label, with cores of both.
        assert ids(cursor, "concurrency => 4, num_cpus => 1, label_selector => 'zone!=b, zone!=a'") == ["a", "b"]
        with pytest.raises(adbc_driver_manager.Error, match="label_selector => 'zone=c'.*zone=b"):
            rows(cursor, ask.format("label_selector => 'zone=c'"))
