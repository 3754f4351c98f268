"""Runs each pipeline and its Ray Data twin as processes, in turns, and compares rows and times.

python compare.py DATA [NAMES] [--pairs 3] [--python PYTHON] [--ray-python PYTHON]
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import pyarrow.parquet as pq

HERE = pathlib.Path(__file__).resolve().parent
# What each reads, below the directory of the data.
PIPELINES = {"logs": "logs", "features": "orders", "languages": "texts", "embeddings": "texts", "training": "orders", "images": "images"}
LIMIT_S = 600


def run(python: str, script: str, data: pathlib.Path) -> tuple[float, list[tuple]]:
    """The seconds of a process from start to end, and the rows that it wrote."""
    with tempfile.TemporaryDirectory() as directory:
        output = pathlib.Path(directory) / "rows"
        started = time.perf_counter()
        ended = subprocess.run([python, str(HERE / script), str(data), str(output)], capture_output=True, text=True, timeout=LIMIT_S)
        seconds = time.perf_counter() - started
        if ended.returncode != 0:
            sys.exit(f"{script} failed: {ended.stderr}")
        return seconds, rows(output)


def rows(output: pathlib.Path) -> list[tuple]:
    """Sorted, columns by name; decimals to nine digits, for sums depend on their order."""
    table = pq.read_table(output)
    names = sorted(table.column_names)

    def shown(value):
        return f"{value:.9g}" if isinstance(value, float) else str(value)

    return sorted(tuple(shown(row[name]) for name in names) for row in table.to_pylist())


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("data", type=pathlib.Path)
    arguments.add_argument("names", nargs="*", default=list(PIPELINES), metavar="NAMES")
    arguments.add_argument("--pairs", type=int, default=3)
    arguments.add_argument("--python", default=sys.executable, help="has mobula and what the pipelines import")
    arguments.add_argument("--ray-python", default=sys.executable, help="has ray[data] and what the pipelines import")
    given = arguments.parse_args()
    for name in given.names:
        ours, theirs = [], []
        for _ in range(given.pairs):
            seconds, found = run(given.python, f"{name}.py", given.data / PIPELINES[name])
            ours.append(seconds)
            seconds, wanted = run(given.ray_python, f"{name}_ray.py", given.data / PIPELINES[name])
            theirs.append(seconds)
            if found != wanted:
                print(f"{name}: {len(found)} rows, and {len(wanted)} of Ray Data, are not the same", file=sys.stderr)
                return 1
        ratios = [one / other for one, other in zip(ours, theirs)]
        print(
            f"{name}: the same {len(found)} rows; {statistics.median(ours):.2f} s, Ray Data {statistics.median(theirs):.2f} s: "
            f"{statistics.median(ratios):.3f} × ({min(ratios):.3f} to {max(ratios):.3f})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
