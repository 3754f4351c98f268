"""Rows that are kept: computed once, cut into parts, and gone with their datasets."""

import gc
import os

import pyarrow
import pytest

import mobula


def ids(dataset):
    return [row["id"] for row in dataset.take_all()]


@pytest.fixture
def kept(con):
    """Lists the tables and directories of rows that are kept."""

    def listed():
        gc.collect()
        # A table goes before the statement that comes next.
        con.sql("SELECT 1 AS one").take()
        tables = [row["name"] for row in con.sql("SELECT DISTINCT name FROM system.temporary_tables").take_all()]
        entries = (entry for entry in os.scandir(con._engine.directory) if entry.is_dir() and len(entry.name) == 32)
        return tables + [entry.name for entry in entries]

    assert listed() == []
    return listed


def test_rows_are_computed_once(con, kept):
    drawn = con.range(1_000).with_column("x", "random()")
    few = drawn.materialize()
    assert few.sum("x") == few.sum("x") != drawn.sum("x")
    assert few.schema() == drawn.schema() and few.count() == 1_000
    # As a relation, and below user code.
    assert con.sql("SELECT count(*) AS n FROM few WHERE id < 10", few=few).take() == [{"n": 10}]
    assert sorted(ids(few.filter(lambda row: row["id"] < 3))) == [0, 1, 2]
    assert len(kept()) == 1
    derived = few.limit(5)
    del few
    assert derived.count() == 5 and len(kept()) == 1
    del derived
    assert kept() == []


def test_rows_are_there_while_they_are_read(con, kept):
    rows = con.range(200_000).materialize().iter_batches(batch_size=1_000)
    assert len(next(rows)["id"]) == 1_000 and len(kept()) == 1
    assert sum(len(batch["id"]) for batch in rows) == 199_000
    reader = con.range(200_000).materialize().to_arrow_reader()
    assert sum(batch.num_rows for batch in reader) == 200_000
    del reader, rows
    assert kept() == []


def test_no_rows_have_columns(con):
    nothing = con.range(10).with_column("text", "'x'").filter(expr="id > 10")
    assert nothing.materialize().columns() == ["id", "text"] and nothing.materialize().take() == []
    parts = nothing.split(2)
    assert [part.columns() for part in parts] == [["id", "text"]] * 2 and ids(parts[0]) == []


def test_a_failure_keeps_nothing(con, kept):
    broken = con.range(10).map(lambda row: {"v": 1 // (row["id"] - 9)}, schema={"v": int})
    for run in (broken.materialize, lambda: broken.split(2), lambda: broken.train_test_split(0.5)):
        with pytest.raises(mobula.FunctionFailed, match="ZeroDivisionError"):
            run()
        assert kept() == []


@pytest.mark.parametrize("n_rows", [0, 2, 3, 100_001])
@pytest.mark.parametrize("equal", [False, True])
def test_split(con, n_rows, equal):
    rows = con.range(n_rows) if n_rows else con.range(1).limit(0)
    parts = rows.split(3, equal=equal)
    sizes = [part.count() for part in parts]
    assert sum(sizes) == (n_rows // 3 * 3 if equal else n_rows) and max(sizes) - min(sizes) <= (0 if equal else 1)
    found = [one for part in parts for one in ids(part)]
    assert len(set(found)) == len(found) and set(found) <= set(range(n_rows))


def test_split_at_indices_keeps_order(con):
    rows = con.range(200_000).sort("id", descending=True)
    parts = rows.split_at_indices([0, 10, 10, 150_000, 300_000])
    assert [part.count() for part in parts] == [0, 10, 0, 149_990, 50_000, 0]
    assert (parts[1].min("id"), parts[3].min("id"), parts[4].max("id")) == (199_990, 50_000, 49_999)


def test_train_test_split(con):
    rows = con.range(100).sort("id")
    train, test = rows.train_test_split(0.25)
    assert sorted(ids(train)) == list(range(75)) and sorted(ids(test)) == list(range(75, 100))
    train, test = rows.train_test_split(30, shuffle=True)
    assert test.count() == 30 and sorted(ids(train) + ids(test)) == list(range(100))
    assert sorted(ids(test)) != list(range(70, 100))
    again = rows.train_test_split(30, shuffle=True, seed=3)[1], rows.repartition(4).train_test_split(30, shuffle=True, seed=3)[1]
    assert sorted(ids(again[0])) == sorted(ids(again[1]))


def test_types_come_back(con):
    table = pyarrow.table({"a": [[1], None], "b": [{"x": 1.5}, {"x": None}], "c": [None, b"\x00"], "d": ["ä", ""]})
    rows = con.from_arrow(table).materialize()
    assert rows.sort("d").to_arrow().to_pylist() == table.to_pylist()[::-1]


@pytest.mark.parametrize(
    "call",
    [
        lambda rows: rows.split(0),
        lambda rows: rows.split_at_indices([]),
        lambda rows: rows.split_at_indices([3, 2]),
        lambda rows: rows.split_at_indices([-1]),
        lambda rows: rows.train_test_split(1.5),
        lambda rows: rows.train_test_split(0),
        lambda rows: rows.train_test_split(11),
    ],
)
def test_what_makes_no_sense_is_a_value_error(con, call):
    with pytest.raises(ValueError):
        call(con.range(10))
