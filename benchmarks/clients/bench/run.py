"""`suite.py run`: measures case after case and keeps what it found. Called by `suite.py`.

The record is written anew after each round, so an interrupted run keeps all before it.
"""

import datetime
import os
import platform
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version

from bench import inputs, operators, owed, peers, processes, records, user_code
from bench.cases import CASES, USER_CODE
from servers import MOBULA, PYTHON

CLIENT_PACKAGES = ["adbc-driver-manager", "adbc-driver-flightsql", "pyarrow"]
WORKER_PACKAGES = ["numpy", "pyarrow"]
INTERRUPTED = 130


class Refused(Exception):
    """Something that a run needs is not there; nothing was measured."""


class Ending:
    """The first Ctrl-C, or SIGTERM, ends the run; later ones do not disturb its end."""

    def __init__(self):
        self.begun = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.on_signal)

    def on_signal(self, _number, _frame):
        if not self.begun:
            self.begun = True
            raise KeyboardInterrupt


def run(options):
    """The exit status: 0, 1 when something failed or is missed under --check, 130."""
    processes.adopt()
    user_code.quiet_about_ended_servers()
    ending = Ending()
    before = processes.below()
    try:
        record, path = begin(options)
    except KeyboardInterrupt:
        ending.begun = True
        processes.sweep(before)
        print("interrupted: nothing was measured yet", file=sys.stderr)
        return INTERRUPTED
    try:
        for case in options.cases:
            measure(case, options, record, path)
            if ending.begun:
                raise KeyboardInterrupt
        record["state"] = "complete"
    except KeyboardInterrupt:
        ending.begun = True
        record["state"] = "interrupted"
    finally:
        ending.begun = True
        processes.sweep(before)
        records.write(record, path)
    return finish(record, path, options)


def begin(options):
    """Checks all that a run needs, so that none of it is missed after half an hour.

    Raises:
        Refused: something is not there.
    """
    beside_peers = [case for case in options.cases if case in USER_CODE]
    try:
        if beside_peers:
            inputs.check(options.data, beside_peers)
        found_peers = peers.installed(options.peers, options.peer_python) if beside_peers else {}
        binary = describe_binary()
        workers = peers.versions(PYTHON, WORKER_PACKAGES)
    except (inputs.Missing, processes.Failed, OSError) as error:
        raise Refused(error) from error
    at = datetime.datetime.now(datetime.timezone.utc)
    record = {
        "format": records.FORMAT,
        "state": "unfinished",
        "commit": records.commit(),
        "at": at.isoformat(timespec="seconds"),
        "binary": binary,
        "machine": records.machine(),
        "python": {
            "client": {"python": platform.python_version(), **client_versions()},
            "workers": workers,
        },
        "peers": found_peers,
        "settings": {
            "pairs": options.pairs,
            "executors": options.executors,
            "environment": {
                name: value
                for name, value in sorted(os.environ.items())
                if name.startswith("MOBULA_") and name not in ("MOBULA_BIN", "MOBULA_PYTHON")
            },
        },
        "data": {"name": options.data.resolve().name, "files": {}} if beside_peers else None,
        "cases": {},
    }
    path = records.path_of(options.results, record["commit"], at)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for case in beside_peers:
            file = inputs.file(options.data, case)
            record["data"]["files"][file.name] = inputs.facts(file)
        records.write(record, path)
    except OSError as error:
        raise Refused(error) from error
    print(f"results go to {path}", flush=True)
    load, cores = record["machine"]["load_average"][0], record["machine"]["cores"]
    if load > cores / 2:
        print(f"note: others are at work here, load {load:.1f} on {cores} cores: expect wide spreads", flush=True)
    return record, path


def describe_binary():
    found = shutil.which(MOBULA)
    if found is None:
        raise processes.Failed(f"no program '{MOBULA}': build it and name it in MOBULA_BIN")
    try:
        return records.binary(found)
    except (OSError, subprocess.CalledProcessError) as error:
        raise processes.Failed(f"{found} is no mobula: {error}") from error


def client_versions():
    return {name: version(name) for name in CLIENT_PACKAGES}


def measure(case, options, record, path):
    print(f"\n{case}: {CASES[case]}", flush=True)
    result = {"load_average": records.load_average(), "measures": [], "sums": {}, "errors": {}}
    record["cases"][case] = result

    def save():
        records.write(record, path)
        progress(result, options.pairs)

    kind = user_code if case in USER_CODE else operators
    kind.measure(case, options, result, save)
    save()
    progress(None, 0)
    show(case, result)


def kept(record):
    """What a record holds, in words."""
    cases = []
    for case, result in record["cases"].items():
        done = [f"{m['name']} {len(m['ours'])} times" for m in result["measures"] if m.get("ours")]
        counts = sum(m["kind"] == "count" for m in result["measures"])
        done += [f"{counts} counts"] if counts else []
        cases.append(f"{case} ({', '.join(done) or 'nothing yet'})")
    return ", ".join(cases) or "nothing yet"


def progress(result, pairs):
    """One line that is written over, for somebody who waits; nothing into a file."""
    if not sys.stderr.isatty():
        return
    text = ""
    if result:
        done = [f"{m['name']} {len(m['ours'])}/{pairs}" for m in result["measures"] if "ours" in m]
        text = ", ".join(done)[:100]
    print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def show(case, result):
    for number in owed.numbers(case, result):
        print(number, flush=True)
    for system, error in result["errors"].items():
        print(f"{case:<8}{system} FAILED: {error}", flush=True)


def finish(record, path, options):
    """Says what was saved and what is wrong."""
    cases = record["cases"].items()
    failed = [f"{case} on {system}" for case, result in cases for system in result["errors"]]
    numbers = [number for case, result in cases for number in owed.numbers(case, result)]
    missed = [f"{number.case} {number.label}" for number in numbers if number.met is False]
    print()
    if failed:
        print(f"failed: {', '.join(failed)}")
    if missed:
        print(f"missed: {', '.join(missed)}")
    if record["state"] == "interrupted":
        progress(None, 0)
        print(f"interrupted; kept in {path}: {kept(record)}")
        return INTERRUPTED
    print(f"results are in {path}")
    return 1 if failed or (options.check and missed) else 0
