"""A pool that answers questions beside work: who goes first, what is shared, how large blocks
are, and names of calls that stay the same when an actor is killed."""

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from asking import value, wait_until

# Takes as many milliseconds as its text says, and knows what it did for whom.
MODEL = """CREATE FUNCTION model(text VARCHAR) RETURNS BIGINT LANGUAGE python AS $$
import time
class model:
    def __init__(self):
        self.had, self.most = {}, {}
    def __call__(self, text):
        who, _, ms = text[0].partition(' ')
        time.sleep(float(ms or 0) / 1000)
        self.had[who] = self.had.get(who, 0) + float(ms or 0)
        self.most[who] = max(self.most.get(who, 0), len(text))
        return [len(t) for t in text]
    def ms(self, who: str) -> float:
        return self.had.get(who, 0.0)
    def largest(self, who: str) -> int:
        return self.most.get(who, 0)
$$"""
# A client in a process of its own, until it is killed.
WORK = """
import sys, adbc_driver_flightsql.dbapi as flightsql
cursor = flightsql.connect(sys.argv[1], autocommit=True).cursor()
for setting in sys.argv[3:]:
    cursor.execute(f"SET mobula.{setting}")
function, _, text = sys.argv[2].partition(' ')
cursor.execute(f"SELECT count({function}('{text}')) FROM generate_series(1, 1000000000)")
cursor.fetchall()
"""
BLOCKS_OF_8 = "udf_batch_rows = 8"


@contextlib.contextmanager
def work(server, *texts, settings=(BLOCKS_OF_8,)):
    """Queries beside, one for each text, after the function that it is for."""
    address = server.address("clients")
    clients = [subprocess.Popen([sys.executable, "-c", WORK, address, text, *settings]) for text in texts]
    try:
        yield clients
        assert all(client.poll() is None for client in clients), "one of them has ended"
    finally:
        for client in clients:
            client.kill()
            client.wait()


@pytest.fixture(params=[0, 2], ids=["alone", "cluster"])
def server(request, start):
    """With one actor in a pool, here or on an executor."""
    server = start(executors=request.param)
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(MODEL)
        cursor.execute("CREATE ACTOR POOL m FROM model")
    return server


def asked(cursor, function="m"):
    began = time.monotonic()
    assert value(cursor, f"SELECT {function}('text')") == 4
    return time.monotonic() - began


def queue(cursor):
    return value(cursor, "SELECT queue FROM system.actors")


def test_a_question_waits_for_one_block_whoever_else_waits(server):
    with server.connect() as connection, connection.cursor() as cursor:
        asked(cursor)
        with work(server, *["m work 200"] * 4):
            # Each has a block at work or two in line.
            wait_until(lambda: queue(cursor) >= 6)
            took = [asked(cursor) for _ in range(6)]
            # In order it would wait for seven.
            assert sorted(took)[3] < 0.45, took


def test_a_single_actor_takes_calls_as_they_come_unless_a_session_says_otherwise(server):
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("DROP ACTOR POOL m")
        cursor.execute("CREATE ACTOR one FROM model")
        asked(cursor, "one")
        with work(server, *["one work 200"] * 4):
            wait_until(lambda: queue(cursor) >= 6)
            took = [asked(cursor, "one") for _ in range(3)]
            assert min(took) > 0.6, took
            cursor.execute("SET mobula.udf_priority = 'interactive'")
            took = [asked(cursor, "one") for _ in range(6)]
            assert sorted(took)[3] < 0.45, took


def test_queries_share_the_time_of_an_actor(server):
    with server.connect() as connection, connection.cursor() as cursor:
        asked(cursor)
        with work(server, "m long 400", "m short 40"):
            wait_until(lambda: value(cursor, "SELECT m.ms('long')") and value(cursor, "SELECT m.ms('short')"))

            def had():
                return [value(cursor, f"SELECT m.ms('{who}')") for who in ("long", "short")]

            before = had()
            time.sleep(6)
            long, short = (now - then for now, then in zip(had(), before))
            # In order they would take turns, and have ten to one.
            assert 0.4 < long / short < 2.5, (long, short)


def test_blocks_are_cut_to_what_they_should_take(server):
    rows = "SELECT 'row' AS text FROM generate_series(1, 200000)"
    slow = """CREATE OR REPLACE FUNCTION slow(text VARCHAR) RETURNS BIGINT LANGUAGE python AS $$
import time
class slow:
    def __init__(self):
        self.longest = 0.0
    def __call__(self, text):
        took = len(text) / 20000
        self.longest = max(self.longest, took)
        time.sleep(took)
        return [len(text)] * len(text)
    def longest_s(self, x: int) -> float:
        return self.longest
$$"""
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(slow)
        for setting, batch_size, longest in [("100ms", "", (0.02, 0.2)), ("1ms", ", batch_size => 4000", (0.2, 0.2))]:
            cursor.execute("CREATE OR REPLACE ACTOR POOL s FROM slow")
            cursor.execute(f"SET mobula.actor_block_time = '{setting}'")
            call = f"map_batches(TABLE({rows} LIMIT 20000), s{batch_size})"
            cursor.execute(f"SELECT count(*), max(s) FROM {call}")
            count, largest = cursor.fetchone()
            assert count == 20000
            found = value(cursor, "SELECT s.longest_s(1)")
            assert longest[0] <= found <= longest[1], (setting, found, largest)


