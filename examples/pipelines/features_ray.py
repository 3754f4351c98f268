"""`features.py` with Ray Data."""

import sys

import numpy as np
import ray
from ray.data.aggregate import Count, Max, Sum


def value(batch):
    return {**batch, "value": batch["price"] * batch["pieces"]}


def score(batch):
    return {**batch, "score": np.log1p(batch["total"]) / np.sqrt(batch["n_orders"])}


def main(orders: str, output: str) -> None:
    customers = ray.data.read_csv(f"{orders}/customers.csv")
    rows = ray.data.read_csv(f"{orders}/orders.csv").map_batches(value)
    sums = rows.groupby("customer").aggregate(
        Sum("value", alias_name="total"), Count(alias_name="n_orders"), Max("price", alias_name="most")
    )
    customers.join(sums, "inner", 4, on=("customer",)).map_batches(score).write_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
