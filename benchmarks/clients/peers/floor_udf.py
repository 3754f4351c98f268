"""The floor of the cases of `suite.py`: the same functions in two bare processes.

pyarrow reads, each process takes every other row group, nothing else happens.
Prints seconds and sum as JSON; starting the processes is not counted.
"""

import json
import os
import sys
import time

# Two processes fill two cores; more threads would only be in each other's way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

CASE, FILE = sys.argv[1], sys.argv[2]
COLUMNS = {
    "m1": ["l_extendedprice", "l_discount", "l_tax"],
    "m2": ["o_comment"],
    "m3": ["o_totalprice"],
}[CASE]
PROCESSES = 2


class Model:
    """A byte histogram times a matrix; a second to build."""

    def __init__(self):
        time.sleep(1)
        self.weights = np.random.default_rng(0).standard_normal((256, 64))

    def __call__(self, texts):
        counts = np.zeros((len(texts), 256))
        for row, text in enumerate(texts):
            counts[row] = np.bincount(np.frombuffer(text.encode(), dtype=np.uint8), minlength=256)
        return (counts @ self.weights).sum(axis=1)


def doubled(value):
    return value * 2


def total(batch, model):
    if CASE == "m1":
        price, discount, tax = (pc.cast(c, pa.float64()).to_numpy(zero_copy_only=False) for c in batch.columns)
        return float((price * (1 - discount) * (1 + tax)).sum())
    if CASE == "m2":
        texts = batch.column(0).to_pylist()
        return sum(float(model(texts[at : at + 1024]).sum()) for at in range(0, len(texts), 1024))
    return sum([doubled(value) for value in pc.cast(batch.column(0), pa.float64()).to_pylist()])


def part(number):
    file = pq.ParquetFile(FILE)
    groups = [group for group in range(file.num_row_groups) if group % PROCESSES == number]
    model = Model() if CASE == "m2" else None
    batches = file.iter_batches(65536, row_groups=groups, columns=COLUMNS)
    return sum(total(batch, model) for batch in batches)


if __name__ == "__main__":
    with ProcessPoolExecutor(PROCESSES) as pool:
        list(pool.map(abs, range(PROCESSES)))
        start = time.perf_counter()
        found = sum(pool.map(part, range(PROCESSES)))
        print(json.dumps({"seconds": time.perf_counter() - start, "sum": found}))
