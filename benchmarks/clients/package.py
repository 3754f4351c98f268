"""m1 to m3 of `suite.py` by the Python package's methods, beside the same as SQL text.

    PYTHONPATH=python MOBULA_BIN=target/release/mobula python benchmarks/clients/package.py DATA [--pairs 5]

DATA is what `mobula tpch-data --sf 1 --out DATA` makes. Each run has an embedded engine of its own, which has
started before time counts; to send a function belongs to it. Needs the package, numpy and tests/clients/requirements.txt.
"""

import argparse
import pathlib
import statistics
import time

import mobula
import numpy as np
from bench import inputs
from bench.user_code import FUNCTIONS, QUERIES, TOLERANCE

OWED = 1.05
# Methods give rows as dicts, as Ray Data does. So does this text, where that of `suite.py` gives values.
ROWS = """
CREATE FUNCTION doubled(row TABLE) RETURNS TABLE(doubled DOUBLE) LANGUAGE python IMMUTABLE AS $$
def doubled(row):
    return {"doubled": row["amount"] * 2}
$$"""


def net(batch):
    return {"net": batch["price"] * (1 - batch["discount"]) * (1 + batch["tax"])}


class Model:
    def __init__(self):
        time.sleep(1)
        self.weights = np.random.default_rng(0).standard_normal((256, 64))

    def __call__(self, batch):
        counts = np.zeros((len(batch["texts"]), 256))
        for row, text in enumerate(batch["texts"]):
            counts[row] = np.bincount(np.frombuffer(text.encode(), dtype=np.uint8), minlength=256)
        return {"model": (counts @ self.weights).sum(axis=1)}


def doubled(row):
    return {"doubled": row["amount"] * 2}


def by_methods(con, case):
    if case == "m1":
        columns = {"price": "l_extendedprice", "discount": "l_discount", "tax": "l_tax"}
        casts = ", ".join(f"CAST({column} AS DOUBLE) AS {name}" for name, column in columns.items())
        return con.sql(f"SELECT {casts} FROM input").map_batches(net, batch_size=None, schema={"net": float}).sum("net")
    if case == "m2":
        texts = con.sql("SELECT o_comment AS texts FROM input")
        return texts.map_batches(Model, batch_size=1024, concurrency=2, schema={"model": float}).sum("model")
    amounts = con.sql("SELECT CAST(o_totalprice AS DOUBLE) AS amount FROM input")
    return amounts.map(doubled, schema={"doubled": float}).sum("doubled")


def by_sql(con, case):
    with con.cursor() as cursor:
        cursor.execute(ROWS if case == "m3" else FUNCTIONS[case])
        cursor.execute(QUERIES[case])
        return cursor.fetchall()[0][0]


def timed(form, case, file):
    """Seconds, and the sum."""
    with mobula.connect() as con:
        with con.cursor() as cursor:
            cursor.execute(f"CREATE EXTERNAL TABLE input STORED AS PARQUET LOCATION '{file}'")
            cursor.execute("SELECT count(*) FROM input")
            cursor.fetchall()
        began = time.perf_counter()
        found = form(con, case)
        return time.perf_counter() - began, float(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    inputs.check(given.data, FUNCTIONS)
    for case in FUNCTIONS:
        file, pairs = inputs.file(given.data, case), []
        for number in range(given.pairs + 1):
            forms = (by_methods, by_sql) if number % 2 else (by_sql, by_methods)
            runs = {form: timed(form, case, file) for form in forms}
            (ours, found), (other, wanted) = runs[by_methods], runs[by_sql]
            assert abs(found - wanted) <= TOLERANCE * abs(wanted), f"{case}: {found} by methods, {wanted} by SQL"
            pairs.append((ours, other))
        # The first one warms files.
        ratios = [ours / other for ours, other in pairs[1:]]
        ratio, seconds = statistics.median(ratios), statistics.median(ours for ours, _ in pairs[1:])
        verdict = "met" if ratio <= OWED else "MISSED"
        print(f"{case}: {ratio:.3f} × the SQL form ({min(ratios):.3f} to {max(ratios):.3f}), {seconds:.2f} s   owed ≤ {OWED}: {verdict}", flush=True)


if __name__ == "__main__":
    main()
