"""Actors that several share: how busy a slow stage keeps them, what kills cost, and how
fast point queries stay beside batches.

    MOBULA_BIN=target/release/mobula python benchmarks/clients/pools.py slowest [--actors 1,2,4,8,16]
    MOBULA_BIN=target/release/mobula python benchmarks/clients/pools.py chaos [--seconds 60]
    MOBULA_BIN=target/release/mobula python benchmarks/clients/pools.py burst [--seconds 60] [--of-queries]
    MOBULA_BIN=target/release/mobula python benchmarks/clients/pools.py served [--questions 300] [--executors 3]
    MOBULA_BIN=target/release/mobula python benchmarks/clients/pools.py keyed [--seconds 60] [--hosts]

`slowest`: two executors scan, a third one has the actors, which take 10 ms a block.
`chaos`: four actors on two executors; every 5 s one of them, or one of their executors, is
killed. The executor is started again 3 s later.
`burst`: a named pool of 1 to 8 actors gets a job of so many seconds for one actor, three times with
a pause; its size and its line are printed as they go. With `--of-queries` each job is a query with a
pool of its own, whose first actor it starts.
`served`: one server with a warm pool of four, asked one row at a time, alone and beside a
query whose calls take 10 ms, 500 ms, or one whose blocks would take seconds if they were not
cut. With `--executors` the pool is spread over so many, and so is the work.
`keyed`: a million events of 10,000 keys, four actors that keep a count and a sum of each key,
one of which is killed every 10 s, in turn with one of their hosts if `--hosts` is given; each
key's order and state are held against a recomputation. Needs the packages of
tests/clients/requirements.txt.
"""

import argparse
import contextlib
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from servers import Process, Server

CLASS = """CREATE FUNCTION steady(x BIGINT) RETURNS VARCHAR LANGUAGE python AS $$
import os, time
class steady:
    def __init__(self):
        with open('{dir}/' + str(os.getpid()), 'w') as built:
            built.write(str(time.time()))
    def __call__(self, x):
        began = time.time()
        time.sleep({seconds})
        return [f'{{os.getpid()}} {{began}} {{time.time()}}'] + [None] * (len(x) - 1)
$$"""
KEYED = """CREATE FUNCTION account(rows TABLE)
RETURNS TABLE(k BIGINT, x BIGINT, seen BIGINT, total BIGINT, pid BIGINT) LANGUAGE python AS $$
import os, time
class account:
    def __init__(self):
        self.keys = {{}}
    def __call__(self, rows):
        time.sleep({seconds})
        keys, seen, totals = rows['k'].tolist(), [], []
        for key, x in zip(keys, rows['x'].tolist()):
            count, total = self.keys.get(key, (0, 0))
            self.keys[key] = count + 1, total + x
            seen.append(count + 1)
            totals.append(total + x)
        return {{'k': keys, 'x': rows['x'], 'seen': seen, 'total': totals, 'pid': [os.getpid()] * len(keys)}}
    def snapshot(self):
        return self.keys
    def restore(self, keys):
        self.keys = keys
$$"""
EVENTS, KEYS, EVENTS_A_BLOCK, KEYED_ACTORS, KEYED_KILL_EVERY_S = 1_000_000, 10_000, 1_000, 4, 10
BLOCK_ROWS = 16
PARTS = 8
KILL_EVERY_S = 5
AWAY_S = 3


EMBED = """CREATE FUNCTION embed(text VARCHAR) RETURNS DOUBLE LANGUAGE python AS $$
import time
class embed:
    def __call__(self, text):
        # 'batch 10' is a call of 10 ms, 'row 1' are rows of 1 ms each.
        kind, _, ms = text[0].partition(' ')
        rows = {'batch': 1, 'row': len(text)}.get(kind, 0)
        time.sleep(rows * float(ms or 0) / 1000)
        return [float(len(t)) for t in text]
$$"""
POOL = "CREATE ACTOR POOL model FROM embed WITH (min = 4, max = 4)"
# A client of its own: nothing it does waits for the one that measures.
BATCHES = """
import sys, adbc_driver_flightsql.dbapi as flightsql
cursor = flightsql.connect(sys.argv[1], autocommit=True).cursor()
cursor.execute(f"SET mobula.udf_batch_rows = {sys.argv[3]}")
rows = f"SELECT '{sys.argv[2]}' AS text FROM generate_series(1, 1000000000)"
if int(sys.argv[4]):
    # By tasks on all executors.
    rows = f"SELECT * FROM repartition(TABLE({rows}), {sys.argv[4]})"
# In no order: blocks that are done wait for none.
cursor.execute(f"SELECT count(model) FROM map_batches(TABLE({rows}), model, preserve_order => false)")
cursor.fetchall()
"""
# One call after the other, each by a task on an executor.
CALLS = """
import sys, adbc_driver_flightsql.dbapi as flightsql
cursor = flightsql.connect(sys.argv[1], autocommit=True).cursor()
cursor.execute("SET mobula.udf_priority = 'batch'")
spread = f"SELECT * FROM repartition(TABLE(SELECT '{sys.argv[2]}' AS text FROM generate_series(1, 1)), 2)"
while True:
    cursor.execute(f"SELECT count(model) FROM map_batches(TABLE({spread}), model)")
    assert cursor.fetchall() == [(1,)]
"""


