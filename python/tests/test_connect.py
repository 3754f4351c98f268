"""Engines and servers: how they start and end, what strangers get, and what errors say."""

import base64
import doctest
import os
import pathlib
import signal
import subprocess
import sys
import time

import adbc_driver_flightsql.dbapi as flightsql
import adbc_driver_manager
import pyarrow.flight as flight
import pytest

import mobula
from mobula import connection, dataset, declared, epochs, grouped, kept, positions, results, splitting, zipped

SOON = 20.0


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition):
    deadline = time.monotonic() + SOON
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_engine_dies_with_its_program_and_leaves_nothing(how):
    program = (
        "import mobula, time\n"
        "con = mobula.connect()\n"
        "con.from_items([{'a': 1}]).take()\n"
        "print(con._engine.pid, con._engine.directory, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        pid, directory = child.stdout.readline().split()
        assert is_alive(pid) and os.listdir(directory)
        child.send_signal(how)
    assert until(lambda: not is_alive(pid) and not os.path.exists(directory))


@pytest.mark.parametrize("work", ["rows.take_all()", "list(rows.iter_rows())"])
def test_ctrl_c_is_an_interrupt_and_ends_the_query(work):
    program = (
        "import mobula, time\n"
        "con = mobula.connect()\n"
        "rows = con.range(50).map(lambda row: time.sleep(0.5) or row, schema={'id': int})\n"
        "print('ready', flush=True)\n"
        f"try:\n    {work}\n"
        "except KeyboardInterrupt:\n    print(con.range(3).count(), flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        time.sleep(1)
        child.send_signal(signal.SIGINT)
        assert child.stdout.read() == "3\n"
    assert child.returncode == 0


def test_close_ends_the_engine():
    con = mobula.connect()
    pid, directory, rows = con._engine.pid, con._engine.directory, con.range(3)
    assert rows.count() == 3
    con.close()
    con.close()
    assert not is_alive(pid) and not os.path.exists(directory) and "closed" in repr(con)
    with pytest.raises(mobula.ConnectionFailed, match="closed"):
        rows.count()


def test_strangers_are_not_let_in():
    with mobula.connect() as con:
        url = con._link.where.rpartition(" ")[2]
        with pytest.raises(mobula.LoginFailed, match="belongs to the program"):
            mobula.connect(url)


class Badge(flight.ServerMiddleware):
    """What one is given who is let in, and shows from then on."""

    def sending_headers(self):
        return {"authorization": "Bearer badge"}


class Users(flight.ServerMiddlewareFactory):
    """Lets in who knows ann's password, or was let in before."""

    def start_call(self, info, headers):
        shown = {name.lower(): values[0] for name, values in headers.items()}.get("authorization")
        # The driver leaves out what fills base64 up.
        if shown not in ["Bearer badge", "Basic " + base64.b64encode(b"ann:right one").decode().rstrip("=")]:
            raise flight.FlightUnauthenticatedError("no such user or password")
        return Badge()


@pytest.mark.parametrize("user", ["ann:wrong@", "bob:right%20one@", ""])
def test_wrong_passwords(user):
    with flight.FlightServerBase("grpc://127.0.0.1:0", middleware={"users": Users()}) as server:
        with pytest.raises(mobula.LoginFailed, match=f"127.0.0.1:{server.port} does not let us in: no such user") as caught:
            mobula.connect(f"grpc://{user}127.0.0.1:{server.port}")
        assert "right" not in str(caught.value) and "wrong" not in str(caught.value)
        # Who is let in gets as far as a server that knows no queries.
        with pytest.raises(mobula.Error) as caught:
            mobula.connect(f"grpc://ann:right%20one@127.0.0.1:{server.port}").sql("SELECT 1").to_arrow()
        assert not isinstance(caught.value, mobula.LoginFailed)


@pytest.mark.parametrize(
    "url, error, text",
    [
        ("grpc://127.0.0.1:1", mobula.ConnectionFailed, "127.0.0.1:1 does not answer"),
        ("http://localhost:1", mobula.ConnectionFailed, "Write grpc://HOST:PORT"),
        ("grpc://localhost", mobula.ConnectionFailed, "Write grpc://HOST:PORT"),
        ("grpc://localhost:many", mobula.ConnectionFailed, "is no URL"),
    ],
)
def test_wrong_addresses(url, error, text):
    with pytest.raises(error, match=text) as caught:
        mobula.connect(url)
    assert isinstance(caught.value, adbc_driver_manager.OperationalError)


def test_engines_that_do_not_start(monkeypatch, tmp_path):
    for settings, match in [
        ({"no_such_setting": 1}, "ended at its start: there is no setting no_such_setting$"),
        ({"udf_max_worker": 1}, "there is no setting udf_max_worker. Did you mean udf_max_workers"),
        ({"udf_max_workers": "many"}, "expected a count from 0 to 4096$"),
    ]:
        with pytest.raises(mobula.EngineFailed, match=match):
            mobula.connect(settings=settings)
    monkeypatch.setenv("MOBULA_BIN", str(tmp_path / "mobula"))
    with pytest.raises(mobula.EngineFailed, match="no program"):
        mobula.connect()


@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"executors": -1}, "executors is -1. Give a number from 0 to 1024"),
        ({"executors": 2.5}, "executors is 2.5"),
        ({"executors": True}, "executors is True"),
        ({"settings": {"mobula.udf_max_workers": 1}}, "'mobula.udf_max_workers' names no setting.*without mobula"),
        ({"settings": {"udf-max-workers": 1}}, "names no setting"),
        ({"settings": {3: 1}}, "3 names no setting"),
        ({"settings": {"listen": "127.0.0.1:1"}}, "listen is no setting of an embedded engine"),
        ({"url": "grpc://127.0.0.1:1", "settings": {"a = 1; SET mobula.b": 1}}, "names no setting"),
    ],
)
def test_what_no_engine_can_be_started_with(wrong, match):
    with pytest.raises(ValueError, match=match):
        mobula.connect(**wrong)


