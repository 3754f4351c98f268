"""What types are found where nobody says them, and that they hold for the rows that come later."""

import asyncio
import datetime
import decimal

import pyarrow as pa
import pytest

import mobula


def types(dataset):
    schema = dataset.schema()
    return dict(zip(schema.names, map(str, schema.types)))


def same(row):
    return row


def test_columns_that_came_in_keep_their_types(con):
    given = con.sql(
        "SELECT CAST(value AS DECIMAL(20, 2)) AS d, now() AS t, CAST(NULL AS DATE) AS n, arrow_cast([value], 'FixedSizeList(1, Int64)') AS f, "
        "now() - now() AS w, CAST('2020-01-01' AS TIMESTAMP(3)) AS ms FROM generate_series(1, 200000) AS s(value)"
    )
    made = given.map(same)
    assert types(made) == {
        "d": "decimal128(38, 2)",
        "t": "timestamp[ns]",
        "n": "date32[day]",
        "f": "fixed_size_list<item: int64>[1]",
        "w": "duration[ns]",
        "ms": "timestamp[ms]",
    }
    # Beyond the first rows the digits of the first are too few.
    assert made.sum("d") == decimal.Decimal(200000 * 200001 // 2)
    assert made.sort("d", descending=True).select_columns(["d", "n"]).take(1) == [{"d": decimal.Decimal("200000.00"), "n": None}]


@pytest.mark.parametrize("form", ["numpy", "pandas", "pyarrow"])
def test_batches_keep_them_too(con, form):
    pytest.importorskip("pandas" if form == "pandas" else "numpy")
    given = con.sql("SELECT CAST(NULL AS DATE) AS n, CAST(value AS DECIMAL(20, 2)) AS d FROM generate_series(1, 3) AS s(value)")
    made = given.map_batches(lambda batch: batch, batch_format=form)
    assert types(made) == {"n": "date32[day]", "d": "decimal128(38, 2)"}
    assert sorted(row["d"] for row in made.take()) == [1, 2, 3]


def test_arrays_of_times_keep_zone_and_unit(con):
    np = pytest.importorskip("numpy")
    given = con.sql("SELECT arrow_cast(TIMESTAMP '2020-06-01', 'Timestamp(Microsecond, Some(\"America/New_York\"))') AS z, TIMESTAMP(3) '2020-06-01' AS t")
    noon = datetime.datetime(2020, 6, 1, 4, tzinfo=datetime.timezone.utc)
    for form in ("numpy", "pyarrow"):
        made = given.map_batches(lambda batch: batch, batch_format=form)
        assert types(made) == {"z": "timestamp[us, tz=+00:00]", "t": "timestamp[ms]"}
        assert made.take(1)[0]["z"] == noon
    later = given.map_batches(lambda batch: {"t": batch["t"] + np.timedelta64(1, "us")})
    assert types(later) == {"t": "timestamp[us]"} and later.take(1)[0]["t"].microsecond == 1


def test_no_rows_have_the_columns_of_the_input(con):
    made = con.range(0).map(lambda row: {"v": row["id"]})
    assert made.take() == [] and made.columns() == ["id"]
    assert con.range(0).map_batches(lambda batch: batch).count() == 0


def test_large_numbers(con):
    made = con.range(2).map(lambda row: {"v": 2**63 + row["id"], "w": 10**30})
    assert types(made) == {"v": "uint64", "w": "decimal128(38, 0)"}
    assert sorted(row["v"] for row in made.take()) == [2**63, 2**63 + 1] and made.take(1)[0]["w"] == 10**30


def test_arrays_have_their_shape(con):
    np = pytest.importorskip("numpy")
    made = con.range(3).map(lambda row: {"image": np.full((2, 3), row["id"], dtype="u1"), "vector": np.zeros(4, dtype="f4")})
    assert types(made) == {"image": "fixed_size_list<item: fixed_size_list<item: uint8>[3]>[2]", "vector": "list<item: float>"}
    shapes = made.map_batches(lambda batch: {"dims": [batch["image"].ndim], "last": [batch["image"].shape[2]]}).take(1)
    assert shapes == [{"dims": 3, "last": 3}]


def test_rows_that_fail_are_none_where_that_is_said(con):
    def odd(row):
        if row["id"] % 2 == 0:
            raise ValueError("even")
        return {"v": row["id"]}

    made = con.range(10).map(odd, on_error="drop")
    assert sorted(row["v"] for row in made.take()) == [1, 3, 5, 7, 9]
    with pytest.raises(mobula.FunctionFailed, match="division by zero"):
        con.range(10).map(lambda row: 1 / 0, on_error="drop").take()


def test_calls_are_made_again_while_types_are_learned(con, tmp_path):
    def flaky(row):
        marks = tmp_path / str(row["id"])
        if not marks.exists():
            marks.touch()
            raise ConnectionError("not yet")
        return {"v": row["id"]}

    made = con.range(3).map(flaky, retry_exceptions="ConnectionError")
    assert sorted(row["v"] for row in made.take()) == [0, 1, 2]


def test_async_calls_share_a_loop(con):
    class Client:
        def __init__(self):
            self.loop = asyncio.get_running_loop()

        async def __call__(self, row):
            assert asyncio.get_running_loop() is self.loop
            await asyncio.sleep(0)
            return {"v": row["id"]}

    assert con.range(5).map(Client).count() == 5

    class Plain:
        async def __call__(self, row):
            await asyncio.sleep(0)
            return {"v": row["id"] + 1}

    assert sorted(row["v"] for row in con.range(3).map(Plain()).take()) == [1, 2, 3]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (lambda row: None, "returned None for a row. Return a dict"),
        (lambda row: [row], "returned a list for a row. Return a dict, or call flat_map"),
        (lambda row: {1: 2}, "key 1.*names of columns"),
        (lambda row: {"a\0": 2}, "without NUL"),
        (lambda row: {}, "without columns"),
        (lambda row: {"a": {}}, "dicts without keys"),
        (lambda row: {"a": 1} if row["id"] else {"a": 1, "b": 2}, "keys a, b and one with a. Give all rows the same keys"),
    ],
)
def test_what_cannot_be_learned_from_says_what_to_do(con, code, said):
    with pytest.raises((mobula.FunctionFailed, mobula.CodeRefused), match=said):
        con.range(2).map(code).take()


