"""Access logs to Parquet: the requests that failed. `python logs.py LOGS OUTPUT`"""

import re
import sys

import mobula

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


def main(logs: str, output: str) -> int:
    schema = {"host": str, "time": str, "method": str, "path": str, "status": int, "bytes": int}
    requests = mobula.read_text(f"{logs}/*.log").map_batches(parse, batch_size=4096, schema=schema)
    return requests.filter(expr="status >= 500").write_parquet(output)


if __name__ == "__main__":
    print(main(*sys.argv[1:]), "requests failed")
