"""Named actors that are called by key, by many at once, and whose processes and hosts die between
and during queries: each row counts once in the state, each key's in their order."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from asking import rows, wait_until
from test_keyed import COUNTS, GPUS, Cluster

ROWS, KEYS, FILES = 3_000, 60, 4
BLOCK_ROWS = 20
POOL = "CREATE ACTOR POOL p FROM counts WITH (min = 3, max = 3{})"
ALL = "SELECT k, x, seen, total, who FROM map_batches(TABLE(SELECT k, x FROM events), p, partition_by => k, snapshot_every => {})"


def make(cursor, tmp_path, asks=""):
    """Each file has all events of some keys, in their order."""
    for part in range(FILES):
        ours = f"SELECT value AS x, (value * 7919) % {KEYS} AS k FROM generate_series(1, {ROWS})"
        ours = f"SELECT * FROM ({ours}) WHERE k % {FILES} = {part} ORDER BY x"
        cursor.execute(f"COPY ({ours}) TO '{tmp_path}/events/{part}.parquet'")
    cursor.execute(f"CREATE EXTERNAL TABLE events STORED AS PARQUET LOCATION '{tmp_path}/events/'")
    cursor.execute(COUNTS)
    cursor.execute(POOL.format(asks))


def query(server, every=8):
    """All events through the pool, in a session of its own."""
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"SET mobula.udf_batch_rows = {BLOCK_ROWS}")
        return rows(cursor, ALL.format(every))


def check(answers):
    """What all queries were told of a key is one history: each row once, with the state of all
    before, and those of one query in their order; who said so, by key."""
    histories, who_of = {}, {}
    for found in answers:
        assert len(found) == ROWS and {x for _, x, *_ in found} == set(range(1, ROWS + 1))
        of_query = {}
        for k, x, seen, total, who in found:
            histories.setdefault(k, []).append((seen, x, total))
            of_query.setdefault(k, []).append((seen, x))
            who_of.setdefault(k, set()).add(tuple(who.split()))
        for key, events in of_query.items():
            assert [x for _, x in sorted(events)] == sorted(x for _, x in events), key
    assert len(histories) == KEYS
    for key, history in histories.items():
        sum = 0
        for place, (seen, x, total) in enumerate(sorted(history), 1):
            sum += x
            assert (seen, total) == (place, sum), (key, place, history)
    return who_of


def kill_all(server):
    """Kills all actors of the pool, and waits until others are there."""
    with server.connect() as connection, connection.cursor() as cursor:
        there = "SELECT pid FROM system.actors WHERE pool = 'p' AND pid IS NOT NULL"

        def all_but(others):
            pids = {pid for (pid,) in rows(cursor, there)}
            return len(pids) == 3 and not pids & others and pids

        before = wait_until(lambda: all_but(set()))
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: all_but(before))


def kill_busy(server, times):
    """Kills an actor that is at work, some times."""
    with server.connect() as connection, connection.cursor() as cursor:
        busy = "SELECT pid FROM system.actors WHERE pool = 'p' AND state = 'busy' AND pid IS NOT NULL"
        for time_ in range(times):
            pids = [pid for (pid,) in wait_until(lambda: rows(cursor, busy))]
            os.kill(pids[time_ % len(pids)], signal.SIGKILL)
            time.sleep(0.3)


@pytest.mark.parametrize("executors", [0, 2])
@pytest.mark.parametrize("every", [1, 8, 1000])
def test_a_pool_keeps_the_state_of_its_keys_over_queries_and_kills(start, tmp_path, executors, every):
    server = start(executors, ["--scan-bytes-per-task", "1"])
    with server.connect() as connection, connection.cursor() as cursor:
        make(cursor, tmp_path)
        answers = [query(server, every)]
        kill_all(server)
        answers.append(query(server, every))
        killer = threading.Thread(target=kill_busy, args=(server, 3))
        killer.start()
        # Three at once, of sessions of their own.
        with ThreadPoolExecutor(3) as asking:
            answers.extend(asking.map(lambda _: query(server, every), range(3)))
        killer.join()
        who_of = check(answers)
        assert len(set().union(*who_of.values())) >= 8, who_of
        # Between two kills a key has one actor, whoever asks.
        first = check(answers[:1])
        assert all(len(who) == 1 for who in first.values()), first
        cursor.execute("DROP ACTOR POOL p")


def test_keyed_calls_and_others_of_one_pool_at_once(start, tmp_path):
    server = start(2, ["--scan-bytes-per-task", "1"])
    with server.connect() as connection, connection.cursor() as cursor:
        make(cursor, tmp_path)
        stop, found = threading.Event(), []

        def others():
            with server.connect() as connection, connection.cursor() as cursor:
                # Rows of other keys, which may go to any actor.
                sql = "SELECT count(*) FROM map_batches(TABLE(SELECT -1 AS k, value AS x FROM generate_series(1, 500)), p)"
                while not stop.is_set():
                    found.append(rows(cursor, sql))

        besides = threading.Thread(target=others)
        besides.start()
        try:
            check([query(server) for _ in range(2)])
        finally:
            stop.set()
            besides.join()
        assert len(found) > 1 and all(count == [(500,)] for count in found), found


@pytest.fixture
def cluster(start):
    cluster = Cluster(start)
    try:
        for id in ("a", "b"):
            cluster.add(id)
        yield cluster
    finally:
        cluster.stop()


def hosts(cursor):
    found = rows(cursor, "SELECT executor_id FROM system.actors WHERE pool = 'p' AND state IN ('idle', 'busy')")
    return [id for (id,) in found]


def test_a_state_outlives_its_host_between_and_during_queries(cluster, tmp_path):
    first = cluster.add("first", *GPUS)
    server = cluster.server
    with server.connect() as connection, connection.cursor() as cursor:
        make(cursor, tmp_path, ", num_gpus = 1")
        answers = [query(server)]
        # Between queries.
        second = cluster.add("second", *GPUS)
        first.kill()
        wait_until(lambda: hosts(cursor) == ["second"] * 3)
        answers.append(query(server))
        # During queries, of two sessions.
        cluster.add("third", *GPUS)
        with ThreadPoolExecutor(2) as asking:
            asked = [asking.submit(query, server) for _ in range(2)]
            wait_until(lambda: rows(cursor, "SELECT 1 FROM system.actors WHERE pool = 'p' AND state = 'busy'"))
            time.sleep(0.5)
            second.kill()
            answers.extend(one.result() for one in asked)
        who_of = check(answers)
        assert {id for who in who_of.values() for id, _ in who} == {"first", "second", "third"}, who_of


def test_a_host_that_stood_still_is_not_heard_when_it_wakes(cluster, tmp_path):
    still = cluster.add("still", *GPUS)
    server = cluster.server
    with server.connect() as connection, connection.cursor() as cursor:
        make(cursor, tmp_path, ", num_gpus = 1")
        answers = [query(server)]
        with ThreadPoolExecutor(1) as asking:
            asked = asking.submit(query, server)
            busy = "SELECT pid FROM system.actors WHERE pool = 'p' AND state = 'busy'"
            found = wait_until(lambda: len(found := rows(cursor, busy)) >= 2 and found)
            pids = [pid for (pid,) in found]
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
                answers.append(asked.result())
            finally:
                wakes.join()
        answers.append(query(server))
        who_of = check(answers)
        assert {id for who in who_of.values() for id, _ in who} == {"still", "other"}, who_of
