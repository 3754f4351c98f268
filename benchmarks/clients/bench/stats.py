"""Middle and spread of timed runs. Pure; called by `owed`, `compare` and `chart`."""

import statistics


def median(values):
    """The middle of `values`, or None where there are none."""
    return statistics.median(values) if values else None


def ratios(ours, theirs):
    """One ratio a pair; what was measured without its other half does not count."""
    return [a / b for a, b in zip(ours, theirs)]


def spread(values):
    """The smallest and the largest, or None where there are none."""
    return (min(values), max(values)) if values else None


def order(round_number):
    """Who goes first: each side in turn, so that warmth and drift favour neither."""
    return ("ours", "theirs") if round_number % 2 == 0 else ("theirs", "ours")


def close(left, right, tolerance):
    """Whether two sums are equal up to `tolerance` of the larger one."""
    return abs(left - right) <= tolerance * max(abs(left), abs(right))
