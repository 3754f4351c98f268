"""What user code gives: memory that it uses again, values of numpy and pandas, records as rows."""

import dataclasses
import datetime
import typing

import pytest

import mobula

DAY = datetime.date(2020, 1, 1)
NOON = datetime.datetime(2020, 1, 1, 12)
NAN = float("nan")


def once(con, value, schema=None):
    """What comes back of one row with this value; its type is learned where none is said."""
    [row] = con.range(1).map(lambda row: {"v": value}, schema=schema and {"v": schema}).take()
    return row["v"]


def learned(con, value):
    return str(con.range(1).map(lambda row: {"v": value}).schema().field("v").type)


def test_views_of_memory_are_read_when_they_are_given(con):
    np = pytest.importorskip("numpy")

    class Again:
        def __init__(self):
            self.bytes, self.number, self.dict = bytearray(1), np.array(0), {"k": 0}

        def __call__(self, row):
            self.bytes[0] = row["id"]
            self.number[...] = row["id"]
            self.dict["k"] = row["id"]
            return {"b": memoryview(self.bytes), "n": self.number, "d": self.dict.values()}

    class Several(Again):
        def __call__(self, row):
            yield super().__call__(row)

    wanted = [{"b": bytes([n]), "n": n, "d": [n]} for n in range(20)]
    schema = {"b": bytes, "n": int, "d": list[int]}
    for more in ({}, {"on_error": "drop"}, {"retry_exceptions": "KeyError"}):
        assert sorted(con.range(20).map(Again, schema=schema, **more).take_all(), key=lambda row: row["n"]) == wanted
        assert sorted(con.range(20).flat_map(Several, schema=schema, **more).take_all(), key=lambda row: row["n"]) == wanted


def test_an_array_without_dimensions_is_read_at_each_call(con):
    pytest.importorskip("numpy")
    body = "import numpy as np\nkept = np.array(0)\ndef kept_number(x):\n    kept[...] = x\n    return kept"
    con.execute(f"CREATE OR REPLACE TEMP FUNCTION kept_number(x BIGINT) RETURNS BIGINT LANGUAGE python AS $${body}$$")
    got = con.sql("SELECT * FROM map(TABLE(SELECT value AS x FROM generate_series(1, 50) AS s(value)), kept_number)").take_all()
    assert sorted(row["kept_number"] for row in got) == list(range(1, 51))


class Tensor:
    """What torch has, as far as it is asked for."""

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.array


def test_arrays_without_dimensions_are_single_values(con):
    np = pytest.importorskip("numpy")
    single = np.array(1.5)
    for value, wanted, kind in [
        (single, 1.5, "DOUBLE"),
        ([single, 2.0], [1.5, 2.0], "DOUBLE[]"),
        ([[single]], [[1.5]], "DOUBLE[][]"),
        ({"x": single}, {"x": 1.5}, "STRUCT<x DOUBLE>"),
        (np.array([single, None], object), [1.5, None], "DOUBLE[]"),
        ([np.array("a")], ["a"], "VARCHAR[]"),
        ([np.array(True)], [True], "BOOLEAN[]"),
        (np.array(7, ">i4"), 7, "INT"),
        ([np.array(NOON, "M8[us]")], [NOON], "TIMESTAMP(6)[]"),
        ([np.array(DAY, "M8[D]")], [DAY], "DATE[]"),
        ({"d": np.datetime64(DAY, "M")}, {"d": DAY}, "STRUCT<d DATE>"),
    ]:
        assert once(con, value) == wanted and once(con, value, kind) == wanted
        for operator in (con.range(1).flat_map, lambda code, schema: con.range(1).map_batches(code, batch_format="rows", schema=schema)):
            assert operator(lambda _: [{"v": value}], schema={"v": kind}).take() == [{"v": wanted}]
    masked = np.ma.masked_array(1.5, mask=True)
    assert once(con, masked, "DOUBLE") is None and once(con, [masked, 1], "DOUBLE[]") == [None, 1.0]
    for value, kind in [(np.array(1.5), "BIGINT"), ([np.array(1.5)], "BIGINT[]"), (np.array(1.5), "DOUBLE[]"), (np.array("1"), "BIGINT")]:
        with pytest.raises(mobula.FunctionFailed, match="is declared|not a whole number|that are not list|truncated"):
            once(con, value, kind)


