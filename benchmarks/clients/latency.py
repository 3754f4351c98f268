"""What a small query costs: a cold start, and a round trip of a stock client.

    MOBULA_BIN=target/release/mobula python benchmarks/clients/latency.py [--runs 11] [--queries 1000]
    MOBULA_BIN=target/release/mobula python benchmarks/clients/latency.py --points 2000 [--before old/mobula]

With `--points`: questions to a warm pool of four native-speed actors in Python, prepared with a
parameter, prepared without one (the same text again and again), and as a new text each time.
`--before` asks another binary the same, in turns with this one; what it refuses is left out.
Needs the packages of tests/clients/requirements.txt.
"""

import argparse
import contextlib
import statistics
import subprocess
import tempfile
import time

import servers
from servers import MOBULA, Server

MODEL = """CREATE FUNCTION answer(text VARCHAR) RETURNS BIGINT LANGUAGE python AS $$
class answer:
    def __call__(self, text):
        return [len(t) for t in text]
$$"""
POOL = "CREATE ACTOR POOL p FROM answer WITH (min = 4, max = 4)"
# Rounds, so that a slow minute of the machine meets all ways.
ROUNDS = 10


def cold_start(runs):
    """Seconds of `mobula sql -c 'select 1'`, each a process of its own."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([MOBULA, "sql", "-c", "select 1"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return seconds


def round_trips(queries):
    """Seconds of SELECT 1, executed and fetched, over one ADBC connection."""
    with tempfile.TemporaryDirectory() as data_dir:
        server = Server(data_dir)
        try:
            with server.connect() as connection, connection.cursor() as cursor:
                seconds = []
                for _ in range(queries):
                    start = time.perf_counter()
                    cursor.execute("SELECT 1")
                    assert cursor.fetchall() == [(1,)]
                    seconds.append(time.perf_counter() - start)
                return seconds
        finally:
            server.stop()


@contextlib.contextmanager
def asked(binary):
    """A server of `binary` with the warm pool, and a cursor on it."""
    servers.MOBULA = binary
    with tempfile.TemporaryDirectory() as data_dir:
        server = Server(data_dir)
        try:
            with server.connect() as connection, connection.cursor() as cursor:
                cursor.execute(MODEL)
                cursor.execute(POOL)
                yield cursor
        finally:
            server.stop()


def question(way, number):
    text = f"question {number:08d}"
    return {
        "prepared, with a parameter": ("SELECT p(?)", (text,)),
        "prepared, the same text": ("SELECT p('question 00000000')", None),
        "a new text each time": (f"SELECT p('{text}')", None),
        "SELECT ? + 1": ("SELECT ? + 1", (16,)),
        "SELECT 1 + 16, the same text": ("SELECT 1 + 16", None),
    }[way]


def ask(cursor, way, numbers):
    seconds = []
    for number in numbers:
        sql, values = question(way, number)
        start = time.perf_counter()
        cursor.execute(sql, values)
        found = cursor.fetchall()
        seconds.append(time.perf_counter() - start)
        assert found == [(17,)], (sql, found)
    return seconds


def points(queries, binaries):
    """Seconds of each way and binary, in turns."""
    plain = ["prepared, the same text", "a new text each time", "SELECT 1 + 16, the same text"]
    with contextlib.ExitStack() as stack:
        ways = []
        for name, binary, given in binaries:
            cursor = stack.enter_context(asked(binary))
            bound = ["prepared, with a parameter", "SELECT ? + 1"] if given else []
            ways += [(f"{name}{way}", cursor, way, []) for way in bound + plain]
        each = queries // ROUNDS
        for round in range(ROUNDS + 1):
            for _, cursor, way, seconds in ways:
                found = ask(cursor, way, range(round * each, (round + 1) * each))
                # The first round warms up.
                seconds += found if round else []
        return [(name, seconds) for name, _, _, seconds in ways]


def show(name, seconds):
    ordered = sorted(seconds)
    at = lambda share: ordered[min(len(ordered) - 1, len(ordered) * share // 100)] * 1000
    middle = statistics.median(ordered) * 1000
    print(f"{name}: median {middle:.2f} ms, 95th percentile {at(95):.2f} ms, 99th {at(99):.2f} ms, {len(ordered)} runs")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=11, help="cold starts")
    parser.add_argument("--queries", type=int, default=1000, help="round trips")
    parser.add_argument("--points", type=int, help="questions to a warm pool, of each way, and nothing else")
    parser.add_argument("--before", help="another binary that is asked in turns, without parameters")
    arguments = parser.parse_args()
    if arguments.points:
        binaries = [("", MOBULA, True)]
        if arguments.before:
            binaries.insert(0, ("before: ", arguments.before, False))
        for name, seconds in points(arguments.points, binaries):
            show(name, seconds)
        return
    show("mobula sql -c 'select 1', cold", cold_start(arguments.runs))
    show("SELECT 1 over one ADBC connection", round_trips(arguments.queries))


if __name__ == "__main__":
    main()
