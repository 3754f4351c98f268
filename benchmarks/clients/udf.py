"""User code beside its peers, in alternation.

    MOBULA_BIN=target/release/mobula python benchmarks/clients/udf.py DATA [--peers floor,daft,ray]
        [--peer-python PYTHON] [--cases m1,m2,m3] [--pairs 7] [--executors N] [--output FILE]

DATA holds lineitem.parquet and orders.parquet, as `mobula tpch-data --sf 1 --out DATA`
makes them. Each of our runs has a fresh server, so building a class counts; starting
an engine does not, on either side. Daft reads no Parquet file whose embedded Arrow
schema has view types: it gets files without that schema, made beside DATA's.

    m1   6.0 M rows, three decimals cast to float, a*(1-b)*(1+c) on numpy arrays, sum
    m2   a class of 1 s to build, 400,000 texts, histogram times matrix, batches of 1,024, sum
    m3   1.0 M rows, one Python call a row, sum
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import pyarrow as pa
import pyarrow.parquet as pq
from servers import MOBULA, Server

PEERS = pathlib.Path(__file__).parent / "peers"
PEER_TIMEOUT_S = 300

FUNCTIONS = {
    "m1": """
CREATE FUNCTION net(price DOUBLE, discount DOUBLE, tax DOUBLE) RETURNS DOUBLE LANGUAGE python IMMUTABLE AS $$
def net(price, discount, tax):
    return price * (1 - discount) * (1 + tax)
$$""",
    "m2": """
CREATE FUNCTION model(texts VARCHAR) RETURNS DOUBLE LANGUAGE python IMMUTABLE AS $$
import time
import numpy as np

class model:
    def __init__(self):
        time.sleep(1)
        self.weights = np.random.default_rng(0).standard_normal((256, 64))

    def __call__(self, texts):
        counts = np.zeros((len(texts), 256))
        for row, text in enumerate(texts):
            counts[row] = np.bincount(np.frombuffer(text.encode(), dtype=np.uint8), minlength=256)
        return (counts @ self.weights).sum(axis=1)
$$""",
    "m3": """
CREATE FUNCTION doubled(amount DOUBLE) RETURNS DOUBLE LANGUAGE python IMMUTABLE AS $$
def doubled(amount):
    return amount * 2
$$""",
}
QUERIES = {
    "m1": """
SELECT sum(net(CAST(l_extendedprice AS DOUBLE), CAST(l_discount AS DOUBLE), CAST(l_tax AS DOUBLE)))
FROM lineitem""",
    "m2": """
SELECT sum(model) FROM map_batches(
    TABLE(SELECT o_comment AS texts FROM orders LIMIT 400000), model, batch_size => 1024, concurrency => 2)""",
    "m3": """
SELECT sum(doubled) FROM map(
    TABLE(SELECT CAST(o_totalprice AS DOUBLE) AS amount FROM orders LIMIT 1000000), doubled)""",
}


def ours(case, data, executors):
    """Seconds and sum on a fresh server."""
    with tempfile.TemporaryDirectory() as data_dir:
        server = Server(data_dir, executors)
        try:
            with server.connect() as connection, connection.cursor() as cursor:
                for table in ("lineitem", "orders"):
                    cursor.execute(f"CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{data}/{table}.parquet'")
                cursor.execute(FUNCTIONS[case])
                start = time.perf_counter()
                cursor.execute(QUERIES[case])
                [(found,)] = cursor.fetchall()
                return time.perf_counter() - start, float(found)
        finally:
            server.stop()


def theirs(peer, python, case, data):
    """Seconds and sum of a peer, in a process of its own."""
    command = [python, str(PEERS / f"{peer}_udf.py"), case, str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PEER_TIMEOUT_S)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return answer["seconds"], answer["sum"]


def without_arrow_schema(data):
    """The same files with types that every reader of Parquet knows."""
    plain = data.parent / f"{data.name}-plain"
    plain.mkdir(exist_ok=True)
    for table in ("lineitem", "orders"):
        source, target = data / f"{table}.parquet", plain / f"{table}.parquet"
        if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
            continue
        file = pq.ParquetFile(source)
        schema = file.schema_arrow.remove_metadata()
        fields = [f.with_type(pa.string()) if f.type == pa.string_view() else f for f in schema]
        schema = pa.schema(fields)
        with pq.ParquetWriter(target, schema, store_schema=False) as writer:
            for group in range(file.num_row_groups):
                writer.write_table(file.read_row_group(group).cast(schema))
    return plain


def close(left, right, case):
    # m2 and m3 take any rows of a LIMIT, the floor and we not the same ones.
    return case != "m1" or abs(left - right) <= 1e-9 * abs(right)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--cases", default="m1,m2,m3")
    parser.add_argument("--peers", default="floor", help="of floor, daft, ray")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python with the peers' packages")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--executors", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="write all runs as JSON")
    arguments = parser.parse_args()
    results = [measure(case, arguments) for case in arguments.cases.split(",")]
    if arguments.output:
        arguments.output.write_text(json.dumps(record(arguments, results), indent=1))


def measure(case, arguments):
    """Alternates; one round first is not counted, it warms files."""
    peers = arguments.peers.split(",")
    runs = {name: [] for name in ["mobula", *peers]}
    for round_number in range(arguments.pairs + 1):
        seconds, found = ours(case, arguments.data, arguments.executors)
        if round_number:
            runs["mobula"].append(seconds)
        for peer in peers:
            data = without_arrow_schema(arguments.data) if peer == "daft" else arguments.data
            seconds, theirs_found = theirs(peer, arguments.peer_python, case, data)
            if not close(found, theirs_found, case):
                raise SystemExit(f"{case}: {peer} finds {theirs_found}, we find {found}")
            if round_number:
                runs[peer].append(seconds)
    for peer in peers:
        ratios = [us / them for us, them in zip(runs["mobula"], runs[peer])]
        print(
            f"{case}: {statistics.median(ratios):.2f} x {peer}"
            f" (medians {statistics.median(runs['mobula']):.2f} s and {statistics.median(runs[peer]):.2f} s,"
            f" {len(ratios)} pairs)",
            flush=True,
        )
    return {"case": case, "seconds": runs}


def record(arguments, results):
    version = subprocess.run([MOBULA, "--version"], capture_output=True, text=True).stdout.strip()
    return {
        "version": version,
        "command": " ".join(sys.argv),
        "data": str(arguments.data),
        "executors": arguments.executors,
        "cores": os.cpu_count(),
        "at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "results": results,
    }


if __name__ == "__main__":
    main()