def test_what_new_lists_hold_is_read_when_it_is_given(con):
    np = pytest.importorskip("numpy")

    class Again:
        def __init__(self):
            self.kept, self.tensor = np.array(0), Tensor(np.array(0))

        def __call__(self, row):
            self.kept[...] = self.tensor.array[...] = row["id"]
            objects = np.array([self.kept, None], object)
            return {"a": self.tensor, "b": [1, self.kept], "c": {"x": self.kept}, "d": [self.tensor], "e": objects, "f": [[self.kept]]}

    class Several(Again):
        def __call__(self, row):
            yield super().__call__(row)

    schema = {"a": int, "b": list[int], "c": {"x": int}, "d": list[int], "e": list[int], "f": list[list[int]]}
    wanted = [{"a": n, "b": [1, n], "c": {"x": n}, "d": [n], "e": [n, None], "f": [[n]]} for n in range(20)]
    for more in ({}, {"on_error": "drop"}, {"retry_exceptions": "KeyError"}):
        assert sorted(con.range(20).map(Again, schema=schema, **more).take_all(), key=lambda row: row["a"]) == wanted
        assert sorted(con.range(20).flat_map(Several, schema=schema, **more).take_all(), key=lambda row: row["a"]) == wanted


@pytest.mark.parametrize(
    ("time", "kind"),
    [(DAY, "DATE"), (NOON, "TIMESTAMP(6)"), (NOON, "TIMESTAMP(9) WITH TIME ZONE"), (NOON.time(), "TIME"), (NOON - NOON, "DURATION")],
)
def test_numbers_are_no_times(con, time, kind):
    for number in (1, 1.5, True):
        for schema in (None, kind + "[]"):
            with pytest.raises(mobula.FunctionFailed, match=f"{number!r} is of type {type(number).__name__}|Expected integer"):
                once(con, [time, number], schema)
        for rows in ([time, number], [number, time], [number]):
            with pytest.raises(mobula.FunctionFailed, match="is of type|is declared|Expected integer"):
                con.range(len(rows)).map(lambda row: {"v": rows[row["id"]]}, schema={"v": kind}).take()
    with pytest.raises(mobula.FunctionFailed, match="1 is of type int"):
        con.range(2).map(lambda row: {"v": 1 if row["id"] else time}).take()


def test_times_of_numpy_in_lists(con):
    np = pytest.importorskip("numpy")
    for unit, kind in (("D", "DATE[]"), ("M", "DATE[]"), ("s", "TIMESTAMP(6)[]"), ("ns", "TIMESTAMP(9)[]")):
        array = np.array(["2020-01-01"], f"M8[{unit}]")
        wanted = [DAY] if kind == "DATE[]" else [datetime.datetime(2020, 1, 1)]
        assert once(con, array) == wanted and once(con, array, kind) == wanted
    masked = np.ma.array(np.array(["2020-01-01", "2020-01-02"], "M8[s]"), mask=[False, True])
    for kind, first in (("DATE[]", DAY), ("TIMESTAMP(9)[]", NOON.replace(hour=0)), ("TIMESTAMP(9) WITH TIME ZONE[]", None)):
        got = once(con, masked, kind)
        assert got[1] is None and (first is None or got[0] == first)
    with pytest.raises(mobula.FunctionFailed, match="more digits"):
        once(con, np.array(["2020-01-01T00:00:00.5"], "M8[ms]"), "TIMESTAMP(0)[]")
    for unit in ("D", "h", "ms"):
        hours = np.array([24], "m8[h]").astype(f"m8[{unit}]")
        assert once(con, hours) == once(con, hours, "DURATION[]") == [datetime.timedelta(days=1)]


