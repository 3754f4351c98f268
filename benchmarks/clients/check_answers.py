"""Compares answers to the TPC-H queries with DuckDB's over the same files.

    check_answers.py DATA QUERIES ANSWERS

ANSWERS holds one Arrow IPC file a query, `q1.arrow` to `q22.arrow`. Exits with
0 when all are equal, with 1 and the differing queries on standard error when
not, with 2 when it cannot compare.
"""

import pathlib
import sys


def main(data, queries, answers):
    try:
        import duckdb
        import pyarrow.ipc
    except ImportError as error:
        print(error, file=sys.stderr)
        return 2
    from answers import differences

    duck = duckdb.connect()
    for table in "customer lineitem nation orders part partsupp region supplier".split():
        # One file, or a directory of them.
        files = data / table / "*" if (data / table).is_dir() else data / f"{table}.parquet"
        duck.execute(f"create view {table} as select * from read_parquet('{files}')")
    wrong = []
    for path in sorted(answers.glob("q*.arrow"), key=lambda path: int(path.stem[1:])):
        ours = pyarrow.ipc.open_file(path).read_all()
        sql = (queries / f"{path.stem}.sql").read_text()
        rows = list(zip(*(column.to_pylist() for column in ours.columns)))
        found = differences(sql, ours.column_names, rows, duck.execute(sql).fetchall())
        for text in found[:3]:
            print(f"{path.stem}: {text}")
        if found:
            wrong.append(path.stem)
    if wrong:
        print(", ".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*map(pathlib.Path, sys.argv[1:])))
