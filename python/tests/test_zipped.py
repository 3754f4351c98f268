"""Rows of several datasets side by side, by the places that they have."""

import pandas
import pyarrow
import pytest

import mobula


def test_rows_of_this_process_have_places(con):
    n = 400_000
    # More than one part of a file, which tasks read as they like.
    frame = pandas.DataFrame({"id": range(n, 0, -1), "half": [i / 2 for i in range(n)]})
    zipped = con.from_pandas(frame).zip(con.range(n), con.from_arrow(pyarrow.table({"id": range(n)})))
    assert zipped.columns() == ["id", "half", "id_1", "id_2"]
    wrong = zipped.filter(expr=f"id + id_1 <> {n} OR half * 2 <> id_1 OR id_2 <> id_1")
    assert (zipped.count(), wrong.count()) == (n, 0)
    assert "zip" in repr(zipped)


def test_sorted_and_shuffled_rows_have_places(con):
    n = 1_200_000
    rows = con.range(n).with_column("k", f"(id * 7919) % {n}").repartition(5)
    # By keys that differ, in both directions: `k` is a permutation.
    up, down = rows.sort("k"), rows.sort("k", descending=True).select_columns("k").rename_columns({"k": "l"})
    zipped = up.zip(down)
    assert zipped.filter(expr=f"k + l <> {n - 1}").count() == 0 and zipped.count() == n
    shuffled = rows.random_shuffle(seed=5)
    twice = shuffled.drop_columns("k").zip(shuffled.with_column("m", "k + 1"))
    assert twice.columns() == ["id", "id_1", "k", "m"]
    assert twice.filter(expr="id = id_1 AND m = k + 1").count() == n


def test_places_are_those_of_plain_python(con):
    rows = con.range(5000).with_column("k", "id % 7").repartition(4)
    # Keys that are equal: by the other columns.
    listed = sorted(({"id": i, "k": i % 7} for i in range(5000)), key=lambda row: (-row["k"], row["id"]))
    side = rows.sort("k", descending=True)
    kept = [row for row in listed if row["id"] % 3 == 0][:1000]
    zipped = con.range(1000).rename_columns(["place"]).zip(side.filter(expr="id % 3 = 0").limit(1000))
    assert zipped.sort("place").take_all() == [{"place": place, **row} for place, row in enumerate(kept)]
    drawn = rows.random_shuffle(seed=9).take_all()
    zipped = con.range(5000).rename_columns(["place"]).zip(rows.random_shuffle(seed=9)).limit(30)
    again = con.range(30).rename_columns(["n"]).zip(zipped)
    assert again.sort("n").take_all() == [{"n": n, "place": n, **row} for n, row in enumerate(drawn[:30])]


def test_functions_come_behind_a_zip(con):
    zipped = con.from_items([{"a": i} for i in range(100)]).zip(con.range(100))
    doubled = zipped.map_batches(lambda batch: {"sum": batch["a"] + batch["id"]})
    assert doubled.sort("sum").take(3) == [{"sum": 0}, {"sum": 2}, {"sum": 4}]
    below = con.range(100).map_batches(lambda batch: {"b": batch["id"] * 3}).sort("b").zip(con.range(100))
    assert below.filter(expr="b <> id * 3").count() == 0

    @mobula.func
    def third(x: int) -> bool:
        return x % 3 == 0

    assert con.range(99).filter(expr="third(id)").zip(con.range(33)).filter(expr="id <> id_1 * 3").count() == 0


def test_sides_of_several_lengths(con):
    second, first = "row 1[12] of the second one", "row 1[12] of the first one"
    for left, right, why in [(10, 12, second), (12, 10, first), (0, 1, "row 1 of the second one")]:
        zipped = con.range(left).zip(con.range(right))
        for read in (zipped.take_all, zipped.count, lambda: zipped.sort("id").take(1)):
            with pytest.raises(mobula.QueryFailed, match=why):
                read()
    assert con.range(0).zip(con.range(0)).take_all() == []
    # Nulls are rows as others.
    assert con.from_items([{"a": None}, {"a": 1}]).zip(con.range(2)).sort("id").take() == [{"a": None, "id": 0}, {"a": 1, "id": 1}]


def test_rows_without_places_are_refused(con, tmp_path):
    numbers = con.range(10)
    numbers.write_parquet(tmp_path / "rows.parquet")
    for rows in [
        con.read_parquet(tmp_path / "rows.parquet"),
        con.sql("SELECT * FROM numbers ORDER BY id", numbers=numbers),
        numbers.map_batches(lambda batch: batch),
        numbers.materialize(),
        numbers.random_shuffle(),
        numbers.random_sample(0.5, seed=1),
        numbers.union(numbers),
        numbers.join(numbers, on="id"),
        numbers.repartition(2),
        numbers.groupby("id").count().select_columns("id"),
        numbers.sort("id").filter(lambda row: True),
    ]:
        for sides in ((rows, numbers), (numbers, rows)):
            with pytest.raises(mobula.NotSupported, match="rows have no places behind .*join by a column"):
                sides[0].zip(sides[1])
        rows.sort("id").zip(numbers)
    assert numbers.zip().take_all() == numbers.take_all()


def test_a_stream_is_read_once(con):
    def stream(n):
        return pyarrow.table({"a": list(range(n))}).to_reader()

    rows = con.from_arrow(stream(10))
    zipped = rows.zip(rows, con.range(10))
    assert zipped.filter(expr="a = a_1 AND a = id").count() == 10 and rows.count() == 10 and rows.columns() == ["a"]
    rows = con.from_arrow(stream(10))
    assert rows.count() == 10
    with pytest.raises(mobula.QueryFailed, match="came from a stream|was read before"):
        rows.zip(con.range(10)).count()
    # What can be read again is.
    rows = con.from_items([1, 2])
    assert rows.count() == 2 and rows.zip(con.range(2)).count() == 2
