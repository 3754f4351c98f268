"""Functions by value: what may travel, what comes back, and what is said when it cannot."""

import asyncio
import functools
import math
import threading
import time
import types

import pytest

import mobula
from mobula import Context, context, functions, packing

numpy = pytest.importorskip("numpy")
OFFSET = 100


def plus_offset(batch):
    return {"v": batch["id"] + OFFSET}


def double(row):
    return {"v": row["id"] * 2}


def taking(row, more, times=1):
    return {"v": (row["id"] + more) * times}


class Adder:
    """Counts how often it is called, and adds what it was built with."""

    def __init__(self, base, step=1):
        self.base = base + step
        self.calls = 0

    def __call__(self, batch):
        self.calls += 1
        return {"v": batch["id"] + self.base, "calls": numpy.full(len(batch["id"]), self.calls)}

    def method(self, row):
        return {"v": row["id"] + self.base}


def values(dataset):
    return sorted(row["v"] for row in dataset.take_all())


def test_functions_of_batches(con):
    numbers = con.range(4)
    assert values(numbers.map_batches(plus_offset)) == [100, 101, 102, 103]
    for batch_format in ("pandas", "polars", "pyarrow"):
        pytest.importorskip(batch_format)
        same = numbers.map_batches(lambda batch: batch, batch_format=batch_format, batch_size=2)
        assert sorted(row["id"] for row in same.take_all()) == [0, 1, 2, 3]

    def parts(batch):
        for value in batch["id"]:
            yield {"v": [value, value]}

    assert values(numbers.map_batches(parts)) == [0, 0, 1, 1, 2, 2, 3, 3]
    sizes = con.range(10).map_batches(lambda batch: {"v": [len(batch["id"])]}, batch_size=4, concurrency=1)
    assert sum(values(sizes)) == 10 and max(values(sizes)) <= 4

    def written(batch):
        batch["id"] += 1
        return {"v": batch["id"]}

    assert values(numbers.map_batches(written, zero_copy_batch=False)) == [1, 2, 3, 4]


def test_batches_of_rows(con):
    def larger(rows):
        return [{"v": row["id"] * 2} for row in rows if row["id"]]

    def one_by_one(rows):
        assert all(type(row) is dict for row in rows)
        for row in rows:
            yield {"v": row["id"]}

    numbers = con.range(4)
    assert values(numbers.map_batches(larger, batch_format="rows", schema={"v": int})) == [2, 4, 6]
    assert values(numbers.map_batches(one_by_one, batch_format="rows", batch_size=3, schema={"v": int})) == [0, 1, 2, 3]
    groups = numbers.with_column("k", "id % 2").groupby("k")
    last = groups.map_groups(lambda rows: [{"v": rows[-1]["id"]}], batch_format="rows", order_by="id", schema={"v": int})
    assert values(last) == [2, 3]
    with pytest.raises(ValueError, match="There are default, numpy, pandas, pyarrow, polars, rows"):
        numbers.map_batches(larger, batch_format="row")
    with pytest.raises(ValueError, match="There are default, numpy, pandas, pyarrow, polars$"):
        next(numbers.iter_batches(batch_format="rows"))


class Busy(Exception):
    pass


def test_calls_are_made_again_for_exceptions_by_class_or_name(con):
    class Local(ValueError):
        pass

    def flaky(kind):
        class Flaky:
            calls = 0

            def __call__(self, row):
                self.calls += 1
                if self.calls % 2:
                    raise kind("once more")
                return {"v": row["id"]}

        return Flaky

    for kind, told in [(Busy, [Busy]), (Local, [KeyError, Local]), (TimeoutError, OSError), (ValueError, ["KeyError", ValueError])]:
        assert values(con.range(2).map(flaky(kind), schema={"v": int}, retry_exceptions=told)) == [0, 1]
    grouped = con.range(1).groupby("id").map_groups(flaky(Busy), batch_format="rows", schema={"v": int}, retry_exceptions=Busy)
    with pytest.raises(mobula.FunctionFailed, match="TypeError"):
        grouped.take()
    with pytest.raises(TypeError, match="int is no exception"):
        con.range(2).map(flaky(Busy), retry_exceptions=[int])


def test_groups_ask_for_what_their_workers_need(con):
    groups = con.range(4).with_column("k", "id % 2").groupby("k")
    asks = groups.map_groups(plus_offset, schema={"v": int}, resources={"no_such_thing": 1}, label_selector={"zone": "a"})
    with pytest.raises(mobula.Error, match="no_such_thing|zone"):
        asks.take()


def test_functions_of_rows(con):
    numbers = con.range(4)
    assert values(numbers.map(double)) == [0, 2, 4, 6]
    assert values(numbers.map(lambda row: {"v": row["id"] / 2})) == [0, 0.5, 1, 1.5]
    assert values(numbers.flat_map(lambda row: [{"v": row["id"]}] * row["id"])) == [1, 2, 2, 3, 3, 3]
    assert [row["id"] for row in numbers.filter(lambda row: row["id"] % 2 == 1).sort("id").take()] == [1, 3]


