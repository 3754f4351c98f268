"""More workers wanted than there may be: queries go on with what they get."""

import threading

import adbc_driver_manager
import pytest
from servers import register

FEW = ["--udf-max-workers", "3", "--udf-init-timeout", "40s"]
SMALL_SCANS = ["--scan-bytes-per-task", "64KiB"]
FUNCTIONS = [
    "CREATE FUNCTION a(x DOUBLE) RETURNS DOUBLE LANGUAGE python AS $$\n"
    "def a(x):\n    return x + 1\n$$",
    "CREATE FUNCTION k(x DOUBLE) RETURNS DOUBLE LANGUAGE python AS $$\n"
    "class k:\n    def __call__(self, x):\n        return x * 2\n$$",
    "CREATE FUNCTION t(rows TABLE) RETURNS TABLE (x DOUBLE) LANGUAGE python AS $$\n"
    "def t(rows):\n    for _ in range(3):\n        yield {'x': rows['x']}\n$$",
]
SCAN = "SELECT l_quantity::DOUBLE AS x FROM lineitem"
CALLED = f"SELECT a(x) AS x FROM ({SCAN})"
QUERIES = {
    "more actors than places": f"SELECT sum(k) FROM map_batches(TABLE({SCAN}), k, concurrency => 7)",
    "a def below actors": f"SELECT sum(k) FROM map_batches(TABLE({CALLED}), k, concurrency => 3)",
    "actors over a table function": (
        f"SELECT sum(k) FROM map_batches(TABLE(SELECT x FROM map_batches(TABLE({CALLED}), t,"
        " batch_size => 100)), k, concurrency => 3)"
    ),
}
FOREVER = "SELECT k FROM map_batches(TABLE(SELECT value::DOUBLE AS x FROM range(1000000000)), k)"
FACTORS = {"more actors than places": (2, 0), "a def below actors": (2, 2), "actors over a table function": (6, 6)}


def value(cursor, sql):
    cursor.execute(sql)
    return cursor.fetchone()[0]


@pytest.fixture(params=[0, 2], ids=["alone", "cluster"])
def server(request, start, tpch):
    server = start(executors=request.param, args=FEW + SMALL_SCANS)
    with server.connect() as connection, connection.cursor() as cursor:
        register(cursor, tpch)
        for function in FUNCTIONS:
            cursor.execute(function)
        server.sums = value(cursor, f"SELECT sum(x) FROM ({SCAN})"), value(cursor, f"SELECT count(*) FROM ({SCAN})")
    return server


def expected(server, name):
    (total, rows), (times, plus) = server.sums, FACTORS[name]
    return times * total + plus * rows


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_runs_with_fewer_workers_than_it_asks_for(server, name):
    with server.connect() as connection, connection.cursor() as cursor:
        assert value(cursor, QUERIES[name]) == expected(server, name)


def test_a_dozen_clients_wait_their_turn(server):
    found, names = [], list(QUERIES) * 4

    def ask(name):
        with server.connect() as connection, connection.cursor() as cursor:
            found.append((name, value(cursor, QUERIES[name])))

    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(found) == sorted((name, expected(server, name)) for name in names)


def test_a_query_that_never_fits_says_so_and_one_in_line_gives_up(start):
    server = start(args=["--udf-max-workers", "1", "--udf-init-timeout", "2s"])
    with server.connect() as connection, connection.cursor() as cursor:
        for function in FUNCTIONS:
            cursor.execute(function)
        one = "SELECT 1.0::DOUBLE AS x"
        with pytest.raises(adbc_driver_manager.Error) as caught:
            value(cursor, f"SELECT k FROM map_batches(TABLE(SELECT x FROM map_batches(TABLE({one}), t)), k)")
        assert "calls 2 classes and table functions" in str(caught.value)
        assert "udf_max_workers" in str(caught.value)
        # An open cursor keeps its worker.
        cursor.execute(FOREVER)
        assert cursor.fetchone()
        with server.connect() as other, other.cursor() as waiting:
            with pytest.raises(adbc_driver_manager.Error) as caught:
                value(waiting, f"SELECT k FROM map_batches(TABLE({one}), k)")
            assert "udf_max_workers" in str(caught.value)
            # A def needs no place of its own.
            assert value(waiting, "SELECT a(1.0)") == 2.0
            cursor.close()
            assert value(waiting, f"SELECT k FROM map_batches(TABLE({one}), k)") == 2.0


@pytest.mark.parametrize("options", ["", ", concurrency => 1"], ids=["default", "one"])
def test_a_constant_order_above_table_functions_does_not_stop_them(server, options):
    part = (
        f"SELECT x FROM map_batches(TABLE({SCAN}), t, batch_size => 1024{options})"
    )
    query = f"SELECT 1 AS g, x FROM ({part}) UNION ALL SELECT 2 AS g, x FROM ({part}) ORDER BY g"
    seen, rows = [], 0
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(query)
        for batch in cursor.fetch_record_batch():
            seen += [g for g in batch.column("g").unique().to_pylist() if g not in seen]
            rows += batch.num_rows
    assert seen == [1, 2]
    assert rows == 2 * 3 * server.sums[1]


def test_a_query_in_line_runs_on_the_executors_of_its_start(start, tpch):
    server = start(executors=2, args=["--udf-max-workers", "1", *SMALL_SCANS])
    with server.connect() as connection, connection.cursor() as cursor:
        register(cursor, tpch)
        for function in FUNCTIONS:
            cursor.execute(function)
        total = value(cursor, f"SELECT sum(x) FROM ({SCAN})")
        # On the coordinator, and open: it has the only place.
        cursor.execute(FOREVER)
        assert cursor.fetchone()
        found = []

        def ask():
            with server.connect() as other, other.cursor() as waiting:
                found.append(value(waiting, f"SELECT sum(k) FROM map_batches(TABLE({SCAN}), k)"))

        in_line = threading.Thread(target=ask)
        in_line.start()
        in_line.join(1)
        old = list(server.executors)
        for executor in old:
            executor.kill()
        for _ in old:
            server.add_executor()
        assert in_line.is_alive()
        cursor.close()
        in_line.join(60)
        assert found == [2 * total]