class Cluster:
    """A coordinator, two executors that scan, and hosts of actors."""

    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.server = Server(self.root / "data", 0, ["--no-local-executor", "--scan-bytes-per-task", "64KiB"])
        self.executors = {}
        for id in ("a", "b"):
            self.start(id, "--roles", "tasks")

    def start(self, id, *flags):
        command = ["executor", "--id", id, "--coordinator", self.server.address("executors")]
        command += ["--cluster-token-file", str(self.root / "data/cluster-token"), *flags]
        self.executors[id] = Process(command)

    def stop(self):
        for executor in self.executors.values():
            executor.stop()
        self.server.stop()

    @contextlib.contextmanager
    def cursor(self):
        with self.server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"SET mobula.udf_batch_rows = {BLOCK_ROWS}")
            yield cursor

    def table(self, cursor, name, blocks):
        """`blocks` full blocks in each of PARTS files; how many rows that are."""
        each = -(-blocks // PARTS) * BLOCK_ROWS
        (self.root / name).mkdir()
        for part in range(PARTS):
            # Not by COPY: what the server needs for that would count as the query's memory.
            rows = pa.table({"x": pa.array(np.arange(1, each + 1) + part * each)})
            pq.write_table(rows, self.root / name / f"{part}.parquet")
        location = f"STORED AS PARQUET LOCATION '{self.root}/{name}/'"
        cursor.execute(f"CREATE EXTERNAL TABLE {name} {location}")
        return each * PARTS

    def function(self, cursor, seconds):
        (self.root / "built").mkdir()
        cursor.execute(CLASS.format(dir=self.root / "built", seconds=seconds))

    def built(self):
        """The processes of actors that have been built."""
        return {int(path.name) for path in (self.root / "built").iterdir()}


@contextlib.contextmanager
def cluster():
    with tempfile.TemporaryDirectory() as root:
        cluster = Cluster(root)
        try:
            yield cluster
        finally:
            cluster.stop()


def is_alive(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def run(cursor, sql, rows):
    """The blocks of a run that is exact, as (pid, began, ended)."""
    cursor.execute(sql)
    found = cursor.fetch_arrow_table()
    assert sorted(found["x"].to_pylist()) == list(range(1, rows + 1)), "a row is lost, or there twice"
    texts = [text.split() for text in found["steady"].to_pylist() if text]
    return [(int(pid), float(began), float(ended)) for pid, began, ended in texts]


def slowest(actors, seconds):
    """Blocks a second while all are at work, and the share of it that each is busy."""
    with cluster() as own, own.cursor() as cursor:
        own.start("host", "--cpus", "16", "--roles", "actors")
        own.function(cursor, 0.01)
        rows = own.table(cursor, "t", 100 * actors * seconds)
        call = f"map_batches(TABLE(SELECT x FROM t), steady, concurrency => {actors}, num_cpus => 1, preserve_order => false)"
        blocks = run(cursor, f"SELECT x, steady FROM {call}", rows)
    by_actor = {}
    for pid, began, ended in blocks:
        by_actor.setdefault(pid, []).append((began, ended))
    assert len(by_actor) == actors, by_actor.keys()
    # From the last one's start to the first one's end.
    since = max(min(began for began, _ in calls) for calls in by_actor.values())
    until = min(max(ended for _, ended in calls) for calls in by_actor.values())
    within = [(began, ended) for _, began, ended in blocks if began >= since and ended <= until]
    busy = sum(ended - began for began, ended in within)
    return len(within) / (until - since), busy / (until - since) / actors


class Living:
    """Counts the seconds that actors of `own` are alive, from when they are built."""

    def __init__(self, own):
        self.own, self.seconds, self.stopped = own, 0.0, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self):
        last = time.monotonic()
        while not self.stopped.wait(0.02):
            now = time.monotonic()
            self.seconds += (now - last) * sum(map(is_alive, self.own.built()))
            last = now

    def stop(self):
        self.stopped.set()
        self.thread.join()
        return self.seconds


def disturb(own, over, log):
    """Kills in turn an actor and the executor of some, until `over`."""
    rng, kills = random.Random(4), 0
    while not over.wait(KILL_EVERY_S):
        kills += 1
        if kills % 2:
            alive = sorted(filter(is_alive, own.built()))
            with contextlib.suppress(IndexError, ProcessLookupError):
                os.kill(rng.choice(alive), signal.SIGKILL)
                log.append("actor")
            continue
        own.executors["killed"].kill()
        log.append("executor")
        over.wait(AWAY_S)
        own.start("killed", "--gpus", "2", "--roles", "actors")


def chaos(seconds, disturbed):
    """Blocks for each second of a living actor, and what was killed."""
    with cluster() as own, own.cursor() as cursor:
        for id in ("killed", "kept"):
            own.start(id, "--gpus", "2", "--roles", "actors")
        own.function(cursor, 0.02)
        rows = own.table(cursor, "t", 4 * 50 * seconds)
        call = "map_batches(TABLE(SELECT x FROM t), steady, concurrency => 4, num_gpus => 1, preserve_order => false)"
        living, over, log = Living(own), threading.Event(), []
        killer = threading.Thread(target=disturb, args=(own, over, log))
        began = time.monotonic()
        if disturbed:
            killer.start()
        try:
            blocks = run(cursor, f"SELECT x, steady FROM {call}", rows)
            took, alive = time.monotonic() - began, living.stop()
        finally:
            over.set()
            if disturbed:
                killer.join()
    return len(blocks) / alive, took, log


def sizes(own, over, began, log):
    """Writes down what the one pool has, until `over`."""
    with own.server.connect() as connection, connection.cursor() as cursor:
        while not over.wait(0.1):
            cursor.execute("SELECT actors, starting, queue FROM system.actor_pools")
            log.append((time.monotonic() - began, *(cursor.fetchone() or (0, 0, 0))))


def turns(log):
    """How often the pool turned round: grew after it had shrunk, or the other way."""
    steps = [b - a for a, b in zip([n for _, n, *_ in log], [n for _, n, *_ in log][1:]) if a != b]
    return sum(a * b < 0 for a, b in zip(steps, steps[1:]))


def burst(seconds, of_queries):
    """What the pool had, by seconds, and when the jobs came and were done."""
    call = "steady, concurrency => '1..8', num_cpus => 1" if of_queries else "p"
    job = f"SELECT x, {call.split(',')[0]} AS steady FROM map_batches(TABLE(SELECT x FROM t), {call}, preserve_order => false)"
    with cluster() as own, own.cursor() as cursor:
        own.start("host", "--cpus", "8", "--roles", "actors")
        own.function(cursor, 0.05)
        rows = own.table(cursor, "t", 20 * seconds)
        if not of_queries:
            cursor.execute("CREATE ACTOR POOL p FROM steady WITH (min = 1, max = 8, num_cpus = 1, idle_ttl = '3s')")
        over, log, jobs, began = threading.Event(), [], [], time.monotonic()
        looking = threading.Thread(target=sizes, args=(own, over, began, log))
        looking.start()
        try:
            for _ in range(3):
                came = time.monotonic() - began
                run(cursor, job, rows)
                jobs.append((came, time.monotonic() - began))
                time.sleep(8)
        finally:
            over.set()
            looking.join()
    return log, jobs


def print_burst(log, jobs):
    print(" at s  actors  starting  queue")
    for at, *figures in log[::5]:
        job = "job" if any(came <= at <= done for came, done in jobs) else ""
        print(f"{at:5.1f}  {figures[0]:6}  {figures[1]:8}  {figures[2]:5}  {job}", flush=True)
    for came, done in jobs:
        of_job = [(at - came, size) for at, size, *_ in log if came <= at <= done]
        most = max(size for _, size in of_job)
        first, whole = (next(at for at, size in of_job if size >= wanted) for wanted in (2, most))
        small = next(at for at, size, *_ in log if at > done and size <= 1) - done
        print(f"job of {done - came:.1f} s: 2 actors after {first:.1f} s, {most} after {whole:.1f} s, 1 again {small:.1f} s after it")
    turned = sum(turns([look for look in log if came <= look[0] <= done]) for came, done in jobs)
    print(f"turned round {turned} times in {len(jobs)} jobs")


def latencies(cursor, questions):
    """The median and the 95th percentile of point queries, in ms."""
    took = []
    for _ in range(questions):
        began = time.perf_counter()
        cursor.execute("SELECT model('text')")
        assert cursor.fetchall() == [(4.0,)]
        took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took), statistics.quantiles(took, n=20)[-1]


