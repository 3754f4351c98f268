"""The 22 TPC-H queries by a stock ADBC client, against DuckDB's answers."""

import pathlib

import duckdb
import pytest
from answers import differences
from servers import TABLES, register

QUERIES = pathlib.Path(__file__).parents[2] / "benchmarks/queries/tpch"


@pytest.fixture(scope="module")
def expected(tpch):
    """DuckDB over the same files."""
    duck = duckdb.connect()
    for table in TABLES:
        duck.execute(f"create view {table} as select * from read_parquet('{tpch}/{table}/*')")
    return duck


@pytest.mark.parametrize("executors", [0, 3])
def test_all_queries(start, tpch, expected, executors):
    server = start(executors, args=["--scan-bytes-per-task", "1MiB"])
    wrong = {}
    with server.connect() as connection, connection.cursor() as cursor:
        register(cursor, tpch)
        for n in range(1, 23):
            sql = (QUERIES / f"q{n}.sql").read_text()
            right = expected.execute(sql).fetchall()
            # As it is planned, and by the plan that is kept from the second run on.
            for _ in range(2):
                cursor.execute(sql)
                ours = cursor.fetchall()
                columns = [column[0] for column in cursor.description]
                found = differences(sql, columns, ours, right)
                if found:
                    wrong[n] = found[:3]
    assert not wrong
