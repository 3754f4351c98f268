"""m1 to m3: user code on a fresh server, in pairs with each peer. Called by `run`.

Each of our runs has a server of its own, so building a class counts; starting an
engine does not, on either side. All systems read the same file, so all sums are
equal, up to the order in which floats are added.
"""

import concurrent.futures
import contextlib
import sys
import tempfile
import time

from bench import inputs, peers, processes, stats
from servers import Server

TIMEOUT_S = 300

# Floats added in another order. Up to 6 M positive ones differ by 6e6 * 1.1e-16 of their
# sum at worst. m2 adds 400,000 rows of both signs, their sizes together about 3 times the
# sum: 4e5 * 1.1e-16 * 3, and far less for products in other batches. A row that is
# missing changes each of the sums by more than 1e-8.
TOLERANCE = 1e-9

FUNCTIONS = {
    "m1": """
CREATE FUNCTION net(price DOUBLE, discount DOUBLE, tax DOUBLE) RETURNS DOUBLE LANGUAGE python IMMUTABLE AS $$
def net(price, discount, tax):
    return price * (1 - discount) * (1 + tax)
$$""",
    "m2": """
CREATE FUNCTION model(texts VARCHAR) RETURNS DOUBLE LANGUAGE python IMMUTABLE AS $$
import time
import numpy as np

class model:
    def __init__(self):
        time.sleep(1)
        self.weights = np.random.default_rng(0).standard_normal((256, 64))

    def __call__(self, texts):
        counts = np.zeros((len(texts), 256))
        for row, text in enumerate(texts):
            counts[row] = np.bincount(np.frombuffer(text.encode(), dtype=np.uint8), minlength=256)
        return (counts @ self.weights).sum(axis=1)
$$""",
    "m3": """
CREATE FUNCTION doubled(amount DOUBLE) RETURNS DOUBLE LANGUAGE python IMMUTABLE AS $$
def doubled(amount):
    return amount * 2
$$""",
}
QUERIES = {
    "m1": """
SELECT sum(net(CAST(l_extendedprice AS DOUBLE), CAST(l_discount AS DOUBLE), CAST(l_tax AS DOUBLE)))
FROM input""",
    "m2": """
SELECT sum(model) FROM map_batches(
    TABLE(SELECT o_comment AS texts FROM input), model, batch_size => 1024, concurrency => 2)""",
    "m3": """
SELECT sum(doubled) FROM map(
    TABLE(SELECT CAST(o_totalprice AS DOUBLE) AS amount FROM input), doubled)""",
}


@contextlib.contextmanager
def connected(executors, args=()):
    """A fresh server with a cursor on it, and nothing of it left."""
    before = processes.below()
    with tempfile.TemporaryDirectory() as home:
        started = None
        try:
            started = Server(home, executors, args)
            with Client(started) as client:
                yield client
        finally:
            if started:
                started.stop()
            processes.sweep(before)


def quiet_about_ended_servers():
    """A driver's object that is dropped after its server has ended says so on standard error."""
    usual = sys.unraisablehook

    def hook(unraisable):
        if not type(unraisable.exc_value).__module__.startswith("adbc_"):
            usual(unraisable)

    sys.unraisablehook = hook


class Client:
    """A connection whose calls end with Ctrl-C and after their time."""

    def __init__(self, started):
        self.started = started
        self.connection = started.connect()
        self.cursor = self.connection.cursor()

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        # After a failure its server has ended, and to say so would hide why.
        if failure is None:
            self.cursor.close()
            self.connection.close()

    def timed(self, sql):
        """Seconds, and the rows."""
        # Not in the main thread: there the driver takes Ctrl-C for a query to cancel.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            future = thread.submit(self.fetch, sql)
            try:
                return future.result(TIMEOUT_S)
            except BaseException as error:
                late = isinstance(error, concurrent.futures.TimeoutError) and not future.done()
                self.started.kill()
                if late:
                    raise processes.Failed(f"no answer after {TIMEOUT_S} s") from None
                raise

    def fetch(self, sql):
        start = time.perf_counter()
        self.cursor.execute(sql)
        rows = self.cursor.fetchall()
        return time.perf_counter() - start, rows


def ours(case, file, executors):
    """Seconds and sum of our own run."""
    with connected(executors) as client:
        client.cursor.execute(f"CREATE EXTERNAL TABLE input STORED AS PARQUET LOCATION '{file}'")
        client.cursor.execute(FUNCTIONS[case])
        seconds, [(found,)] = client.timed(QUERIES[case])
        return seconds, float(found)


class Measurement:
    """One case: a round that warms files and is not counted, then the pairs."""

    def __init__(self, case, options, result, save):
        self.case, self.options, self.result, self.save = case, options, result, save
        self.file = inputs.file(options.data, case)
        self.sums = result["sums"]
        self.pairs = {
            peer: {"kind": "pairs", "name": peer, "ours": [], "theirs": [], "first": []} for peer in options.peers
        }
        result["measures"].extend(self.pairs.values())

    def run(self):
        if self.seconds("mobula") is None:
            return
        for peer in list(self.pairs):
            self.seconds(peer)
        for round_number in range(self.options.pairs):
            for peer in self.pairs:
                if not self.pair(peer, round_number):
                    return
            self.save()

    def pair(self, peer, round_number):
        """False when our own side failed: then there is nothing to compare with."""
        if peer in self.result["errors"]:
            return True
        order, seconds = stats.order(round_number), {}
        for side in order:
            seconds[side] = self.seconds("mobula" if side == "ours" else peer)
            if seconds[side] is None:
                return side != "ours"
        for side in order:
            self.pairs[peer][side].append(seconds[side])
        self.pairs[peer]["first"].append(order[0])
        return True

    def seconds(self, system):
        """Seconds of one run, or None when it failed, which the result then says."""
        try:
            if system == "mobula":
                seconds, found = ours(self.case, self.file, self.options.executors)
            else:
                seconds, found = peers.run(system, self.options.peer_python, self.case, self.file)
            expected = self.sums.setdefault("mobula", found)
            self.sums.setdefault(system, found)
            if not stats.close(found, expected, TOLERANCE):
                raise processes.Failed(f"finds {found!r}, our first run found {expected!r}")
            return seconds
        except Exception as error:
            self.result["errors"][system] = processes.reason(error)
            self.save()
            return None


def measure(case, options, result, save):
    Measurement(case, options, result, save).run()
