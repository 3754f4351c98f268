"""Bulk ingestion by the stock ADBC driver: modes, types, temporary tables, limits, and what
clients leave that go away while they send; on one server and on three executors."""

import datetime
import decimal
import os
import signal
import subprocess
import sys
import threading

import adbc_driver_flightsql as flightsql
import adbc_driver_flightsql.dbapi as dbapi
import adbc_driver_manager
import pandas
import polars
import pyarrow
import pytest
from asking import rows, value, wait_until

SMALL = pyarrow.table({"id": [1, 2, 3], "name": ["a", None, "c"]})


@pytest.fixture(params=[0, 3], ids=["alone", "executors"])
def server(request, start):
    return start(executors=request.param)


@pytest.fixture
def cursor(server):
    with server.connect() as connection, connection.cursor() as cursor:
        yield cursor


def files(server):
    """The folders of loaded rows."""
    return [path for path in (server.data_dir / "loaded").iterdir() if path.is_dir()]


def refused(error, *texts):
    for text in texts:
        assert text in str(error.value), str(error.value)


def test_modes(server, cursor):
    assert cursor.adbc_ingest("t", SMALL) == 3
    with pytest.raises(adbc_driver_manager.Error) as error:
        cursor.adbc_ingest("t", SMALL, mode="create")
    refused(error, '"public.t"', "exists already")
    assert cursor.adbc_ingest("t", SMALL, mode="append") == 3
    assert cursor.adbc_ingest("t", SMALL, mode="create_append") == 3
    assert rows(cursor, "SELECT count(*), sum(id) FROM t") == [(9, 18)]
    assert cursor.adbc_ingest("t", pyarrow.table({"other": [7]}), mode="replace") == 1
    assert rows(cursor, "SELECT * FROM t") == [(7,)]
    assert len(files(server)) == 1
    with pytest.raises(adbc_driver_manager.Error) as error:
        cursor.adbc_ingest("u", SMALL, mode="append")
    refused(error, '"public.u" does not exist')
    assert cursor.adbc_ingest("u", SMALL, mode="create_append") == 3
    # Others see it, and more rows by INSERT.
    with server.connect() as other, other.cursor() as others:
        others.execute("INSERT INTO u VALUES (4, 'd')")
        assert value(others, "SELECT sum(id) FROM u") == 10
    cursor.execute("DROP TABLE t")
    cursor.execute("DROP TABLE u")
    assert files(server) == []


def test_values_come_back_as_they_went(cursor):
    table = pyarrow.table(
        {
            "i": pyarrow.array([1, None, -(2**63)], pyarrow.int64()),
            "f": pyarrow.array([0.5, float("nan"), None], pyarrow.float32()),
            "b": [True, None, False],
            "t": ["x", "", None],
            "y": [b"\x00", None, b""],
            "d": [datetime.date(2024, 2, 29), None, datetime.date(1, 1, 1)],
            "s": pyarrow.array([datetime.datetime(2024, 1, 1, 1, 1, 1), None, None], pyarrow.timestamp("s")),
            "z": pyarrow.array([0, None, 1], pyarrow.timestamp("us", "Europe/Berlin")),
            "m": pyarrow.array([decimal.Decimal("1.10"), None, None], pyarrow.decimal128(9, 2)),
            "l": [[1, None], [], None],
            "o": [{"a": 1, "b": "x"}, None, {"a": None, "b": None}],
            "n": pyarrow.nulls(3),
            "u": pyarrow.array([2**64 - 1, None, 0], pyarrow.uint64()),
            "Odd \"name\"": [1, 2, 3],
        }
    )
    cursor.adbc_ingest("t", table)
    cursor.execute("SELECT * FROM t")
    found = cursor.fetch_arrow_table()
    assert found.schema.names == table.schema.names
    assert [str(f.type) for f in found.schema] == [str(f.type) for f in table.schema]
    assert found.to_pylist()[0] == table.to_pylist()[0]
    assert str(found.sort_by("i").to_pylist()) == str(table.sort_by("i").to_pylist())
    # Other forms of the same values become plain ones.
    forms = pyarrow.table({"t": pyarrow.array(["x", "x"]).dictionary_encode(), "v": pyarrow.array(["y", "y"], pyarrow.string_view())})
    cursor.adbc_ingest("forms", forms)
    assert rows(cursor, "SELECT t, v FROM forms") == [("x", "y")] * 2


