"""Rows again and again: epochs of a query, and readers that go on from where others were."""

import gc
import itertools
import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest

import mobula

pytestmark = pytest.mark.usefixtures("no_splits_left")

SPAWN = multiprocessing.get_context("spawn")


def ids(batches):
    return [id for batch in batches for id in batch["id"].tolist()]


@pytest.fixture
def running(con):
    """How many queries run, beside the one that asks."""

    def listed():
        gc.collect()
        return con.sql("SELECT count(*) AS n FROM system.queries WHERE sql NOT LIKE '%system.queries%'").take()[0]["n"]

    return listed


# --- Epochs


def test_each_epoch_is_a_run_of_its_own(con):
    epochs = [ids(epoch.iter_batches()) for epoch in con.range(1000).random_shuffle().repeat(3).iter_epochs()]
    assert [sorted(epoch) for epoch in epochs] == [list(range(1000))] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    seeded = con.range(1000).random_shuffle(seed=7).repeat(2)
    first, second = (ids(epoch.iter_batches()) for epoch in seeded.iter_epochs())
    assert first == second
    # Again and again.
    assert [len(list(epoch.iter_rows())) for epoch in seeded.iter_epochs()] == [1000] * 2
    assert seeded.schema().names == ["id"] and "2 times" in repr(seeded)


def test_all_epochs_are_one_stream(con):
    rows = con.range(10).repeat(3)
    assert [row["id"] for row in rows.iter_rows()] == list(range(10)) * 3
    sizes = [len(batch["id"]) for batch in rows.iter_batches(batch_size=4)]
    assert sizes == [4] * 7 + [2]
    assert sum(len(batch["id"]) for batch in rows.iter_batches(batch_size=4, drop_last=True)) == 28
    by_epoch = [[len(batch["id"]) for batch in epoch.iter_batches(batch_size=4)] for epoch in rows.iter_epochs()]
    assert by_epoch == [[4, 4, 2]] * 3
    assert [epoch.number for epoch in rows.iter_epochs()] == [0, 1, 2]


def test_without_end(con, running):
    batches = con.range(100).repeat().iter_batches(batch_size=30)
    found = ids(itertools.islice(batches, 100))
    assert found == list(range(100)) * 30
    batches.close()
    many = con.range(50_000_000).repeat().iter_batches(batch_size=10)
    next(many)
    assert running() == 1
    many.close()
    assert running() == 0
    for epoch in con.range(50_000_000).repeat().iter_epochs():
        for _ in epoch.iter_rows():
            break
        if epoch.number == 2:
            break
    assert running() == 0
    with pytest.raises(mobula.QueryFailed, match="no rows"):
        next(con.range(10).filter(expr="id > 10").repeat().iter_rows())
    assert list(con.range(10).filter(expr="id > 10").repeat(2).iter_rows()) == []
    with pytest.raises(ValueError, match="times of repeat is 0"):
        con.range(10).repeat(0)


def test_torch_batches_of_epochs(con):
    pytest.importorskip("torch")
    rows = con.range(10).repeat(2)
    assert ids(rows.iter_torch_batches(batch_size=4, prefetch_batches=2)) == list(range(10)) * 2


# --- Positions in what is repeated


def read(rows, form, size):
    """Rows by ones, or of batches in some form."""
    if form == "rows":
        return ([row["id"]] for row in rows.iter_rows())
    if form == "torch":
        return (batch["id"].tolist() for batch in rows.iter_torch_batches(batch_size=size, prefetch_batches=3))
    return (batch["id"].tolist() for batch in rows.iter_batches(batch_size=size))


@pytest.mark.parametrize("form", ["rows", "batches", "torch"])
def test_what_was_given_is_not_given_again(con, form):
    if form == "torch":
        pytest.importorskip("torch")
    rows = con.range(1000).random_shuffle(seed=3)
    whole = [id for batch in read(rows.repeat(3), form, 70) for id in batch]
    # In the middle, at the end of an epoch, right behind it, in the last one.
    for n_read in (1, 14, 15, 29, 40, 43):
        n_read *= 70 if form == "rows" else 1
        first = rows.repeat(3)
        given = list(itertools.islice(read(first, form, 70), n_read))
        state = json.loads(json.dumps(first.state_dict()))
        given = [id for batch in given for id in batch]
        assert state["epoch"] * 1000 + state["rows"] == len(given)
        second = rows.repeat(3)
        second.load_state_dict(state)
        assert second.state_dict() == state
        assert given + [id for batch in read(second, form, 70) for id in batch] == whole
        assert second.state_dict() == {"epoch": 3, "rows": 0, "last": None}
    # The one after the last begins anew.
    assert [id for batch in read(second, form, 70) for id in batch] == whole


