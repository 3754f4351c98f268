"""`mobula` processes for tests and benchmarks, started from the real binary.

The binary is `$MOBULA_BIN` or `mobula`, the Python of its functions
`$MOBULA_PYTHON` or this one. Every process started here is ended here, by its
own id.
"""

import os
import pathlib
import signal
import subprocess
import sys
import threading

import adbc_driver_flightsql.dbapi as flightsql

MOBULA = os.environ.get("MOBULA_BIN", "mobula")
PYTHON = os.environ.get("MOBULA_PYTHON", sys.executable)
START_TIMEOUT_S = 60


class Process:
    """A `mobula` process that prints where it listens and then `ready`."""

    def __init__(self, args, env=None):
        self.log = []
        self.popen = subprocess.Popen(
            [MOBULA, *args, "--python", PYTHON],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.pid = self.popen.pid
        self._is_ready = False
        # Set when it is ready or has ended.
        self._begun = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        # One that ended may not be known to the kernel as such when its output is at its end.
        if not self._begun.wait(START_TIMEOUT_S) or not self._is_ready:
            self.stop()
            raise RuntimeError("not ready: " + "".join(self.log))

    def _read(self):
        for line in self.popen.stdout:
            self.log.append(line)
            if line.strip() == "mobula: ready":
                self._is_ready = True
                self._begun.set()
        self._begun.set()

    def address(self, what):
        for line in self.log:
            if line.startswith(f"mobula: {what} on "):
                return line.split(" on ", 1)[1].strip()
        raise RuntimeError(f"no line about {what}: {self.log}")

    def kill(self):
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait(10)

    def stop(self):
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
        self.popen.stdout.close()


class Server(Process):
    """`mobula serve`, perhaps with executors that are processes of their own."""

    def __init__(self, data_dir, executors=0, args=(), env=None):
        self.data_dir = pathlib.Path(data_dir)
        flags = ["serve", "--listen", "127.0.0.1:0", "--cluster-listen", "127.0.0.1:0"]
        flags += ["--data-dir", str(data_dir), *args]
        if executors:
            flags.append("--no-local-executor")
        # Before anything starts: `stop` needs them when the start fails.
        self.executors = []
        self.env = env
        self.args = [a for a in args if a != "--no-local-executor"]
        super().__init__(flags, env)
        try:
            for _ in range(executors):
                self.add_executor()
        except BaseException:
            self.stop()
            raise

    def add_executor(self):
        flags = ["executor", "--coordinator", self.address("executors")]
        flags += ["--cluster-token-file", str(self.data_dir / "cluster-token"), *self.args]
        executor = Process(flags, self.env)
        self.executors.append(executor)
        return executor

    def connect(self):
        return flightsql.connect(self.address("clients"), autocommit=True)

    def stop(self):
        for executor in self.executors:
            executor.stop()
        super().stop()


TABLES = "customer lineitem nation orders part partsupp region supplier".split()


def register(cursor, data):
    """Makes the TPC-H tables known to a server."""
    for table in TABLES:
        cursor.execute(
            f"CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{data}/{table}'"
        )
