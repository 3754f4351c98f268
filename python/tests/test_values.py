"""Values of `$name`: bound beside the statement wherever the server takes them so."""

import datetime
import decimal
import uuid

import numpy as np
import pytest

import mobula
from mobula.bound import Values, is_bindable

# Only what is bound can have a NUL: no literal has one.
BOUND_ONLY = "a\0b"


def test_values_are_bound_and_never_text(con):
    assert con.sql("SELECT $v AS v", v=BOUND_ONLY).take() == [{"v": BOUND_ONLY}]
    rows = con.from_items([{"name": "x"}, {"name": BOUND_ONLY}, {"name": "' OR 1 = 1"}])
    for wanted in ("x", BOUND_ONLY, "' OR 1 = 1", "nobody"):
        chosen = con.sql("SELECT name FROM rows WHERE name = $wanted AND $wanted IS NOT NULL", wanted=wanted)
        expected = [] if wanted == "nobody" else [{"name": wanted}]
        assert chosen.take() == expected and chosen.count() == len(expected)
        assert chosen.unique("name") == [row["name"] for row in expected]
    assert con.sql("SELECT name FROM rows WHERE name LIKE $p LIMIT $n", p="%b", n=1).max("name") == BOUND_ONLY


@pytest.mark.parametrize(
    "value, kind",
    [
        (2**64 - 1, "uint64"),
        (uuid.UUID(int=7), "string"),
        ([1.5, None], "list<item: double>"),
        ([[1], []], "list<item: list<item: int64>>"),
        (("a", "b"), "list<item: string>"),
        (decimal.Decimal("1" * 50 + ".5"), "decimal256(51, 1)"),
        (datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc), "timestamp[us, tz=UTC]"),
        (bytearray(b"\x00x"), "binary"),
    ],
    ids=repr,
)
def test_types_of_values(con, value, kind):
    found = con.sql("SELECT $value AS v", value=value).to_arrow()["v"]
    wanted = str(value) if isinstance(value, uuid.UUID) else list(value) if isinstance(value, tuple) else value
    assert str(found.type) == kind and found[0].as_py() == wanted


@pytest.mark.parametrize("value", [object(), {1: 2}, 2**70, [1, "a"], [object()]], ids=repr)
def test_what_has_no_type_is_refused_at_once(con, value):
    with pytest.raises(mobula.QueryFailed):
        con.sql("SELECT $value", value=value).take()


def test_datasets_keep_their_own_values(con):
    low, high = (con.sql("SELECT id FROM numbers WHERE id >= $n", numbers=con.range(10), n=n) for n in (3, 8))
    assert low.count() == 7 and high.count() == 2
    both = con.sql("SELECT l.id, $n AS n FROM low AS l JOIN high AS h ON l.id = h.id", n="own")
    assert sorted(row["id"] for row in both.take()) == [8, 9] and both.take(1)[0]["n"] == "own"
    # Where columns are asked for, types learned and text shown, the values are there as well.
    joined = low.join(high.rename_columns({"id": "key"}), on="id", right_on="key")
    made = joined.map(lambda row: {"v": -row["id"]})
    assert sorted(row["v"] for row in made.take()) == [-9, -8]
    assert ">= 8" in made.to_sql() and "$" not in high.to_sql()
    assert high.columns() == ["id"] and "id" in high.explain()


def test_values_where_the_server_plans_by_them(con, tmp_path):
    path = str(tmp_path / "n.parquet")
    assert con.execute("COPY (SELECT value + $more AS id FROM generate_series(1, $n)) TO $path", more=10, n=5, path=path) == 5
    assert con.sql("SELECT min(id) AS least FROM $path WHERE id > $low", path=path, low=12).take() == [{"least": 13}]
    con.execute("CREATE OR REPLACE FUNCTION of_values(rows TABLE) RETURNS TABLE(n BIGINT) LANGUAGE python AS $$\n"
                "class of_values:\n"
                "    def __init__(self, more):\n"
                "        self.more = more\n"
                "    def __call__(self, rows):\n"
                "        return {'n': [len(rows['id']) + self.more]}\n$$")  # fmt: skip
    sizes = con.sql(
        "SELECT n FROM map_batches(TABLE(SELECT id FROM numbers WHERE id < $most), of_values(more => $more),"
        " batch_size => $size, concurrency => 1)",
        numbers=con.range(100), most=5, more=100, size=2,
    )  # fmt: skip
    assert sorted(row["n"] for row in sizes.take()) == [101, 102, 102]
    con.execute("DROP FUNCTION of_values")
    con.execute("CREATE OR REPLACE VIEW few AS SELECT $n AS n", n=4)
    day = con.sql("SELECT n, DATE $day + INTERVAL $more AS day FROM few", day="2026-01-31", more="1 day")
    assert day.take() == [{"n": 4, "day": datetime.date(2026, 2, 1)}]
    con.execute("DROP VIEW few")


