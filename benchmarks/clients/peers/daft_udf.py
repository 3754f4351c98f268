"""The cases of `udf.py` on Daft. Prints seconds and sum as JSON; the import is not counted."""

import json
import sys
import time

import daft
import numpy as np
from daft import DataType, col

CASE, DATA = sys.argv[1], sys.argv[2]


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
    if CASE == "m1":
        call = net(col("l_extendedprice"), col("l_discount"), col("l_tax"))
        return daft.read_parquet(f"{DATA}/lineitem.parquet").select(call.alias("v"))
    orders = daft.read_parquet(f"{DATA}/orders.parquet")
    if CASE == "m2":
        return orders.limit(400_000).select(Model().run(col("o_comment")).alias("v"))
    return orders.limit(1_000_000).select(doubled(col("o_totalprice")).alias("v"))


start = time.perf_counter()
found = query().sum("v").to_pydict()["v"][0]
print(json.dumps({"seconds": time.perf_counter() - start, "sum": found}))