def test_whatever_can_be_called(con):
    numbers, bound = con.range(3), Adder(10)
    local = {"seven": 7}
    assert values(numbers.map(bound.method)) == [11, 12, 13]
    assert values(numbers.map(functools.partial(taking, more=5, times=2))) == [10, 12, 14]
    assert values(numbers.map(taking, fn_args=[1], fn_kwargs={"times": 3})) == [3, 6, 9]
    assert values(numbers.map(lambda row: {"v": row["id"] + local["seven"]})) == [7, 8, 9]

    async def later(row):
        await asyncio.sleep(0)
        return {"v": -row["id"]}

    assert values(numbers.map(later)) == [-2, -1, 0]


def test_classes_are_actors(con):
    pool = mobula.ActorPoolStrategy(size=1)
    made = con.range(100).map_batches(
        Adder, batch_size=10, compute=pool, fn_constructor_args=[1], fn_constructor_kwargs={"step": 2}
    )
    rows = made.take_all()
    assert sorted(row["v"] for row in rows) == list(range(3, 103))
    # One actor, which was built once and called for each batch.
    assert max(row["calls"] for row in rows) >= 10
    with pytest.raises(ValueError, match="needs actors"):
        con.range(1).map_batches(Adder, compute=mobula.TaskPoolStrategy(2))
    with pytest.raises(ValueError, match="is for classes"):
        con.range(1).map(double, compute=pool)


def test_groups(con):
    rows = con.range(10).with_column("k", "id % 3")

    def first_and_last(group):
        return {"k": group["k"][:1], "v": [int(group["id"][-1] - group["id"][0])]}

    made = rows.groupby("k").map_groups(first_and_last, order_by="id")
    assert sorted((row["k"], row["v"]) for row in made.take_all()) == [(0, 9), (1, 6), (2, 6)]


def test_types_are_learned(con):
    made = con.range(3).map(
        lambda row: {
            "whole": row["id"],
            "part": None if row["id"] == 0 else row["id"] / 4,
            "text": str(row["id"]),
            "list": [row["id"]] * row["id"],
            "truth": row["id"] > 1,
            "struct": {"a": row["id"]},
        }
    )
    assert [str(field.type) for field in made.schema()] == ["int64", "double", "string", "list<item: int64>", "bool", "struct<a: int64>"]
    assert made.sort("whole").take()[2] == {"whole": 2, "part": 0.5, "text": "2", "list": [2, 2], "truth": True, "struct": {"a": 2}}


def test_types_are_said(con):
    class Row(dict):
        v: float
        text: "str | None"

    def typed(row) -> Row:
        return {"v": row["id"], "text": None}

    assert [str(kind) for kind in con.range(1).map(typed).schema().types] == ["double", "string"]
    for schema in ({"v": int}, "v BIGINT", {"v": "BIGINT"}):
        assert values(con.range(2).map(double, schema=schema)) == [0, 2]
    assert con.range(0).map(double, schema={"v": int}).take() == []
    with pytest.raises(mobula.CodeRefused, match='"v" has only None.*schema='):
        con.range(2).map(lambda row: {"v": None}).take()


def test_a_schema_that_lies_is_an_error(con):
    with pytest.raises(mobula.FunctionFailed, match="double.*0.5|v"):
        con.range(2).map(lambda row: {"v": 0.5}, schema={"v": int}).take()


def test_an_exception_names_line_and_file(con):
    def half(row):
        return {"v": 1 / (row["id"] - 1)}

    with pytest.raises(mobula.FunctionFailed) as caught:
        con.range(3).map(half, schema={"v": float}).take()
    text = str(caught.value)
    assert "ZeroDivisionError" in text and "test_user_code.py, line" in text and "return {\"v\": 1 /" in text
    assert isinstance(caught.value.__cause__, ZeroDivisionError) and caught.value.function.startswith("half")
    assert con.range(2).map(half, schema={"v": float}, on_error="drop").count() == 1


@pytest.mark.parametrize("key", ["price", 17, ("a", 1)])
def test_a_key_that_is_missing_is_the_one_of_the_cause(con, key):
    with pytest.raises(mobula.FunctionFailed) as caught:
        con.range(1).map(lambda row: {"v": {}[key]}, schema={"v": int}).take()
    assert isinstance(caught.value.__cause__, KeyError) and caught.value.__cause__.args == (key,)


def test_sql_and_python_are_one_plan(con):
    numbers = con.range(100).map_batches(plus_offset)
    made = con.sql("SELECT v % 10 AS digit, count(*) AS n FROM numbers GROUP BY 1 ORDER BY 1 LIMIT 2")
    assert made.take() == [{"digit": 0, "n": 10}, {"digit": 1, "n": 10}]
    assert "MapBatchesExec" in numbers.explain()