def test_arrays_inside_and_out(con):
    np = pytest.importorskip("numpy")
    square = np.array([[1.5, 2.5], [3.5, 4.5]], "f4")
    assert once(con, {"a": square}) == {"a": square.tolist()} and learned(con, {"a": square}) == "struct<a: list<item: list<item: float>>>"
    assert once(con, [square]) == [square.tolist()]
    assert once(con, np.zeros((0, 3))) == [] and once(con, np.zeros((3, 0))) == [[], [], []]
    for big in (np.array([1, 2], ">i4"), np.array([[1, 2]], ">f8")):
        assert once(con, big) == big.tolist() and once(con, {"a": big}) == {"a": big.tolist()}
    assert con.range(1).map_batches(lambda batch: {"v": batch["id"].astype(">i4") + 7}).take() == [{"v": 7}]
    texts = con.range(1).map_batches(lambda batch: {"t": np.array(["a\0b"]), "b": np.array([b"a\0b"])})
    assert texts.take() == [{"t": "a\0b", "b": b"a\0b"}]


def test_tensors_of_torch_are_arrays(con):
    np = pytest.importorskip("numpy")
    for value in ([1.5, 2.5], [[1.5], [2.5]], 1.5):
        tensor = Tensor(np.array(value, "f4"))
        assert once(con, tensor) == value and once(con, {"a": tensor}) == {"a": value}
    assert once(con, Tensor(np.array([1.5])), list[float]) == [1.5] and once(con, Tensor(np.array(1.5)), float) == 1.5


def test_large_numbers_inside(con):
    assert learned(con, [1, 2**63]) == "list<item: uint64>" and once(con, [1, 2**63]) == [1, 2**63]
    assert once(con, {"a": 2**64 - 1, "b": -1}) == {"a": 2**64 - 1, "b": -1}
    assert once(con, [2**63, -1]) == [2**63, -1] and once(con, [2**70]) == [2**70]


def test_what_means_missing(con):
    pandas = pytest.importorskip("pandas")
    made = con.range(2).map(lambda row: {"n": pandas.NA if row["id"] else 1, "t": pandas.NaT if row["id"] else NOON, "l": [pandas.NA, 1]})
    assert sorted(made.take(), key=lambda row: row["n"] is None) == [{"n": 1, "t": NOON, "l": [None, 1]}, {"n": None, "t": None, "l": [None, 1]}]


def test_only_none_has_the_type_that_came_in(con):
    given = con.sql("SELECT CAST([NULL] AS DATE[]) AS l, named_struct('n', CAST(NULL AS DATE), 'l', CAST([] AS INT[])) AS s")
    made = given.map(lambda row: row)
    assert made.schema() == given.schema() and made.take() == [{"l": [None], "s": {"n": None, "l": []}}]


def test_pandas(con):
    pandas = pytest.importorskip("pandas")
    given = con.sql("SELECT named_struct('t', TIMESTAMP '2020-01-01 00:00:00.123456789') AS s, [named_struct('d', now() - now())] AS l")
    made = given.map_batches(lambda frame: frame.assign(n=[frame["s"][0]["t"].nanosecond], d=[str(frame["l"][0][0]["d"])]), batch_format="pandas")
    [row] = made.take()
    assert row["n"] == 789 and row["s"]["t"].nanosecond == 789 and row["d"] == "0 days 00:00:00"
    periods = pandas.Series(pandas.period_range("2020-01", periods=1, freq="M"))
    for schema in (None, {"v": int}, {"v": str}):
        with pytest.raises(mobula.FunctionFailed, match="period.*to_timestamp"):
            con.range(1).map_batches(lambda frame: pandas.DataFrame({"v": periods}), batch_format="pandas", schema=schema).take()
        with pytest.raises(mobula.FunctionFailed, match="period.*to_timestamp"):
            con.range(1).map_batches(lambda batch: {"v": periods}, schema=schema).take()
    texts = con.range(1).map_batches(lambda frame: pandas.DataFrame({"v": periods.astype(str)}), batch_format="pandas")
    assert texts.take() == [{"v": "2020-01"}]


def shown(rows):
    """Of these rows a text, in which NaN is equal to NaN and zones are seen."""
    return sorted(map(repr, rows))


