"""Tables in an object store: a local S3 server, secrets by reference."""

import socket
import subprocess
import sys
import time
import urllib.request

import adbc_driver_manager
import polars
import pytest


@pytest.fixture
def s3(tmp_path):
    """A local S3 server; yields its endpoint."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    endpoint = f"http://127.0.0.1:{port}"
    for _ in range(200):
        try:
            urllib.request.urlopen(endpoint, timeout=30).close()
            break
        except OSError:
            time.sleep(0.05)
    yield endpoint
    server.terminate()
    server.wait(10)


def put(endpoint, path, body):
    request = urllib.request.Request(f"{endpoint}/{path}", data=body, method="PUT")
    # The server answers one connection at a time.
    urllib.request.urlopen(request, timeout=60).close()


def test_parquet_on_s3_from_every_executor(start, s3, tmp_path):
    put(s3, "bucket", b"")
    for part in range(3):
        path = tmp_path / "part.parquet"
        polars.DataFrame({"n": list(range(part * 100, part * 100 + 100))}).write_parquet(path)
        put(s3, f"bucket/t/{part}.parquet", path.read_bytes())
    env = {"THE_KEY": "key", "THE_SECRET": "secret"}
    server = start(3, args=["--scan-bytes-per-task", "1"], env=env)
    create = (
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://bucket/t/' OPTIONS ("
        f"'aws.endpoint' '{s3}', 'aws.allow_http' 'true', 'aws.region' 'us-east-1', "
        "'aws.access_key_id' 'env:THE_KEY', 'aws.secret_access_key' '{secret}')"
    )
    with server.connect() as connection, connection.cursor() as cursor:
        with pytest.raises(adbc_driver_manager.Error, match="secret"):
            cursor.execute(create.replace("{secret}", "plain"))
        cursor.execute(create.replace("{secret}", "env:THE_SECRET"))
        cursor.execute("SELECT count(*), sum(n) FROM t")
        assert cursor.fetchall() == [(300, sum(range(300)))]
        cursor.execute("SELECT n % 10 AS d, count(*) FROM t GROUP BY d ORDER BY d")
        assert cursor.fetchall() == [(d, 30) for d in range(10)]