def test_epochs_one_by_one_go_on(con):
    rows = con.range(100).sort("id", descending=True)
    whole = list(range(99, -1, -1))
    first = rows.repeat(3)
    for epoch in first.iter_epochs():
        assert first.state_dict() == {"epoch": epoch.number, "rows": 0, "last": None}
        batches = epoch.iter_batches(batch_size=30, drop_last=True)
        if epoch.number == 1:
            next(batches)
            break
        assert ids(batches) == whole[:90]
        # What is left out is not waited for.
        assert first.state_dict()["epoch"] == epoch.number + 1
    second = rows.repeat(3)
    second.load_state_dict(first.state_dict())
    found = {epoch.number: ids(epoch.iter_batches(batch_size=30)) for epoch in second.iter_epochs()}
    assert found == {1: whole[30:], 2: whole}
    assert second.state_dict()["epoch"] == 3
    second.load_state_dict(second.state_dict())
    assert list(second.iter_epochs()) == []


def test_no_position_where_there_is_no_order(con):
    numbers = con.range(1000)
    shuffled = numbers.random_shuffle(seed=1)
    ordered = shuffled.select_columns("id").rename_columns({"id": "n"}).limit(900)
    called = shuffled.map_batches(lambda batch: batch, preserve_order=True).filter(lambda row: True, preserve_order=True)
    for rows in (numbers, ordered, called, con.sql("SELECT * FROM numbers ORDER BY id", numbers=numbers)):
        epochs = rows.repeat(2)
        next(epochs.iter_batches(batch_size=10))
        assert epochs.state_dict()["rows"] == 10
    for rows, why in [
        (numbers.random_shuffle(), "random_shuffle.. draws anew"),
        (numbers.random_sample(0.9).sort("id"), "random_sample.. draws others"),
        (numbers.sort("id").filter(expr="id > 5"), "behind 'filter id > 5'"),
        (numbers.sort("id").materialize(), "behind 'materialized'"),
        (numbers.sort("id").map_batches(lambda batch: batch), "behind .map_batches.*preserve_order=True behind one"),
        (numbers.union(numbers), "behind 'union'"),
        (con.from_items([{"a": 1}, {"a": 2}]), "no order behind"),
    ]:
        epochs = rows.repeat(2)
        batches = epochs.iter_batches(batch_size=1)
        # Before a row was given there is one.
        assert epochs.state_dict()["rows"] == 0
        next(batches)
        with pytest.raises(mobula.NotSupported, match=why):
            epochs.state_dict()
    epochs = numbers.repeat(2)
    next(epochs.iter_batches(batch_size=10, local_shuffle_buffer_size=100))
    with pytest.raises(mobula.NotSupported, match="local shuffle"):
        epochs.state_dict()


def test_a_state_of_other_rows_is_found_out(con):
    first = con.range(1000).random_shuffle(seed=1).repeat(2)
    next(first.iter_batches(batch_size=100))
    state = first.state_dict()
    for other, why in [
        (con.range(1000).random_shuffle(seed=2), "row 100 of the query is another one"),
        (con.range(50), "has 50 rows, and 100 were given"),
    ]:
        second = other.repeat(2)
        second.load_state_dict(state)
        with pytest.raises(mobula.QueryFailed, match=why):
            next(second.iter_batches())
    with pytest.raises(ValueError, match="there are 2 epochs"):
        first.load_state_dict({"epoch": 3, "rows": 0, "last": None})
    for state in ({}, None, "x"):
        with pytest.raises(ValueError, match="is no state of these rows"):
            first.load_state_dict(state)
    with pytest.raises(ValueError, match="no position"):
        first.load_state_dict({"epoch": 0, "rows": -1, "last": None})


# --- Positions of readers


