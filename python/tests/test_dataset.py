"""Every step of a dataset that is SQL: the same rows as plain Python makes."""

import math
import sys
import types

import pyarrow
import pytest

import mobula

ROWS = [
    {"id": 1, "name": "ann", "price": 1.5},
    {"id": 2, "name": "bob", "price": None},
    {"id": 3, "name": "Ann", "price": 3.0},
    {"id": 4, "name": "bob", "price": 4.5},
]


@pytest.fixture
def rows(con):
    return con.from_items(ROWS)


def sorted_by_id(dataset):
    return sorted(dataset.take_all(), key=lambda row: row["id"])


def test_range(con):
    assert con.range(3).take() == [{"id": 0}, {"id": 1}, {"id": 2}]
    assert con.range(0).take_all() == [] and con.range(0).columns() == ["id"]
    assert con.range(100_000).count() == 100_000


def test_items(con, rows):
    assert sorted_by_id(rows) == ROWS
    assert con.from_items([3, 4]).take() == [{"item": 3}, {"item": 4}]


class StandIn:
    """As a dataset of Hugging Face shows itself, where that library is not installed."""

    def __init__(self, tables, schema=None):
        self.tables = tables
        self.features = schema and types.SimpleNamespace(arrow_schema=schema)

    def with_format(self, name):
        assert name == "arrow"
        return self

    def iter(self, batch_size):
        assert batch_size > 1
        return iter(self.tables)


StandIn.__module__ = "datasets.arrow_dataset"


def test_datasets_of_hugging_face(con):
    tables = [pyarrow.table({"id": [1, 2]}, metadata={"huggingface": "x"}), pyarrow.table({"id": [3]})]
    few = StandIn(tables)
    assert con.from_huggingface(few).sum("id") == 6
    assert con.sql("SELECT count(*) AS n FROM few").take() == [{"n": 3}]
    assert con.from_huggingface(StandIn([], tables[0].schema)).columns() == ["id"]
    with pytest.raises(mobula.QueryFailed, match="no columns are known"):
        con.from_huggingface(StandIn([])).count()
    with pytest.raises(TypeError, match="choose one of its splits, 'train', 'test'"):
        con.from_huggingface({"train": few, "test": few})
    with pytest.raises(TypeError, match="int is no dataset"):
        con.from_huggingface(3)


def test_a_dataset_of_hugging_face_itself(con):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"id": [*range(1000)], "text": [f"row {n}" for n in range(1000)]})
    chosen = rows.shuffle(seed=1).select(range(10))
    assert con.from_huggingface(chosen).sum("id") == sum(chosen["id"])
    assert con.from_huggingface(rows.to_iterable_dataset()).sum("id") == 499_500
    assert con.from_huggingface(rows.select([])).columns() == ["id", "text"]


def test_columns(rows):
    assert rows.select_columns(["price", "id"]).sort("id").take(1) == [{"price": 1.5, "id": 1}]
    assert rows.drop_columns("name").columns() == ["id", "price"]
    assert rows.rename_columns({"id": "Key"}).columns() == ["Key", "name", "price"]
    assert rows.rename_columns(["a", "b", "c"]).columns() == ["a", "b", "c"]
    assert rows.with_column("twice", "id * 2").sort("id").take(1)[0]["twice"] == 2
    replaced = rows.with_column("name", "upper(name)")
    assert replaced.columns() == ["id", "name", "price"]
    assert {row["name"] for row in replaced.take()} == {"ANN", "BOB"}
    with pytest.raises(mobula.QueryFailed, match="nope.*id, name, price"):
        rows.rename_columns({"nope": "x"}).take()


def test_names_keep_their_case_and_may_be_anything(con):
    odd = con.from_items([{"A b": 1, 'q"q': 2, "select": 3}])
    assert odd.select_columns(["select", 'q"q', "A b"]).take() == [{"select": 3, 'q"q': 2, "A b": 1}]
    assert odd.sort("A b").rename_columns({'q"q': "plain"}).columns() == ["A b", "plain", "select"]


