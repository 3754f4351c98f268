"""What the operators cost around user code. Called by `run`.

A fresh server for each case; its times are those of one warm server, without its
start, after a run or a pair that is not counted.
"""

import re

from bench import actors, stats
from bench.processes import reason
from bench.user_code import connected

CLEAN_ROWS = 30_000_000
FAILED_ROWS = 10_000_000
SLOT_ROWS = 10_000_000

FUNCTIONS = [
    """
CREATE FUNCTION same(value BIGINT) RETURNS BIGINT LANGUAGE python IMMUTABLE AS $$
def same(value):
    return value
$$""",
    """
CREATE FUNCTION other(value BIGINT) RETURNS BIGINT LANGUAGE python IMMUTABLE AS $$
def other(value):
    return value + 1
$$""",
    """
CREATE FUNCTION row_of(row TABLE) RETURNS TABLE(value BIGINT) LANGUAGE python IMMUTABLE AS $$
def row_of(row):
    return row
$$""",
    """
CREATE FUNCTION rows_of(row TABLE) RETURNS TABLE(value BIGINT) LANGUAGE python IMMUTABLE AS $$
def rows_of(row):
    return [row]
$$""",
    """
CREATE FUNCTION spin(value BIGINT) RETURNS BIGINT LANGUAGE python IMMUTABLE AS $$
def spin(value):
    total = 0
    for x in value.tolist():
        total = (total + x * x) % 1000003
    return value + total * 0
$$""",
    """
CREATE FUNCTION picky(value BIGINT) RETURNS BIGINT LANGUAGE python IMMUTABLE AS $$
def picky(value):
    if value % 10007 == -1:
        raise ValueError(value)
    return value
$$""",
    """
CREATE FUNCTION rarely(value BIGINT, bad BOOLEAN) RETURNS BIGINT LANGUAGE python IMMUTABLE AS $$
def rarely(value, bad):
    if bad:
        raise ValueError(f'no {value}')
    return value
$$""",
    """
CREATE FUNCTION rarely_in_a_batch(value BIGINT, bad BOOLEAN) RETURNS BIGINT LANGUAGE python IMMUTABLE AS $$
def rarely_in_a_batch(value, bad):
    if bad.any():
        raise ValueError(f'no {value[bad][0]}')
    return value
$$""",
    """
CREATE FUNCTION nap(value BIGINT, seconds DOUBLE) RETURNS BIGINT LANGUAGE python AS $$
import asyncio
async def nap(value, seconds):
    await asyncio.sleep(seconds)
    return value
$$""",
]

# What `owed.py` knows them by.
NAPS, ONE_LONG_NAP = "10,000 calls of 20 ms", "the same with one of 5 s"


class Measurement:
    """A client of the server of one case, and where to put what is found."""

    def __init__(self, client, options, result, save):
        self.client, self.n_pairs, self.save = client, options.pairs, save
        self.measures = result["measures"]

    def timed(self, sql):
        """Seconds, and the first field of the first row."""
        seconds, rows = self.client.timed(sql)
        return seconds, rows[0][0]

    def plan(self, sql):
        _, rows = self.client.timed(f"EXPLAIN ANALYZE {sql}")
        return rows[0][1]

    def count(self, name, found, expected=None):
        self.measures.append({"kind": "count", "name": name, "found": found, "expected": expected})
        self.save()

    def level(self, name):
        """A measure of which more is better; its values are still to come."""
        measure = {"kind": "level", "name": name, "values": []}
        self.measures.append(measure)
        return measure

    def levels(self, name, found):
        """What `found` finds, time after time, but for the first."""
        measure = self.level(name)
        for run in range(-1, self.n_pairs):
            value = found()
            if run >= 0:
                measure["values"].append(value)
                self.save()

    def pairs(self, kind, name, ours, theirs, settings=None):
        """Both queries in turns, each with its SET before it; both have to give the same."""
        runs = {"ours": [], "theirs": []}
        measure = {"kind": kind, "name": name, **runs, "first": []}
        self.measures.append(measure)
        sql, answers = {"ours": ours, "theirs": theirs}, set()
        for round_number in range(-1, self.n_pairs):
            order, seconds = stats.order(round_number), {}
            for side in order:
                if settings is not None:
                    self.client.cursor.execute(settings[side])
                seconds[side], answer = self.timed(sql[side])
                answers.add(answer)
            if len(answers) > 1:
                raise ValueError(f"{name}: answers differ: {answers}")
            if round_number < 0:
                continue
            for side in order:
                runs[side].append(seconds[side])
            measure["first"].append(order[0])
            self.save()


def small(case):
    case.client.cursor.execute("SET mobula.udf_batch_rows = 1")
    sql = "SELECT sum(same) FROM map_batches(TABLE(SELECT value FROM generate_series(1, 4000)), same)"
    measure = {"kind": "seconds", "name": "4,000 blocks of one row", "ours": []}
    case.measures.append(measure)
    for run in range(-1, case.n_pairs):
        seconds, found = case.timed(sql)
        if found != 4000 * 4001 // 2:
            raise ValueError(f"the sum of 1 to 4,000 is not {found}")
        if run >= 0:
            measure["ours"].append(seconds)
            case.save()


