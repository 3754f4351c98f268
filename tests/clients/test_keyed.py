"""Keyed actors whose processes and hosts die: each key in its order, and the state as if
nothing had been."""

import os
import signal
import threading
import time

import pytest
from asking import is_alive, rows, wait_until
from servers import Process

# Tells of each row how many of its key it has seen, their sum, and who says so.
COUNTS = """CREATE OR REPLACE FUNCTION counts(rows TABLE)
RETURNS TABLE(k BIGINT, x BIGINT, seen BIGINT, total BIGINT, who VARCHAR) LANGUAGE python AS $$
import os, time
class counts:
    def __init__(self):
        self.keys = {}
    def __call__(self, rows):
        time.sleep(0.02)
        seen, total, keys = [], [], rows['k'].tolist()
        for key, x in zip(keys, rows['x'].tolist()):
            count, sum = self.keys.get(key, (0, 0))
            self.keys[key] = (count + 1, sum + x)
            seen.append(count + 1)
            total.append(sum + x)
        who = f"{os.environ['MOBULA_EXECUTOR_ID']} {os.getpid()}"
        return {'k': keys, 'x': rows['x'], 'seen': seen, 'total': total, 'who': [who] * len(keys)}
    def snapshot(self):
        return self.keys
    def restore(self, keys):
        self.keys = keys
$$"""
ROWS, KEYS, FILES = 12_000, 200, 4
BLOCK_ROWS = 20
CALL = "map_batches(TABLE(SELECT k, x FROM events), counts, partition_by => k, concurrency => 3{})"
ALL = "SELECT k, x, seen, total, who FROM " + CALL
BUSY = "SELECT pid, executor_id FROM system.workers WHERE function = 'counts' AND state = 'busy'"


def make_events(cursor, tmp_path):
    """Each file has all events of some keys, in their order."""
    for part in range(FILES):
        ours = f"SELECT value AS x, (value * 7919) % {KEYS} AS k FROM generate_series(1, {ROWS})"
        ours = f"SELECT * FROM ({ours}) WHERE k % {FILES} = {part} ORDER BY x"
        cursor.execute(f"COPY ({ours}) TO '{tmp_path}/events/{part}.parquet'")
    cursor.execute(f"CREATE EXTERNAL TABLE events STORED AS PARQUET LOCATION '{tmp_path}/events/'")
    cursor.execute(COUNTS)


def check(found):
    """Each row once, each key in its order and with the state of all before; who said so."""
    assert len(found) == ROWS and {x for _, x, *_ in found} == set(range(1, ROWS + 1))
    by_key = {}
    for k, x, seen, total, _ in found:
        by_key.setdefault(k, []).append((x, seen, total))
    assert len(by_key) == KEYS
    for key, events in by_key.items():
        sum = 0
        for place, (x, seen, total) in enumerate(events, 1):
            sum += x
            assert (seen, total) == (place, sum), (key, place, events)
        assert events == sorted(events), key
    return {tuple(who.split()) for *_, who in found}


def kill_workers(server, times, pause=0.4):
    """Kills one of the actors, some times: the one that has been there for longest. Another may
    be at the block that ended the one before it, which a second death would make the user's."""
    killed, known = [], []
    with server.connect() as connection, connection.cursor() as cursor:
        for _ in range(times):
            # One that was killed may be listed for a moment yet.
            pids = wait_until(lambda: [pid for pid, _ in rows(cursor, BUSY) if pid not in killed])
            known += [pid for pid in pids if pid not in known]
            pid = next(pid for pid in known if pid in pids)
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            time.sleep(pause)
    return killed


@pytest.mark.parametrize("executors", [0, 2])
@pytest.mark.parametrize("every", [1, 8, 1000])
def test_actors_that_are_killed_lose_no_state(start, tmp_path, executors, every):
    server = start(executors, ["--scan-bytes-per-task", "1"])
    with server.connect() as connection, connection.cursor() as cursor:
        make_events(cursor, tmp_path)
        cursor.execute(f"SET mobula.udf_batch_rows = {BLOCK_ROWS}")
        killed = []
        killer = threading.Thread(target=lambda: killed.extend(kill_workers(server, 4)))
        killer.start()
        try:
            who = check(rows(cursor, ALL.format(f", snapshot_every => {every}")))
        finally:
            killer.join()
        assert len(killed) == 4 and len({pid for _, pid in who}) >= 5, (killed, who)
        # None of them is left.
        wait_until(lambda: not any(is_alive(int(pid)) for _, pid in who))


