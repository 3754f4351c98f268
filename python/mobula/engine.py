"""The embedded engine: a `mobula serve` process that belongs to this one.

It listens on a free port of loopback, lets only those in who know a secret that lies in a
directory of ours (see `mobula serve --embedded`), and ends when this process does, however
that happens: it sees its standard input close. Its functions run in this very Python.
"""

from __future__ import annotations

import os
import pathlib
import re
import secrets
import selectors
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .errors import EngineFailed

# Executors register within half a minute, or the server says why not.
START_SECONDS = 60.0
# What a stopping server gives running queries, and some more.
STOP_SECONDS = 15.0
# Arguments that an embedded engine has from here.
_OWN = {"embedded", "python", "listen", "cluster_listen", "help"}
_UNKNOWN = re.compile(r"unexpected argument '--([^' ]+)' found(?:.* exists: '--([^' ]+))?")


def find_binary() -> str:
    """The path of the `mobula` binary: `$MOBULA_BIN`, else the one of this environment,
    else the first of the PATH.

    Raises:
        EngineFailed: there is none.
    """
    named = os.environ.get("MOBULA_BIN")
    if named:
        if os.access(named, os.X_OK):
            return named
        raise EngineFailed(f"MOBULA_BIN is {named}, which is no program")
    places = [sysconfig.get_path("scripts"), os.path.dirname(sys.executable)]
    # `pip install --user` and `pip install --target DIR` put it elsewhere.
    places.append(sysconfig.get_path("scripts", f"{os.name}_user"))
    places.append(str(pathlib.Path(__file__).resolve().parent.parent / "bin"))
    for place in places:
        path = os.path.join(place, "mobula")
        if os.access(path, os.X_OK):
            return path
    found = shutil.which("mobula")
    if found is None:
        raise EngineFailed(
            "the program mobula is not in this environment. Install the wheel of this platform, or name the program in MOBULA_BIN"
        )
    return found


class Engine:
    """A running engine. Construction starts it; `wait` returns when it takes queries."""

    def __init__(
        self, executors: int = 0, settings: Mapping[str, Any] | None = None, data_dir: str | os.PathLike[str] | None = None
    ) -> None:
        for key in _OWN & set(settings or {}):
            raise ValueError(f"{key} is no setting of an embedded engine, which has its own. Start a server for it: mobula serve")
        binary = find_binary()
        self.directory: str = tempfile.mkdtemp(prefix="mobula-")  # Its owner's alone: mode 0700.
        self.token: str = secrets.token_hex(32)
        (pathlib.Path(self.directory) / "token").write_text(self.token)
        arguments = [binary, "serve", "--embedded", self.directory, "--python", sys.executable]
        arguments += ["--listen", "127.0.0.1:0", "--cluster-listen", "127.0.0.1:0"]
        if executors:
            arguments += ["--executors", str(executors), "--no-local-executor"]
        if data_dir is not None:
            arguments += ["--data-dir", os.path.abspath(data_dir)]
        for key, value in (settings or {}).items():
            arguments += [f"--{key.replace('_', '-')}", _text(value)]
        self._log = os.path.join(self.directory, "log")
        with open(self._log, "wb") as log:
            try:
                # A session of its own: Ctrl-C in a terminal is for us alone.
                self._process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                shutil.rmtree(self.directory, ignore_errors=True)
                raise EngineFailed(f"{binary} cannot be started: {error}") from error
        self.close: Callable[[], object] = weakref.finalize(self, _stop, self._process, self.directory, os.getpid())

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def wait(self) -> str:
        """The URL it listens on, once it is ready.

        Raises:
            EngineFailed: it ended instead, with what it said, or took too long.
        """
        url, deadline = None, time.monotonic() + START_SECONDS
        for line in _lines(self._process, deadline):
            if line.startswith("mobula: clients on "):
                url = line.removeprefix("mobula: clients on ")
            if line == "mobula: ready" and url:
                return url
        said = _said(pathlib.Path(self._log).read_text(errors="replace"))
        ended = self._process.poll() is not None or time.monotonic() < deadline
        self.close()
        problem = "ended at its start" if ended else f"was not ready within {START_SECONDS:.0f} s"
        raise EngineFailed(f"the embedded engine {problem}: {said or 'it did not say why'}")


def _said(log: str) -> str:
    """What the engine says of its end, and not how it is used in a shell."""
    text = " ".join(log.partition("\nUsage:")[0].split()).removeprefix("error: ")
    unknown = _UNKNOWN.match(text)
    if unknown is None:
        return text
    name, similar = (found and found.replace("-", "_") for found in unknown.groups())
    return f"there is no setting {name}" + (f". Did you mean {similar}?" if similar else "")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _lines(process: subprocess.Popen[bytes], deadline: float) -> Iterator[str]:
    """What it writes, line by line, until it ends or the time is over."""
    assert process.stdout is not None
    descriptor, held = process.stdout.fileno(), b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            piece = os.read(descriptor, 4096)
            if not piece:
                return
            *lines, held = (held + piece).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace").strip()


def _stop(process: subprocess.Popen[bytes], directory: str, owner: int) -> None:
    if os.getpid() != owner:
        # A fork of ours has no engine.
        return
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
    shutil.rmtree(directory, ignore_errors=True)
