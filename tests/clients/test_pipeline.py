"""A pipeline over executors that are not alike: read and decode on cores, infer on GPUs, post-process
on cores, all at once, at the pace of the slowest."""

import contextlib
import subprocess
import sys
import threading
import time

import pytest
from asking import rows, value, wait_until
from servers import Process

FILES, BLOCKS, BLOCK_ROWS, ROW_BYTES = 6, 240, 10, 20_000
ROWS = BLOCKS * BLOCK_ROWS
INFER_S, GPUS = 0.02, 2
# How much more a reader has that stops.
TIMES = 4
# Each stage notes when it had a row, and where; the first one is at work all the time it takes.
STAGES = [
    """CREATE FUNCTION unpack(rows TABLE) RETURNS TABLE(x BIGINT, image VARCHAR, decoded DOUBLE, decoder VARCHAR)
LANGUAGE python AS $$
import os, time
class unpack:
    def __call__(self, rows):
        until = time.time() + 0.003
        while time.time() < until:
            pass
        here = os.environ['MOBULA_EXECUTOR_ID'] + ' ' + str(os.getpid())
        n = len(rows['x'])
        return {'x': rows['x'], 'image': rows['image'], 'decoded': [time.time()] * n, 'decoder': [here] * n}
$$""",
    f"""CREATE FUNCTION infer(rows TABLE) RETURNS TABLE(x BIGINT, image VARCHAR, score BIGINT, decoded DOUBLE, decoder VARCHAR,
    began DOUBLE, inferred DOUBLE, gpu VARCHAR) LANGUAGE python AS $$
import os, time
class infer:
    def __call__(self, rows):
        began = time.time()
        time.sleep({INFER_S})
        here = os.environ['MOBULA_EXECUTOR_ID'] + ' ' + os.environ['CUDA_VISIBLE_DEVICES']
        n = len(rows['x'])
        score = [len(image) for image in rows['image']]
        return {{'x': rows['x'], 'image': rows['image'], 'score': score, 'decoded': rows['decoded'], 'decoder': rows['decoder'],
                'began': [began] * n, 'inferred': [time.time()] * n, 'gpu': [here] * n}}
$$""",
    """CREATE FUNCTION note(score BIGINT) RETURNS VARCHAR LANGUAGE python AS $$
import os, time
def note(score):
    return [f"{os.environ['MOBULA_EXECUTOR_ID']} {time.time()}"] * len(score)
$$""",
]
DECODED = "map_batches(TABLE(SELECT x, image FROM t), unpack, concurrency => 2, num_cpus => 1, preserve_order => false)"
INFERRED = f"map_batches(TABLE(SELECT * FROM {DECODED}), infer, concurrency => {GPUS}, num_gpus => 1, preserve_order => false)"
ALL = f"SELECT x, score, decoded, began, inferred, decoder, gpu, note(score) FROM {INFERRED}"
CALLS = "SELECT coalesce(sum(calls), 0) FROM system.operators WHERE function = '{}' AND state = 'running'"
# Reads one row, says so, and no more until it is told.
READER = """
import sys, adbc_driver_flightsql.dbapi as flightsql
cursor = flightsql.connect(sys.argv[1], autocommit=True).cursor()
cursor.execute("SET mobula.udf_batch_rows = %d")
cursor.execute(sys.argv[2])
assert cursor.fetchone() is not None
print('one', flush=True)
sys.stdin.readline()
print(1 + len(cursor.fetchall()), flush=True)
""" % BLOCK_ROWS


@pytest.fixture
def server(start, tmp_path):
    """A coordinator without tasks, two executors with cores, one with GPUs, and images in files."""
    server = start(args=["--no-local-executor", "--scan-bytes-per-task", "1"])
    executors = []
    try:
        for id, flags in (("a", ["--cpus", "4"]), ("b", ["--cpus", "4"]), ("gpus", ["--gpus", "2", "--cpus", "0.5", "--roles", "actors"])):
            command = ["executor", "--id", id, "--coordinator", server.address("executors")]
            command += ["--cluster-token-file", str(server.data_dir / "cluster-token"), *flags]
            executors.append(Process(command))
        with cursor_of(server) as cursor:
            for stage in STAGES:
                cursor.execute(stage)
            each = ROWS // FILES
            for part in range(FILES):
                images = f"SELECT value + {part * each} AS x, repeat(md5(value::VARCHAR), {ROW_BYTES // 32}) AS image FROM generate_series(1, {each})"
                cursor.execute(f"COPY ({images}) TO '{tmp_path}/t/{part}.parquet'")
            cursor.execute(f"CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{tmp_path}/t/'")
        yield server
    finally:
        for executor in reversed(executors):
            executor.stop()


