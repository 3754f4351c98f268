"""Results files: times, and everything needed to judge them. Called by all commands.

A record names no path of the machine, but in what a failed run said: it can be committed.
"""

import hashlib
import json
import os
import pathlib
import platform
import subprocess
import tempfile

# Raised whenever a reader of older records would read newer ones wrongly.
FORMAT = 1
HERE = pathlib.Path(__file__).parent
RESULTS = HERE.parents[1] / "results"
FIELDS = {"state", "commit", "at", "binary", "machine", "python", "peers", "settings", "data", "cases"}
PROFILES = ("debug", "release", "dist")


class Unreadable(Exception):
    """A results file that is not there, is another thing, or of another format."""


def commit():
    """Commit of the checkout, with `-dirty` when files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def path_of(directory, commit_name, at):
    """`at` is the start of the run in UTC."""
    return pathlib.Path(directory) / f"{commit_name}-{at:%Y%m%dT%H%M%SZ}.json"


def write(record, path):
    """Writes a record whole or not at all: readers see the older one until the end."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")
    part = pathlib.Path(name)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(record, file, indent=1)
            file.write("\n")
        part.chmod(0o644)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read(path):
    """The record in a file.

    Raises:
        Unreadable: with the name of the file and what is wrong with it.
    """
    try:
        record = json.loads(pathlib.Path(path).read_text())
    except OSError as error:
        raise Unreadable(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise Unreadable(f"{path} is no results file: {error}") from error
    if not isinstance(record, dict) or "format" not in record:
        raise Unreadable(f"{path} is no results file of suite.py: it names no format")
    if record["format"] != FORMAT:
        raise Unreadable(f"{path} has format {record['format']}, this program reads format {FORMAT}")
    missing = FIELDS - record.keys()
    if missing:
        raise Unreadable(f"{path} lacks {', '.join(sorted(missing))}")
    return record


def find(name, directory):
    """The file that `name` means: a path, or the newest result of the commit that begins so.

    Of a commit with results of a clean and of a changed checkout, the clean ones are meant.

    Raises:
        Unreadable: there is none, or several commits begin so.
    """
    if pathlib.Path(name).is_file():
        return pathlib.Path(name)
    kept = sorted(pathlib.Path(directory).glob("*-*Z.json"))
    commits = sorted({commit_of(path) for path in kept})
    begun = [one for one in commits if one.startswith(name)]
    if not begun:
        there_are = f"there are {', '.join(commits)}" if commits else "there are no results"
        raise Unreadable(f"'{name}' is no file, and no commit with a result in {directory}: {there_are}")
    if len({one.removesuffix("-dirty") for one in begun}) > 1:
        raise Unreadable(f"'{name}' may be {' or '.join(begun)}: say more of it")
    return [path for path in kept if commit_of(path) == begun[0]][-1]


def newest(directory):
    """The file of the last run.

    Raises:
        Unreadable: there is none.
    """
    kept = sorted(pathlib.Path(directory).glob("*-*Z.json"), key=lambda path: path.stem.rpartition("-")[2])
    if not kept:
        raise Unreadable(f"there are no results in {directory}")
    return kept[-1]


def commit_of(path):
    return path.name.rpartition("-")[0]


def machine():
    """Cores, memory, processor, kernel, and how busy it is now."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "cpu": processor(),
        "kernel": platform.release(),
        "load_average": load_average(),
    }


def load_average():
    """Of 1, 5 and 15 minutes: what others did while we measured."""
    return [round(load, 2) for load in os.getloadavg()]


def processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def binary(path):
    """What a `mobula` says of itself, and what it is: a commit can be built in more than one way.

    Raises:
        OSError, subprocess.CalledProcessError: it is not there, or cannot be run.
    """
    path = pathlib.Path(path).resolve(strict=True)
    said = subprocess.run([str(path), "--version"], capture_output=True, text=True, check=True)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    profile = path.parent.name
    return {
        "version": said.stdout.strip(),
        # Cargo's folder names it; a binary that was moved no longer shows it.
        "profile": profile if profile in PROFILES else "unknown",
        "sha256": digest.hexdigest(),
        "bytes": path.stat().st_size,
        "modified": int(path.stat().st_mtime),
    }