def test_types_of_arrow_and_numpy_in_a_schema(con):
    fields = {"s": pa.string(), "l": pa.list_(pa.int32()), "f": pa.list_(pa.int64(), 2), "t": pa.struct([("a", pa.int8())]), "d": {"x": int}}
    made = con.range(1).map(lambda row: {"s": "a", "l": [1], "f": [1, 2], "t": {"a": 1}, "d": {"x": 2}}, schema=fields)
    assert types(made) == {
        "s": "string",
        "l": "list<item: int32>",
        "f": "fixed_size_list<item: int64>[2]",
        "t": "struct<a: int8>",
        "d": "struct<x: int64>",
    }
    assert made.take() == [{"s": "a", "l": [1], "f": [1, 2], "t": {"a": 1}, "d": {"x": 2}}]
    np = pytest.importorskip("numpy")
    assert types(con.range(1).map(lambda row: {"v": 1}, schema={"v": np.float32})) == {"v": "float"}


def test_times_are_pythons(con):
    late = datetime.datetime(9999, 12, 31, 23, 59, 59, 999999)
    made = con.range(1).map(lambda row: {"t": late, "w": datetime.timedelta(days=40000)}, schema={"t": datetime.datetime, "w": datetime.timedelta})
    assert made.take() == [{"t": late, "w": datetime.timedelta(days=40000)}]
    twice = made.map(lambda row: {"w": row["w"] * 2, "s": row["w"].total_seconds()})
    assert twice.take() == [{"w": datetime.timedelta(days=80000), "s": 40000 * 86400.0}]

    @mobula.func
    def doubled(x: datetime.timedelta) -> datetime.timedelta:
        return [one * 2 for one in x.tolist()] if hasattr(x, "tolist") else x

    got = con.sql("SELECT doubled(TIMESTAMP '2020-01-03' - TIMESTAMP '2020-01-01') AS w, doubled(INTERVAL '2 hours') AS i", doubled=doubled)
    assert got.take() == [{"w": datetime.timedelta(days=4), "i": datetime.timedelta(hours=4)}]
    wait = datetime.timedelta(days=-1, hours=3, microseconds=5)
    assert con.sql("SELECT $wait AS w", wait=wait).take() == [{"w": wait}]
    assert con.sql("SELECT arrow_typeof(CAST(INTERVAL '1 second' AS DURATION(3))) AS k").take() == [{"k": "Duration(ms)"}]


def test_rows_are_read_when_they_are_given(con):
    class Again:
        def __init__(self):
            self.row = {"id": 0, "seen": []}

        def __call__(self, row):
            self.row["id"] = row["id"]
            self.row["seen"][:] = [row["id"]]
            return self.row

    class Twice(Again):
        def __call__(self, row):
            for n in range(2):
                self.row["id"] = n
                self.row["seen"][:] = [row["id"], n]
                yield self.row

    class Later(Again):
        async def __call__(self, row):
            await asyncio.sleep(0)
            return super().__call__(row)

    class Several(Again):
        async def __call__(self, row):
            for n in range(2):
                await asyncio.sleep(0)
                self.row["id"] = n
                self.row["seen"][:] = [row["id"], n]
                yield self.row

    once = [{"id": n, "seen": [n]} for n in range(50)]
    twice = [{"id": n, "seen": [k, n]} for k in range(50) for n in range(2)]
    by = {"key": lambda row: (row["seen"], row["id"])}
    schema = {"id": int, "seen": "BIGINT[]"}
    for more in ({}, {"on_error": "drop"}, {"retry_exceptions": "KeyError"}):
        assert sorted(con.range(50).map(Again, schema=schema, **more).take_all(), **by) == once
        assert sorted(con.range(50).flat_map(Twice, schema=schema, **more).take_all(), **by) == sorted(twice, **by)
        assert sorted(con.range(50).map(Later, schema=schema, **more).take_all(), **by) == once
    assert sorted(con.range(50).flat_map(Several, schema=schema).take_all(), **by) == sorted(twice, **by)
    assert sorted(con.range(50).map(Again).take_all(), **by) == once


def test_batches_are_read_when_they_are_given(con):
    np = pytest.importorskip("numpy")

    class Again:
        def __init__(self):
            self.values = np.zeros(1, dtype="i8")

        def __call__(self, batch):
            for value in batch["id"]:
                self.values[0] = value
                yield {"v": self.values}

    class Later(Again):
        async def __call__(self, batch):
            for value in batch["id"]:
                await asyncio.sleep(0)
                self.values[0] = value
                yield {"v": self.values}

    for code in (Again, Later):
        for more in ({}, {"on_error": "drop"}, {"retry_exceptions": "KeyError"}):
            made = con.range(50).map_batches(code, batch_size=7, schema={"v": int}, **more)
            assert sorted(row["v"] for row in made.take_all()) == list(range(50))


def test_intervals_are_no_lists(con):
    rows = con.sql("SELECT x, [x] AS xs, named_struct('x', x) AS s FROM (SELECT INTERVAL '1 month 2 days' AS x)")
    for made in (rows.map(lambda row: row), rows.map_batches(lambda batch: batch, batch_format="rows")):
        assert made.schema() == rows.schema() and made.take() == rows.take()