def test_metrics_tell_what_was_kept_and_seen_again(start, tmp_path):
    server = start()
    with server.connect() as connection, connection.cursor() as cursor:
        make_events(cursor, tmp_path)
        cursor.execute(f"SET mobula.udf_batch_rows = {BLOCK_ROWS}")
        # So often, and not in step with what it keeps, that one dies with blocks to see again.
        killer = threading.Thread(target=kill_workers, args=(server, 4, 0.33))
        killer.start()
        sql = "EXPLAIN ANALYZE SELECT count(*) FROM " + CALL.format(", snapshot_every => 10")
        plan = "\n".join(text for _, text in rows(cursor, sql))
        killer.join()
        figures = dict(part.strip().split("=", 1) for part in plan.split("MapBatchesExec")[1].split("metrics=[")[1].split("]")[0].split(","))
        assert int(figures["workers_started"]) == 7, figures
        assert int(figures["snapshots"]) > 30, figures
        assert 0 < int(figures["replayed"]) < 40, figures


class Cluster:
    """A coordinator, two executors that take tasks, and hosts of actors."""

    def __init__(self, start):
        self.server = start(args=["--no-local-executor", "--scan-bytes-per-task", "1"])
        self.executors = {}

    def add(self, id, *flags):
        command = ["executor", "--id", id, "--coordinator", self.server.address("executors")]
        command += ["--cluster-token-file", str(self.server.data_dir / "cluster-token"), *flags]
        self.executors[id] = Process(command)
        return self.executors[id]

    def stop(self):
        for executor in self.executors.values():
            executor.stop()


@pytest.fixture
def cluster(start):
    cluster = Cluster(start)
    try:
        for id in ("a", "b"):
            cluster.add(id)
        yield cluster
    finally:
        cluster.stop()


GPUS = ["--gpus", "3", "--roles", "actors"]
PLACED = ALL.format(", num_gpus => 1, snapshot_every => 8")


def at_work(cluster, count=1):
    with cluster.server.connect() as connection, connection.cursor() as cursor:
        return wait_until(lambda: len(found := rows(cursor, BUSY)) >= count and found)


def test_actors_on_hosts_go_on_elsewhere_with_their_state(cluster, tmp_path):
    host = cluster.add("host", *GPUS)
    with cluster.server.connect() as connection, connection.cursor() as cursor:
        make_events(cursor, tmp_path)
        cursor.execute(f"SET mobula.udf_batch_rows = {BLOCK_ROWS}")
        who = check(rows(cursor, PLACED))
        assert {id for id, _ in who} == {"host"} and len(who) == 3, who
        cursor.execute(PLACED)
        at_work(cluster, 2)
        time.sleep(1)
        cluster.add("other", *GPUS)
        host.kill()
        who = check(cursor.fetchall())
        assert {id for id, _ in who} == {"host", "other"}, who


def test_killed_actors_on_hosts_and_hosts_that_come_again(cluster, tmp_path):
    cluster.add("host", *GPUS)
    with cluster.server.connect() as connection, connection.cursor() as cursor:
        make_events(cursor, tmp_path)
        cursor.execute(f"SET mobula.udf_batch_rows = {BLOCK_ROWS}")
        cursor.execute(PLACED)
        for _ in range(2):
            pid, _ = at_work(cluster)[0]
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.3)
        at_work(cluster)
        cluster.executors["host"].kill()
        time.sleep(1)
        cluster.add("host", *GPUS)
        who = check(cursor.fetchall())
        # More than live at a time; one that is killed may have answered nothing yet.
        assert len(who) > 3, who


def test_an_owner_that_stood_still_is_not_heard_when_it_wakes(cluster, tmp_path):
    """Its lanes have moved: what it answers, and the states that it tells, count no more."""
    still = cluster.add("still", *GPUS)
    with cluster.server.connect() as connection, connection.cursor() as cursor:
        make_events(cursor, tmp_path)
        cursor.execute(f"SET mobula.udf_batch_rows = {BLOCK_ROWS}")
        cursor.execute(PLACED)
        pids = [pid for pid, _ in at_work(cluster, 2)]
        # The host and its actors alike: they wake with blocks half done.
        cluster.add("other", *GPUS)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        still.popen.send_signal(signal.SIGSTOP)

        def wake():
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGCONT)
                except ProcessLookupError:
                    pass
            still.popen.send_signal(signal.SIGCONT)

        wakes = threading.Timer(9, wake)
        wakes.start()
        try:
            who = check(cursor.fetchall())
        finally:
            wakes.join()
        assert {id for id, _ in who} == {"still", "other"}, who
