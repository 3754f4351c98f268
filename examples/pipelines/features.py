"""Orders and customers to a table of features. `python features.py ORDERS OUTPUT`"""

import sys

import mobula
import numpy as np


def score(batch):
    return {**batch, "score": np.log1p(batch["total"]) / np.sqrt(batch["n_orders"])}


def main(orders: str, output: str) -> int:
    customers = mobula.read_csv(f"{orders}/customers.csv")
    rows = mobula.read_csv(f"{orders}/orders.csv").with_column("value", "price * pieces")
    sums = rows.groupby("customer").agg(total="sum(value)", n_orders="count(*)", most="max(price)")
    return customers.join(sums, on="customer").map_batches(score).write_parquet(output)


if __name__ == "__main__":
    print(main(*sys.argv[1:]), "customers")
