"""`logs.py` with Ray Data."""

import re
import sys

import ray

LINE = re.compile(r'(\S+) \S+ \S+ \[([^\]]+)\] "(\S+) (\S+) [^"]*" (\d{3}) (\d+|-)$')


def parse(batch):
    found = [match.groups() for match in map(LINE.match, batch["text"]) if match]
    host, time, method, path, status, size = map(list, zip(*found)) if found else [[]] * 6
    return {
        "host": host,
        "time": time,
        "method": method,
        "path": path,
        "status": [int(text) for text in status],
        "bytes": [0 if text == "-" else int(text) for text in size],
    }


def main(logs: str, output: str) -> None:
    requests = ray.data.read_text(logs).map_batches(parse, batch_size=4096)
    requests.filter(lambda row: row["status"] >= 500).write_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
