"""How fast blocks get to actors, and how busy that keeps them. Called by `operators`.

The functions count and time themselves: what they saw is what is judged.
"""

DISPATCH_BLOCKS = 20_000
SLEEP_NS = 10_000_000
# Blocks of each actor that sleeps, about.
SLEEPER_BLOCKS = 300
ACTORS = (1, 2, 4, 8, 16)

FUNCTIONS = [
    """
CREATE FUNCTION counter(value BIGINT) RETURNS BIGINT LANGUAGE python AS $$
import numpy as np
class counter:
    def __init__(self):
        self.calls = 0
    def __call__(self, value):
        self.calls += 1
        return np.full(len(value), self.calls)
    def count(self, value: int) -> int:
        self.calls += 1
        return self.calls
$$""",
    f"""
CREATE FUNCTION sleeper(rows TABLE) RETURNS TABLE(pid BIGINT, begun BIGINT, ended BIGINT) LANGUAGE python AS $$
import os
import time
class sleeper:
    def __call__(self, rows):
        begun = time.monotonic_ns()
        time.sleep({SLEEP_NS / 1e9})
        return {{'pid': [os.getpid()], 'begun': [begun], 'ended': [time.monotonic_ns()]}}
$$""",
]


def dispatch(case):
    case.client.cursor.execute("SET mobula.udf_batch_rows = 1")
    case.client.cursor.execute("CREATE ACTOR named FROM counter()")
    source = f"SELECT value FROM generate_series(1, {DISPATCH_BLOCKS})"
    queries = {
        "a query's actor": "SELECT max(counter), min(counter)"
        f" FROM map_batches(TABLE({source}), counter, concurrency => 1)",
        "a named actor": f"SELECT max(calls), min(calls) FROM (SELECT named.count(value) AS calls FROM ({source}))",
    }
    for name, sql in queries.items():
        case.levels(f"blocks of one row a second to {name}", lambda sql=sql: rate(case, sql))


def rate(case, sql):
    """Blocks a second; each was a call of its own."""
    seconds, [(last, first)] = case.client.timed(sql)
    if last - first + 1 != DISPATCH_BLOCKS:
        raise ValueError(f"{DISPATCH_BLOCKS} blocks of one row became {last - first + 1} calls")
    return DISPATCH_BLOCKS / seconds


def slowest(case):
    case.client.cursor.execute("SET mobula.udf_batch_rows = 1")
    for actors in ACTORS:
        sql = (
            "SELECT pid, begun, ended FROM map_batches("
            f"TABLE(SELECT value FROM generate_series(1, {actors * SLEEPER_BLOCKS})), sleeper, concurrency => {actors})"
        )
        measures = [
            case.level(f"{what} of {actors} actor{'s' if actors > 1 else ''}") for what in ("linear", "busy share")
        ]
        for run in range(-1, case.n_pairs):
            _, blocks = case.client.timed(sql)
            found = efficiency(blocks, actors)
            if run >= 0:
                for measure, value in zip(measures, found):
                    measure["values"].append(value)
                case.save()


def efficiency(blocks, actors):
    """What `actors` do of what they could, and how long they are at it, while all are there.

    `blocks` are (actor, begun, ended) in ns. All are there from when the last to come has
    begun its first block until the first to go has ended its last one: starting them is
    not counted, nor is the end of the input.
    """
    begun, ended = {}, {}
    for actor, since, until in blocks:
        begun[actor] = min(since, begun.get(actor, since))
        ended[actor] = max(until, ended.get(actor, until))
    if len(begun) != actors:
        raise ValueError(f"{len(begun)} actors of {actors} had blocks")
    start, end = max(begun.values()), min(ended.values())
    if start >= end:
        raise ValueError(f"the {actors} actors were never all at work")
    inside = [max(0, min(until, end) - max(since, start)) / (until - since) for _, since, until in blocks]
    busy = sum(max(0, min(until, end) - max(since, start)) for _, since, until in blocks)
    possible = actors * (end - start)
    return sum(inside) * SLEEP_NS / possible, busy / possible
