"""User code that is called again when it raises what was named.

It gets its arguments made anew: the call before may have changed them. Each call waits longer than the one before, for a server that is busy or a network
that is down: 0.1 s, then twice as long each time up to a minute, a quarter more or
less by chance; or as long as the exception's `retry_after` says. What a
generator makes of a batch is passed on as it comes, so it is made again only if it
raises before its first part.
"""

import builtins
import collections.abc
import importlib
import itertools
import random
import time

from .failure import Refused

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 60.0
SPREAD = 0.25


class Retrying:
    """Calls `code`, and again up to `most` times if it raises one of `names`.

    `listed`: makes a list of what a generator gives for a row, which is little; None for a batch.
    `timeout_s`: what a block may take, waiting included, or None.
    """

    def __init__(self, code, listed, names, most, timeout_s):
        self.code = code
        self.listed = listed
        self.names = frozenset(names)
        self.kinds = tuple(filter(None, map(_named, names)))
        self.most = most
        self.timeout_s = timeout_s
        self.deadline = None
        self.retries = 0
        # The arguments of the call with this number, made anew.
        self.made = None
        self.number = -1

    def begin_block(self):
        """From now on the time of a block counts."""
        self.deadline = None if self.timeout_s is None else time.monotonic() + self.timeout_s

    def begin(self, made):
        """The next calls are numbered from 0; `made` makes the arguments of a number."""
        self.made, self.number = made, -1

    def __call__(self, *args):
        self.number += 1
        for attempt in itertools.count():
            try:
                return self._call(args)
            except Exception as error:
                wait = self.wait_s(error, attempt)
                if wait is None:
                    raise
            self.retries += 1
            time.sleep(wait)
            args = self.made(self.number)

    def wait_s(self, error, attempt):
        """How long to wait before the next call; None if there is none."""
        if not self._is_named(error):
            return None
        wait = _wait_s(error, attempt)
        problem = self._no_more(attempt, wait)
        if problem:
            _tell(error, f"{problem} after {_calls(attempt + 1)}")
            return None
        return wait

    def _no_more(self, attempt, wait_s):
        """Why there is no further call, if so."""
        if attempt >= self.most:
            return "given up"
        if self.deadline is not None and time.monotonic() + wait_s >= self.deadline:
            return "no time left for another call"
        return None

    def end_block(self):
        """How often it was called again since the last time; keeps nothing of the block."""
        retries, self.retries = self.retries, 0
        self.made = None
        return retries

    def _call(self, args):
        made = self.code(*args)
        # A generator raises only when it is read: read here, it can be made again.
        if not isinstance(made, collections.abc.Iterator):
            return made
        if self.listed is not None:
            return self.listed(made)
        first = list(itertools.islice(made, 1))
        return itertools.chain(first, made)

    def _is_named(self, error):
        if isinstance(error, self.kinds):
            return True
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


def _named(name):
    """The exception of this name, where it is Python's own or a module's: it may be
    known there by another name than its own. Those of user code are told by name."""
    # Known by this name alone as well: it is no error of a call that was cancelled.
    module, _, kind = ("asyncio." + name if name == "CancelledError" else name).rpartition(".")
    try:
        found = getattr(importlib.import_module(module) if module else builtins, kind, None)
    except Exception:
        return None
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        return None
    if not issubclass(found, Exception):
        raise Refused(f"is called with retry_exceptions => '{name}', which is no error: it ends a program")
    return found


def _tell(error, text):
    """Has the report of `error` say `text`."""
    try:
        error.__mobula_note__ = text
    except Exception:
        pass  # It has room for no more.


def _calls(count):
    return "1 call" if count == 1 else f"{count} calls"


def begin(code, made):
    """Says how `code` gets its arguments again, if it may ask for them."""
    if isinstance(code, Retrying):
        code.begin(made)