def test_rows(rows):
    assert [row["id"] for row in rows.filter(expr="price > 2").sort("id").take()] == [3, 4]
    assert rows.limit(2).count() == 2 and rows.limit(0).take() == []
    assert [row["price"] for row in rows.sort("price").take()] == [1.5, 3.0, 4.5, None]
    assert [row["id"] for row in rows.sort(["name", "id"], [True, False]).take()] == [2, 4, 1, 3]
    assert [row["id"] for row in rows.sort("id", descending=True).limit(2).take()] == [4, 3]
    assert sorted(rows.unique("name")) == ["Ann", "ann", "bob"]
    assert None in rows.unique("price") and None not in rows.unique("price", ignore_nulls=True)


def test_union_goes_by_name(con, rows):
    other = con.from_items([{"price": 9.0, "id": 9}])
    made = sorted_by_id(rows.union(other))
    assert made == [*ROWS, {"id": 9, "name": None, "price": 9.0}]
    assert rows.union(rows, rows).count() == 12


def test_joins(con, rows):
    other = con.from_items([{"key": 1, "name": "uno"}, {"key": 9, "name": "nine"}])
    joined = {
        kind: rows.join(other, kind, on="id", right_on="key", right_suffix="_r").sort("id").take()
        for kind in ("inner", "left_outer", "full_outer", "right_outer", "left_semi", "left_anti", "right_anti")
        if kind != "right_anti"
    }
    one = {"id": 1, "name": "ann", "price": 1.5, "name_r": "uno"}
    assert joined["inner"] == [one]
    assert [row["name_r"] for row in joined["left_outer"]] == ["uno", None, None, None]
    assert [row["id"] for row in joined["full_outer"]] == [1, 2, 3, 4, 9]
    assert [row["id"] for row in joined["right_outer"]] == [1, 9]
    assert joined["left_semi"] == ROWS[:1] and joined["left_anti"] == ROWS[1:]
    anti = rows.join(other, "right_anti", on="id", right_on="key")
    assert anti.take() == [{"key": 9, "name": "nine"}]
    with pytest.raises(mobula.QueryFailed, match="both sides.*name"):
        rows.join(other, on="id", right_on="key").take()


def test_groups(rows):
    groups = rows.groupby("name")
    counted = {row["name"]: row["count()"] for row in groups.count().take()}
    assert counted == {"ann": 1, "Ann": 1, "bob": 2}
    summed = groups.sum(["price", "id"]).sort("name").take()
    assert summed[2] == {"name": "bob", "sum(price)": 4.5, "sum(id)": 6}
    most = groups.agg(most="max(id)", mean="avg(price)").sort("most").take()
    assert [(row["most"], row["mean"]) for row in most] == [(1, 1.5), (3, 3.0), (4, 4.5)]
    assert groups.max("id").columns() == ["name", "max(id)"]


def test_sums_of_all_rows(rows):
    assert (rows.sum("id"), rows.min("price"), rows.max("price"), rows.mean("price")) == (10, 1.5, 4.5, 3.0)
    assert math.isclose(rows.std("price"), 1.5) and math.isclose(rows.std("price", ddof=0), math.sqrt(1.5))
    assert rows.sum(["id", "price"]) == {"sum(id)": 10, "sum(price)": 9.0}
    assert rows.min(["id"]) == {"min(id)": 1} and rows.max(["id"]) == {"max(id)": 4} and rows.mean(("id",)) == {"mean(id)": 2.5}
    assert rows.std(["price"]).keys() == {"std(price)"}


def test_all_rows_as_one_group(rows):
    whole = rows.groupby(None)
    assert whole.count().take() == [{"count()": 4}] and whole.sum(["id"]).take() == [{"sum(id)": 10}]
    assert whole.agg(most="max(id)", n="count(*)").take() == [{"most": 4, "n": 4}]
    assert "groupby None" in repr(whole.mean("id"))
    with pytest.raises(ValueError, match="map_groups needs a key"):
        whole.map_groups(len)


