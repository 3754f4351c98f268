"""`suite.py compare`: two results side by side. Called by `suite.py`."""

from bench import owed, stats
from bench.cases import USER_CODE

# Of 4 and 4 runs of the same thing, 3 in 100 are apart by chance.
LEAST_RUNS = 4

# Differences that make seconds of two records say little about the commits.
KEPT_EQUAL = [
    ("CPU", ("machine", "cpu")),
    ("cores", ("machine", "cores")),
    ("memory", ("machine", "memory_bytes")),
    ("kernel", ("machine", "kernel")),
    ("data", ("data", "name")),
    ("pairs", ("settings", "pairs")),
    ("executors", ("settings", "executors")),
    ("settings in the environment", ("settings", "environment")),
    ("profile", ("binary", "profile")),
    ("the client's Python", ("python", "client")),
    ("the workers' Python", ("python", "workers")),
]


def field(record, keys):
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def warnings(before, after):
    """What differs between two records beside the commit, in words."""
    found = []
    for what, keys in KEPT_EQUAL:
        old, new = field(before, keys), field(after, keys)
        # A run without m1 to m3 reads no data.
        if old != new and not (what == "data" and None in (old, new)):
            found.append(f"{what} differ: {difference(old, new)}")
    files = [field(record, ("data", "files")) or {} for record in (before, after)]
    for name in sorted(files[0].keys() & files[1].keys()):
        if files[0][name] != files[1][name]:
            found.append(f"{name} differ: {difference(files[0][name], files[1][name])}")
    for peer in sorted(before["peers"].keys() & after["peers"].keys()):
        old, new = before["peers"][peer], after["peers"][peer]
        if old != new:
            found.append(f"versions of {peer} differ: {difference(old, new)}")
    for peer in sorted(before["peers"].keys() ^ after["peers"].keys()):
        side = "before" if peer in before["peers"] else "after"
        found.append(f"{peer} was measured only {side}")
    same_binary = field(before, ("binary", "sha256")) == field(after, ("binary", "sha256"))
    if same_binary and before["commit"] != after["commit"]:
        found.append("the commits differ, but both ran the same binary")
    for side, record in (("before", before), ("after", after)):
        if record["state"] != "complete":
            found.append(f"the run {side} is {record['state']}: it may have fewer pairs or cases")
        if record["commit"].endswith("-dirty"):
            found.append(f"the checkout {side} had changes that its commit does not show")
    return found


def difference(old, new):
    """The fields that differ, where both sides have fields."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return f"{old} and {new}"
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return ", ".join(f"{key} ({difference(old.get(key), new.get(key))})" for key in keys)


def rows(before, after):
    """(case, what, before, after, whether their runs are apart) of all that either has.

    A side that lacks it is None. Counts that are equal say nothing and are left out.
    """
    found = []
    for case in dict.fromkeys([*before["cases"], *after["cases"]]):
        old, new = (labelled(case, record["cases"].get(case)) for record in (before, after))
        for label in dict.fromkeys([*old, *new]):
            (a, a_runs), (b, b_runs) = old.get(label, (None, [])), new.get(label, (None, []))
            if a_runs or b_runs or a != b:
                found.append((case, label, a, b, apart(a_runs, b_runs)))
    return found


def labelled(case, result):
    """Each number by its label, with the runs that it is the median of."""
    if result is None:
        return {}
    found = {}
    if case in USER_CODE and (seconds := owed.our_seconds(result)):
        found["s"] = (stats.median(seconds), seconds)
    for number in owed.numbers(case, result):
        found[number.label] = (number.value, number.values)
        if number.theirs_s is not None and case not in USER_CODE:
            ours = next(m["ours"] for m in result["measures"] if m["name"] == number.name)
            found[f"s, beside {number.name}"] = (number.ours_s, ours)
    return found


def apart(left, right):
    """Whether no run of one side is within the runs of the other: of few runs that is chance."""
    if min(len(left), len(right)) < LEAST_RUNS:
        return False
    return max(left) < min(right) or max(right) < min(left)


def text(value):
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def show(before, after):
    """Prints both sides; the paths were read by `suite.py`."""
    for side, record in (("before", before), ("after", after)):
        machine = record["machine"]
        print(
            f"{side:>6}: {record['commit']} at {record['at']}, {record['binary']['version']}"
            f" ({record['binary']['profile']}), {machine['cores']} cores, {machine['cpu']},"
            f" load {machine['load_average'][0]:.1f}"
        )
    for warning in warnings(before, after):
        print(f"warning: {warning}")
    print(f"\n* no run of one side is within the runs of the other, {LEAST_RUNS} or more each")
    print(f"{'case':<8}{'before':>12}{'after':>12}{'after/before':>14}")
    for case, label, old, new, sure in rows(before, after):
        ratio = f"{new / old:.3f}" if old and new is not None else "-"
        print(f"{case:<8}{text(old):>12}{text(new):>12}{ratio:>14} {'*' if sure else ' '} {label}")
    for side, record in (("before", before), ("after", after)):
        for case, result in record["cases"].items():
            for system in result["errors"]:
                print(f"{side}: {case} failed on {system}")