@pytest.mark.parametrize("batch_format", ["pandas", "numpy", "polars", "rows"])
def test_nan_and_null_inside_stay_apart(con, batch_format):
    pytest.importorskip("numpy" if batch_format == "rows" else batch_format)
    nan = "CAST('NaN' AS DOUBLE)"
    given = con.sql(
        f"SELECT [{nan}, NULL, 1.5] AS l, [{nan}, 1.5] AS n, named_struct('x', {nan}, 'y', CAST(NULL AS DOUBLE)) AS s, [[{nan}, NULL]] AS m,"
        f" named_struct('l', [{nan}, NULL]) AS sl, [named_struct('x', {nan}), NULL] AS ls, [9007199254740993, NULL] AS i"
    )
    wanted = given.take()
    assert shown(wanted) == shown([{
        "l": [NAN, None, 1.5], "n": [NAN, 1.5], "s": {"x": NAN, "y": None}, "m": [[NAN, None]],
        "sl": {"l": [NAN, None]}, "ls": [{"x": NAN}, None], "i": [9007199254740993, None],
    }])  # fmt: skip
    # Types that are learned are those that came in, but for the names inside of lists.
    for schema in (None, given.schema()):
        made = given.map_batches(lambda batch: batch, batch_format=batch_format, schema=schema)
        assert shown(made.take()) == shown(wanted) and [str(kind) for kind in made.schema().types] == [str(kind) for kind in given.schema().types]


def test_nan_in_what_pandas_gives(con):
    pandas, np = pytest.importorskip("pandas"), pytest.importorskip("numpy")

    def frame(value):
        return lambda _: pandas.DataFrame({"v": pandas.Series([value, None], dtype=object), "n": [0, 1]})

    for value, kind in [
        ([NAN, None, 1.5], "DOUBLE[]"),
        ({"x": NAN, "y": None}, "STRUCT<x DOUBLE, y DOUBLE>"),
        ([{"x": NAN}], "STRUCT<x DOUBLE>[]"),
        ([[NAN, None]], "DOUBLE[][]"),
    ]:
        made = con.range(1).map_batches(frame(value), batch_format="pandas", schema={"v": kind, "n": int})
        assert shown(made.select_columns(["v"]).take()) == shown([{"v": value}, {"v": None}])
    array = np.array([NAN, 1.5])
    for code in (frame(array), lambda _: {"v": pandas.Series([array, NAN]), "n": [0, 1]}):
        made = con.range(1).map_batches(code, batch_format="pandas")
        assert shown(made.select_columns(["v"]).take()) == shown([{"v": [NAN, 1.5]}, {"v": None}])
    # As a value of a column of a numpy type it is missing.
    assert con.range(1).map_batches(lambda _: pandas.DataFrame({"v": [NAN, 1.5]}), batch_format="pandas").take() == [{"v": None}, {"v": 1.5}]
    numbers = con.range(1).map_batches(lambda _: pandas.DataFrame({"v": pandas.Series([2**63, None], dtype=object)}), batch_format="pandas")
    assert str(numbers.schema().field("v").type) == "uint64" and shown(numbers.take()) == shown([{"v": 2**63}, {"v": None}])


@pytest.mark.parametrize("unit", ["Microsecond", "Nanosecond"])
def test_times_inside_keep_their_zone_in_pandas(con, unit):
    pandas = pytest.importorskip("pandas")
    time = f"""arrow_cast('2020-01-01T00:00:00Z', 'Timestamp({unit}, Some("Europe/Berlin"))')"""
    given = con.sql(f"SELECT [{time}, NULL] AS l, [[{time}]] AS m, named_struct('l', [{time}]) AS s, [named_struct('t', {time})] AS ls")
    seen = given.map_batches(lambda frame: pandas.DataFrame({"t": [str(frame["l"][0][0]), str(frame["m"][0][0][0])]}), batch_format="pandas")
    assert seen.take() == [{"t": "2020-01-01 01:00:00+01:00"}] * 2
    for schema in (None, given.schema()):
        made = given.map_batches(lambda frame: frame, batch_format="pandas", schema=schema)
        [row] = made.take()
        for found in (row["l"][0], row["m"][0][0], row["s"]["l"][0], row["ls"][0]["t"]):
            assert found.isoformat() == "2020-01-01T00:00:00+00:00"
        assert row["l"][1] is None and all("tz=+00:00" in str(kind) for kind in made.schema().types)
    noon = NOON.replace(tzinfo=datetime.timezone.utc)
    made = con.range(1).map_batches(lambda _: pandas.DataFrame({"v": [[noon, None]]}), batch_format="pandas", schema={"v": "TIMESTAMP(6) WITH TIME ZONE[]"})
    assert made.take() == [{"v": [noon, None]}]