def test_two_columns_of_one_name(rows):
    for names in ({"id": "name"}, {"id": "x", "name": "x"}, ["x", "x", "y"]):
        with pytest.raises(mobula.QueryFailed, match='rename_columns gives several columns the name "(name|x)": id, name'):
            rows.select_columns(["id", "name", "price"]).rename_columns(names).take()
    # Two that change places have two names still.
    assert rows.select_columns(["id", "name"]).rename_columns({"id": "name", "name": "id"}).columns() == ["name", "id"]


def test_what_ray_data_takes_and_nothing_needs(con, rows):
    assert [len(batch["id"]) for batch in con.range(5).iter_batches(prefetch_batches=4, batch_size=3)] == [3, 2]
    assert rows.join(con.from_items([{"id": 2}]), "inner", 8, on="id").count() == 1


@pytest.mark.parametrize("package, read", [("pandas", "to_pandas"), ("polars", "to_polars"), ("numpy", "to_numpy")])
def test_a_missing_package_is_missed_before_the_query_runs(con, monkeypatch, tmp_path, package, read):
    noted = tmp_path / "ran"

    def ran(row):
        open(noted, "w").close()
        return row

    rows = con.range(3).map(ran, schema={"id": int})
    monkeypatch.setitem(sys.modules, package, None)
    batches = [lambda: rows.take_batch(batch_format=package), lambda: next(rows.iter_batches(batch_format=package))]
    for reading in (getattr(rows, read), *batches):
        with pytest.raises(ImportError, match=f"pip install {package}"):
            reading()
    assert not noted.exists()


def test_samples_and_shuffles(con):
    numbers = con.range(10_000)
    assert 500 < numbers.random_sample(0.1).count() < 1_500
    assert numbers.random_sample(0).count() == 0 and numbers.random_sample(1.0).count() == 10_000
    shuffled = [row["id"] for row in con.range(1_000).random_shuffle().take_all()]
    assert shuffled != sorted(shuffled) == list(range(1_000))


def test_a_seed_draws_the_same_rows_however_they_come(con):
    rows = con.range(2_000).with_column("n", "id % 7")
    otherwise = con.range(2_000).sort("id", descending=True).repartition(5).with_column("n", "id % 7")

    def shuffled(made, seed):
        return [row["id"] for row in made.random_shuffle(seed=seed).take_all()]

    def sampled(made, fraction, seed=1):
        return sorted(row["id"] for row in made.random_sample(fraction, seed=seed).take_all())

    drawn = shuffled(rows, 1)
    assert drawn == shuffled(otherwise, 1) != shuffled(rows, 2)
    assert drawn != sorted(drawn) == list(range(2_000))
    sample = sampled(rows, 0.3)
    assert sample == sampled(otherwise, 0.3) != sampled(rows, 0.3, seed=2) and 500 < len(sample) < 700
    # A larger sample has the smaller one.
    assert set(sample) < set(sampled(rows, 0.5))
    assert sampled(rows, 0) == [] and sampled(rows, 1.0) == list(range(2_000))
    assert rows.random_shuffle(seed=1).columns() == ["id", "n"]


def test_functions_get_shuffled_rows(con):
    rows = con.range(20_000).repartition(3)
    drawn = [row["id"] for row in rows.random_shuffle(seed=1).take_all()]
    called = rows.random_shuffle(seed=1).select_columns("id").map_batches(lambda batch: batch, batch_size=700, preserve_order=True)
    assert [row["id"] for row in called.take_all()] == drawn
    called = rows.random_shuffle().filter(lambda row: row["id"] % 2 == 0)
    listed = [row["id"] for row in called.take_all()]
    assert sorted(listed) == list(range(0, 20_000, 2)) != listed
    # The first of them, too.
    first = rows.random_shuffle(seed=1).limit(9).map(lambda row: row, preserve_order=True)
    assert [row["id"] for row in first.take_all()] == drawn[:9]
    assert len({row["id"] for row in rows.random_shuffle().limit(9).map(lambda row: row).take_all()}) == 9
    # The same rows, for a function and not.
    shuffled = rows.random_shuffle(seed=2)
    assert shuffled.union(shuffled.map(lambda row: {"id": row["id"] + 20_000})).sum("id") == sum(range(40_000))