def test_the_next_block_is_in_line_before_an_actor_is_through(server):
    with server.connect() as connection, connection.cursor() as cursor:
        asked(cursor)
        with work(server, "m work 40"):
            wait_until(lambda: value(cursor, "SELECT m.ms('work')"))
            found = []
            for number in range(40):
                found.append(queue(cursor))
                time.sleep(0.02 + 0.001 * (number % 7))
            # While one is at work another one waits; half the time is by turns.
            assert found.count(1) > 28, found


# A client's calls of a pool, made by a task on an executor, one after the other.
ELSEWHERE = """
import sys, adbc_driver_flightsql.dbapi as flightsql
cursor = flightsql.connect(sys.argv[1], autocommit=True).cursor()
cursor.execute("SET mobula.udf_priority = 'batch'")
while True:
    spread = f"SELECT * FROM repartition(TABLE(SELECT '{sys.argv[2]}' AS text FROM generate_series(1, 1)), 2)"
    cursor.execute(f"SELECT count(m) FROM map_batches(TABLE({spread}), m)")
    assert cursor.fetchall() == [(1,)]
"""


def test_a_question_goes_to_a_free_actor_wherever_it_is(start):
    server = start(executors=3)
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(MODEL)
        cursor.execute("CREATE ACTOR POOL m FROM model WITH (min = 3, max = 3)")
        busy = "SELECT count(*) FROM system.actors WHERE state = 'busy'"
        idle = sorted(asked(cursor) for _ in range(20))[10]
        address = server.address("clients")
        clients = [subprocess.Popen([sys.executable, "-c", ELSEWHERE, address, "work 1500"]) for _ in range(2)]
        try:
            wait_until(lambda: value(cursor, busy) == 2)
            took = []
            began = time.monotonic()
            while time.monotonic() < began + 4:
                took.append(asked(cursor))
            assert all(client.poll() is None for client in clients)
            # By chance two of three would wait, for 0.75 s each.
            slow = [s for s in took if s > 0.3 + 3 * idle]
            assert len(took) > 40 and len(slow) <= len(took) // 20, (idle, len(took), slow)
        finally:
            for client in clients:
                client.kill()
                client.wait()


# Notes the name of each call and what it was for, each process in a file of its own.
SINK = """CREATE FUNCTION sink(x BIGINT) RETURNS VARCHAR LANGUAGE python AS $$
import mobula, os, time
class sink:
    def __call__(self, x):
        call = mobula.context().call_id
        with open(f'{dir}/{{os.getpid()}}', 'a') as log:
            log.write(f"{{call}} {{','.join(map(str, x))}}\\n")
        time.sleep(0.01)
        return [call] * len(x)
    def pid(self, x: int) -> int:
        return os.getpid()
$$"""


@pytest.mark.parametrize("executors", [0, 2], ids=["alone", "cluster"])
def test_a_call_that_is_made_again_has_its_name_again(start, tmp_path, executors):
    server = start(executors=executors, args=["--scan-bytes-per-task", "1"])
    log = tmp_path / "log"
    log.mkdir()
    rows = 3000
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(SINK.format(dir=log))
        cursor.execute("CREATE ACTOR POOL s FROM sink WITH (min = 2, max = 2)")
        for part in range(4):
            part_rows = f"SELECT value + {part * 750} AS x FROM generate_series(1, 750)"
            cursor.execute(f"COPY ({part_rows}) TO '{tmp_path}/t/{part}.parquet'")
        cursor.execute(f"CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{tmp_path}/t/'")
        cursor.execute("SET mobula.udf_batch_rows = 10")
        over = threading.Event()
        killed = []

        def kill():
            with server.connect() as other, other.cursor() as actors:
                while not over.wait(0.4):
                    pid = value(actors, "SELECT min(pid) FROM system.actors WHERE state = 'busy'")
                    if pid is not None and len(killed) < 4:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                            killed.append(pid)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            cursor.execute("SELECT x, s FROM map_batches(TABLE(t), s, preserve_order => false)")
            found = cursor.fetchall()
        finally:
            over.set()
            killer.join()
    assert killed, "nobody was killed"
    assert sorted(x for x, _ in found) == list(range(1, rows + 1))
    by_call = collections.defaultdict(list)
    for path in log.iterdir():
        for line in path.read_text().splitlines():
            call, _, values = line.partition(" ")
            by_call[call].append(values)
    # However often a call was made, it was for the same rows, and no other for them.
    assert all(len(set(values)) == 1 for values in by_call.values())
    assert max(len(values) for values in by_call.values()) > 1, "no call was made again"
    stored = [int(x) for values in by_call.values() for x in values[0].split(",")]
    assert sorted(stored) == list(range(1, rows + 1))
    # What came out is what was called for.
    assert {call for _, call in found} == set(by_call)
