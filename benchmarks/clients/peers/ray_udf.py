"""The cases of `suite.py` on Ray Data. Prints seconds and sum as JSON; starting Ray is not counted."""

import json
import os
import signal
import sys
import time

os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"

import numpy as np
import ray
import ray.data

CASE, FILE = sys.argv[1], sys.argv[2]
COLUMNS = {
    "m1": ["l_extendedprice", "l_discount", "l_tax"],
    "m2": ["o_comment"],
    "m3": ["o_totalprice"],
}[CASE]


def net(batch):
    price, discount, tax = (batch[name].astype(float) for name in ("l_extendedprice", "l_discount", "l_tax"))
    return {"v": price * (1 - discount) * (1 + tax)}


class Model:
    def __init__(self):
        time.sleep(1)
        self.weights = np.random.default_rng(0).standard_normal((256, 64))

    def __call__(self, batch):
        texts = batch["o_comment"]
        counts = np.zeros((len(texts), 256))
        for row, text in enumerate(texts):
            counts[row] = np.bincount(np.frombuffer(str(text).encode(), dtype=np.uint8), minlength=256)
        return {"v": (counts @ self.weights).sum(axis=1)}


def query():
    rows = ray.data.read_parquet(FILE, columns=COLUMNS)
    if CASE == "m1":
        return rows.map_batches(net)
    if CASE == "m2":
        # Two actors of one core each leave none of two to the readers, for ever.
        return rows.map_batches(Model, batch_size=1024, compute=ray.data.ActorPoolStrategy(size=1))
    return rows.map(lambda row: {"v": float(row["o_totalprice"]) * 2})


# A signal has to reach the `finally`: only Ray knows where its daemons are.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
try:
    ray.init(num_cpus=2, logging_level="ERROR", include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    start = time.perf_counter()
    found = query().sum("v")
    print(json.dumps({"seconds": time.perf_counter() - start, "sum": float(found)}), flush=True)
finally:
    ray.shutdown()