def test_what_cannot_travel_is_said(con):
    import threading

    lock = threading.Lock()
    with pytest.raises(mobula.CodeRefused, match="cannot be sent.*lock"):
        con.range(1).map(lambda row: {"v": lock.locked()})
    large = numpy.random.default_rng(0).random(2 << 20)
    with pytest.raises(mobula.CodeRefused, match="16.0 MiB, 8 MiB is the most"):
        con.range(1).map(lambda row: {"v": large[0]})
    with pytest.raises(mobula.CodeRefused, match="__call__"):
        con.range(1).map(type("Nothing", (), {}))
    with pytest.raises(TypeError, match="no option of a call"):
        con.range(1).map(double, batchsize=3)


def test_another_python_is_refused(con, monkeypatch):
    monkeypatch.setattr(packing.sys, "version_info", (3, 9, 0, "final", 0))
    made = con.range(1).map(double, schema={"v": int})
    monkeypatch.undo()
    with pytest.raises(mobula.FunctionFailed, match="sent by Python 3.9, and this worker is Python 3"):
        made.take()


def test_missing_modules_are_named(con, tmp_path, monkeypatch):
    (tmp_path / "lies_beside.py").write_text("import math\ndef root(x):\n    return math.sqrt(x)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import lies_beside

    made = con.range(5).map(lambda row: {"v": lies_beside.root(row["id"])})
    assert values(made)[-1] == math.sqrt(4)

    def needs(row):
        import no_such_module

        return no_such_module

    with pytest.raises(mobula.FunctionFailed, match="No module named 'no_such_module'"):
        con.range(1).map(needs, schema={"v": int}).take()


def test_functions_made_in_a_loop_have_an_end(con, monkeypatch):
    monkeypatch.setattr(functions, "FUNCTIONS_MAX", 4)
    first = con.range(3).map(lambda row: {"v": row["id"] - 1})
    for n in range(8):
        assert con.range(3).map(lambda row: {"v": row["id"] + n}).sum("v") == 3 + 3 * n
        # Used each time, so it stays.
        assert con.range(3).map(double).sum("v") == 6
    kept = con._link.table("SHOW FUNCTIONS").column("function_name").to_pylist()
    own = [name for name in kept if name.startswith(("lambda_", "double_"))]
    # Those of the last query come on top, one that learns its columns and one that runs.
    assert len(own) <= 6 and any(name.startswith("double_") for name in own), own
    # What was dropped is declared again where it is used again.
    assert first.sum("v") == 0


def test_code_knows_the_row_that_it_is_called_for(con):
    def by_global(row):
        return {"n": mobula.context().row, "id": mobula.context().call_id}

    def by_import(row):
        from mobula import context

        return {"n": context().row, "id": context().call_id}

    def by_name_of_the_module(row):
        asked: Context = context()
        return {"n": asked.row, "id": asked.call_id}

    for code in (by_global, by_import, by_name_of_the_module):
        rows = con.range(5).map(code, schema={"n": int, "id": str}).take_all()
        assert sorted(row["n"] for row in rows) == sorted({int(row["id"].rpartition(".")[2]) for row in rows})
        assert len({row["id"] for row in rows}) == 5
    # Types are learned of such code too, and what it gets is the worker's.
    seen = con.range(5).map(lambda row: {"c": context().call_id, "kind": isinstance(context(), Context)}).take_all()
    assert len({row["c"] for row in seen}) == 5 and all(row["kind"] for row in seen)
    with pytest.raises(RuntimeError, match="code that is called for rows"):
        context()
    # What does not ask is not counted for, wherever its file lies.
    moved = types.FunctionType(double.__code__.replace(co_filename="/home/me/mobula/its.py"), {})
    assert not packing.pack(moved).asks and packing.pack(by_global).asks


def test_functions_of_rows_share_a_worker(con):
    twice = con.range(4).map(double, schema={"v": int}).map(lambda row: {"v": row["v"] + 1}, schema={"v": int})
    assert "then=[map lambda" in twice.explain()
    assert sorted(row["v"] for row in twice.take_all()) == [1, 3, 5, 7]


def test_functions_of_a_query_that_is_still_made_stay(con, monkeypatch, tmp_path):
    monkeypatch.setattr(functions, "FUNCTIONS_MAX", 4)
    begun, ready, found = tmp_path / "begun", tmp_path / "ready", []

    def slow(row):
        begun.touch()
        while not ready.exists():
            time.sleep(0.01)
        return {"v": row["v"]}

    def read():
        # It is asked for its columns, when the first function is there already.
        found.extend(con.range(1).map(lambda row: {"v": row["id"] + 77}, schema={"v": int}).map(slow).take())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        while reader.is_alive() and not begun.exists():
            time.sleep(0.01)
        for n in range(10):
            assert con.range(1).map(lambda row: {"v": n}, schema={"v": int}).sum("v") == n
    finally:
        ready.touch()
        reader.join(60)
    assert found == [{"v": 77}]
