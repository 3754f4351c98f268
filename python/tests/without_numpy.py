"""What `test_without_numpy` runs: rows, Arrow's arrays and clear errors, where numpy cannot be imported."""

import datetime
import importlib
import os
import sys

import pyarrow as pa
import pyarrow.parquet as pq

import mobula


def fails(run, *words):
    try:
        run()
    except Exception as error:
        text = str(error)
        assert all(word in text for word in words), text
    else:
        raise AssertionError(f"nothing says {words}")


def rows(con):
    numbers = con.range(1000)
    twice = numbers.map(lambda row: {"n": row["id"] * 2}).filter(lambda row: row["n"] % 3 == 0)
    assert sorted(row["n"] for row in twice.take_all()) == list(range(0, 2000, 6))
    words = con.from_items([{"text": "one fish two fish"}]).flat_map(lambda row: [{"word": word} for word in row["text"].split()])
    counted = con.sql("SELECT word, count(*) AS n FROM words GROUP BY word ORDER BY n DESC, word")
    assert counted.take(2) == [{"word": "fish", "n": 2}, {"word": "one", "n": 1}]

    class Counts:
        def __init__(self):
            self.n = 0

        def __call__(self, row):
            self.n += 1
            return {"n": self.n}

    assert max(row["n"] for row in con.range(50).map(Counts, concurrency=1).take_all()) == 50

    async def later(row):
        return {"n": row["id"] + 1}

    assert sorted(row["n"] for row in con.range(20).map(later).take_all()) == list(range(1, 21))


def arrow(con):
    import pyarrow.compute as pc

    def plus(batch):
        return pa.table({"n": pc.add(batch["id"], 1)})

    made = con.range(1000).map_batches(plus, batch_format="pyarrow")
    assert con.sql("SELECT sum(n) AS s FROM made").take() == [{"s": 500_500}]

    def total(group):
        return {"key": [group["key"][0]], "total": [pc.sum(group["id"])]}

    keyed = con.range(10).map(lambda row: {"id": row["id"], "key": row["id"] % 3})
    totals = keyed.groupby("key").map_groups(total, batch_format="pyarrow", schema={"key": int, "total": int})
    assert sorted((row["key"], row["total"]) for row in totals.take_all()) == [(0, 18), (1, 12), (2, 15)]


def sql(con):
    @mobula.func(batch_format="rows")
    def shout(text: str) -> str:
        return [one.upper() for one in text]

    assert con.sql("SELECT shout('a') AS x").take() == [{"x": "A"}]
    con.execute(
        "CREATE TEMP FUNCTION pause(n BIGINT) RETURNS INTERVAL LANGUAGE python RETURNS NULL ON NULL INPUT"
        " WITH (batch_format = 'rows') AS $$\n"
        "import datetime\n"
        "def pause(n):\n"
        "    return [datetime.timedelta(seconds=x) for x in n]\n$$"
    )
    values = "(VALUES (1), (NULL), (3)) AS v(n)"
    waited = con.sql(f"SELECT TIMESTAMP '2020-01-01' + pause(n) AS t FROM {values}").take()
    start = datetime.datetime(2020, 1, 1)
    assert {row["t"] for row in waited} == {None, start + datetime.timedelta(seconds=1), start + datetime.timedelta(seconds=3)}
    # Lists as views, small floats and arrays that are cast.
    con.execute(
        "CREATE TEMP FUNCTION odd(t TABLE) RETURNS TABLE(l BIGINT[], f REAL, d DATE) LANGUAGE python"
        " WITH (batch_format = 'pyarrow') AS $$\n"
        "import datetime\nimport pyarrow as pa\n"
        "def odd(t):\n"
        "    n = len(t)\n"
        "    lists = pa.array([[1, 2], None, [3]][:n], pa.list_view(pa.int64()))\n"
        "    return {'l': lists, 'f': pa.array([0.5] * n), 'd': [datetime.datetime(2020, 1, 1)] * n}\n$$"
    )
    made = con.sql(f"SELECT * FROM map_batches(TABLE(SELECT * FROM {values}), odd)").take()
    day = datetime.date(2020, 1, 1)
    assert made == [{"l": lists, "f": 0.5, "d": day} for lists in ([1, 2], None, [3])]


def failing_rows(con):
    def inverse(row):
        return {"x": 1 / row["id"]}

    kept = con.range(10).map(inverse, schema={"x": float}, on_error="drop")
    assert kept.count() == 9


def files(con, out):
    con.range(100).map(lambda row: {"n": row["id"]}).write_parquet(out)
    assert pq.read_table(out).num_rows == 100
    kept = con.range(100).map(lambda row: {"n": -row["id"]}).materialize()
    assert con.sql("SELECT min(n) AS least FROM kept").take() == [{"least": -99}]
    assert sum(len(table) for table in kept.iter_batches(batch_format="pyarrow", batch_size=30)) == 100


def files_of_workers(con, folder):
    os.makedirs(os.path.join(folder, "below"))
    for number in range(3):
        with open(os.path.join(folder, "below", f"{number}.txt"), "w") as file:
            file.write("".join(f"{number} {line}\n\n" for line in range(1000)))
    assert sorted(row["text"] for row in con.read_text(folder).take_all()) == sorted(f"{n} {m}" for n in range(3) for m in range(1000))
    whole = con.read_binary_files(f"{folder}/*/*.txt", include_paths=True).take_all()
    for row in whole:
        with open(row["path"], "rb") as file:
            assert file.read() == row["bytes"]
    assert len(whole) == 3
    fails(con.read_images(folder, size=(1, 1)).take, "no file matches", ".png")
    fails(con.read_images(f"{folder}/*/*", size=(1, 1)).take, "needs NumPy and Pillow", "pip install numpy pillow")


def errors(con):
    asked = con.range(10).map_batches(lambda batch: batch, schema={"id": int})
    fails(asked.take_all, "batch_format 'numpy'", "pip install numpy", "batch_format 'pyarrow'")
    fails(lambda: list(con.range(10).iter_batches()), "pip install numpy", 'batch_format="pyarrow"')
    fails(con.range(10).to_numpy, "pip install numpy", "to_arrow()")


def main(executors, out):
    fails(lambda: importlib.import_module("numpy"), "No module named 'numpy'")
    with mobula.connect(executors=executors) as con:
        for check in (rows, arrow, sql, failing_rows, errors):
            check(con)
        files(con, out)
        files_of_workers(con, f"{out} files")
    assert "numpy" not in sys.modules
    print("all well")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
