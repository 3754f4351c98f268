"""Batches as tensors. torch is large: where it is not installed, what does not need it is tested."""

import importlib.util
import subprocess
import sys
import threading
import time

import numpy
import pytest

from mobula.tensors import made_ahead

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


def names():
    return [thread.name for thread in threading.enumerate()]


def test_items_are_made_ahead_in_their_order():
    made = []

    def make(item):
        made.append(item)
        return -item

    items = made_ahead(iter(range(10)), make, 3)
    assert next(items) == 0
    until = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < until:
        time.sleep(0.001)
    # What was given, and three that were not asked for.
    assert made == [0, 1, 2, 3]
    assert list(items) == [-item for item in range(1, 10)]
    assert not any(name.startswith("mobula-prefetch") for name in names())


def test_who_leaves_ends_it():
    ended = []

    def endless():
        try:
            while True:
                yield 1
        finally:
            ended.append(True)

    items = made_ahead(endless(), abs, 2)
    assert next(items) == 1
    items.close()
    assert ended and not any(name.startswith("mobula-prefetch") for name in names())


def test_an_error_comes_in_its_place():
    def make(item):
        if item == 2:
            raise ValueError("no 2")
        return item

    items = made_ahead(iter(range(5)), make, 2)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="no 2"):
        next(items)


def test_what_came_before_an_error_is_given_before_it():
    def broken():
        yield from range(2)
        raise ValueError("the stream broke")

    items = made_ahead(broken(), abs, 5)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="the stream broke"):
        next(items)


def test_a_collate_fn_makes_what_it_likes(con):
    rows = con.range(10).with_column("text", "'row ' || id")
    batches = list(rows.iter_torch_batches(batch_size=4, collate_fn=lambda batch: (batch["id"].sum(), batch["text"][0])))
    assert batches == [(6, "row 0"), (22, "row 4"), (17, "row 8")]


def test_arguments_are_checked_at_once(con):
    rows = con.range(10)
    with pytest.raises(ValueError, match="prefetch_batches is -1"):
        rows.iter_torch_batches(prefetch_batches=-1, collate_fn=len)
    with pytest.raises(ValueError, match="without a collate_fn"):
        rows.iter_torch_batches(collate_fn=len, pin_memory=True)


def test_without_torch_the_error_says_so():
    code = """
import sys
sys.modules["torch"] = None
import mobula
try:
    mobula.range(3).iter_torch_batches()
except mobula.NotSupported as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "pip install torch" in done.stdout, done


@needs_torch
def test_columns_are_tensors(con):
    import torch

    columns = "id, id / 2.0 AS half, id % 2 = 0 AS even, CAST(id AS SMALLINT) AS small, [id, id + 1] AS pair"
    rows = con.sql(f"SELECT {columns} FROM (SELECT value AS id FROM generate_series(0, 9)) ORDER BY id")
    batches = list(rows.iter_torch_batches(batch_size=4, prefetch_batches=2))
    assert [len(batch["id"]) for batch in batches] == [4, 4, 2]
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    kinds = {name: tensor.dtype for name, tensor in joined.items()}
    assert kinds == {"id": torch.int64, "half": torch.float64, "even": torch.bool, "small": torch.int16, "pair": torch.int64}
    assert torch.equal(joined["id"], torch.arange(10)) and torch.equal(joined["half"], torch.arange(10) / 2.0)
    assert torch.equal(joined["even"], torch.arange(10) % 2 == 0)
    assert torch.equal(joined["pair"], torch.stack([torch.arange(10), torch.arange(1, 11)], 1))
    # They are the reader's own.
    joined["id"] += 1
    batches[0]["id"].zero_()


def test_lists_of_one_length_by_type_are_a_matrix(con):
    def pairs(batch):
        return {"pair": numpy.stack([batch["id"], batch["id"] * 0.5], axis=1)}

    rows = con.range(10).map_batches(pairs, schema={"pair": "DOUBLE[2]"})
    matrix = rows.to_numpy()["pair"]
    assert matrix.shape == (10, 2) and sorted(matrix[:, 0]) == list(range(10))
    shapes = [batch["pair"].shape for batch in rows.iter_batches(batch_size=4)]
    assert shapes == [(4, 2), (4, 2), (2, 2)]
    assert rows.filter(expr="false").to_numpy()["pair"].shape == (0, 2)
    with_null = con.sql("SELECT arrow_cast([1.5, NULL], 'FixedSizeList(2 x Float64)') AS pair")
    assert with_null.to_numpy()["pair"].dtype == object


@needs_torch
def test_types_are_as_asked_for(con):
    import torch

    rows = con.range(5).with_column("half", "id / 2.0")
    (batch,) = rows.iter_torch_batches(dtypes=torch.float32)
    assert {tensor.dtype for tensor in batch.values()} == {torch.float32}
    (batch,) = rows.iter_torch_batches(dtypes={"id": torch.int32}, device="cpu")
    assert (batch["id"].dtype, batch["half"].dtype) == (torch.int32, torch.float64)
    with pytest.raises(ValueError, match="dtypes has 'x'"):
        list(rows.iter_torch_batches(dtypes={"x": torch.int32}))


@needs_torch
@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("nullif(id, 2)", 'column "x" has NULLs'),
        ("'row ' || id", 'column "x" has values of str'),
        ("CASE WHEN id = 1 THEN [1] ELSE [1, 2] END", 'column "x" has lists of several lengths'),
        ("[id, nullif(id, 2)]", 'column "x" has NULLs in its lists'),
        ("arrow_cast([id / 2.0, NULL], 'FixedSizeList(2 x Float64)')", 'column "x" has NULLs in its lists'),
        ("DATE '2026-01-01'", 'column "x" has values of datetime64'),
    ],
)
def test_what_is_no_tensor_is_named(con, column, said):
    rows = con.range(5).with_column("x", column)
    with pytest.raises(ValueError) as error:
        list(rows.iter_torch_batches())
    assert said in str(error.value)
    batches = list(rows.iter_torch_batches(collate_fn=lambda batch: len(batch["x"])))
    assert batches == [5]


@needs_torch
def test_readers_of_a_split_have_them(con):
    readers = con.range(1000).streaming_split(2, equal=True)
    found = []

    def read(reader):
        found.append([batch["id"] for batch in reader.iter_torch_batches(batch_size=100)])

    threads = [threading.Thread(target=read, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    ids = sorted(int(value) for part in found for tensor in part for value in tensor)
    assert ids == list(range(1000))


@needs_torch
def test_shuffled_locally(con):
    rows = con.range(100)

    def order():
        batches = rows.iter_torch_batches(batch_size=10, local_shuffle_buffer_size=50, local_shuffle_seed=3)
        return [int(value) for batch in batches for value in batch["id"]]

    first = order()
    assert sorted(first) == list(range(100)) != first and first == order()
