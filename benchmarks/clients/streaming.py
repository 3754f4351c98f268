"""Whether `map_batches` over a large table streams.

    MOBULA_BIN=target/release/mobula python benchmarks/clients/streaming.py DATA [--executors N] [--seconds 30]

DATA holds the table lineitem, as `mobula tpch-data --sf 10 --parts 8 --out DATA`
makes it. Prints when the first rows arrive, how soon LIMIT stops all work, and
the memory of all processes while the client reads slowly.
"""

import argparse
import os
import pathlib
import tempfile
import time

from servers import Server

FUNCTION = """
CREATE OR REPLACE FUNCTION shares(batch TABLE)
RETURNS TABLE(price DOUBLE, share DOUBLE, comment VARCHAR) LANGUAGE python AS $$
def shares(batch):
    price = batch["price"]
    return {"price": price, "share": price * (1 - batch["discount"]), "comment": batch["comment"]}
$$
"""
QUERY = """
SELECT * FROM map_batches(
    TABLE(SELECT CAST(l_extendedprice AS DOUBLE) AS price, CAST(l_discount AS DOUBLE) AS discount,
                 l_comment AS comment FROM lineitem),
    shares, batch_size => 8192)
"""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tree(pid):
    """`pid` and all processes below it."""
    found = [pid]
    for parent in found:
        for task in pathlib.Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found.extend(map(int, task.read_text().split()))
            except OSError:
                pass
    return found


def processes(server):
    roots = [server.pid, *(executor.pid for executor in server.executors)]
    return [pid for root in roots for pid in tree(root)]


def memory_mib(server):
    """What all processes hold, shared pages counted once."""
    total = 0
    for pid in processes(server):
        try:
            text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024


def cpu_s(server):
    total = 0
    for pid in processes(server):
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


def first_rows(cursor):
    start = time.perf_counter()
    cursor.execute(QUERY)
    rows = cursor.fetch_record_batch().read_next_batch().num_rows
    return time.perf_counter() - start, rows


def until_idle(server, limit_s=20):
    """Seconds until no process has used the processor for a second."""
    start, used, since = time.perf_counter(), cpu_s(server), time.perf_counter()
    while time.perf_counter() - start < limit_s:
        time.sleep(0.05)
        now = cpu_s(server)
        if now - used > 0.02:
            used, since = now, time.perf_counter()
        elif time.perf_counter() - since > 1:
            return since - start
    return float("inf")


def slow_reader(server, cursor, seconds):
    """Memory in MiB, once a second, while ten blocks a second are read."""
    cursor.execute(QUERY)
    reader = cursor.fetch_record_batch()
    samples, start = [], time.perf_counter()
    while time.perf_counter() - start < seconds:
        reader.read_next_batch()
        time.sleep(0.1)
        if time.perf_counter() - start > len(samples):
            samples.append(memory_mib(server))
    return samples


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--executors", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=30, help="how long to read slowly")
    arguments = parser.parse_args()
    location = arguments.data / "lineitem"
    location = location if location.is_dir() else location.with_suffix(".parquet")
    with tempfile.TemporaryDirectory() as data_dir:
        server = Server(data_dir, arguments.executors)
        try:
            measure(server, location, arguments.seconds)
        finally:
            server.stop()


def measure(server, location, seconds):
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE EXTERNAL TABLE lineitem STORED AS PARQUET LOCATION '{location}'")
        cursor.execute(FUNCTION)
    for name in ("first query", "second query"):
        with server.connect() as connection, connection.cursor() as cursor:
            passed, rows = first_rows(cursor)
            print(f"{name}: first {rows} rows after {passed:.3f} s")
        print(f"{name}: dropped, all processes idle after {until_idle(server):.2f} s")
    with server.connect() as connection, connection.cursor() as cursor:
        start, before = time.perf_counter(), cpu_s(server)
        cursor.execute(QUERY + " LIMIT 10")
        rows = len(cursor.fetchall())
        passed = time.perf_counter() - start
        idle = until_idle(server)
        used = cpu_s(server) - before
        print(f"LIMIT 10: {rows} rows after {passed:.3f} s, idle {idle:.2f} s later, {used:.2f} s of processor in all")
    with server.connect() as connection, connection.cursor() as cursor:
        samples = slow_reader(server, cursor, seconds)
        settled = samples[len(samples) // 3 :]
        print(f"slow reader: {min(settled):.0f} to {max(settled):.0f} MiB from second {len(samples) // 3} to {len(samples)}")


if __name__ == "__main__":
    main()
