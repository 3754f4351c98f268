"""HTTP beside Flight: health, readiness, and figures as Prometheus reads them."""

import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from asking import rows, wait_until
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from servers import Process

HTTP = ["--http-listen", "127.0.0.1:0"]
CLASS = """CREATE FUNCTION waits(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$
import os, time
class waits:
    def __call__(self, x):
        while not os.path.exists('{go}'):
            time.sleep(0.01)
        return x
$$"""


def fetch(url, method="GET"):
    """Status, kind and text of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=20) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.headers["content-type"], refused.read().decode()


def samples(url):
    """Figures by name and labels."""
    status, kind, text = fetch(url)
    assert status == 200 and kind.startswith("application/openmetrics-text"), (status, kind, text)
    families = text_string_to_metric_families(text)
    every = [sample for family in families for sample in family.samples]
    return {(s.name, *sorted(s.labels.values())): s.value for s in every}


def test_a_process_says_how_it_is(start):
    server = start(args=HTTP, executors=1)
    figures = server.address("figures")
    base = figures.removesuffix("/metrics")
    assert fetch(f"{base}/health")[0] == 200
    assert fetch(f"{base}/ready")[0] == 200
    status, _, text = fetch(f"{base}/nothing")
    assert status == 404 and "/metrics" in text
    assert fetch(figures, "POST")[0] == 405
    assert samples(figures)["mobula_executors",] == 1
    (executor,) = server.executors
    base = executor.address("health").removesuffix("/health")
    assert fetch(f"{base}/ready")[0] == 200
    status, _, text = fetch(f"{base}/metrics")
    assert status == 404 and "coordinator" in text
    executor.kill()
    wait_until(lambda: samples(figures)["mobula_executors",] == 0)


def test_who_asks_for_nothing_keeps_nobody_out(start):
    server = start(args=HTTP)
    figures = server.address("figures")
    where = urllib.parse.urlsplit(figures)
    silent = []
    try:
        for _ in range(300):
            connection = socket.create_connection((where.hostname, where.port), timeout=5)
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: ")
            silent.append(connection)
            if len(silent) % 100 == 0:
                began = time.monotonic()
                assert fetch(figures.replace("/metrics", "/health"))[0] == 200
                assert time.monotonic() - began < 5
    finally:
        for connection in silent:
            connection.close()


def test_nobody_to_run_tasks_is_not_ready(start):
    server = start(args=[*HTTP, "--no-local-executor"])
    ready = server.address("figures").replace("/metrics", "/ready")
    status, _, text = fetch(ready)
    assert status == 503 and "no executor" in text
    command = ["executor", "--coordinator", server.address("executors"), "--resource", "slot=2"]
    executor = Process([*command, "--cluster-token-file", str(server.data_dir / "cluster-token"), "--id", "e"])
    try:
        wait_until(lambda: fetch(ready)[0] == 200)
        found = samples(server.address("figures"))
        assert found["mobula_resource", "e", "slot"] == found["mobula_resource_free", "e", "slot"] == 2
        # The coordinator takes no work: what it has is nobody's.
        assert [key[1] for key in found if key[0] == "mobula_resource" and key[2] == "memory"] == ["e"]
    finally:
        executor.stop()
    wait_until(lambda: fetch(ready)[0] == 503)


def test_an_executor_without_its_coordinator_is_not_ready(start):
    server = start(args=HTTP, executors=1)
    (executor,) = server.executors
    ready = executor.address("health").replace("/health", "/ready")
    assert fetch(ready)[0] == 200
    server.kill()
    wait_until(lambda: fetch(ready)[0] == 503)
    assert server.address("executors").removeprefix("grpc://") in fetch(ready)[2]
    assert fetch(ready.replace("/ready", "/health"))[0] == 200


def test_figures_say_what_the_tables_say(start, tmp_path):
    server = start(args=[*HTTP, "--gpus", "1"])
    go = tmp_path / "go"
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(CLASS.format(go=go))
        cursor.execute("CREATE ACTOR POOL p FROM waits WITH (min = 1, max = 3, num_gpus = 1)")

        def ask():
            with server.connect() as connection, connection.cursor() as cursor:
                call = "map_batches(TABLE(SELECT 1 AS x), waits, num_gpus => 1)"
                rows(cursor, f"SELECT waits FROM {call}")

        asking = threading.Thread(target=ask)
        asking.start()
        demand = "SELECT resource, amount, actors, waiting FROM system.demand"
        wait_until(lambda: rows(cursor, demand))
        found = samples(server.address("figures"))
        for resource, amount, actors, waiting in rows(cursor, demand):
            assert found["mobula_demand", resource] == amount
            assert found["mobula_demand_actors", resource] == actors
            assert found["mobula_demand_waiting", resource] == waiting
        assert found["mobula_queries", "waiting"] == 1
        # Who looks at the figures is not one of them.
        assert found["mobula_queries", "running"] == 0
        ((name, gpus, free),) = rows(cursor, "SELECT executor_id, gpus, gpus_free FROM system.executors")
        assert found["mobula_resource", *sorted([name, "gpus"])] == gpus == 1
        assert found["mobula_resource_free", *sorted([name, "gpus"])] == free == 0
        bounds = [found[f"mobula_actor_pool_{what}", "p"] for what in ("min", "actors", "max")]
        assert bounds == [1, 1, 3]
        go.touch()
        cursor.execute("DROP ACTOR POOL p")
        asking.join(30)
        assert not asking.is_alive()
        assert ("mobula_actor_pool_actors", "p") not in samples(server.address("figures"))