@contextlib.contextmanager
def cursor_of(server):
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"SET mobula.udf_batch_rows = {BLOCK_ROWS}")
        yield cursor


def most_between(before, after):
    """Most of what had happened by `before` and not yet by `after`, at a time."""
    changes = sorted([(at, 1) for at in before] + [(at, -1) for at in after])
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def test_all_stages_run_at_once_at_the_pace_of_the_slowest(server):
    beside = []
    over = threading.Event()

    def ask_beside():
        with cursor_of(server) as cursor:
            while not over.is_set():
                began = time.monotonic()
                assert value(cursor, "SELECT count(DISTINCT x) FROM t") == ROWS
                beside.append(time.monotonic() - began)

    asker = threading.Thread(target=ask_beside)
    with cursor_of(server) as cursor:
        # Workers are built, and caches warm.
        rows(cursor, ALL.replace("FROM t", "FROM (SELECT * FROM t LIMIT 100)"))
        asker.start()
        try:
            cursor.execute(ALL)
            found = [cursor.fetchone()]
            first_at = time.time()
            found += cursor.fetchall()
        finally:
            over.set()
            asker.join()
    assert sorted(x for x, *_ in found) == list(range(1, ROWS + 1))
    assert {score for _, score, *_ in found} == {ROW_BYTES // 32 * 32}
    decoded, began, inferred = ([row[at] for row in found] for at in (2, 3, 4))
    noted = [float(note.split()[1]) for *_, note in found]
    # Each where it can be.
    assert {gpu for *_, gpu, _ in found} == {"gpus 0", "gpus 1"}
    assert {decoder.split()[0] for *_, decoder, _, _ in found} <= {"a", "b"}
    assert {note.split()[0] for *_, note in found} <= {"a", "b"}
    # The first row is out long before the last one is in.
    span = max(inferred) - min(began)
    assert first_at < max(decoded) - span / 2, (first_at, max(decoded), span)
    assert min(noted) < min(began) + span / 4
    # The slowest is not starved by who reads, though it has to share two cores with all of them.
    calls = set(zip(began, inferred))
    assert BLOCKS <= len(calls) <= BLOCKS + 2 * FILES, len(calls)
    busy = sum(until - since for since, until in calls) / GPUS / span
    assert busy > 0.4, (busy, span)
    # No stage runs ahead: two blocks for each actor from each of two tasks, and what is being cut.
    ahead = most_between(decoded, began) / BLOCK_ROWS
    assert ahead < BLOCKS / 4, ahead
    assert len(beside) > 3 and max(beside) < 3, beside


def test_a_reader_that_stops_stops_the_scan(server):
    with cursor_of(server) as cursor:
        # What comes out is as large as what goes in, so that no buffer holds much of it.
        many = f"FROM (SELECT a.x, a.image FROM t a, generate_series(1, {TIMES}))"
        sql = ALL.replace("SELECT x, score", "SELECT image, x, score").replace("FROM t", many)
        command = [sys.executable, "-c", READER, server.address("clients"), sql]
        reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert reader.stdout.readline() == "one\n"
            seen = [value(cursor, CALLS.format("unpack"))]

            def stands():
                seen.append(value(cursor, CALLS.format("unpack")))
                time.sleep(0.3)
                return len(seen) > 8 and len(set(seen[-8:])) == 1

            wait_until(stands, seconds=60)
            still = seen[-1]
            # Far from all of it.
            assert 0 < still < TIMES * BLOCKS / 3, seen
            # Who asks for GPUs has to wait; all others go on.
            assert value(cursor, "SELECT count(note(x)) FROM (SELECT x FROM t)") == ROWS
            reader.stdin.write("\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == f"{TIMES * ROWS}\n"
        finally:
            reader.kill()
            reader.wait()
