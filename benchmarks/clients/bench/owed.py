"""The numbers owed, and what a case says of them. Pure; called by `run`, `compare`, `chart`.

A case keeps measures of five kinds:

    pairs     seconds of ours and of the other side; the number is ours / theirs
    speedup   the same; the number is theirs / ours
    seconds   seconds of ours
    level     what was found, time after time; more is better
    count     what was found, and what it has to be, if it has to be something
"""

import operator
from dataclasses import dataclass

from bench import stats

# Case, name of the measure, sign, bound.
OWED = [
    ("m1", "floor", "≤", 1.5),
    ("m1", "daft", "≤", 0.6),
    ("m1", "ray", "≤", 0.1),
    ("m2", "floor", "≤", 1.15),
    ("m2", "daft", "≤", 0.85),
    ("m2", "ray", "≤", 0.5),
    ("m3", "floor", "≤", 8),
    ("m3", "daft", "≤", 0.12),
    ("m3", "ray", "≤", 0.1),
    ("small", "4,000 blocks of one row", "≤", 0.5),
    ("workers", "one worker", "≥", 1.8),
    ("async", "10,000 calls of 20 ms", "≤", 4),
    ("async", "the same with one of 5 s", "≤", 5.5),
    ("clean", "map with raise", "≤", 1.03),
    ("clean", "map_batches with raise", "≤", 1.03),
    ("dispatch", "blocks of one row a second to a query's actor", "≥", 10_000),
    ("dispatch", "blocks of one row a second to a named actor", "≥", 10_000),
    *(
        ("slowest", f"{what} of {actors} actor{'s' if actors > 1 else ''}", "≥", share)
        for actors in (1, 2, 4, 8, 16)
        for what, share in (("linear", 0.9), ("busy share", 0.95))
    ),
]


@dataclass(frozen=True)
class Number:
    """One number of one case. `met` is None where nothing is owed."""

    case: str
    name: str
    kind: str
    value: float
    # What the value is the median of; nothing for a count.
    values: list
    ours_s: float | None
    theirs_s: float | None
    sign: str | None
    bound: float | None

    @property
    def met(self):
        if self.sign is None:
            return None
        return {"≤": operator.le, "≥": operator.ge, "=": operator.eq}[self.sign](self.value, self.bound)

    @property
    def spread(self):
        return stats.spread(self.values)

    @property
    def label(self):
        """What the value is, to stand after it."""
        return {
            "pairs": f"× {self.name}",
            "speedup": f"× as fast as {self.name}",
            "seconds": f"s for {self.name}",
            "count": self.name,
            "level": self.name,
        }[self.kind]

    def __str__(self):
        digits = ",.0f" if self.value >= 1000 else ".3f"
        value = f"{self.value:,}" if self.kind == "count" else f"{self.value:{digits}}"
        text = f"{self.case:<8}{value:>10} {self.label}"
        if self.values:
            low, high = self.spread
            pair = ("run" if self.theirs_s is None else "pair") + "s" * (len(self.values) != 1)
            text += f" ({low:{digits}} to {high:{digits}}, {len(self.values)} {pair}"
            text += f"; {self.ours_s:.3f} s against {self.theirs_s:.3f} s)" if self.theirs_s is not None else ")"
        if self.sign:
            text += f"   owed {self.sign} {self.bound:,}: {'met' if self.met else 'MISSED'}"
        return text


def bound(case, name):
    """Sign and bound of what is owed, or two times None."""
    for owed_case, owed_name, sign, value in OWED:
        if (owed_case, owed_name) == (case, name):
            return sign, value
    return None, None


def numbers(case, result):
    """The numbers of a case, those without a complete run left out."""
    made = (number(case, measure) for measure in result["measures"])
    return [one for one in made if one is not None]


def number(case, measure):
    kind, name = measure["kind"], measure["name"]
    if kind == "count":
        owed = ("=", measure["expected"]) if measure["expected"] is not None else (None, None)
        return Number(case, name, kind, measure["found"], [], None, None, *owed)
    if kind == "level":
        values = measure["values"]
        middle = stats.median(values)
        return None if middle is None else Number(case, name, kind, middle, values, None, None, *bound(case, name))
    ours, theirs = measure["ours"], measure.get("theirs", [])
    values = {
        "pairs": lambda: stats.ratios(ours, theirs),
        "speedup": lambda: stats.ratios(theirs, ours),
        "seconds": lambda: ours,
    }[kind]()
    if not values:
        return None
    ours_s, theirs_s = stats.median(ours), stats.median(theirs)
    return Number(case, name, kind, stats.median(values), values, ours_s, theirs_s, *bound(case, name))


def our_seconds(result):
    """Seconds of all our own runs in a case."""
    return [s for measure in result["measures"] for s in measure.get("ours", [])]
