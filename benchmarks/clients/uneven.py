"""One of four actors is ten times slower than its peers: how many blocks it gets, and how long
all take beside what the four together could do.

    MOBULA_BIN=target/release/mobula python benchmarks/clients/uneven.py [--blocks 4000] [--actors 4]

The actors are workers of a query in one server; actors that a query has placed; a named pool.
Blocks are of one row, and the query sums over them, so that nothing asks for their order. Time
counts from when all actors are there. Needs the packages of tests/clients/requirements.txt.
"""

import argparse
import contextlib
import pathlib
import tempfile

from servers import Server

# The first to be built is the slow one.
CLASS = """CREATE FUNCTION uneven(x BIGINT) RETURNS VARCHAR LANGUAGE python AS $$
import os, time
class uneven:
    def __init__(self, mark):
        try:
            os.mkdir(mark)
            self.seconds = {slow}
        except FileExistsError:
            self.seconds = {fast}
    def __call__(self, x):
        began = time.time()
        time.sleep(self.seconds)
        return [f'{{os.getpid()}} {{self.seconds}} {{began}} {{time.time()}}'] * len(x)
$$"""
FAST_S, SLOW_S = 0.01, 0.1
CASES = {
    "workers of a query": "uneven(mark => '{mark}'), concurrency => {actors}",
    "placed actors of a query": "uneven(mark => '{mark}'), concurrency => {actors}, num_cpus => 0.1",
    "a named pool": "crew",
}


def uneven(case, blocks, actors):
    """Time in those of the ideal, seconds, and the share of the slow actor, with the ideal one."""
    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as ends:
        server = Server(pathlib.Path(root) / "data")
        ends.callback(server.stop)
        with server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(CLASS.format(slow=SLOW_S, fast=FAST_S))
            mark = f"{root}/slow"
            if case == "a named pool":
                pool = f"WITH (min = {actors}, max = {actors})"
                cursor.execute(f"CREATE ACTOR POOL crew FROM uneven(mark => '{mark}') {pool}")
            cursor.execute("SET mobula.udf_batch_rows = 1")
            call = CASES[case].format(mark=mark, actors=actors)
            name = call.split("(")[0]
            rows = f"TABLE(SELECT value AS x FROM generate_series(1, {blocks}))"
            cursor.execute(f"SELECT {name}, count(*) FROM map_batches({rows}, {call}) GROUP BY 1")
            found = [(text.split(), count) for text, count in cursor.fetchall()]
    calls = [(pid, float(seconds), float(began), float(ended), n) for (pid, seconds, began, ended), n in found]
    assert sum(call[4] for call in calls) == blocks
    assert len({call[0] for call in calls}) == actors, "not all actors had blocks"
    starts = {}
    for pid, _, began, _, _ in calls:
        starts[pid] = min(began, starts.get(pid, began))
    all_there, end = max(starts.values()), max(call[3] for call in calls)
    counted = [call for call in calls if call[2] >= all_there]
    work = sum(call[4] for call in counted)
    rate = 1 / SLOW_S + (actors - 1) / FAST_S
    slow = sum(call[4] for call in counted if call[1] == SLOW_S) / work
    return (end - all_there) * rate / work, end - all_there, slow, 1 / SLOW_S / rate


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=4000)
    parser.add_argument("--actors", type=int, default=4)
    arguments = parser.parse_args()
    for case in CASES:
        times, seconds, share, ideal = uneven(case, arguments.blocks, arguments.actors)
        print(f"{case}: {times:.2f} of the ideal time ({seconds:.1f} s); the slow one had {share:.3f}, ideal {ideal:.3f}", flush=True)


if __name__ == "__main__":
    main()