def stopped(reader, n_batches):
    batches = reader.iter_batches(batch_size=100)
    given = ids(itertools.islice(batches, n_batches))
    state = reader.state_dict()
    batches.close()
    return given, json.loads(json.dumps(state))


def resumed(reader, state, size=1000):
    reader.load_state_dict(state)
    return ids(reader.iter_batches(batch_size=size))


def late(batch):
    """Workers finish in no order."""
    import random
    import time

    time.sleep(random.random() / 500)
    return batch


@pytest.mark.parametrize("stops", [(0, 0, 0), (1, 7, 30), (200, 150, 3)])
@pytest.mark.parametrize("first", ["call", "shuffle"])
def test_three_readers_go_on_in_another_split(con, stops, first):
    # One more than they can share, on all executors, in many blocks of the sort's.
    rows = con.range(200_002).with_column("text", "repeat(md5(id::text), 10)").repartition(6)
    types = {"id": int, "text": str}
    if first == "call":
        shuffled = rows.map_batches(late, schema=types).random_shuffle(seed=1)
    else:
        shuffled = rows.random_shuffle(seed=1).map_batches(late, schema=types, batch_size=3000, preserve_order=True)
    with ThreadPoolExecutor(3) as threads:
        given, states = zip(*threads.map(stopped, shuffled.streaming_split(3, equal=True), stops))
        assert [len(one) for one in given] == [100 * n for n in stops]
        others = list(threads.map(resumed, shuffled.streaming_split(3, equal=True), states))
    found = numpy.sort(numpy.concatenate([numpy.array(one, dtype=int) for one in (*given, *others)]))
    assert len(found) == 200_001 and len(numpy.unique(found)) == 200_001
    assert [len(a) + len(b) for a, b in zip(given, others)] == [66_667] * 3


def read_some(reader, state, n_batches, told):
    """In a process of its own: some of this epoch, or all of it and the next one."""
    if state is not None:
        reader.load_state_dict(state)
    batches = reader.iter_batches(batch_size=50)
    given = ids(itertools.islice(batches, n_batches))
    told.put((given, reader.state_dict()))
    batches.close()
    if state is not None:
        told.put((ids(reader.iter_batches(batch_size=50)), reader.state_dict()))


def test_a_process_goes_on_where_another_was(con):
    rows, told = con.range(5000).sort("id", descending=True), SPAWN.Queue()

    def ran(*arguments):
        (reader,) = rows.streaming_split(1, equal=True)
        process = SPAWN.Process(target=read_some, args=(reader, *arguments, told))
        process.start()
        found = [told.get(timeout=60) for _ in range(1 if arguments[0] is None else 2)]
        process.join(30)
        assert process.exitcode == 0
        return found

    whole = list(range(4999, -1, -1))
    ((given, state),) = ran(None, 13)
    assert state == {"epoch": 0, "rows": 650, "last": state["last"], "reader": 0, "readers": 1}
    (later, at_end), (second, behind) = ran(state, None)
    assert given + later == whole and second == whole
    assert (at_end["epoch"], at_end["rows"], behind["epoch"]) == (1, 0, 2)


def test_a_reader_that_stops_early_is_in_its_next_epoch(con):
    (reader,) = con.range(100).sort("id").streaming_split(1, equal=True)
    assert reader.state_dict()["epoch"] == 0
    next(reader.iter_rows())
    assert (reader.state_dict()["epoch"], reader.state_dict()["rows"]) == (0, 1)
    next(reader.iter_rows())
    assert (reader.state_dict()["epoch"], reader.state_dict()["rows"]) == (1, 1)
    reader.load_state_dict({**reader.state_dict(), "rows": 99, "last": None})
    assert ids(reader.iter_batches()) == [99]
    assert (reader.state_dict()["epoch"], reader.state_dict()["rows"]) == (2, 0)


def test_readers_whose_rows_differ_have_no_position(con):
    rows = con.range(1000).sort("id")
    left, right = rows.streaming_split(2)
    batches = left.iter_batches(batch_size=10)
    next(batches)
    with pytest.raises(mobula.NotSupported, match="equal=True"):
        left.state_dict()
    batches.close()
    left, right = rows.streaming_split(2, equal=True)
    with pytest.raises(ValueError, match="reader 0 of 2, and this is 1 of 2"):
        right.load_state_dict(left.state_dict())
