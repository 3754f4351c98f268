"""What the operators cost around user code, one case after the other.

    MOBULA_BIN=target/release/mobula python benchmarks/clients/operators.py [--pairs 7] [--executors N]
        [--cases small,workers,clean,failed,limit] [--rows 10000000]

    small    4,000 blocks of one row through map_batches
    workers  a loop in pure Python on 30 M rows: two workers against one
    clean    map and map_batches with on_error => 'dead_letter' against 'raise', no row fails
    failed   1, 10 and 1,000 rows that fail among ROWS: how many are listed, how many come out
    limit    rows that a function sees under WHERE and LIMIT
    slots    pieces of shared memory made for the blocks of a query

Times are those of one server, in turns, without its start.
"""

import argparse
import re
import statistics
import tempfile
import time

from servers import Server

FUNCTIONS = """
CREATE FUNCTION same(value BIGINT) RETURNS BIGINT LANGUAGE python IMMUTABLE AS $$
def same(value):
    return value
$$;
CREATE FUNCTION spin(value BIGINT) RETURNS BIGINT LANGUAGE python IMMUTABLE AS $$
def spin(value):
    total = 0
    for x in value.tolist():
        total = (total + x * x) % 1000003
    return value + total * 0
$$;
CREATE FUNCTION picky(value BIGINT) RETURNS BIGINT LANGUAGE python IMMUTABLE AS $$
def picky(value):
    if value % 10007 == -1:
        raise ValueError(value)
    return value
$$;
CREATE FUNCTION rarely(value BIGINT, bad BOOLEAN) RETURNS BIGINT LANGUAGE python IMMUTABLE AS $$
def rarely(value, bad):
    if bad:
        raise ValueError(f'no {value}')
    return value
$$;
CREATE FUNCTION rarely_in_a_batch(value BIGINT, bad BOOLEAN) RETURNS BIGINT LANGUAGE python IMMUTABLE AS $$
def rarely_in_a_batch(value, bad):
    if bad.any():
        raise ValueError(f'no {value[bad][0]}')
    return value
$$
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--executors", type=int, default=0)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--cases", default="small,workers,clean,failed,limit,slots")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        server = Server(home, arguments.executors)
        try:
            connection = server.connect()
            cursor = connection.cursor()
            for function in FUNCTIONS.split(";\n"):
                cursor.execute(function)
            for case in arguments.cases.split(","):
                CASES[case](cursor, arguments)
            cursor.close()
            connection.close()
        finally:
            server.stop()


def small(cursor, arguments):
    cursor.execute("SET mobula.udf_batch_rows = 1")
    sql = "SELECT count(*), sum(same) FROM map_batches(TABLE(SELECT value FROM generate_series(1, 4000)), same)"
    runs = [timed(cursor, sql)[0] for _ in range(arguments.pairs + 1)][1:]
    cursor.execute("RESET mobula.udf_batch_rows")
    print(f"small: {statistics.median(runs):.2f} s for 4,000 blocks of one row", flush=True)


def workers(cursor, arguments):
    sql = "SELECT sum(spin) FROM map_batches(TABLE(SELECT value FROM generate_series(1, 30000000)), spin, concurrency => {})"
    pair(cursor, arguments, "workers: one takes {:.2f} x the time of two", sql.format(1), sql.format(2))


def clean(cursor, arguments):
    source = f"TABLE(SELECT value FROM generate_series(1, {arguments.rows}))"
    for operator, function in (("map", "picky"), ("map_batches", "same")):
        sql = "SELECT sum({1}) FROM {0}({2}, {1}, on_error => '{3}')"
        ours, plain = (sql.format(operator, function, source, policy) for policy in ("dead_letter", "raise"))
        pair(cursor, arguments, f"clean: {operator} with dead_letter takes {{:.3f}} x the time without", ours, plain)


def failed(cursor, arguments):
    for function, operator in (("rarely", "map"), ("rarely_in_a_batch", "map_batches")):
        for count in (1, 10, 1000):
            step = arguments.rows // count
            source = f"TABLE(SELECT value, value % {step} = {step // 2} AS bad FROM generate_series(1, {arguments.rows}))"
            before = listed(cursor, function)
            sql = f"SELECT count(*) FROM {operator}({source}, {function}, on_error => 'dead_letter')"
            seconds, rows = timed(cursor, sql)
            found = listed(cursor, function) - before
            print(f"failed: {operator}, {count} of {arguments.rows}: {found} listed, {rows} come out, {seconds:.1f} s", flush=True)
            if (found, rows) != (count, arguments.rows - count):
                raise SystemExit("not exactly those that fail")


def limit(cursor, _arguments):
    for call in ("map_batches({}, same)", "map({}, same)"):
        source = "TABLE(SELECT value FROM generate_series(1, 1000000))"
        sql = f"EXPLAIN ANALYZE SELECT same FROM {call.format(source)} WHERE value < 5000 LIMIT 10"
        cursor.execute(sql)
        plan = cursor.fetchall()[0][1]
        seen = re.search(r"rows_to_workers=([\d.]+ ?K?)", plan)
        print(f"limit: {call.format('…')} … LIMIT 10: the function sees {seen and seen[1]} rows", flush=True)


def slots(cursor, arguments):
    source = f"TABLE(SELECT value FROM generate_series(1, {arguments.rows}))"
    cursor.execute(f"EXPLAIN ANALYZE SELECT sum(same) FROM map_batches({source}, same, concurrency => 1)")
    plan = cursor.fetchall()[0][1]
    made, calls = re.search(r"slots_created=(\d+)", plan), re.search(r"[ \[]calls=(\d+)", plan)
    print(f"slots: {made and made[1]} made for {calls and calls[1]} blocks", flush=True)


def pair(cursor, arguments, text, one, other):
    runs = [(timed(cursor, one)[0], timed(cursor, other)[0]) for _ in range(arguments.pairs + 1)][1:]
    ratio = statistics.median(a / b for a, b in runs)
    seconds = [statistics.median(run[side] for run in runs) for side in (0, 1)]
    print(f"{text.format(ratio)} ({seconds[0]:.2f} and {seconds[1]:.2f} s, {len(runs)} pairs)", flush=True)


def listed(cursor, function):
    cursor.execute(f"SELECT count(*) FROM system.errors WHERE function = '{function}'")
    return cursor.fetchone()[0]


def timed(cursor, sql):
    since = time.perf_counter()
    cursor.execute(sql)
    found = cursor.fetchone()[0]
    return time.perf_counter() - since, found


CASES = {"small": small, "workers": workers, "clean": clean, "failed": failed, "limit": limit, "slots": slots}

if __name__ == "__main__":
    main()
