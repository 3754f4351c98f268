"""The cases of `suite.py` on Daft. Prints seconds and sum as JSON; the import is not counted."""

import json
import sys
import time

import daft
import numpy as np
from daft import DataType, col

CASE, FILE = sys.argv[1], sys.argv[2]


@daft.func.batch(return_dtype=DataType.float64())
def net(price, discount, tax):
    arrays = (series.to_arrow().cast("float64").to_numpy() for series in (price, discount, tax))
    price, discount, tax = arrays
    return price * (1 - discount) * (1 + tax)


@daft.cls(max_concurrency=2)
class Model:
    def __init__(self):
        time.sleep(1)
        self.weights = np.random.default_rng(0).standard_normal((256, 64))

    @daft.method.batch(return_dtype=DataType.float64())
    def run(self, texts):
        texts = texts.to_pylist()
        counts = np.zeros((len(texts), 256))
        for row, text in enumerate(texts):
            counts[row] = np.bincount(np.frombuffer(text.encode(), dtype=np.uint8), minlength=256)
        return (counts @ self.weights).sum(axis=1)


@daft.func(return_dtype=DataType.float64())
def doubled(value):
    return float(value) * 2


def query():
    rows = daft.read_parquet(FILE)
    if CASE == "m1":
        call = net(col("l_extendedprice"), col("l_discount"), col("l_tax"))
    elif CASE == "m2":
        call = Model().run(col("o_comment"))
    else:
        call = doubled(col("o_totalprice"))
    return rows.select(call.alias("v"))


start = time.perf_counter()
found = query().sum("v").to_pydict()["v"][0]
print(json.dumps({"seconds": time.perf_counter() - start, "sum": found}))