def test_where_a_value_is_a_literal():
    def placed(text, **values):
        return Values().placed(text, values)

    assert placed("SELECT $a, $b, $a", a=1, b=2) == "SELECT $value_1, $value_2, $value_1"
    assert placed("SELECT '$a' /* $a */ FROM f($a), g($a) WHERE h($a) IN ($a)", a=1) == (
        "SELECT '$a' /* $a */ FROM f(1), g(1) WHERE h($value_1) IN ($value_1)"
    )
    assert placed("SELECT (SELECT $a) FROM t JOIN f($a) ON x = $a, f($a)", a=1) == (
        "SELECT (SELECT $value_1) FROM t JOIN f(1) ON x = $value_1, f(1)"
    )
    assert placed("FROM m(TABLE(SELECT $a), timeout => $a, c(x => $a))", a=1) == "FROM m(TABLE(SELECT $value_1), timeout => 1, c(x => 1))"
    assert placed("SET x = $a", a="y") == "SET x = 'y'"
    with pytest.raises(mobula.QueryFailed, match=r"\$b"):
        placed("SELECT $b", a=1)


def test_which_statements_are_bound():
    for text in ("INSERT INTO t VALUES ($a)", "-- x\n(SELECT 1)", "create or replace table t AS SELECT $a", "FROM t"):
        assert is_bindable(text)
    for text in ("CREATE VIEW v AS SELECT 1", "CREATE EXTERNAL TABLE t", "SET a = 1", "EXPLAIN SELECT 1", "CREATE TABLE t (a INT)", ""):
        assert not is_bindable(text)


def test_arrays_of_several_dimensions(con):
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
    given = con.from_numpy(pixels)
    # As they were given, by batches and by rows, whoever makes the arrays.
    kind = "TINYINT UNSIGNED[2][3]"
    by_batch = given.map_batches(lambda batch: {"data": batch["data"][:, ::-1]}, schema={"data": kind})
    by_row = given.map(lambda row: {"data": np.array(row["data"], np.uint8)[::-1]}, schema={"data": kind})
    for rows, wanted in [(given, pixels), (by_batch, pixels[:, ::-1]), (by_row, pixels[:, ::-1])]:
        found = rows.take_batch(4)["data"]
        assert found.dtype == np.uint8 and (found == wanted).all()


def test_times_of_numpy_and_pandas_keep_their_nanoseconds(con):
    pandas = pytest.importorskip("pandas")
    time, wait = np.datetime64("2020-01-01T00:00:00.123456789"), np.timedelta64(-5, "ns")
    values = [(time, "timestamp[ns]"), (pandas.Timestamp(time), "timestamp[ns]"), ([time], "list<item: timestamp[ns]>")]
    values += [(wait, "duration[ns]"), (pandas.Timedelta(wait), "duration[ns]"), (np.datetime64("2020-01-01"), "date32[day]")]
    for value, kind in values:
        found = con.sql("SELECT $value AS v", value=value).to_arrow()["v"]
        items = con.from_items([{"v": value}, {"v": None}]).to_arrow()["v"]
        assert str(found.type) == kind and items.to_pylist()[0] == found[0].as_py()
        assert con.sql(f"SELECT {mobula.sql_text.literal(value)} AS v").take()[0]["v"] == found[0].as_py()
    assert con.sql("SELECT $value AS v", value=pandas.NaT).take() == [{"v": None}]
    for odd in (np.timedelta64(5, "M"), np.timedelta64(5), np.datetime64("20000-01-01", "us")):
        with pytest.raises(mobula.QueryFailed, match="no time that SQL has"):
            con.sql("SELECT $value", value=odd).take()


