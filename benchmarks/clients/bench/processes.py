"""Processes of peers, and that none of them stays. Called by `peers` and `run`.

A peer gets a session of its own. What it starts may put itself elsewhere, as Ray's
daemons do: `adopt` makes this process the parent of everything below it whose own
parent ends, so that all of it is found again, whatever its group.
"""

import ctypes
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

PR_SET_CHILD_SUBREAPER = 36
# What a peer gets to end by itself: after a signal, and after its last line.
TERMINATE_S = 10
LINGER_S = 10
STDERR_CHARS = 2000


class Failed(Exception):
    """A command that did not do what it was started for."""


def reason(error):
    """What befell a run, in the words of a record."""
    return str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"


def adopt():
    """Orphans below this process become its children. Only Linux can do this."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def output(command, timeout_s):
    """What `command` prints on its standard output.

    Raises:
        Failed: it ended with another status than 0, or not in time.
    """
    before = below()
    # Files, no pipes: a daemon that keeps a pipe open would keep us waiting.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        linger_s = 0
        try:
            status = process.wait(timeout_s)
            linger_s = LINGER_S
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end(process)
            stayed = sweep(before, linger_s)
        if linger_s and stayed:
            print(f"{command[1]} left {', '.join(stayed)} behind: killed", file=sys.stderr)
        if status != 0:
            what = f"no answer after {timeout_s} s" if status is None else f"ended with status {status}"
            raise Failed(f"{what}{tail(err)}")
        out.seek(0)
        return out.read()


def tail(file):
    """The end of what a process said, to stand after what befell it."""
    file.seek(0)
    text = file.read().strip()[-STDERR_CHARS:]
    return f"; the end of its standard error:\n{text}" if text else ", and nothing on its standard error"


def end(process):
    """Ends a process and its group; it is asked first, to end its own daemons."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(TERMINATE_S)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def sweep(before=frozenset(), linger_s=0.0):
    """Ends what is left below this process, but for `before`; the names of what had to be killed."""
    deadline = time.monotonic() + linger_s
    while (left := below() - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    killed = sorted(name for name in map(name_of, left) if name)
    while left:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)
        # What they started in the meantime is ours now.
        left = below() - before
    return killed


def below():
    """The ids of all processes below this one. Those that have ended are reaped."""
    children = {}
    for pid, (parent, state) in table().items():
        if parent == os.getpid() and state == "Z":
            reap(pid)
        else:
            children.setdefault(parent, []).append(pid)
    found = [os.getpid()]
    for parent in found:
        found.extend(children.get(parent, []))
    return set(found[1:])


def reap(pid):
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


def table():
    """Parent and state of every process."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        found[int(path.parent.name)] = (int(parent), state)
    return found


def name_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None
