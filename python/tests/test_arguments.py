"""What callers give and nobody takes: errors name the argument and its value."""

import pathlib

import pytest

import mobula

LINES = "a,b\n1,x\n2,y\n"


def test_files_are_read_as_what_the_call_says(con, tmp_path):
    for name, text in [("x.txt", LINES), ("csv.json", LINES), ("none", LINES), ("x.jsonl", '{"a":1}\n'), ("json.csv", '{"a":1}\n')]:
        (tmp_path / name).write_text(text)
    assert con.range(3).write_parquet(tmp_path / "rows.parquet") == 3
    (tmp_path / "rows.parquet").rename(tmp_path / "parquet.csv")
    for name in ("x.txt", "csv.json", "none"):
        assert con.read_csv(tmp_path / name).sort("a").take() == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    for name in ("x.jsonl", "json.csv"):
        assert con.read_json(tmp_path / name).take() == [{"a": 1}]
    assert con.read_parquet(tmp_path / "parquet.csv").sum("id") == 3
    with pytest.raises(mobula.QueryFailed, match="row 1 of the JSON file .*x.txt cannot be read"):
        con.read_json(tmp_path / "x.txt").take()


def test_a_limit_reads_what_it_needs(con, tmp_path):
    rows, path = con.range(400_000), tmp_path / "rows.parquet"
    rows.write_parquet(path)
    read, whole = (con.read_parquet(path).limit(5).explain(analyze=True), con.sql(f"SELECT * FROM '{path}'").limit(5).explain(analyze=True))
    assert "limit=5" in read and "limit=5" in whole
    plan = con.read_parquet(path, columns="id").filter(expr="id > 5").explain()
    assert "pruning_predicate=id_null_count" in plan and "projection=[id]" in plan
    assert repr(con.read_parquet("/data/rows.parquet")).endswith("sql SELECT * FROM read_parquet('/data/rows.parquet')")


def test_columns_of_files(con, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(LINES)
    assert con.read_csv(path, columns="b").columns() == con.read_csv([path], columns=["b"]).columns() == ["b"]
    assert con.read_csv((one for one in [path, path]), columns=("b", "a")).columns() == ["b", "a"]
    for columns, error, match in [
        ([], ValueError, r"columns of read_csv is \[\], without a column"),
        (["a", "a"], ValueError, "has 'a' twice"),
        ([1], TypeError, r"columns of read_csv is \[1\]. Give the name"),
        (b"a", TypeError, "columns of read_csv is b'a'"),
    ]:
        with pytest.raises(error, match=match):
            con.read_csv(path, columns=columns)


@pytest.mark.parametrize(
    "paths, error, match",
    [
        ("", ValueError, "empty path"),
        (["x.csv", ""], ValueError, "empty path"),
        ([], ValueError, r"no paths to read: paths of read_csv is \[\]"),
        (None, TypeError, "paths of read_csv is None. Give a path"),
        (b"x", TypeError, "paths of read_csv is b'x'"),
        ([pathlib.Path("x"), 5], TypeError, "Give a path, a str or os.PathLike, or a list"),
        ({"x": 1}, TypeError, "paths of read_csv is {'x': 1}"),
    ],
    ids=repr,
)
def test_what_is_no_path(con, paths, error, match):
    with pytest.raises(error, match=match):
        con.read_csv(paths)


@pytest.mark.parametrize(
    "option, error, match",
    [
        ({"delimiter": 5}, TypeError, "delimiter of read_csv is 5. Give one ASCII character"),
        ({"delimiter": "\n"}, ValueError, r"delimiter of read_csv is '\\n'.*no line break"),
        ({"quote": ""}, ValueError, "quote of read_csv is ''"),
        ({"escape": "\\\\"}, ValueError, "escape of read_csv"),
        ({"comment": "ä"}, ValueError, "comment of read_csv is 'ä'"),
        ({"comment": b"#"}, TypeError, "comment of read_csv is b'#'"),
        ({"header": "no"}, TypeError, "header of read_csv is 'no'. Give True or False"),
        ({"header": 1}, TypeError, "header of read_csv is 1"),
        ({"newlines_in_values": 1}, TypeError, "newlines_in_values of read_csv is 1"),
        ({"compression": "zip"}, ValueError, "compression of read_csv is 'zip'. There are gzip, bzip2"),
        ({"compression": True}, ValueError, "compression of read_csv is True"),
        ({"schema": " "}, ValueError, "schema of read_csv is ' ', without a column"),
        ({"infer_rows": 0}, ValueError, "infer_rows of read_csv is 0. Give a whole number from 1"),
        ({"infer_rows": "all"}, TypeError, "infer_rows of read_csv is 'all'. Give a whole number from 1"),
    ],
    ids=repr,
)
def test_what_is_no_option(con, option, error, match):
    with pytest.raises(error, match=match):
        con.read_csv("x.csv", **option)


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda rows: rows.sum(["id", "id"]), ValueError, "on of sum has 'id' twice"),
        (lambda rows: rows.groupby("id").sum(["id", "id"]), ValueError, "on of sum has 'id' twice"),
        (lambda rows: rows.sum(None), TypeError, "on of sum is None. Give the name of a column"),
        (lambda rows: rows.min(None), TypeError, "on of min is None"),
        (lambda rows: rows.max([]), ValueError, r"on of max is \[\], without a column"),
        (lambda rows: rows.std("id", ddof=2), ValueError, "ddof is 2. Give 1 for the deviation of a sample"),
        (lambda rows: rows.zip(5), TypeError, "5 is no dataset. Make one of it"),
        (lambda rows: rows.union([1]), TypeError, r"\[1\] is no dataset"),
        (lambda rows: rows.join("t", on="id"), TypeError, "'t' is no dataset"),
        (lambda rows: rows.repeat("2"), TypeError, "times of repeat is '2'. Give a whole number from 1, or None"),
        (lambda rows: rows.repeat(1.5), TypeError, "times of repeat is 1.5"),
        (lambda rows: rows.repeat(0), ValueError, "times of repeat is 0"),
        (lambda rows: rows.streaming_split("2"), TypeError, "n of streaming_split is '2'. Give a whole number from 1"),
        (lambda rows: rows.streaming_split(True), TypeError, "n of streaming_split is True"),
        (lambda rows: rows.streaming_split(2, equal="no"), TypeError, "equal of streaming_split is 'no'"),
    ],
)
def test_what_methods_do_not_take(con, call, error, match):
    with pytest.raises(error, match=match):
        call(con.range(3))


def test_progress_is_a_truth(con):
    with pytest.raises(ValueError, match="progress is 'x'. Give True, False or None"):
        mobula.connect(progress="x")
    with pytest.raises(ValueError, match="progress is 2"):
        con.progress = 2