def naps(case):
    """The start of the worker is counted."""
    for name, long in ((NAPS, 0), (ONE_LONG_NAP, 17)):
        seconds = f"CASE value WHEN {long} THEN 5.0 ELSE 0.02 END"
        source = f"TABLE(SELECT value, {seconds} AS seconds FROM generate_series(1, 10000))"
        sql = f"SELECT sum(nap) FROM map({source}, nap, max_in_flight => 64, preserve_order => false)"
        measure = {"kind": "seconds", "name": name, "ours": []}
        case.measures.append(measure)
        for _ in range(case.n_pairs):
            taken, found = case.timed(sql)
            if found != 10000 * 10001 // 2:
                raise ValueError(f"the sum of 1 to 10,000 is not {found}")
            measure["ours"].append(taken)
            case.save()


def workers(case):
    sql = (
        "SELECT sum(spin) FROM map_batches("
        "TABLE(SELECT value FROM generate_series(1, 30000000)), spin, concurrency => {})"
    )
    case.pairs("speedup", "one worker", sql.format(2), sql.format(1))


def clean(case):
    source = f"TABLE(SELECT value FROM generate_series(1, {CLEAN_ROWS}))"
    for operator, function in (("map", "picky"), ("map_batches", "same")):
        sql = f"SELECT sum({function}) FROM {operator}({source}, {function}, on_error => '{{}}')"
        case.pairs("pairs", f"{operator} with raise", sql.format("dead_letter"), sql.format("raise"))


def failed(case):
    for function, operator in (("rarely", "map"), ("rarely_in_a_batch", "map_batches")):
        for count in (1, 10, 1000):
            step = FAILED_ROWS // count
            source = f"SELECT value, value % {step} = {step // 2} AS bad FROM generate_series(1, {FAILED_ROWS})"
            before = listed(case, function)
            sql = f"SELECT count(*) FROM {operator}(TABLE({source}), {function}, on_error => 'dead_letter')"
            _, rows = case.timed(sql)
            name = f"of {FAILED_ROWS:,} rows of {operator}, {count:,} of which fail,"
            case.count(f"{name} are listed", listed(case, function) - before, count)
            case.count(f"{name} come out", rows, FAILED_ROWS - count)


def listed(case, function):
    return case.timed(f"SELECT count(*) FROM system.errors WHERE function = '{function}'")[1]


def limit(case):
    for operator in ("map_batches", "map"):
        source = "TABLE(SELECT value FROM generate_series(1, 1000000))"
        plan = case.plan(f"SELECT same FROM {operator}({source}, same) WHERE value < 5000 LIMIT 10")
        case.count(f"rows seen by the function of {operator}", metric(plan, "rows_to_workers"), 10)


def fused(case):
    source = "SELECT value FROM generate_series(1, {})"
    values = f"SELECT sum(other(same(value)) - same(value)) FROM ({source.format(20_000_000)})"
    rows = f"SELECT sum(value) FROM map(TABLE(SELECT * FROM flat_map(TABLE({source.format(1_000_000)}), rows_of)), row_of)"
    settings = {"ours": "SET mobula.udf_fuse = true", "theirs": "SET mobula.udf_fuse = false"}
    case.pairs("pairs", "two functions of values apart", values, values, settings)
    case.pairs("pairs", "map and flat_map apart", rows, rows, settings)


def slots(case):
    source = f"TABLE(SELECT value FROM generate_series(1, {SLOT_ROWS}))"
    plan = case.plan(f"SELECT sum(same) FROM map_batches({source}, same, concurrency => 1)")
    case.count("blocks to a worker", metric(plan, "calls"))
    case.count("slots made for them", metric(plan, "slots_created"))


def metric(plan, name):
    """A number in the text of EXPLAIN ANALYZE, such as 153 or 1.05 K."""
    found = re.search(rf"[ \[]{name}=([\d.]+) ?([KMB]?)", plan)
    if found is None:
        raise ValueError(f"EXPLAIN ANALYZE says nothing of {name}")
    return round(float(found[1]) * {"": 1, "K": 1e3, "M": 1e6, "B": 1e9}[found[2]])


CASES = {
    "small": small,
    "workers": workers,
    "clean": clean,
    "failed": failed,
    "limit": limit,
    "fused": fused,
    "async": naps,
    "slots": slots,
    "dispatch": actors.dispatch,
    "slowest": actors.slowest,
}

# What a server needs for a case.
ARGS = {"slowest": ("--udf-max-workers", str(max(actors.ACTORS)))}


def measure(case, options, result, save):
    try:
        with connected(options.executors, ARGS.get(case, ())) as client:
            for function in FUNCTIONS + actors.FUNCTIONS:
                client.cursor.execute(function)
            CASES[case](Measurement(client, options, result, save))
    except Exception as error:
        result["errors"]["mobula"] = reason(error)
