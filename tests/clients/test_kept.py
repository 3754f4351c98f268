"""Temporary tables made by a query: their blocks stay with the executors that make them."""

import os
import signal

import adbc_driver_manager
import pytest
from asking import rows, value, wait_until

SMALL_SCANS = ["--scan-bytes-per-task", "64KiB"]
PARTS = "SELECT executor_id, rows, bytes, spilled_bytes, state FROM system.temporary_tables ORDER BY 1"


@pytest.fixture
def server(start, tpch):
    server = start(executors=3, args=SMALL_SCANS)
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE EXTERNAL TABLE lineitem STORED AS PARQUET LOCATION '{tpch}/lineitem/'")
    return server


def read_by_executors(cursor):
    """Bytes that tasks of executors have read, in their own processes and from others."""
    sums = "SELECT sum(local_bytes), sum(remote_bytes) FROM system.tasks WHERE executor_id <> 'coordinator'"
    return rows(cursor, sums)[0]


def test_blocks_stay_and_tasks_come_to_them(server):
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE few AS SELECT l_orderkey, l_quantity, l_comment FROM lineitem WHERE l_linenumber = 1")
        parts = rows(cursor, PARTS)
        assert len(parts) == 3 and all(part[4] == "there" and part[3] == 0 < part[1] for part in parts)
        wanted = rows(cursor, "SELECT count(*), sum(l_orderkey), sum(l_quantity), max(l_comment) FROM lineitem WHERE l_linenumber = 1")
        assert sum(part[1] for part in parts) == wanted[0][0]
        local, remote = read_by_executors(cursor)
        assert rows(cursor, "SELECT count(*), sum(l_orderkey), sum(l_quantity), max(l_comment) FROM few") == wanted
        now_local, now_remote = read_by_executors(cursor)
        assert now_local > local and now_remote == remote
        plan = "\n".join(row[1] for row in rows(cursor, "EXPLAIN SELECT count(*) FROM few WHERE l_quantity > 1"))
        assert plan.count("KeptScanExec: table=few, parts=") == plan.count("executors=1") == 3
        # Rows that are inserted lie with the coordinator, and are fetched.
        cursor.execute("INSERT INTO few SELECT l_orderkey, l_quantity, l_comment FROM lineitem WHERE l_linenumber = 2")
        assert value(cursor, "SELECT count(DISTINCT executor_id) FROM system.temporary_tables") == 4
        both = "SELECT count(*), sum(l_orderkey) FROM lineitem WHERE l_linenumber <= 2"
        assert rows(cursor, "SELECT count(*), sum(l_orderkey) FROM few WHERE l_quantity > 0") == rows(cursor, both)


@pytest.mark.parametrize(("bound", "most"), [(["--kept-memory-max", "8MiB"], 8 << 20), (["--memory-limit", "48MiB"], 24 << 20)])
def test_memory_then_disk(start, tpch, bound, most):
    server = start(executors=2, args=[*SMALL_SCANS, *bound])
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE EXTERNAL TABLE lineitem STORED AS PARQUET LOCATION '{tpch}/lineitem/'")
        cursor.execute("CREATE TEMP TABLE copy AS SELECT * FROM lineitem")
        for _, _, size, spilled, _ in rows(cursor, PARTS):
            assert most / 2 < size - spilled <= most and spilled > 1 << 20
        figures = "SELECT count(*), sum(l_extendedprice), min(l_comment), count(DISTINCT l_shipmode), count(DISTINCT l_orderkey) FROM"
        assert rows(cursor, f"{figures} copy") == rows(cursor, f"{figures} lineitem")
        # Tasks of a UNION read what others have.
        twice = "SELECT sum(l_tax), count(l_comment) FROM (SELECT * FROM {0} UNION ALL SELECT * FROM {0})"
        assert rows(cursor, twice.format("copy")) == rows(cursor, twice.format("lineitem"))


def test_it_goes_with_its_name_and_with_its_session(server):
    with server.connect() as other, other.cursor() as looks:
        names = "SELECT DISTINCT name FROM system.temporary_tables ORDER BY 1"
        with server.connect() as connection, connection.cursor() as cursor:
            for name in ("a", "b"):
                cursor.execute(f"CREATE TEMP TABLE {name} AS SELECT l_orderkey FROM lineitem")
            # Plans that are kept for their next run hold nothing.
            for _ in range(3):
                cursor.execute("INSERT INTO a VALUES (-1)")
            assert rows(looks, names) == [("a",), ("b",)]
            with pytest.raises(adbc_driver_manager.Error, match="not found|\"a\""):
                looks.execute("SELECT * FROM a")
            # Who reads it reads on.
            with connection.cursor() as reads:
                reads.execute("SELECT * FROM a")
                reader = reads.fetch_record_batch()
                n_rows = reader.read_next_batch().num_rows
                cursor.execute("DROP TABLE a")
                n_rows += sum(batch.num_rows for batch in reader)
            assert n_rows == value(cursor, "SELECT count(*) FROM b WHERE l_orderkey > 0") + 3
            wait_until(lambda: rows(looks, names) == [("b",)])
            # A query that fails, and one that is too late, keep nothing.
            with pytest.raises(adbc_driver_manager.Error, match="zero"):
                cursor.execute("CREATE TEMP TABLE c AS SELECT 1 / (l_orderkey - 7) AS x FROM lineitem")
            with pytest.raises(adbc_driver_manager.Error, match="exists already"):
                cursor.execute("CREATE TEMP TABLE b AS SELECT 1 AS x")
            assert rows(looks, names) == [("b",)]
        wait_until(lambda: rows(looks, names) == [])


def test_a_lost_executor_is_told(server):
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE few AS SELECT l_orderkey FROM lineitem")
        lost, pid = rows(cursor, "SELECT executor_id, pid FROM system.executors WHERE executor_id <> 'coordinator' LIMIT 1")[0]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "lost" in [row[4] for row in rows(cursor, PARTS)])
        with pytest.raises(adbc_driver_manager.Error, match=f'"few" has lost the rows that executor {lost} kept'):
            rows(cursor, "SELECT sum(l_orderkey) FROM few")
        cursor.execute("CREATE OR REPLACE TEMP TABLE few AS SELECT l_orderkey FROM lineitem")
        assert value(cursor, "SELECT sum(l_orderkey) FROM few") == value(cursor, "SELECT sum(l_orderkey) FROM lineitem")
        assert {row[4] for row in rows(cursor, PARTS)} == {"there"}
