"""What client tests ask of a server and of its processes, and how they wait for it."""

import time


def rows(cursor, sql):
    cursor.execute(sql)
    return cursor.fetchall()


def value(cursor, sql):
    """The first column of the first row."""
    return rows(cursor, sql)[0][0]


def wait_until(condition, seconds=30):
    """What `condition` gives, once that is something."""
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.02)
    return found


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # The latter: between open and read.
        return False