def test_rows_of_this_process_are_not_read_as_something_else(con):
    pandas = pytest.importorskip("pandas")
    day = datetime.date(2020, 1, 1)
    for items in ([day, 1], [{"d": day}, {"d": np.int64(1)}], [{"d": [day, 1]}]):
        with pytest.raises(mobula.QueryFailed, match="among dates or times"):
            con.from_items(items)
    for items in ([{"a": 1, "b": 1}, {"a": 2, "b": "x"}], [{"b": 1}, {"b": [1]}]):
        with pytest.raises(mobula.QueryFailed, match='the values of "b" have no type of Arrow in common.*They are int, (list|str)'):
            con.from_items(items)
    with pytest.raises(mobula.QueryFailed, match="among dates or times"):
        con.sql("SELECT $value", value=[day, 1]).take()
    with pytest.raises(mobula.QueryFailed, match="periods.*to_timestamp"):
        con.from_pandas(pandas.DataFrame({"p": pandas.period_range("2020", periods=2)})).take()
    made = con.from_numpy({"t": np.array(["a\0b"]), "b": np.array([7], ">i4"), "m": np.array([[7, 8]], ">f8")})
    assert made.take() == [{"t": "a\0b", "b": 7, "m": [7.0, 8.0]}]


def test_rows_are_those_of_when_they_were_given(con):
    pandas = pytest.importorskip("pandas")
    numbers, frame = np.zeros(2), pandas.DataFrame({"x": [1, 2]})
    of_array, of_dict, of_frame = con.from_numpy(numbers), con.from_numpy({"x": numbers}), con.from_pandas(frame)
    numbers[:], frame["x"] = 7, 9
    frame.iloc[0, 0] = 8
    assert of_array.sum("data") == of_dict.sum("x") == 0 and of_frame.sum("x") == 3


@pytest.mark.parametrize(
    ("items", "kind"),
    [
        ([2**63, None], "uint64"),
        ([None, 2**64 - 1, 1], "uint64"),
        ([np.uint64(2**63), None], "uint64"),
        ([[2**63, None], [1], None], "list<element: uint64>"),
        ([[np.array(2**63, "u8")]], "list<element: uint64>"),
        ([2**63, -1, None], "decimal128(19, 0)"),
        ([2**70, None], "decimal128(22, 0)"),
        ([-(2**63), None], "int64"),
    ],
    ids=str,
)
def test_large_numbers_keep_their_digits(con, items, kind):
    for rows in (con.from_items(items), con.from_items([{"item": item} for item in items])):
        assert str(rows.schema().field("item").type) == kind and rows.take() == [{"item": item} for item in items]


def test_large_numbers_inside_and_in_arrays(con):
    assert con.from_items([{"x": {"a": 2**63}}, {"x": None}]).take() == [{"x": {"a": 2**63}}, {"x": None}]
    made = con.from_numpy({"a": np.array([2**63, None], object)})
    assert str(made.schema().field("a").type) == "uint64" and made.take() == [{"a": 2**63}, {"a": None}]


def test_arrays_in_items_and_values(con):
    items = [np.array([np.array(1.5), None], object), np.ones((2, 2)), np.array(1.5), np.array([1.5])]
    for value, wanted in zip(items, ([1.5, None], [[1.0, 1.0]] * 2, 1.5, [1.5])):
        assert con.from_items([{"v": value}]).take() == con.sql("SELECT $value AS v", value=value).take() == [{"v": wanted}]


def test_items_keep_their_times(con):
    pandas = pytest.importorskip("pandas")
    stamp, wait = pandas.Timestamp("2020-01-01 00:00:00.123456789"), pandas.Timedelta(5, "ns")
    rows = con.from_items([{"x": {"t": stamp, "w": [wait]}, "n": None}, {"x": None, "n": 1}])
    assert rows.take() == [{"x": {"t": stamp, "w": [wait]}, "n": None}, {"x": None, "n": 1}]
    day, noon = datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1, 12)
    for items, said in [([day, noon], "no time of day"), ([{"x": [day, 1]}], "1 stands among"), ([datetime.time(1, tzinfo=datetime.timezone.utc)], "has a zone")]:
        with pytest.raises(mobula.QueryFailed, match=said):
            con.from_items(items)
    assert con.from_items([day, datetime.datetime(2020, 1, 2)]).count() == 2
    assert con.sql("SELECT INTERVAL '1 day' AS x").map(lambda row: {"x": np.str_("a")}).take() == [{"x": "a"}]
