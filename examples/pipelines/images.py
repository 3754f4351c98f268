"""Images to what a model takes: scaled, cut to their middle, normalised. `python images.py IMAGES OUTPUT`"""

import sys

import mobula
import numpy as np

SIDE, MIDDLE = 72, slice(4, 68)
MEAN, SPREAD = np.array([0.485, 0.456, 0.406], "f4"), np.array([0.229, 0.224, 0.225], "f4")


def prepare(batch):
    pixels = (batch["image"][:, MIDDLE, MIDDLE] / np.float32(255) - MEAN) / SPREAD
    # Where bright, as a grid of 8 by 8 for each colour.
    cells = pixels.reshape(-1, 8, 8, 8, 8, 3).mean(axis=(2, 4))
    return {"name": [path.rsplit("/", 1)[1] for path in batch["path"]], "cells": cells.reshape(len(cells), -1)}


def main(images: str, output: str) -> int:
    rows = mobula.read_images(images, size=(SIDE, SIDE), include_paths=True)
    return rows.map_batches(prepare, schema={"name": str, "cells": "REAL[192]"}).write_parquet(output)


if __name__ == "__main__":
    print(main(*sys.argv[1:]), "images")