def test_columns_of_null_are_passed_on(con):
    given = con.sql("SELECT NULL AS a, 1 AS b, [] AS l, [NULL] AS n, named_struct('x', NULL) AS s")
    wanted = [{"a": None, "b": 1, "l": [], "n": [None], "s": {"x": None}}]
    made = [given.map(lambda row: row), given.map(lambda row: row, on_error="drop"), given.flat_map(lambda row: [row])]
    made += [given.map_batches(lambda batch: batch, batch_format=name) for name in ("numpy", "pandas", "pyarrow", "rows")]
    for one in made:
        assert one.take() == wanted and one.schema() == given.schema()
    assert given.limit(0).map(lambda row: row).schema() == given.schema()
    both = con.from_items([{"a": None, "b": 1}]).map(lambda row: row).union(con.from_items([{"a": 7, "b": 2}]))
    assert both.sort("b").take() == [{"a": None, "b": 1}, {"a": 7, "b": 2}]
    # A type that nobody said is still to be said, and that of NULL holds nothing else.
    for code in (lambda row: {"c": None}, lambda row: {"b": 1, "c": row["a"]}, lambda row: {"a": []}):
        with pytest.raises(mobula.CodeRefused, match="its type is not known"):
            given.map(code).take()
    rows = con.range(200).with_column("a", "NULL").repartition(1)
    with pytest.raises(mobula.FunctionFailed, match="int64, but null is declared"):
        rows.map(lambda row: {"a": None if row["id"] < 150 else 1}).take_all()


@dataclasses.dataclass
class Point:
    x: int
    tags: list[str]


class Named(typing.NamedTuple):
    x: int
    tags: list[str]


@pytest.mark.parametrize("kind", [Point, Named])
def test_records_are_rows(con, kind):
    async def later(row):
        return kind(row["id"], ["a"])

    def several(row):
        yield kind(row["id"], ["a"])

    wanted = [{"x": 0, "tags": ["a"]}, {"x": 1, "tags": ["a"]}]
    for more in ({}, {"schema": {"x": int, "tags": list[str]}}, {"on_error": "drop"}, {"retry_exceptions": "KeyError"}):
        made = [
            con.range(2).map(lambda row: kind(row["id"], ["a"]), **more),
            con.range(2).map(later, **more),
            con.range(2).flat_map(lambda row: [kind(row["id"], ["a"])], **more),
            con.range(2).flat_map(several, **more),
            con.range(2).map_batches(lambda rows: [kind(row["id"], ["a"]) for row in rows], batch_format="rows", **more),
        ]
        for one in made:
            assert sorted(one.take(), key=lambda row: row["x"]) == wanted
    for schema in (None, {"x": int, "tags": list[str]}):
        with pytest.raises(mobula.FunctionFailed, match=f"returned a {kind.__name__} for a row. Return a list of dicts"):
            con.range(2).flat_map(lambda row: kind(row["id"], ["a"]), schema=schema).take()
    with pytest.raises(mobula.FunctionFailed, match="keys x, tags"):
        con.range(2).map(lambda row: kind(1, []), schema={"y": int}).take()


def test_where_all_first_rows_fail_the_columns_are_to_be_said(con):
    for mode in ("null", "drop"):
        for operator in (con.range(3).map, con.range(3).flat_map, con.range(3).map_batches):
            with pytest.raises(mobula.FunctionFailed, match="division by zero.*schema="):
                operator(lambda given: 1 / 0, on_error=mode).take()
    assert con.range(3).map(lambda row: 1 / 0, on_error="null", schema={"v": int}).take() == [{"v": None}] * 3
