"""Text and binary files, and images."""

import datetime
import gzip
import json
import math
import os

import numpy as np
import PIL.Image
import pyarrow
import pytest

import mobula


@pytest.fixture
def folder(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.log").write_text("".join(f"{number} {line}\n\n" for line in range(number * 10_000)))
    os.mkdir(tmp_path / "below")
    (tmp_path / "below" / "x.bin").write_bytes(bytes(range(256)))
    return tmp_path


def test_lines(con, folder):
    lines = con.read_text(f"{folder}/*.log")
    assert lines.columns() == ["text"]
    wanted = [f"{number} {line}" for number in range(5) for line in range(number * 10_000)]
    assert sorted(row["text"] for row in lines.take_all()) == sorted(wanted)
    # Those of a file come in their order.
    one = [row["text"] for row in con.read_text(folder / "4.log").take_all()]
    assert one == [f"4 {line}" for line in range(40_000)]
    assert con.read_text([folder / "1.log", folder / "2.log"], drop_empty_lines=False).count() == 60_000


def test_encodings_and_ends_of_lines(con, tmp_path):
    (tmp_path / "old.txt").write_bytes("süß\r\nohne Ende".encode("latin-1"))
    assert con.read_text(tmp_path / "old.txt", encoding="latin-1").take() == [{"text": "süß"}, {"text": "ohne Ende"}]
    with pytest.raises(mobula.FunctionFailed, match="old.txt is not utf-8"):
        con.read_text(tmp_path / "old.txt").take()


def test_whole_files(con, folder):
    whole = con.read_binary_files(folder / "below")
    assert whole.take() == [{"bytes": bytes(range(256))}]
    found = con.read_binary_files(folder, include_paths=True).sort("path").take()
    assert [os.path.relpath(row["path"], folder) for row in found] == [f"{number}.log" for number in range(5)] + ["below/x.bin"]
    assert [len(row["bytes"]) for row in found] == [os.path.getsize(row["path"]) for row in found]


def test_images(con, tmp_path):
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    for number in range(40):
        PIL.Image.fromarray(pixels + number).save(tmp_path / f"{number:02}.png")
    images = con.read_images(tmp_path, size=(4, 6), include_paths=True)
    assert images.columns() == ["image", "path"]
    # As user code gets them, and as those who read the result do.
    shapes = images.map_batches(lambda batch: {"shape": [str(batch["image"].shape[1:])] * len(batch["image"])}, schema={"shape": str})
    assert {row["shape"] for row in shapes.take_all()} == {"(4, 6, 3)"}
    seen = 0
    for batch in images.iter_batches(batch_format="numpy"):
        for path, image in zip(batch["path"], batch["image"]):
            number = int(os.path.basename(path)[:2])
            assert image.dtype == np.uint8 and (image == pixels + number).all()
            seen += 1
    assert seen == 40
    # Of directories what ends as images do.
    (tmp_path / "labels.txt").write_text("no image")
    assert con.read_images(tmp_path, size=(4, 6)).count() == 40
    one = con.read_images(tmp_path / "07.png", size=(2, 2), mode="L").take_batch()["image"]
    wanted = PIL.Image.fromarray(pixels + 7).resize((2, 2), PIL.Image.Resampling.BILINEAR).convert("L")
    assert one.shape == (1, 2, 2) and (one[0] == np.asarray(wanted)).all()


def test_what_is_no_image(con, tmp_path):
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(mobula.FunctionFailed, match="x.png is no image"):
        con.read_images(tmp_path, size=(2, 2)).take()
    for wrong in [{"size": (0, 2)}, {"size": (2.0, 2)}, {"size": 2}, {"size": (2, 2), "mode": "F"}]:
        with pytest.raises(ValueError, match="size|mode"):
            con.read_images(tmp_path, **wrong)


def test_files_that_are_not_there(con, tmp_path):
    with pytest.raises(mobula.FunctionFailed, match="no file matches") as failed:
        con.read_text(tmp_path / "none.txt").take()
    assert isinstance(failed.value.__cause__, FileNotFoundError)
    with pytest.raises(mobula.FunctionFailed, match="no path"):
        con.read_binary_files("s3://bucket/x").take()
    with pytest.raises(ValueError, match="no paths"):
        con.read_text([])


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst"])
def test_compressed_files_are_written_and_read(con, tmp_path, ending):
    for kind in ["csv", "json"]:
        path = tmp_path / f"rows.{kind}.{ending}"
        assert getattr(con.range(1000), f"write_{kind}")(path) == 1000
        assert b"999" not in path.read_bytes()
        assert getattr(con, f"read_{kind}")(path).sum("id") == 499_500


def test_csv_and_json_with_options(con, tmp_path):
    (tmp_path / "a.txt").write_text("1;'x;y'\n2;z\n# nothing\n")
    made = con.read_csv(tmp_path / "a.txt", header=False, delimiter=";", quote="'", comment="#", schema={"n": int, "t": str})
    assert made.sort("n").take() == [{"n": 1, "t": "x;y"}, {"n": 2, "t": "z"}]
    assert con.read_csv(str(tmp_path / "a.txt"), columns=["column_1"], header=False, delimiter=";", quote="'", comment="#").sum("column_1") == 3
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write('{"n": 1}\n{"n": 2}\n')
    assert con.read_json(tmp_path / "b.jsonl.gz", schema={"n": float}).sum("n") == 3.0
    with pytest.raises(mobula.QueryFailed, match="no file matches"):
        con.read_csv(tmp_path / "none.csv", delimiter=";").take()


def test_nothing_is_lost_behind_the_first_rows(con, tmp_path):
    days = [*["2024-01-01"] * 10, "2024-01-02 10:00:00"]
    (tmp_path / "d.csv").write_text("d,t\n" + "".join(f"{day},{'late' if ' ' in day else ''}\n" for day in days))
    few = con.read_csv(tmp_path / "d.csv", infer_rows=5)
    assert few.select_columns("t").to_arrow().schema.field("t").type == pyarrow.string()
    assert set(few.unique("t")) == {None, "late"}
    with pytest.raises(mobula.QueryFailed, match='cannot hold "2024-01-02 10:00:00" of the file .*d.csv exactly.*first 5 rows.*infer_rows'):
        few.take_all()
    assert con.read_csv(tmp_path / "d.csv").max("d") == datetime.datetime(2024, 1, 2, 10)
    (tmp_path / "n.json").write_text('{"n": 1}\n' * 10 + '{"n": 1.5}\n')
    with pytest.raises(mobula.QueryFailed, match='cannot hold "1.5" of the file'):
        con.read_json(tmp_path / "n.json", infer_rows=5).sum("n")
    assert con.read_json(tmp_path / "n.json").sum("n") == 11.5
    (tmp_path / "k.json").write_text('{"n": 1}\n' * 10 + '{"n": 1, "late": 2}\n')
    with pytest.raises(mobula.QueryFailed, match='the key "late"'):
        con.read_json(tmp_path / "k.json", infer_rows=5).take_all()
    assert con.read_json(tmp_path / "k.json").sum("late") == 2
    assert con.read_json(tmp_path / "k.json", schema={"n": int}).sum("n") == 11


def test_columns_of_csv_are_found_by_rows_of_several_lines_and_files(con, tmp_path):
    (tmp_path / "l.csv").write_text("id,s\n" + "".join(f'{n},"one\ntwo, ""2""\n"\n' for n in range(20_000)))
    read = con.read_csv(tmp_path / "l.csv")
    assert read.count() == 20_000 and read.sum("id") == sum(range(20_000))
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "a.csv").write_text("n\n1\n")
    (tmp_path / "both" / "b.csv").write_text("n\n1.5\n")
    assert con.read_csv(tmp_path / "both").sum("n") == 2.5
    (tmp_path / "twice.csv").write_text("a,b,a\n1,2,3\n")
    with pytest.raises(mobula.QueryFailed, match='twice.csv has the column "a" more than once: say other names by schema'):
        con.read_csv(tmp_path / "twice.csv").take_all()
    assert con.read_csv(tmp_path / "twice.csv", schema={"a": int, "b": int, "c": int}).take() == [{"a": 1, "b": 2, "c": 3}]


