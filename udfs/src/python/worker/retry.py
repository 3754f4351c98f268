"""User code that is called again when it raises what was named.

Each call waits longer than the one before, for a server that is busy or a network
that is down: 0.1 s, then twice as long each time up to a minute, a quarter more or
less by chance; or as long as the exception's `retry_after` says. What a
generator makes of a batch is passed on as it comes, so it is made again only if it
raises before its first part.
"""

import collections.abc
import itertools
import random
import time

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 60.0
SPREAD = 0.25


class Retrying:
    """Calls `code`, and again up to `most` times if it raises one of `names`.

    `by_row`: for a row, of which a generator makes few.
    """

    def __init__(self, code, by_row, names, most):
        self.code = code
        self.by_row = by_row
        self.names = frozenset(names)
        self.most = most
        self.retries = 0

    def __call__(self, *args):
        for attempt in range(self.most):
            try:
                return self._call(args)
            except Exception as error:
                if not self._is_named(error):
                    raise
                wait = _wait_s(error, attempt)
            self.retries += 1
            time.sleep(wait)
        return self._call(args)

    def take_retries(self):
        """How often it was called again since the last time."""
        retries, self.retries = self.retries, 0
        return retries

    def _call(self, args):
        made = self.code(*args)
        # A generator raises only when it is read: read here, it can be made again.
        if not isinstance(made, collections.abc.Iterator):
            return made
        if self.by_row:
            return list(made)
        first = list(itertools.islice(made, 1))
        return itertools.chain(first, made)

    def _is_named(self, error):
        for kind in type(error).__mro__:
            if kind.__name__ in self.names or f"{kind.__module__}.{kind.__qualname__}" in self.names:
                return True
        return False


def _wait_s(error, attempt):
    asked = getattr(error, "retry_after", None)
    if isinstance(asked, (int, float)) and 0 <= asked <= LONGEST_WAIT_S:
        return asked
    wait = min(FIRST_WAIT_S * 2 ** min(attempt, 16), LONGEST_WAIT_S)
    return wait * random.uniform(1 - SPREAD, 1 + SPREAD)
