"""The systems beside which we stand: their scripts, versions and answers. Called by `run`."""

import json
import pathlib

from bench import processes

SCRIPTS = pathlib.Path(__file__).parents[1] / "peers"
TIMEOUT_S = 300
PACKAGES = {
    "floor": ["numpy", "pyarrow"],
    "daft": ["daft", "numpy", "pyarrow"],
    "ray": ["ray", "numpy", "pyarrow"],
}
VERSIONS = """
import json, platform, sys
from importlib.metadata import PackageNotFoundError, version
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        found[name] = None
print(json.dumps(found))
"""


def versions(python, packages):
    """Versions of a Python and of packages in it; None for one that is not there.

    Raises:
        processes.Failed: it is no Python.
    """
    try:
        return json.loads(processes.output([python, "-c", VERSIONS, *packages], 60))
    except (OSError, ValueError, processes.Failed) as error:
        raise processes.Failed(f"{python} is no Python: {error}") from error


def installed(names, python):
    """Versions by peer.

    Raises:
        processes.Failed: one of them is not installed.
    """
    found = {}
    for name in names:
        found[name] = versions(python, PACKAGES[name])
        missing = [package for package, version in found[name].items() if version is None]
        if missing:
            raise processes.Failed(
                f"peer '{name}' needs {', '.join(missing)}, not installed in {python}:"
                " install it, name another Python with --peer-python, or leave the peer out"
            )
    return found


def run(name, python, case, file):
    """Seconds and sum of a peer, in processes of its own.

    Raises:
        processes.Failed: it failed, with what it said.
    """
    printed = processes.output([python, str(SCRIPTS / f"{name}_udf.py"), case, str(file)], TIMEOUT_S)
    try:
        answer = json.loads(printed.strip().splitlines()[-1])
        return float(answer["seconds"]), float(answer["sum"])
    except (IndexError, KeyError, TypeError, ValueError):
        raise processes.Failed(f"no seconds and sum in its last line: {printed[-200:]!r}") from None
