"""Orders to a model of what they cost: epochs of batches of tensors. `python training.py ORDERS OUTPUT`"""

import sys

import mobula
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

EPOCHS, RATE = 5, 0.1


def features(batch):
    price, pieces = batch["price"] / 100, batch["pieces"] / 8
    return {"x": np.stack([price, pieces, np.ones(len(price))], axis=1), "y": price * pieces}


def main(orders: str, output: str) -> int:
    schema = {"x": "DOUBLE[3]", "y": float}
    rows = mobula.read_csv(f"{orders}/orders.csv").map_batches(features, schema=schema)
    weights = torch.zeros(3, dtype=torch.float64)
    for _ in range(EPOCHS):
        gradient, seen = torch.zeros_like(weights), 0
        for batch in rows.iter_torch_batches(batch_size=8192):
            gradient += batch["x"].T @ (batch["x"] @ weights - batch["y"])
            seen += len(batch["y"])
        weights -= RATE * gradient / seen
    pq.write_table(pa.table({"feature": ["price", "pieces", "one"], "weight": weights.numpy()}), output)
    return len(weights)


if __name__ == "__main__":
    print(main(*sys.argv[1:]), "weights")
