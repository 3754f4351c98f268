"""Text and binary files."""

import os

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


def test_files_that_are_not_there(con, tmp_path):
    with pytest.raises(mobula.FunctionFailed, match="no file matches") as failed:
        con.read_text(tmp_path / "none.txt").take()
    assert isinstance(failed.value.__cause__, FileNotFoundError)
    with pytest.raises(mobula.FunctionFailed, match="no path"):
        con.read_binary_files("s3://bucket/x").take()
    with pytest.raises(ValueError, match="no paths"):
        con.read_text([])