def test_a_local_shuffle_draws_from_what_is_held(con):
    rows = con.range(50_000).sort("id")

    def drawn(**options):
        batches = rows.iter_batches(batch_size=1_000, **options)
        return [[int(one) for one in batch["id"]] for batch in batches]

    plain, made = drawn(), drawn(local_shuffle_buffer_size=5_000, local_shuffle_seed=7)
    assert [len(batch) for batch in made] == [1_000] * 50
    assert sorted(sum(made, [])) == sum(plain, [])
    # No batch is as it came, and rows come from far: nowhere near in order.
    assert not any(batch == sorted(batch) for batch in made)
    assert max(made[0]) >= 4_000 and max(abs(place - one) for place, one in enumerate(sum(made, []))) > 5_000
    assert made == drawn(local_shuffle_buffer_size=5_000, local_shuffle_seed=7) != drawn(local_shuffle_buffer_size=5_000)
    large = drawn(local_shuffle_buffer_size=100_000, drop_last=True)
    assert sorted(sum(large, [])) == sum(plain, [])


def test_repartition_keeps_rows(con):
    numbers = con.range(1_000)
    for other in (numbers.repartition(3), numbers.repartition(2, keys="id"), numbers.repartition(target_num_rows_per_block=10)):
        assert other.sum("id") == 499_500 and other.count() == 1_000


def test_what_was_shuffled_stays_so_in_other_blocks(con):
    numbers = con.range(1_000)
    for shuffled in (numbers.random_shuffle(seed=1), numbers.random_shuffle()):
        found = [row["id"] for row in shuffled.repartition(target_num_rows_per_block=10).map(lambda row: row, preserve_order=True).take_all()]
        assert sorted(found) == list(range(1_000)) and found != sorted(found)
    found = [row["id"] for row in numbers.random_shuffle(seed=1).repartition(1).take_all()]
    assert sorted(found) == list(range(1_000)) and found[:100] != sorted(found[:100])


def test_aggregates_call_functions(con):
    @mobula.func
    def double(x: int) -> int:
        return 2 * x

    rows = con.range(4).with_column("k", "id % 2")
    assert rows.groupby("k").agg(n="sum(double(id))").sort("k").take() == [{"k": 0, "n": 4}, {"k": 1, "n": 8}]


def test_a_long_chain_is_one_query(con):
    dataset = con.range(10)
    for step in range(150):
        dataset = dataset.filter(expr=f"id <> {step + 5}")
    assert [row["id"] for row in dataset.sort("id").take()] == [0, 1, 2, 3, 4]


def test_a_dataset_says_what_it_is_without_running(con):
    shown = repr(con.range(5).filter(expr="id > 1").limit(2))
    assert shown.splitlines()[1].strip() == "limit 2" and "filter id > 1" in shown
    assert "FilterExec" in con.range(5).filter(expr="id > 1").explain()
    assert "output_rows" in con.range(5).filter(expr="id > 1").stats()


@pytest.mark.parametrize(
    "make",
    [
        lambda rows: rows.select_columns([]),
        lambda rows: rows.limit(-1),
        lambda rows: rows.sort(["id"], [True, False]),
        lambda rows: rows.filter(),
        lambda rows: rows.filter(len, expr="id > 1"),
        lambda rows: rows.join(rows, "sideways", on="id"),
        lambda rows: rows.random_sample(2),
        lambda rows: rows.repartition(),
        lambda rows: rows.groupby([]),
        lambda rows: next(rows.iter_batches(batch_size=0)),
        lambda rows: next(rows.iter_batches(local_shuffle_buffer_size=0)),
        lambda rows: next(rows.iter_batches(batch_size=None, local_shuffle_buffer_size=10)),
        lambda rows: rows.take_batch(batch_format="numbers"),
        lambda rows: rows.take_all(limit=2),
    ],
)
def test_what_makes_no_sense_is_a_value_error(rows, make):
    with pytest.raises(ValueError):
        make(rows)


def test_nan_among_equal_numbers_stays(con):
    rows = con.from_items([{"a": 1.0}, {"a": float("nan")}])
    assert sorted(map(str, (row["a"] for row in rows.take()))) == ["1.0", "nan"]
