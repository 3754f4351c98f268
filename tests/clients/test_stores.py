"""Tables in object stores: a local S3 server, a web server, secrets by reference."""

import pathlib
import re
import threading
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import adbc_driver_manager
import polars
import pytest
from moto.server import ThreadedMotoServer
from test_cluster import wait_until

ENV = {"THE_KEY": "key", "THE_SECRET": "secret"}
SHARED_OUT = ["--scan-bytes-per-task", "1"]
ALL = (300, sum(range(300)))


@pytest.fixture
def s3(tmp_path):
    """The endpoint of a local S3 server; `bucket` has three files in `t/`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    send("PUT", f"{endpoint}/bucket")
    for part in range(3):
        body = parquet(tmp_path / "part.parquet", range(part * 100, part * 100 + 100))
        send("PUT", f"{endpoint}/bucket/t/{part}.parquet", body)
    yield endpoint
    send("POST", f"{endpoint}/moto-api/reset")  # The next server would have the same buckets.
    server.stop()


class Web(SimpleHTTPRequestHandler):
    """Serves files, and the parts of them that readers of Parquet ask for."""

    def do_GET(self):
        if "Range" not in self.headers:
            return super().do_GET()
        whole = pathlib.Path(self.translate_path(self.path)).read_bytes()
        first, last = map(int, re.findall(r"\d+", self.headers["Range"]))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(whole)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(whole[first : last + 1])

    def do_PROPFIND(self):
        self.send_error(405)  # Not the 501 of the base class: a reader would try again.


@pytest.fixture
def web(tmp_path):
    """The address of a web server with `a.parquet` and `b.csv`."""
    parquet(tmp_path / "a.parquet", range(300))
    (tmp_path / "b.csv").write_text("n,s\n1,x\n2,y\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Web, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def send(method, url, body=b""):
    # urllib would call the body a form, and the server would wait for the rest of that.
    request = urllib.request.Request(url, body, {"Content-Type": "any/thing"}, method=method)
    urllib.request.urlopen(request, timeout=30).close()


def parquet(path, numbers):
    polars.DataFrame({"n": numbers}).write_parquet(path)
    return path.read_bytes()


def create(s3, location="s3://bucket/t/", secret="env:THE_SECRET"):
    return f"""CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{location}' OPTIONS (
        'aws.endpoint' '{s3}', 'aws.allow_http' 'true', 'aws.region' 'us-east-1',
        'aws.access_key_id' 'env:THE_KEY', 'aws.secret_access_key' '{secret}')"""


def answer(server, sql):
    with server.connect() as connection, connection.cursor() as cursor:
        return cursor.execute(sql).fetchall()


def refusal(server, sql):
    with pytest.raises(adbc_driver_manager.Error) as error:
        answer(server, sql)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_s3_from_every_executor_and_after_a_restart(start, s3):
    server = start(3, SHARED_OUT, env=ENV)
    text = refusal(server, create(s3, secret="hunter2"))
    assert "aws.secret_access_key" in text and "env:NAME" in text and "hunter2" not in text
    assert "NOT_SET" in refusal(server, create(s3, secret="env:NOT_SET"))
    assert "s3://nowhere/t/" in refusal(server, create(s3, "s3://nowhere/t/"))
    assert "patterns" in refusal(server, create(s3, "s3://bucket/t/*.parquet"))
    answer(server, create(s3))
    # One that fails leaves the bucket's options as they were.
    other = create(s3).replace("TABLE t ", "TABLE other ").replace("'true'", "'false'")
    refusal(server, other)
    assert answer(server, "SELECT count(*), sum(n) FROM t") == [ALL]
    groups = answer(server, "SELECT n % 10 AS d, count(*) FROM t GROUP BY d ORDER BY d")
    assert groups == [(d, 30) for d in range(10)]
    used = "SELECT executor_id FROM system.executors WHERE tasks_started > 0"
    assert wait_until(lambda: len(answer(server, used)) > 1)
    server.stop()
    server = start(3, SHARED_OUT, env=ENV)
    assert answer(server, "SELECT count(*), sum(n) FROM t") == [ALL]


# By the environment's options, and by a table's own, which a URL does not undo.
@pytest.mark.parametrize("source, allow_http", [("'s3://bucket/t/'", "true"), ("t", "false")])
def test_copy_to_s3_and_back(start, s3, source, allow_http):
    env = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT": s3}
    server = start(3, SHARED_OUT, env={**ENV, **env, "AWS_ALLOW_HTTP": allow_http})
    if source == "t":
        answer(server, create(s3))
    answer(server, f"COPY (SELECT n FROM {source}) TO 's3://bucket/x.parquet'")
    assert answer(server, "SELECT count(*), sum(n) FROM 's3://bucket/x.parquet'") == [ALL]


def test_files_on_the_web(start, web):
    server = start(3, SHARED_OUT)
    assert answer(server, f"SELECT count(*), sum(n) FROM '{web}/a.parquet'") == [ALL]
    answer(server, f"CREATE EXTERNAL TABLE b STORED AS CSV LOCATION '{web}/b.csv'")
    assert answer(server, "SELECT sum(n), max(s) FROM b") == [(3, "y")]
    assert "nope" in refusal(server, f"SELECT nope FROM '{web}/a.parquet'")
    for sql in ("SELECT * FROM ", "CREATE EXTERNAL TABLE c STORED AS PARQUET LOCATION "):
        assert f"{web}/no.parquet" in refusal(server, f"{sql}'{web}/no.parquet'")
