"""What there is to measure, by name, in the order of a run. Called by `suite.py`."""

USER_CODE = {
    "m1": "6.0 M rows, three decimals cast to float, a*(1-b)*(1+c) on numpy arrays, sum",
    "m2": "a class of 1 s to build, 400,000 texts, histogram times matrix, batches of 1,024, sum",
    "m3": "1.0 M rows, one Python call a row, sum",
}
OPERATORS = {
    "small": "4,000 blocks of one row through map_batches",
    "workers": "a loop in pure Python on 30 M rows: two workers against one",
    "clean": "on_error => 'dead_letter' against 'raise' on 30 M rows, no row fails",
    "failed": "1, 10 and 1,000 rows that fail among 10 M: how many are listed, how many come out",
    "limit": "rows that a function sees under WHERE and LIMIT 10",
    "fused": "neighbouring calls in one worker beside each in its own",
    "async": "10,000 calls of 20 ms on one event loop, 64 in flight; then one of them of 5 s",
    "slots": "pieces of shared memory made for the blocks of a query",
    "dispatch": "blocks of one row to an actor in Python, each a call of its own",
    "slowest": "blocks to 1 to 16 actors that sleep 10 ms on each",
}
CASES = {**USER_CODE, **OPERATORS}

PEERS = {
    "floor": "the same functions in two bare processes, no engine",
    "daft": "Daft",
    "ray": "Ray Data",
}


def chosen(text, known, what):
    """The names in `text`, separated by commas, each of `known` and no name twice.

    Raises:
        ValueError: there is none, or one that is not known, or one twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    there_are = f"there are {', '.join(known)}"
    if not names:
        raise ValueError(f"names no {what}: {there_are}")
    for name in names:
        if name not in known:
            raise ValueError(f"no {what} '{name}': {there_are}")
        if names.count(name) > 1:
            raise ValueError(f"{what} '{name}' twice")
    return [name for name in known if name in names]
