"""Values for parameters through the stock ADBC driver and polars: types, many rows, errors, and
point queries of a named pool, on one server and on three executors."""

import datetime
import decimal

import adbc_driver_manager
import pandas
import polars
import pyarrow
import pyarrow.parquet
import pytest
from asking import rows, value

# What DB-API drivers are given, and what comes back.
VALUES = [
    7,
    -(2**63),
    2.5,
    True,
    False,
    None,
    "text",
    "",
    "it's \"odd\" \\ ? $1 ; -- \U0001f99c\n",
    b"\x00\xff",
    datetime.date(2024, 2, 29),
    datetime.datetime(2024, 2, 29, 12, 30, 15, 123456),
    decimal.Decimal("123.45"),
    [1, 2, None],
    ["a", "b"],
]
EMBED = """CREATE FUNCTION embed(text VARCHAR) RETURNS DOUBLE[] LANGUAGE python AS $$
class embed:
    def __init__(self, scale=1.0):
        self.scale = scale
    def __call__(self, text):
        return [[len(t) * self.scale, float(t.count('e'))] for t in text]
$$"""


@pytest.fixture(params=[0, 3], ids=["alone", "executors"])
def server(request, start):
    return start(executors=request.param)


@pytest.fixture
def cursor(server):
    with server.connect() as connection, connection.cursor() as cursor:
        yield cursor


@pytest.fixture
def table(cursor, tmp_path):
    """Table t: ids 0 to 99, names `n0` to `n99`, of which every tenth is NULL."""
    names = [None if i % 10 == 0 else f"n{i}" for i in range(100)]
    path = tmp_path / "t"
    path.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"id": range(100), "name": names}), path / "0.parquet")
    cursor.execute(f"CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{path}/'")


@pytest.mark.parametrize("given", VALUES, ids=lambda given: type(given).__name__)
def test_values_of_all_types_come_back(cursor, given):
    for _ in range(3):
        cursor.execute("SELECT ? AS x, $1 IS NULL".replace("$1", "?"), (given, given))
        assert cursor.fetchall() == [(given, given is None)]


def test_queries_of_a_table(cursor, table):
    query = "SELECT id FROM t WHERE id > ? AND name LIKE ? ORDER BY id LIMIT ?"
    for low, expected in [(10, [11, 12]), (50, [51, 52]), (97, [98, 99]), (10, [11, 12])]:
        cursor.execute(query, (low, "n%", 2))
        assert [row[0] for row in cursor.fetchall()] == expected
    cursor.execute("SELECT count(*) FROM t WHERE id = ?", (3.5,))
    assert cursor.fetchall() == [(0,)]
    cursor.execute("SELECT count(*) FROM t WHERE name = ?", ("x' OR '1' = '1",))
    assert cursor.fetchall() == [(0,)]
    cursor.execute("SELECT count(*) FROM t WHERE name = ? OR ? IS NULL", (None, None))
    assert cursor.fetchall() == [(100,)]


def test_frames_are_read_with_parameters(server, cursor, table):
    query = "SELECT id FROM t WHERE id >= ? ORDER BY id"
    with server.connect() as connection:
        for low in (95, 97):
            # `pandas.read_sql` refuses parameters for all ADBC drivers.
            cursor.execute(query, (low,))
            frame = cursor.fetch_df()
            assert isinstance(frame, pandas.DataFrame)
            assert frame["id"].tolist() == list(range(low, 100))
            options = {"parameters": (low,)}
            frame = polars.read_database(query, connection, execute_options=options)
            assert frame["id"].to_list() == list(range(low, 100))


def test_executemany_writes_all_rows_at_once(cursor, table, tmp_path):
    files = len(list((tmp_path / "t").iterdir()))
    cursor.executemany("INSERT INTO t VALUES (?, ?)", [(1000 + i, f"'; {i}") for i in range(500)])
    assert cursor.rowcount in (500, -1)
    assert value(cursor, "SELECT count(*) FROM t WHERE id >= 1000 AND name LIKE '''; %'") == 500
    # One INSERT, so as many files as one writes, and not one for each row.
    assert len(list((tmp_path / "t").iterdir())) - files <= 4