def test_columns_go_by_name_and_types_are_the_table_s(cursor):
    cursor.adbc_ingest("t", SMALL)
    cursor.adbc_ingest("t", pyarrow.table({"name": ["d"], "id": pyarrow.array([4], pyarrow.int8())}), mode="append")
    cursor.adbc_ingest("t", pyarrow.table({"id": ["5"]}), mode="append")
    assert rows(cursor, "SELECT id, name FROM t WHERE id > 3 ORDER BY id") == [(4, "d"), (5, None)]
    for table, text in [
        (pyarrow.table({"id": [6], "nam": ["x"]}), 'no column "nam"'),
        (pyarrow.table({"id": ["six"]}), 'column "id"'),
        (pyarrow.table([[1], [2]], names=["id", "id"]), 'two columns are "id"'),
    ]:
        with pytest.raises(adbc_driver_manager.Error) as error:
            cursor.adbc_ingest("t", table, mode="append")
        refused(error, '"public.t"', text)
    assert value(cursor, "SELECT count(*) FROM t") == 5


def test_what_was_not_loaded_takes_rows_as_by_insert(cursor, tmp_path):
    made = tmp_path / "made"
    cursor.execute(f"COPY (SELECT 1 AS a, 'x' AS b) TO '{made}/' STORED AS CSV")
    cursor.execute(f"CREATE EXTERNAL TABLE lines STORED AS CSV LOCATION '{made}/'")
    assert cursor.adbc_ingest("lines", pyarrow.table({"b": ["y"], "a": [2]}), mode="append") == 1
    assert rows(cursor, "SELECT a, b FROM lines ORDER BY a") == [(1, "x"), (2, "y")]
    cursor.execute("CREATE VIEW v AS SELECT 1 AS a")
    for mode in ("append", "replace", "create"):
        with pytest.raises(adbc_driver_manager.Error) as error:
            cursor.adbc_ingest("v", SMALL, mode=mode)
        refused(error, "It is a view")
    cursor.adbc_ingest("lines", SMALL, mode="replace")
    assert value(cursor, "SELECT count(*) FROM lines") == 3 and list(made.iterdir())


def test_schemas(cursor):
    cursor.execute("CREATE SCHEMA s")
    cursor.adbc_ingest("t", SMALL, db_schema_name="s")
    cursor.adbc_ingest("t", SMALL, db_schema_name="s", catalog_name="mobula", mode="append")
    assert value(cursor, "SELECT count(*) FROM s.t") == 6
    for options, text in [
        ({"db_schema_name": "none"}, '"none" does not exist'),
        ({"db_schema_name": "system"}, "read-only"),
        ({"db_schema_name": "temp"}, "temporary"),
        ({"db_schema_name": "s", "catalog_name": "other"}, "one catalog"),
    ]:
        with pytest.raises(adbc_driver_manager.Error) as error:
            cursor.adbc_ingest("u", SMALL, **options)
        refused(error, text)
    cursor.execute("DROP SCHEMA s CASCADE")


def test_rows_that_are_read_outlive_their_table(server, cursor):
    big = pyarrow.table({"id": range(3_000_000)})
    # The driver sends a batch as one message, of 16 MiB at most.
    cursor.adbc_ingest("t", big.to_reader(max_chunksize=500_000))
    with server.connect() as other, other.cursor() as reader:
        reader.execute("SELECT id FROM t")
        batches = reader.fetch_record_batch()
        n = batches.read_next_batch().num_rows
        cursor.adbc_ingest("t", SMALL, mode="replace")
        assert n + sum(batch.num_rows for batch in batches) == 3_000_000
    assert value(cursor, "SELECT count(*) FROM t") == 3
    wait_until(lambda: len(files(server)) == 1)


def test_frames_of_pandas_and_polars(server, cursor):
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", None]})
    with server.connect() as connection:
        assert frame.to_sql("p", connection, index=False) == 2
        polars.DataFrame({"a": [3]}).write_database("q", connection, engine="adbc")
    assert rows(cursor, "SELECT a, b FROM p ORDER BY a") == [(1, "x"), (2, None)]
    assert rows(cursor, "SELECT a FROM q") == [(3,)]


