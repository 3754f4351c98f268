"""What a small query costs: a cold start, and a round trip of a stock client.

    MOBULA_BIN=target/release/mobula python benchmarks/clients/latency.py [--runs 11] [--queries 1000]

Needs the packages of tests/clients/requirements.txt.
"""

import argparse
import statistics
import subprocess
import tempfile
import time

from servers import MOBULA, Server


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


def show(name, seconds):
    ordered = sorted(seconds)
    high = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    middle = statistics.median(ordered)
    print(f"{name}: median {middle * 1000:.2f} ms, 99th percentile {high * 1000:.2f} ms, {len(ordered)} runs")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=11, help="cold starts")
    parser.add_argument("--queries", type=int, default=1000, help="round trips")
    arguments = parser.parse_args()
    show("mobula sql -c 'select 1', cold", cold_start(arguments.runs))
    show("SELECT 1 over one ADBC connection", round_trips(arguments.queries))


if __name__ == "__main__":
    main()