@contextlib.contextmanager
def calls(server, text, clients):
    """So many actors at work most of the time, for tasks on executors."""
    command = [sys.executable, "-c", CALLS, server.address("clients"), text]
    clients = [subprocess.Popen(command) for _ in range(clients)]
    try:
        time.sleep(2)
        yield
        assert all(client.poll() is None for client in clients), "the calls have ended"
    finally:
        for client in clients:
            client.kill()
            client.wait()


@contextlib.contextmanager
def batches(server, cursor, text, rows, executors):
    """A query beside, whose calls keep all four actors."""

    def busy():
        cursor.execute("SELECT count(*) FROM system.actors WHERE state = 'busy'")
        return cursor.fetchone()[0]

    command = [sys.executable, "-c", BATCHES, server.address("clients"), text, str(rows), str(executors)]
    client = subprocess.Popen(command)
    try:
        limit = time.monotonic() + 20
        while busy() < 4:
            assert time.monotonic() < limit and client.poll() is None, "the batches do not run"
        time.sleep(1)
        yield
        assert client.poll() is None, "the batches have ended"
    finally:
        client.kill()
        client.wait()
        while busy():
            time.sleep(0.05)


def served(questions, executors):
    """Point queries alone and beside batches, each with what they may take."""
    with tempfile.TemporaryDirectory() as root:
        server = Server(pathlib.Path(root) / "data", executors)
        try:
            with server.connect() as connection, connection.cursor() as cursor:
                cursor.execute(EMBED)
                cursor.execute(POOL)
                latencies(cursor, 50)
                idle = latencies(cursor, questions)
                yield "idle", *idle, None
                if executors:
                    with calls(server, "batch 500", 2):
                        yield "beside two actors at work for others", *latencies(cursor, questions), 3 * idle[1]
                with batches(server, cursor, "batch 10", 16, executors):
                    yield "beside calls of 10 ms", *latencies(cursor, questions), 3 * idle[1]
                with batches(server, cursor, "batch 500", 16, executors):
                    yield "beside calls of 500 ms", *latencies(cursor, max(40, questions // 4)), 500 + idle[1]
                with batches(server, cursor, "row 0.1", 65536, executors):
                    yield "beside rows of 0.1 ms, in blocks", *latencies(cursor, questions // 2), None
        finally:
            server.stop()


def kill_keyed(own, hosts, over, log):
    """Kills an actor every now and then, or in turn its host, until `over`."""
    rng, kills = random.Random(5), 0
    with own.server.connect() as connection, connection.cursor() as cursor:
        while not over.wait(KEYED_KILL_EVERY_S):
            kills += 1
            if hosts and kills % 2 == 0:
                own.executors["killed"].kill()
                log.append("host")
                over.wait(AWAY_S)
                own.start("killed", "--cpus", "8", "--roles", "actors")
                continue
            cursor.execute("SELECT pid FROM system.workers WHERE function = 'account' ORDER BY pid")
            pids = [pid for (pid,) in cursor.fetchall()]
            with contextlib.suppress(IndexError, ProcessLookupError):
                os.kill(rng.choice(pids), signal.SIGKILL)
                log.append("actor")


def check_keyed(found):
    """Each event once; of each key in order, with the count and the sum of all before it."""
    k, x, seen, total = (found[name].to_numpy() for name in ("k", "x", "seen", "total"))
    assert np.array_equal(np.sort(x), np.arange(1, EVENTS + 1)), "an event is lost, or there twice"
    assert np.array_equal(k, x * 7919 % KEYS), "an event has another key"
    # By key, each in the order in which it came.
    came = np.argsort(k, kind="stable")
    k, x, seen, total = (column[came] for column in (k, x, seen, total))
    starts = np.flatnonzero(np.r_[True, k[1:] != k[:-1]])
    assert len(starts) == KEYS
    within = np.diff(x) > 0
    within[starts[1:] - 1] = True
    assert within.all(), "events of a key are out of order"
    lengths = np.diff(np.r_[starts, len(k)])
    assert np.array_equal(seen, np.arange(len(k)) - np.repeat(starts, lengths) + 1), "a count is wrong"
    sums = np.cumsum(x)
    before = np.r_[0, sums[starts[1:] - 1]]
    assert np.array_equal(total, sums - np.repeat(before, lengths)), "a sum is wrong"
    ends = starts + lengths - 1
    final = np.bincount(np.arange(1, EVENTS + 1) * 7919 % KEYS, np.arange(1, EVENTS + 1), KEYS)
    assert np.array_equal(total[ends], final), "the final state is wrong"


def keyed(seconds, hosts):
    """How long a million events took, what was killed, and how many actors there were."""
    with cluster() as own, own.cursor() as cursor:
        for id in ("killed", "kept"):
            own.start(id, "--cpus", "8", "--roles", "actors")
        blocks = EVENTS // EVENTS_A_BLOCK
        cursor.execute(KEYED.format(seconds=seconds * KEYED_ACTORS / blocks))
        cursor.execute(f"SET mobula.udf_batch_rows = {EVENTS_A_BLOCK}")
        for part in range(PARTS):
            # All events of a key are in one file, in their order.
            events = f"SELECT value AS x, value * 7919 % {KEYS} AS k FROM generate_series(1, {EVENTS})"
            ours = f"SELECT * FROM ({events}) WHERE k % {PARTS} = {part} ORDER BY x"
            cursor.execute(f"COPY ({ours}) TO '{own.root}/events/{part}.parquet'")
        cursor.execute(f"CREATE EXTERNAL TABLE events STORED AS PARQUET LOCATION '{own.root}/events/'")
        call = f"map_batches(TABLE(events), account, partition_by => k, concurrency => {KEYED_ACTORS}, num_cpus => 1, snapshot_every => 16)"
        over, log = threading.Event(), []
        killer = threading.Thread(target=kill_keyed, args=(own, hosts, over, log))
        began = time.monotonic()
        killer.start()
        try:
            cursor.execute(f"SELECT k, x, seen, total, pid FROM {call}")
            found = cursor.fetch_arrow_table()
            took = time.monotonic() - began
        finally:
            over.set()
            killer.join()
    check_keyed(found)
    return took, log, len(set(found["pid"].to_pylist()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=["slowest", "chaos", "burst", "served", "keyed"])
    parser.add_argument("--actors", default="1,2,4,8,16", help="of the slow stage")
    parser.add_argument("--questions", type=int, default=300, help="point queries of each case of `served`")
    parser.add_argument("--executors", type=int, default=0, help="of `served`")
    parser.add_argument("--of-queries", action="store_true", help="of `burst`: each job has a pool of its own")
    parser.add_argument("--seconds", type=int, help="of one run: 4, or 60 with kills and bursts")
    parser.add_argument("--hosts", action="store_true", help="of `keyed`: kill hosts of actors as well")
    arguments = parser.parse_args()
    if arguments.case == "keyed":
        took, log, actors = keyed(arguments.seconds or 60, arguments.hosts)
        print(f"killed {log.count('actor')} actors and {log.count('host')} hosts, {actors} actors answered, {took:.0f} s:")
        print(f"{EVENTS:,} events of {KEYS:,} keys came once, each key in its order, and its state is right")
        return
    if arguments.case == "slowest":
        for actors in map(int, arguments.actors.split(",")):
            rate, busy = slowest(actors, arguments.seconds or 4)
            share = rate / (100 * actors)
            print(f"{actors} actors: {rate:.0f} blocks/s, {share:.2f} of linear, busy {busy:.3f}", flush=True)
        return
    if arguments.case == "burst":
        print_burst(*burst(arguments.seconds or 60, arguments.of_queries))
        return
    if arguments.case == "served":
        for case, median, p95, owed in served(arguments.questions, arguments.executors):
            against = f", {p95 / owed:.2f} of the {owed:.1f} ms it may take" if owed else ""
            print(f"{case}: p50 {median:.1f} ms, p95 {p95:.1f} ms{against}", flush=True)
        return
    calm, took, _ = chaos(20, False)
    print(f"undisturbed: {calm:.1f} blocks for each second of an actor, {took:.0f} s", flush=True)
    rate, took, log = chaos(arguments.seconds or 60, True)
    print(f"killed {log.count('actor')} actors and {log.count('executor')} executors: exact,")
    print(f"{rate:.1f} blocks for each second of a living actor, {rate / calm:.2f} of undisturbed, {took:.0f} s")


if __name__ == "__main__":
    main()