def test_a_prepared_statement_tells_its_parameters(cursor, table):
    schema = cursor.adbc_prepare("SELECT name FROM t WHERE id = ? AND name > ?")
    assert [field.type for field in schema] == [pyarrow.int64(), pyarrow.string()]
    schema = cursor.adbc_prepare("SELECT ?")
    assert [field.type for field in schema] == [pyarrow.null()]


def test_arrow_data_is_bound_row_by_row(cursor):
    statement = cursor.adbc_statement
    statement.set_sql_query("SELECT $low + 1 AS x, $name AS y")
    statement.prepare()
    block = pyarrow.record_batch({"name": ["a", "b", "c"], "low": [1, 2, 3]})
    statement.bind(block)
    stream, _ = statement.execute_query()
    found = pyarrow.RecordBatchReader._import_from_c(stream.address).read_all()
    assert found.to_pydict() == {"x": [2, 3, 4], "y": ["a", "b", "c"]}


@pytest.mark.parametrize(
    "sql, given, text",
    [
        ("SELECT ? + ?", (1,), "takes 2 parameters, and values for 1"),
        ("SELECT ? + 1", (1, 2), "takes 1 parameters, and values for 2"),
        ("SELECT ? + 1", None, "none were bound"),
        ("SELECT ? || ?", ("a", "b"), "write CAST($1 AS type)"),
        ("SELECT id FROM t WHERE id = ?", ("abc",), "abc"),
        ("CREATE VIEW v AS SELECT ?", (1,), "parameters are for queries"),
    ],
)
def test_wrong_values_are_one_clear_line(cursor, table, sql, given, text):
    with pytest.raises(adbc_driver_manager.Error) as caught:
        cursor.execute(sql, given) if given else cursor.execute(sql)
        cursor.fetchall()
    assert text in str(caught.value)
    assert "panicked" not in str(caught.value)
    assert rows(cursor, "SELECT 1") == [(1,)]


def test_point_queries_of_a_warm_pool(server, cursor):
    cursor.execute(EMBED)
    cursor.execute("CREATE ACTOR POOL p FROM embed(scale => 2.0) WITH (min = 1, max = 1)")
    for text in ["eel", "", "heel", "it's"] * 2:
        cursor.execute("SELECT p(?)", (text,))
        assert cursor.fetchall() == [([len(text) * 2.0, float(text.count("e"))],)]
    # Another session replaces what the statement calls; the cursor has it prepared.
    with server.connect() as connection, connection.cursor() as other:
        other.execute("CREATE OR REPLACE ACTOR POOL p FROM embed(scale => 3.0) WITH (min = 1, max = 1)")
        cursor.execute("SELECT p(?)", ("eel",))
        assert cursor.fetchall() == [([9.0, 2.0],)]
        other.execute("DROP ACTOR POOL p")
        with pytest.raises(adbc_driver_manager.Error, match="p"):
            cursor.execute("SELECT p(?)", ("eel",))
            cursor.fetchall()


def test_arguments_of_table_functions_take_values(cursor, table):
    cursor.execute(EMBED)
    query = "SELECT embed[1] FROM map_batches(TABLE(SELECT name AS text FROM t WHERE id = ?), embed(scale => ?))"
    for scale in (1.0, 3.0, 1.0):
        cursor.execute(query, (11, scale))
        assert cursor.fetchall() == [(3 * scale,)]


def test_a_table_made_anew_is_read_by_a_prepared_statement(server, cursor, table, tmp_path):
    query = "SELECT max(id) FROM t WHERE id < ?"
    for _ in range(3):
        cursor.execute(query, (1000,))
        assert cursor.fetchall() == [(99,)]
    path = tmp_path / "other.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"id": [500]}), path)
    with server.connect() as connection, connection.cursor() as other:
        other.execute(f"CREATE OR REPLACE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{path}'")
    cursor.execute(query, (1000,))
    assert cursor.fetchall() == [(500,)]
