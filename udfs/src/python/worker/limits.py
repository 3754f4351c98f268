"""What a worker may take of its machine: set before any user code runs.

Told by INIT, so that forked and started workers are bound alike. What user code starts
is bound as well.
"""

import os
import resource
import sys

# How much rather the kernel's memory killer takes a worker than its engine.
KILLED_RATHER = 500
KILLED_FIRST = 1000

# Beyond what it had when it was bound; 0: as much as there is.
memory_bytes = 0
# The setting or option that says so.
memory_by = ""


def bind(memory, by):
    """Binds this process; `memory`: the bytes it may take from here on, 0 for any."""
    global memory_bytes, memory_by
    # A core file is as large as the process, and nobody reads it.
    _lower(resource.RLIMIT_CORE, 0)
    if not sys.platform.startswith("linux"):
        return
    _let_be_killed()
    if memory:
        memory_bytes, memory_by = memory, by
        # Of its own: memory that it shares with the engine is the engine's account.
        _lower(resource.RLIMIT_DATA, _data_bytes() + memory)


def note(error):
    """What to say of an error that a limit is behind, or None."""
    if memory_bytes and isinstance(error, MemoryError):
        return f"`{memory_by}` lets a worker take {memory_bytes} bytes"
    return None


def _lower(which, wanted):
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(which, (wanted, wanted))


def _let_be_killed():
    place = "/proc/self/oom_score_adj"
    try:
        with open(place) as file:
            score = int(file.read())
        with open(place, "w") as file:
            file.write(str(min(score + KILLED_RATHER, KILLED_FIRST)))
    except OSError:
        pass  # A sandbox without it: then the kernel chooses by size alone.


def _data_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")
