"""Which queries say in which order their rows come.

SQL's rows have the order of the ORDER BY that is last, and that of nothing below it: a filter or
a function above a sort gives them in another one, as they are done, unless a call says
`preserve_order`. What is known here
is what positions (`positions.py`) and places (`zipped.py`) may rely on.
"""

from __future__ import annotations

import re

from .drawn import Drawn
from .steps import Apply, Query, Renamed, Step, Wrapped

# What `Connection.range` makes.
_SERIES = re.compile(r"SELECT value AS id FROM generate_series\(0, \d+\)( LIMIT 0)?")
_ORDER_BY = re.compile(r"\bORDER\s+BY\b", re.IGNORECASE)


def unordered(step: Step) -> str | None:
    """Why the rows of `step` may come in another order at each run; `None` if they come in one.

    Rows that a sort holds for equal are in no order; that a query of the user's sorts last is taken
    on trust.
    """
    if _draws_anew(step):
        return "random_sample() draws others at each run. Give it a seed"
    while isinstance(step, (Wrapped, Renamed, Apply)) and _keeps_order(step):
        step = step.source
    if isinstance(step, Wrapped) and step.order == "sort" or is_series(step):
        return None
    if isinstance(step, Drawn) and step.fraction is None:
        return None if step.seed is not None else "random_shuffle() draws anew at each run. Give it a seed"
    if isinstance(step, Query) and _ORDER_BY.search(step.text):
        return None
    way_out = "Give it preserve_order=True behind one, or have" if isinstance(step, Apply) else "Have"
    return f"rows come in no order behind {step.label!r}. {way_out} sort or random_shuffle(seed=…) last"


def _keeps_order(step: Wrapped | Renamed | Apply) -> bool:
    if isinstance(step, Wrapped):
        return step.order in ("project", "limit")
    if isinstance(step, Apply):
        asked = step.code.options.get("preserve_order", "")
        return step.code.operator != "map_groups" and asked.upper() == "TRUE"
    return True


def is_series(step: Step) -> bool:
    """Whether it is the numbers of `range`, in their order."""
    return isinstance(step, Query) and _SERIES.fullmatch(step.text) is not None


def _draws_anew(step: Step) -> bool:
    if isinstance(step, Drawn) and step.fraction is not None and step.seed is None:
        return True
    return any(_draws_anew(one) for one in step.inputs)
