"""What stock clients do: DDL, pandas, polars, sessions, errors, restarts."""

import adbc_driver_manager
import pandas
import polars
import pytest


def rows(cursor, sql):
    cursor.execute(sql)
    return cursor.fetchall()


@pytest.fixture
def table(tmp_path):
    """A Parquet file with three rows."""
    path = tmp_path / "t.parquet"
    polars.DataFrame({"id": [1, 2, 3], "name": ["a", "b", None]}).write_parquet(path)
    return path


def test_ddl_is_seen_by_a_second_connection(start, table):
    server = start()
    with server.connect() as one, one.cursor() as cursor:
        cursor.execute(f"CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{table}'")
    with server.connect() as two, two.cursor() as cursor:
        assert rows(cursor, "SELECT count(*), max(name) FROM t") == [(3, "b")]
        with pytest.raises(adbc_driver_manager.Error, match="exists already"):
            cursor.execute(f"CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{table}'")


def test_pandas_and_polars_read_a_table(start, table):
    server = start()
    with server.connect() as connection:
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{table}'")
        sql = "SELECT id, name FROM t ORDER BY id"
        frame = pandas.read_sql(sql, connection)
        assert frame["id"].tolist() == [1, 2, 3]
        assert polars.read_database(sql, connection)["name"].to_list() == ["a", "b", None]


def test_everything_survives_a_restart(start, table, tmp_path):
    data_dir = tmp_path / "kept"
    server = start(data_dir=data_dir)
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{table}'")
        cursor.execute("CREATE VIEW v AS SELECT id + 1 AS next FROM t")
        cursor.execute(
            "CREATE FUNCTION twice(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$\n"
            "def twice(x):\n    return x * 2\n$$"
        )
    server.stop()
    server = start(data_dir=data_dir)
    with server.connect() as connection, connection.cursor() as cursor:
        assert rows(cursor, "SELECT sum(twice(next)) FROM v") == [(18,)]


def test_settings_belong_to_a_session(start):
    server = start()
    show = "SHOW mobula.udf_batch_rows"
    with server.connect() as one, server.connect() as two:
        with one.cursor() as a, two.cursor() as b:
            a.execute("SET mobula.udf_batch_rows = 77")
            assert rows(a, show)[0][1] == "77"
            assert rows(b, show)[0][1] == "65536"


@pytest.mark.parametrize(
    "sql, text",
    [
        ("SELEC 1", "syntax error"),
        ("SELECT nope FROM information_schema.tables", "nope"),
        ("SELECT * FROM no_such_table", "no_such_table"),
        ("CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION '/no/such/file'", "/no/such/file"),
        ("SET mobula.udf_batch_rows = 'many'", "udf_batch_rows"),
        ("SELECT ?", "none were bound"),
        (
            "CREATE FUNCTION f(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$\n"
            "def f(x, y):\n    return x\n$$",
            "y",
        ),
        (
            "CREATE FUNCTION f(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$\n"
            "def f(x)\n    return x\n$$",
            "(line 2: def f(x))",
        ),
    ],
)
def test_bad_input_is_one_clear_line(start, sql, text):
    server = start()
    with server.connect() as connection, connection.cursor() as cursor:
        with pytest.raises(adbc_driver_manager.Error) as caught:
            cursor.execute(sql)
            cursor.fetchall()
        message = str(caught.value)
        assert text in message
        assert "backtrace" not in message.lower() and "panicked" not in message
        assert rows(cursor, "SELECT 1") == [(1,)]


def test_a_python_exception_names_the_users_line(start):
    server = start()
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION broken(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$\n"
            "def broken(x):\n    y = x\n    raise ValueError('seven')\n$$"
        )
        with pytest.raises(adbc_driver_manager.Error) as caught:
            rows(cursor, "SELECT broken(1)")
        message = str(caught.value)
        assert "ValueError: seven" in message and "raise ValueError('seven')" in message
