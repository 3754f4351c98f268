"""The line that says how far a statement is."""

import re
import time

import pytest

import mobula
from mobula import progress


def slow(batch):
    time.sleep(0.05)
    return batch


@pytest.fixture
def screen(monkeypatch, capsys):
    """What has been written to standard error since it was asked last; with less patience."""
    monkeypatch.setattr(progress, "SHOWN_AFTER_S", 0.2)
    monkeypatch.setattr(progress, "ASKED_EVERY_S", 0.1)
    monkeypatch.setenv("COLUMNS", "120")
    return lambda: capsys.readouterr().err


@pytest.fixture
def watched(con):
    con.progress = True
    yield con
    con.progress = None


def test_who_waits_sees_how_far_it_is(watched, screen):
    rows = watched.range(40).map_batches(slow, batch_size=1, concurrency=1, schema={"id": int})
    assert rows.to_arrow().num_rows == 40
    lines = screen().split("\r\x1b[2K")
    said = r"\d+ s: [\d,]+ rows, [\d.]+ \w+ into slow; limited by slow \(1 at work\)"
    assert any(re.fullmatch(said, line) for line in lines), lines
    # The line is gone when the result is there.
    assert lines[-1] == ""


def test_statements_too(watched, screen, tmp_path):
    rows = watched.range(40).map_batches(slow, batch_size=1, concurrency=1, schema={"id": int})
    assert rows.write_parquet(tmp_path / "rows.parquet") == 40
    assert "into" in screen()


def test_what_is_over_soon_shows_nothing(watched, screen):
    assert watched.sql("SELECT 1 AS one").take() == [{"one": 1}]
    assert screen() == ""


def test_an_error_takes_the_line_away(watched, screen):
    def fails(batch):
        time.sleep(0.05)
        if batch["id"][0] == 30:
            raise ValueError("thirty")
        return batch

    rows = watched.range(40).map_batches(fails, batch_size=1, concurrency=1, schema={"id": int})
    with pytest.raises(mobula.FunctionFailed, match="thirty"):
        rows.to_arrow()
    assert screen().endswith("\r\x1b[2K")


def test_streams_and_who_does_not_want_it(con, screen):
    rows = con.range(20).map_batches(slow, batch_size=1, concurrency=1, schema={"id": int})
    con.progress = True
    assert sum(1 for _ in rows.iter_rows()) == 20
    con.progress = False
    assert rows.to_arrow().num_rows == 20
    con.progress = None
    assert screen() == ""


@pytest.mark.parametrize(("said", "shown"), [("0", False), ("1", True), ("off", False), ("", False)])
def test_the_environment_says_it_for_those_who_do_not(monkeypatch, said, shown):
    monkeypatch.setenv("MOBULA_PROGRESS", said)
    assert progress.wanted(None) is shown
    assert progress.wanted(True) and not progress.wanted(False)
