"""The pipelines of `examples/pipelines`, against plain Python."""

import importlib
import math
import pathlib
import sys

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

import mobula
from mobula import default

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples" / "pipelines"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    example("data").make(directory, 0.01)
    return directory


@pytest.fixture
def run(con, tmp_path, monkeypatch):
    """Runs an example on the engine of the test; its rows, as dicts."""
    monkeypatch.setattr(default, "default_connection", lambda: con)

    def run(name, data):
        n_rows = example(name).main(str(data), str(tmp_path / "rows"))
        rows = pq.read_table(tmp_path / "rows").to_pylist()
        assert len(rows) == n_rows
        return rows

    return run


def example(name):
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))


def test_logs(run, data):
    lines = [line for file in (data / "logs").glob("*.log") for line in file.read_text().splitlines()]
    failed = sorted(line for line in lines if line.split()[-2] in ("500", "503"))
    rows = run("logs", data / "logs")
    assert len(failed) > 50
    shown = '{host} - - [{time}] "{method} {path} HTTP/1.1" {status} {bytes}'
    assert sorted(shown.format(**row) for row in rows) == failed


def test_features(run, data):
    lines = (data / "orders" / "orders.csv").read_text().splitlines()[1:]
    by_customer = {}
    for _, customer, price, pieces in (line.split(",") for line in lines):
        by_customer.setdefault(int(customer), []).append((float(price), int(pieces)))
    countries = dict(line.split(",") for line in (data / "orders" / "customers.csv").read_text().splitlines()[1:])
    rows = {row.pop("customer"): row for row in run("features", data / "orders")}
    assert rows.keys() == by_customer.keys()
    for customer, orders in by_customer.items():
        total = sum(price * pieces for price, pieces in orders)
        row = rows[customer]
        assert row["country"] == countries[str(customer)] and row["n_orders"] == len(orders)
        assert math.isclose(row["total"], total) and row["most"] == max(price for price, _ in orders)
        assert math.isclose(row["score"], math.log1p(total) / math.sqrt(len(orders)))


def test_training(run, data):
    pytest.importorskip("torch")
    lines = (data / "orders" / "orders.csv").read_text().splitlines()[1:]
    orders = np.array([[float(value) for value in line.split(",")[2:]] for line in lines])
    features = np.column_stack([orders[:, 0] / 100, orders[:, 1] / 8, np.ones(len(orders))])
    values, weights = features[:, 0] * features[:, 1], np.zeros(3)
    for _ in range(5):
        weights -= 0.1 * features.T @ (features @ weights - values) / len(values)
    rows = run("training", data / "orders")
    assert [row["feature"] for row in rows] == ["price", "pieces", "one"]
    assert np.allclose([row["weight"] for row in rows], weights)


def test_images(run, data):
    files = sorted((data / "images").iterdir())
    assert len(files) == 20
    rows = {row["name"]: row["cells"] for row in run("images", data / "images")}
    assert sorted(rows) == [file.name for file in files]
    for file in files:
        pixels = np.asarray(PIL.Image.open(file).resize((72, 72), PIL.Image.Resampling.BILINEAR)).astype(float)[4:68, 4:68] / 255
        pixels = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        cells = [pixels[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].mean(axis=(0, 1)) for y in range(8) for x in range(8)]
        assert np.allclose(rows[file.name], np.concatenate(cells), atol=1e-4)


def test_languages(run, data):
    rows = run("languages", data / "texts")
    assert sorted(row["id"] for row in rows) == list(range(200))
    languages = ["en", "de", "fr", "es", "it", "pl", "ru", "ja"]
    right = sum(row["language"] == languages[row["id"] % 8] for row in rows)
    assert right > 190, [row for row in rows if row["language"] != languages[row["id"] % 8]]


def test_embeddings(run, data):
    wordllama = pytest.importorskip("wordllama", reason="has no wheel for this Python")
    rows = run("embeddings", data / "texts")
    assert sorted(row["id"] for row in rows) == list(range(200))
    texts = {row["id"]: row["text"] for row in pq.read_table(data / "texts").to_pylist()}
    model = wordllama.WordLlama.load(cache_dir=pathlib.Path(wordllama.__file__).parent, disable_download=True)
    expected = model.embed([texts[row["id"]] for row in rows], norm=True)
    assert expected.shape == (200, 256)
    assert np.allclose([row["embedding"] for row in rows], expected, atol=1e-6)
