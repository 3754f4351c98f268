"""What a query costs its coordinator as its blocks become more, from a thousand to a million.

    MOBULA_BIN=target/release/mobula python benchmarks/clients/coordinator.py [--blocks 1000,10000,100000,1000000]

Two executors scan, a third one has two actors that get blocks of one row; the coordinator runs
no tasks. Its processor time and memory are those of its process, the former less what it needs
with nothing to do. Needs the packages of tests/clients/requirements.txt.
"""

import argparse
import os
import threading
import time

from pools import cluster

QUICK = """CREATE FUNCTION quick(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$
class quick:
    def __call__(self, x):
        return x + 1
$$"""
IDLE_S = 5
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Watch:
    """The processor time of process `pid`, and the most memory that it has meanwhile."""

    def __init__(self, pid):
        self.pid, self.most_bytes, self.over = pid, 0, threading.Event()
        self.since, self.before = time.monotonic(), self._cpu_s()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _cpu_s(self):
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND

    def _look(self):
        while not self.over.wait(0.05):
            with open(f"/proc/{self.pid}/statm") as statm:
                self.most_bytes = max(self.most_bytes, int(statm.read().split()[1]) * PAGE_BYTES)

    def end(self):
        """Seconds, seconds of a processor, bytes."""
        cpu_s, seconds = self._cpu_s() - self.before, time.monotonic() - self.since
        self.over.set()
        self.thread.join()
        return seconds, cpu_s, self.most_bytes


def measure(own, cursor, blocks, idle_share):
    rows = own.table(cursor, f"t{blocks}", -(-blocks // 16))
    call = f"map_batches(TABLE(SELECT x FROM t{blocks}), quick, concurrency => 2, num_gpus => 1)"
    watch = Watch(own.server.pid)
    cursor.execute(f"SELECT count(*), sum(quick) FROM {call}")
    found = cursor.fetchone()
    seconds, cpu_s, most_bytes = watch.end()
    assert found == (rows, rows * (rows + 1) // 2 + rows), found
    own_s = max(0, cpu_s - idle_share * seconds)
    print(
        f"{rows} blocks in {seconds:.1f} s: {1000 * own_s:.0f} ms of a processor, {most_bytes / 2**20:.0f} MiB",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", default="1000,10000,100000,1000000", help="of each query")
    arguments = parser.parse_args()
    with cluster() as own, own.cursor() as cursor:
        own.start("host", "--gpus", "2", "--roles", "actors")
        cursor.execute(QUICK)
        cursor.execute("SET mobula.udf_batch_rows = 1")
        # What the first query makes ready is not counted.
        own.table(cursor, "first", 1)
        cursor.execute("SELECT count(*) FROM map_batches(TABLE(SELECT x FROM first), quick, num_gpus => 1)")
        cursor.fetchone()
        watch = Watch(own.server.pid)
        time.sleep(IDLE_S)
        seconds, cpu_s, _ = watch.end()
        print(f"with nothing to do: {1000 * cpu_s / seconds:.1f} ms of a processor a second", flush=True)
        for blocks in map(int, arguments.blocks.split(",")):
            measure(own, cursor, blocks, cpu_s / seconds)


if __name__ == "__main__":
    main()