def test_temporary_tables_are_of_one_session(server, cursor):
    cursor.adbc_ingest("t", SMALL)
    with server.connect() as other, other.cursor() as own:
        own.adbc_ingest("t", pyarrow.table({"mine": [1]}), temporary=True)
        own.adbc_ingest("t", pyarrow.table({"mine": [2]}), temporary=True, mode="append")
        own.adbc_ingest("only", SMALL, temporary=True)
        assert rows(own, "SELECT * FROM t ORDER BY mine") == rows(own, "SELECT * FROM temp.t ORDER BY mine") == [(1,), (2,)]
        assert value(own, "SELECT count(*) FROM only JOIN t ON only.id = t.mine") == 2
        assert value(cursor, "SELECT count(*) FROM t") == 3
        for name in ("only", "temp.only"):
            with pytest.raises(adbc_driver_manager.Error):
                cursor.execute(f"SELECT * FROM {name}")
        found = other.adbc_get_objects(depth="tables", table_name_filter="only").read_all().to_pylist()
        schemas = [schema for catalog in found for schema in catalog["catalog_db_schemas"]]
        kinds = [t["table_type"] for schema in schemas for t in schema["db_schema_tables"] or []]
        assert kinds == ["LOCAL TEMPORARY"]
        with pytest.raises(adbc_driver_manager.Error) as error:
            own.execute("CREATE VIEW v AS SELECT * FROM only")
        refused(error, "temporary table")
        with pytest.raises(adbc_driver_manager.Error) as error:
            own.adbc_ingest("u", SMALL, temporary=True, db_schema_name="public")
        refused(error, '"temp"')
        own.execute("DROP TABLE t")
        assert value(own, "SELECT count(*) FROM t") == 3
        own.execute("INSERT INTO only VALUES (9, 'z')")
        assert value(own, "SELECT max(id) FROM only") == 9
        assert len(files(server)) == 2
    wait_until(lambda: len(files(server)) == 1)


def test_tables_of_queries(server, cursor, tmp_path):
    """In a cluster they are files, as loaded rows are; those of temporary ones stay where they are made."""
    cursor.execute("CREATE TABLE t AS SELECT value AS id FROM generate_series(1, 100000)")
    cursor.execute("CREATE TEMP TABLE few AS SELECT id, id * 2 AS twice FROM t WHERE id <= 3")
    assert rows(cursor, "SELECT sum(twice), count(*) FROM few JOIN t USING (id)") == [(12, 3)]
    cursor.execute("CREATE OR REPLACE TEMP TABLE few AS SELECT 1 AS one")
    cursor.execute("CREATE TEMP TABLE IF NOT EXISTS few AS SELECT 2 AS one")
    assert rows(cursor, "SELECT * FROM few") == [(1,)]
    cursor.execute("CREATE TEMP TABLE some AS SELECT id FROM t WHERE id < ?", (5,))
    assert value(cursor, "SELECT count(*) FROM some") == 4
    for sql, text in [
        ("CREATE TABLE t AS SELECT 1 AS x", "exists"),
        ("CREATE TEMP TABLE few AS SELECT 1 AS x", "exists already"),
        ("CREATE TEMP TABLE bad AS SELECT 1 / (id - 2) AS x FROM t", "zero"),
        ("CREATE TEMP TABLE bad (a INT PRIMARY KEY)", "constraints"),
        ("CREATE TEMP TABLE bad (a INT NOT NULL)", "NOT NULL"),
        ("CREATE TEMP TABLE public.bad (a INT)", '"temp"'),
        ("SELECT * FROM bad", "bad"),
    ]:
        with pytest.raises(adbc_driver_manager.Error) as error:
            cursor.execute(sql)
        refused(error, text)
    cursor.execute("CREATE TEMP TABLE empty (a INT, b VARCHAR)")
    cursor.execute("INSERT INTO empty (b) VALUES ('x')")
    assert rows(cursor, "SELECT * FROM empty") == [(None, "x")]
    cursor.execute("INSERT INTO t VALUES (100001)")
    with server.connect() as other, other.cursor() as others:
        assert value(others, "SELECT count(*) FROM t") == 100_001
        with pytest.raises(adbc_driver_manager.Error):
            others.execute("SELECT * FROM few")
    cursor.execute("DROP TABLE IF EXISTS temp.nothing")
    cursor.execute("DROP TABLE few")
    cursor.execute("DROP TABLE t")
    wait_until(lambda: len(files(server)) == 1)
    assert rows(cursor, "SELECT DISTINCT name FROM system.temporary_tables") == [("some",)]


def test_a_restart_keeps_tables_and_nothing_else(start, tmp_path):
    server = start(data_dir=tmp_path / "kept")
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("t", SMALL)
        cursor.adbc_ingest("t", SMALL, mode="append")
        cursor.adbc_ingest("gone", SMALL, temporary=True)
        server.kill()
    assert len(files(server)) == 2
    again = start(data_dir=tmp_path / "kept")
    with again.connect() as connection, connection.cursor() as cursor:
        assert value(cursor, "SELECT count(*) FROM t") == 6
        assert len(files(again)) == 1


def broken(n):
    """Batches, and then an error of the client's own."""
    yield from SMALL.to_batches() * n
    raise ValueError("the client's own")