def test_a_server_that_goes_away_is_an_error():
    con = mobula.connect()
    os.kill(con._engine.pid, signal.SIGKILL)
    with pytest.raises(mobula.ConnectionFailed, match="does not answer"):
        con.range(3).take()
    con.close()


def test_dbapi_and_adbc_share_the_session(con):
    pandas = pytest.importorskip("pandas")
    con.execute("SET mobula.udf_batch_rows = 4096")
    with con.cursor() as cursor:
        cursor.execute("SHOW mobula.udf_batch_rows")
        assert cursor.fetchall()[0][1] == "4096"
    con.execute("SET mobula.udf_batch_rows = 65536")
    assert isinstance(con.adbc, flightsql.Connection)
    assert pandas.read_sql("SELECT 1 AS one", con.adbc)["one"].tolist() == [1]


def test_rows_of_other_libraries_by_name(con):
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    import pyarrow

    frame, lazy = pandas.DataFrame({"a": [1, 2]}), polars.LazyFrame({"a": [3], "c": ["x"]})
    table = pyarrow.table({"a": pyarrow.array(["y", "y"]).dictionary_encode()})
    assert con.sql("SELECT sum(a) AS s FROM frame").take() == [{"s": 3}]
    assert con.sql("SELECT c FROM lazy JOIN frame AS f ON f.a + 2 = lazy.a").take() == [{"c": "x"}]
    assert con.sql("SELECT count(*) AS n FROM t", t=table).take() == [{"n": 2}]
    made = con.sql("SELECT a FROM frame ORDER BY a")
    assert made.to_pandas()["a"].tolist() == made.to_polars()["a"].to_list() == made.to_numpy()["a"].tolist() == [1, 2]
    assert polars.DataFrame(made)["a"].to_list() == pyarrow.table(made)["a"].to_pylist() == [1, 2]


def test_categories_of_polars_are_texts(con):
    polars = pytest.importorskip("polars")
    kinds = {"c": polars.Categorical, "e": polars.Enum(["x", "y"])}
    frame = polars.DataFrame({"c": ["a", None, "a"], "e": ["x", "y", None]}, schema=kinds)
    assert con.from_polars(frame).take() == frame.to_dicts()
    assert con.from_polars(frame.lazy()).count() == 3


def test_a_reader_is_read_once(con):
    import pyarrow

    reader = pyarrow.table({"a": [1, 2]}).to_reader()
    rows = con.from_arrow(reader)
    assert rows.count() == 2 and rows.sum("a") == 3
    with pytest.raises(mobula.QueryFailed, match="was read before.*read_all"):
        con.from_arrow(reader).count()


def test_files_go_round(con, tmp_path):
    numbers = con.range(1000).with_column("text", "CAST(id AS VARCHAR)")
    for kind in ("parquet", "csv", "json"):
        target = tmp_path / kind
        assert getattr(numbers, f"write_{kind}")(target) == 1000
        again = getattr(con, f"read_{kind}")(target)
        assert again.sum("id") == 499_500 and again.columns() == ["id", "text"]
    assert con.read_parquet([tmp_path / "parquet"] * 2, columns=["id"]).count() == 2000


def test_statements_and_queries_are_told_apart(con):
    with pytest.raises(mobula.QueryFailed, match="execute"):
        con.sql("SET a = 1")
    with pytest.raises(mobula.QueryFailed, match="no_such_table"):
        con.sql("SELECT * FROM no_such_table").take()
    # What cannot stand in another query runs at once.
    con.execute("CREATE VIEW told AS SELECT 1 AS n")
    assert con.sql("DESCRIBE told").take()[0]["column_name"] == "n"
    assert "told" in {row["table_name"] for row in con.sql("SHOW TABLES; -- all").take_all()}
    assert con.sql("EXPLAIN SELECT $n + 1", n=1).filter(expr="plan_type = 'physical_plan'").count() == 1
    con.execute("DROP VIEW told")
    with pytest.raises(mobula.NotSupported):
        con.rollback()


def test_leaving_a_stream_ends_its_query(con):
    for batch in con.range(1 << 40).iter_batches(batch_size=100):
        assert len(batch["id"]) == 100
        break
    assert con.range(1 << 40).take(1) == [{"id": 0}]


def test_import_is_quick():
    # Time of the processor: what else the machine does is not ours.
    program = "import time; t = time.process_time(); import mobula; print(time.process_time() - t)"
    times = [float(subprocess.check_output([sys.executable, "-c", program])) for _ in range(5)]
    assert min(times) < 0.2


MODULES = [connection, dataset, declared, epochs, grouped, kept, positions, results, splitting, zipped]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples_of_docstrings(module):
    found = doctest.testmod(module, extraglobs={"mobula": mobula})
    assert found.attempted >= 2 and not found.failed


def test_what_is_no_url_and_no_settings_is_said():
    with pytest.raises(ValueError, match="5 is no address"):
        mobula.connect(5)
    with pytest.raises(ValueError, match="settings are 5. Give a dict"):
        mobula.connect(settings=5)
