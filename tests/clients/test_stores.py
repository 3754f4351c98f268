"""Tables in object stores: a local S3 server, a web server, secrets by reference."""

import functools
import http.server
import pathlib
import re
import threading
import urllib.request

import adbc_driver_manager
import polars
import pytest
from moto.server import ThreadedMotoServer

ENV = {"THE_KEY": "key", "THE_SECRET": "secret"}
ONE_TASK_A_FILE = ["--scan-bytes-per-task", "1"]


@pytest.fixture
def s3():
    """The endpoint of a local S3 server with an empty bucket named `bucket`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    put(f"{endpoint}/bucket", b"")
    yield endpoint
    server.stop()


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves files, and the parts of them that readers of Parquet ask for."""

    def do_GET(self):
        path = pathlib.Path(self.translate_path(self.path))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not wanted or not path.is_file():
            super().do_GET()
            return
        first, last = map(int, wanted.groups())
        whole = path.read_bytes()
        part = whole[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(whole)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_):
        pass


@pytest.fixture
def web(tmp_path):
    """A directory and the address at which a web server shows it."""
    root = tmp_path / "web"
    root.mkdir()
    handler = functools.partial(Ranges, directory=root)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield root, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def put(url, body):
    # urllib would call it a form, and the server would wait for the rest of that.
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(url, data=body, headers=headers, method="PUT")
    urllib.request.urlopen(request, timeout=30).close()


def parquet(path, numbers):
    polars.DataFrame({"n": list(numbers)}).write_parquet(path)
    return path.read_bytes()


def create(endpoint, secret="env:THE_SECRET", name="t", location="s3://bucket/t/"):
    return (
        f"CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{location}' OPTIONS ("
        f"'aws.endpoint' '{endpoint}', 'aws.allow_http' 'true', 'aws.region' 'us-east-1', "
        f"'aws.access_key_id' 'env:THE_KEY', 'aws.secret_access_key' '{secret}')"
    )


def answer(server, sql):
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def refusal(server, sql):
    with pytest.raises(adbc_driver_manager.Error) as error:
        answer(server, sql)
    return str(error.value)


def test_s3_from_every_executor_and_after_a_restart(start, s3, tmp_path):
    for part in range(3):
        body = parquet(tmp_path / "part.parquet", range(part * 100, part * 100 + 100))
        put(f"{s3}/bucket/t/{part}.parquet", body)
    server = start(3, args=ONE_TASK_A_FILE, env=ENV)
    text = refusal(server, create(s3, secret="hunter2"))
    assert "aws.secret_access_key" in text and "env:NAME" in text and "hunter2" not in text
    answer(server, create(s3))
    assert answer(server, "SELECT count(*), sum(n) FROM t") == [(300, sum(range(300)))]
    groups = answer(server, "SELECT n % 10 AS d, count(*) FROM t GROUP BY d ORDER BY d")
    assert groups == [(d, 30) for d in range(10)]
    used = answer(server, "SELECT count(*) FROM system.executors WHERE tasks_started > 0")
    assert used[0][0] >= 2
    answer(server, "COPY (SELECT n FROM t WHERE n < 7) TO 's3://bucket/out/' STORED AS PARQUET")
    answer(server, create(s3, name="copied", location="s3://bucket/out/"))
    assert answer(server, "SELECT count(*), max(n) FROM copied") == [(7, 6)]
    server.stop()
    again = start(3, args=ONE_TASK_A_FILE, env=ENV)
    assert answer(again, "SELECT count(*), sum(n) FROM t") == [(300, sum(range(300)))]


def test_s3_refusals_name_the_place(start, s3):
    server = start(env=ENV)
    assert "s3://nowhere" in refusal(server, create(s3, location="s3://nowhere/t/"))
    text = refusal(server, create(s3, secret="env:NOT_SET"))
    assert "NOT_SET" in text and "is not set" in text
    assert answer(server, "SELECT 1") == [(1,)]


def test_a_file_on_the_web(start, web):
    root, address = web
    parquet(root / "a.parquet", range(50))
    (root / "b.csv").write_text("n,s\n1,x\n2,y\n")
    server = start(3, args=ONE_TASK_A_FILE)
    assert answer(server, f"SELECT count(*), sum(n) FROM '{address}/a.parquet'") == [(50, 1225)]
    answer(server, f"CREATE EXTERNAL TABLE b STORED AS CSV LOCATION '{address}/b.csv'")
    assert answer(server, "SELECT sum(n), max(s) FROM b") == [(3, "y")]
    text = refusal(server, f"SELECT * FROM '{address}/none.parquet'")
    assert "none.parquet" in text and "\n" not in text