def test_a_client_that_fails_leaves_nothing(server, cursor):
    cursor.adbc_ingest("u", SMALL)
    for n, name, mode in [(1, "t", "create"), (50, "t", "create"), (1, "u", "append"), (50, "u", "replace")] * 3:
        reader = pyarrow.RecordBatchReader.from_batches(SMALL.schema, broken(n))
        with server.connect() as connection, connection.cursor() as failing:
            with pytest.raises(Exception, match="the client's own"):
                failing.adbc_ingest(name, reader, mode=mode)
    wait_until(lambda: len(files(server)) == 1)
    assert value(cursor, "SELECT count(*) FROM u") == 3
    with pytest.raises(adbc_driver_manager.Error):
        cursor.execute("SELECT * FROM t")


def test_a_load_that_is_cancelled_leaves_nothing(server, cursor):
    def endless():
        while True:
            yield SMALL.to_batches()[0]

    reader = pyarrow.RecordBatchReader.from_batches(SMALL.schema, endless())
    with server.connect() as connection, connection.cursor() as cancelled:
        timer = threading.Timer(1, cancelled.adbc_cancel)
        timer.start()
        with pytest.raises(adbc_driver_manager.Error):
            cancelled.adbc_ingest("t", reader)
        timer.join()
        wait_until(lambda: files(server) == [])
        assert value(cancelled, "SELECT 1") == 1
    with pytest.raises(adbc_driver_manager.Error):
        cursor.execute("SELECT * FROM t")


SENDER = """
import sys, time, pyarrow
import adbc_driver_flightsql.dbapi as flightsql
def batches():
    while True:
        yield pyarrow.record_batch({"id": range(200_000)})
        print("sent", flush=True)
        time.sleep(0.01)
schema = pyarrow.schema({"id": pyarrow.int64()})
with flightsql.connect(sys.argv[1]) as connection, connection.cursor() as cursor:
    cursor.adbc_ingest("kept", pyarrow.table({"id": [1]}), temporary=True)
    cursor.adbc_ingest("t", pyarrow.RecordBatchReader.from_batches(schema, batches()))
"""


def test_a_killed_client_leaves_nothing(server, cursor):
    sender = subprocess.Popen([sys.executable, "-c", SENDER, server.address("clients")], stdout=subprocess.PIPE)
    for _ in range(5):
        assert sender.stdout.readline() == b"sent\n"
    assert len(files(server)) == 2
    os.kill(sender.pid, signal.SIGKILL)
    sender.wait()
    wait_until(lambda: files(server) == [])
    with pytest.raises(adbc_driver_manager.Error):
        cursor.execute("SELECT * FROM t")
    # And its place is free.
    cursor.adbc_ingest("t", SMALL)


def test_limits(start, tmp_path):
    numbers = pyarrow.table({"id": pyarrow.array(range(400_000), pyarrow.int64())})
    server = start(args=["--loaded-bytes-max", "1MiB", "--load-message-bytes", "64MiB"])
    with server.connect() as connection, connection.cursor() as cursor:
        with pytest.raises(adbc_driver_manager.Error) as error:
            cursor.adbc_ingest("t", numbers)
        refused(error, "mobula.loaded_bytes_max", "1048576")
        assert files(server) == []
        cursor.adbc_ingest("t", SMALL)
        assert value(cursor, "SELECT count(*) FROM t") == 3
    # A driver that may send more than it does by itself.
    options = {flightsql.DatabaseOptions.WITH_MAX_MSG_SIZE.value: str(1 << 30)}
    with dbapi.connect(server.address("clients"), options, autocommit=True) as connection, connection.cursor() as cursor:
        with pytest.raises(adbc_driver_manager.Error) as error:
            cursor.adbc_ingest("u", pyarrow.table({"x": [b"x" * (80 << 20)]}))
        refused(error, "mobula.load_message_bytes")


def test_many_append_at_once(server):
    import concurrent.futures

    def load(i):
        with server.connect() as connection, connection.cursor() as cursor:
            return cursor.adbc_ingest("t", pyarrow.table({"id": [i] * 100}), mode="create_append")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(load, range(8))) == [100] * 8
    with server.connect() as connection, connection.cursor() as cursor:
        assert rows(cursor, "SELECT count(*), count(DISTINCT id) FROM t") == [(800, 8)]


def test_a_directory_that_executors_share(start, tmp_path):
    server = start(executors=1, args=["--loaded-dir", str(tmp_path / "it's shared")])
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("t", SMALL)
        assert value(cursor, "SELECT count(*) FROM t") == 3
        assert len(list((tmp_path / "it's shared").glob("table-*/*.parquet"))) == 1
    second = pytest.raises(RuntimeError, start, data_dir=tmp_path / "other", args=["--loaded-dir", str(tmp_path / "it's shared")])
    refused(second, "in use by process")