def test_json_in_an_array_and_over_several_lines(con, tmp_path):
    rows = [{"n": n, "s": {"l": [[n], None]}, "t": "a]b, [" + "x" * 100} for n in range(30_000)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    read = con.read_json(tmp_path / "a.json")
    assert read.sort("n").take(2) == rows[:2]
    assert read.sum("n") == sum(range(30_000))
    with gzip.open(tmp_path / "a.json.gz", "wt") as file:
        json.dump(rows, file)
    assert con.read_json(tmp_path / "a.json.gz").count() == 30_000
    (tmp_path / "open.json").write_text(json.dumps(rows)[:-1])
    with pytest.raises(mobula.QueryFailed, match="Incomplete JSON array"):
        con.read_json(tmp_path / "open.json").take_all()


def test_lists_in_lists_with_none_are_written_and_read(con, tmp_path):
    rows = [{"id": 1, "l": [[1, None], None]}, {"id": 2, "l": None}, {"id": 3, "l": [[]]}]
    con.from_items(rows).write_json(tmp_path / "l.json")
    assert con.read_json(tmp_path / "l.json").sort("id").take() == rows


def test_a_directory_has_all_its_files_whatever_their_compression(con, tmp_path):
    for number, ending in enumerate(["csv", "csv.gz", "csv.zst"]):
        con.range(10 * (number + 1)).write_csv(tmp_path / f"{number}.{ending}")
    (tmp_path / "notes.txt").write_text("no rows")
    assert con.read_csv(tmp_path).count() == 60
    assert con.read_csv(tmp_path, schema={"id": float}).sum("id") == 45 + 190 + 435
    assert con.read_csv(tmp_path / "1.csv.gz").count() == 20
    (tmp_path / "below").mkdir()
    con.range(7).write_csv(tmp_path / "below" / "k=1" / "y.csv.gz")
    assert con.read_csv(tmp_path / "below").count() == 7
    empty = tmp_path / "empty"
    empty.mkdir()
    assert con.read_csv(empty, schema={"id": int}).to_arrow().column_names == ["id"]
    with pytest.raises(mobula.QueryFailed, match="no file matches"):
        con.read_csv(empty).take()


def test_columns_of_csv_are_those_of_its_header(con, tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "b.csv").write_text("b,a\n4,3\n")
    (tmp_path / "digits.csv").write_text("a1b\nx1y\n")
    assert con.read_csv([tmp_path / "a.csv", tmp_path / "b.csv"]).sort("a").take() == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert con.read_csv(tmp_path / "digits.csv", delimiter="1").take() == [{"a": "x", "b": "y"}]
    with pytest.raises(mobula.QueryFailed, match="the header of the CSV file"):
        con.read_csv(f"{tmp_path}/[ab].csv").take()
    with pytest.raises(mobula.QueryFailed, match='the column "b" at place 1'):
        con.read_csv(tmp_path / "a.csv", schema={"b": int, "a": int}).take()


def test_files_of_several_types_come_as_what_holds_them(con, tmp_path):
    for name, values in {"int": [1], "big": [2**40], "float": [1.5], "text": ["x"]}.items():
        con.from_items([{"v": value} for value in values]).write_parquet(tmp_path / f"{name}.parquet")
    small = con.sql("SELECT 7::INT AS v")
    for rows, found in [
        (con.read_parquet([tmp_path / "int.parquet", tmp_path / "float.parquet"]), [1.0, 1.5]),
        (con.read_parquet([tmp_path / "text.parquet", tmp_path / "int.parquet"]), ["1", "x"]),
        (con.read_parquet([tmp_path / "int.parquet", tmp_path / "text.parquet"]), ["1", "x"]),
        (small.union(con.read_parquet(tmp_path / "big.parquet")), [7, 2**40]),
    ]:
        assert [row["v"] for row in rows.sort("v").take()] == found
    assert con.sql("SELECT CASE WHEN false THEN 1 ELSE 1.5 END AS v").take() == [{"v": 1.5}]


def test_nan_beside_equal_numbers_is_read(con, tmp_path):
    con.sql("SELECT 1.5 AS v UNION ALL SELECT CAST('NaN' AS DOUBLE) UNION ALL SELECT 1.5").write_parquet(tmp_path / "v.parquet")
    found = [row["v"] for row in con.read_parquet(tmp_path).sort("v").take()]
    assert found[:2] == [1.5, 1.5] and math.isnan(found[2])
